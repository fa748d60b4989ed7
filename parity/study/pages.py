"""The study in Markdown, from its summary alone (`parity.study.render.write` makes that)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parity.study import over_seeds
from parity.study.arms import BASELINES, FRAMEWORKS, title
from parity.study.grid import Table, markdown_table
from parity.study.judgements import NO, NOT_JUDGED, UNDECIDED, YES
from shared_data.errors import InputError

Summary = Mapping[str, Any]
Comparisons = Iterable[Mapping[str, Any]]  # `sentences.Comparison.to_dict()`

MODEL_TABLES = {4: "keras", 5: "torch"}  # which of the tables hold one framework's models
HEADINGS = {
    "transfer": "reaches the Reference Model",
    "replicates": "replicates its twin",
    "avenue": "avenue",
    "generalises": "generalises",
}

FIGURES_NOTE = """\
Lettered as in the report's appendix: A to J each model, K to O Keras against PyTorch, P to S and \
T to W each modification against its own baseline. The order within A to J is inferred from the \
notebook that made the figures."""


def section(summary: Summary, link: str = ".") -> str:
    """What we got beside what was published, for a README.

    `link` leads from the README to the folder that `render.write` filled.
    """
    lines = [
        f"Final numbers of the `{summary['mode']}` study, each ours / published; accuracies in "
    ]
    lines[-1] += "percent, losses in nats."
    lines.append("")
    lines += _final_numbers(summary)
    lines += ["", *(f"- {note}" for note in _notes(summary))]
    lines += ["", "The report's judgements, by its own rules: of our numbers / of its numbers / "]
    lines[-1] += "as the report puts it (`-`: it does not say)."
    lines += ["", *_verdicts(summary["judgements"]), ""]
    if summary["mode"] == "aligned":  # of the other study all but our numbers is the same
        lines += _rules(summary)
    if "over_seeds" in summary:
        lines += [f"**{over_seeds.TITLE}.**", *over_seeds.lines(summary["over_seeds"]), ""]
    tables = ", ".join(
        f"[{table['number']}]({link}/table{table['number']}.md)" for table in summary["tables"]
    )
    lines.append(
        f"All of it: tables {tables}, [judgements with their reasons]({link}/judgements.md), "
        f"[figures A to W]({link}/figures.md)."
    )
    return "\n".join(lines) + "\n"


def _rules(summary: Summary) -> Iterator[str]:
    """What the judgements are made by, and where they contradict the report."""
    yield from (f"- *{HEADINGS[rule]}*: {text}" for rule, text in summary["rules"].items())
    yield from ("", summary["fluctuation"] + " " + _deciding(summary["judgements"]), "")
    yield from (*_contradictions(summary["judgements"]), "")


def judgements_page(summary: Summary) -> str:
    """Every judgement with its reason, ours, of the published numbers, and the report's."""
    lines = ["# The report's judgements, by its own rules"]
    for rule, text in summary["rules"].items():
        lines += ["", f"## {HEADINGS[rule].capitalize()}", "", text, ""]
        if rule == "avenue":
            lines += [f"{summary['fluctuation']} {_deciding(summary['judgements'])}", ""]
        rows = [
            [_about(each), _reason(each["ours"]), _reason(each["published"]), _quote(each)]
            for each in summary["judgements"]
            if each["rule"] == rule
        ]
        heading = ["model", "ours", "published numbers", "the report"]
        lines += markdown_table(heading, rows, left=4)
    lines += ["", *_contradictions(summary["judgements"])]
    return "\n".join(lines) + "\n"


def figures_page(summary: Summary, folder: str = "figures") -> str:
    """All figures with their captions; `folder` leads from the page to them."""
    lines = ["# Figures A to W", "", FIGURES_NOTE]
    for letter, figure in summary["figures"].items():
        lines += ["", f"## {letter}: {figure['heading']}", ""]
        lines += [f"![{figure['heading']}]({folder}/{letter}.png)", "", figure["caption"]]
    return "\n".join(lines) + "\n"


