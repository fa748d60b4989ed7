"""From recordings of the whole study to a folder that holds what the report contains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.recording import write_atomically
from parity.report.build import finite
from parity.study import over_seeds, pages
from parity.study.arms import Study, published_study
from parity.study.figures import FIGURES, caption, heading, write_figures
from parity.study.fluctuation import DEFINITION
from parity.study.grid import Table, to_csv, to_json, to_markdown
from parity.study.judgements import RULES, judge_study
from parity.study.sentences import beside_report
from parity.study.tables import study_tables
from shared_data.errors import InputError

SCHEMA = 1
SUMMARY = "summary.json"


def write(
    study: Study, folder: Path, mode: str, seeds: Mapping[int, Study] | None = None
) -> dict[str, Any]:
    """Write tables, figures, judgements and `summary.json` into `folder`; return the summary.

    `mode` names the study, `aligned` or `as_published`; `seeds` are this study and its likes from
    other seeds, where there are several. Equal studies give equal files; arms may be missing.
    `summary.json` comes last: where it stands, all of it stands, and `section` needs nothing else.
    Raises `InputError` where arms were trained on different data; then nothing is written.
    """
    tables = study_tables(study)
    summary = _summary(study, tables, mode)
    if seeds and len(seeds) > 1:
        summary["over_seeds"] = over_seeds.twins(seeds)
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)  # of an earlier study
    for table in tables:
        for kind, writer in (("md", to_markdown), ("csv", to_csv), ("json", to_json)):
            write_atomically(folder / f"table{table.number}.{kind}", writer(table).encode())
    write_figures(study, figures)
    judgements = {key: summary[key] for key in ("rules", "fluctuation", "judgements")}
    write_atomically(folder / "judgements.json", _json(judgements))
    write_atomically(folder / "judgements.md", pages.judgements_page(summary).encode())
    if "over_seeds" in summary:
        page = [f"# {over_seeds.TITLE}", "", *over_seeds.lines(summary["over_seeds"]), ""]
        write_atomically(folder / "over_seeds.md", "\n".join(page).encode())
    write_atomically(folder / "figures.md", pages.figures_page(summary).encode())
    write_atomically(folder / SUMMARY, _json(summary))
    return summary


def section(folder: Path, link: str) -> str:
    """The README's section on what `write` left in `folder`; `link` leads there from the README.

    Raises `InputError` where there is no summary, or one of another schema.
    """
    return pages.section(read_summary(folder), link)


def read_summary(folder: Path) -> dict[str, Any]:
    """What `write` returned. Raises `InputError` as `section` does."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no summary of a study: {error}") from None
    if summary.get("schema") != SCHEMA:
        raise InputError(f"{folder / SUMMARY} is not of schema {SCHEMA}: render it again")
    return summary


def _summary(study: Study, tables: Sequence[Table], mode: str) -> dict[str, Any]:
    published = published_study()
    summary = {
        "schema": SCHEMA,
        "mode": mode,
        "table_1_exact": tables[0].exact,
        "tables": [table.to_dict() for table in tables],
        "rules": RULES,
        "fluctuation": DEFINITION,
        "judgements": [each.to_dict() for each in beside_report(judge_study(study))],
        "figures": {
            letter: {"heading": heading(letter), "caption": caption(letter, study, published)}
            for letter in FIGURES
        },
    }
    found: dict[str, Any] = finite(summary)
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
