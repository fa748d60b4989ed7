"""What each published difference does to a pair of twins, beside what chance does.

Arms are trained for the aligned pair and for every difference, from several seeds. The *gap* of a
metric is PyTorch's less Keras', of the same seed; the *change* is one framework's number less its
own number in the aligned pair. The *noise floor* is what a gap's mean may be where two runs differ
by their seeds alone: a difference that stays below it may be chance. Whether the frameworks still
agree is asked of the gaps as `parity.equivalence` asks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parity import equivalence
from parity.criterion import TOLERANCE
from parity.differences import ALIGNED, DIFFERENCES
from parity.equivalence import Equivalence
from parity.recording import METRICS
from parity.study.arms import FRAMEWORKS, Arm, measure

if TYPE_CHECKING:
    from parity.ladder import LadderReport
    from parity.ladder.results import LevelResult

SPLITS = ("test", "ood")  # accuracies there are measured beside the criterion's four metrics
CONFIDENCE = 0.95

Runs = Mapping[int, Mapping[str, Arm]]  # seed -> framework -> arm; those that did not finish lack
Values = dict[str, dict[int, float]]  # metric -> seed -> value


@dataclass(frozen=True)
class Place:
    """A failing level of the ladder: how far apart, absolute, and where; all of it in `detail`.

    At `structure`, `measured` counts what is declared differently.
    """

    level: str
    precision: str | None
    measured: float | None
    where: str
    detail: str

    @classmethod
    def of(cls, result: LevelResult | None) -> Place | None:
        if result is None:
            return None
        return cls(result.level, result.precision, result.measured, result.where, result.detail)


@dataclass(frozen=True)
class Effect:
    """One condition: a difference, all of them, or none (`aligned`, the control).

    Attributes:
        name: of `parity.differences.DIFFERENCES`, or `aligned`, or `all together`.
        text: what Keras' / PyTorch's notebooks did.
        first: the first level of the ladder that fails; None where all pass, or none was run.
        in_numbers: the first that fails by a number rather than by what is declared.
        origins: what the ladder names as the places where the sides part.
        gaps: PyTorch less Keras, per metric and seed.
        changes: per framework, less the aligned arm of the same seed, per metric and seed.
    """

    name: str
    text: str
    first: Place | None
    in_numbers: Place | None
    origins: tuple[str, ...]
    gaps: Values
    changes: dict[str, Values]

    def gap(self, metric: str) -> float | None:
        """The mean over seeds."""
        return _mean(self.gaps.get(metric, {}))

    def change(self, framework: str, metric: str) -> float | None:
        """The mean over seeds."""
        return _mean(self.changes.get(framework, {}).get(metric, {}))

    @property
    def size(self) -> float:
        """The largest mean gap of the criterion's four metrics, absolute."""
        return max((abs(self.gap(metric) or 0.0) for metric in METRICS), default=0.0)


@dataclass(frozen=True)
class Explanation:
    """All effects, largest first, with the control last.

    `floors` are the noise floors of the metrics.
    """

    variant: str
    seeds: tuple[int, ...]
    effects: tuple[Effect, ...]
    floors: dict[str, float | None]

    @property
    def metrics(self) -> list[str]:
        """Those that were measured, in the order of display."""
        return [name for name in (*METRICS, *SPLITS) if any(e.gaps.get(name) for e in self.effects)]

    def beyond(self, value: float | None, metric: str) -> bool | None:
        """Whether a mean lies beyond the noise floor; None where there is none."""
        floor = self.floors.get(metric)
        return None if value is None or floor is None else abs(value) > floor

    def equivalences(self, effect: Effect) -> dict[str, Equivalence]:
        """Of the criterion's metrics, those that two or more seeds have."""
        return {
            metric: equivalence.equivalence(
                [0.0] * len(gaps),
                gaps,
                margin=TOLERANCE,
                tests=len(METRICS),
            )
            for metric in METRICS
            if len(gaps := list(effect.gaps[metric].values())) > 1
        }

    def agree(self, effect: Effect) -> str | None:
        """Whether the frameworks agree with it: pass, fail, inconclusive; None with one seed."""
        found = self.equivalences(effect)
        return equivalence.overall(each.verdict for each in found.values()) if found else None


def explain(
    variant: str,
    seeds: Sequence[int],
    runs: Mapping[str, Runs],
    ladders: Mapping[str, LadderReport],
) -> Explanation:
    """Measure every condition of `runs`; `aligned` must be one of them.

    `ladders` compares the pair of a condition with each other, Keras left; it may lack some.
    """
    effects = [_effect(name, seeds, runs, ladders.get(name)) for name in runs]
    ranked = sorted(effects, key=lambda each: (each.name == ALIGNED, -each.size))
    floors = {metric: _floor(runs[ALIGNED], metric) for metric in (*METRICS, *SPLITS)}
    return Explanation(variant, tuple(seeds), tuple(ranked), floors)


