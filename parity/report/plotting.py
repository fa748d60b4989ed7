"""What all plots have in common: colours, axes, limits, files that repeat to the byte."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from parity.recording import write_atomically

INK, FAINT, GRID = "#333333", "#707070", "#e6e6e6"
LOG_FROM = 5.0  # an untrained network has 0.7; beyond this a linear axis flattens all the rest
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "parity",  # else the ids inside the SVG differ from run to run
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def dress(axes: Axes) -> None:
    """A quiet frame, and ticks at whole epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def scale(axes: Axes, measure: str, values: Sequence[float]) -> str:
    """Limits that leave room for the broad lines. Returns what the label must say of the scale.

    Losses far beyond an untrained network's go on a logarithm.
    """
    finite = [value for value in values if math.isfinite(value)]
    if measure == "accuracy":
        axes.set_ylim(min(finite, default=0.0) - 0.04, 1.03)
    elif max(finite, default=0.0) > LOG_FROM:
        axes.set_yscale("log")
        return ", logarithmic"
    else:
        top = max(finite, default=0.0) or 1.0
        axes.set_ylim(-0.04 * top, 1.07 * top)
    return ""


def save(figure: Figure, path: Path, **options: Any) -> Path:
    """Write a figure whole or not at all, in the format that the path's suffix names."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], **options)
    write_atomically(path, content.getvalue())
    return path
