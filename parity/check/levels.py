"""The levels of `parity.check`: two runs compared at their ends, which alone decide.

Outputs, the loss, gradients by inputs and by trained numbers, buffers, and the numbers after steps.
Every tolerance is measured: how far each side is from itself when its inputs and weights are
nudged by one unit in the last place. A faithful twin sums in another order, which disturbs more
than a nudge does, by up to the root of the number of terms; a fault is many orders of magnitude
larger in float64. So the factor there is generous and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from parity.check.ends import Outputs, Taken
from parity.check.graph import INPUT
from parity.check.randomness import distributions_agree
from parity.check.trace import STEPS, Trace
from parity.ladder.measure import ABSTAIN, FAIL, PASS, Allowed, Measurement, Tensor, compare
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.tolerances import EPS

FACTOR = {"float64": 1000.0, "float32": 32.0}  # times the noise floor
SURE = 32.0  # a faithful twin is rarely further off than this
# A tolerance from here on, relative to the tensor, would pass what is wrong: then undecided.
HOLLOW = {"float64": 1e-4, "float32": 0.1}
# Of an output, beside the largest of which smaller ones are rounding: sums that cancel.
CANCELLED = 1e-8
# What PyTorch's norms say of a batch that has no statistics.
DEGENERATE = re.compile(r"more than 1 (value per channel|spatial element) when training")
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


@dataclass
class Comparison:
    """Two traces of one precision, every tensor at the ends compared once.

    Attributes:
        way: how PyTorch takes Keras' inputs.
        outputs: which output is which.
        series: the further batches that both ran on, by name; of some, inference alone counts.
        gain: how far the optimizer's step can carry a difference of gradients of 1: Adam, RMSprop
            divide what is near zero by their epsilon.
        magnitudes: how many times larger than the first batch's a further one's numbers are.
        notes: what was seen on the way and decides nothing.
        others: further runs in inference, with other weights, by what they are.
    """

    keras: Trace
    torch: Trace
    weights: Weights
    way: Sequence[Taken]
    outputs: Outputs
    series: Mapping[str, bool] = field(default_factory=dict)
    rtol: float | None = None
    atol: float | None = None
    gain: float = 0.0
    magnitudes: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: Mapping[str, Comparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.precision = self.torch.precision
        self.eps, self.factor = EPS[self.precision], FACTOR[self.precision]
        self._last: dict[str, Tensors] = {}

    def outputs_in(self, mode: str, batch: str = "") -> Iterator[Measurement]:
        """Every output in a mode (`forward`, `again`, `training`), of a further batch if named."""
        start = f"series/{batch}/" if batch else ""
        said = {"again": ", the second time, without gradients", "training": " in training mode"}
        more = said.get(mode, "") + (f", {batch}" if batch else "")
        for at, each in enumerate(self.outputs.given):
            shown = f"output {at}{f' ({each.name})' if each.name else ''}{more}"
            full = f"{start}outputs/{mode}/{at}"
            left, right = self.keras.tensors.get(full), self.torch.tensors.get(full)
            if left is None or right is None:
                yield self._refused(
                    shown, f"{start}{'training' if mode == 'training' else 'forward'}"
                )
                continue
            theirs = each.to_keras(right, left.shape)
            once = full.replace("outputs/again/", "outputs/forward/")
            spread = [_moved_by(trace, once) for trace in (self.keras, self.torch)]
            if spread[1] is not None:
                spread[1] = each.to_keras(spread[1], left.shape)
            found = self.compared(shown, left, theirs, partial(self._by_channel, spread=spread))
            run = f"{start}{'training' if mode == 'training' else 'forward'}"
            yield self._if_paired(found, run) if mode != "training" else found

    def _if_paired(self, found: Measurement, run: str) -> Measurement:
        """In inference, a difference of runs that draw numbers the other side was not seen to
        draw decides nothing, unless one side alone draws."""
        drawn = [each.drawn.get(run, {}) for each in (self.keras, self.torch)]
        kinds = ("unmatched", "unused", "uncaught")
        open_ = [text for each in drawn for kind in kinds for text in each.get(kind, ())]
        if found.verdict != FAIL or not open_ or surplus(self, run):
            return found
        reason = f"it draws numbers that the other side was not seen to draw: {', '.join(open_)}"
        return replace(found, verdict=ABSTAIN, reason=reason)

    @cached_property
    def gradients(self) -> dict[str, Measurement]:
        """By PyTorch's name."""
        return self.parameters("gradient")

    @property
    def trained(self) -> set[str]:
        """PyTorch's names of what has a counterpart and is trained."""
        return self.weights.owners.keys() - self.weights.buffers - self.weights.given

    def silent(self, batches: Sequence[str]) -> bool:
        """Whether some numbers are trained, and every gradient by one is zero on both sides."""
        starts = ["gradient/", *(f"series/{name}/gradient/" for name in batches)]
        moved = any(
            np.any(trace.tensors[name])
            for trace in (self.keras, self.torch)
            for name in trace.tensors
            if name.startswith(tuple(starts)) and INPUT not in name
        )
        return bool(self.trained) and not moved

    @cached_property
    def _largest(self) -> float:
        """Of Keras' gradients by parameters, in the first batch."""
        ours = self.keras.names("gradient")
        found = (self.keras.tensors[f"gradient/{n}"] for n in ours if not n.startswith(INPUT))
        return max((Tensor.whole(each).scale for each in found), default=0.0)

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
        """By PyTorch's name: `gradient`, of a further batch too, `update` or `trajectory`."""
        ours = self._carried(prefix)
        torch, below = (forced, f"forced/{prefix}") if forced else (self.torch, prefix)
        compared = {n: v for n, v in ours.items() if n not in self.weights.given}
        largest = max((Tensor.whole(v).scale for v in compared.values()), default=0.0)
        gradient = prefix.endswith("gradient")
        # What is rounding alone in the first batch is so in another, beside what is larger there.
        far = largest / (self._largest or largest or 1.0) if prefix.startswith("series/") else 0.0
        found = {}
        for name in dict.fromkeys([*ours, *torch.names(below)]):
            if name in self.weights.given or name.startswith((INPUT, "loss")):
                continue
            if name not in self.weights.owners or (gradient and name in self.weights.buffers):
                continue
            floor = self._floor(prefix, ours.get(name), name)
            if prefix.startswith("series/"):
                batch = prefix.split("/")[1]
                first = self._floor("gradient", ours.get(name), name)
                floor = max(floor, self._vanishing(f"gradient/{name}", batch), far * first)
            if prefix in STEPPING:
                own = self._floor("gradient", ours.get(name), name)
                floor = max(floor, STEPPING[prefix] * self.gain * own)
            found[name] = self.compared(
                f"{prefix.removeprefix('series/').replace('/', ' ')} {name}"
                if prefix.startswith("series/")
                else f"{prefix} {name}",
                ours.get(name),
                torch.tensors.get(f"{below}/{name}"),
                partial(self._allowed, floor=floor, largest=largest),
            )
        return found

    def _carried(self, prefix: str) -> Tensors:
        """Keras' tensors as PyTorch has them. The last ones are kept: of a large model they are
        gigabytes, and the forced run is compared with the same gradients again."""
        if prefix not in self._last:
            self._last = {}  # before the next are made
            self._last = {prefix: self.weights.to_torch(self.keras.under(prefix))}
        return self._last[prefix]

    def unsure(self, batch: str) -> bool:
        """Whether anything of a further batch is further apart than without any floor it may be."""
        found = [*self.outputs_in("forward", batch)]
        if not self.series[batch] and all(
            f"series/{batch}/loss" in each.tensors for each in (self.keras, self.torch)
        ):
            found += [*self.outputs_in("training", batch), self.losses(batch), *self.inputs(batch)]
            found += self.parameters(f"series/{batch}/gradient").values()
        return any(each.verdict == FAIL and each.absolute is not None for each in found)

    def losses(self, batch: str = "") -> Measurement:
        name = f"series/{batch}/loss" if batch else "loss"
        if batch and not (name in self.keras.tensors and name in self.torch.tensors):
            return self._refused(f"loss, {batch}", f"series/{batch}/training")
        return self._plain(name, f"loss, {batch}" if batch else "loss")

    def loss_by_step(self) -> Measurement:
        return self._plain("trajectory/loss", "loss by step")

    def inputs(self, batch: str = "") -> Iterator[Measurement]:
        """The gradients by what the models are given."""
        start = f"series/{batch}/" if batch else ""
        for at, taken in enumerate(self.way):
            ours = self.keras.tensors.get(f"{start}gradient/{INPUT}{at}")
            theirs = self.torch.tensors.get(f"{start}gradient/{INPUT}{taken.at}")
            if ours is None or theirs is None:  # of whole numbers there are none
                continue
            floor = max(
                self.keras.floors.get(f"{start}gradient/{INPUT}{at}", 0.0),
                self.torch.floors.get(f"{start}gradient/{INPUT}{taken.at}", 0.0),
                self._vanishing(f"gradient/{INPUT}{taken.at}", batch) if batch else 0.0,
            )
            shown = f"gradient {INPUT}{at}{f', {batch}' if batch else ''}"
            moved = taken.to_torch(ours)
            yield self.compared(shown, moved, theirs, partial(self._allowed, floor=floor))

    def compared(
        self,
        name: str,
        left: np.ndarray | None,
        right: np.ndarray | None,
        allowed: Callable[[np.ndarray | None], Allowed],
    ) -> Measurement:
        """Equal infinities agree; what overflows on both sides in other ways decides nothing."""
        if left is None or right is None or left.shape != right.shape:
            sides = [None if each is None else Tensor.whole(_float(each)) for each in (left, right)]
            return compare(name, sides[0], sides[1], allowed(left))
        a, b = _float(left), _float(right)
        same = np.isinf(a) & (a == b)
        wild = [~np.isfinite(each) & ~same for each in (a, b)]
        one_alone = (wild[0] ^ wild[1]).any() and "gradient" not in name
        if wild[0].any() and wild[1].any() and not one_alone:
            what = "not finite on both sides: give inputs in the models' range (--inputs)"
            return Measurement(name, ABSTAIN, what)
        if same.any():
            a, b = (np.where(same, 0, each) for each in (a, b))
        return compare(name, Tensor.whole(a), Tensor.whole(b), allowed(a))

    def _refused(self, name: str, run: str) -> Measurement:
        """A run that one side alone could do is a difference; training on what a framework cannot
        normalise, such as one value per channel, decides nothing."""
        said = [trace.refused.get(run) for trace in (self.keras, self.torch)]
        sides = ("Keras", "PyTorch")
        problem = "; ".join(f"{s} refuses it: {t}" for s, t in zip(sides, said, strict=True) if t)
        own = not any(said) or any(DEGENERATE.search(each or "") for each in said)
        if all(said) or (run.endswith("/training") and own):
            return Measurement(name, ABSTAIN, problem or "it was not run", optional=True)
        return Measurement(name, FAIL, "", problem or "it was not recorded on both sides")

    def _plain(self, name: str, shown: str) -> Measurement:
        sides = [self.keras.tensors.get(name), self.torch.tensors.get(name)]
        a, b = (None if side is None else np.asarray(side) for side in sides)
        return self.compared(shown, a, b, lambda a: self._allowed(a, self._floor(name, a)))

    def _floor(self, prefix: str, reference: np.ndarray | None, name: str = "") -> float:
        """The larger floor of both sides; of Keras' parameters, whose names are others, all."""
        full = f"{prefix}/{name}" if name else prefix
        own = self.torch.floors.get(full, 0.0)
        if not name:
            return max(own, self.keras.floors.get(full, 0.0))
        shared = [v for key, v in self.keras.floors.items() if key.startswith(prefix + "/")]
        return max(own, min(max(shared, default=0.0), self.eps * _scale(reference)))

    def _vanishing(self, name: str, batch: str) -> float:
        """Rounding beside the same gradient in the first batch: where all is saturated, what is
        left of a gradient is a difference of numbers near 1, times how much larger the batch is and
        how much larger its outputs may be."""
        far = max(1.0, self.magnitudes.get(batch, 1.0))
        return self.eps * far**2 * _scale(self.torch.tensors.get(name))

    def _by_channel(
        self, reference: np.ndarray | None, spread: Sequence[np.ndarray | None]
    ) -> Allowed:
        """Each channel (the last axis in Keras) is judged by its own scale and its own noise."""
        if reference is None or reference.ndim < 2 or not reference.size:
            floor = max(
                (float(each.max(initial=0)) for each in spread if each is not None), default=0.0
            )
            return self._allowed(reference, floor)
        others = tuple(range(reference.ndim - 1))
        shape = reference.shape
        values = np.abs(np.nan_to_num(_float(reference), nan=0.0, posinf=0.0, neginf=0.0))
        scale = values.max(axis=others)
        if self.rtol is not None or self.atol is not None:
            return self._allowed(reference, 0.0)
        noise = self.eps * np.maximum(scale, CANCELLED * scale.max(initial=0))
        for each in spread:
            if each is not None and each.shape == shape:
                noise = np.maximum(noise, np.nan_to_num(each).max(axis=others))
        value = self.factor * noise
        limit = HOLLOW[self.precision] * scale
        limit[scale <= CANCELLED * scale.max(initial=0)] = np.inf
        shrunk = (SURE * noise < limit) & (limit <= value)
        hollow = (limit <= value) & ~shrunk
        used = np.where(shrunk, 0.99 * limit, value)
        flat = np.broadcast_to(used, shape).reshape(-1)
        return Allowed(
            flat,
            f"{self.factor:g} x noise floor of each channel, at most {noise.max(initial=0):.1e}",
            limit=float(flat.max(initial=0)) if hollow.any() else np.inf,
            undecided_to=np.broadcast_to(value, shape).reshape(-1),
        )

    def _allowed(self, reference: np.ndarray | None, floor: float, largest: float = 0.0) -> Allowed:
        """`largest` is the scale of the largest tensor of its kind: beside it, one of rounding
        alone (the gradient of a bias before a batch norm) need not decide anything. It is small
        beside the others, and a nudge changes it by as much as there is of it."""
        scale = _scale(reference)
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


