"""What several seeds say together: the table of the test for equivalence, and a plot per metric."""

from __future__ import annotations

from collections.abc import Sequence

from parity.recording import IN_WORDS
from parity.report import seeds
from parity.report.blocks import Block, Content, Figure, Figures, Section, Table, Text, judged
from parity.report.documents.common import Facts, name_of
from parity.report.inline import COLOURS, SIZE, drawn
from parity.report.table import difference, signed

SEED_COLOURS = seeds.Colours(
    **{"ink": COLOURS["ink"], "faint": COLOURS["soft"], "band": COLOURS["band"]},
    **{"inside": COLOURS["pass"], "outside": COLOURS["fail"], "undecided": COLOURS["abstain"]},
)


def section(pairs: Sequence[Facts]) -> Section:
    """Of pairs as in `equivalence` of `parity.report.paired.combine`, each with its `seeds`."""
    rows: list[list[Content]] = []
    figures = []
    for pair in pairs:
        for metric, found in pair["metrics"].items():
            low, high = found["interval"]
            needed = found["seeds_needed"]
            rows.append(
                [
                    f"{name_of(pair)}: {IN_WORDS.get(metric, metric)}",
                    judged(found["verdict"]),
                    signed(found["mean"]),
                    f"{signed(low)} to {signed(high)}",
                    f"±{found['margin']:g}",
                    "-" if found["p_value"] is None else f"{found['p_value']:.2g}",
                    f"{difference(found['noise']['left'])} / {difference(found['noise']['right'])}",
                    "" if needed is None else str(needed),
                ]
            )
            figures.append(_figure(pair, metric, found, pair["seeds"]))
    columns = ("metric", "verdict", "mean", "range", "margin", "p", "noise left / right")
    paired = Table(
        f"Paired over {seeds_of(pairs)} seeds: right less left",
        (*columns, "seeds that could decide"),
        rows,
        left=2,
        note="Pass: fewer than one seed in ten ends at the margin or beyond it, at 5 %. "
        "Noise: each side's own standard deviation over seeds.",
    )
    errors = [f"{name_of(pair)}: {pair['error']}" for pair in pairs if pair.get("error")]
    blocks: list[Block] = [Text(errors, listed=True)] if errors else []
    blocks += [paired, Figures(figures)] if rows else []
    return Section("Over several seeds", blocks)


def seeds_of(pairs: Sequence[Facts]) -> str:
    """How many: `3`, or `2 to 3` where not all have all."""
    counts = sorted({len(pair["seeds"]) for pair in pairs})
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _figure(pair: Facts, metric: str, found: Facts, labels: Sequence[int]) -> Figure:
    low, high = found["interval"]
    rows = min(len(labels), seeds.MOST_LABELLED)
    return Figure(
        f"{name_of(pair)}: {IN_WORDS.get(metric, metric)}",
        f"{found['verdict']}: mean {signed(found['mean'])}, {signed(low)} to "
        f"{signed(high)}, margin ±{found['margin']:g}. Dots: seeds; diamond and bar: their mean "
        "and range; shaded: the margin.",
        drawn(
            lambda axes: seeds.panel(axes, found, labels, SEED_COLOURS),
            (SIZE[0], 0.8 + 0.16 * rows),
        ),
    )
