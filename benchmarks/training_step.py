"""One training step and one evaluated batch: the arms beside each other, bare loops, the notebooks.

Two ways at a time, each in a fresh process, take turns batch by batch, at every batch size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from benchmarks import measure
from benchmarks.measure import RATIO, Figure, Part, turn_by_turn
from benchmarks.shape import Shape
from parity import environment
from parity.experiment import Experiment

PARTS = {"training_step": "train", "evaluation": "evaluate"}  # and what a process is asked for
TITLES = {"training_step": "Training step", "evaluation": "Evaluation"}
UNIT = "ms/batch"


@dataclass(frozen=True)
class Pair:
    """Two ways of `benchmarks.ways`; `limit` is the most that ours may take of theirs.

    One without a limit is there for orientation, and measured in the first round alone.
    """

    ours: str
    theirs: str
    limit: float | None = None


PAIRS = (
    Pair("torch_arm", "keras_arm", 1.0),
    Pair("keras_arm", "keras_bare", 1.02),
    Pair("torch_arm", "torch_bare", 1.02),
    Pair("keras_arm", "keras_published"),
    Pair("torch_arm", "torch_published"),
    Pair("torch_arm", "keras_on_torch"),
)

# What a profile found to be the reason for which a limit is missed; shown where it is.
CAUSES = {
    ("evaluation", PAIRS[0]): "convolutions take the same time on both sides (oneDNN's). PyTorch's "
    "max pool writes an int64 index beside each maximum, in evaluation too, and its ReLU is a pass "
    "of its own, which TensorFlow fuses into the convolution: together 6 % of a batch of 64.",
    ("evaluation", PAIRS[1]): "an arm makes its batch, which the bare loop has ready (see below).",
    ("evaluation", PAIRS[2]): "an arm makes its batch, which the bare loop has ready (see below).",
}


def run(shape: Shape, data: str, wanted: Collection[str]) -> dict[str, Part]:
    """Measure the wanted ones of `PARTS`."""
    experiment = shape.experiment(data)
    kinds = {part: kind for part, kind in PARTS.items() if part in wanted}
    requests = [(kind, size) for kind in kinds.values() for size in shape.batch_sizes]
    answers: dict[tuple[Pair, str], list[list[dict[str, float]]]] = {}
    for number in range(shape.rounds):
        for pair in PAIRS:
            if number and pair.limit is None:
                continue
            measure.progress(f"  round {number + 1} of {shape.rounds}: {_name(pair)}")
            ways = {way: _process(way, experiment) for way in (pair.ours, pair.theirs)}
            with measure.processes(ways) as running:
                for way, found in measure.take_turns(running, requests, shape.turns).items():
                    known = answers.setdefault((pair, way), [[] for _ in requests])
                    for before, now in zip(known, found, strict=True):
                        before += now
    return {part: _part(part, requests, answers) for part in kinds}


def _process(way: str, experiment: Experiment) -> tuple[str, dict[str, object], dict[str, str]]:
    """An arm and a bare loop run under an arm's environment, the notebooks' way under none."""
    if way == "keras_on_torch":
        way, experiment = "keras_arm", replace(experiment, keras_backend="torch")
    plain = way.endswith("_published")
    variables = {"CUDA_VISIBLE_DEVICES": ""} if plain else environment.variables(experiment)
    return f"benchmarks.ways:{way}", experiment.to_dict(), variables


def _part(
    name: str,
    requests: list[tuple[str, int]],
    answers: dict[tuple[Pair, str], list[list[dict[str, float]]]],
) -> Part:
    part = Part()
    chosen = [(number, size) for number, (kind, size) in enumerate(requests) if kind == PARTS[name]]
    for pair in PAIRS:
        both = [answers[pair, way] for way in (pair.ours, pair.theirs)]
        figures = []
        for number, size in chosen:
            ours, theirs = (measure.seconds(each[number]) for each in both)
            ratios = turn_by_turn(ours, theirs)
            figures.append(Figure(f"{_name(pair)}, batch {size}", RATIO, ratios, pair.limit))
        part.figures += figures
        if (name, pair) in CAUSES and any(figure.reached is False for figure in figures):
            part.notes.append(f"{_name(pair)}: {CAUSES[name, pair]}")
    for way in dict.fromkeys(way for pair in PAIRS for way in (pair.ours, pair.theirs)):
        found = [each for (_, of), each in answers.items() if of == way]
        for number, size in chosen:
            part.figures.append(_milliseconds(f"{_words(way)}, batch {size}", found, number))
        if name == "training_step":  # it needs more than evaluation, and most at the largest batch
            peaks = [max(a["peak_memory_bytes"] for r in each for a in r) for each in found]
            gigabytes = tuple(peak / 1e9 for peak in peaks)
            part.figures.append(Figure(f"{_words(way)}, peak memory", "GB", gigabytes))
    found = [each for (_, of), each in answers.items() if of == "keras_arm"]  # Feed's, for both
    for number, size in chosen:
        making = _milliseconds(f"making a batch of {size}", found, number, "making_seconds")
        part.figures.append(making)
    return part


def _milliseconds(
    name: str, found: list[list[list[dict[str, float]]]], number: int, kind: str = "seconds"
) -> Figure:
    values = (1e3 * s for each in found for s in measure.seconds(each[number], kind))
    return Figure(name, UNIT, tuple(values))


def _name(pair: Pair) -> str:
    return f"{_words(pair.ours)} / {_words(pair.theirs)}"


def _words(way: str) -> str:
    return way.replace("_", " ")
