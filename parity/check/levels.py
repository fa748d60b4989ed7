"""The levels of `parity.check`: two traces compared, tensor by tensor, in PyTorch's layout.

Every tolerance is measured: how far each side is from itself when its inputs and weights are
nudged by one unit in the last place. A faithful twin sums in another order, which disturbs more
than a nudge does, by up to the root of the number of terms; a fault is many orders of magnitude
larger in float64. So the factor there is generous and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parity.check.matching import Match, Matching
from parity.check.trace import STEPS, Trace
from parity.ladder.measure import ABSTAIN, FAIL, PASS, Allowed, Measurement, Tensor, compare
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.tolerances import EPS

FACTOR = {"float64": 1000.0, "float32": 32.0}  # times the noise floor
SURE = 32.0  # a faithful twin is rarely further off than this
# A tolerance from here on, relative to the tensor, would pass what is wrong: then undecided.
HOLLOW = {"float64": 1e-4, "float32": 0.1}
STEPPING = {"update": 1, "trajectory": STEPS}  # how many steps lie behind them
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """Between the sides: parameters and all that is shaped like them.

    Attributes:
        to_torch: Keras' tensors by native name to PyTorch's.
        owners: of PyTorch's names, the Keras layer that holds the same numbers.
        buffers: those of PyTorch's names that no gradient changes.
        given: how PyTorch holds a number that Keras has not, such as a second bias; they take part
            in no comparison.
    """

    to_torch: Callable[[Mapping[str, np.ndarray]], Tensors]
    owners: dict[str, str]
    buffers: frozenset[str]
    given: frozenset[str]

    @property
    def spare(self) -> frozenset[str]:
        """Of `given`, what a layer with a counterpart holds beside it."""
        return self.given & self.owners.keys()


class Comparison:
    """Two traces of one precision, every tensor compared once.

    `forced` is PyTorch's trace on Keras' numbers, once there is one: it places differences. `gain`
    is how far the optimizer's step can carry a difference of gradients of 1: Adam, RMSprop divide
    what is near zero by their epsilon.
    """

    def __init__(
        self,
        keras: Trace,
        torch: Trace,
        matching: Matching,
        weights: Weights,
        rtol: float | None = None,
        atol: float | None = None,
        gain: float = 0.0,
    ) -> None:
        self.keras, self.torch, self.matching, self.weights = keras, torch, matching, weights
        self.rtol, self.atol, self.gain = rtol, atol, gain
        self.precision = torch.precision
        self.eps, self.factor = EPS[self.precision], FACTOR[self.precision]
        self.forced: Trace | None = None
        self._last: dict[str, Tensors] = {}

    @cached_property
    def forward(self) -> dict[str, Measurement]:
        """By Keras node, in inference mode."""
        return self._nodes("forward", "forward")

    @cached_property
    def training(self) -> dict[str, Measurement]:
        """By Keras node, in training mode."""
        return self._nodes("training", "training")

    def forced_outputs(self) -> dict[str, Measurement]:
        """By Keras node: PyTorch's own output where all that goes in is Keras'."""
        return self._nodes("training", "forced/training", self.forced)

    def forced_upstream(self) -> dict[str, Measurement]:
        """By Keras node: what its readers hand back where all that they get is Keras'."""
        return self._nodes("upstream", "forced/upstream", self.forced)

    @cached_property
    def gradients(self) -> dict[str, Measurement]:
        """By PyTorch's name."""
        return self.parameters("gradient")

    def moved(self, prefix: str) -> dict[str, Measurement]:
        """By PyTorch's name, after steps: `update` or `trajectory`. Where a gradient is rounding
        alone, Adam makes whole steps of it, in any direction: then nothing needs to be decided."""
        rounding = {name for name, each in self.gradients.items() if each.optional}
        found = self.parameters(prefix)
        return {
            name: replace(each, optional=True) if name in rounding else each
            for name, each in found.items()
        }

    def parameters(self, prefix: str, forced: Trace | None = None) -> dict[str, Measurement]:
        """By PyTorch's name: `gradient`, `update` or `trajectory`."""
        ours = self._carried(prefix)
        torch, below = (forced, f"forced/{prefix}") if forced else (self.torch, prefix)
        compared = {n: v for n, v in ours.items() if n not in self.weights.given}
        largest = max((Tensor.whole(v).scale for v in compared.values()), default=0.0)
        found = {}
        for name in dict.fromkeys([*ours, *torch.names(below)]):
            if name in self.weights.given or name.startswith(("input:", "loss")):
                continue
            if prefix == "gradient" and name in self.weights.buffers:
                continue
            theirs = torch.tensors.get(f"{below}/{name}")
            a = Tensor.whole(ours[name]) if name in ours else None
            b = None if theirs is None else Tensor.whole(theirs)
            floor = self._floor(prefix, a, name)
            if prefix in STEPPING:
                floor = max(floor, STEPPING[prefix] * self.gain * self._floor("gradient", a, name))
            found[name] = compare(f"{prefix} {name}", a, b, self._allowed(a, floor, largest))
        return found

    def _carried(self, prefix: str) -> Tensors:
        """Keras' tensors as PyTorch has them. The last ones are kept: of a large model they are
        gigabytes, and the forced run is compared with the same gradients again."""
        if prefix not in self._last:
            self._last = {}  # before the next are made
            self._last = {prefix: self.weights.to_torch(self.keras.under(prefix))}
        return self._last[prefix]

    def losses(self) -> Measurement:
        return self._plain("loss", "loss")

    def loss_by_step(self) -> Measurement:
        return self._plain("trajectory/loss", "loss by step")

    def inputs(self, axes: Mapping[str, tuple[int, ...] | None]) -> Iterator[Measurement]:
        """The gradients by what the models are given."""
        for name in self.keras.names("gradient"):
            if name.startswith("input:"):
                value = self.keras.tensors[f"gradient/{name}"]
                moved = value if axes.get(name) is None else value.transpose(axes[name])
                theirs = self.torch.tensors.get(f"gradient/{name}")
                a, b = Tensor.whole(moved), None if theirs is None else Tensor.whole(theirs)
                floor = self._floor(f"gradient/{name}", a)
                yield compare(f"gradient {name}", a, b, self._allowed(a, floor))

    def _nodes(self, ours: str, theirs: str, torch: Trace | None = None) -> dict[str, Measurement]:
        found = {}
        torch = torch or self.torch
        for each in self.matching.matches:
            left = self.keras.tensors.get(f"{ours}/{each.keras.name}")
            right = torch.tensors.get(f"{theirs}/{each.torch.name}")
            if theirs == "forward" and (left is None or right is None):
                # Every call of a free run leaves a number: one that did not was not compared.
                found[each.keras.name] = Measurement(
                    each.keras.name, ABSTAIN, "its output was not recorded on both sides"
                )
            elif left is not None and right is not None:
                found[each.keras.name] = self._node(each, ours, left, right)
        return found

    def _node(self, match: Match, kind: str, left: np.ndarray, right: np.ndarray) -> Measurement:
        """Compared in Keras' layout, in which the element is named."""
        try:
            theirs = match.to_keras(right)
        except ValueError:  # another size: `compare` says so
            theirs = right
        a = Tensor.whole(left)
        floor = max(
            self.keras.floors.get(f"{kind}/{match.keras.name}", 0.0),
            self.torch.floors.get(f"{kind}/{match.torch.name}", 0.0),
        )
        name = match.keras.name if kind != "upstream" else f"upstream {match.keras.name}"
        return compare(name, a, Tensor.whole(np.ascontiguousarray(theirs)), self._allowed(a, floor))

    def _plain(self, name: str, shown: str) -> Measurement:
        sides = (self.keras.tensors.get(name), self.torch.tensors.get(name))
        a, b = (None if side is None else Tensor.whole(np.asarray(side)) for side in sides)
        return compare(shown, a, b, self._allowed(a, self._floor(name, a)))

    def _floor(self, prefix: str, reference: Tensor | None, name: str = "") -> float:
        """The larger floor of both sides; of Keras' parameters, whose names are others, all."""
        full = f"{prefix}/{name}" if name else prefix
        own = self.torch.floors.get(full, 0.0)
        if not name:
            return max(own, self.keras.floors.get(full, 0.0))
        shared = [v for key, v in self.keras.floors.items() if key.startswith(prefix + "/")]
        return max(
            own, min(max(shared, default=0.0), self.eps * (reference.scale if reference else 0))
        )

    def _allowed(self, reference: Tensor | None, floor: float, largest: float = 0.0) -> Allowed:
        """`largest` is the scale of the largest tensor of its kind: beside it, one of rounding
        alone (the gradient of a bias before a batch norm) need not decide anything. It is small
        beside the others, and a nudge changes it by as much as there is of it."""
        scale = reference.scale if reference else 0.0
        if self.rtol is not None or self.atol is not None:
            rtol, atol = self.rtol or 0.0, self.atol or 0.0
            return Allowed(atol + rtol * scale, f"atol {atol:g} + rtol {rtol:g} x {scale:.2g}")
        noise, limit = max(floor, self.eps * scale), HOLLOW[self.precision] * scale or np.inf
        value, factor = self.factor * noise, self.factor
        if SURE * noise < limit <= value:  # the generous factor alone would leave it undecided
            factor = 0.99 * limit / noise
        alone = floor >= scale / 10 and scale <= self.eps**0.5 * largest
        return Allowed(
            factor * noise,
            f"{factor:.3g} x noise floor {noise:.1e}",
            limit=limit,
            undecided_to=value,
            optional=alone or scale <= self.eps * largest,
        )


