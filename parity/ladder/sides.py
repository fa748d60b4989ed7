"""The two sides of a comparison: what one arm left behind, read from a folder or handed over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from parity import weights
from parity.experiment import Experiment
from parity.ladder.measure import Tensor, aligned
from parity.probe import INPUT, LIMIT, Probe, places
from parity.recording import Recording, arm_id
from shared_data.errors import InputError

Given = Path | str | Probe | Recording | tuple[Probe | None, Recording | None]
PRECISIONS = ("float64", "float32")  # float64 first: it decides where float32 cannot
FILES = {"recording.json": "tensors.safetensors", "probe.json": "probe.safetensors"}


@dataclass(frozen=True)
class Side:
    """A probe, a recording, or both of one arm."""

    probe: Probe | None
    recording: Recording | None

    @property
    def experiment(self) -> Experiment:
        return self._any.experiment

    @property
    def label(self) -> str:
        return arm_id(self._any.framework, self.experiment)

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        if self.recording and self.recording.data.get("classes"):
            return len(self.recording.data["classes"])
        shape = self.probe.layers[-1].output_shape if self.probe and self.probe.layers else ()
        return shape[-1] if shape else weights.CLASSES

    def tensor(self, name: str) -> Tensor | None:
        """The probe's tensor `<precision>/<run>/<kind>/<name>`; None where there is none."""
        if self.probe is None or name not in self.probe.tensors:
            return None
        values, facts = self.probe.tensors[name], self.probe.facts[name]
        if name.endswith("trajectory/loss"):  # kept as Python's floats, which holds them exactly
            values = values.astype(name.split("/", 1)[0])
        size = math.prod(facts.shape)
        if values.size == size:
            return Tensor(values.reshape(facts.shape), facts.shape, None, facts.nonfinite)
        kept = _places(name.split("/", 2)[2], size)
        return Tensor(values, facts.shape, kept, facts.nonfinite)

    def names(self, prefix: str) -> list[str]:
        """The names of the probe's tensors below `prefix/`, in their order."""
        return list(self.probe.under(prefix)) if self.probe else []

    def precisions(self) -> set[str]:
        return {name.split("/", 1)[0] for name in self.probe.tensors} if self.probe else set()

    def parameters(self) -> list[str]:
        """Every parameter in forward order, as far as the side knows."""
        if self.probe:
            return [name for layer in self.probe.layers for name in layer.parameters]
        known = [spec.name for spec in weights.specs(self.experiment, self.classes)]
        return in_order(known, self.recorded("initial"))

    def recorded(self, prefix: str) -> dict[str, np.ndarray]:
        """The recording's `initial` or `final` weights."""
        tensors = self.recording.tensors if self.recording else {}
        return {
            name.removeprefix(prefix + "/"): value
            for name, value in tensors.items()
            if name.startswith(prefix + "/")
        }

    @property
    def _any(self) -> Probe | Recording:
        found = self.recording or self.probe
        assert found is not None
        return found


def load(given: Given) -> Side:
    """The side that `given` names or holds.

    Raises:
        InputError: it holds neither a probe nor a recording, one is damaged or unfinished, or
            both are not of one arm.
    """
    if isinstance(given, str | Path):
        side, name = _read(Path(given)), str(given)
    else:
        parts = given if isinstance(given, tuple) else (given,)
        probe = next((part for part in parts if isinstance(part, Probe)), None)
        recording = next((part for part in parts if isinstance(part, Recording)), None)
        side, name = Side(probe, recording), "a side"
    if not side.probe and not side.recording:
        raise InputError(
            f"{name} holds neither a recording nor a probe. Make both with "
            "python -m keras_impl.record EXPERIMENT.json FOLDER (or torch_impl.record)."
        )
    _check(side, name)
    return side


def reference_alone(left: Side, right: Side, precision: str, kind: str, name: str) -> Tensor | None:
    """The left's tensor that a layer of the right alone must reproduce.

    None where there is none, or where no element of it was kept on both sides.
    """
    own = right.tensor(f"{precision}/isolated/{kind}/{name}")
    target = reference_of(left, kind, name)
    reference = left.tensor(f"{precision}/free/{target}") if target else None
    if own is None or reference is None:
        return None
    met = own.shape != reference.shape or aligned(own, reference)[0].size
    return reference if met else None


def reference_of(left: Side, kind: str, name: str) -> str | None:
    """`kind/name` of the left's free tensor that a layer alone must reproduce.

    A layer's `upstream` is there by its input. Where another layer reads that input too, the
    reference's holds both parts, and there is nothing to compare with.
    """
    assert left.probe is not None
    layers = {layer.name: layer for layer in left.probe.layers}
    if kind == "gradient":
        return f"gradient/{name}" if name in left.parameters() else None
    if name not in layers or kind == "activation":
        return f"activation/{name}" if name in layers else None
    inputs = layers[name].inputs
    readers = [layer for layer in layers.values() if set(inputs) & set(layer.inputs)]
    if len(inputs) != 1 or len(readers) != 1:
        return None
    return f"gradient/{INPUT}" if inputs[0] == INPUT else f"upstream/{inputs[0]}"


def in_order(known: Sequence[str], names: Sequence[str] | dict[str, np.ndarray]) -> list[str]:
    """`names` as `known` orders them; those it does not know last."""
    place = {name: index for index, name in enumerate(known)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def _read(folder: Path) -> Side:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give a folder that a wing's record has written")
    for facts, tensors in FILES.items():  # the facts are written last
        if (folder / tensors).exists() and not (folder / facts).exists():
            raise InputError(f"{folder} holds {tensors} without {facts}: it is unfinished")
    try:
        return Side(
            Probe.read(folder) if (folder / "probe.json").exists() else None,
            Recording.read(folder) if (folder / "recording.json").exists() else None,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder} is damaged ({what}): record it again") from None


def _check(side: Side, name: str) -> None:
    probe, recording = side.probe, side.recording
    if probe and recording:
        ours, theirs = ((each.framework, each.experiment.to_dict()) for each in (probe, recording))
        if ours != theirs:
            raise InputError(
                f"{name} holds a recording of {recording.experiment.id} by {recording.framework} "
                f"and a probe of {probe.experiment.id} by {probe.framework}: record it again"
            )
    if probe and set(probe.tensors) != set(probe.facts):
        odd = sorted(set(probe.tensors) ^ set(probe.facts))
        raise InputError(f"{name}: tensors and facts of the probe differ in {', '.join(odd[:3])}")
    for tensor, facts in (probe.facts if probe else {}).items():
        values = probe.tensors[tensor] if probe else np.empty(0)
        sampled = facts.sampled and values.shape == (LIMIT,)
        if values.size != math.prod(facts.shape) and not sampled:
            raise InputError(
                f"{name}: the probe's {tensor} has shape {values.shape}, but {facts.shape} is "
                "written in it: record it again"
            )


@lru_cache(maxsize=1024)
def _places(name: str, size: int) -> np.ndarray:
    return places(f"//{name}", size)
