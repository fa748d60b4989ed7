"""The ladder as a heat map: how much of its tolerance each layer uses, level by level.

A cell stands for the worst of its tensors. Its text says the same as its colour: `2 %` of the
tolerance, `10⁻⁸` of it, `=` where nothing differs, `✕ 40x` beyond it, `?` undecided, `-` not
compared; a cell without a text is a level that a layer has no part in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from parity.ladder.measure import ABSTAIN, ERROR, FAIL, PASS
from parity.report.blocks import Cell, Heatmap, HeatRow, Table, judged
from parity.report.table import difference

Facts = Mapping[str, Any]
Column = tuple[str, str | None]  # level, precision

WORST = (ERROR, FAIL, ABSTAIN, PASS)
STEPS = (1e-6, 1e-3, 0.1, 0.5)  # of the tolerance: from here on a darker colour
NOT_COMPARED = Cell("-", "missing", "not compared")
ABSENT = Cell("", "absent")
SHOWN = 12  # tensors written out below a heat map
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# The levels' words around a tensor's name (parity.ladder.pair, .transfer, .trajectory).
BEFORE = re.compile(
    r"^(initial|final|update|moment1|moment2|trajectory|(gradient|activation|upstream)( of)?) "
)
AFTER = re.compile(r" (as drawn|alone)$")


def overview(pairs: Sequence[Facts]) -> Heatmap | None:
    """A row per pair: `left`, `right`, perhaps a `name`, and `ladder`, as in report.json."""
    climbed = [pair for pair in pairs if pair["ladder"]]
    columns = list(dict.fromkeys(_column(each) for pair in climbed for each in pair["ladder"]))
    rows = []
    for pair in climbed:
        name = pair.get("name") or f"{pair['left']} / {pair['right']}"
        of = [[each for each in pair["ladder"] if _column(each) == column] for column in columns]
        rows.append(HeatRow(name, [_level(each) for each in of]))
    return replace(_map(columns, rows, "pair"), legend=True) if rows else None


def layers(ladder: Facts) -> Heatmap | None:
    """A row per layer of one pair, `LadderReport.to_dict()`, in the network's order.

    A tensor may say itself which `layer` it belongs to.
    """
    tensors = ladder["tensors"]
    if not tensors:
        return None
    known = [each["name"] for each in tensors if each["level"] == "forward"]
    known = [name for name in dict.fromkeys(known) if bare(name) == name]
    columns: list[Column] = list(dict.fromkeys(_column(each) for each in tensors))
    found: dict[str, dict[Column, list[Facts]]] = {name: {} for name in known}
    for each in tensors:
        row = each.get("layer") or row_of(each["name"], known)
        found.setdefault(row, {}).setdefault(_column(each), []).append(each)
    declared: dict[str, list[str]] = {}
    for each in ladder["semantics"]:
        declared.setdefault(row_of(each["where"], known), []).append(each["text"])
    origins = {row_of(o["where"], known) for o in ladder["origins"] if o["status"] == "origin"}
    rows = []
    for name, cells in found.items():
        drawn = [_tensors(cells[column]) if column in cells else ABSENT for column in columns]
        rows.append(
            HeatRow(
                name, [_declared(declared.get(name)), *drawn], "starts here" * (name in origins)
            )
        )
    caption = f"{ladder['left']} against {ladder['right']}, layer by layer"
    return replace(_map([("structure", None), *columns], rows, "layer"), caption=caption)


def closest(ladder: Facts) -> Table | None:
    """The tensors that use most of their tolerance, or are beyond it."""
    measured = [each for each in ladder["tensors"] if pressure(each) > 0]
    if not measured:
        return None
    measured.sort(key=lambda each: (WORST.index(each["verdict"]), -pressure(each)))
    rows = [
        [
            each["name"],
            each["level"],
            each["precision"] or "",
            judged(each["verdict"]),
            difference(each["absolute"]),
            difference(each["tolerance"]),
            share(pressure(each)),
            each["problem"] or each["reason"],
        ]
        for each in measured[:SHOWN]
    ]
    more = len(measured) - len(rows)
    return Table(
        "The tensors closest to their tolerance",
        ("tensor", "level", "in", "verdict", "apart", "allowed", "part of it", "why"),
        rows,
        left=4,
        prose=1,
        note=f"{more:,} more tensors differ less; --csv writes them all." if more else "",
    )


def pressure(each: Facts) -> float:
    """Difference over tolerance of a tensor or a level; infinite where there is no number for it.

    Structure counts differing things, of which none may be.
    """
    apart = each["absolute"] if "absolute" in each else each["measured"]
    if each.get("problem") or (apart is None and each["verdict"] in (FAIL, ERROR)):
        return math.inf
    if not apart:
        return 0.0
    return apart / each["tolerance"] if each["tolerance"] else math.inf


def share(part: float) -> str:
    """A part of the tolerance in a few characters.

    >>> [share(part) for part in (0.0, 3e-9, 0.0196, 0.6, 40.2, 2e7)]
    ['=', '10⁻⁸', '2 %', '60 %', '40x', '10⁷x']
    """
    if not part:
        return "="
    if math.isinf(part):
        return ""
    if part < 0.001:
        return "10" + str(math.ceil(math.log10(part))).translate(SUPERSCRIPTS)
    if part <= 1:
        return f"{100 * part:.2g} %" if part < 0.995 else "100 %"
    if part < 1000:
        return f"{part:.3g}x" if part < 10 else f"{part:.0f}x"
    return "10" + str(round(math.log10(part))).translate(SUPERSCRIPTS) + "x"


def row_of(name: str, known: Sequence[str]) -> str:
    """The layer that a tensor belongs to, by the names of the layers; itself where it has none.

    >>> row_of("gradient of block1.conv.kernel alone", ["block1.conv"]), row_of("loss by step", [])
    ('block1.conv', 'loss')
    """
    inner = bare(name)
    if inner in known:
        return inner
    return inner.rpartition(".")[0] or inner.removesuffix(" by step")


def bare(name: str) -> str:
    """A tensor's own name, without the words that its level puts around it."""
    return AFTER.sub("", BEFORE.sub("", name))