def to_dict(explanation: Explanation) -> dict[str, Any]:
    """Types that JSON knows; means and verdicts beside every seed's value."""
    metrics = explanation.metrics
    return {
        "variant": explanation.variant,
        "seeds": list(explanation.seeds),
        "noise_floor": {metric: explanation.floors[metric] for metric in metrics},
        "effects": [
            {
                "name": each.name,
                "text": each.text,
                "first": vars(each.first) if each.first else None,
                "in_numbers": vars(each.in_numbers) if each.in_numbers else None,
                "origins": list(each.origins),
                "size": each.size,
                "agree": explanation.agree(each),
                "equivalence": {
                    metric: {
                        "verdict": found.verdict,
                        "mean": found.mean,
                        "interval": list(found.interval),
                        "p_value": found.p_value,
                        "seeds_needed": found.seeds_needed,
                    }
                    for metric, found in explanation.equivalences(each).items()
                },
                "gap": {
                    metric: {
                        "mean": each.gap(metric),
                        "beyond_noise": explanation.beyond(each.gap(metric), metric),
                        "by_seed": each.gaps[metric],
                    }
                    for metric in metrics
                },
                "change": {
                    framework: {
                        metric: {"mean": each.change(framework, metric), "by_seed": values[metric]}
                        for metric in metrics
                    }
                    for framework, values in each.changes.items()
                },
            }
            for each in explanation.effects
        ],
    }


def _effect(
    name: str, seeds: Sequence[int], runs: Mapping[str, Runs], ladder: LadderReport | None
) -> Effect:
    keras, torch = FRAMEWORKS
    gaps: Values = {}
    changes: dict[str, Values] = {framework: {} for framework in FRAMEWORKS}
    for metric in (*METRICS, *SPLITS):
        gaps[metric] = dict(_differences(seeds, (runs[name], torch), (runs[name], keras), metric))
        for framework in FRAMEWORKS:
            sides = ((runs[name], framework), (runs[ALIGNED], framework))
            changes[framework][metric] = dict(_differences(seeds, *sides, metric))
    failing = [each for each in (ladder.levels if ladder else ()) if each.verdict == "fail"]
    numeric = (each for each in failing if each.level != "structure" and each.measured is not None)
    return Effect(
        name,
        _text(name),
        Place.of(failing[0] if failing else None),
        Place.of(next(numeric, None)),
        tuple(each.where for each in (ladder.origins if ladder else ()) if each.status == "origin"),
        gaps,
        changes,
    )


def _text(name: str) -> str:
    if name == ALIGNED:
        return "none: the same everything"
    return DIFFERENCES[name].text if name in DIFFERENCES else "every one of these"


def _differences(
    seeds: Sequence[int], minuend: tuple[Runs, str], subtrahend: tuple[Runs, str], metric: str
) -> Iterator[tuple[int, float]]:
    """Each seed and its difference, where both arms have the metric."""
    for seed in seeds:
        first, second = (
            measure(runs.get(seed, {}).get(framework), metric)
            for runs, framework in (minuend, subtrahend)
        )
        if first is not None and second is not None:
            yield seed, first - second


def _floor(runs: Runs, metric: str) -> float | None:
    """The mean gap that chance alone stays below in 95 of 100 cases.

    Two independent runs of standard deviation s over n seeds: t(n - 1) s sqrt(2 / n), with s of
    the aligned arms of a framework, the larger of both. Of an accuracy at least one image, for
    seeds that agree by luck have no spread. None with fewer than two seeds.
    """
    from scipy.stats import t  # slow to import

    floors = []
    for framework in FRAMEWORKS:
        arms = [of_seed[framework] for of_seed in runs.values() if framework in of_seed]
        known = [value for arm in arms if (value := measure(arm, metric)) is not None]
        if len(known) >= 2:
            quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(known) - 1))
            spread = quantile * float(np.std(known, ddof=1)) * math.sqrt(2 / len(known))
            floors.append(max(spread, _step(arms[0], metric)))
    return max(floors, default=None)


def _step(arm: Arm, metric: str) -> float:
    """What one image is worth in an accuracy; 0 of a loss."""
    split = {"accuracy": "train", "val_accuracy": "validation"}.get(metric, metric)
    images = arm.data["splits"].get(split)
    return 1 / sum(images.values()) if images else 0.0


def _mean(values: Mapping[int, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None
