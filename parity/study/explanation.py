"""An explanation on disk: tables for people, numbers for programs, a plot."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.criterion import TOLERANCE
from parity.differences import ALIGNED
from parity.recording import IN_WORDS, write_atomically
from parity.report.build import finite
from parity.report.plotting import FAINT, GRID, INK, STYLE, save
from parity.report.table import FILE_WIDTH
from parity.study.arms import FRAMEWORKS
from parity.study.effects import Effect, Explanation, to_dict
from parity.study.grid import markdown_table

SCHEMA = 1
NAMED = 2  # of the places where sides part
BEYOND, WITHIN = "#b3402a", "#2a6fb3"  # of the plot; the tables say the same in bold


def write(explanation: Explanation, folder: Path, about: Mapping[str, Any]) -> None:
    """Write `explain.md`, `.csv`, `.png`, `.svg` and, last, `.json` into `folder`.

    `about` says what was run (experiment, data, environments); it stands in the JSON, and its
    `sentence` in the page.
    """
    write_atomically(folder / "explain.md", page(explanation, str(about["sentence"])).encode())
    write_atomically(folder / "explain.csv", to_csv(explanation).encode())
    with mpl.rc_context(STYLE):
        figure = plot(explanation)
        save(figure, folder / "explain.png", dpi=150)
        save(figure, folder / "explain.svg", metadata={"Date": None})
    values = finite({"schema": SCHEMA, **to_dict(explanation), **about})
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "explain.json", text.encode())


def page(explanation: Explanation, sentence: str) -> str:
    """The explanation in Markdown."""
    lines = [f"# Which difference matters: {explanation.variant}", "", sentence, ""]
    lines += ["## Where each first shows", ""]
    heading = ["difference", "Keras / PyTorch", "declared", "first in numbers", "starts at"]
    rows = [
        [each.name, each.text, _declared(each), _numbers(each), ", ".join(_some(each.origins))]
        for each in explanation.effects
    ]
    lines += markdown_table(heading, rows, left=5)
    lines += ["", "## PyTorch less Keras", ""]
    lines.append(_legend(explanation))
    lines += ["", *_gaps(explanation), "", "## Each framework against its aligned self", ""]
    lines.append(
        "What both sides do alike leaves no gap between them; here it shows. Means over seeds; "
        "**bold** beyond the noise floor."
    )
    lines += ["", *_changes(explanation), "", "![Gaps of every seed](explain.png)"]
    return "\n".join(lines) + "\n"


def render(explanation: Explanation, console: Console | None = None) -> None:
    """Print the gaps and the level at which each shows; to standard output by default."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    console.print(Text(f"{explanation.variant}: PyTorch less Keras, by difference", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("difference", no_wrap=True)
    table.add_column("shows at")
    for metric in explanation.metrics:
        table.add_column(_short(IN_WORDS[metric]), justify="right", min_width=7)
    table.add_column(f"within {100 * TOLERANCE:g} %", no_wrap=True, min_width=12)
    for each in explanation.effects:
        cells = (_cell(explanation, each.gap(metric), metric) for metric in explanation.metrics)
        shows = each.in_numbers or each.first
        agree = explanation.agree(each) or "-"
        table.add_row(each.name, shows.level if shows else "-", *cells, agree)
    floors = (explanation.floors[metric] for metric in explanation.metrics)
    table.add_section()
    table.add_row("noise floor", "", *("-" if f is None else f"{f:.4f}" for f in floors))
    console.print(table)
    console.print(_legend(explanation).replace("**Bold**", "Red").replace("*", ""))


def _short(name: str) -> str:
    words = {"accuracy": "acc.", "validation": "val.", "out-of-distribution": "OOD"}
    return " ".join(words.get(word, word) for word in name.split())


