"""The 23 figures of the report's appendix, A to W: our curves, the published ones pale behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parity.report.figures import MARKED_EPOCHS, MEASURES, PREFIX
from parity.report.plotting import FAINT, STYLE, dress, save, scale
from parity.study.arms import Arm, Study, arm_of, published_study, title

Model = tuple[str, str]  # variant, framework

# A to J each model, K to O the twins, P to S and T to W each modification against its baseline.
# The grouping is the appendix' own. The order within A to J is inferred: the report's notebook
# "Visualizations", which made the figures, begins with Keras Reference, PyTorch Conversion, Keras
# 10xLR; variants follow in the order of Tables 4 and 5.
FIGURES: dict[str, tuple[Model, ...]] = {
    "A": (("baseline", "keras"),),
    "B": (("baseline", "torch"),),
    "C": (("lr_10x", "keras"),),
    "D": (("lr_10x", "torch"),),
    "E": (("lr_100x", "keras"),),
    "F": (("lr_100x", "torch"),),
    "G": (("additional_layers", "keras"),),
    "H": (("additional_layers", "torch"),),
    "I": (("image_transforms", "keras"),),
    "J": (("image_transforms", "torch"),),
    "K": (("baseline", "keras"), ("baseline", "torch")),
    "L": (("lr_10x", "keras"), ("lr_10x", "torch")),
    "M": (("lr_100x", "keras"), ("lr_100x", "torch")),
    "N": (("additional_layers", "keras"), ("additional_layers", "torch")),
    "O": (("image_transforms", "keras"), ("image_transforms", "torch")),
    "P": (("baseline", "keras"), ("lr_10x", "keras")),
    "Q": (("baseline", "keras"), ("lr_100x", "keras")),
    "R": (("baseline", "keras"), ("additional_layers", "keras")),
    "S": (("baseline", "keras"), ("image_transforms", "keras")),
    "T": (("baseline", "torch"), ("lr_10x", "torch")),
    "U": (("baseline", "torch"), ("lr_100x", "torch")),
    "V": (("baseline", "torch"), ("additional_layers", "torch")),
    "W": (("baseline", "torch"), ("image_transforms", "torch")),
}

# The two hues of a panel, as in parity.report.figures: pale and broad for the published curve,
# dark and thin for ours upon it.
PALE = ("#c3def3", "#fddcae")
DARK = ("#08457e", "#a63c00")
TOP, BOTTOM, PANEL, GAP = 0.75, 1.1, 2.5, 0.45  # inches; fixed margins draw faster than a layout


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Write `A.png`, `A.svg` to `W.svg` into `folder`; equal studies give equal files."""
    return [path for letter in FIGURES for path in write_figure(letter, study, folder)]


def write_figure(letter: str, study: Study, folder: Path) -> list[Path]:
    """Write one figure as PNG and SVG."""
    with matplotlib.rc_context(STYLE):
        figure = draw(letter, study, published_study())
        return [
            save(figure, folder / f"{letter}.png", dpi=110, metadata={"Software": None}),
            save(figure, folder / f"{letter}.svg", metadata={"Date": None, "Creator": None}),
        ]


def heading(letter: str) -> str:
    """What the figure shows: one model's curves, or two models against each other.

    >>> heading("B"), heading("L")
    ('PyTorch Conversion', 'Keras 10xLR against PyTorch 10xLR')
    """
    return " against ".join(title(*model) for model in FIGURES[letter])


def caption(letter: str, study: Study, published: Study) -> str:
    """How to read the figure, and which curves it has to do without."""
    parts = ["Thin and dark: ours; broad and pale: as published."]
    for model in FIGURES[letter]:
        ours, theirs = arm_of(study, *model), arm_of(published, *model)
        if ours is None:
            parts.append(f"{title(*model)} was not run here.")
        elif ours.error:
            parts.append(f"{title(*model)} did not finish: {ours.error.splitlines()[0]}.")
        if theirs is None:
            parts.append(f"No curve of {title(*model)} was published.")
    return " ".join(parts)


def draw(letter: str, study: Study, published: Study) -> Figure:
    """One figure: loss on the left, accuracy on the right.

    One model: training and validation in one row. Two models: a row for each of these.
    """
    models = FIGURES[letter]
    rows = [tuple(PREFIX)] if len(models) == 1 else [(part,) for part in PREFIX]
    height = TOP + BOTTOM + len(rows) * PANEL + (len(rows) - 1) * GAP
    figure = Figure(figsize=(10, height))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(MEASURES), sharex=True, sharey="col", squeeze=False)
    figure.subplots_adjust(
        left=0.075, right=0.985, top=1 - TOP / height, bottom=BOTTOM / height, hspace=GAP / PANEL
    )
    for measure, column in zip(MEASURES, panels.T, strict=True):
        drawn: list[float] = []
        for parts, axes in zip(rows, column, strict=True):
            for values, style in _curves(models, parts, measure, study, published):
                axes.plot(range(1, len(values) + 1), values, **style)
                drawn += values
            if len(models) > 1:
                axes.set_title(parts[0], loc="left", fontsize=10)
        label = MEASURES[measure] + scale(column[0], measure, drawn)  # one scale for both rows
        for axes in column:
            axes.set_ylabel(label)
            dress(axes)
        column[-1].set_xlabel("epoch")
    x, above = 0.014, 1 - 0.3 / height
    figure.text(x, above, f"{letter}   {heading(letter)}", fontsize=13, weight="bold", va="center")
    figure.text(x, 0.12 / height, caption(letter, study, published), fontsize=8.5, color=FAINT)
    names = [title(*model) for model in models] if len(models) > 1 else list(PREFIX)
    figure.legend(
        _legend(len(names)),
        names,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.3 / height),
        ncols=len(names),
        handlelength=3,
        frameon=False,
    )
    return figure


def _curves(
    models: Sequence[Model], parts: Sequence[str], measure: str, study: Study, published: Study
) -> Iterator[tuple[list[float], dict[str, Any]]]:
    """Values and style of each line of a panel, the published ones first: they lie below."""
    lines = [(model, PREFIX[part] + measure) for model in models for part in parts]
    for side, style in ((published, _published), (study, _ours)):
        for hue, (model, metric) in enumerate(lines):
            values = _values(arm_of(side, *model), metric)
            yield values, style(hue, len(values))


def _values(arm: Arm | None, metric: str) -> list[float]:
    values = [] if arm is None else arm.history.get(metric, ())
    return [math.nan if value is None else float(value) for value in values]


def _published(hue: int, epochs: int) -> dict[str, Any]:
    dot = "o" if epochs == 1 else ""  # a single epoch is visible by its marker alone
    return {"color": PALE[hue], "linewidth": 6, "solid_capstyle": "round", "marker": dot}


def _ours(hue: int, epochs: int) -> dict[str, Any]:
    dot = "o" if epochs <= MARKED_EPOCHS else ""
    dashes = ("-", (0, (3, 3)))[hue]  # where twins coincide, the first shows through the second
    return {
        "color": DARK[hue],
        "linewidth": 1.6,
        "linestyle": dashes,
        "marker": dot,
        "markersize": (4.5, 2.5)[hue],
    }


def _legend(hues: int) -> list[Any]:
    """A sample per hue: our line upon the published one, pairs that matplotlib's types lack."""
    return [
        (Line2D([], [], **_published(hue, 2)), Line2D([], [], **_ours(hue, 1)))
        for hue in range(hues)
    ]
