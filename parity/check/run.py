"""The check from request to report: describe both sides, map, transfer, run, compare.

Each side is built and run in processes of its own, one after the other, so that a large model is in
memory once. Between them travel files in one folder: `keras/` and `torch/` each with `graph.json`,
`weights.safetensors` and a trace, and `map.toml`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors.numpy import load_file

from parity import transfer
from parity.check import levels, semantics
from parity.check.graph import Graph
from parity.check.matching import Matching, computes, match
from parity.check.report import CheckReport, Coverage
from parity.check.sides import Process, Side
from parity.check.stored import write_tensors
from parity.check.trace import Request, Trace, draw_inputs
from parity.ladder.measure import FAIL, PASS, Allowed, Tensor, compare
from parity.ladder.results import LevelResult, summarise
from parity.transfer.candidates import Side as Described
from shared_data.errors import InputError, listed

FRAMEWORKS = ("keras", "torch")
# Keras' constants on both sides: what is asked is whether the models are the same, not whether the
# training scripts are.
OPTIMIZERS: dict[str, dict[str, float]] = {
    "adam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "adamw": {
        **{"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "weight_decay": 0.004,
    },
    "sgd": {"learning_rate": 1e-2, "momentum": 0.9},
    "rmsprop": {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 1e-7},
}
RUNS = {  # the last level asked for: what a wing has to run
    "transfer": (),
    "forward": ("forward",),
    "loss": ("forward", "loss"),
    "gradient": ("forward", "loss"),
    "update": ("forward", "loss", "update"),
    "trajectory": ("forward", "loss", "update", "trajectory"),
}
Observer = Callable[[str], None]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What is to be checked.

    Attributes:
        level: the last level to climb, a key of `RUNS`.
        direction: which way weights go; None compares what each side holds.
        shapes, inputs: of the inputs as Keras sees them, without the batch; or a `.npz` of them.
            Without either the Keras model says what it takes.
        labels: classes, integers (batch,), one array per output: the loss is then the cross-entropy
            with them, of logits or of a softmax's probabilities. Without them it is half the mean
            squared difference from random targets.
        torch_weights: a file for PyTorch's model.
        map: a `map.toml` to follow.
        rtol, atol: instead of the measured tolerances.
    """

    level: str = "trajectory"
    direction: str | None = "keras-to-torch"
    shapes: tuple[tuple[int, ...], ...] = ()
    inputs: Path | None = None
    labels: tuple[np.ndarray, ...] = ()
    torch_weights: Path | None = None
    map: Path | None = None
    optimizer: str = "adam"
    precision: str = "float64"
    batch: int = 4
    seed: int = 0
    threads: int = 0
    rtol: float | None = None
    atol: float | None = None


