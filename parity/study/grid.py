"""A table in which every number stands beside the published one, and how it is written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LINES = ("ours", "published", "difference")


@dataclass(frozen=True)
class Cell:
    """One number. `digits`: decimals shown; the files for machines have them all."""

    ours: float | None
    published: float | None
    digits: int = 0

    @property
    def difference(self) -> float | None:
        """Ours less the published one; None where either is missing."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published

    def text(self, line: str) -> str:
        """`ours`, `published` or `difference`, as shown; `-` where there is none.

        >>> Cell(99.224806, 100.0, 2).text("difference"), Cell(470, 470).text("difference")
        ('-0.78', '0')
        """
        value = getattr(self, line)
        if value is None:
            return "-"
        if line == "difference":
            return f"{value:+.{self.digits}f}" if value else "0"
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    label: str
    cells: tuple[Cell, ...]  # one per column of the table


@dataclass(frozen=True)
class Table:
    """One of the report's tables. Raises `ValueError` where a row does not fit the columns."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.number}, row {row.label!r}: {len(row.cells)} cells for "
                    f"{len(self.columns)} columns"
                )

    @property
    def exact(self) -> bool:
        """Whether every number is the published one; a missing number is not."""
        cells = [cell for row in self.rows for cell in row.cells]
        return bool(cells) and all(cell.difference == 0 for cell in cells)

    def cell(self, label: str, column: str) -> Cell:
        """Raises `KeyError` where there is no such row or column."""
        for row in self.rows:
            if row.label == label and column in self.columns:
                return row.cells[self.columns.index(column)]
        raise KeyError(f"table {self.number} has no {label!r} of {column!r}")

    def to_dict(self) -> dict[str, Any]:
        """Types that strict JSON can hold; `from_dict` is the inverse."""
        return {
            "number": self.number,
            "title": self.title,
            "columns": list(self.columns),
            "rows": [
                {
                    "label": row.label,
                    "cells": [{**vars(cell), "difference": cell.difference} for cell in row.cells],
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Table:
        rows = [
            Row(row["label"], tuple(_cell(cell) for cell in row["cells"])) for row in values["rows"]
        ]
        columns, notes = tuple(values["columns"]), tuple(values["notes"])
        return cls(values["number"], values["title"], columns, tuple(rows), notes)


def to_json(table: Table) -> str:
    return json.dumps(table.to_dict(), indent=1, allow_nan=False) + "\n"


def to_csv(table: Table) -> str:
    """One line per number, for programs: row, column, ours, published, difference."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", *LINES])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            writer.writerow([row.label, column, *(getattr(cell, line) for line in LINES)])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The report's layout, every row as three lines: ours, published, difference."""
    lines = [f"**Table {table.number}.** {table.title}", ""]
    lines += markdown_table(["", "", *table.columns], list(_lines(table)), left=2)
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def markdown_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> list[str]:
    """The lines of a table whose first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(heading) - left)
    cells = [heading, rule, *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _lines(table: Table) -> Iterator[list[str]]:
    for row in table.rows:
        for line in LINES:
            label = row.label if line == LINES[0] else ""
            yield [label, line, *(cell.text(line) for cell in row.cells)]


def _cell(values: Mapping[str, Any]) -> Cell:
    return Cell(values["ours"], values["published"], values["digits"])