def placed(text: str, heading: str, content: str) -> str:
    """`text` with `content` in place of what stands below `heading` (`## Results`).

    The section ends at the next heading of its level or above, or with the text. Raises
    `InputError` where the heading does not stand in the text once, on a line of its own.
    """
    lines = text.splitlines()
    if lines.count(heading) != 1:
        raise InputError(
            f"the document has the heading {heading!r} {lines.count(heading)} times, expected "
            "once: add it where the section belongs."
        )
    start = lines.index(heading) + 1
    level = len(heading) - len(heading.lstrip("#"))
    above = tuple("#" * depth + " " for depth in range(1, level + 1))
    following = (at for at in range(start, len(lines)) if lines[at].startswith(above))
    rest = lines[next(following, len(lines)) :]
    parts = ["\n".join(lines[:start]), content.strip("\n"), "\n".join(rest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _final_numbers(summary: Summary) -> list[str]:
    tables = [Table.from_dict(values) for values in summary["tables"]]
    rows = []
    for table in tables:
        if table.number in MODEL_TABLES:
            for column in table.columns:
                cells = [table.cell(row.label, column) for row in table.rows]
                name = _full_name(column, MODEL_TABLES[table.number])
                rows.append([name, *(f"{c.text('ours')} / {c.text('published')}" for c in cells)])
    labels = next(table for table in tables if table.number in MODEL_TABLES).rows
    return markdown_table(["", *(row.label.replace(" (%)", "") for row in labels)], rows)


def _full_name(column: str, framework: str) -> str:
    return column if column in BASELINES.values() else f"{FRAMEWORKS[framework]} {column}"


def _notes(summary: Summary) -> list[str]:
    exact = "exactly" if summary["table_1_exact"] else "**not** exactly"
    shown = (2, *MODEL_TABLES)  # Table 3 repeats baselines of 4 and 5
    notes = [
        note for table in summary["tables"] if table["number"] in shown for note in table["notes"]
    ]
    return [f"Table 1, the split, is reproduced {exact}.", *dict.fromkeys(notes)]


def _verdicts(comparisons: Comparisons) -> list[str]:
    """A row per model, a column per rule: ours / of the published numbers / the report's."""
    by_model: dict[tuple[str, str], dict[str, str]] = {}
    for each in comparisons:
        # A rule about both twins is one about the PyTorch model: does it replicate its twin?
        model = (each["variant"], each["framework"] or "torch")
        says = each["report"]["says"] if each["report"] else "-"
        sides = [_verdict(each["ours"]), _verdict(each["published"]), says]
        by_model.setdefault(model, {})[each["rule"]] = " / ".join(sides)
    rows = [
        [title(*model), *(found.get(rule, "") for rule in HEADINGS)]
        for model, found in sorted(
            by_model.items(), key=lambda item: list(FRAMEWORKS).index(item[0][1])
        )
    ]
    return markdown_table(["", *HEADINGS.values()], rows, left=1 + len(HEADINGS))


def _verdict(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None or side["verdict"] == NOT_JUDGED else str(side["verdict"])


def _reason(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None else f"**{side['verdict']}**: {side['because']}"


def _quote(comparison: Mapping[str, Any]) -> str:
    said = comparison["report"]
    return "-" if said is None else f'**{said["says"]}**: "{said["quote"]}" ({said["place"]})'


def _about(comparison: Mapping[str, Any]) -> str:
    variant, framework = comparison["variant"], comparison["framework"]
    if framework is None:
        return f"{title(variant, 'torch')} of {title(variant, 'keras')}"
    return title(variant, framework)


def _contradictions(comparisons: Comparisons) -> Iterator[str]:
    """Where the rules, applied to the report's own numbers, contradict its sentences."""
    differing = [each for each in comparisons if each["differs"]]
    if not differing:
        return
    yield "Where the rules, applied to the report's own numbers, contradict its sentences:"
    yield ""
    for each in differing:
        said, found = each["report"], each["published"]
        if found["verdict"] != UNDECIDED:
            yield (
                f"- *{HEADINGS[each['rule']]}*, {_about(each)}: the report says {said['says']} "
                f'("{said["quote"]}", section {said["place"]}), its rule {found["verdict"]}: '
                f"{found['because']}."
            )
    undecided = [each for each in differing if each["published"]["verdict"] == UNDECIDED]
    for rule in dict.fromkeys(each["rule"] for each in undecided):
        said_of = {
            says: ", ".join(
                _about(each)
                for each in undecided
                if each["rule"] == rule and each["report"]["says"] == says
            )
            for says in (YES, NO)
        }
        sides = " and ".join(f"{says} of {models}" for says, models in said_of.items() if models)
        yield f"- *{HEADINGS[rule]}*: the report says {sides}; its samples are too small to say."


def _deciding(comparisons: Comparisons) -> str:
    """For which models an answer hangs on the definition of fluctuation."""
    hanging = [
        f"{_about(each)} ({words})"
        for each in comparisons
        if each["rule"] == "avenue"
        for side, words in (("ours", "ours"), ("published", "published numbers"))
        if each[side] and each[side]["numbers"].get("hangs_on_fluctuation")
    ]
    if not hanging:
        return "No answer hangs on this definition: the accuracies alone already say no."
    return f"An answer hangs on this definition for {', '.join(hanging)}, and for no other."
