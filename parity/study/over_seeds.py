"""The study from several seeds: does each model replicate its twin whatever the seed?

The tables and figures are of the first seed, as the report's are of one; this judges all of them
together, as `parity.equivalence` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity import equivalence
from parity.criterion import TOLERANCE
from parity.report.build import finite
from parity.report.paired import judge
from parity.report.table import difference, signed
from parity.study.arms import FRAMEWORKS, Study
from parity.study.grid import markdown_table

TITLE = "Over several seeds"


def twins(studies: Mapping[int, Study]) -> list[dict[str, Any]]:
    """Per variant that both frameworks finished from two seeds or more.

    Args:
        studies: by seed.

    Returns:
        `variant`, `seeds`, `verdict` and `metrics`, as in the report of a comparison.
    """
    found = []
    for variant in next(iter(studies.values())):
        both = {
            seed: [study[variant][side] for side in FRAMEWORKS]
            for seed, study in studies.items()
            if FRAMEWORKS.keys() <= study.get(variant, {}).keys()
        }
        if len(both) < 2:
            continue
        histories = [(keras.history, torch.history) for keras, torch in both.values()]
        metrics = judge(histories, TOLERANCE)
        found.append(
            finite(
                {
                    "variant": variant,
                    "seeds": list(both),
                    "verdict": equivalence.overall(each.verdict for each in metrics.values()),
                    "metrics": {metric: each.to_dict() for metric, each in metrics.items()},
                }
            )
        )
    return found


def lines(judged: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: a row per variant and metric."""
    yield (
        "PyTorch less Keras, paired by seed. *pass*: fewer than one seed in ten ends "
        f"{TOLERANCE:g} or more apart, at 5 %; "
        "*noise*: a framework's own standard deviation over seeds (docs/equivalence.md)."
    )
    yield ""
    rows = []
    for each in judged:
        name = f"{each['variant']} ({len(each['seeds'])} seeds)"
        for metric, one in each["metrics"].items():
            low, high = one["interval"]
            verdict = one["verdict"]
            if one["seeds_needed"]:
                verdict += f", {one['seeds_needed']} seeds could decide"
            numbers = [signed(value) for value in (one["mean"], low, high)]
            noise = [difference(one["noise"][side]) for side in ("left", "right")]
            interval = f"{numbers[1]} to {numbers[2]}"
            rows.append([name, metric.replace("_", " "), verdict, numbers[0], interval, *noise])
            name = ""
    heading = ["model", "metric", "verdict", "mean difference", "range"]
    yield from markdown_table([*heading, "noise Keras", "noise PyTorch"], rows, left=3)
