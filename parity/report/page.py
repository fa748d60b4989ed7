"""Results as one HTML page: no network, no script, the same bytes for the same results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parity.recording import write_atomically
from parity.report import heatmap
from parity.report.blocks import Document
from parity.report.documents import check, explanation, run, selftest, several, study
from parity.report.sources import Check, Explanation, Ladder, Run, Selftest, Source, Study, read
from shared_data.errors import InputError, printable

NAME = "report.html"


def write(folder: Path, *others: Path, out: Path | None = None, images: int = 0) -> Path:
    """Write the page of the results in `folder`, and beside them those of `others`.

    Args:
        folder, others: what a command has left: a folder, or the file of its --json.
        out: the page's file; by default `report.html` in `folder`, or beside it if it is a file.
        images: how many of the most disagreeing test images of a run to put on the page.

    Returns:
        The page's path; it is written whole or not at all.

    Raises:
        InputError: there are no results, they are damaged, or images are asked for and not at hand.
    """
    sources = [read(each) for each in (folder, *others)]
    text = html(sources, images)
    path = out or (folder if folder.is_dir() else folder.parent) / NAME
    write_atomically(path, text.encode())
    return path


def html(sources: Sequence[Source], images: int = 0) -> str:
    """The page. Raises `InputError` as `write` does."""
    documents = [_document(source, images) for source in sources]
    if len(documents) > 1:
        keyed = [replace(each, key=f"r{at}-") for at, each in enumerate(documents, 1)]
        first, rest = several.document(sources, documents), keyed
    else:
        first, rest = documents[0], []
    template = _environment().get_template("page.html.j2")
    text = template.render(first=first, rest=rest, legend=list(heatmap.legend()))
    lines = re.sub(r"\n\s*\n+", "\n", text).strip().split("\n")
    return "\n".join(map(printable, lines)) + "\n"  # a path may hold what is no text at all


def _document(source: Source, images: int) -> Document:
    try:
        match source:
            case Run():
                return run.document(source, images)
            case Study():
                return study.document(source)
            case Explanation():
                return explanation.document(source)
            case Check():
                return check.check(source)
            case Selftest():
                return selftest.document(source)
            case Ladder():
                return check.ladder(source)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{source.name} is damaged, or of another version ({what})") from None
    raise InputError(f"{source.name}: no page for {type(source).__name__}")


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("parity.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    made.filters["drawing"] = Markup  # of parity.report.inline: the only markup not of a template
    return made
