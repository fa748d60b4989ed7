"""The document of an explanation, `parity.explain`: which difference matters, where, how much."""

from __future__ import annotations

from collections.abc import Sequence

from parity.differences import ALIGNED, CHANGED, DIFFERENCES, TOGETHER
from parity.recording import IN_WORDS
from parity.report import charts
from parity.report.blocks import Cell, Content, Document, Figure, Figures, Section, Table, Text
from parity.report.documents import common
from parity.report.documents.common import Facts
from parity.report.sources import Explanation
from parity.report.table import difference, signed

FRAMEWORKS = {"keras": "Keras", "torch": "PyTorch"}


def document(explanation: Explanation) -> Document:
    """Which differences go beyond the noise of seeds, gaps, where each first shows, changes."""
    facts = explanation.facts
    metrics = [name for name in IN_WORDS if any(name in each["gap"] for each in facts["effects"])]
    beyond = [
        each["name"]
        for each in facts["effects"]
        if each["name"] not in (ALIGNED, TOGETHER)
        and any(each["gap"][metric]["beyond_noise"] for metric in metrics)
    ]
    seeds = ", ".join(map(str, facts["seeds"]))
    measured = any(facts["noise_floor"][metric] is not None for metric in metrics)
    sections = [
        _gaps(facts, metrics),
        Section("Gaps of every seed", [Figures([_figure(facts, metric) for metric in metrics])]),
        _places(facts),
        _changes(facts, metrics),
    ]
    if facts["data"]:
        sections.append(common.data(facts["data"]))
    sections += [common.split_environments(facts["environments"]), _rerun(facts)]
    return Document(
        title=f"Which difference matters: {facts['variant']}",
        subtitle=f"{facts['sentence'].removesuffix('.')}, seeds {seeds}",
        verdict="finding",
        sentence=_sentence(beyond, measured),
        sections=sections,
        tags=(explanation.name,),
    )


def _sentence(beyond: Sequence[str], measured: bool) -> str:
    if not measured:
        return "One seed gives no noise floor: nothing can be said of what a difference does."
    if not beyond:
        return "No difference moves a final metric further than another seed does."
    names = ", ".join(name.replace("_", " ") for name in beyond)
    return f"Beyond what another seed does, PyTorch departs from Keras by: {names}."


def _gaps(facts: Facts, metrics: Sequence[str]) -> Section:
    rows: list[list[Content]] = [
        [_title(each), *(_gap(each["gap"][metric]) for metric in metrics)]
        for each in facts["effects"]
    ]
    floors = (facts["noise_floor"][metric] for metric in metrics)
    rows.append(["noise floor", *("-" if floor is None else f"{floor:.4f}" for floor in floors)])
    table = Table(
        "PyTorch less Keras after training, means over seeds",
        ("difference", *(IN_WORDS[metric] for metric in metrics)),
        rows,
        note="Marked ▲: beyond the noise floor, the mean gap that two runs stay below in 95 of 100 "
        "cases where they differ by their seeds alone. Losses in nats, accuracies as fractions.",
    )
    return Section("What each difference does", [table])


def _title(effect: Facts) -> str:
    return str(effect["name"]).replace("_", " ")


def _gap(gap: Facts) -> Cell:
    text = signed(gap["mean"])
    return Cell(f"▲ {text}", "fail") if gap["beyond_noise"] else Cell(text)


def _figure(facts: Facts, metric: str) -> Figure:
    rows = []
    for each in facts["effects"]:
        gap = each["gap"][metric]
        values = [value for value in gap["by_seed"].values() if value is not None]
        rows.append((each["name"], values, bool(gap["beyond_noise"])))
    floor = facts["noise_floor"][metric]
    far = [name.replace("_", " ") for name, _, beyond in rows if beyond]
    caption = f"Beyond the noise floor: {', '.join(far)}." if far else "All within the noise floor."
    svg = charts.gaps(rows, floor, f"{IN_WORDS[metric]}, PyTorch less Keras")
    return Figure(
        f"Gap of {IN_WORDS[metric]}",
        caption + " Dots: seeds; bars: their mean; shaded: noise.",
        svg,
    )


def _places(facts: Facts) -> Section:
    rows = []
    for each in facts["effects"]:
        first, numbers = each["first"], each["in_numbers"]
        shown = f"{numbers['level']} {numbers['precision'] or ''}" if numbers else "nowhere"
        rows.append(
            [
                _title(each),
                each["text"],
                first["detail"].split(";")[0]
                if first and first["level"] == "structure"
                else "alike",
                shown,
                numbers["where"] if numbers else "",
                difference(numbers["measured"]) if numbers else "",
                ", ".join(each["origins"]),
            ]
        )
    columns = ("difference", "Keras / PyTorch", "declared", "first in numbers at", "where", "apart")
    table = Table("The first level that shows it", (*columns, "starts at"), rows, left=7)
    return Section("Where each first shows", [table])


def _changes(facts: Facts, metrics: Sequence[str]) -> Section:
    rows = [
        [
            _title(each),
            title,
            *(signed(each["change"][side][metric]["mean"]) for metric in metrics),
        ]
        for each in facts["effects"]
        if each["name"] != ALIGNED
        for side, title in FRAMEWORKS.items()
        if any(each["change"][side][metric]["mean"] for metric in metrics)
    ]
    columns = ("difference", "framework", *(IN_WORDS[metric] for metric in metrics))
    return Section(
        "Each framework against its aligned self",
        [
            Text(["What both sides do alike leaves no gap between them; here it shows."]),
            Table("Change of the final metrics, means over seeds", columns, rows, left=2),
        ],
    )


def _rerun(facts: Facts) -> Section:
    words = common.flags(facts["experiment"], without=("seed", *CHANGED))
    tried = {each["name"] for each in facts["effects"]}
    names = [name for name in DIFFERENCES if name in tried]
    words += ["--seeds", *map(str, facts["seeds"]), "--only", ",".join(names)]
    if not any(each["first"] or each["in_numbers"] for each in facts["effects"]):
        words.append("--no-ladder")
    return common.rerun(common.command("parity.explain", words))