def check(
    sides: tuple[Side, Side], asked: Asked, folder: Path, observe: Observer = lambda said: None
) -> CheckReport:
    """Check a Keras and a PyTorch model; everything it leaves is in `folder`.

    Raises `InputError` where a model cannot be built or run, or layers cannot be told apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, second = (
        Request(
            model=side.model,
            weights=str(asked.torch_weights.absolute())
            if weighted and asked.torch_weights
            else None,
            loss="cross_entropy" if asked.labels else "squared",
            optimizer=asked.optimizer,
            optimizer_settings=OPTIMIZERS[asked.optimizer],
            precision=asked.precision,
            batch=asked.batch,
            seed=asked.seed,
            threads=asked.threads,
        )
        for weighted, side in enumerate(sides)
    )
    first = replace(first, inputs=_given(asked, folder), input_shapes=asked.shapes)
    observe("describing both models")
    keras, torch = _described(sides, (first, second), folder)
    inputs = folder / "keras" / "inputs.npz"
    first = replace(first, inputs=str(inputs))
    second = replace(second, inputs=_moved_inputs(inputs, folder))

    given = transfer.Mapping.read(asked.map) if asked.map else None
    mapping = transfer.find(keras, torch, given, partial=True)
    if asked.direction:
        _carriable(mapping, torch if asked.direction == "torch-to-keras" else keras)
    job = _Job(sides, asked, folder, keras, torch, (first, second), observe)
    if mapping.ambiguous or not mapping.by_graph:
        observe("telling layers apart by their numbers")
        mapping = transfer.settle(mapping, job.reached)
    mapping.write(folder / "map.toml")
    return job.report(mapping)


def _carriable(mapping: transfer.Mapping, source: Graph) -> None:
    """Raise `InputError` where a layer of unknown type holds weights that no rule carries over.

    Every number behind it would differ, and say nothing about the port.
    """
    alone = {*mapping.keras_alone, *mapping.torch_alone}
    strange = [
        f"{unit.name} ({unit.kind.removeprefix('other:')}: "
        f"{', '.join(f'{role} {list(shape)}' for role, shape in unit.shapes.items())})"
        for unit in Described(source).units
        if unit.kind.startswith("other:") and alone.issuperset(unit.names.values())
    ]
    if strange:
        raise InputError(
            f"no rule says how the weights of these layers reach the other side:\n"
            f"{listed(strange, 10)}\nWrite one (@register_rule, docs/check.md) and give its file "
            "with --rules, or compare what each side holds with --no-transfer."
        )


def _described(
    sides: tuple[Side, Side], requests: tuple[Request, Request], folder: Path
) -> tuple[Graph, Graph]:
    """Both graphs. Two processes at a time, where it is known beforehand what the models take."""
    first, second = requests
    given = first.inputs
    if given is None and first.input_shapes:
        drawn = draw_inputs(first.input_shapes, first.batch, first.seed)
        given = _write(folder / "drawn.npz", drawn)
    if given is not None and all(isinstance(side, Process) for side in sides):
        second = replace(second, inputs=_moved_inputs(Path(given), folder))
        with ThreadPoolExecutor() as threads:
            keras = threads.submit(sides[0].describe, first, folder / "keras")
            torch = threads.submit(sides[1].describe, second, folder / "torch")
            return keras.result(), torch.result()
    graph = sides[0].describe(first, folder / "keras")
    second = replace(second, inputs=_moved_inputs(folder / "keras" / "inputs.npz", folder))
    return graph, sides[1].describe(second, folder / "torch")


class _Job:
    """Two described models, and what is done with a mapping of their layers."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        asked: Asked,
        folder: Path,
        keras: Graph,
        torch: Graph,
        requests: tuple[Request, Request],
        observe: Observer,
    ) -> None:
        self.sides, self.asked, self.folder, self.observe = sides, asked, folder, observe
        self.keras, self.torch, self.requests = keras, torch, requests
        with np.load(requests[0].inputs or "") as given:
            self.batch = len(next(iter(given.values())))
            self.axes = {name: _moved(value) for name, value in given.items()}

    def reached(self, mapping: transfer.Mapping) -> set[str]:
        """The Keras nodes whose numbers PyTorch gives too, in any order, with a mapping."""
        self._send(mapping, [])
        given = [
            {n.removeprefix("forward/"): v for n, v in trace.tensors.items() if "forward/" in n}
            for trace in self._run(self._matched(mapping)[0], ("forward",))
        ]
        found = transfer.found_again(given[0], given[1].values())
        for ours, theirs in zip(self.keras.outputs, self.torch.outputs, strict=False):
            if not transfer.found_again({ours: given[0][ours]}, [given[1][theirs]]):
                found.discard(ours)
        return found

    def report(self, mapping: transfer.Mapping) -> CheckReport:
        """All levels asked for."""
        asked = self.asked
        matching, weights = self._matched(mapping)
        found = semantics.findings(self.keras, self.torch, matching, weights.spare)
        results = [_structure(found, matching), self._transferred(mapping, weights)]
        origins: list[levels.Origin] = []
        notes = list(mapping.notes)
        environment: dict[str, Any] = {}
        if RUNS[asked.level]:
            traces = self._run(matching, RUNS[asked.level], observe=self.observe)
            settings = OPTIMIZERS[asked.optimizer]
            gain = settings["learning_rate"] / settings.get("epsilon", 1.0)
            comparison = levels.Comparison(*traces, matching, weights, asked.rtol, asked.atol, gain)
            wanted = list(RUNS)[: list(RUNS).index(asked.level) + 1]
            results += levels.levels(comparison, wanted, self.axes)
            if any(each.verdict == FAIL for each in results[2:]):
                if "loss" in RUNS[asked.level]:
                    comparison.forced = self._forced(matching)
                    notes += [f"torch, forced: {note}" for note in comparison.forced.notes]
                origins = levels.origins(comparison, results)
            notes += [f"{each.framework}: {note}" for each in traces for note in each.notes]
            environment = {each.framework: each.environment for each in traces}
        return CheckReport(
            self.sides[0].model,
            self.sides[1].model,
            tuple(results),
            tuple(origins),
            tuple(found),
            self._coverage(mapping, matching),
            tuple(notes),
            environment,
            weights.owners,
        )

    def _matched(self, mapping: transfer.Mapping) -> tuple[Matching, levels.Weights]:
        sides = (Described(self.keras), Described(self.torch))
        groups, owners = [], dict[str, str]()
        for entry in mapping.entries:
            ours, theirs = (
                [unit for name in names if (unit := side.unit(name))]
                for names, side in zip((entry.keras, entry.torch), sides, strict=True)
            )
            groups.append(([u.calls for u in ours], [u.calls for u in theirs]))
            owners |= {n: " + ".join(entry.keras) for u in theirs for n in u.names.values()}
        # What PyTorch holds that no number of Keras' goes into: a second bias, a counter.
        unknown = {p.name: _filled(p.shape, np.nan) for p in self.keras.parameters}
        arrived = transfer.to_torch(unknown, mapping, self.keras, self.torch, lost=[])
        given = {name for name, value in arrived.items() if not np.isnan(value).all()}
        given |= {p.name for p in self.torch.parameters} - set(arrived)
        weights = levels.Weights(
            to_torch=lambda tensors: self._to_torch(tensors, mapping),
            owners=owners,
            buffers=frozenset(p.name for p in self.torch.parameters if not p.trained),
            given=frozenset(given),
        )
        return match(self.keras, self.torch, groups), weights

    def _to_torch(self, tensors: Mapping[str, np.ndarray], mapping: transfer.Mapping) -> Tensors:
        """Weights or gradients; where Keras has none, such as of a moving mean, zeros."""
        known = {p.name: _filled(p.shape, 0) for p in self.keras.parameters}
        strange = [n for n in tensors if n not in known and not n.startswith(("input:", "loss"))]
        if strange:
            raise InputError(
                f"the Keras model names parameters in its run that it did not before: {strange[0]} "
                f"and {len(strange) - 1} more. Give its layers names of their own."
            )
        known |= {name: value for name, value in tensors.items() if name in known}
        return transfer.to_torch(known, mapping, self.keras, self.torch, lost=[])

    def _run(
        self,
        matching: Matching,
        wanted: tuple[str, ...],
        observe: Observer = lambda said: None,
    ) -> tuple[Trace, Trace]:
        """Both traces, one after the other. Weights were sent."""
        targets = self._targets(matching)
        traces: list[Trace] = []
        for side, request, target in zip(self.sides, self.requests, targets, strict=True):
            name = side.framework
            observe(f"running the {'Keras' if name == 'keras' else 'PyTorch'} model")
            request = replace(
                request,
                weights=str(self._weights(name)),
                targets=_write(self.folder / name / "targets.npz", target),
                levels=wanted,
            )
            traces.append(side.trace(request, self.folder / name))
        return traces[0], traces[1]

    def _forced(self, matching: Matching) -> Trace:
        """PyTorch's run on Keras' numbers, layer by layer."""
        self.observe("running each PyTorch layer on Keras' numbers")
        folder = self.folder / "torch-forced"
        folder.mkdir(exist_ok=True)
        self.torch.write(folder / "graph.json")
        request = replace(
            self.requests[1],
            weights=str(self._weights("torch")),
            targets=str(self.folder / "torch" / "targets.npz"),
            reference=str(self.folder / "keras"),
            pairs=tuple(each.pair for each in matching.matches),
        )
        return self.sides[1].trace(request, folder)

    def _send(self, mapping: transfer.Mapping, lost: list[str]) -> Tensors:
        """Weights from the source in the target's terms, also in a file for it to run with."""
        source, target = self._ends
        sent, start = self._held(source), self._held(target)
        carry = transfer.to_torch if target == "torch" else transfer.to_keras
        moved = carry(sent, mapping, self.keras, self.torch, start=start, lost=lost)
        if self.asked.direction:
            write_tensors(self._weights(target), {**start, **moved})
        return moved

    def _held(self, side: str) -> Tensors:
        """A side's own weights, read anew: of a large model they need not stay in memory."""
        return load_file(self.folder / side / "weights.safetensors")

    def _weights(self, side: str) -> Path:
        """What a side runs with: its own, or what was sent to it."""
        sent_to = self.asked.direction and side == self._ends[1]
        return self.folder / side / f"{'transferred' if sent_to else 'weights'}.safetensors"

    @property
    def _ends(self) -> tuple[str, str]:
        source, _, target = (self.asked.direction or "keras-to-torch").partition("-to-")
        return source, target

    def _targets(self, matching: Matching) -> list[Tensors]:
        """What the loss compares with: labels, or standard normal in each side's own layout."""
        keras, torch = self.keras, self.torch
        if len(keras.outputs) != len(torch.outputs):
            raise InputError(
                f"the models give out {len(keras.outputs)} and {len(torch.outputs)} tensors: "
                "expected as many on both sides. Wrap one to give out what the other does."
            )
        if self.asked.labels:
            labels = _labels(self.asked.labels, len(keras.outputs), self.batch)
            return [labels, labels]
        shapes = tuple(keras.node(name).shape for name in keras.outputs)
        drawn = draw_inputs(shapes, self.batch, self.asked.seed + 1)
        ours, theirs = {}, {}
        for at, (name, value) in enumerate(zip(keras.outputs, drawn.values(), strict=True)):
            partner = matching.by_keras.get(name)
            ours[f"output:{at}"] = value
            theirs[f"output:{at}"] = partner.to_torch(value) if partner else value
            expected, got = theirs[f"output:{at}"].shape[1:], torch.node(torch.outputs[at]).shape
            if tuple(expected) != tuple(got):
                raise InputError(
                    f"output {at}: shape {list(keras.node(name).shape)} in Keras ({name}), "
                    f"{list(got)} in PyTorch ({torch.outputs[at]}), without the batch: expected "
                    "the same, channels apart. The models do not answer the same question."
                )
        return [ours, theirs]

    def _transferred(self, mapping: transfer.Mapping, weights: levels.Weights) -> LevelResult:
        """What arrives is what was sent, there and back; or what both sides hold, bit for bit."""
        bits = Allowed(0.0, "bits: weights are copied and permuted", bits=True)
        lost: list[str] = []
        graphs = (self.keras, self.torch)
        source, target = self._ends
        moved = self._send(mapping, lost)
        sent, start = self._held(source), self._held(target)
        if self.asked.direction:
            back = transfer.to_keras if target == "torch" else transfer.to_torch
            returned = back({**start, **moved}, mapping, *graphs, start=sent, lost=lost)
            pairs: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
                name: (sent[name], value) for name, value in returned.items()
            }
        else:
            pairs = {n: (v, start.get(n)) for n, v in moved.items()}
            pairs = {name: pair for name, pair in pairs.items() if name not in weights.given}
        found = [
            compare(name, Tensor.whole(a), None if b is None else Tensor.whole(b), bits)
            for name, (a, b) in pairs.items()
            if a.dtype.kind == "f"
        ]
        result = summarise(
            "transfer", None, found, "there and back" if self.asked.direction else ""
        )
        if not lost:
            return result
        said = "; ".join([*dict.fromkeys(lost), result.detail])
        return replace(result, verdict=FAIL, where=lost[0], detail=said)

    def _coverage(self, mapping: transfer.Mapping, matching: Matching) -> Coverage:
        """Elements of parameters with a counterpart, and calls with a partner, of both models."""
        parameters = [*self.keras.parameters, *self.torch.parameters]
        lacking = {*mapping.keras_alone, *mapping.torch_alone}
        total = sum(_size(p.shape) for p in parameters)
        without = sum(_size(p.shape) for p in parameters if p.name in lacking)
        alone = [*matching.keras_alone, *matching.torch_alone]
        computing = [n for g in (self.keras, self.torch) for n in g.nodes if computes(n)]
        missing = [*sorted(lacking), *(f"{node.name} ({node.kind})" for node in alone)]
        return Coverage(
            total - without, total, len(computing) - len(alone), len(computing), tuple(missing)
        )


