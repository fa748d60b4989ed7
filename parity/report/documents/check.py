"""The documents of one pair: `parity.check` and `parity.diff`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from parity.report import heatmap
from parity.report.blocks import Block, Content, Document, Folded, Section, Table, Text, judged
from parity.report.documents import common
from parity.report.documents.common import Facts
from parity.report.documents.run import of_ladder
from parity.report.sources import Check, Ladder
from parity.report.table import difference

PARTS = ("parameters", "layers")  # of which a share can be compared


def check(source: Check) -> Document:
    """Levels, where it starts, what is declared differently, what was not compared."""
    facts = source.facts
    first = next((each for each in facts["levels"] if each["verdict"] == "fail"), None)
    origin = facts["first_origin"]
    share = ", ".join(f"{100 * facts['coverage'][name]:.0f} % of the {name}" for name in PARTS)
    words = {
        "pass": f"PASS: the same model, up to the level {facts['levels'][-1]['level']}",
        "abstain": "ABSTAIN: not everything could be compared",
    }
    if first:
        at = f", from {_names(origin)} on" if origin else ""
        words["fail"] = f"FAIL at the level {first['level']}{at}"
    sections = [_levels(facts["keras"], facts["torch"], facts["levels"], _tensors(facts))]
    sections += _starts(
        [f"{_names(each)}, {each['level']}: {each['text']}" for each in facts["origins"]]
    )
    if facts["semantics"]:
        sections.append(_declared(facts["semantics"]))
    missing = [*facts["coverage"]["missing"], *facts["notes"]]
    if missing:
        sections.append(Section("Not compared", [Text(missing, listed=True)]))
    if facts["environment"]:
        sections.append(common.split_environments(facts["environment"]))
    typed = facts.get("command") or shlex.join([facts["keras"], facts["torch"]])
    sections.append(common.rerun(f"python -m parity.check {typed}"))
    return Document(
        title=f"{facts['keras']} against {facts['torch']}",
        subtitle=f"Keras on the left, PyTorch on the right; {share} compared",
        verdict=facts["verdict"],
        sentence=f"{words[facts['verdict']]}.",
        sections=sections,
        tags=(source.name,),
    )


def ladder(source: Ladder) -> Document:
    """The heat map, where a difference starts, the tensors closest to their tolerance."""
    facts = source.facts
    left, right = facts["left"], facts["right"]
    failed = next((each for each in facts["ladder"] if each["verdict"] == "fail"), None)
    undecided = [
        f"{each['level']} {each['precision'] or ''}".strip()
        for each in facts["ladder"]
        if each["verdict"] == "abstain"
    ]
    sentence = f"{facts['verdict'].upper()}: {left} and {right} "
    if facts["error"]:
        sentence += f"could not be compared: {facts['error']}"
    elif failed:
        sentence += f"part at {failed['level']} {failed['precision'] or ''}".rstrip()
    else:
        sentence += "agree on every level" + (
            f" that could be decided; left open: {', '.join(undecided)}" if undecided else ""
        )
    return Document(
        title=f"{left} against {right}",
        subtitle="the parity ladder",
        verdict=facts["verdict"],
        sentence=f"{sentence}.",
        sections=[_levels(left, right, facts["ladder"], of_ladder(facts))],
        tags=(source.name,),
    )


def _names(origin: Facts) -> str:
    sides = dict.fromkeys(filter(None, (origin["keras"], origin["torch"])))
    return " / ".join(sides)


def _levels(left: str, right: str, levels: Sequence[Facts], tensors: list[Block]) -> Section:
    """All levels as a heat map, what there is of their tensors, all levels in numbers."""
    rows: list[list[Content]] = [
        [
            each["level"],
            each["precision"] or "",
            judged(each["verdict"]),
            _measured(each),
            difference(each["tolerance"]),
            heatmap.share(heatmap.pressure(each)) if each["measured"] is not None else "",
            each["where"],
            each["detail"],
        ]
        for each in levels
    ]
    columns = ("level", "in", "verdict", "apart", "allowed", "of its tolerance", "where", "detail")
    overview = heatmap.overview([{"left": left, "right": right, "ladder": levels}])
    table = Table("Level by level", columns, rows, left=3, prose=2)
    first: list[Block] = [overview] if overview else []
    return Section("Ladder", [*first, *tensors, Folded("Every level in numbers", [table])])


def _measured(level: Facts) -> str:
    """A difference; structure counts what differs."""
    counted = level["level"] == "structure" and level["measured"] is not None
    return f"{level['measured']:g}" if counted else difference(level["measured"])


def _tensors(facts: Facts) -> list[Block]:
    """The layers, by Keras' names, and the tensors closest to their tolerance."""
    owners = facts.get("owners", {})  # reports from before it name no tensor
    tensors = [
        {**each, "layer": owners.get(heatmap.bare(each["name"]))}
        for each in facts.get("tensors", ())
    ]
    pair = {
        "left": facts["keras"],
        "right": facts["torch"],
        "tensors": tensors,
        "semantics": [{"where": e["keras"] or e["torch"], **e} for e in facts["semantics"]],
        "origins": [{"where": e["keras"], "status": "origin"} for e in facts["origins"]],
    }
    return [block for block in (heatmap.layers(pair), heatmap.closest(pair)) if block]


def _starts(lines: Sequence[str]) -> list[Section]:
    return [Section("Where it starts", [Text(lines, listed=True)])] if lines else []


def _declared(semantics: Sequence[Facts]) -> Section:
    rows: list[list[Content]] = [
        [
            _names(each),
            each["text"],
            each["change"],
            f"{each['divergence']}" if each["divergence"] else "",
        ]
        for each in semantics
    ]
    columns = ("where", "what", "what to change", "divergence")
    note = "Numbers of docs/divergences.md."
    return Section(
        "Declared differently", [Table("Settings of both sides", columns, rows, left=4, note=note)]
    )
