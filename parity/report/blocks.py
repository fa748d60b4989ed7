"""What a page consists of, before any HTML: sections of texts, tables, heat maps and figures.

Every text is plain; the templates escape it. Only a figure's `svg` is markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

SYMBOLS = {
    **{word: "✓" for word in ("pass", "yes")},
    **{word: "✕" for word in ("fail", "no")},
    **{word: "?" for word in ("abstain", "inconclusive", "undecided")},
    "error": "!",
    "finding": "▲",
}
STYLES = {"yes": "pass", "no": "fail", "inconclusive": "abstain", "undecided": "abstain"}


@dataclass(frozen=True)
class Cell:
    """A text in a table, how it is drawn (`style`, a class of the style sheet), and more on it."""

    text: str
    style: str = ""
    title: str = ""


Content = str | Cell


@dataclass(frozen=True)
class Text:
    """Paragraphs, or with `listed` a list."""

    kind: ClassVar[str] = "text"
    lines: Sequence[str]
    listed: bool = False


@dataclass(frozen=True)
class Command:
    """Something to type."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first of each row names it. All but the first `left` and the last `prose`
    columns are numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Content]]
    left: int = 1
    prose: int = 0
    note: str = ""


@dataclass(frozen=True)
class Tables:
    """Small tables side by side."""

    kind: ClassVar[str] = "tables"
    tables: Sequence[Table]


@dataclass(frozen=True)
class HeatRow:
    """A layer or a pair; `mark` says what is special about it."""

    name: str
    cells: Sequence[Cell]
    mark: str = ""


@dataclass(frozen=True)
class Heatmap:
    """Rows by levels; `groups` are the levels with how many columns each spans."""

    kind: ClassVar[str] = "heatmap"
    caption: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[str]
    rows: Sequence[HeatRow]
    first: str = "layer"
    legend: bool = False  # of the colours, below it


@dataclass(frozen=True)
class Figure:
    """A drawing with its name and what it shows in words, for those who do not see it too."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Figures:
    """Drawings side by side; `legend` has a style and words for each of their lines."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Image:
    """A picture as a data URI, with what it shows in words."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Images:
    kind: ClassVar[str] = "images"
    images: Sequence[Image]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]


Block = Text | Command | Table | Tables | Heatmap | Figures | Images | Folded


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """One result: its verdict in a word and in a sentence, then everything else."""

    title: str
    subtitle: str
    verdict: str
    sentence: str
    sections: Sequence[Section]
    key: str = ""  # begins the ids of its sections, where a page has several documents
    tags: Sequence[str] = ()

    @property
    def style(self) -> str:
        return STYLES.get(self.verdict, self.verdict)

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.verdict]


def judged(verdict: str, text: str = "") -> Cell:
    """A verdict, readable without its colour.

    >>> judged("fail").text, judged("undecided").style
    ('✕ fail', 'abstain')
    """
    return Cell(f"{SYMBOLS[verdict]} {text or verdict}", STYLES.get(verdict, verdict))
