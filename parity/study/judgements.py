"""The report's own judgements, made by code from the rules it states.

The same code judges our arms and the published ones, so that a difference between the two is one
of numbers, and a difference between the published numbers and the report's sentence is one of
reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from parity import published
from parity.criterion import TOLERANCE, judge, verdict
from parity.recording import IN_WORDS, METRICS
from parity.study.arms import BASELINE, FRAMEWORKS, Study, arm_of, measure, printed, title
from parity.study.fluctuation import calm, setbacks

YES, NO, UNDECIDED, NOT_JUDGED = "yes", "no", "undecided", "not judged"
CONFIDENCE = 0.95

RULES = {
    "transfer": "Does the baseline reach the Reference Model? Its accuracies and losses are equal "
    "or better (section 3.3).",
    "replicates": "Does the PyTorch model replicate its Keras twin? Final loss, accuracy, "
    f"validation loss and validation accuracy differ by at most {TOLERANCE:g} each (section 3.3, "
    "2 %).",
    "avenue": "Is the modification an avenue for improvement? Its curves show little to no "
    "dramatic fluctuation, and final validation accuracy and test accuracy each beat those of its "
    "own baseline, or equal them where the baseline has 100 % (section 3.4).",
    "generalises": "Does the model generalise? Its accuracy on the balanced out-of-distribution "
    "set is above what guessing reaches: 50 % with the report's two classes (section 3.4), 1/k "
    f"with k classes. Undecided where the exact (Clopper-Pearson) {100 * CONFIDENCE:.0f} % "
    "interval contains it.",
}


@dataclass(frozen=True)
class Judgement:
    """One answer. `framework` is None where the rule is about both twins."""

    rule: str
    variant: str
    framework: str | None
    verdict: str  # yes, no, undecided or not judged
    because: str
    numbers: dict[str, Any] = field(default_factory=dict)  # what JSON can hold, inf apart

    @property
    def key(self) -> tuple[str, str, str | None]:
        return (self.rule, self.variant, self.framework)


def judge_study(study: Study) -> list[Judgement]:
    """Every rule for every model it is about; `not judged` where an arm is missing or failed."""
    variants = list(dict.fromkeys([*published.variants(), *study]))
    modifications = [variant for variant in variants if variant != BASELINE]
    models = [(variant, framework) for variant in variants for framework in FRAMEWORKS]
    return [
        *(transfer(study, framework) for framework in FRAMEWORKS),
        *(replicates(study, variant) for variant in variants),
        *(avenue(study, variant, side) for variant in modifications for side in FRAMEWORKS),
        *(generalises(study, variant, framework) for variant, framework in models),
    ]


def transfer(study: Study, framework: str) -> Judgement:
    """Whether a baseline is equal to or better than the Reference Model, number by number."""
    about = ("transfer", BASELINE, framework)
    arm = arm_of(study, BASELINE, framework)
    worse, numbers = [], {}
    for name, text in printed()["reference_model"].items():
        value = measure(arm, name)
        if value is None:
            return _not_judged(about, _missing(study, (BASELINE, framework)))
        theirs = float(text) if "loss" in name else float(text) / 100
        numbers[name] = {"model": value, "reference": theirs}
        if value > theirs if "loss" in name else value < theirs:
            worse.append(f"{IN_WORDS[name]} {value:.4g} against {theirs:.4g}")
    because = f"worse in {', '.join(worse)}" if worse else "nowhere worse"
    return Judgement(*about, NO if worse else YES, because, numbers)


def replicates(study: Study, variant: str) -> Judgement:
    """The study's criterion between the two twins."""
    about = ("replicates", variant, None)
    arms = [arm_of(study, variant, framework) for framework in FRAMEWORKS]
    left, right = arms
    if left is None or right is None or left.error or right.error:
        return _not_judged(about, _missing(study, *((variant, each) for each in FRAMEWORKS)))
    try:
        criterion = judge(left.history, right.history)
    except ValueError as error:
        return _not_judged(about, str(error))
    beyond = {m: each["difference"] for m, each in criterion.items() if not each["within"]}
    apart = [f"{IN_WORDS[metric]} {difference:.4f}" for metric, difference in beyond.items()]
    largest = max(each["difference"] for each in criterion.values())
    because = f"apart: {', '.join(apart)}" if apart else f"largest difference {largest:.4f}"
    return Judgement(*about, YES if verdict(criterion) == "pass" else NO, because, criterion)


