"""Both models in processes of their own: what they are, and how far apart a mapping leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file, save

from parity.check.awake import awakened
from parity.check.cuts import cut_points
from parity.check.graph import INPUT, Graph
from parity.check.sides import Process
from parity.check.trace import Request, Trace, draw_inputs
from parity.recording import write_atomically
from parity.transfer.apply import to_keras, to_torch
from parity.transfer.layouts import MERGING, Layout
from parity.transfer.mapping import Mapping
from shared_data.errors import InputError

Shapes = tuple[tuple[int, ...], ...]
Arrays = dict[str, np.ndarray]
BATCH = 2


@dataclass
class Pair:
    """A Keras and a PyTorch model, described into `folder`.

    Attributes:
        models: what to build each from, by side.
        weights: a file for a side, to load over what the builder gives.
        shapes: of the inputs without the batch, by side, where they are given.
    """

    folder: Path
    models: dict[str, str]
    weights: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)
    tensors: dict[str, Arrays] = field(default_factory=dict)
    inputs: dict[str, Path] = field(default_factory=dict)

    def describe(self) -> None:
        """Describe Keras' model, then PyTorch's on the same inputs in its layout.

        Raises `InputError` where a model cannot be built, or does not take these inputs.
        """
        shapes = self.shapes.get("keras", ())
        self._describe("keras", self.request("keras", input_shapes=shapes))
        drawn = draw(self.graphs["keras"])
        self._write_inputs("keras", drawn)
        refused: list[InputError] = []
        for inputs in self._layouts(drawn):
            self._write_inputs("torch", inputs)
            try:
                self._describe("torch", self.request("torch", inputs=str(self.inputs["torch"])))
                return
            except InputError as error:
                refused.append(error)
        raise refused[0]

    def request(self, side: str, **more: object) -> Request:
        known = {"model": self.models[side], "weights": self.weights.get(side), "batch": BATCH}
        return Request(**{**known, **more})  # type: ignore[arg-type]

    def reached(self, mapping: Mapping, source: str) -> set[str]:
        """The Keras nodes whose outputs both models give with weights by `mapping` (`settle`).

        In float64, in inference mode.
        """
        target = "torch" if source == "keras" else "keras"
        weights, _ = awakened(self.tensors[source], self.tensors[source], 0)
        if source not in self._ran:
            self._ran[source] = self._run(source, self._stored(source, weights))
        carry = to_torch if target == "torch" else to_keras
        graphs = self.graphs["keras"], self.graphs["torch"]
        carried = carry(weights, mapping, *graphs, start=self.tensors[target], lost=[])
        ran = {**self._ran, target: self._run(target, self._stored(target, carried))}
        found = cut_points(ran["keras"], ran["torch"], "forward")
        for ours, theirs in zip(*(graph.outputs for graph in graphs), strict=False):
            if theirs not in found.get(ours, ()):
                found.pop(ours, None)
        return set(found)

    def save(self, path: Path, weights: Path) -> None:
        """Write Keras' model with other weights as a `.keras` file."""
        asked = self.request("keras", weights=str(weights), inputs=str(self.inputs["keras"]))
        folder = self.folder / "saved"
        self._sides["keras"].ask("save", asked, folder)
        write_atomically(path, (folder / "model.keras").read_bytes())

    def __post_init__(self) -> None:
        self._ran: dict[str, Trace] = {}
        self._sides = {side: Process(side, model) for side, model in self.models.items()}

    def __enter__(self) -> Self:
        for side in self._sides.values():
            side.start()
        return self

    def __exit__(self, *error: object) -> None:
        for side in self._sides.values():
            side.close()

    def _describe(self, side: str, request: Request) -> None:
        self.graphs[side] = self._sides[side].describe(request, self.folder / side)
        self.tensors[side] = load_file(self.folder / side / "weights.safetensors")

    def _stored(self, side: str, weights: Arrays) -> str:
        path = self.folder / f"tried-{side}.safetensors"
        write_atomically(path, save(weights))
        return str(path)

    def _run(self, side: str, weights: str) -> Trace:
        request = self.request(
            side,
            weights=weights,
            inputs=str(self.inputs[side]),
            levels=("forward",),
            precision="float64",
            nudge=False,
        )
        trace = self._sides[side].trace(request, self.folder / side)
        trace.tensors = dict(trace.tensors)  # its files are written over
        return trace

    def _write_inputs(self, side: str, inputs: Arrays) -> None:
        self.inputs[side] = self.folder / f"{side}.npz"
        np.savez(self.inputs[side], **inputs)  # type: ignore[arg-type]

    def _layouts(self, drawn: Arrays) -> Iterator[Arrays]:
        """Keras' inputs as PyTorch may want them, the likeliest first."""
        if "torch" in self.shapes:
            given = draw_inputs(self.shapes["torch"], BATCH, 0)
            rows = {name: value for name, value in drawn.items() if value.dtype.kind in "iu"}
            for name, value in rows.items():
                given[name] = np.resize(value, given[name].shape)
            yield given
            return
        maps = Layout(self.graphs["keras"])
        likely = {
            name: value.ndim == 4 or (value.ndim > 2 and maps.axes[name][-1][0].name == "c")
            for name, value in drawn.items()
        }
        tried: list[dict[str, bool]] = []
        for moved in (likely, dict.fromkeys(drawn, False), dict.fromkeys(drawn, True)):
            if moved not in tried:
                tried.append(moved)
                yield {
                    name: np.moveaxis(value, -1, 1) if moved[name] and value.ndim > 2 else value
                    for name, value in drawn.items()
                }


def draw(graph: Graph) -> Arrays:
    """A batch for a model: whole numbers where an embedding looks them up, else normal ones."""
    drawn = draw_inputs(graph.inputs, BATCH, 0)
    rows: dict[str, int] = {}
    from_input = {name: name for name in drawn}
    for node in graph.nodes:
        source = next((from_input[name] for name in node.inputs if name in from_input), None)
        if source is None:
            continue
        if node.kind == "embedding":
            own = [p.shape[0] for p in graph.parameters if p.layer == node.layer]
            rows[source] = min([*own, rows.get(source, own[0])]) if own else 2
        elif node.kind in (*MERGING, "permute", "identity", "select"):
            from_input[node.name] = source
    generator = np.random.default_rng(0)
    for name, below in rows.items():
        drawn[name] = generator.integers(0, below, drawn[name].shape)
    return {f"{INPUT}{at}": drawn[f"{INPUT}{at}"] for at in range(len(drawn))}


def names_of(tensors: Table[str, np.ndarray]) -> str:
    """`34 tensors, 1,234 numbers`."""
    numbers = sum(value.size for value in tensors.values())
    return f"{len(tensors)} tensors, {numbers:,} numbers"
