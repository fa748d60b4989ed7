"""The check from request to report: describe both sides, map, transfer, run, compare.

Each side is built and run in processes of its own, one after the other, so that a large model is in
memory once. Between them travel files in one folder: `keras/` and `torch/` each with `graph.json`,
`weights.safetensors` and a trace, and `map.toml`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from parity import transfer
from parity.check import levels, semantics
from parity.check.graph import Graph
from parity.check.matching import Matching, computes, match
from parity.check.report import CheckReport, Coverage
from parity.check.trace import Request, Trace, draw_inputs
from parity.ladder.measure import FAIL, PASS, Allowed, Tensor, compare
from parity.ladder.results import LevelResult, summarise
from parity.recording import write_atomically
from parity.transfer.candidates import Side
from shared_data.errors import InputError

SIDES = ("keras", "torch")
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
        keras, torch: specs as `trace.Request.model` takes them.
        level: the last level to climb, a key of `RUNS`.
        direction: which way weights go; None compares what each side holds.
        shapes, inputs: of the inputs as Keras sees them, without the batch; or a `.npz` of them.
        torch_weights: a file for PyTorch's model.
        map: a `map.toml` to follow.
    """

    keras: str
    torch: str
    level: str = "trajectory"
    direction: str | None = "keras-to-torch"
    shapes: tuple[tuple[int, ...], ...] = ()
    inputs: Path | None = None
    torch_weights: Path | None = None
    map: Path | None = None
    optimizer: str = "adam"
    precision: str = "float64"
    batch: int = 4
    seed: int = 0
    threads: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def check(asked: Asked, folder: Path, observe: Observer = lambda said: None) -> CheckReport:
    """Check a pair; everything it leaves is in `folder`.

    Raises `InputError` where a model cannot be built or run, or layers cannot be told apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keras_inputs = _inputs(asked)
    first = _request(asked, "keras", _write(folder / "keras.npz", keras_inputs), ())
    observe("describing the Keras model")
    keras = _describe("keras", first, folder)
    if not keras_inputs:
        keras_inputs = draw_inputs(keras.inputs, asked.batch, asked.seed)
        first = replace(first, inputs=_write(folder / "keras.npz", keras_inputs))
    torch_inputs = {name: value.transpose(_moved(value)) for name, value in keras_inputs.items()}
    second = _request(asked, "torch", _write(folder / "torch.npz", torch_inputs), ())
    observe("describing the PyTorch model")
    torch = _describe("torch", second, folder)

    given = transfer.Mapping.read(asked.map) if asked.map else None
    mapping = transfer.find(keras, torch, given, partial=True)
    held = {side: load_file(folder / side / "weights.safetensors") for side in SIDES}
    job = _Job(asked, folder, keras, torch, held, (first, second), observe)
    if mapping.ambiguous:
        observe("telling layers apart by their numbers")
        mapping = transfer.settle(mapping, job.score)
    mapping.write(folder / "map.toml")
    return job.report(mapping)


class _Job:
    """Two described models, and what is done with a mapping of their layers."""

    def __init__(
        self,
        asked: Asked,
        folder: Path,
        keras: Graph,
        torch: Graph,
        held: dict[str, Tensors],
        requests: tuple[Request, Request],
        observe: Observer,
    ) -> None:
        self.asked, self.folder, self.observe = asked, folder, observe
        self.keras, self.torch, self.held, self.requests = keras, torch, held, requests
        self._reference: Trace | None = None

    def score(self, mapping: transfer.Mapping) -> dict[str, float]:
        """How far apart the outputs of every call are, relative to the largest value."""
        mapping = mapping.settled()
        matching, weights = self._matched(mapping)
        keras, torch = self._run(mapping, matching, ("forward",))
        found = levels.Comparison(keras, torch, matching, weights).forward
        return {
            name: each.relative if each.relative is not None else np.inf
            for name, each in found.items()
        }

    def report(self, mapping: transfer.Mapping) -> CheckReport:
        """All levels asked for."""
        asked = self.asked
        matching, weights = self._matched(mapping)
        found = semantics.findings(self.keras, self.torch, matching)
        results = [_structure(found, matching), self._transferred(mapping, weights)]
        origins: list[levels.Origin] = []
        notes = list(mapping.notes)
        environment: dict[str, Any] = {}
        if RUNS[asked.level]:
            traces = self._run(mapping, matching, RUNS[asked.level], observe=self.observe)
            comparison = levels.Comparison(*traces, matching, weights)
            with np.load(self.requests[0].inputs or "") as given:
                axes = {name: _moved(value) for name, value in given.items()}
            wanted = list(RUNS)[: list(RUNS).index(asked.level) + 1]
            results += levels.levels(comparison, wanted, axes)
            origins = levels.origins(comparison)
            notes += [f"{each.framework}: {note}" for each in traces for note in each.notes]
            environment = {each.framework: each.environment for each in traces}
        return CheckReport(
            asked.keras,
            asked.torch,
            tuple(results),
            tuple(origins),
            tuple(found),
            self._coverage(mapping, matching),
            tuple(notes),
            environment,
        )

    def _matched(self, mapping: transfer.Mapping) -> tuple[Matching, levels.Weights]:
        sides = (Side(self.keras), Side(self.torch))
        groups, owners = [], dict[str, str]()
        for entry in mapping.entries:
            ours, theirs = (
                [unit for name in names if (unit := side.unit(name))]
                for names, side in zip((entry.keras, entry.torch), sides, strict=True)
            )
            groups.append(([u.calls for u in ours], [u.calls for u in theirs]))
            owners |= {n: " + ".join(entry.keras) for u in theirs for n in u.names.values()}
        # What PyTorch holds that no number of Keras' goes into: a second bias, a counter.
        unknown = {p.name: np.full(p.shape, np.nan) for p in self.keras.parameters}
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
        known = {p.name: np.zeros(p.shape) for p in self.keras.parameters}
        known |= {name: value for name, value in tensors.items() if name in known}
        return transfer.to_torch(known, mapping, self.keras, self.torch, lost=[])

    def _run(
        self,
        mapping: transfer.Mapping,
        matching: Matching,
        wanted: tuple[str, ...],
        observe: Observer = lambda said: None,
    ) -> tuple[Trace, Trace]:
        """Both traces, Keras' first: PyTorch's forced run needs its numbers."""
        loaded = self._loaded(mapping)
        targets = self._targets(matching)
        traces: list[Trace] = []
        for side, request, target in zip(SIDES, self.requests, targets, strict=True):
            observe(f"running the {'Keras' if side == 'keras' else 'PyTorch'} model")
            request = replace(
                request,
                weights=str(loaded[side]),
                targets=_write(self.folder / f"{side}-targets.npz", target),
                levels=wanted,
                optimizer_settings=OPTIMIZERS[self.asked.optimizer],
                reference=str(self.folder / "keras") if traces else None,
                pairs=tuple(each.pair for each in matching.matches) if traces else (),
            )
            _work(side, request, self.folder, "--trace")
            traces.append(Trace.read(self.folder / side))
        return traces[0], traces[1]

    def _loaded(self, mapping: transfer.Mapping) -> dict[str, Path]:
        """The weights that each side runs with."""
        loaded = {side: self.folder / side / "weights.safetensors" for side in SIDES}
        if self.asked.direction:
            source, _, target = self.asked.direction.partition("-to-")
            carry = transfer.to_torch if target == "torch" else transfer.to_keras
            moved = carry(
                self.held[source],
                mapping,
                self.keras,
                self.torch,
                cast="model",
                start=self.held[target],
                lost=[],
            )
            loaded[target] = self.folder / target / "transferred.safetensors"
            write_atomically(loaded[target], save(_contiguous({**self.held[target], **moved})))
        return loaded

    def _targets(self, matching: Matching) -> list[Tensors]:
        """What the loss compares with, standard normal, each side's in its own layout."""
        keras, torch = self.keras, self.torch
        if len(keras.outputs) != len(torch.outputs):
            raise InputError(
                f"the models give out {len(keras.outputs)} and {len(torch.outputs)} tensors: "
                "expected as many on both sides. Wrap one to give out what the other does."
            )
        shapes = tuple(keras.node(name).shape for name in keras.outputs)
        drawn = draw_inputs(shapes, self.asked.batch, self.asked.seed + 1)
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
        source, _, target = (self.asked.direction or "keras-to-torch").partition("-to-")
        carry, back = transfer.to_torch, transfer.to_keras
        if source == "torch":
            carry, back = back, carry
        moved = carry(self.held[source], mapping, *graphs, start=self.held[target], lost=lost)
        if self.asked.direction:
            arrived = {**self.held[target], **moved}
            returned = back(arrived, mapping, *graphs, start=self.held[source], lost=lost)
            pairs: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
                name: (self.held[source][name], value) for name, value in returned.items()
            }
        else:
            pairs = {n: (v, self.held["torch"].get(n)) for n, v in moved.items()}
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