def _structure(found: list[semantics.Finding], matching: Matching) -> LevelResult:
    severe = [each for each in found if each.severity == semantics.FAIL]
    if severe:
        said = "; ".join(each.text for each in severe)
        where = severe[0].keras or severe[0].torch
        return LevelResult(
            "structure", FAIL, None, len(severe), 0, "nothing may differ", where=where, detail=said
        )
    detail = f"{len(matching.matches)} calls have their partners"
    detail += f"; {len(found)} declared differently, judged by the numbers" if found else ""
    return LevelResult("structure", PASS, detail=detail)


def _given(asked: Asked, folder: Path) -> str | None:
    """The batch that was given, as the model's inputs in order; None where none was."""
    if asked.inputs is None:
        return None
    try:
        found = np.load(asked.inputs, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is one array, .npy: expected an archive of arrays, .npz")
        with found:
            values = [found[name] for name in found.files]
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"--inputs: cannot read {asked.inputs}: {error}") from None
    sizes = {len(each) if each.ndim else 0 for each in values}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"--inputs: {asked.inputs} holds batches of {sorted(sizes)}: expected one array per "
            "input, all of one batch size, at least 1"
        )
    named = {f"input:{at}": value for at, value in enumerate(values)}
    return _write(folder / "given.npz", named)


