"""The check from request to report: describe both sides, map, transfer, run, compare.

Each side is built and run in a process of its own, or lives in this one. Between them travel files
in one folder: `keras/` and `torch/` each with `graph.json`, weights and traces, and `map.toml`.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors.numpy import load_file

from parity import transfer
from parity.check import (
    ALLOWED,
    EXAMINATIONS,
    LEVELS,
    cuts,
    ends,
    levels,
    origins,
    precisions,
    semantics,
    structure,
)
from parity.check.awake import awakened
from parity.check.batches import Batch, Drawing
from parity.check.copied import how_it_differs
from parity.check.matching import Matching, match
from parity.check.report import CheckReport, Coverage
from parity.check.sides import Side
from parity.check.stored import write_tensors
from parity.check.trace import Request, Trace
from parity.ladder.measure import ABSTAIN, FAIL, PASS, Allowed, Measurement, Tensor, compare
from parity.ladder.results import LevelResult, abstain, summarise
from parity.transfer.candidates import Side as Described
from shared_data.errors import InputError

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
TRIED = 60  # mappings, to tell layers apart by numbers
TRIED_AGAIN = 12  # with each further way in which PyTorch may take its inputs
DRAWS = {"default": 1, "thorough": 4}  # of each batch of the series
FAR = "large numbers in tables"
# Draws of each side, where only distributions can be compared; more where fewer do not tell.
REPEATS = (64, 256)
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
        examination: one of `parity.check.EXAMINATIONS`; "quick" is one batch.
        allow: what is declared on one side and known, of `parity.check.ALLOWED`: it does not keep
            a pass back.
        reference: which side is right: advice, files and lines are the other one's.
        aliases: what PyTorch calls Keras' inputs and outputs, by Keras' names, where they differ.
        input_axes, output_axes: for each input or output the order of PyTorch's axes, in numbers
            of Keras' (batch included, 0): (0, 3, 1, 2) has the channels first. Without them that
            is settled by trying.
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
    examination: str = "default"
    allow: tuple[str, ...] = ()
    reference: str = "keras"
    aliases: Mapping[str, str] = field(default_factory=dict)
    input_axes: tuple[tuple[int, ...], ...] = ()
    output_axes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for what, given, known in (
            ("examination", (self.examination,), EXAMINATIONS),
            ("allow", self.allow, ALLOWED),
            ("reference", (self.reference,), FRAMEWORKS),
        ):
            if unknown := [each for each in given if each not in known]:
                raise InputError(f"{what}: got {unknown[0]!r}, expected {' or '.join(known)}")


def check(
    sides: tuple[Side, Side], asked: Asked, folder: Path, observe: Observer = lambda said: None
) -> CheckReport:
    """Check a Keras and a PyTorch model; everything it leaves is in `folder`.

    Raises `InputError` where a model cannot be built or run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _check(sides, asked, folder, observe)
    except _NotRun as error:
        if asked.precision != "float64":
            raise
        observe("float64 cannot be had: checking in float32")
        try:
            report = _check(sides, replace(asked, precision="float32"), folder, observe)
        except _NotRun:
            raise error from None
        said = f"judged in float32, with its rounding: in float64 {error}"
        return replace(report, notes=(said, *report.notes))


def _check(sides: tuple[Side, Side], asked: Asked, folder: Path, observe: Observer) -> CheckReport:
    observe("describing both models")
    for side in sides:
        side.start(asked.threads)
    keras = _Keras(sides[0], asked, folder)
    taken = keras.signature(sides[1])
    ways = keras.ways(taken)
    packed = len(taken) == 1 < len(keras.inputs)  # a forward of one argument gets them in a list
    best: _Job | None = None
    refused: list[InputError] = []
    for way in ways:
        try:
            limit = TRIED if best is None else TRIED_AGAIN
            job = _Job(sides, asked, folder, keras, way, packed, observe, limit)
        except _NotRun:
            raise
        except InputError as error:
            refused.append(error)
            continue
        if best is None or job.agrees:
            best = job
        if best.agrees:
            return best.report()
    if best is None:
        raise refused[0]
    if len(ways) > 1:  # its files were written over
        known = best.mapping
        best = _Job(sides, asked, folder, keras, best.way, packed, observe, known=known)
    return best.report()


class _NotRun(InputError):
    """A model that could be described, and not be run in the precision asked for."""


