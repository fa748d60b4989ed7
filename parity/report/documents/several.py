"""The document in front of several results: their verdicts, their ladders, what they differ in."""

from __future__ import annotations

from collections.abc import Sequence

from parity.criterion import decides
from parity.recording import IN_WORDS, METRICS
from parity.report import heatmap
from parity.report.blocks import Block, Cell, Content, Document, Section, Table, judged
from parity.report.documents.common import name_of
from parity.report.sources import Run, Source
from parity.report.table import difference

WORST = ("error", "fail", "abstain", "inconclusive", "pass", "finding")


def document(sources: Sequence[Source], documents: Sequence[Document]) -> Document:
    """What stands before the documents of the results themselves, in the same order."""
    verdicts = [each.verdict for each in documents]
    judging = [each for each in verdicts if each != "finding"]
    worst = min(verdicts, key=WORST.index)
    rows: list[list[Content]] = [
        [source.name, each.title, judged(each.verdict), each.sentence]
        for source, each in zip(sources, documents, strict=True)
    ]
    table = Table("All results", ("result", "of", "verdict", "in words"), rows, left=3, prose=1)
    runs = [source for source in sources if isinstance(source, Run)]
    return Document(
        title=f"{len(sources)} results beside each other",
        subtitle=", ".join(source.name for source in sources),
        verdict=worst,
        sentence=f"{worst.upper()}: {verdicts.count('pass')} of {len(judging)} pass.",
        sections=[Section("Verdicts", [table]), *_runs(runs)],
    )


def _runs(runs: Sequence[Run]) -> list[Section]:
    if not runs:
        return []
    blocks: list[Block] = [_finals(runs)]
    pairs = [
        {**pair, "name": f"{run.name}: {name_of(pair)}"}
        for run in runs
        for pair in run.reports[0]["pairs"]
        if pair["ladder"]
    ]
    overview = heatmap.overview(pairs)
    blocks += [overview] if overview else []
    differing = _differing(runs)
    return [
        Section("Runs", blocks),
        *([Section("What the runs differ in", [differing])] if differing else []),
    ]


def _finals(runs: Sequence[Run]) -> Table:
    rows: list[list[Content]] = []
    for run in runs:
        for report in run.reports:
            seed = f", seed {report['experiment']['seed']}" if "runs" in run.facts else ""
            for pair in report["pairs"]:
                if decides(pair):
                    found = [pair["criterion"].get(metric) for metric in METRICS]
                    cells = [
                        Cell("-" if each is None else difference(each["difference"]),
                             "" if each is None or each["within"] else "fail")
                        for each in found
                    ]  # fmt: skip
                    name = f"{run.name}{seed}: {name_of(pair)}"
                    rows.append([name, judged(pair["verdict"]), *cells])
    names = [IN_WORDS[metric] for metric in METRICS]
    return Table(
        "Ports: differences after the last epoch", ("pair", "verdict", *names), rows, left=2
    )


def _differing(runs: Sequence[Run]) -> Table | None:
    """The settings that are not the same in all runs."""
    facts = [
        {**run.facts["experiment"], "data digest": run.facts["data"]["digest"]} for run in runs
    ]
    names = dict.fromkeys(name for each in facts for name in each)
    rows = [
        [name.replace("_", " "), *(str(each.get(name, "-")) for each in facts)]
        for name in names
        if len({str(each.get(name)) for each in facts}) > 1
    ]
    if not rows:
        return None
    return Table("Settings", ("setting", *(run.name for run in runs)), rows, left=1 + len(runs))