def _moved_by(trace: Trace, name: str) -> np.ndarray | None:
    """How far a nudge moves each element of an output."""
    own, nudged = trace.tensors.get(name), trace.tensors.get(f"nudged/{name}")
    if own is None or nudged is None or own.shape != nudged.shape:
        return None
    with np.errstate(invalid="ignore"):
        return np.abs(_float(own) - _float(nudged))


def _float(value: np.ndarray) -> np.ndarray:
    return value if value.dtype.kind == "f" else value.astype(np.float64)


def _scale(value: np.ndarray | None) -> float:
    return 0.0 if value is None else Tensor.whole(_float(value)).scale


def with_more(result: LevelResult, beside: Sequence[Measurement]) -> LevelResult:
    """The same level, with further comparisons."""
    if not beside:
        return result
    return summarise(result.level, result.precision, [*result.tensors, *beside])


def levels(comparison: Comparison, asked: Sequence[str]) -> list[LevelResult]:
    """The results of the numeric levels, in order."""
    precision, series = comparison.precision, comparison.series
    forward = [*comparison.outputs_in("forward"), *comparison.outputs_in("again")]
    forward += [_further(m) for name in series for m in comparison.outputs_in("forward", name)]
    forward += [
        _further(replace(each, name=f"{each.name}, {name}"))
        for name, other in comparison.others.items()
        for each in other.outputs_in("forward")
    ]
    forward += [
        Measurement(name, FAIL, "", "Keras gives it out and PyTorch does not")
        for name in comparison.outputs.missing
    ]
    found = [_level("forward", precision, forward)]
    sides = (comparison.keras, comparison.torch)
    ran = {name: [f"series/{name}/loss" in each.tensors for each in sides] for name in series}
    trained = [name for name, only in series.items() if not only and any(ran[name])]
    if "loss" in asked or "gradient" in asked:
        losses = [*comparison.outputs_in("training"), comparison.losses()]
        for name in trained:
            losses += map(_further, comparison.outputs_in("training", name))
            losses.append(_further(comparison.losses(name)))
        found.append(_level("loss", precision, losses))
    if "gradient" in asked:
        gradients = [*comparison.gradients.values(), *comparison.inputs()]
        for name in (each for each in trained if all(ran[each])):
            further = comparison.parameters(f"series/{name}/gradient")
            gradients += map(_further, (*further.values(), *comparison.inputs(name)))
        found.append(_untrained("gradient", comparison, gradients))
        if found[-1].verdict == PASS and comparison.silent(trained):
            said = "every gradient by a trained number is zero on both sides, in every batch: "
            found[-1] = abstain("gradient", said + "give others (--inputs)", precision)
    for level in ("update", "trajectory"):
        if level in asked:
            moved = comparison.moved(level)
            buffers = [m for name, m in moved.items() if name in comparison.weights.buffers]
            changed = [m for name, m in moved.items() if name not in comparison.weights.buffers]
            if buffers and level == "update":
                found.append(_level("buffers", precision, buffers, "after one step"))
            steps = [comparison.loss_by_step()] if level == "trajectory" else []
            rest = [*steps, *changed, *(buffers if level == "trajectory" else [])]
            found.append(_untrained(level, comparison, rest))
    return found


