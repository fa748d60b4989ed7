"""What `parity.check` found: a verdict, where the models part, and how much was compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.check.origins import Origin
from parity.check.semantics import Finding
from parity.ladder.measure import ABSTAIN, ERROR, FAIL, PASS
from parity.ladder.results import LevelResult, tensors_to_list

SCHEMA = 1
# Of every pass: what it does not speak of.
NOT_EXAMINED = (
    "the loss, the optimizer, metrics and data of a training (compile), other sizes and ranges "
    "than those named, float16 and bfloat16, GPUs"
)
SHOWN = 12  # findings and origins written out on a terminal
COLOURS = {PASS: "bold green", FAIL: "bold red", ABSTAIN: "yellow", ERROR: "bold magenta"}


@dataclass(frozen=True)
class Coverage:
    """Numbers that have a counterpart, and calls whose partner is known: the former may decide, the
    latter explain."""

    parameters: int
    all_parameters: int
    layers: int
    all_layers: int
    missing: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.parameters == self.all_parameters and self.layers == self.all_layers

    def to_dict(self) -> dict[str, Any]:
        return {
            "parameters": _share(self.parameters, self.all_parameters),
            "layers": _share(self.layers, self.all_layers),
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class CheckReport:
    """The whole answer. `notes` say what could not be run, `owners` by PyTorch's parameters the
    Keras layer that holds the same numbers."""

    keras: str
    torch: str
    levels: tuple[LevelResult, ...]
    origins: tuple[Origin, ...]
    findings: tuple[Finding, ...]
    coverage: Coverage
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    owners: dict[str, str] = dataclasses.field(default_factory=dict)
    examined: str = ""

    @property
    def verdict(self) -> str:
        """fail if a level fails; abstain if one does; else pass."""
        verdicts = {result.verdict for result in self.levels}
        if FAIL in verdicts:
            return FAIL
        return PASS if verdicts == {PASS} else ABSTAIN

    @property
    def first_failure(self) -> LevelResult | None:
        return next((each for each in self.levels if each.verdict == FAIL), None)

    def to_dict(self) -> dict[str, Any]:
        """Types that strict JSON knows."""
        first = self.origins[0] if self.origins else None
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "keras": self.keras,
            "torch": self.torch,
            "first_origin": dataclasses.asdict(first) if first else None,
            "origins": [dataclasses.asdict(each) for each in self.origins],
            "coverage": self.coverage.to_dict(),
            "levels": [each.to_dict() for each in self.levels],
            "semantics": [{**vars(each), "text": each.text} for each in self.findings],
            "examined": self.examined,
            "not_examined": NOT_EXAMINED,
            "notes": list(self.notes),
            "environment": self.environment,
            "owners": self.owners,
            "tensors": tensors_to_list(self.levels),
        }

    def text(self) -> str:
        """The report in plain text, for an assertion's message."""
        console = Console(width=100, highlight=False, no_color=True)
        with console.capture() as captured:
            render(self, console)
        return captured.get()


def render(report: CheckReport, console: Console | None = None) -> None:
    """Print the report; to standard output by default."""
    console = console or Console(highlight=False)
    console.print(Text(sentence(report), style=COLOURS[report.verdict]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("level", "verdict", "apart", "allowed", "where, or why not"):
        table.add_column(name, overflow="fold")
    for each in report.levels:
        shown = each.where if each.verdict in (PASS, FAIL) and each.where else each.detail
        table.add_row(
            each.level,
            Text(each.verdict, style=COLOURS[each.verdict]),
            _number(each.measured),
            _number(each.tolerance),
            Text(shown),
        )
    console.print(table)
    _list(
        console,
        "Starts at:",
        [
            f"{o.names} ({o.level}): {o.text}{f' ({o.line})' if o.line else ''}"
            for o in report.origins
        ],
    )
    failed = report.verdict == FAIL
    causes = [each for each in report.findings if failed and each.helps is not False]
    others = [each for each in report.findings if each not in causes]
    _list(console, "Likely causes:", [_line(each, True) for each in causes])
    heading = "Declared differently, without effect here:"
    _list(console, heading, [_line(each, False) for each in others])
    if report.coverage.missing:
        _list(console, "Without a counterpart:", report.coverage.missing)
    _list(console, "Examined:", [report.examined] if report.examined else [])
    if report.verdict == PASS:
        _list(console, "Not examined:", [NOT_EXAMINED])
    _list(console, "Notes:", report.notes)


def sentence(report: CheckReport) -> str:
    """The verdict in plain words."""
    coverage = report.coverage
    share = (
        f"{_percent(coverage.parameters, coverage.all_parameters)} of the numbers have their "
        f"counterpart, {_percent(coverage.layers, coverage.all_layers)} of the calls"
    )
    if report.verdict == PASS:
        last = report.levels[-1]
        return f"PASS: the same function, up to the level {last.level} ({share})."
    if report.verdict == FAIL:
        first = report.first_failure
        assert first is not None
        at = f" at {report.origins[0].names}" if report.origins else ""
        return f"FAIL at the level {first.level}{at} ({share})."
    open_ = next((each for each in report.levels if each.verdict == ABSTAIN), None)
    return f"ABSTAIN: {open_.level if open_ else 'nothing'} could not be decided ({share})."


def _line(each: Finding, advise: bool) -> str:
    """With the change to make, where something is to be changed."""
    row = f" (divergence {each.divergence})" if each.divergence else ""
    tried = " (tried: it brings the numbers nearer)" if each.helps else ""
    return f"{each.text}{row}. {each.change}{tried}" if advise else f"{each.text}{row}"


def _list(console: Console, heading: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    console.print(Text(heading, style="bold"))
    for line in lines[:SHOWN]:
        console.print(Text(f"  {line}"), soft_wrap=False)
    if len(lines) > SHOWN:
        console.print(Text(f"  and {len(lines) - SHOWN} more"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(part: int, whole: int) -> str:
    """Never 100 % of what is not all.

    >>> _percent(9999, 10000), _percent(3, 3)
    ('99 %', '100 %')
    """
    return f"{100 * part // whole if whole else 0} %"
