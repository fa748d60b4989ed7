"""The curves: Keras and PyTorch over each other, one row of panels per padding."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from parity.recording import write_atomically

# Two hues that colour-blind readers tell apart (Okabe and Ito), each pale for the broad Keras line
# and dark for the thin PyTorch line on it: both stay visible where the curves coincide.
PALE = {"training": "#9ecae9", "validation": "#fbc98a"}
DARK = {"training": "#08457e", "validation": "#a63c00"}
PREFIX = {"training": "", "validation": "val_"}
MEASURES = {"loss": "loss (nats)", "accuracy": "accuracy"}
INK, GRID = "#333333", "#e6e6e6"
LOG_FROM = 5.0  # an untrained network has 0.7; beyond this a linear axis flattens all the rest
MARKED_EPOCHS = 20  # more than this many markers hide the line


def curves(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `curves.png` and `curves.svg` into `folder`; equal reports give equal files.

    Epochs without a number (a loss that diverged) are gaps. Returns the paths, none where no arm
    has finished an epoch.
    """
    if not any(arm["history"]["loss"] for arm in report["arms"]):
        return []
    style = {
        "svg.hashsalt": "parity",  # else the ids inside the SVG differ from run to run
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(style):
        figure = draw(report)
        return [
            _save(figure, folder / "curves.png", dpi=150),
            _save(figure, folder / "curves.svg", metadata={"Date": None}),
        ]


def draw(report: Mapping[str, Any]) -> Figure:
    """The figure itself: loss on the left, accuracy on the right, a row per padding."""
    paddings = sorted({arm["padding"] for arm in report["arms"]})
    figure = Figure(figsize=(10, 1.6 + 2.9 * len(paddings)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1, hspace=0.04)
    panels = figure.subplots(len(paddings), len(MEASURES), sharex=True, squeeze=False)
    for row, padding in zip(panels, paddings, strict=True):
        arms = [arm for arm in report["arms"] if arm["padding"] == padding]
        for axes, measure in zip(row, MEASURES, strict=True):
            _panel(axes, arms, measure)
            axes.set_title(_title(report, padding, measure), loc="left", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    experiment = report["experiment"]
    figure.suptitle(
        f"{experiment['variant']}, seed {experiment['seed']}: {report['verdict']}",
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axes: Axes, arms: Sequence[Mapping[str, Any]], measure: str) -> None:
    finite = []
    for arm in sorted(arms, key=lambda arm: str(arm["framework"])):  # keras below torch
        for part, prefix in PREFIX.items():
            values = [
                math.nan if value is None else value for value in arm["history"][prefix + measure]
            ]
            finite += [value for value in values if math.isfinite(value)]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, **_line(arm["framework"], part, len(values)))
    axes.set_ylabel(MEASURES[measure])
    if measure == "loss" and max(finite, default=0) > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylabel(f"{MEASURES[measure]}, logarithmic")
    elif measure == "loss":
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(top=1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")


def _line(framework: str, part: str, epochs: int) -> dict[str, Any]:
    marked = epochs <= MARKED_EPOCHS  # a single epoch is visible by its marker alone
    if framework == "keras":
        return {
            "color": PALE[part],
            "linewidth": 6,
            "solid_capstyle": "round",
            "marker": "o" if marked else "",
            "markersize": 9,
            "zorder": 2,
        }
    return {
        "color": DARK[part],
        "linewidth": 1.5,
        "linestyle": (0, (4, 2)),
        "marker": "o" if marked else "",
        "markersize": 3.5,
        "zorder": 3,
    }


def _title(report: Mapping[str, Any], padding: int, measure: str) -> str:
    """`padding 0` and, where the pair was judged, how far apart the last epochs are."""
    for pair in report["pairs"]:
        ours = pair["left"].endswith(f"-p{padding}") and pair["right"].endswith(f"-p{padding}")
        if ours and pair["criterion"]:
            apart = [
                "not finite" if judged["difference"] is None else f"{judged['difference']:.2g}"
                for judged in (pair["criterion"][prefix + measure] for prefix in PREFIX.values())
            ]
            return (
                f"padding {padding}, apart in the last epoch: "
                f"training {apart[0]}, validation {apart[1]}"
            )
    return f"padding {padding}"


def _legend() -> list[Line2D]:
    """Four samples, drawn as in the panels."""
    return [
        Line2D([], [], label=f"{name}, {part}", **_line(framework, part, 1))
        for part in PREFIX
        for framework, name in (("keras", "Keras"), ("torch", "PyTorch"))
    ]


def _save(figure: Figure, path: Path, **options: Any) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], **options)
    write_atomically(path, content.getvalue())
    return path
