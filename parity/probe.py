"""A probe: one side's numbers on one small batch, layer by layer, for the ladder to compare.

Two files in a folder beside the recording: `probe.json` (layers and semantics) and
`probe.safetensors`. Tensors are named `<precision>/<run>/<kind>/<name>`, all in canonical layout
(NHWC, HWIO):

    run   free            the network as it is
          again           the same once more: what does not repeat is noise
          input           the images nudged by one unit in the last place
          weights         the initial weights nudged likewise
          isolated        every layer alone, fed with the reference's input and upstream gradient
    kind  images          `input`: what the network got (free, without a reference)
          activation      per layer: its output
          loss            `loss`: shape ()
          upstream        per layer: the gradient of the loss by its output; isolated: by its input
          gradient        per parameter, and `input`: by the images (not isolated)
          update          per parameter: its value after one step (not isolated)
          moment1 moment2 per parameter: Adam's state after that step (not isolated)
          trajectory      `loss`: (steps,); per parameter: its value after the last step

A tensor of more than `LIMIT` elements is kept as that many of them, at places drawn from its name
alone and so the same on both sides, unless all are asked for; `facts` says the true shape and how
many of all elements are not finite. `checksum` covers all of both files.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from parity.experiment import Experiment
from parity.recording import checksum, explained, write_atomically
from shared_data.errors import InputError

SCHEMA = 3
LIMIT = 1 << 14
INPUT = "input"  # names the images where layers and parameters are named otherwise


@dataclass(frozen=True)
class Layer:
    """One layer as its side describes it; `inputs` are layers, or `input` for the images."""

    name: str
    kind: str  # conv, relu, pool, flatten, dense
    inputs: tuple[str, ...]
    output_shape: tuple[int, ...]  # without the batch, channels last
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)  # canonical name: shape
    settings: dict[str, Any] = field(default_factory=dict)  # padding, strides, dtype, bias …


@dataclass(frozen=True)
class TensorFacts:
    """What a kept tensor was: its whole shape, and its elements that are NaN or infinite."""

    shape: tuple[int, ...]
    nonfinite: int

    @property
    def sampled(self) -> bool:
        return math.prod(self.shape) > LIMIT


@dataclass
class Probe:
    """One side's numbers. `semantics` holds what is no layer: optimizer, loss, data, batches.

    `reference` is the digest of the probe that fed the layers run alone, if any was given.
    """

    framework: str
    experiment: Experiment
    environment: dict[str, Any]
    layers: tuple[Layer, ...]
    semantics: dict[str, Any]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, TensorFacts] = field(default_factory=dict)
    reference: str | None = None

    @property
    def digest(self) -> str:
        """sha256 over names, shapes and samples of all tensors, the same for whole ones."""
        sha = hashlib.sha256()
        for name in sorted(self.tensors):
            value, shape = self._sampled(name), self.facts[name].shape
            sha.update(f"{name} {value.dtype} {shape}".encode())
            sha.update(np.ascontiguousarray(value).data)
        return sha.hexdigest()

    def keep(self, prefix: str, tensors: Mapping[str, np.ndarray], *, whole: bool = False) -> None:
        """Add tensors under `prefix/`, each whole or, above `LIMIT` elements, a sample of it."""
        for name, value in tensors.items():
            full = f"{prefix}/{name}"
            value = np.asarray(value)
            nonfinite = int(value.size - np.isfinite(value).sum())
            self.facts[full] = TensorFacts(value.shape, nonfinite)
            self.tensors[full] = value if whole else sample(full, value)

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors below `prefix/`, by the rest of their names."""
        start = prefix + "/"
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}

    def samples(self, prefix: str) -> list[str]:
        """The tensors below `prefix/` of which only a sample was kept."""
        return [
            f"{prefix}/{name}"
            for name, value in self.under(prefix).items()
            if value.size < math.prod(self.facts[f"{prefix}/{name}"].shape)
        ]

    def thinned(self) -> Probe:
        """The same probe with samples in place of whole tensors; it can feed no layer any more."""
        return replace(self, tensors={name: self._sampled(name) for name in self.tensors})

    def _sampled(self, name: str) -> np.ndarray:
        value = self.tensors[name]
        return sample(name, value) if value.size == math.prod(self.facts[name].shape) else value

    def write(self, folder: Path) -> None:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        write_atomically(folder / "probe.safetensors", save(tensors))
        facts = {
            "framework": self.framework,
            "experiment": self.experiment.to_dict(),
            "environment": self.environment,
            "layers": [vars(layer) for layer in self.layers],
            "semantics": self.semantics,
            "reference": self.reference,
            "order": list(self.tensors),
            "facts": {name: vars(fact) for name, fact in self.facts.items()},
        }
        stamped = {"schema": SCHEMA, "checksum": checksum(facts, tensors), **facts}
        write_atomically(folder / "probe.json", json.dumps(stamped, indent=1).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Probe:
        """Raises `InputError` where a file is missing, damaged or of another schema."""
        try:
            facts = json.loads((folder / "probe.json").read_text())
            tensors = load_file(folder / "probe.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds no complete probe: {error}") from None
        whole = isinstance(facts, dict) and facts.pop("schema", None) == SCHEMA
        if not whole or facts.pop("checksum", None) != checksum(facts, tensors):
            raise InputError(
                f"{folder} holds a probe that is damaged or not of schema {SCHEMA}: record it again"
            )
        return cls(
            framework=facts["framework"],
            experiment=Experiment.from_dict(facts["experiment"]),
            environment=facts["environment"],
            layers=tuple(_layer(values) for values in facts["layers"]),
            semantics=facts["semantics"],
            reference=facts["reference"],
            tensors={name: tensors[name] for name in facts["order"]},
            facts={
                name: TensorFacts(tuple(fact["shape"]), fact["nonfinite"])
                for name, fact in facts["facts"].items()
            },
        )


def sample(name: str, value: np.ndarray) -> np.ndarray:
    """`value` whole, or above `LIMIT` elements `LIMIT` of them, (LIMIT,), at `places(name, …)`."""
    if value.size <= LIMIT:
        return value
    return value.reshape(-1)[places(name, value.size)]


def places(name: str, size: int) -> np.ndarray:
    """Ascending flat indices, int64 (LIMIT,), of the elements that stand for the whole tensor.

    They depend on the part of the name after precision and run, so that all runs of a side, and
    both sides, keep the same elements.
    """
    key = zlib.crc32(name.split("/", 2)[2].encode())
    return np.sort(np.random.default_rng(key).choice(size, LIMIT, replace=False))


def _layer(values: dict[str, Any]) -> Layer:
    return Layer(
        name=values["name"],
        kind=values["kind"],
        inputs=tuple(values["inputs"]),
        output_shape=tuple(values["output_shape"]),
        parameters={name: tuple(shape) for name, shape in values["parameters"].items()},
        settings=values["settings"],
    )
