"""The document of a comparison, `parity.compare`: of one seed or of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parity.criterion import decides
from parity.experiment import VARIANTS
from parity.recording import IN_WORDS, METRICS
from parity.report import heatmap, paired_table, samples, table
from parity.report.blocks import (
    Block,
    Cell,
    Document,
    Figure,
    Folded,
    Section,
    Table,
    Text,
    judged,
)
from parity.report.documents import common, equivalence
from parity.report.documents.common import Facts, name_of
from parity.report.sources import Run
from parity.report.table import ROLES, difference, number
from shared_data.errors import printable


def document(run: Run, images: int = 0) -> Document:
    """Verdicts, ladder, training, answers, arms, data, environment, command."""
    facts, (first, *_) = run.facts, run.reports
    several = "runs" in facts
    experiment = facts["experiment"]
    sections = [_verdicts(run)]
    if several:
        pairs = [{**pair, "seeds": facts["seeds"]} for pair in facts["equivalence"]]
        sections.insert(0, equivalence.section(pairs))
    sections += [*_ladder(run), *_training(run), *_answers(run, images), _arms(run)]
    sections += [
        common.data(facts["data"]),
        common.environment(
            facts["environment"], {arm["id"]: arm["environment"] for arm in first["arms"]}
        ),
        common.rerun(_command(run)),
    ]
    return Document(
        title=experiment["variant"],
        subtitle=f"{VARIANTS[experiment['variant']].summary}; "
        f"{table.settings(experiment, facts.get('seeds', ()))}",
        verdict=facts["verdict"],
        sentence=(paired_table if several else table).sentence(facts),
        sections=sections,
        tags=(run.name,),
    )


def _seed(run: Run, report: Facts) -> str:
    return f"seed {report['experiment']['seed']}: " if "runs" in run.facts else ""


def _pairs(run: Run) -> Iterator[tuple[str, Facts]]:
    """Every pair of every seed, and what begins its name."""
    for report in run.reports:
        for pair in report["pairs"]:
            yield _seed(run, report), pair


def _verdicts(run: Run) -> Section:
    rows = [
        [
            f"{seed}{name_of(pair)}",
            ROLES[pair["role"]],
            judged(pair["verdict"]),
            *(_difference(pair["criterion"].get(metric)) for metric in METRICS),
            judged(pair["ladder_verdict"]) if pair["ladder_verdict"] else "not run",
        ]
        for seed, pair in _pairs(run)
    ]
    names = [IN_WORDS[metric] for metric in METRICS]
    tolerance = run.facts["tolerance"]
    finals = Table(
        "Differences after the last epoch",
        ("pair", "compared as", "verdict", *names, "ladder"),
        rows,
        left=3,
        note=f"Red: above {tolerance:g}. A pair “as published” never decides. Losses in nats, "
        "accuracies as fractions.",
    )
    reasons = list(dict.fromkeys(_reasons(run)))
    return Section("Verdicts", [finals, *([Text(reasons, listed=True)] if reasons else [])])


def _difference(found: Facts | None) -> Cell:
    if found is None:
        return Cell("-")
    text = difference(found["difference"])
    return Cell(text) if found["within"] else Cell(f"{text} ✕", "fail")


def _reasons(run: Run) -> Iterator[str]:
    """Why there is no result, or where pairs part."""
    for seed, pair in _pairs(run):
        failed = next((each for each in pair["ladder"] if each["verdict"] == "fail"), None)
        if pair["error"]:
            yield f"{seed}{name_of(pair)}: {printable(pair['error'])}"
        elif failed and decides(pair):
            at = f"{failed['level']} {failed['precision'] or ''}".strip()
            yield f"{seed}{name_of(pair)} part at {at}: {failed['detail']}"
    for report in run.reports:
        for arm in report["arms"]:
            if arm["error"]:
                yield f"{_seed(run, report)}{arm['id']}: {printable(arm['error'])}"


def _ladder(run: Run) -> Iterator[Section]:
    """The levels of every pair; of each pair whose tensors were kept, its layers."""
    pairs = [{**pair, "name": seed + name_of(pair)} for seed, pair in _pairs(run) if pair["ladder"]]
    overview = heatmap.overview(pairs)
    if overview is None:
        return
    blocks: list[Block] = [overview]
    for pair in run.reports[0]["pairs"]:
        ladder = run.ladder(pair["left"], pair["right"])
        inside = [] if ladder is None else of_ladder(ladder)
        if inside and decides(pair):
            blocks += inside
        elif inside:
            blocks.append(Folded(f"{name_of(pair)}, {ROLES[pair['role']]}", inside))
    yield Section("Ladder", blocks)


def of_ladder(ladder: Facts) -> list[Block]:
    """The layers of a pair, where a difference starts, and what is closest to its tolerance."""
    starts = [each["sentence"] for each in ladder["origins"] if each["status"] == "origin"]
    parts = (
        heatmap.layers(ladder),
        Text([f"Starts at {each}" for each in starts], listed=True) if starts else None,
        heatmap.closest(ladder),
    )
    return [part for part in parts if part]


def _training(run: Run) -> list[Section]:
    """Of one seed: those of many would hide what they show."""
    report = run.reports[0]
    arms = {arm["id"]: arm for arm in report["arms"]}
    drawings: list[Figure] = []
    for pair in report["pairs"]:
        if decides(pair):
            left, right = (arms[pair[side]] for side in ("left", "right"))
            ladder = run.ladder(pair["left"], pair["right"])
            found = common.trained(left, right, report["experiment"]["precision"], ladder)
            drawings += [
                replace(figure, title=_seed(run, report) + figure.title) for figure in found
            ]
    ports = all(pair["role"] == "port" for pair in report["pairs"] if decides(pair))
    return common.training(drawings, *([] if ports else [("first named", "second named")]))


def _answers(run: Run, images: int) -> Iterator[Section]:
    first = run.reports[0]
    classes = list(first["data"].get("classes") or next(iter(first["data"]["splits"].values()), ()))
    arms = [(arm["id"], arm) for arm in sorted(first["arms"], key=lambda arm: arm["padding"])]
    blocks: list[Block] = list(common.confusions(arms, classes)) if classes else []
    blocks += samples.disagreements(run, images)
    if blocks:
        yield Section("Answers", blocks)


def _arms(run: Run) -> Section:
    rows = []
    for report in run.reports:
        for arm in report["arms"]:
            test, ood = arm["test"] or {}, arm["ood"] or {}
            last = [arm["history"][metric][-1:] for metric in METRICS]
            memory, step = arm["peak_memory_bytes"], arm["seconds_per_step"]
            rows.append(
                [
                    _seed(run, report) + arm["id"],
                    "-" if arm["parameters"] is None else f"{arm['parameters']:,}",
                    *(number(value[0] if value else None) for value in last),
                    number(test.get("accuracy")),
                    number(test.get("roc_auc")),
                    number(ood.get("accuracy")),
                    "-" if step is None else f"{step:.3g}",
                    "-" if not memory else f"{memory / 1e9:.2f}",
                ]
            )
    columns = ("arm", "weights", *(IN_WORDS[metric] for metric in METRICS))
    more = ("test accuracy", "test AUC", "out-of-distribution accuracy", "s per step", "peak GB")
    return Section("Arms", [Table("Each arm after its last epoch", (*columns, *more), rows)])


def _command(run: Run) -> str:
    facts = run.facts
    words = common.flags(facts["experiment"], without=("seed",) if "runs" in facts else ())
    padding = str(facts["experiment"]["padding"])
    words += ["--padding", padding] if padding != "both" else []
    words += ["--seeds", *map(str, facts["seeds"])] if "runs" in facts else []
    words += ["--tolerance", f"{facts['tolerance']:g}"] if facts["tolerance"] != 0.02 else []
    climbed = any(pair["ladder"] for _, pair in _pairs(run))
    return common.command("parity.compare", [*words, "--ladder" if climbed else "--no-ladder"])