def avenue(study: Study, variant: str, framework: str) -> Judgement:
    """Calm curves, and both accuracies better than those of the model's own baseline."""
    about = ("avenue", variant, framework)
    models = ((variant, framework), (BASELINE, framework))
    model, baseline = (arm_of(study, *each) for each in models)
    compared = {
        name: (measure(model, name), measure(baseline, name)) for name in ("val_accuracy", "test")
    }
    if model is None or any(None in pair for pair in compared.values()):
        return _not_judged(about, _missing(study, *models))
    try:
        found = setbacks(model.history)
    except ValueError as error:
        return _not_judged(about, str(error))
    better = {name: _beats(*pair) for name, pair in compared.items()}
    worst = max(METRICS, key=lambda metric: found[metric])
    reasons = [
        f"{IN_WORDS[name]} {pair[0]:.4f} {_relation(pair, better[name])} the baseline's "
        f"{pair[1]:.4f}"
        for name, pair in compared.items()
    ]
    reasons.append(
        f"{'little' if calm(found) else 'dramatic'} fluctuation: largest setback "
        f"{found[worst]:.4f} ({IN_WORDS[worst]})"
    )
    numbers = {
        "setbacks": found,
        **{name: {"model": pair[0], "baseline": pair[1]} for name, pair in compared.items()},
        "hangs_on_fluctuation": all(better.values()),  # the accuracies alone would say yes
    }
    answer = YES if calm(found) and all(better.values()) else NO
    return Judgement(*about, answer, "; ".join(reasons), numbers)


def generalises(study: Study, variant: str, framework: str) -> Judgement:
    """Whether the accuracy on the out-of-distribution set is above chance, and surely so."""
    about = ("generalises", variant, framework)
    arm = arm_of(study, variant, framework)
    accuracy = measure(arm, "ood")
    if arm is None or accuracy is None:
        return _not_judged(about, _missing(study, (variant, framework)))
    counts = arm.data["splits"]["ood"]
    images, chance = sum(counts.values()), 1 / len(counts)
    correct = round(accuracy * images)
    low, high = interval(correct, images)
    answer = YES if low > chance else NO if high < chance else UNDECIDED
    above = correct / images > chance
    numbers = {"correct": correct, "images": images, "chance": chance, "low": low, "high": high}
    because = (
        f"{correct} of {images} = {100 * correct / images:.1f} %, {'' if above else 'not '}over "
        f"{100 * chance:.3g} %; {100 * CONFIDENCE:.0f} % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %"
    )
    return Judgement(*about, answer, because, {**numbers, "above_chance": above})


def interval(correct: int, images: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) confidence interval of a fraction `correct / images`."""
    from scipy.stats import binomtest  # slow to import

    found = binomtest(correct, images).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def _relation(pair: tuple[float | None, float | None], better: bool) -> str:
    if not better:
        return "does not beat"
    return "equals" if pair[0] == pair[1] else "beats"


def _beats(ours: float | None, baseline: float | None) -> bool:
    if ours is None or baseline is None:
        return False
    return ours > baseline or ours == baseline == 1.0


def _missing(study: Study, *models: tuple[str, str]) -> str:
    """Which of the models lacks what had to be judged, and why."""
    reasons = []
    for model in models:
        arm = arm_of(study, *model)
        if arm is None:
            reasons.append(f"{title(*model)} was not run")
        elif arm.error:
            reasons.append(f"{title(*model)} did not finish: {arm.error}")
    return "; ".join(reasons) or f"{title(*models[0])} left no finite number to judge"


def _not_judged(about: tuple[str, str, str | None], because: str) -> Judgement:
    return Judgement(*about, NOT_JUDGED, because)