def _untrained(
    level: str, comparison: Comparison, measurements: Sequence[Measurement]
) -> LevelResult:
    """Where neither side trains a number, and nothing else is compared, the level is reached."""
    if measurements or comparison.trained:
        return _level(level, comparison.precision, measurements)
    detail = "neither side trains a number"
    return LevelResult(level, PASS, comparison.precision, detail=detail)


def randomness(comparison: Comparison) -> LevelResult:
    """Training mode with dropout on and the same numbers drawn: the outputs, the loss, the
    gradients."""
    measurements = [*comparison.outputs_in("training"), comparison.losses()]
    measurements += [*comparison.gradients.values(), *comparison.inputs()]
    result = _level("randomness", comparison.precision, measurements)
    said = [
        f"{what}: {', '.join(found)}"
        for what, found in comparison.torch.drawn.get("training", {}).items()
        if found
    ]
    ours = comparison.keras.drawn.get("training", {}).get("draws", [])
    counted = f"{len(ours)} draws of Keras'"
    return replace(result, detail="; ".join([counted, *said, result.detail]))


def unpaired(comparison: Comparison) -> bool:
    """Whether a side draws what the other was not seen to, or draws in a way that is not caught."""
    drawn = [each.drawn.get("training", {}) for each in (comparison.keras, comparison.torch)]
    kinds = ("unmatched", "unused", "uncaught")
    return any(each.get(kind) for each in drawn for kind in kinds)


