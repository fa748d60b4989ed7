"""The document of the self-test: every planted fault, where it was caught, who was accused."""

from __future__ import annotations

from parity.faults import CONTROLS, FAULTS, SMALL
from parity.ladder.results import LEVELS
from parity.report.blocks import Cell, Document, Heatmap, HeatRow, Section, Table, judged
from parity.report.documents import common
from parity.report.documents.common import Facts
from parity.report.sources import Selftest
from parity.report.table import settings


def document(source: Selftest) -> Document:
    """Faults by the level that catches them, then in words, then the faithful twins."""
    facts = source.facts
    faults, controls = facts["faults"], facts["controls"]
    caught, sound = (sum(each["ok"] for each in items) for items in (faults, controls))
    missed = sum(each["criterion_alone"] == "pass" for each in faults)
    sections = []
    if faults:
        sections += [
            Section("Faults by level", [_levels(faults)]),
            Section("Faults", [_table(faults)]),
        ]
    if controls:
        sections.append(Section("Faithful twins", [_controls(controls)]))
    return Document(
        title="Self-test of the ladder",
        subtitle=settings(facts["experiment"]),
        verdict=facts["verdict"],
        sentence=f"{facts['verdict'].upper()}: {caught} of {len(faults)} planted faults caught and "
        f"placed, {sound} of {len(controls)} faithful twins pass. The 2 % criterion alone misses "
        f"{missed} of {len(faults)}.",
        sections=[*sections, _rerun(facts)],
        tags=(source.name,),
    )


def _levels(faults: list[Facts]) -> Heatmap:
    rows = []
    for each in faults:
        marks = {each["caught_by_numbers_at"]: "numbers", each["caught_at"]: "caught"}
        cells = [
            Cell(marks[level], f"mark-{marks[level]}") if level in marks else Cell("", "absent")
            for level in LEVELS
        ]
        rows.append(HeatRow(each["name"], cells))
    caption = "The level that catches a fault first (caught), and the first by numbers (numbers)"
    levels = [(level, 1) for level in LEVELS]
    return Heatmap(caption, levels, [""] * len(LEVELS), rows, "fault")


def _table(faults: list[Facts]) -> Table:
    rows = [
        [
            each["name"],
            each["mistake"],
            judged("pass" if each["ok"] else "fail", "caught" if each["ok"] else "slipped through"),
            each["caught_at"] or "-",
            each["caught_by_numbers_at"] or "-",
            each["named"] or "not named",
            judged("pass", "catches it")
            if each["criterion_alone"] == "fail"
            else judged("fail", "misses it"),
        ]
        for each in faults
    ]
    columns = ("fault", "what was done", "result", "first fails at", "by numbers at", "named")
    return Table("What the ladder says of each", (*columns, "2 % criterion"), rows, left=7)


def _controls(controls: list[Facts]) -> Table:
    rows = [[each["name"], judged(each["verdict"])] for each in controls]
    return Table("None of these may be accused", ("twin", "verdict"), rows, left=2)


def _rerun(facts: Facts) -> Section:
    words = ["--quick"] if facts["experiment"]["width"] == SMALL["width"] else []
    tried = [each["name"] for part in ("faults", "controls") for each in facts[part]]
    if tried != [*(fault.name for fault in FAULTS), *CONTROLS]:
        words += ["--only", *tried]
    return common.rerun(common.command("parity.selftest", words))
