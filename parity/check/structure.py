"""The level `structure`: numbers that one side alone holds, and what is declared and no run shows.

"I could not map it" is not "it differs": where both sides have numbers left that could be each
other's, the check abstains. Where one side trains numbers that the other cannot hold, it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parity import transfer
from parity.check import ALLOWED
from parity.check.ends import Outputs
from parity.check.graph import Graph, Parameter
from parity.check.origins import Origin
from parity.check.trace import Trace
from parity.ladder.measure import ABSTAIN, FAIL, PASS
from parity.ladder.results import LevelResult, listed

Rows = dict[str, np.ndarray]
Depends = Callable[..., set[str]]  # of a side and names; and of some of these the rows alone
SIDES = {"keras": "Keras", "torch": "PyTorch"}


@dataclass(frozen=True)
class Alone:
    """Parameters that no number of the other side's goes into.

    Attributes:
        held: by side, those that something depends on.
        unread: by side, those that nothing depends on, and constants: they decide nothing.
        frozen: parameters that are trained on one side and not on the other, in words.
        unequal: whether the sides train different amounts of numbers: then one holds some alone.
        read: by side, names of those that something depends on, trained or not.
        terms: what is declared and no run shows, by side: regularisers, constraints, hooks.
        moving: of what is not trained and yet read, what training moves, in words (`moved`).
        rows: by side, of tables that hold those of the other side, which rows are their own.
        read_rows: those of them that something depends on, in words.
    """

    held: dict[str, tuple[Parameter, ...]]
    unread: dict[str, tuple[Parameter, ...]]
    frozen: tuple[tuple[str, str], ...]
    unequal: bool
    read: dict[str, set[str]]
    terms: dict[str, tuple[str, ...]]
    moving: tuple[str, ...] = ()
    rows: dict[str, Rows] = field(default_factory=dict)
    read_rows: tuple[str, ...] = ()

    @classmethod
    def of(cls, keras: Graph, torch: Graph, mapping: transfer.Mapping, depends: Depends) -> Alone:
        graphs = {"keras": keras, "torch": torch}
        single, rows = _single(keras, torch, mapping)
        held, unread, all_read = {}, {}, {}
        for side, graph in graphs.items():
            alone = [each for each in graph.parameters if each.name in single[side]]
            read = depends(side, [each.name for each in alone]) if alone else set()
            all_read[side] = read
            trained = [each for each in alone if each.name in read and each.trained]
            held[side] = tuple(trained)
            unread[side] = tuple(each for each in alone if each not in trained)
        # A table may have rows that the other's has not, and nothing reads: that is no proof.
        tables = {side: _tables(graph, held[side]) for side, graph in graphs.items()}
        open_ = {size for size in tables["keras"].values() if size in tables["torch"].values()}
        read_rows = tuple(
            f"{SIDES[side]} alone has rows {listed(map(str, np.flatnonzero(own[name])))} of {name}"
            for side, own in rows.items()
            if own
            for name in sorted(depends(side, [*own], own))
        )
        counts = [
            sum(
                int(np.prod(each.shape)) - each.shape[-1] * int(rows[side][each.name].sum())
                if each.name in rows[side]
                else int(np.prod(each.shape))
                for each in graph.parameters
                if each.trained
                and each not in unread[side]
                and tables[side].get(each.name) not in open_
            )
            for side, graph in graphs.items()
        ]
        frozen = tuple(_frozen(keras, torch, mapping, single))
        terms = {side: tuple(graph.semantics.get("terms", ())) for side, graph in graphs.items()}
        unequal = counts[0] != counts[1]
        return cls(held, unread, frozen, unequal, all_read, terms, rows=rows, read_rows=read_rows)

    def moved(self, traces: Iterable[Trace], before: dict[str, dict[str, np.ndarray]]) -> Alone:
        """Statistics that one side alone keeps: nothing was carried to them, so that no weights
        that are awake show what they do."""
        found = [
            f"{SIDES[trace.framework]} alone keeps {each.name}, which training moves"
            for trace in traces
            for each in self.unread[trace.framework]
            if each.name in self.read[trace.framework]
            and (after := trace.tensors.get(f"update/{each.name}")) is not None
            and not np.array_equal(after, before[trace.framework][each.name].astype(after.dtype))
        ]
        return replace(self, moving=tuple(found))

    @property
    def unknown(self) -> bool:
        """Whether both sides have numbers left: to run on would only accuse."""
        return bool(self.held["keras"]) and bool(self.held["torch"])

    def names(self, side: str) -> set[str]:
        return {each.name for each in (*self.held[side], *self.unread[side])}

    def numbers(self) -> int:
        return sum(int(np.prod(e.shape)) for each in self.held.values() for e in each)

    def listed(self) -> list[str]:
        return [e.name for each in self.held.values() for e in each]

    def result(self, outputs: Outputs, allow: Collection[str]) -> LevelResult:
        wrong = [*(text for _, text in self.frozen), *self.moving, *self.read_rows]
        if self.unequal or not self.unknown:
            wrong += [
                f"{SIDES[side]} alone trains {each.name} {list(each.shape)}"
                for side, found in self.held.items()
                for each in found
            ]
        doubts = [*outputs.doubts]
        if self.unknown and not self.unequal:
            names = [each.name for found in self.held.values() for each in found]
            doubts.append(
                f"no counterpart was found for {listed(names)}: say with --map which is which "
                "(--write-map map.toml writes what is known)"
            )
        terms = [f"{SIDES[side]}: {each}" for side, found in self.terms.items() for each in found]
        if terms and ALLOWED[0] not in allow:
            doubts.append(
                f"declared, and shown by no run: {listed(terms)}; if the other side's training "
                f"does the same, say so with --allow {ALLOWED[0]}"
            )
        if wrong:
            return LevelResult(
                *("structure", FAIL, None, len(wrong), 0, "no number may be on one side alone"),
                where=wrong[0],
                detail="; ".join(wrong),
            )
        if doubts:
            return LevelResult("structure", ABSTAIN, where=doubts[0], detail="; ".join(doubts))
        said = f"allowed: {listed(terms)}" if terms else "every trained number has its counterpart"
        return LevelResult("structure", PASS, detail=said)

    def origins(self) -> list[Origin]:
        """Numbers that one side alone trains start a difference by themselves."""
        if self.unknown and not self.unequal:
            return []
        found = [Origin(name, "", "structure", text) for name, text in self.frozen]
        found += [
            Origin(e.layer, "", "structure", f"PyTorch has no {e.role}") for e in self.held["keras"]
        ]
        return found + [
            Origin("", e.layer, "structure", f"Keras has no {e.role}") for e in self.held["torch"]
        ]

    def notes(self) -> list[str]:
        return [
            f"{SIDES[side]}: nothing was carried to or from {listed(e.name for e in found)}: "
            "constants, or nothing depends on them"
            for side, found in self.unread.items()
            if found
        ] + [
            f"{SIDES[side]}: rows {listed(map(str, np.flatnonzero(own)))} of {name} have no "
            "counterpart, and nothing depends on them"
            for side, found in self.rows.items()
            for name, own in found.items()
            if not self.read_rows
        ]


def _tables(graph: Graph, held: Sequence[Parameter]) -> dict[str, int]:
    """The width of those that rows are looked up in."""
    layers = {node.layer for node in graph.nodes if "embedding" in node.kind.lower()}
    uses = graph.semantics.get("uses", {})
    return {
        each.name: each.shape[-1]
        for each in held
        if len(each.shape) == 2
        and (each.layer in layers or (uses.get(each.name) or [""])[0] == "table")
    }


def _single(
    keras: Graph, torch: Graph, mapping: transfer.Mapping
) -> tuple[dict[str, set[str]], dict[str, Rows]]:
    """By side, parameters into which no number of the other side's goes; and rows of tables, where
    the others are the other side's."""
    found, rows = dict[str, set[str]](), dict[str, Rows]()
    for source, target, carry in (
        (keras, torch, transfer.to_torch),
        (torch, keras, transfer.to_keras),
    ):
        unknown = {p.name: filled(p.shape, np.nan) for p in source.parameters}
        arrived = carry(unknown, mapping, keras, torch, lost=[])
        full = {name for name, value in arrived.items() if np.isnan(value).all()}
        own: Rows = {
            name: np.asarray(~np.isnan(value).any(1))
            for name, value in arrived.items()
            if value.ndim == 2 and name not in full and np.isnan(value).all(1).any()
        }
        found[target.framework] = {p.name for p in target.parameters} - full - {*own}
        rows[target.framework] = own
    return found, rows


def _frozen(
    keras: Graph, torch: Graph, mapping: transfer.Mapping, single: dict[str, set[str]]
) -> list[tuple[str, str]]:
    """Whose numbers one side trains and the other does not."""
    marks = {p.name: filled(p.shape, 1 if p.trained else 2) for p in keras.parameters}
    arrived = transfer.to_torch(marks, mapping, keras, torch, lost=[])
    found = []
    for each in torch.parameters:
        if each.name in single["torch"] or each.name not in arrived:
            continue
        trained = arrived[each.name] == 1
        if each.trained and not trained.any():
            found.append((each.layer, f"PyTorch trains {each.name}, which Keras does not"))
        elif not each.trained and trained.any():
            found.append((each.layer, f"Keras trains what PyTorch does not: {each.name}"))
    return found


def filled(shape: tuple[int, ...], value: float) -> np.ndarray:
    """One number in every place, and in memory once."""
    return np.broadcast_to(np.array(value, np.float16), shape)