def surplus(comparison: Comparison, run: str = "training") -> bool:
    """Whether PyTorch draws more: it alone draws, or each of Keras' draws has its partner and it
    goes on to draw; or whether it draws nothing and Keras does. Nothing is left to pair it with."""
    ours, theirs = (each.drawn.get(run, {}) for each in (comparison.keras, comparison.torch))
    if ours.get("uncaught") or theirs.get("uncaught"):
        return False
    spare, unused = theirs.get("unmatched", []), theirs.get("unused", [])
    if spare:
        return not unused
    return bool(unused) and len(unused) == len(ours.get("draws", ()))


def distributions(comparison: Comparison) -> LevelResult:
    """Outputs in training mode, drawn anew many times on both sides: those whose distributions
    differ fail; otherwise it is not decided."""
    texts = []
    for at, each in enumerate(comparison.outputs.given):
        ours = comparison.keras.tensors.get(f"repeated/{at}")
        theirs = comparison.torch.tensors.get(f"repeated/{at}")
        if ours is None or theirs is None or ours.size != theirs.size:
            continue
        turned = np.stack([each.to_keras(value, ours.shape[1:]) for value in theirs])
        same, text = distributions_agree(np.asarray(ours), turned)
        texts.append(f"output {at}: {text}")
        if same is False:
            where = f"output {at} in training mode with dropout on"
            return LevelResult("randomness", FAIL, comparison.precision, where=where, detail=text)
    said = "; ".join(["draws could not be paired, and their numbers not be compared", *texts])
    return abstain("randomness", said, comparison.precision)


def _further(measurement: Measurement) -> Measurement:
    """Of the series: what it leaves undecided, the first batch decides."""
    return replace(measurement, optional=True)


def _level(
    level: str, precision: str, measurements: Sequence[Measurement], subject: str = ""
) -> LevelResult:
    if not measurements:
        return abstain(level, "nothing to compare", precision)
    return summarise(level, precision, measurements, subject)
