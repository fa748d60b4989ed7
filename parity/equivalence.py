"""Do both frameworks agree over several seeds, rather than by the luck of one?

Both train from the same seeds, so that their final metrics are pairs. Per metric, a paired two
one-sided t-test (Schuirmann 1987) asks whether the mean difference lies within the tolerance:

- `pass`: equivalent at 5 %; just as well: the 90 % confidence interval lies inside the margin;
- `fail`: different beyond the margin at 5 %, two-sided, shared among all tests that are judged
  together (Bonferroni), since one that fails is enough to fail them all;
- `inconclusive`: neither; a power calculation says how many seeds would decide it.

All tests must pass together, which keeps the 5 % without a share (intersection-union, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

ALPHA = 0.05  # chance to pass where the true difference is the tolerance, and to fail within it
POWER = 0.8  # chance of a decision that `seeds_needed` asks for
MOST_SEEDS = 1000
QUANTILES = 2000  # over which the spread's distribution is averaged: four digits of power

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


@dataclass(frozen=True)
class Equivalence:
    """What paired seeds say of one metric.

    Attributes:
        left, right: the metric's final value per seed, in the metric's own unit.
        mean: of right - left.
        interval: of the mean, with `confidence` 1 - 2 alpha.
        p_value: of the two one-sided tests together; below alpha the metric is equivalent.
        margin: the tolerance.
        std: of the differences over seeds; the test takes at least half a step of the metric.
        step: the least by which the metric can change.
        tests: how many are judged together.
        noise: each side's own standard deviation over seeds, its noise floor.
        verdict: `pass`, `fail` or `inconclusive`.
    """

    left: tuple[float, ...]
    right: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    confidence: float
    p_value: float
    margin: float
    std: float
    step: float
    tests: int
    noise: dict[str, float]
    verdict: str

    @property
    def seeds_needed(self) -> int | None:
        """Where inconclusive, how many seeds decide with a chance of 80 %, if mean and spread stay.

        None where it is decided, or takes more than 1000.
        """
        if self.verdict != INCONCLUSIVE:
            return None
        return seeds_needed(
            mean=self.mean, std=self.std, margin=self.margin, step=self.step, tests=self.tests
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seeds_needed": self.seeds_needed}


def equivalence(
    left: Sequence[float] | np.ndarray,
    right: Sequence[float] | np.ndarray,
    *,
    margin: float,
    step: float = 0.0,
    tests: int = 1,
) -> Equivalence:
    """Judge one metric from its final values, one per seed and side, in the same order of seeds.

    `step` is the least by which the metric can change: of an accuracy one image's share, of a
    loss 0. Seeds that happen to agree to the image have no spread to judge by; the largest that
    such a sample can hide is half a step (Popoviciu's inequality), and no less is taken for it.
    `tests` says how many metrics and pairs are judged together.

    A value that is not finite, a training that diverged, is never within: the metric fails.

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
    common: dict[str, Any] = {
        "left": tuple(pairs[0].tolist()),
        "right": tuple(pairs[1].tolist()),
        "confidence": 1 - 2 * ALPHA,
        "margin": margin,
        "step": step,
        "tests": tests,
        "noise": {"left": _std(pairs[0]), "right": _std(pairs[1])},
    }
    if not np.isfinite(differences).all():
        lost = math.nan
        return Equivalence(
            **common, mean=lost, interval=(lost, lost), p_value=1.0, std=lost, verdict=FAIL
        )
    interval, within, beyond = _tested(_spread(differences, step / 2), margin)
    verdict = INCONCLUSIVE
    if within < ALPHA:
        verdict = PASS
    elif beyond < ALPHA / tests:
        verdict = FAIL
    return Equivalence(
        **common,
        mean=float(differences.mean()),
        interval=interval,
        p_value=within,
        std=_std(differences),
        verdict=verdict,
    )


def overall(verdicts: Iterable[str]) -> str:
    """`fail` if one fails, `pass` if all pass, else `inconclusive`; nothing judged never passes."""
    found = set(verdicts)
    if FAIL in found:
        return FAIL
    return PASS if found == {PASS} else INCONCLUSIVE


def power(
    seeds: int, *, mean: float, std: float, margin: float, step: float = 0.0, tests: int = 1
) -> dict[str, float]:
    """The chance of `pass` and of `fail` with so many seeds.

    Differences are normal with true `mean` and `std`. Exact for that: the sample's spread follows
    a chi distribution, and for each spread the mean has a normal chance to fall into the region
    that decides (Phillips 1990, J. Pharmacokinet. Biopharm. 18, 137).
    """
    from scipy import stats

    freedom = seeds - 1
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    spread = std * np.sqrt(stats.chi2.ppf(share, freedom) / freedom)
    error_found = np.maximum(spread, step / 2) / math.sqrt(seeds)
    half = stats.t.ppf(1 - ALPHA, freedom) * error_found
    apart = stats.t.ppf(1 - ALPHA / tests / 2, freedom) * error_found
    error = max(std, np.finfo(float).tiny) / math.sqrt(seeds)

    def below(bound: np.ndarray) -> np.ndarray:
        return stats.norm.cdf((bound - mean) / error)

    inside = np.where(half < margin, below(margin - half) - below(half - margin), 0.0)
    outside = 1 - below(margin + apart) + below(-margin - apart)
    return {PASS: float(inside.mean()), FAIL: float(outside.mean())}


def seeds_needed(
    *, mean: float, std: float, margin: float, step: float = 0.0, tests: int = 1
) -> int | None:
    """The fewest seeds with which `pass` or `fail` has a chance of 80 %, or None beyond 1000."""

    def decides(seeds: int) -> bool:
        chances = power(seeds, mean=mean, std=std, margin=margin, step=step, tests=tests)
        return sum(chances.values()) >= POWER

    if not decides(MOST_SEEDS):
        return None
    few, enough = 1, MOST_SEEDS  # more seeds never decide less
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return enough


def _tested(sample: np.ndarray, margin: float) -> tuple[tuple[float, float], float, float]:
    """The mean's interval, the p value of two one-sided tests that it is within the margin, and
    that of a two-sided test that it is beyond."""
    if not _std(sample):  # the same for each seed: nothing is left to chance
        same = float(sample[0])
        return (same, same), float(abs(same) >= margin), float(abs(same) <= margin)
    from statsmodels.stats.weightstats import DescrStatsW  # a second to import

    described = DescrStatsW(sample)
    low, high = described.tconfint_mean(2 * ALPHA)
    within = described.ttost_mean(-margin, margin)[0]
    over, under = (
        described.ttest_mean(bound, alternative=side)[1]
        for bound, side in ((margin, "larger"), (-margin, "smaller"))
    )
    return (float(low), float(high)), float(within), float(min(1.0, 2 * min(over, under)))


def _spread(differences: np.ndarray, least: float) -> np.ndarray:
    """The sample; if its standard deviation is below `least`, one of the same mean that has it."""
    std = _std(differences)
    if std >= least:
        return differences
    mean = differences.mean()
    pattern = differences - mean if std else np.linspace(-1.0, 1.0, len(differences))
    return mean + pattern * (least / _std(pattern))


def _std(values: np.ndarray) -> float:
    """The sample standard deviation; NaN where a value is not finite."""
    if not np.isfinite(values).all():
        return math.nan
    # Equal values have none; their mean, rounded, would leave a little.
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0
