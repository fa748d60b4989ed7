"""A ladder report as text: where a difference starts, then the levels, then what needs words."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.ladder.measure import ABSTAIN, FAIL, PASS
from parity.ladder.mismatches import FOLLOWING, SEVERE
from parity.ladder.results import (
    CARRIED,
    ORIGIN,
    UNDECIDED,
    LadderReport,
    LevelResult,
    Origin,
    listed,
)
from shared_data.errors import printable

FILE_WIDTH = 100  # columns where the output is no terminal
SHOWN = 6  # origins and mismatches that are written out
COLOURS = {
    "pass": "bold green",
    "fail": "bold red",
    "abstain": "yellow",
    "error": "bold magenta",
    "origin": "bold red",
    "undecided": "yellow",
    "carried": "dim",
}
Part = Text | Table


def render(report: LadderReport, console: Console | None = None) -> None:
    """Print the report; to standard output, unless a console is given."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    for part in _parts(report):
        console.print(part)


def sentence(report: LadderReport) -> str:
    """The verdict in plain words."""
    pair = f"{report.left} and {report.right}"
    failure = report.first_failure
    if report.error:
        return f"ERROR: {pair} cannot be compared: {report.error}"
    if failure:
        at = f"{failure.level} {failure.precision or ''}".strip()
        return f"FAIL: {pair} part at {at}."
    passed = [result for result in report.levels if result.verdict == PASS]
    undecided = _named(result for result in report.levels if result.verdict == ABSTAIN)
    more = f" Undecided: {', '.join(undecided)}." if undecided else ""
    if not passed:
        return f"ABSTAIN: nothing could be decided of {pair}."
    agree = f"{pair} agree at {', '.join(_named(passed))}."
    if report.verdict == PASS:
        return f"PASS: {agree}{more}"
    return f"ABSTAIN: {agree} A pass needs {listed(report.lacking)} as well."


def _parts(report: LadderReport) -> Iterator[Part]:
    yield Text(printable(sentence(report)), style=COLOURS[report.verdict])
    if report.error:
        return
    if report.origins or report.semantics:
        yield from (Text(), _causes(report))
    yield from (Text(), _levels(report))
    yield from _details(report)


def _causes(report: LadderReport) -> Table:
    """Where it starts, what only carries it, and what else is declared differently."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    remedies: list[str] = []
    for status in (ORIGIN, UNDECIDED):
        alike = _alike([each for each in report.origins if each.status == status])
        for origin, *like in alike[:SHOWN]:
            at = f" ({origin.level}{', ' + origin.precision if origin.precision else ''})"
            rest = printable(origin.sentence.removeprefix(origin.where))
            rest += f"; likewise {printable(listed(o.where for o in like))}" if like else ""
            line = Text.assemble((printable(origin.where), "bold"), rest, (at, "dim"))
            grid.add_row(Text(status, style=COLOURS[status]), line)
            remedies += origin.remedies
        if more := [origin.where for group in alike[SHOWN:] for origin in group]:
            grid.add_row(Text(status, style=COLOURS[status]), f"also {printable(listed(more))}")
    carried = [each.where for each in report.origins if each.status == CARRIED]
    if carried:
        names = printable(listed(carried))
        grid.add_row(Text("carried", style="dim"), Text(f"only passed on by {names}", style="dim"))
    said = {cause for origin in report.origins for cause in origin.causes}
    others = [m for m in report.semantics if m.severity == SEVERE and m.text not in said]
    shown = [m for m in others if m.key not in FOLLOWING][:SHOWN]
    for mismatch in shown:
        line = Text.assemble((printable(mismatch.where), "bold"), printable(f": {mismatch.text}"))
        grid.add_row(Text("differs", style="yellow"), line)
        remedies.append(mismatch.remedy)
    if len(others) > len(shown):
        grid.add_row(Text("differs", style="yellow"), f"and {len(others) - len(shown)} more")
    for remedy in dict.fromkeys(remedies):
        grid.add_row(Text("remedy", style="cyan"), Text(printable(remedy)))
    return grid


def _alike(origins: list[Origin]) -> list[list[Origin]]:
    """Origins of one cause, side by side."""
    groups: dict[object, list[Origin]] = {}
    for origin in origins:
        key = (origin.level, origin.causes) if origin.causes else origin.where
        groups.setdefault(key, []).append(origin)
    return list(groups.values())


def _levels(report: LadderReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("level", "in", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("apart", "allowed", "headroom"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for result in report.levels:
        table.add_row(
            result.level,
            result.precision or "",
            Text(result.verdict, style=COLOURS[result.verdict]),
            _number(result.measured),
            _number(result.tolerance),
            _headroom(result),
            Text(printable(result.where)),
        )
    return table


def _details(report: LadderReport) -> Iterator[Part]:
    """In words: the first level that failed, and everything undecided."""
    first = report.first_failure
    failures = [result for result in report.levels if result.verdict == FAIL]
    for result in report.levels:
        if result.verdict == ABSTAIN or (first and result.level == first.level):
            name = f"{result.level} {result.precision or ''}".strip()
            line = Text(f"{name}: ", style=COLOURS[result.verdict])
            yield from (Text(), line.append(printable(result.detail), style="default not bold"))
    if first and any(result.level != first.level for result in failures):
        yield from (Text(), Text("--json has every number of the levels after it", style="dim"))


def _number(value: float | None) -> str:
    """Two digits are enough to see an order of magnitude.

    >>> _number(3.1415e-15), _number(0.0), _number(64), _number(None)
    ('3.1e-15', '0', '64', '-')
    """
    return "-" if value is None else f"{value:.2g}"


def _headroom(result: LevelResult) -> str:
    if result.verdict != PASS or not result.tolerance or not result.measured:
        return "-"
    return f"{result.tolerance / result.measured:.2g}x"


def _named(results: Iterator[LevelResult] | list[LevelResult]) -> list[str]:
    """`forward float64 and float32`, one entry per level."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(result.level, []).append(result.precision or "")
    return [
        f"{level} {' and '.join(dict.fromkeys(filter(None, precisions)))}".strip()
        for level, precisions in found.items()
    ]
