"""The batches that two models are run on: a first one, and a series in which nothing can hide.

Each further batch has its reasons. What an input is taken for (indices into a table, a mask, token
types, padded steps) is told from its type, its range and its name, and said in the report; a batch
that was given stays as it is, and is varied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.check.ends import indices
from parity.check.graph import INPUT, Graph

Arrays = dict[str, np.ndarray]
LARGE, SMALL = 1e3, 1e-3  # times what is drawn
OFFSET = 8e3  # beside what is drawn: in float32 its square has no digit left for it
MASK, TYPES = re.compile("mask"), re.compile("segment|type")


@dataclass(frozen=True)
class Batch:
    """`name` also says why it is there; `values` are the inputs as Keras takes them."""

    name: str
    values: Arrays
    inference_only: bool = False


class Drawing:
    """What the inputs of a model are, and batches of them.

    Attributes:
        said: what each input that is no plain number was taken for.
        far: how many times as large as what is drawn all that is large is.
    """

    def __init__(self, graph: Graph, like: Arrays, seed: int, given: bool) -> None:
        """`like` is a batch of the right shapes and types; `given`: by the user."""
        self.like, self.seed, self.given = like, seed, given
        self.rows = indices(graph)
        names = graph.semantics.get("input_names", [])
        named = {f"{INPUT}{at}": str(name).lower() for at, name in enumerate(names)}
        self.open = {f"{INPUT}{at}": e for at, e in enumerate(graph.semantics.get("open", []))}
        self.masks, self.types = set[str](), set[str]()
        for name, value in like.items():
            if value.dtype.kind in "iub" and name not in self.rows:
                if MASK.search(named.get(name, "")) or value.dtype.kind == "b":
                    self.masks.add(name)
                elif value.dtype != np.uint8 and not given:
                    self.types.add(name)
            elif MASK.search(named.get(name, "")) and value.ndim == 2:
                self.masks.add(name)
        for name in [n for n in self.rows if TYPES.search(named.get(n, "")) and self.rows[n] < 9]:
            self.types.add(name)
        self.far = max(LARGE, *(4 * abs(each) for each in _constants(graph)))
        self.masked = bool(self.masks) or any(
            node.settings.get("mask_zero") or node.kind == "other:Masking" for node in graph.nodes
        )
        kinds = [
            ("indices below", self.rows),
            ("a mask", self.masks),
            ("small whole numbers", self.types),
        ]
        self.said = [
            f"{named.get(name, name)} is taken for {kind}{f' {self.rows[name]}' if at == 0 else ''}"
            for at, (kind, found) in enumerate(kinds)
            for name in found
            if not given and not (at == 0 and name in self.types)
        ]

    def first(self) -> Arrays:
        """The batch that is looked into: the user's, or standard normal numbers and indices."""
        if self.given:
            return self.like
        drawn = self._drawn(len(next(iter(self.like.values()))), 0)
        for name in self.masks:
            drawn[name] = np.ones_like(drawn[name])
        return drawn

    def series(self, draws: int = 1) -> list[Batch]:
        """The further batches; all of them drawn as many times."""
        found = self._series()
        for at in range(1, draws):
            again = Drawing.__new__(Drawing)
            vars(again).update(vars(self), seed=self.seed + at)
            found += [replace(b, name=f"{b.name}, draw {at + 1}") for b in again._series()]
        return found

    def _series(self) -> list[Batch]:
        many = len(next(iter(self.like.values())))
        floats = [n for n in self.like if self._plain(n)]
        found = [
            Batch("one sample, small numbers", self._scaled(self._some(1, 1), SMALL)),
            Batch("two samples", self._some(2, 2)),
            Batch("an odd number of samples", self._some(5 if many != 5 else 3, 3)),
        ]
        if floats:
            found.append(Batch("large numbers", self._scaled(self._some(3, 4), self.far)))
            even = {
                n: np.full_like(v, 0.5) if n in floats else v for n, v in self._some(2, 5).items()
            }
            found.append(Batch("one number throughout", even, inference_only=True))
            found.append(Batch("zeros and repeated samples", self._repeated(), inference_only=True))
        if self.rows:
            found.append(Batch("every row of small tables", self._every_row()))
        if self.masked or self.rows:
            found.append(Batch("padded at the ends", self._padded()))
        if not self.given:
            found += self._other_sizes()
        return found

    def close(self) -> Batch | None:
        """Large numbers close together, of which single precision leaves few digits; None where no
        input is of floating type."""
        values = self._some(5, 10)
        if not any(map(self._plain, values)):
            return None
        for name, value in values.items():
            if self._plain(name):
                near = value / max(float(np.abs(value).max(initial=0.0)), 1.0)
                values[name] = (near + OFFSET).astype(value.dtype)
        return Batch("large numbers close together", values)

    @property
    def looked_up(self) -> bool:
        """Whether all numbers that a model is given come out of tables: then no batch is large."""
        return bool(self.rows) and not any(map(self._plain, self.like))

    def _plain(self, name: str) -> bool:
        special = name in self.rows or name in self.masks or name in self.types
        return self.like[name].dtype.kind == "f" and not special

    def _some(self, batch: int, number: int) -> Arrays:
        """Other numbers, or of a given batch samples of it."""
        if not self.given:
            return self._drawn(batch, number)
        many = len(next(iter(self.like.values())))
        picked = np.random.default_rng([self.seed, number]).integers(0, many, batch)
        return {name: value[picked] for name, value in self.like.items()}

    def _drawn(self, batch: int, number: int, shapes: Mapping[str, tuple[int, ...]] = {}) -> Arrays:
        generator = np.random.default_rng([self.seed, number])
        drawn = {}
        for name, value in self.like.items():
            shape = (batch, *shapes.get(name, value.shape[1:]))
            if name in self.masks:
                made: Any = np.ones(shape)
            elif name in self.types:
                made = generator.integers(0, min(2, self.rows.get(name, 2)), shape)
            elif name in self.rows:
                least = 1 if self.masked and self.rows[name] > 1 else 0  # 0 is padding there
                made = generator.integers(least, self.rows[name], shape)
            elif value.dtype == np.uint8:
                made = generator.integers(0, 256, shape)
            elif value.dtype.kind in "iu":
                made = generator.integers(0, 2, shape)
            else:
                made = generator.standard_normal(shape)
            drawn[name] = np.asarray(made).astype(value.dtype)
        return drawn

    def _scaled(self, values: Arrays, factor: float) -> Arrays:
        return {
            name: (value * factor).astype(value.dtype) if self._plain(name) else value
            for name, value in values.items()
        }

    def _repeated(self) -> Arrays:
        values = {name: value.copy() for name, value in self._some(4, 6).items()}
        for name, value in values.items():
            value[1] = value[0]
            if self._plain(name) and not self.masked:  # nothing is left of a sample that is masked
                value[2] = 0
        return values

    def _every_row(self) -> Arrays:
        """Of a table larger than the batch, its first and its last rows; where 0 is padding, it
        stays where it is."""
        values = {name: value.copy() for name, value in self._some(4, 7).items()}
        for name in self.rows:
            flat, rows = values[name].reshape(-1), self.rows[name]
            if self.masked and rows > 1:
                places = np.flatnonzero(flat != 0)
                wanted = 1 + np.arange(len(places)) % (rows - 1)
            else:
                places = np.arange(len(flat))
                wanted = places % rows
            half = len(places) // 2
            if len(places) < rows:
                wanted[half:] = rows - 1 - np.arange(len(places) - half)
            flat[places] = wanted
        return values

    def _padded(self) -> Arrays:
        """Sequences of other lengths, one of them whole; what stands behind them is 0."""
        values = {name: value.copy() for name, value in self._some(4, 8).items()}
        steps = max(
            (v.shape[1] for n, v in values.items() if v.ndim > 1 and self._sequence(n)), default=0
        )
        if steps < 2:
            return values
        lengths = [steps, max(1, steps // 2), 1, max(1, steps - 1)]
        for name, value in values.items():
            if not self._sequence(name) or value.ndim < 2 or value.shape[1] != steps:
                continue
            if name in self.rows and self.rows[name] > 1 and name not in self.types:
                value[value == 0] = 1  # padding alone is 0
            for sample, length in zip(value, lengths, strict=False):
                sample[length:] = 0
        return values

    def _sequence(self, name: str) -> bool:
        value = self.like[name]
        steps = value.ndim == 3 and self.masked and self._plain(name)
        return name in self.rows or name in self.masks or steps

    def _other_sizes(self) -> list[Batch]:
        """Where Keras leaves a size open: a smaller and a larger one, the same in all inputs."""
        found = []
        for number, change in enumerate(
            (lambda n: max(2, n - 3), lambda n: 2 * n + 1, lambda n: 3 * n)
        ):
            shapes = {}
            for name, open_ in self.open.items():
                if name in self.like and any(open_):
                    own = self.like[name].shape[1:]
                    shapes[name] = tuple(
                        change(n) if is_open else n for n, is_open in zip(own, open_, strict=True)
                    )
            if shapes:
                said = ", ".join("x".join(map(str, shape)) for shape in shapes.values())
                found.append(Batch(f"another size ({said})", self._drawn(2, 9 + number, shapes)))
        return found


def _constants(graph: Graph) -> list[float]:
    """The numbers that stand in a graph's settings, such as the bounds of a clip."""
    found: list[float] = [0.0]
    todo: list[object] = [node.settings for node in graph.nodes]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value
        elif isinstance(value, float) and np.isfinite(value):
            found.append(value)
    return found