def levels(
    comparison: Comparison, asked: Sequence[str], input_axes: Mapping[str, tuple[int, ...] | None]
) -> list[LevelResult]:
    """The results of the numeric levels, in order."""
    precision = comparison.precision
    found = [_level("forward", precision, list(comparison.forward.values()))]
    if "loss" in asked or "gradient" in asked:
        found.append(_level("loss", precision, [comparison.losses()]))
    if "gradient" in asked:
        gradients = [*comparison.gradients.values(), *comparison.inputs(input_axes)]
        found.append(_level("gradient", precision, gradients))
    for level in ("update", "trajectory"):
        if level in asked:
            moved = comparison.moved(level)
            buffers = [m for name, m in moved.items() if name in comparison.weights.buffers]
            trained = [m for name, m in moved.items() if name not in comparison.weights.buffers]
            if buffers and level == "update":
                found.append(_level("buffers", precision, buffers, "after one step"))
            losses = [comparison.loss_by_step()] if level == "trajectory" else []
            rest = [*losses, *trained, *(buffers if level == "trajectory" else [])]
            found.append(_level(level, precision, rest))
    return found


def _level(
    level: str, precision: str, measurements: Sequence[Measurement], subject: str = ""
) -> LevelResult:
    if not measurements:
        return abstain(level, "nothing to compare", precision)
    return summarise(level, precision, measurements, subject)


