"""A result as Markdown: per part what was to be reached, then what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.measure import RATIO, Figure

BUSY = 0.5  # load average from which on others are at work


def markdown(result: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """`result` as `benchmarks.run` writes it; `titles` of its parts."""
    lines = ["# Benchmarks", "", *_machine(result), ""]
    for name, part in result["parts"].items():
        figures = [Figure.from_dict(each) for each in part["figures"]]
        judged = [each for each in figures if each.limit is not None or each.unit == RATIO]
        measured = [each for each in figures if each not in judged]
        lines += [f"## {titles[name]}", ""]
        if judged:
            lines += ["| | median (quartiles) | times | to reach | |", "|---|---:|---:|---:|---|"]
            lines += [_judged(each) for each in judged] + [""]
        if measured:
            lines += ["| | unit | median (quartiles) | least to most | times |"]
            lines += ["|---|---|---:|---:|---:|"] + [_measured(each) for each in measured] + [""]
        lines += [f"- {note}" for note in part["notes"]] + [""] * bool(part["notes"])
    return "\n".join(lines)


def section(result: Mapping[str, Any]) -> str:
    """What a README says of a whole run: the largest batch, and what was missed."""
    named = {
        name: {each["name"]: Figure.from_dict(each) for each in part["figures"]}
        for name, part in result["parts"].items()
    }
    steps, data, starts = named["training_step"], named["data"], named["startup"]
    size = f", batch {max(result['shape']['batch_sizes'])}"
    ratios = [name for name in steps if name.endswith(size) and steps[name].unit == RATIO]
    peak = ", peak memory"
    ways = [name.removesuffix(peak) for name in steps if name.endswith(peak)]
    lines = [*_machine(result), ""]
    lines += [f"| ours / theirs{size} | training step | evaluation |", "|---|---:|---:|"]
    for name in ratios:
        cells = (_spread(named[part][name]) for part in ("training_step", "evaluation"))
        lines.append(f"| {name.removesuffix(size)} | {' | '.join(cells)} |")
    lines += ["", f"| s{size} | training step | evaluation | peak memory, GB |"]
    lines += ["|---|---:|---:|---:|"]
    for way in ways:
        both = (named[part][f"{way}{size}"] for part in ("training_step", "evaluation"))
        seconds = " | ".join(f"{each.median / 1e3:.2f}" for each in both)
        lines.append(f"| {way} | {seconds} | {steps[f'{way}{peak}'].median:.2f} |")
    first, last = result["shape"]["growth"][0], result["shape"]["growth"][-1]
    slowest = max(each.median for name, each in starts.items() if name.endswith("--help"))
    lines += [
        "",
        f"Images are decoded, resized and hashed at {_of(data, 'prepared, empty cache')} per "
        f"second, {_of(data, 'prepared / decoding, resizing, hashing in Pillow')} of plain Pillow "
        f"in a process per core and {_of(data, 'prepared / Pillow decoding alone')} of its "
        f"decoding alone; read back and checked at {_of(data, 'prepared, filled cache')}. From "
        f"{first:,} to {last:,} images time grows with the power "
        f"{_of(data, 'growth of time, empty cache')} of their number, memory by "
        f"{_of(data, 'growth of memory, empty cache')} bytes an image. Every command answers "
        f"`--help` within {slowest:.2f} s.",
    ]
    return "\n".join(lines)


def _of(figures: Mapping[str, Figure], name: str) -> str:
    value = figures[name].median
    return number(value) if abs(value) >= 100 else f"{value:.2f}"


def missed(result: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    """What was not reached: part and figure."""
    return [
        (name, figure)
        for name, part in result["parts"].items()
        for figure in map(Figure.from_dict, part["figures"])
        if figure.reached is False
    ]


def _machine(result: Mapping[str, Any]) -> list[str]:
    at, shape, step = result["environment"], result["shape"], result["experiment"]
    versions = ", ".join(f"{each} {at[each]}" for each in ("tensorflow", "keras", "torch"))
    lines = [
        f"{at['processor']}, {at['cores']} cores, {at['memory_bytes'] / 1e9:.0f} GB, Python "
        f"{at['python']}, {versions}, Pillow {at['pillow']}. Shape `{shape['name']}`: "
        f"{step['image_size']}x{step['image_size']}x3, padding 0, filters x {step['width']:g}, "
        f"{step['precision']}, data {step['data']}; {result['seconds'] / 60:.1f} minutes.",
        "",
        "Ratios are medians over turns taken one after the other, ours / theirs.",
    ]
    known = [figure for part in result["parts"].values() for figure in part["figures"]]
    asked = sum(figure["limit"] is not None for figure in known)
    lines += ["", f"{asked - len(missed(result))} of {asked} reached."]
    for name, figure in missed(result):
        lines.append(f"- missed in {name}: {figure.name}")
    if shape["name"] == "quick":
        lines += ["", "**The quick shape shows that all of it runs: its figures say nothing.**"]
    if at["load_average_before"] > BUSY:
        lines += [
            "",
            f"**The machine was shared** (load average {at['load_average_before']:.1f} before this "
            "began): times swing, and ratios of steps that wait for each other's threads do too.",
        ]
    return lines


def _judged(figure: Figure) -> str:
    unit = "" if figure.unit == RATIO else f" {figure.unit}"
    sign = "at least" if figure.more_is_better else "at most"
    limit = "" if figure.limit is None else f"{sign} {figure.limit:,g}{unit}"
    verdict = {True: "reached", False: "**missed**", None: ""}[figure.reached]
    return f"| {figure.name} | {_spread(figure)} | {len(figure.values)} | {limit} | {verdict} |"


def _measured(figure: Figure) -> str:
    ends = f"{number(min(figure.values))} to {number(max(figure.values))}"
    return f"| {figure.name} | {figure.unit} | {_spread(figure)} | {ends} | {len(figure.values)} |"


def _spread(figure: Figure) -> str:
    if len(figure.values) == 1:
        return number(figure.median)
    lower, upper = figure.quartiles
    return f"{number(figure.median)} ({number(lower)} to {number(upper)})"


def number(value: float) -> str:
    """Four digits, or three below 100."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
