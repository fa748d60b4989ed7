"""The curves: Keras and PyTorch over each other, one row of panels per padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from parity.report.plotting import FAINT, STYLE, dress, save, scale

# Two hues that colour-blind readers tell apart, each pale for the broad Keras line and dark for the
# thin PyTorch line on it. All four stay visible where they coincide: the validation line is the
# narrower one, and its dashes fall into the gaps of the training line's.
PALE = {"training": "#9ecae9", "validation": "#fdc57f"}
DARK = {"training": "#08457e", "validation": "#a63c00"}
BREADTH = {"training": 9, "validation": 4.5}  # points
DASHES = {"training": (0, (4, 4)), "validation": (4, (4, 4))}
PREFIX = {"training": "", "validation": "val_"}
MEASURES = {"loss": "loss (nats)", "accuracy": "accuracy"}
MARKED_EPOCHS = 20  # more than this many markers hide the line


def curves(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `curves.png` and `curves.svg` into `folder`; equal reports give equal files.

    Epochs without a number (a loss that diverged) are gaps. Returns the paths, none where no arm
    has finished an epoch.
    """
    if not any(arm["history"]["loss"] for arm in report["arms"]):
        return []
    with matplotlib.rc_context(STYLE):
        figure = draw(report)
        return [
            save(figure, folder / "curves.png", dpi=150),
            save(figure, folder / "curves.svg", metadata={"Date": None}),
        ]


def draw(report: Mapping[str, Any]) -> Figure:
    """The figure itself: loss on the left, accuracy on the right, a row per padding."""
    paddings = sorted({arm["padding"] for arm in report["arms"]})
    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1, hspace=0.04)
    figure = Figure(figsize=(10, 1.6 + 2.9 * len(paddings)), layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(paddings), len(MEASURES), sharex=True, sharey="col", squeeze=False)
    for row, padding in zip(panels, paddings, strict=True):
        arms = [arm for arm in report["arms"] if arm["padding"] == padding]
        for axes, measure in zip(row, MEASURES, strict=True):
            _panel(axes, arms, measure)
            axes.set_title(f"padding {padding}", loc="left", fontsize=10, fontweight="bold")
            apart = _apart(report, padding, measure)
            axes.set_title(apart, loc="right", fontsize=8.5, color=FAINT)
    for measure, column in zip(MEASURES, panels.T, strict=True):
        names = [prefix + measure for prefix in PREFIX.values()]
        drawn = [value for arm in report["arms"] for name in names for value in _values(arm, name)]
        label = MEASURES[measure] + scale(column[0], measure, drawn)  # one axis for all rows
        for axes in column:
            axes.set_ylabel(label)
        column[-1].set_xlabel("epoch")
    experiment = report["experiment"]
    figure.suptitle(
        f"{experiment['variant']}, seed {experiment['seed']}: {report['verdict']} "
        f"(tolerance {report['tolerance']:g})",
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.legend(
        handles=_legend(), loc="outside lower center", ncols=4, frameon=False, handlelength=3
    )
    return figure


def _panel(axes: Axes, arms: Sequence[Mapping[str, Any]], measure: str) -> None:
    for arm in arms:
        for part, prefix in PREFIX.items():
            values = _values(arm, prefix + measure)
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, **_line(arm["framework"], part, len(values)))
    dress(axes)


def _values(arm: Mapping[str, Any], metric: str) -> list[float]:
    return [math.nan if value is None else value for value in arm["history"][metric]]


def _line(framework: str, part: str, epochs: int) -> dict[str, Any]:
    marked = epochs <= MARKED_EPOCHS  # a single epoch is visible by its marker alone
    if framework == "keras":
        return {
            "color": PALE[part],
            "linewidth": BREADTH[part],
            "solid_capstyle": "round",
            "marker": "o" if marked else "",
            "markersize": BREADTH[part] + 2,
            "zorder": 2,  # below every PyTorch line
        }
    return {
        "color": DARK[part],
        "linewidth": 1.5,
        "linestyle": DASHES[part],
        "marker": "o" if marked else "",
        "markersize": 3.5,
        "zorder": 3,
    }


def _apart(report: Mapping[str, Any], padding: int, measure: str) -> str:
    """How far apart the two arms are after the last epoch, or which of them did not finish."""
    for pair in report["pairs"]:
        ours = pair["left"].endswith(f"-p{padding}") and pair["right"].endswith(f"-p{padding}")
        if ours and pair["criterion"]:
            differences = [
                f"{part} {_amount(pair['criterion'][prefix + measure]['difference'])}"
                for part, prefix in PREFIX.items()
            ]
            return f"final difference: {', '.join(differences)}"
    failed = [a["id"] for a in report["arms"] if a["error"] and a["padding"] == padding]
    return f"did not finish: {', '.join(failed)}" if failed else ""


def _amount(difference: float | None) -> str:
    return "not finite" if difference is None else f"{difference:.2g}"


def _legend() -> list[Line2D]:
    """Four samples, drawn as in the panels but with whole dashes."""
    samples = []
    for part in PREFIX:
        dashed = {**_line("torch", part, 1), "linestyle": DASHES["training"]}
        samples += [
            Line2D([], [], label=f"Keras, {part}", **_line("keras", part, 1)),
            Line2D([], [], label=f"PyTorch, {part}", **dashed),
        ]
    return samples