def _column(each: Facts) -> Column:
    return each["level"], each["precision"]


def _map(columns: Sequence[Column], rows: Sequence[HeatRow], first: str) -> Heatmap:
    groups: list[tuple[str, int]] = []
    for level, _ in columns:
        if groups and groups[-1][0] == level:
            groups[-1] = (level, groups[-1][1] + 1)
        else:
            groups.append((level, 1))
    names = [precision or "" for _, precision in columns]
    return Heatmap("Each level as a whole", groups, names, rows, first)


def _level(results: Sequence[Facts]) -> Cell:
    """A level's results in one precision: the worst of them."""
    if not results:
        return NOT_COMPARED
    worst = min(results, key=lambda each: (WORST.index(each["verdict"]), -pressure(each)))
    if worst["level"] == "structure" and worst["verdict"] == FAIL:
        return _cell(FAIL, math.inf, worst["detail"], f"{worst['measured']:g}")
    if worst["verdict"] == ABSTAIN and worst["measured"] is None:
        return Cell("-", "missing", f"not compared: {worst['detail']}")
    return _cell(worst["verdict"], pressure(worst), worst["detail"])


def _tensors(measured: Sequence[Facts]) -> Cell:
    """A layer's tensors on one level, by the rule of a whole level: all that must pass, do."""
    binding = [each for each in measured if not each["optional"]] or measured
    compared = [each for each in binding if each["elements"] or each["verdict"] == FAIL]
    failing = [each for each in measured if each["verdict"] == FAIL]
    if not compared and not failing:
        return NOT_COMPARED
    undecided = [each for each in binding if each["verdict"] == ABSTAIN]
    shown = failing or undecided or compared
    worst = max(shown, key=pressure)
    numbers = f"{difference(worst['absolute'])} apart, {difference(worst['tolerance'])} allowed"
    title = f"{worst['name']}: {worst['problem'] or numbers}"
    return _cell(worst["verdict"], pressure(worst), title)


def _declared(texts: Sequence[str] | None) -> Cell:
    if texts:
        return _cell(FAIL, math.inf, "; ".join(texts), f"{len(texts)}")
    return _cell(PASS, 0.0, "nothing declared differently")


def _cell(verdict: str, part: float, title: str, text: str = "") -> Cell:
    text = text or share(part)
    if verdict == PASS:
        return Cell(text, f"heat-{0 if not part else 1 + sum(part >= s for s in STEPS)}", title)
    symbol = {FAIL: "✕", ABSTAIN: "?", ERROR: "!"}[verdict]
    return Cell(f"{symbol} {text}".strip(), f"heat-{verdict}", title)


def legend() -> Iterator[Cell]:
    """The cells that explain the colours."""
    for part, words in (
        (0.0, "= nothing differs"),
        (1e-9, "below 10⁻⁶ of the tolerance"),
        (1e-5, "below 0.1 %"),
        (0.01, "below 10 %"),
        (0.2, "below 50 %"),
        (0.9, "up to the tolerance"),
    ):
        yield Cell(words, _cell(PASS, part, "").style)
    yield Cell("✕ beyond it", "heat-fail")
    yield Cell("? undecided", "heat-abstain")
    yield Cell("- not compared", "missing")