@dataclass(frozen=True)
class Origin:
    """Where a difference starts: a layer on both sides, and the level that shows it."""

    keras: str
    torch: str
    level: str
    text: str

    @property
    def names(self) -> str:
        """Of both sides; of one, where the other has nothing there."""
        return " / ".join(filter(None, (self.keras, self.torch)))


def origins(comparison: Comparison, results: Sequence[LevelResult]) -> list[Origin]:
    """Layers that differ though all that they get is the reference's, in forward order. Where there
    are none: calls that one side lacks, then parameters that part by training alone."""
    first = next(each for each in results if each.verdict == FAIL and each.level != "structure")
    by_training = first.level in ("buffers", "update", "trajectory")
    if by_training and (found := _by_training(comparison, first)):
        return found
    certain, behind = _by_numbers(comparison)
    return certain or _alone(comparison.matching, first.level) or behind


def _by_training(comparison: Comparison, level: LevelResult) -> list[Origin]:
    """What is trained on one side alone, or else the parameters that differ after steps with the
    same gradients."""
    owners, weights = comparison.weights.owners, comparison.weights
    spare = sorted(weights.spare - weights.buffers)
    if spare and level.level == "trajectory":
        return [Origin(owners[n], n, level.level, "trained, and Keras has none") for n in spare]
    apart = [each for each in level.tensors if each.verdict == FAIL]
    named = [(each.name.partition(" ")[2], each) for each in apart]
    return [
        Origin(owners[name], name, level.level, _apart(each))
        for name, each in named
        if name in owners
    ]


def _alone(matching: Matching, level: str) -> list[Origin]:
    ours = [
        Origin(n.name, "", level, f"PyTorch has no {n.kind} here") for n in matching.keras_alone
    ]
    return ours + [
        Origin("", n.name, level, f"Keras has no {n.kind} here") for n in matching.torch_alone
    ]


def _by_numbers(comparison: Comparison) -> tuple[list[Origin], list[Origin]]:
    """Origins for certain; and layers that differ behind a call that has no partner."""
    if comparison.forced is None:  # then the first that differs where its inputs agree
        return _first_free(comparison), []
    found: dict[str, Origin] = {}
    behind: list[Origin] = []
    partners, sources = comparison.matching.by_keras, comparison.matching.sources
    sizes = {n for n, each in comparison.training.items() if "shape" in each.problem}
    differ = {n: each for n, each in comparison.forced_outputs().items() if each.verdict == FAIL}
    for name in partners:
        if name not in differ and name not in sizes:
            continue
        each = differ.get(name) or comparison.training[name]
        origin = Origin(name, partners[name].torch.name, "forward", _apart(each))
        if name in sources and not sizes & set(sources[name]):
            found[name] = origin
        else:  # what it got could not be the reference's
            behind.append(origin)
    owners = comparison.weights.owners
    for parameter, each in comparison.parameters("gradient", comparison.forced).items():
        named = {_layer(partners, name) for name in (*found, *(o.keras for o in behind))}
        if each.verdict == FAIL and owners.get(parameter, "") not in {"", *named}:
            found[parameter] = Origin(owners[parameter], parameter, "gradient", _apart(each))
    for name, each in comparison.forced_upstream().items():
        readers = comparison.matching.readers.get(name, ())
        known = any(m.keras.name in found for m in readers)
        if each.verdict == FAIL and readers and not known:
            first = readers[0]
            found[f"upstream {name}"] = Origin(
                first.keras.name, first.torch.name, "gradient", f"by its input: {_apart(each)}"
            )
    return list(found.values()), behind


def _first_free(comparison: Comparison) -> list[Origin]:
    partners = comparison.matching.by_keras
    for name, each in comparison.forward.items():
        into = [comparison.forward.get(i) for i in partners[name].keras.inputs]
        if each.verdict == FAIL and all(m is None or m.verdict == PASS for m in into):
            return [Origin(name, partners[name].torch.name, "forward", _apart(each))]
    return []


def _layer(partners: Mapping[str, Match], name: str) -> str:
    return partners[name].keras.layer if name in partners else name


def _apart(measurement: Measurement) -> str:
    if measurement.problem:
        return measurement.problem
    return f"{measurement.absolute:.2g} apart at {measurement.where}, {measurement.reason}"
