"""Random draws of one side, and where the other side draws the same.

Keras runs in training with its randomness on, and every draw is kept: its numbers, its shape and,
where it is known, the tensor that it is meant for. PyTorch then runs with its randomness on too and
is fed the same numbers, so that outputs and gradients of a faithful port agree to rounding.

Which draw belongs to which decides only whether a faithful port is seen to be one. Numbers are
handed out once each, and are independent whoever gets them. So where the ends agree, they agree
whatever the draws are: no choice made here lets an unfaithful port through.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from parity.check.stored import write_tensors

UNIFORM, NORMAL = "uniform", "normal"
Shape = tuple[int, ...]

_EQUAL = {np.dtype(np.float64): 1e-9}  # of the largest number: two tensors are the same one
_EQUAL_BELOW = 1e-4  # in less than float64
_STEPS = 2**24  # float32 holds each of these fractions
_RATES = 1e-6  # two rates are the same one
_PERMUTED = 5  # axes of which every order is tried


@dataclass
class Draw:
    """Random numbers that a model asked for.

    Attributes:
        kind: `uniform` in (0, 1), or standard `normal`, before the model scales them.
        place: the layer that asked.
        rate: of what is dropped, where that is known.
        meant: tensors it may be meant for, the likeliest first: what a dropout gets, else what
            the layer gets. The draw's shape fits each, with axes of one.
    """

    kind: str
    numbers: np.ndarray
    place: str = ""
    rate: float | None = None
    meant: list[np.ndarray] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        return self.numbers.shape

    def __str__(self) -> str:
        return described(self.kind, self.shape, self.place, self.rate)

    @cached_property
    def told(self) -> list[_Told]:
        """Of what it is meant for, what tells it apart from other tensors."""
        return [told for told in map(_Told, self.meant) if told.varied]


@dataclass
class Draws:
    """All draws of a run, in order, and random operations whose numbers could not be replaced."""

    events: list[Draw] = field(default_factory=list)
    uncaught: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors, listed = {}, []
        for at, draw in enumerate(self.events):
            tensors[f"{at}"] = draw.numbers
            tensors.update({f"{at}/{n}": each for n, each in enumerate(draw.meant)})
            known = {"kind": draw.kind, "place": draw.place, "rate": draw.rate}
            listed.append({**known, "meant": len(draw.meant)})
        write_tensors(folder / "draws.safetensors", tensors)
        content = {"draws": listed, "uncaught": self.uncaught}
        (folder / "draws.json").write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Draws:
        content = json.loads((folder / "draws.json").read_text())
        tensors = load_file(folder / "draws.safetensors")
        events = [
            Draw(
                each["kind"],
                tensors[f"{at}"],
                each["place"],
                each["rate"],
                [tensors[f"{at}/{n}"] for n in range(each["meant"])],
            )
            for at, each in enumerate(content["draws"])
        ]
        return cls(events, content["uncaught"])


class Numbers:
    """Where numbers come from: one generator, so that a run repeats bit by bit."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def drawn(self, kind: str, shape: Sequence[int]) -> np.ndarray:
        """In float64. Uniform numbers are odd multiples of 2^-24: neither 0, nor 1, nor any rate
        of few digits, and one minus them is exact, in float32 as well."""
        shape = tuple(int(side) for side in shape)
        if kind == NORMAL:
            return self._generator.standard_normal(shape)
        return (2 * self._generator.integers(_STEPS // 2, size=shape) + 1) / _STEPS


@contextmanager
def seeded(seed: int, uncaught: list[str]) -> Iterator[None]:
    """NumPy's and Python's own generators start alike on both sides, and are put back after.

    They cannot be recorded: that one was used is noted.
    """
    legacy: Any = vars(np.random)  # what a model calls, if it calls NumPy, is the old interface
    before = legacy["get_state"](), random.getstate()
    legacy["seed"](seed)
    random.seed(seed)
    start = _bytes(legacy["get_state"]()), random.getstate()
    try:
        yield
    finally:
        if _bytes(legacy["get_state"]()) != start[0]:
            uncaught.append("numpy.random")
        if random.getstate() != start[1]:
            uncaught.append("random")
        legacy["set_state"](before[0])
        random.setstate(before[1])


def _bytes(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """A state of NumPy's generator as what can be compared."""
    return tuple(each.tobytes() if isinstance(each, np.ndarray) else each for each in state)


def described(kind: str, shape: Sequence[int], place: str, rate: float | None) -> str:
    drops = "" if rate is None else f", rate {rate:.4g}"
    return f"{place or 'the model'}: {kind} {tuple(shape)}{drops}"


# Which draw is which -----------------------------------------------------------------------------


class Partners:
    """Finds, for each draw that one side asks for, the numbers that the other side had.

    Attributes, all in words:
        asked: every draw that was asked for.
        unmatched: those that the other side has not. They got numbers of their own.
        unused: draws of the other side that nothing asked for.
        mismatches: draws for the same tensor that differ in rate or shape.
        elsewhere: draws that only their shape told; what they are meant for is another tensor.

    Arguments:
        earlier: of a replay that a later draw showed to have taken another's numbers
            (`taken`): the same replay again leaves those alone.
        mirrored: one minus each uniform number of which no rate is known on both sides, for a
            port that keeps where the number is small.
    """

    def __init__(
        self, draws: Draws, *, mirrored: bool = False, earlier: Partners | None = None
    ) -> None:
        self.asked: list[str] = []
        self.unmatched: list[str] = []
        self.elsewhere: list[str] = []
        self.mismatches: list[str] = []
        self.taken: set[int] = set(earlier.taken) if earlier else set()
        self.mirrored = mirrored
        self._events = draws.events
        self._used: dict[int, bool] = {}  # by number: whether it was told by its tensor
        self._handed: dict[str, np.ndarray] = {}
        self._own = Numbers(len(draws.events) + 1)

    @property
    def unused(self) -> list[str]:
        return [str(draw) for at, draw in enumerate(self._events) if at not in self._used]

    @property
    def again(self) -> bool:
        """Whether another replay, with this one as `earlier`, may find better partners."""
        return any(self._used.get(at) is False for at in self.taken)

    def numbers(
        self,
        kind: str,
        shape: Sequence[int],
        place: str = "",
        rate: float | None = None,
        meant: Iterable[np.ndarray] = (),
        repeats: bool = False,
    ) -> np.ndarray:
        """What to feed, in `shape`; numbers of its own where no draw corresponds.

        `repeats`: draws that were asked for before may be asked for again (checkpoints).
        """
        shape = tuple(shape)
        own = described(kind, shape, place, rate)
        told_by = [mine for mine in map(_Told, meant) if mine.varied]
        self.asked.append(own)
        candidates = [
            at
            for at, draw in enumerate(self._events)
            if draw.kind == kind and (repeats or not self._used.get(at))
        ]
        found, told = self._by_tensor(candidates, shape, told_by, own)
        if found is None and not told:
            if repeats and own in self._handed:
                return self._handed[own]
            found = self._by_shape(candidates, shape, rate)
            if found is None:
                self.unmatched.append(own)
        numbers = self._own.drawn(kind, shape) if found is None else found[1]
        if found:
            draw = self._events[found[0]]
            self._used[found[0]] = told
            numbers = np.ascontiguousarray(numbers)
            if kind == UNIFORM and self._turned(rate, draw.rate):
                numbers = 1 - numbers
            elif _apart(rate, draw.rate):
                self.mismatches.append(f"{own}; the reference has another rate ({draw})")
            if told_by and draw.told and not told:
                self.elsewhere.append(f"{own}: for other numbers than {draw}")
        self._handed[own] = numbers
        return numbers

    def _turned(self, rate: float | None, theirs: float | None) -> bool:
        """Whether one minus the number is meant: ones are what is dropped, not what is kept.

        Two rates tell it themselves, but for one half.
        """
        if rate is None or theirs is None or max(abs(rate - 0.5), abs(theirs - 0.5)) < _RATES:
            return self.mirrored
        return _apart(rate, theirs) and abs(rate + theirs - 1) < _RATES

    def _by_tensor(
        self, candidates: Sequence[int], shape: Shape, meant: Iterable[_Told], own: str
    ) -> tuple[tuple[int, np.ndarray] | None, bool]:
        """The draw that is meant for the same numbers; whether there is one at all."""
        for mine in meant:
            for at in candidates:
                for theirs in self._events[at].told:
                    places = theirs.places_of(mine)
                    if places is None:
                        continue
                    if self._used.get(at) is False:
                        self.taken.add(at)  # by a draw of which only the shape was known
                        continue
                    fed = _fed(self._events[at].numbers, theirs.values, places, shape)
                    if fed is not None:
                        return (at, fed), True
                    self._used[at] = True
                    self.mismatches.append(
                        f"{own}: drawn in another shape than {self._events[at]}, for the same "
                        f"{theirs.values.shape}"
                    )
                    return None, True
        return None, False

    def _by_shape(
        self, candidates: Sequence[int], shape: Shape, rate: float | None
    ) -> tuple[int, np.ndarray] | None:
        """The first draw of as many numbers, of the same rate if there is one."""

        def order(at: int) -> tuple[bool, bool, int]:
            draw = self._events[at]
            return _apart(rate, draw.rate), _sides(draw.shape) != _sides(shape), at

        size = prod(shape)
        fitting = [
            at
            for at in candidates
            if self._events[at].numbers.size == size
            and at not in self._used
            and at not in self.taken
        ]
        if not fitting:
            return None
        at = min(fitting, key=order)
        return at, _arranged(self._events[at].numbers, shape)


class _Told:
    """A tensor as its numbers tell it apart, whatever the order of its axes."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.largest = float(np.abs(values).max()) if values.size else 0.0
        self.equal = _EQUAL.get(values.dtype, _EQUAL_BELOW) * self.largest

    @cached_property
    def varied(self) -> bool:
        """A mask of ones says nothing about where it goes."""
        return bool(np.isfinite(self.largest)) and bool(np.ptp(self.values) > self.equal)

    @cached_property
    def order(self) -> np.ndarray:
        return np.argsort(self.values, axis=None, kind="stable")

    @cached_property
    def sorted(self) -> np.ndarray:
        return self.values.ravel()[self.order]

    def places_of(self, other: _Told) -> np.ndarray | None:
        """For each number of another tensor its place in this one; None where they differ."""
        if self.values.size != other.values.size:
            return None
        equal = max(self.equal, other.equal)
        if not abs(self.largest - other.largest) <= equal:
            return None
        if not np.allclose(self.sorted, other.sorted, rtol=0, atol=equal):
            return None
        mine = self.values.ravel()
        some = slice(None, None, 1 + mine.size // 100)
        for places in _arrangements(self.values.shape, other.values.shape):
            few = mine[places.flat[some]], other.values.flat[some]
            if not np.allclose(*few, rtol=0, atol=equal):
                continue
            if np.allclose(mine[places], other.values, rtol=0, atol=equal):
                return places
        places = np.empty(mine.size, int)  # no order of axes: number by number
        places[other.order] = self.order
        return places.reshape(other.values.shape)


def _arrangements(source: Shape, target: Shape) -> Iterator[np.ndarray]:
    """Places in one shape laid out in another: axes exchanged, merged and split.

    First as it stands where the shapes say so, then channels first, then the rest.
    """
    places = np.arange(prod(source)).reshape(source)
    if source == target:
        yield places
    for axes in _orders(len(source)):
        if axes != tuple(range(len(source))):
            yield places.transpose(axes).reshape(target)
    if source != target:
        yield places.reshape(target)
    for axes in _orders(len(target)):
        split = places.reshape([target[axis] for axis in axes])
        yield split.transpose(np.argsort(axes))


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Orders of axes. Channels first comes first, of many axes it is the only one."""
    if rank > 2:
        yield (0, rank - 1, *range(1, rank - 1))
        yield (0, *range(2, rank), 1)
    if rank <= _PERMUTED:
        yield from itertools.permutations(range(rank))


def _fed(numbers: np.ndarray, theirs: np.ndarray, places: np.ndarray, shape: Shape) -> Any:
    """The numbers drawn for one tensor, laid out for the other; None where shapes do not agree."""
    if numbers.size != prod(shape):
        return None
    spread = np.broadcast_to(numbers, theirs.shape).ravel()[places]
    padded = (1,) * (spread.ndim - len(shape)) + shape
    if len(padded) != spread.ndim:
        return None
    first = spread[tuple(slice(0, 1) if side == 1 else slice(None) for side in padded)]
    if first.shape != padded or not np.array_equal(np.broadcast_to(first, spread.shape), spread):
        return None
    return first.reshape(shape)


def _apart(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) > _RATES


def _sides(shape: Sequence[int]) -> list[int]:
    return sorted(side for side in shape if side != 1)


def _arranged(numbers: np.ndarray, shape: Shape) -> np.ndarray:
    """In another shape of the same size: axes of one aside as it stands, else channels first."""
    bare = np.squeeze(numbers)
    wanted = tuple(side for side in shape if side != 1)
    if bare.shape != wanted:
        for axes in _orders(bare.ndim):
            if bare.transpose(axes).shape == wanted:
                return bare.transpose(axes).reshape(shape)
    return bare.reshape(shape)


# Where numbers cannot be fed ---------------------------------------------------------------------

_PROJECTIONS = 16
_PAIRED = 4
_SAME = 1e-9  # of the largest number: rounding


def distributions_agree(
    left: np.ndarray, right: np.ndarray, error: float = 1e-6
) -> tuple[bool | None, str]:
    """Whether outputs of repeated calls, (calls, ...) each, can come from one distribution.

    Compares ranks: of the numbers (where they lie), of their distances from the common median
    (how far they spread) and of products (how they hang together), in a few directions. Equal
    distributions make every order of the calls as likely, whatever they are, so that equal ones
    are told to differ with a probability of `error` at most. None: too few calls to say.
    """
    calls = len(left), len(right)
    values = np.concatenate([left.reshape(calls[0], -1), right.reshape(calls[1], -1)])
    values = values.astype(np.float64)
    if values.shape[1] > _PROJECTIONS:
        directions = np.random.default_rng(0).standard_normal((values.shape[1], _PROJECTIONS))
        values = values @ (directions / np.sqrt(values.shape[1]))
    scale = max(float(np.abs(values).max()), np.finfo(float).tiny)
    centred = values - np.median(values, 0)
    features = {"lie elsewhere": values.T, "spread otherwise": np.abs(centred).T}
    pairs = itertools.combinations(range(min(_PAIRED, values.shape[1])), 2)
    products = [centred[:, one] * centred[:, two] / scale for one, two in pairs]
    features["hang together otherwise"] = np.array(products).reshape(len(products), -1)
    count = sum(len(each) for each in features.values())
    limit = -NormalDist().inv_cdf(error / count / 2)
    # What ranks can show at most: all calls of one side before all of the other's.
    most = np.sqrt(3 * calls[0] * calls[1] / (sum(calls) + 1))
    if most <= limit:
        return None, f"{calls[0]} and {calls[1]} calls are too few to tell distributions apart"
    largest = {
        what: max((abs(_of_ranks(each, calls[0], _SAME * scale)) for each in rows), default=0.0)
        for what, rows in features.items()
    }
    found = [
        f"{what} ({size:.1f} standard errors)" for what, size in largest.items() if size > limit
    ]
    of = f"over {calls[0]} and {calls[1]} calls, at an error rate of {error:g}"
    if found:
        return False, f"the outputs {' and '.join(found)}, {of}"
    # A shift by d standard deviations moves normal ranks by about d * sqrt(3n / 2pi).
    smallest = 2 * limit / np.sqrt(3 * min(calls) / np.pi)
    return True, (
        f"the outputs' distributions are not told apart {of}; shifts under about {smallest:.2g} "
        "standard deviations cannot be seen so"
    )


def _of_ranks(values: np.ndarray, first: int, same: float) -> float:
    """Standard errors (Mann and Whitney's test) between the first values and the rest.

    Values closer than rounding have the same rank.
    """
    order = np.argsort(values)
    groups = np.concatenate([[0], np.cumsum(np.diff(values[order]) > same)])
    sizes = np.bincount(groups)
    ends = np.cumsum(sizes)
    ranks = np.empty(len(values))
    ranks[order] = (ends - (sizes - 1) / 2)[groups]
    spread = np.var(ranks) * len(values) / (len(values) - 1)
    rest = len(values) - first
    error = np.sqrt(spread * rest / (first * len(values)))  # of the mean of ranks drawn from all
    return float((ranks[:first].mean() - ranks.mean()) / error) if error else 0.0