class _Keras:
    """Keras' side, described; and the batches of both."""

    def __init__(self, side: Side, asked: Asked, folder: Path) -> None:
        self.request = request = Request(
            model=side.model,
            method=side.method,
            input_shapes=asked.shapes,
            inputs=_given(asked, folder),
            precision=asked.precision,
            batch=asked.batch,
            seed=asked.seed,
            threads=asked.threads,
        )
        self.asked = asked
        self.graph = ends.renamed(side.describe(request, folder / "keras"), asked.aliases)
        with np.load(folder / "keras" / "inputs.npz") as found:
            like = {name: found[name] for name in found.files}
        self.drawing = Drawing(self.graph, like, asked.seed, given=asked.inputs is not None)
        self.inputs = self.drawing.first()
        self.path = folder / "inputs.npz"
        _write(self.path, self.inputs)

    def signature(self, torch: Side) -> list[str]:
        """What PyTorch's forward calls its inputs."""
        folder = self.path.parent / "torch"
        asked = replace(self.request, model=torch.model, method=torch.method, inputs=None)
        torch.ask("signature", asked, folder)
        names: list[str] = json.loads((folder / "signature.json").read_text())
        return names

    def ways(self, taken: Sequence[str]) -> list[tuple[ends.Taken, ...]]:
        names = self.graph.semantics.get("input_names", [])
        indices, declared = set(self.drawing.rows), self.asked.input_axes
        return list(ends.ways_in(self.inputs, indices, names, taken, declared))


