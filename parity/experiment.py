"""What one run is: a frozen, JSON-able description, and the registries it is made from.

An `Experiment` says everything a worker needs to know; the framework is not part of it, because
the two sides of a comparison run *the same* experiment.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from shared_data.errors import InputError

BLOCK_FILTERS = (32, 64, 128, 256, 256, 512)  # paper, section 3.1; PROTOCOL.md, Models
SEVENTH_BLOCK_FILTERS = 1024
HEAD_UNITS = 512
SEVENTH_BLOCK_HEAD_UNITS = 1024


def _option(default: Any, text: str, **more: Any) -> Any:
    """A field that the command line shows as a flag: its help text, choices and flag type."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class Experiment:
    """One training run, framework apart. Equal experiments have equal `id`s on every machine."""

    variant: str = _option("baseline", "what is changed against the reference network")
    padding: int = _option(0, "padding of the 3x3 convolutions: 0 (valid) or 1", choices=(0, 1))
    image_size: int = _option(256, "side of the square images, pixels", minimum=2)
    width: float = _option(1.0, "factor on the number of filters and hidden units", positive=True)
    seventh_block: bool = _option(False, "add the study's seventh block", flag=False)
    augment: bool = _option(False, "flip, rotate and jitter the training images", flag=False)
    epochs: int = _option(10, "passes over the training images", minimum=1)
    batch_size: int = _option(64, "images per step; the last batch is short", minimum=1)
    learning_rate: float = _option(1e-4, "Adam's learning rate", positive=True)
    seed: int = _option(8, "draws initial weights and the order of samples", minimum=0)
    split_seed: int = _option(8, "draws train / test / validation", minimum=0)
    precision: str = _option("float32", "of all arithmetic", choices=("float32", "float64"))
    device: str = _option("cpu", "where both sides train", choices=("cpu", "cuda"))
    tf32: str = _option(
        "off",
        "on: an NVIDIA GPU may round what it multiplies to 10 bits",
        choices=("off", "on"),
    )
    threads: int = _option(0, "CPU threads of an arm; 0 = all cores of this machine", minimum=0)
    optimizer: str = _option(
        "aligned",
        "aligned: PyTorch reproduces Keras' Adam; native: each framework's own",
        choices=("aligned", "native"),
    )
    init: str = _option(
        "shared",
        "shared: initial weights drawn once, given to both; native: each framework draws its own",
        choices=("shared", "native"),
    )
    keras_backend: str = _option(
        "tensorflow", "what Keras computes with", choices=("tensorflow", "jax", "torch")
    )
    epoch_loss: str = _option(
        "samples",
        "mean of an epoch's loss: over samples, or of batch means, the short last one like others",
        choices=("samples", "batches"),
    )
    batch_order: str = _option(
        "shared", "order of samples: the same on both sides, or another", choices=("shared", "own")
    )
    head_units: int | None = _option(None, "hidden units, instead of the variant's", minimum=1)
    divisor: int = _option(256, "what training pixels are divided by", choices=(255, 256))
    normalise: str = _option(
        "none",
        "imagenet: subtract its mean and divide by its deviation, in training alone",
        choices=("none", "imagenet"),
    )
    augmentation: str = _option(
        "anew", "of image_transforms: drawn anew each epoch, or once", choices=("anew", "once")
    )
    data: str = _option("synthetic", "synthetic, a folder, a zip, or kaggle:owner/name")
    ood: str | None = _option(None, "a second data set, to test only (out of distribution)")
    synthetic_images: int = _option(1289, "how many images --data synthetic draws", minimum=1)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))
        _known("variant", self.variant, VARIANTS)
        if self.precision == "float64" and self.keras_backend != "tensorflow":
            raise InputError(
                f"Keras computes parts in float32 on its {self.keras_backend} backend, whatever it "
                "is told: use --keras-backend tensorflow, or --precision float32."
            )
        if self.image_size < self.least_image_size:
            raise InputError(
                f"image size {self.image_size} is too small: {len(self.filters)} blocks with "
                f"padding {self.padding} need at least {self.least_image_size} pixels. "
                f"Use --image-size {self.least_image_size} or more."
            )

    @property
    def id(self) -> str:
        """Names the experiment: readable, and distinct for any two that differ in a field."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:10]
        return f"{self.variant}-p{self.padding}-s{self.seed}-{digest}"

    @property
    def data_set(self) -> dict[str, Any]:
        """The fields that say on which data it runs, as `shared_data.batches.load` takes them."""
        names = ("data", "ood", "image_size", "synthetic_images", "split_seed")
        return {name: getattr(self, name) for name in names}

    @property
    def filters(self) -> tuple[int, ...]:
        """Filters of each block, the width factor applied."""
        blocks = BLOCK_FILTERS + (SEVENTH_BLOCK_FILTERS,) * self.seventh_block
        return tuple(self._scaled(count) for count in blocks)

    @property
    def hidden_units(self) -> int:
        """Units of the hidden dense layer, the width factor applied."""
        default = SEVENTH_BLOCK_HEAD_UNITS if self.seventh_block else HEAD_UNITS
        return self._scaled(self.head_units or default)

    @property
    def block_paddings(self) -> tuple[int, ...]:
        """Padding of each block's convolution.

        The seventh is always padded: its 3x3 window does not fit the 2x2 map of padding 0.
        """
        return (self.padding,) * len(BLOCK_FILTERS) + (1,) * self.seventh_block

    @property
    def feature_map(self) -> int:
        """Side of the square map after the last block, pixels."""
        side = self.image_size
        for padding in self.block_paddings:
            side = (side - 2 + 2 * padding) // 2
        return side

    @property
    def least_image_size(self) -> int:
        """The smallest image side that leaves a map of at least one pixel."""
        side = 1
        for padding in reversed(self.block_paddings):
            side = 2 * side + 2 - 2 * padding
        return side

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Experiment:
        """The inverse of `to_dict`. Raises `InputError` for fields that do not exist."""
        names = [item.name for item in fields(cls)]
        for name in values:
            _known("experiment field", name, names)
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"the experiment is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError("the experiment must be a JSON object of its fields")
        return cls.from_dict(values)

    @classmethod
    def of(cls, variant: str = "baseline", profile: str = "quick", **overrides: Any) -> Experiment:
        """The profile's experiment with the variant's changes; `overrides` have the last word."""
        change = _known("variant", variant, VARIANTS)
        values = {**_known("profile", profile, PROFILES), **change.fields, "variant": variant}
        values["learning_rate"] = values["learning_rate"] * change.learning_rate_factor
        values["image_size"] = max(values["image_size"], change.least_image_size)
        return cls(**{**values, **overrides})

    def _scaled(self, count: int) -> int:
        return max(1, round(count * self.width))


@dataclass(frozen=True)
class Variant:
    """A modification of the reference network: what it changes in an experiment."""

    summary: str
    fields: dict[str, Any] = field(default_factory=dict)
    learning_rate_factor: float = 1.0
    least_image_size: int = 0  # a profile with smaller images is raised to it


VARIANTS: dict[str, Variant] = {
    "baseline": Variant("the reference network"),
    "lr_10x": Variant("ten times the learning rate", learning_rate_factor=10.0),
    "lr_100x": Variant("a hundred times the learning rate", learning_rate_factor=100.0),
    "additional_layers": Variant(
        "a seventh block of 1024 filters, 1024 hidden units",
        {"seventh_block": True},
        least_image_size=256,  # below 254 an unpadded net has no map left to pool a seventh time
    ),
    "image_transforms": Variant(
        "training images flipped, rotated and colour-jittered", {"augment": True}
    ),
}

# quick trains in float64: there two faithful twins agree to some 13 digits over a whole training,
# so that its verdict cannot hang on luck; in float32 the same twins drift apart by chance.
PROFILES: dict[str, dict[str, Any]] = {
    "quick": {
        "image_size": 192,
        "width": 0.25,
        "epochs": 6,
        "batch_size": 4,
        "learning_rate": 5e-4,
        "precision": "float64",
        "threads": 1,  # two arms side by side are quicker than one on two cores
        "synthetic_images": 160,
    },
    "paper": {
        "image_size": 256,
        "width": 1.0,
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "precision": "float32",
        "synthetic_images": 1289,
    },
}


def _known(kind: str, name: str, known: Any) -> Any:
    """Look `name` up; say which exist, and which is nearest, where it does not."""
    if name in known:
        return known[name] if isinstance(known, dict) else name
    raise InputError(unknown(kind, name, known))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}: there are {', '.join(known)}.{hint}"


def _check(item: dataclasses.Field[Any], value: Any) -> None:
    """Type, choices and bounds of one field, as its metadata states them."""
    flag = "--" + item.name.replace("_", "-")
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
    kind = str(item.type).removesuffix(" | None")
    optional = str(item.type).endswith("| None")
    if value is None and optional:
        return
    if not isinstance(value, kinds[kind]) or (kind != "bool" and isinstance(value, bool)):
        raise InputError(f"{flag}: expected {item.type}, got {value!r}")
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise InputError(f"{flag}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    minimum = item.metadata.get("minimum")
    if minimum is not None and value < minimum:
        raise InputError(f"{flag}: expected at least {minimum}, got {value!r}")
    if item.metadata.get("positive") and not 0 < value < float("inf"):
        raise InputError(f"{flag}: expected a finite number above 0, got {value!r}")