def to_csv(explanation: Explanation) -> str:
    """One line per number: difference, what, framework, metric, seed, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["difference", "what", "framework", "metric", "seed", "value"])
    for each in explanation.effects:
        sides = [("gap", "torch - keras", each.gaps)]
        sides += [("change", framework, each.changes[framework]) for framework in FRAMEWORKS]
        for what, framework, values in sides:
            for metric in explanation.metrics:
                for seed, value in values[metric].items():
                    writer.writerow([each.name, what, framework, metric, seed, value])
    return text.getvalue()


def plot(explanation: Explanation) -> Figure:
    """A panel per metric, a line per difference, a dot per seed; the noise floor in grey."""
    metrics, effects = explanation.metrics, explanation.effects[::-1]
    figure = Figure(figsize=(2.5 + 2.3 * len(metrics), 1.6 + 0.36 * len(effects)))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        _panel(panel, explanation, effects, metric)
    panels[0].set_yticks(range(len(effects)), [each.name.replace("_", " ") for each in effects])
    figure.suptitle(
        f"{explanation.variant}: PyTorch less Keras after training, by difference", x=0.5, y=0.98
    )
    figure.text(
        0.5,
        0.02,
        "dots: seeds; bars: their mean, red beyond the grey noise floor (what seeds alone do)",
        ha="center",
        color=FAINT,
        size=9,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 0.97))
    return figure


def _panel(panel: Axes, explanation: Explanation, effects: tuple[Effect, ...], metric: str) -> None:
    floor = explanation.floors[metric]
    if floor is not None:
        panel.axvspan(-floor, floor, color=GRID, zorder=0)
    panel.axvline(0, color=FAINT, linewidth=0.8, zorder=1)
    for at, each in enumerate(effects):
        mean = each.gap(metric)
        if mean is not None:
            colour = BEYOND if explanation.beyond(mean, metric) else WITHIN
            panel.barh(at, mean, height=0.5, color=colour, alpha=0.75, zorder=2)
        values = list(each.gaps[metric].values())
        panel.plot(values, [at] * len(values), "o", color=INK, markersize=3.5, zorder=3)
    panel.set_title(IN_WORDS[metric], size=10)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    seen = [floor or 0.0, *(abs(value) for each in effects for value in each.gaps[metric].values())]
    reach = 1.12 * max(seen) or 1.0
    panel.set_xlim(-reach, reach)
    panel.locator_params(axis="x", nbins=4)


def _legend(explanation: Explanation) -> str:
    seeds = ", ".join(map(str, explanation.seeds))
    text = f"Means over seeds {seeds}; losses in nats, accuracies as fractions. "
    if all(floor is None for floor in explanation.floors.values()):
        return text + "One seed gives no noise floor: give more with --seeds."
    return text + (
        "**Bold**: beyond the noise floor, the mean gap that two runs stay below in 95 of 100 "
        "cases where they differ by their seeds alone. *Within 2 %*: equivalent at 5 % in the "
        "criterion's four metrics (docs/equivalence.md)."
    )


def _gaps(explanation: Explanation) -> list[str]:
    names = (IN_WORDS[metric] for metric in explanation.metrics)
    heading = ["difference", *names, f"within {100 * TOLERANCE:g} %"]
    rows = [
        [
            each.name,
            *(_number(explanation, each.gap(m), m) for m in explanation.metrics),
            explanation.agree(each) or "-",
        ]
        for each in explanation.effects
    ]
    floors = (explanation.floors[metric] for metric in explanation.metrics)
    rows.append(["*noise floor*", *("-" if f is None else f"{f:.4f}" for f in floors), ""])
    return markdown_table(heading, rows)


def _changes(explanation: Explanation) -> list[str]:
    heading = ["difference", "framework", *(IN_WORDS[metric] for metric in explanation.metrics)]
    rows = [
        [
            each.name,
            title,
            *(_number(explanation, each.change(side, m), m) for m in explanation.metrics),
        ]
        for each in explanation.effects
        if each.name != ALIGNED
        for side, title in FRAMEWORKS.items()
        if any(any(values.values()) for values in each.changes[side].values())
    ]
    return markdown_table(heading, rows, left=2)


def _cell(explanation: Explanation, value: float | None, metric: str) -> Text:
    beyond = explanation.beyond(value, metric)
    return Text(_number(explanation, value, metric).strip("*"), style="red" if beyond else "")


def _number(explanation: Explanation, value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    # what twins of float64 leave is not nothing, and four decimals would say it were
    text = f"{value:+.4f}" if abs(value) >= 5e-5 or value == 0 else f"{value:+.0e}"
    return f"**{text}**" if explanation.beyond(value, metric) else text


def _declared(effect: Effect) -> str:
    """What the level `structure` says first."""
    first = effect.first
    if first is None or first.level != "structure":
        return "alike"
    return first.detail.split(";")[0]


def _numbers(effect: Effect) -> str:
    found = effect.in_numbers
    if found is None:
        return "nowhere"
    return f"{found.level}, {found.precision}: {found.measured:.2g} at {found.where}"


def _some(names: Sequence[str]) -> list[str]:
    more = len(names) - NAMED
    return [*names[:NAMED], *([f"{more} more"] if more > 0 else [])]
