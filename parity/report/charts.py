"""The page's charts: curves, differences by step, seeds, gaps. Each is one small drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from parity.ladder.tolerances import EPS, FLOOR_FACTOR
from parity.report.blocks import Figure
from parity.report.figures import BREADTH, DASHES, MARKED_EPOCHS, MEASURES, PREFIX
from parity.report.inline import COLOURS, SIZE, drawn
from parity.report.plotting import scale
from parity.report.table import difference, number

Facts = Mapping[str, Any]


def curves(left: Facts, right: Facts, measure: str) -> Figure:
    """Loss or accuracy by epoch, training and validation, of both arms over each other."""

    def draw(axes: Axes) -> None:
        values: list[float] = []
        for arm, side in ((left, "keras"), (right, "torch")):
            for part, prefix in PREFIX.items():
                curve = _numbers(arm["history"][prefix + measure])
                values += curve.tolist()
                axes.plot(range(1, len(curve) + 1), curve, **_line(side, part, len(curve)))
        axes.set(xlabel="epoch", ylabel=MEASURES[measure] + scale(axes, measure, values))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    ends = [
        f"{part} {_last(left, prefix + measure)} against {_last(right, prefix + measure)}"
        for part, prefix in PREFIX.items()
    ]
    caption = f"After the last epoch: {', '.join(ends)}."
    return Figure(f"{measure.capitalize()} of {_names(left, right)}", caption, drawn(draw))


def steps(left: Facts, right: Facts, precision: str, ladder: Facts | None = None) -> Figure | None:
    """How far apart the losses of every training step are, on a logarithmic axis.

    Below: the rounding of the loss itself, one unit in the last place; the noise floor that the
    ladder measured in float32; its tolerance, where it has one.
    """
    ours, theirs = (_numbers(arm["steps"]["loss"]) for arm in (left, right))
    count = min(len(ours), len(theirs))
    if not count:
        return None
    ours, theirs = ours[:count], theirs[:count]
    at, apart = np.arange(1, count + 1), np.abs(ours - theirs)
    rounding = EPS[precision] * np.maximum(np.abs(ours), np.finfo(float).tiny)
    lines = _limits(ladder, precision)
    seen = [*apart[apart > 0], *rounding[np.isfinite(rounding)]]
    bottom = 10 ** math.floor(math.log10(min(seen, default=1e-16)) - 0.3)

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.fill_between(at, bottom, rounding, color=COLOURS["band"], linewidth=0)
        axes.plot(at, np.where(apart > 0, apart, math.nan), ".", color=COLOURS["training-torch"],
                  markersize=5 if count < 200 else 3)  # fmt: skip
        equal = at[apart == 0]
        axes.plot(equal, [bottom] * len(equal), "|", color=COLOURS["pass"], markersize=7,
                  clip_on=False)  # fmt: skip
        for label, value in lines.items():
            axes.axhline(value, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(label, (count, value), textcoords="offset points", xytext=(0, 3),
                          ha="right", fontsize=8, color=COLOURS["soft"])  # fmt: skip
        top = max([*seen, *lines.values()], default=1.0)
        axes.set_ylim(bottom, 10 ** (math.log10(top) + 0.7))
        axes.set(xlabel="training step", ylabel="loss apart (nats)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    return Figure(
        f"Loss of {_names(left, right)}, step by step",
        _steps_in_words(apart, lines),
        drawn(draw),
    )


def gaps(rows: Sequence[tuple[str, Sequence[float], bool]], floor: float | None, name: str) -> str:
    """A line per difference: its seeds as dots, their mean as a bar, the noise floor behind."""

    def draw(axes: Axes) -> None:
        if floor is not None:
            axes.axvspan(-floor, floor, color=COLOURS["band"], linewidth=0)
        axes.axvline(0, color=COLOURS["soft"], linewidth=0.8)
        for at, (_, values, beyond) in enumerate(rows[::-1]):
            if values:
                colour = COLOURS["fail" if beyond else "training-keras"]
                axes.barh(at, float(np.mean(values)), height=0.5, color=colour)
                axes.plot(values, [at] * len(values), "o", color=COLOURS["ink"], markersize=3)
        axes.set_yticks(range(len(rows)), [label.replace("_", " ") for label, *_ in rows[::-1]])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(name)

    return drawn(draw, (SIZE[0], 0.9 + 0.24 * len(rows)))


def _limits(ladder: Facts | None, precision: str) -> dict[str, float]:
    """The tolerance of the ladder for the losses of this training, and the floor it came from."""
    for each in (ladder or {}).get("tensors", ()):
        if (each["name"], each["precision"]) == ("loss by step", precision) and each["tolerance"]:
            found = {"tolerance": each["tolerance"]}
            if each["reason"].startswith("floor"):
                found["noise floor"] = each["tolerance"] / FLOOR_FACTOR
            return found
    return {}


def _steps_in_words(apart: np.ndarray, lines: Mapping[str, float]) -> str:
    finite = apart[np.isfinite(apart)]
    if not finite.size:
        return "No step has a number on both sides."
    worst = int(np.nanargmax(apart))
    equal = int((apart == 0).sum())
    words = [f"Largest difference {difference(float(apart[worst]))} at step {worst + 1}"]
    words.append(f"{equal:,} of {len(apart):,} steps equal to the bit (green ticks)")
    words += [f"{label} {difference(value)}" for label, value in lines.items()]
    return "; ".join(words) + ". Grey below: the rounding of the loss, one unit in its last place."


def _line(side: str, part: str, epochs: int) -> dict[str, Any]:
    """As in curves.png: Keras broad and pale, PyTorch thin and dashed upon it."""
    marker = "o" if epochs <= MARKED_EPOCHS else ""
    colour = COLOURS[f"{part}-{side}"]
    if side == "keras":
        breadth = BREADTH[part] * 0.75
        style: dict[str, Any] = {"linewidth": breadth, "solid_capstyle": "round"}
        return {**style, "color": colour, "marker": marker, "markersize": breadth + 1.5}
    style = {"linewidth": 1.4, "linestyle": DASHES[part]}
    return {**style, "color": colour, "marker": marker, "markersize": 3, "zorder": 3}


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _last(arm: Facts, metric: str) -> str:
    values = arm["history"][metric]
    return number(values[-1] if values else None)


def _names(left: Facts, right: Facts) -> str:
    return f"{left['id']} and {right['id']}"