class _Job:
    """Two described models, and what is done with a mapping of their layers.

    Attributes:
        agrees: whether the outputs are the same, as far as a first look shows.
    """

    _awake = False  # whether the source runs with its weights awake
    _noise = False  # whether dropout is on in all runs, since a side's draws cannot be switched off

    def __init__(
        self,
        sides: tuple[Side, Side],
        asked: Asked,
        folder: Path,
        keras: _Keras,
        way: tuple[ends.Taken, ...],
        packed: bool,
        observe: Observer,
        limit: int = TRIED,
        known: transfer.Mapping | None = None,
    ) -> None:
        """`known`: the mapping, from when the same was tried before."""
        self.sides, self.asked, self.folder, self.observe = sides, asked, folder, observe
        self.keras, self.drawing, self.inputs = keras.graph, keras.drawing, keras.inputs
        self.way, self.packed = way, packed
        settings: dict[str, Any] = {
            "loss": "cross_entropy" if asked.labels else "squared",
            "optimizer": asked.optimizer,
            "optimizer_settings": OPTIMIZERS[asked.optimizer],
            "precision": asked.precision,
            "batch": asked.batch,
            "seed": asked.seed,
            "threads": asked.threads,
        }
        own = str(asked.torch_weights.absolute()) if asked.torch_weights else None
        torch = Request(
            sides[1].model,
            sides[1].method,
            inputs=self._moved(keras.inputs),
            called=tuple(each.called for each in way if each.called),
            packed=packed,
            weights=own,
            **settings,
        )
        self.torch = sides[1].describe(torch, folder / "torch")
        theirs = self.torch.semantics
        names = {*theirs.get("input_names", ()), *theirs.get("output_names", ())}
        if strange := set(asked.aliases.values()) - names:
            raise InputError(
                f"--alias: PyTorch has no input or output {min(strange)!r}: it has "
                f"{', '.join(sorted(names)) or 'no names'}"
            )
        first = Request(sides[0].model, sides[0].method, inputs=str(keras.path), **settings)
        self.requests = (first, replace(torch, weights=None))
        self.batch = len(next(iter(keras.inputs.values())))
        given = transfer.Mapping.read(asked.map) if asked.map else None
        mapped = ends.by_name(self.keras, self.torch)
        mapping = known or transfer.find(self.keras, mapped, given, partial=True)
        self._looked: Trace | None = None
        self._ran: dict[str, Request] = {}
        self.said: list[str] = []
        self.mapping, self._mapped = mapping, mapped
        if asked.direction:
            self._awake = True
            source = self._ends_of_transfer[0]
            held = self._held(source)
            write_tensors(
                folder / source / "awake.safetensors",
                awakened(held, held, asked.seed, self._tables(source))[0],
            )
            if known is None:
                observe("telling layers apart by their numbers")
                self.mapping = transfer.settle(mapping, self.reached, limit)
        self.mapping = self.mapping.settled()
        self.mapping.write(folder / "map.toml")
        self._send()
        self.outputs, self.agrees = self._ends()
        self._awake = False

    # A first look: inference, without floors -----------------------------------------------------

    def reached(self, mapping: transfer.Mapping) -> set[str]:
        """The Keras calls whose numbers are found on PyTorch's side, with weights by `mapping`; an
        output only where it is PyTorch's at that place."""
        self.mapping = mapping
        self._send()
        found = cuts.cut_points(*self._look(), "forward")
        for ours, theirs in zip(self.keras.outputs, self._mapped.outputs, strict=False):
            if theirs not in found.get(ours, ()):
                found.pop(ours, None)
        return set(found)

    def _look(self) -> tuple[Trace, Trace]:
        source, _ = self._ends_of_transfer
        known = self._looked
        traces = []
        for side, request in zip(self.sides, self.requests, strict=True):
            if known is not None and side.framework == source:
                traces.append(known)
                continue
            folder = self.folder / side.framework
            request = replace(
                request,
                weights=str(self._weights(side.framework)),
                levels=("forward",),
                nudge=False,
                draws=str(self.folder / "draws"),
            )
            traces.append(_traced(side, request, folder))
        if known is None and self.asked.direction:
            kept = traces[0 if source == "keras" else 1]
            kept.tensors = dict(kept.tensors)  # its files are written over
            self._looked = kept
        return traces[0], traces[1]

    def _ends(self) -> tuple[ends.Outputs, bool]:
        keras, torch = self._look()
        ours, theirs = (
            [
                each.tensors[f"outputs/forward/{at}"]
                for at in range(len(each.names("outputs/forward")))
            ]
            for each in (keras, torch)
        )
        moved = {len(each.axes) for each in self.way if each.axes}
        declared = self.asked.output_axes
        outputs = ends.pair_outputs(self.keras, self.torch, ours, theirs, moved, declared)
        agree = not outputs.missing and all(
            ends.close(ours[e.keras], e.to_keras(theirs[e.torch], ours[e.keras].shape))
            for e in outputs.given
        )
        open_ = any(map(any, self.keras.semantics.get("open", ())))  # then other sizes decide
        doubts = ends.doubts_about(self.way, self.inputs) if not self.asked.input_axes else []
        doubts = [] if open_ else [*doubts, *outputs.doubts]
        return replace(outputs, doubts=tuple(doubts)), agree

    # The examination ------------------------------------------------------------------------------

    def report(self) -> CheckReport:
        """All levels asked for."""
        asked, mapping = self.asked, self.mapping
        alone = structure.Alone.of(self.keras, self.torch, mapping, self._depends)
        matching, weights = self._matched(alone)
        transferred = self._transferred(weights, alone)
        inside: origins.Inside | None = None
        results = [alone.result(self.outputs, asked.allow), transferred]
        starts: list[origins.Origin] = []
        notes = [*self.said, *self._settled(), *mapping.notes, *alone.notes()]
        environment: dict[str, Any] = {}
        examined = ""
        if RUNS[asked.level] and not alone.unknown:
            comparison, examined = self._compared(weights, alone)
            before = {side: load_file(self._weights(side)) for side in FRAMEWORKS}
            alone = alone.moved((comparison.keras, comparison.torch), before)
            results[0] = alone.result(self.outputs, asked.allow)
            wanted = list(RUNS)[: list(RUNS).index(asked.level) + 1]
            numeric = levels.levels(comparison, wanted)
            if not any(each.verdict == FAIL for each in numeric):
                beside, more = self._precisions(comparison)
                numeric[0] = levels.with_more(numeric[0], beside)
                examined += more
            results += numeric
            if "loss" in RUNS[asked.level]:
                differ = any(each.verdict == FAIL for each in results)
                results += self._randomness(weights, differ)
                results.sort(key=lambda each: LEVELS.index(each.level))
            results = self._stepped_again(results, weights)
            traces = (comparison.keras, comparison.torch)
            matches = tuple(
                origins.laid_out(
                    matching, *traces, "training" if traces[0].names("training") else "forward"
                )
            )
            matching = replace(
                matching, matches=matches, by_keras={each.keras.name: each for each in matches}
            )
            if any(each.verdict == FAIL for each in results[2:]):
                inside = self._inside(comparison, matching, results)
                starts = inside.origins(results)
                if not starts and (batch := self._shown_by(results, traces)):
                    traces = self._run(RUNS[asked.level][:2], (), first=batch)
                    shown = levels.Comparison(*traces, weights, self.way, self.outputs)
                    inside = self._inside(shown, matching, results)
                    steps = [each for each in wanted if each not in levels.STEPPING]
                    starts = inside.origins(levels.levels(shown, steps))
                elif not starts and any(FAR in name for name in _failing(results)):
                    inside = self._inside(comparison.others[FAR], matching, results)
                    starts = inside.origins(results)
            notes += [f"{each.framework}: {note}" for each in traces for note in each.notes]
            notes += comparison.notes
            environment = {each.framework: each.environment for each in traces}
        port = "torch" if asked.reference == "keras" else "keras"
        lines = (self.torch if port == "torch" else self.keras).semantics.get("lines", {})
        starts = [
            replace(each, line=lines.get(getattr(each, port), ""))
            for each in alone.origins() + starts
        ]
        failed = {each.level for each in results if each.verdict == FAIL}
        apart = [set(each) for each in inside.parted] if inside else [set[str](), set[str]()]
        found = semantics.findings(
            self.keras,
            self.torch,
            matching,
            weights.spare,
            apart,
            "randomness" in failed,
            port,
        )
        found = self._tried(found, matching, inside)
        single = [n.name for n in (*matching.keras_alone, *matching.torch_alone)]
        if decomposed := [n for n in single if n not in apart[0] | apart[1]]:
            notes.append(f"calls without a partner, decomposed otherwise: {_first(decomposed)}")
        return CheckReport(
            self.sides[0].model,
            self.sides[1].model,
            tuple(results),
            tuple(starts),
            tuple(found),
            self._coverage(alone, matching),
            tuple(dict.fromkeys(notes)),
            environment,
            weights.owners,
            examined,
        )

    def _inside(
        self, comparison: levels.Comparison, matching: Matching, results: Sequence[LevelResult]
    ) -> origins.Inside:
        """In training mode, unless the sides agree there."""
        failing = {each.level for each in results if each.verdict == FAIL}
        trains = "loss" in RUNS[self.asked.level] and failing - {"structure", "transfer"} != {
            "forward"
        }
        forced = self._forced(matching) if trains else None
        graphs = (self.keras, self.torch)
        return origins.Inside(comparison, graphs, matching, forced, trains)

    def _shown_by(
        self, results: Sequence[LevelResult], traces: tuple[Trace, Trace]
    ) -> Batch | None:
        """The further batch that shows a difference, if it can be the first: both sides run on it,
        and with labels only one of their number can."""
        refused = [name for trace in traces for name in trace.refused]
        return next(
            (
                batch
                for batch in self.drawing.series()
                if any(batch.name in name for name in _failing(results))
                and not any(batch.name in name for name in refused)
                and not self.asked.labels
            ),
            None,
        )

    def _compared(
        self, weights: levels.Weights, alone: structure.Alone
    ) -> tuple[levels.Comparison, str]:
        """Both sides run on all batches, with weights awake; and what that was, in words."""
        asked = self.asked
        drawn = self._wake(alone)
        further = self.drawing.series(DRAWS[asked.examination]) if self._series else []
        traces = self._run(RUNS[asked.level], further, series_nudge=False)
        if any(name.endswith("training") for each in traces for name in each.drawn):
            # Something draws that cannot be switched off: then all of it is on, on both sides.
            self._noise = True
            traces = self._run(RUNS[asked.level], further, series_nudge=False)
        settings, first = OPTIMIZERS[asked.optimizer], self.drawing.first()
        comparison = levels.Comparison(
            *traces,
            weights,
            self.way,
            self.outputs,
            {each.name: each.inference_only for each in further},
            asked.rtol,
            asked.atol,
            settings["learning_rate"] / settings.get("epsilon", 1.0),
            {each.name: _largest(each.values) / _largest(first) for each in further},
        )
        # What agrees to rounding needs no floor.
        if unsure := [each for each in further if comparison.unsure(each.name)]:
            wanted = RUNS[asked.level][:2]
            floors = self._run(wanted, unsure, inside=False, below="floors", nudge=False)
            traces = (traces[0].with_floors(floors[0]), traces[1].with_floors(floors[1]))
            comparison = replace(comparison, keras=traces[0], torch=traces[1])
        if further and (far := self._far(weights)):
            comparison.others = {FAR: far}
        for run in sorted({*traces[0].refused, *traces[1].refused}):
            said = [each.refused.get(run) for each in traces]
            both = "both sides refuse" if all(said) else "one side refuses"
            comparison.notes.append(
                f"{both} {run.removeprefix('series/')}: {next(filter(None, said))}"
            )
        words = [
            f"{asked.examination} examination",
            f"{asked.precision}; inference and training mode"
            if "loss" in RUNS[asked.level]
            else f"{asked.precision}; inference",
            f"batches: {'; '.join(['the first', *(b.name for b in further), *comparison.others])}",
        ]
        if drawn:
            words.append(f"{len(drawn)} tensors at neutral values were drawn: {_first(drawn)}")
        return comparison, ". ".join(words)

    def _precisions(self, comparison: levels.Comparison) -> tuple[list[Measurement], str]:
        """What float64 does not show; and what was run for it, in words."""
        found: list[Measurement] = []
        words = ""
        eps = precisions.unit(self._declared)  # then float32 is not what it computes in
        able = self._series and not (self._noise or self.asked.labels or eps)
        batch = self.drawing.close() if able and self.asked.precision == "float64" else None
        if batch is not None:
            found += self._in_float32(batch)
            words = f". float32: {batch.name}" if found else ""
        if eps:
            found += self._as_declared(comparison, eps)
            words += ". Each side in the precision that it declares"
        return found, words

    @property
    def _declared(self) -> dict[str, list[str]]:
        """What each side declares of its precision."""
        graphs = {"Keras": self.keras, "PyTorch": self.torch}
        return {side: graph.semantics.get("precision", []) for side, graph in graphs.items()}

    def _in_float32(self, batch: Batch) -> list[Measurement]:
        """Nothing where a side refuses: then there is no such run of it."""
        self.observe("running both in float32")
        modes = ("forward", "training") if "loss" in RUNS[self.asked.level] else ("forward",)
        wanted = ("forward", "loss") if len(modes) > 1 else ("forward",)
        runs: dict[str, tuple[Trace, Trace]] = {}
        try:
            for precision in ("float64", "float32"):
                runs[precision] = self._run(
                    wanted,
                    (),
                    inside=False,
                    below=precision,
                    first=batch,
                    precision=precision,
                    nudge=precision == "float32",
                )
        except InputError:
            return []
        found = []
        for mode in modes:
            for at, each in enumerate(self.outputs.given):
                name = f"outputs/{mode}/{at}"
                exact, single = (
                    [one, each.to_keras(other, one.shape)]
                    for one, other in (
                        [trace.tensors[name] for trace in runs[p]] for p in ("float64", "float32")
                    )
                )
                floors = [trace.floors.get(name, 0.0) for trace in runs["float32"]]
                shown = f"output {at}{' in training mode' if mode == 'training' else ''}, float32"
                found.append(precisions.unstable(shown, exact, single, floors))
        return found

    def _as_declared(self, comparison: levels.Comparison, eps: float) -> list[Measurement]:
        self.observe("running each side in the precision that it declares")
        own = []
        for side, request in zip(self.sides, self.requests, strict=True):
            folder = self._folder(side.framework, "own")
            side.ask("own", replace(request, weights=str(self._weights(side.framework))), folder)
            own.append(load_file(folder / "own.safetensors"))
        found = []
        for at, each in enumerate(self.outputs.given):
            exact = comparison.keras.tensors[f"outputs/forward/{at}"]
            ours, theirs = own[0][f"{each.keras}"], own[1][f"{each.torch}"]
            shown = f"output {at} in the precision that each side declares"
            theirs = each.to_keras(theirs, ours.shape)
            found.append(precisions.as_declared(shown, ours, theirs, exact, eps))
        return found

    @property
    def _series(self) -> bool:
        return self.asked.examination != "quick"

    def _far(self, weights: levels.Weights) -> levels.Comparison | None:
        """Inference with tables of large numbers, where no input holds any itself: what only such
        numbers reach, as a clip, is reached so. The weights are then as they were."""
        if not self.asked.direction or not self.drawing.looked_up:
            return None
        source = self._ends_of_transfer[0]
        held, tables = load_file(self._weights(source)), self._tables(source)
        far = self.drawing.far
        large = {n: (v * far).astype(v.dtype) if n in tables else v for n, v in held.items()}
        path, awake = self.folder / source / "awake.safetensors", self._awake
        self._awake = True
        try:
            write_tensors(path, large)
            self._send()
            traces = self._run(("forward",), (), below="far")
        except _NotRun:
            return None
        finally:
            self._awake = awake
            write_tensors(path, held)
            self._send()
        asked = self.asked
        return levels.Comparison(
            *traces, weights, self.way, self.outputs, {}, asked.rtol, asked.atol
        )

    def _randomness(self, weights: levels.Weights, differ: bool) -> list[LevelResult]:
        """Training mode with dropout on, both sides drawing the same numbers; nothing where no side
        draws. Sides that `differ` without it are not run over and over for their distributions."""
        self.observe("running both with dropout on")

        def run(mirrored: bool = False, repeats: int = 0, nudge: bool = True) -> levels.Comparison:
            traces = self._run(
                ("loss",),
                (),
                inside=False,
                below="noise",
                noise=True,
                mirrored=mirrored,
                repeats=repeats,
                nudge=nudge,
            )
            asked = self.asked
            return levels.Comparison(
                *traces, weights, self.way, self.outputs, {}, asked.rtol, asked.atol
            )

        found = run(nudge=False)
        if not (found.keras.drawn or found.torch.drawn):
            return []
        found = run()
        result = levels.randomness(found)
        if result.verdict == FAIL and not found.torch.drawn.get("training", {}).get("mismatches"):
            other = levels.randomness(run(mirrored=True))
            if other.verdict != FAIL:
                return [other]
            if levels.unpaired(found) and not levels.surplus(found):
                if differ:
                    said = "draws could not be paired, and the sides differ without dropout already"
                    return [abstain("randomness", said, self.asked.precision)]
                quick = self.asked.examination == "quick"
                for repeats in REPEATS[:1] if quick else REPEATS:
                    result = levels.distributions(run(repeats=repeats))
                    if result.verdict == FAIL:
                        break
        return [result]

    def _stepped_again(
        self, results: list[LevelResult], weights: levels.Weights
    ) -> list[LevelResult]:
        """Where an adaptive optimizer makes whole steps of rounding, SGD decides."""
        open_ = [e.level for e in results if e.verdict == ABSTAIN and e.level in levels.STEPPING]
        if not open_ or self.asked.optimizer == "sgd" or any(e.verdict == FAIL for e in results):
            return results
        self.observe("stepping again, with SGD")
        traces = self._run(RUNS[self.asked.level], (), optimizer="sgd", inside=False, below="sgd")
        rate = OPTIMIZERS["sgd"]["learning_rate"]
        asked = self.asked
        comparison = levels.Comparison(
            *traces, weights, self.way, self.outputs, {}, asked.rtol, asked.atol, rate
        )
        again = {e.level: e for e in levels.levels(comparison, [*levels.STEPPING])}
        said = f"with SGD, since {asked.optimizer} makes whole steps of rounding here: "
        return [
            replace(again[e.level], detail=said + again[e.level].detail) if e.level in open_ else e
            for e in results
        ]

    def _wake(self, alone: structure.Alone) -> list[str]:
        """Draw what is neutral on the source's side, and send it."""
        if not self.asked.direction:
            return []
        source = self._ends_of_transfer[0]
        held = self._held(source)
        known = {name for name in held if name not in alone.names(source)}
        woken, names = awakened(held, known, self.asked.seed, self._tables(source))
        if not names:
            return []
        write_tensors(self.folder / source / "awake.safetensors", woken)
        self._awake = True
        self._send()
        return names

    def _tables(self, framework: str) -> list[str]:
        graph = self.keras if framework == "keras" else self.torch
        uses = graph.semantics.get("uses", {}).items()
        layers = {node.layer for node in graph.nodes if node.kind == "embedding"}
        owned = [each.name for each in graph.parameters if each.layer in layers]
        return [*owned, *(name for name, (how, _) in uses if how == "table")]

    def _matched(self, alone: structure.Alone) -> tuple[Matching, levels.Weights]:
        mapping = self.mapping
        sides = (Described(self.keras), Described(self.torch))
        groups, owners = [], dict[str, str]()
        for entry in mapping.entries:
            ours, theirs = (
                [unit for name in names if (unit := side.unit(name))]
                for names, side in zip((entry.keras, entry.torch), sides, strict=True)
            )
            groups.append(([u.calls for u in ours], [u.calls for u in theirs]))
            owners |= {n: " + ".join(entry.keras) for u in theirs for n in u.names.values()}
        weights = levels.Weights(
            to_torch=self._to_torch,
            owners=owners,
            buffers=frozenset(p.name for p in self.torch.parameters if not p.trained),
            given=frozenset(alone.names("torch")),
        )
        return match(self.keras, self.torch, groups), weights

    def _to_torch(self, tensors: Mapping[str, np.ndarray]) -> Tensors:
        """Weights or gradients; where Keras has none, such as of a moving mean, zeros."""
        known = {p.name: structure.filled(p.shape, 0) for p in self.keras.parameters}
        strange = [n for n in tensors if n not in known and not n.startswith(("input:", "loss"))]
        if strange:
            raise InputError(
                f"the Keras model names parameters in its run that it did not before: {strange[0]} "
                f"and {len(strange) - 1} more. Give its layers names of their own."
            )
        known |= {name: value for name, value in tensors.items() if name in known}
        return transfer.to_torch(known, self.mapping, self.keras, self.torch, lost=[])

    def _run(
        self,
        wanted: tuple[str, ...],
        further: Sequence[Batch],
        optimizer: str | None = None,
        inside: bool = True,
        below: str = "",
        first: Batch | None = None,
        **more: Any,
    ) -> tuple[Trace, Trace]:
        """Both traces, one after the other. Weights were sent. `first` instead of the first batch;
        `more` are further fields of the request."""
        draws = self.folder / f"draws-{below or 'all'}"
        shutil.rmtree(draws, ignore_errors=True)
        labels = self._labels()
        traces: list[Trace] = []
        for side, request in zip(self.sides, self.requests, strict=True):
            name = side.framework
            self.observe(f"running the {'Keras' if name == 'keras' else 'PyTorch'} model")

            def written(batch: Batch, at: int | str, name: str = name) -> str:
                values = batch.values if name == "keras" else self._as_torch(batch.values)
                return _write(self.folder / name / f"series-{at}.npz", values)

            series = [(batch.name, written(batch, at)) for at, batch in enumerate(further)]
            if first:
                request = replace(request, inputs=written(first, "first"))
            request = replace(
                request,
                weights=str(self._weights(name)),
                labels=labels,
                series=tuple(series),
                levels=wanted,
                outputs=tuple(getattr(each, name) for each in self.outputs.given),
                layouts=tuple(each.axes for each in self.outputs.given) if name == "torch" else (),
                inside=inside,
                draws=str(draws),
                **{"noise": self._noise, **more},
            )
            if optimizer:
                settings = OPTIMIZERS[optimizer]
                request = replace(request, optimizer=optimizer, optimizer_settings=settings)
            folder = self._folder(name, below)
            traces.append(_traced(side, request, folder))
            if not below:
                self._ran[name] = request
        return traces[0], traces[1]

    def _tried(
        self, found: list[semantics.Finding], matching: Matching, inside: origins.Inside | None
    ) -> list[semantics.Finding]:
        """Whether what the findings would change brings PyTorch's layers nearer to Keras' on Keras'
        numbers: there each shows its own difference alone, so that all can be changed at once."""
        partners = matching.by_keras
        tried = [
            at
            for at, each in enumerate(found)
            if each.keras in partners
            and partners[each.keras].torch.name == each.torch
            # What a pad before a layer adds to its own padding is not the layer's to change.
            and partners[each.keras].torch.settings.get(each.key, each.right) == each.right
        ]
        if not tried or inside is None or inside.forced is None or self.asked.reference != "keras":
            return found
        changes = tuple((found[at].torch, found[at].key, found[at].left) for at in tried)
        try:
            forced = self._forced(matching, "changed", changes)
        except InputError:
            return found
        before, after = inside.strain(inside.forced), inside.strain(forced)
        for place, at in enumerate(tried):
            if f"change/{place}" not in forced.refused:
                name = found[at].keras
                (lost, far), (still, further) = after[name], before[name]
                helps = lost < still or (lost == still and far < 0.99 * further)
                found[at] = replace(found[at], helps=helps)
        return found

    def _forced(
        self,
        matching: Matching,
        below: str = "forced",
        changes: tuple[tuple[str, str, Any], ...] = (),
    ) -> Trace:
        """PyTorch's run on Keras' numbers, layer by layer; with changes of its layers."""
        self.observe("running each PyTorch layer on Keras' numbers")
        folder = self._folder("torch", below)
        request = replace(
            self._ran["torch"],
            levels=(),
            series=(),
            reference=str(self.folder / "keras"),
            pairs=tuple(each.pair for each in matching.matches),
            changes=changes,
        )
        return self.sides[1].trace(request, folder)

    def _depends(
        self, framework: str, names: Sequence[str], rows: Mapping[str, np.ndarray] | None = None
    ) -> set[str]:
        """Which of a side's parameters, or of their `rows`, its outputs, loss or gradients depend
        on at all."""
        side = self.sides[FRAMEWORKS.index(framework)]
        folder = self._folder(framework, "alone")
        held = load_file(self._weights(framework))
        trains = "loss" in RUNS[self.asked.level]
        request = replace(
            self.requests[FRAMEWORKS.index(framework)],
            levels=("forward", "loss") if trains else ("forward",),
            outputs=tuple(getattr(each, framework) for each in self.outputs.given),
            inside=False,
            nudge=False,
        )

        def run(changed: Sequence[str]) -> dict[str, np.ndarray] | None:
            values = dict(held)
            for at, name in enumerate(changed):
                generator = np.random.default_rng([self.asked.seed, at])
                drawn = generator.uniform(0.5, 1.5, values[name].shape)
                if rows:
                    drawn[~rows[name]] = 0
                values[name] = (drawn + values[name]).astype(values[name].dtype)
            write_tensors(folder / "weights.safetensors", values)
            weights = str(folder / "weights.safetensors")
            try:
                trace = side.trace(replace(request, weights=weights), folder)
            except InputError:
                return None
            skipped = {f"gradient/{name}" for name in names}
            return {n: np.array(trace.tensors[n]) for n in trace.tensors if n not in skipped}

        floating = [name for name in names if name in held and held[name].dtype.kind == "f"]
        before = run([])
        if before is None or not floating or _same(before, run(floating)):
            return set()
        return {name for name in floating if not _same(before, run([name]))}

    def _folder(self, framework: str, below: str = "") -> Path:
        """Of a side, with what it is; of a further run, one of its own."""
        folder = self.folder / (f"{framework}-{below}" if below else framework)
        if below:
            folder.mkdir(exist_ok=True)
            (self.keras if framework == "keras" else self.torch).write(folder / "graph.json")
        return folder

    def _send(self) -> Tensors:
        """Weights from the source in the target's terms, also in a file for it to run with."""
        source, target = self._ends_of_transfer
        sent, start = load_file(self._weights(source)), self._held(target)
        carry = transfer.to_torch if target == "torch" else transfer.to_keras
        moved = carry(sent, self.mapping, self.keras, self.torch, start=start, lost=[])
        if self.asked.direction:
            write_tensors(self._weights(target), {**start, **moved})
        return moved

    def _held(self, side: str) -> Tensors:
        """A side's own weights, read anew: of a large model they need not stay in memory."""
        return load_file(self.folder / side / "weights.safetensors")

    def _weights(self, side: str) -> Path:
        """What a side runs with: its own, what was sent to it, or its own awake."""
        if self.asked.direction and side == self._ends_of_transfer[1]:
            return self.folder / side / "transferred.safetensors"
        return self.folder / side / f"{'awake' if self._awake else 'weights'}.safetensors"

    @property
    def _ends_of_transfer(self) -> tuple[str, str]:
        source, _, target = (self.asked.direction or "keras-to-torch").partition("-to-")
        return source, target

    def _labels(self) -> str | None:
        if not self.asked.labels:
            return None
        found = _labels(self.asked.labels, len(self.outputs.given), self.batch)
        return _write(self.folder / "labels.npz", found)

    def _transferred(self, weights: levels.Weights, alone: structure.Alone) -> LevelResult:
        """What arrives is what was sent, there and back; or what both sides hold, bit for bit."""
        bits = Allowed(0.0, "bits: weights are copied and permuted", bits=True)
        graphs = (self.keras, self.torch)
        source, target = self._ends_of_transfer
        moved = self._send()
        sent, start = self._held(source), self._held(target)
        if self.asked.direction:
            back = transfer.to_keras if target == "torch" else transfer.to_torch
            returned = back({**start, **moved}, self.mapping, *graphs, start=sent, lost=[])
            for name, own in alone.rows[source].items():  # which the other side has no place for
                sent[name][own] = 0
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
        subject = "there and back" if self.asked.direction else "what both sides hold"
        for each in found if not self.asked.direction else ():
            right, held = pairs[each.name]
            if each.verdict == FAIL and held is not None and (how := how_it_differs(right, held)):
                self.said.append(f"{each.name} holds Keras' numbers, {how}")
        if not found:
            return LevelResult("transfer", PASS, None, detail="there is nothing to transfer")
        return summarise("transfer", None, found, subject)

    def _settled(self) -> list[str]:
        """What was settled by trying, and what inputs were taken for."""
        names = self.keras.semantics.get("input_names", [])
        said = [
            each.text(at, names[at] if at < len(names) else "") for at, each in enumerate(self.way)
        ]
        said += [each.text(at) for at, each in enumerate(self.outputs.given)]
        if self.outputs.spare:
            said.append(f"PyTorch alone gives out {_first(self.outputs.spare)}: decides nothing")
        said.append(precisions.declared(self._declared))
        return [*self.drawing.said, *filter(None, said)]

    def _coverage(self, alone: structure.Alone, matching: Matching) -> Coverage:
        """Numbers with a counterpart, of those that something depends on; and calls of both
        models whose partner is known."""
        total = sum(_size(p.shape) for g in (self.keras, self.torch) for p in g.parameters)
        without = alone.numbers()
        calls = [node for graph in (self.keras, self.torch) for node in graph.nodes]
        single = [*matching.keras_alone, *matching.torch_alone]
        missing = [*alone.listed(), *(f"{node.name} ({node.kind})" for node in single)]
        return Coverage(
            total - without, total, len(calls) - len(single), len(calls), tuple(missing)
        )

    def _moved(self, inputs: Tensors) -> str:
        """The same batch as PyTorch takes it."""
        return _write(self.folder / "torch-inputs.npz", self._as_torch(inputs))

    def _as_torch(self, inputs: Tensors) -> Tensors:
        return {f"input:{at}": value for at, value in ends.moved(inputs, self.way).items()}


