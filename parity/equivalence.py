"""Do both frameworks agree over several seeds, rather than by the luck of one?

Both train from the same seeds, so that their final metrics are pairs. What is counted, per metric,
is how many seeds end further apart than the tolerance. The one assumption: seeds are independent,
and a mean difference at or beyond the tolerance puts at least one seed in ten there. No shape of
the differences is assumed, and none is needed (docs/equivalence.md):

- `pass`: fewer than one seed in ten ends at or beyond the tolerance, at 5 %;
- `fail`: fewer than one in ten ends within it or on its other side, at 5 % shared among all tests
  that are judged together (Bonferroni), since one that fails is enough to fail them all;
- `inconclusive`: neither; how many seeds could decide it follows from those that were counted.

Both are Wald's sequential test (1945) of a share of one in ten against one in a hundred. Its error
holds however often one looks, so seeds may be added until they decide. All tests must pass
together, which keeps the 5 % without a share (intersection-union, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

ALPHA = 0.05  # chance to pass where the true mean is at the tolerance, and to fail within it
ODD = 0.1  # share of seeds that such a mean puts on its own side, at the least
RARE = (
    0.01  # the share that Wald's test has against it: the lower, the less an odd seed is forgiven
)
TIE = 8 * np.finfo(float).eps  # two numbers of order 1 and their difference are rounded by less

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


@dataclass(frozen=True)
class Equivalence:
    """What paired seeds say of one metric.

    Attributes:
        left, right: the metric's final value per seed, in the metric's own unit.
        mean: of right - left.
        interval: the smallest and the largest right - left.
        p_value: of `pass`, whatever the number of looks; at most alpha where it passes.
        margin: the tolerance.
        std: of the differences over seeds.
        beyond: how many seeds end at or beyond the tolerance.
        tests: how many are judged together.
        noise: each side's own standard deviation over seeds, its noise floor.
        seeds_needed: where inconclusive, with how many seeds it could be decided at the earliest.
        verdict: `pass`, `fail` or `inconclusive`.
    """

    left: tuple[float, ...]
    right: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float
    margin: float
    std: float
    beyond: int
    tests: int
    noise: dict[str, float]
    seeds_needed: int | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def equivalence(
    left: Sequence[float] | np.ndarray,
    right: Sequence[float] | np.ndarray,
    *,
    margin: float,
    tests: int = 1,
) -> Equivalence:
    """Judge one metric from its final values, one per seed and side, in the same order of seeds.

    `tests` says how many metrics and pairs are judged together. A value that is not finite, a
    training that diverged, is never within: the metric fails.

    Raises:
        ValueError: the sides are not equally long, there are fewer than two seeds, or the margin
            is not a finite number above 0.
    """
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(f"expected two or more seeds on both sides, got {len(left)}, {len(right)}")
    if not 0 < margin < math.inf:
        raise ValueError(f"margin: expected a finite number above 0, got {margin}")
    pairs = np.array([left, right], dtype=np.float64)
    differences = pairs[1] - pairs[0]
    beyond, near = (int(count) for count in _counted(pairs[0], pairs[1], margin))
    verdict = str(verdicts(pairs[0], pairs[1], margin=margin, tests=tests))
    bars = {PASS: -math.log(ALPHA), FAIL: -math.log(ALPHA / tests)}
    needed = min(_needed(odd, bars[each]) for each, odd in ((PASS, beyond), (FAIL, near)))
    return Equivalence(
        left=tuple(pairs[0].tolist()),
        right=tuple(pairs[1].tolist()),
        mean=float(differences.mean()),
        interval=(float(differences.min()), float(differences.max())),
        p_value=math.exp(-max(0.0, _evidence(len(left), beyond))),
        margin=margin,
        std=_std(differences),
        beyond=beyond,
        tests=tests,
        noise={"left": _std(pairs[0]), "right": _std(pairs[1])},
        seeds_needed=needed if verdict == INCONCLUSIVE else None,
        verdict=verdict,
    )


def verdicts(left: np.ndarray, right: np.ndarray, *, margin: float, tests: int = 1) -> np.ndarray:
    """Of many samples at once, (…, seeds)."""
    seeds = left.shape[-1]
    beyond, near = _counted(left, right, margin)
    passing = _evidence(seeds, beyond) >= -math.log(ALPHA)
    failing = _evidence(seeds, near) >= -math.log(ALPHA / tests)
    failing |= ~np.isfinite(right - left).all(axis=-1)
    return np.where(failing, FAIL, np.where(passing, PASS, INCONCLUSIVE))


def overall(verdicts: Iterable[str]) -> str:
    """`fail` if one fails, `pass` if all pass, else `inconclusive`; nothing judged never passes."""
    found = set(verdicts)
    if FAIL in found:
        return FAIL
    return PASS if found == {PASS} else INCONCLUSIVE


def power(seeds: int, share: float, tests: int = 1) -> float:
    """The chance that so many seeds, looked at once, decide.

    `share` of them end, in truth, where they speak against it: for `pass`, at or beyond the
    tolerance (`tests` is 1 then); for `fail`, within it or on its other side.
    """
    from scipy import stats  # most of a second to import

    bar = -math.log(ALPHA / tests)
    odd = sum(_needed(count, bar) <= seeds for count in range(seeds)) - 1
    return float(stats.binom.cdf(odd, seeds, share))


def _counted(left: np.ndarray, right: np.ndarray, margin: float) -> tuple[Any, Any]:
    """How many seeds speak against `pass`, and against `fail`.

    A difference of the tolerance itself, but for rounding, is not within it, yet not beyond: it
    speaks against both.
    """
    differences, seeds = right - left, left.shape[-1]
    rounding = TIE * np.maximum(1.0, np.maximum(np.abs(left), np.abs(right)))
    within = (np.abs(differences) < margin - rounding).sum(axis=-1)
    sides = ((side > margin + rounding).sum(axis=-1) for side in (differences, -differences))
    return seeds - within, seeds - np.maximum(*sides)


def _evidence(seeds: int, odd: Any) -> Any:
    """The logarithm of Wald's likelihood ratio for `RARE` against `ODD`, `odd` seeds being so."""
    return odd * math.log(RARE / ODD) + (seeds - odd) * math.log((1 - RARE) / (1 - ODD))


def _needed(odd: int, bar: float) -> int:
    """With how many seeds the evidence reaches `bar`, if only `odd` of them speak against it."""
    return odd + math.ceil((bar - odd * math.log(RARE / ODD)) / math.log((1 - RARE) / (1 - ODD)))


def _std(values: np.ndarray) -> float:
    """The sample standard deviation; NaN where a value is not finite."""
    if not np.isfinite(values).all():
        return math.nan
    # Equal values have none; their mean, rounded, would leave a little.
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0