def _inputs(asked: Asked) -> dict[str, np.ndarray]:
    """The batch as Keras sees it; empty where the Keras model has to say its shapes first."""
    if asked.inputs is None:
        return draw_inputs(asked.shapes, asked.batch, asked.seed)
    try:
        with np.load(asked.inputs, allow_pickle=False) as found:
            values = [found[name] for name in found.files]
    except (OSError, ValueError) as error:
        raise InputError(f"--inputs: cannot read {asked.inputs}: {error}") from None
    sizes = {len(each) if each.ndim else 0 for each in values}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"--inputs: {asked.inputs} holds batches of {sorted(sizes)}: expected one array per "
            "input, all of one batch size, at least 1"
        )
    return {f"input:{at}": value for at, value in enumerate(values)}


def _moved(value: np.ndarray) -> tuple[int, ...] | None:
    """How an input goes to PyTorch: images and volumes with their channels first."""
    return (0, value.ndim - 1, *range(1, value.ndim - 1)) if value.ndim > 3 else None


def _request(asked: Asked, side: str, inputs: str, levels: tuple[str, ...]) -> Request:
    weights = asked.torch_weights if side == "torch" else None
    return Request(
        model=getattr(asked, side),
        inputs=inputs or None,
        weights=str(weights) if weights else None,
        levels=levels,
        optimizer=asked.optimizer,
        precision=asked.precision,
        batch=asked.batch,
        seed=asked.seed,
        threads=asked.threads,
    )


def _describe(side: str, request: Request, folder: Path) -> Graph:
    _work(side, request, folder, "--describe")
    return Graph.read(folder / side / "graph.json")


def _work(side: str, request: Request, folder: Path, what: str) -> None:
    """Run a wing's worker. What it refuses is refused here, in its words."""
    request.write(folder / f"{side}{what}.json")
    (folder / side).mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"{side}_impl.check"]
    done = subprocess.run(
        [*command, str(folder / f"{side}{what}.json"), str(folder / side), what],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    refused = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if done.returncode == 2 and refused:
        raise InputError("\n".join(lines[refused[-1] :]).removeprefix("error: "))
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
    hint = " It may have run out of memory: try --batch 1." if done.returncode == -9 else ""
    last = "\n".join(f"    {line}" for line in lines[-15:]) or "    (nothing)"
    raise InputError(f"the {side} side {how}.{hint} Its last lines:\n{last}")


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """An `.npz`; empty where there is nothing to write."""
    if not arrays:
        return ""
    with path.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return str(path)


def _contiguous(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