def _failing(results: Sequence[LevelResult]) -> list[str]:
    """The names of the tensors that fail."""
    return [m.name for each in results for m in each.tensors if m.verdict == FAIL]


def _traced(side: Side, request: Request, folder: Path) -> Trace:
    try:
        return side.trace(request, folder)
    except InputError as error:
        raise _NotRun(str(error)) from error


def _given(asked: Asked, folder: Path) -> str | None:
    """The batch that was given, as the model's inputs in order; None where none was."""
    if asked.inputs is None:
        return None
    try:
        found = np.load(asked.inputs, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is one array, .npy: expected an archive of arrays, .npz")
        with found:
            named = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"--inputs: cannot read {asked.inputs}: {error}") from None
    sizes = {len(each) if each.ndim else 0 for each in named.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"--inputs: {asked.inputs} holds batches of {sorted(sizes)}: expected one array per "
            "input, all of one batch size, at least 1"
        )
    if any(re.fullmatch(r"arr_\d+", name) for name in named):  # as NumPy calls what has no name
        named = {f"input:{at}": value for at, value in enumerate(named.values())}
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


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    with path.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return str(path)


def _largest(values: Tensors) -> float:
    """Of numbers that no table is indexed by; 1 where there are none, or nothing but zeros."""
    found = [Tensor.whole(each).scale for each in values.values() if each.dtype.kind == "f"]
    return max(found, default=0.0) or 1.0


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _same(one: Mapping[str, np.ndarray] | None, other: Mapping[str, np.ndarray] | None) -> bool:
    if one is None or other is None or one.keys() != other.keys():
        return False
    return all(np.array_equal(value, other[name], equal_nan=True) for name, value in one.items())


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
