"""The document of a whole study, `parity.reproduce`: ours beside what was published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parity import published
from parity.criterion import TOLERANCE
from parity.experiment import PROFILES, Experiment
from parity.report.blocks import (
    Block,
    Cell,
    Content,
    Document,
    Figure,
    Folded,
    Section,
    Table,
    Text,
    judged,
)
from parity.report.documents import common, equivalence
from parity.report.documents.common import Facts
from parity.report.sources import Study
from parity.report.table import settings
from parity.study.arms import FRAMEWORKS, title
from parity.study.grid import Table as Grid
from parity.study.judgements import NOT_JUDGED
from parity.study.pages import HEADINGS

REPLICATES = "replicates"


def document(study: Study) -> Document:
    """Verdicts, final numbers, judgements, training, answers, environment, command."""
    summary = study.facts
    replicated = [each for each in summary["judgements"] if each["rule"] == REPLICATES]
    verdicts = {_verdict(each["ours"]) for each in replicated}
    verdict = "pass" if verdicts == {"yes"} else "fail" if "no" in verdicts else "abstain"
    arms = [
        (title(variant, side), arm)
        for variant in _variants(study)
        for side, arm in _sides(study, variant).items()
    ]
    sections = [
        _verdicts(replicated),
        *_over_seeds(summary),
        *_training(study),
        _numbers(summary),
        *_judgements(summary),
    ]
    if arms:
        (_, first), *_ = arms
        sections += [
            Section("Answers", list(common.confusions(arms, first["data"]["classes"]))),
            common.data(first["data"]),
            common.split_environments({name: arm["environment"] for name, arm in arms}),
            _rerun(study, first["experiment"]),
        ]
    return Document(
        title=f"The study, {summary['mode'].replace('_', ' ')}",
        subtitle=f"{arms[0][0]}: {settings(arms[0][1]['experiment'])}" if arms else "",
        verdict=verdict,
        sentence=_sentence(verdict, replicated),
        sections=sections,
        tags=(study.name,),
    )


def _sentence(verdict: str, replicated: list[Facts]) -> str:
    def count(side: str) -> int:
        return sum(_verdict(each[side]) == "yes" for each in replicated)

    return (
        f"{verdict.upper()}: {count('ours')} of {len(replicated)} PyTorch models replicate their "
        f"Keras twin, within {TOLERANCE:g} in every final loss and accuracy. Of the published ones "
        f"{count('published')} did."
    )


def _verdict(side: Facts | None) -> str:
    return "" if side is None or side["verdict"] == NOT_JUDGED else str(side["verdict"])


def _cell(verdict: str) -> Content:
    return judged(verdict) if verdict else "-"


def _verdicts(replicated: list[Facts]) -> Section:
    rows = [
        [
            f"{title(each['variant'], 'torch')} of {title(each['variant'], 'keras')}",
            _cell(_verdict(each["ours"])),
            (each["ours"] or {}).get("because", ""),
            _cell(_verdict(each["published"])),
            (each["published"] or {}).get("because", ""),
        ]
        for each in replicated
    ]
    columns = ("model", "ours", "why", "published", "why")
    note = "Final loss, accuracy, validation loss and validation accuracy."
    table = Table("Does the port replicate its twin?", columns, rows, left=5, note=note)
    return Section("Verdicts", [table])


def _over_seeds(summary: Facts) -> list[Section]:
    pairs = [
        {**each, "left": title(each["variant"], "keras"), "right": title(each["variant"], "torch")}
        for each in summary.get("over_seeds", ())
    ]
    return [equivalence.section(pairs)] if pairs else []


def _numbers(summary: Facts) -> Section:
    blocks: list[Block] = []
    for values in summary["tables"]:
        grid = Grid.from_dict(values)
        rows: list[list[Content]] = []
        for row in grid.rows:
            cells = [
                Cell(
                    f"{cell.text('ours')} / {cell.text('published')}",
                    "same" * (not cell.difference),
                )
                for cell in row.cells
            ]
            rows.append([row.label, *cells])
        note = " ".join(grid.notes).replace("\\*", "*")  # they are written for Markdown
        caption = f"Table {grid.number}: {grid.title}"
        blocks.append(Table(caption, ("", *grid.columns), rows, note=note))
    return Section("Final numbers, ours / published", blocks)


def _judgements(summary: Facts) -> Iterator[Section]:
    blocks: list[Block] = []
    for rule, text in summary["rules"].items():
        rows: list[list[Content]] = []
        for each in summary["judgements"]:
            if each["rule"] == rule:
                said = each["report"]
                quote = f"“{said['quote']}” ({said['place']})" if said else ""
                row: list[Content] = [title(each["variant"], each["framework"] or "torch")]
                for side in ("ours", "published"):
                    row += [_cell(_verdict(each[side])), (each[side] or {}).get("because", "")]
                rows.append([*row, _cell(said["says"]) if said else "-", quote])
        columns = ("model", "ours", "why", "published", "why", "the report", "says")
        heading = HEADINGS[rule][0].upper() + HEADINGS[rule][1:]
        table = Table(heading, columns, rows, left=len(columns), note=text)
        blocks.append(Folded(heading, [table]))
    note = "The published report's judgements by its own rules: of our numbers, of its numbers, "
    yield Section("Judgements", [Text([note + "and as it puts them."]), *blocks])


def _training(study: Study) -> list[Section]:
    drawings: list[Figure] = []
    for variant in _variants(study):
        named = {
            side: {**arm, "id": title(variant, side)}
            for side, arm in _sides(study, variant).items()
        }
        if set(named) == set(FRAMEWORKS):
            left, right = (named[side] for side in FRAMEWORKS)
            drawings += common.trained(left, right, left["experiment"]["precision"])
    return common.training(drawings)


def _variants(study: Study) -> list[str]:
    """In the report's order."""
    return [name for name in published.variants() if name in study.arms]


def _sides(study: Study, variant: str) -> dict[str, Facts]:
    return {side: study.arms[variant][side] for side in FRAMEWORKS if side in study.arms[variant]}


def _rerun(study: Study, experiment: Facts) -> Section:
    words = ["--mode", study.facts["mode"]] if study.facts["mode"] != "aligned" else []
    for name in ("data", "ood"):
        words += [f"--{name}", experiment[name]] if experiment[name] else []
    chosen = _variants(study)
    words += ["--only", ",".join(chosen)] if chosen != list(published.variants()) else []

    def changed(profile: str) -> dict[str, Any]:
        given = Experiment.of(experiment["variant"], profile, padding=0).to_dict()
        return {name: value for name, value in experiment.items() if value != given[name]}

    profile = min(PROFILES, key=lambda name: len(changed(name)))
    words += ["--profile", profile] if profile != "paper" else []
    for name in ("epochs", "threads"):
        words += [f"--{name}", str(experiment[name])] if name in changed(profile) else []
    seeds = [seed for each in study.facts.get("over_seeds", ())[:1] for seed in each["seeds"]]
    if seeds or "seed" in changed(profile):
        words += ["--seeds", *map(str, seeds or [experiment["seed"]])]
    return common.rerun(common.command("parity.reproduce", words))
