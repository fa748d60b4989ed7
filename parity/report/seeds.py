"""Several seeds: every seed's difference, their mean and range, and the margin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parity.recording import IN_WORDS
from parity.report.plotting import FAINT, INK, STYLE, save

MOST_LABELLED = 12  # seeds; of more, every other label is left out, and so on


@dataclass(frozen=True)
class Colours:
    """What the parts of a panel are drawn in."""

    ink: str = INK
    faint: str = FAINT
    band: str = "#dcebdc"
    inside: str = "#0b6b3a"
    outside: str = "#a3161b"
    undecided: str = "#8a5a00"

    def of(self, verdict: str) -> str:
        return {"pass": self.inside, "fail": self.outside}.get(verdict, self.undecided)


def seeds(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `seeds.png` and `seeds.svg` into `folder`: a row per pair, a panel per metric.

    `report` is report.json of several seeds. Equal reports give equal files. Returns the paths,
    none where no pair could be judged.
    """
    if not any(pair["metrics"] for pair in report["equivalence"]):
        return []
    with matplotlib.rc_context(STYLE):
        figure = draw(report)
        return [
            save(figure, folder / "seeds.png", dpi=150),
            save(figure, folder / "seeds.svg", metadata={"Date": None}),
        ]


def draw(report: Mapping[str, Any]) -> Figure:
    """The figure itself."""
    pairs = [pair for pair in report["equivalence"] if pair["metrics"]]
    columns = max(len(pair["metrics"]) for pair in pairs)
    height = (1.0 + 0.2 * min(len(report["seeds"]), MOST_LABELLED)) * len(pairs)
    figure = Figure(figsize=(3.1 * columns, 1.1 + height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(pairs), columns, squeeze=False)
    for row, pair in zip(panels, pairs, strict=True):
        for axes, (metric, found) in zip(row, pair["metrics"].items(), strict=True):
            panel(axes, found, report["seeds"], Colours())
            axes.set_title(IN_WORDS.get(metric, metric), loc="left", fontsize=10)
        row[0].set_ylabel(f"{pair['left']}\n{pair['right']}", fontsize=9)
    figure.suptitle(
        f"{report['experiment']['variant']}, {len(report['seeds'])} seeds: {report['verdict']}",
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.supxlabel(
        "right less left. Dots: seeds; bar: their mean and range; shaded: the margin",
        fontsize=8.5,
        color=FAINT,
    )
    return figure


def panel(axes: Axes, found: Mapping[str, Any], labels: Sequence[int], colours: Colours) -> None:
    """One metric: a dot per seed, the first on top, and at the bottom the mean."""
    margin, apart = found["margin"], list(differences(found))
    low, high, mean = map(_number, (*found["interval"], found["mean"]))
    colour = colours.of(found["verdict"])
    axes.axvspan(-margin, margin, color=colours.band, linewidth=0, zorder=0)
    axes.axvline(0, color=colours.faint, linewidth=0.8, zorder=1)
    rows = range(len(apart), 0, -1)
    axes.plot(apart, rows, "o", color=colours.ink, markersize=3.5, zorder=3)
    axes.plot([low, high], [0, 0], color=colour, linewidth=3, solid_capstyle="butt", zorder=3)
    axes.plot([mean], [0], "D", color=colour, markersize=6, zorder=4)
    step = -(-len(apart) // MOST_LABELLED)
    shown = [*list(zip(rows, labels, strict=True))[::step], (0, "mean")]
    axes.set_yticks([at for at, _ in shown], [str(label) for _, label in shown], fontsize=8)
    axes.set_ylim(-0.8, len(apart) + 0.8)
    seen = (abs(value) for value in (margin, low, high, *apart) if math.isfinite(value))
    reach = 1.15 * (max(seen) or 1.0)
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def differences(found: Mapping[str, Any]) -> Iterator[float]:
    """Of each seed, right less left; NaN where a side has no number."""
    for left, right in zip(found["left"], found["right"], strict=True):
        yield _number(right) - _number(left)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