def _labels(given: tuple[np.ndarray, ...], outputs: int, batch: int) -> Tensors:
    """Checked for what the wings do not check: how many there are."""
    if len(given) != outputs:
        raise InputError(f"--labels: got {len(given)} arrays for {outputs} outputs: give one each")
    for each in given:
        if each.shape != (batch,) or each.dtype.kind not in "iu":
            raise InputError(
                f"--labels: got {each.dtype} of shape {list(each.shape)}: expected whole numbers, "
                f"one for each of the {batch} samples of the batch"
            )
    return {f"output:{at}": each.astype(np.int64) for at, each in enumerate(given)}


def _moved_inputs(keras: Path, folder: Path) -> str:
    """The same batch as PyTorch takes it."""
    with np.load(keras) as found:
        moved = {n: v if _moved(v) is None else v.transpose(_moved(v)) for n, v in found.items()}
    return _write(folder / "torch-inputs.npz", moved)


def _moved(value: np.ndarray) -> tuple[int, ...] | None:
    """How an input goes to PyTorch: images and volumes with their channels first."""
    return (0, value.ndim - 1, *range(1, value.ndim - 1)) if value.ndim > 3 else None


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    with path.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return str(path)


def _filled(shape: tuple[int, ...], value: float) -> np.ndarray:
    """One number in every place, and in memory once."""
    return np.broadcast_to(np.array(value, np.float16), shape)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
