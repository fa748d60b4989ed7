"""`python -m benchmarks.training_step`: what one training step costs, on the paper's shape.

Every figure comes from a fresh process. An arm and its bare loop take turns step by step within
one process, so that their ratio holds when the machine's speed drifts; the two frameworks' arms
take turns process by process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity import environment, weights
from parity.cli import run, writable
from parity.experiment import Experiment
from parity.feed import Feed
from parity.recording import write_atomically
from shared_data.batches import FaceData, load

RESULTS = Path(__file__).parent / "results"
Step = Callable[[np.ndarray, np.ndarray], float]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--data", default="synthetic", help="as parity.compare takes it")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per process")
    parser.add_argument("--rounds", type=int, default=2, help="processes per measurement")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](_experiment(options.data), options.steps)))
        return 0
    return run(lambda: _measure_all(options))


def _experiment(data: str) -> Experiment:
    return Experiment.of("baseline", "paper", data=data)


def _measure_all(options: argparse.Namespace) -> int:
    writable(options.out)
    experiment = _experiment(options.data)
    result: dict[str, Any] = {
        "benchmark": "training_step",
        "experiment": experiment.to_dict(),
        "environment": environment.describe(experiment),
        "cache": _measure_cache(experiment),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MEASUREMENTS}
    for number in range(options.rounds):
        for name, results in found.items():
            if name.endswith("_published") and number:
                continue  # slow, and only to be put beside the others
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            results.append(_measure(name, experiment, options))
            print(f"  {_brief(results[-1])}", file=sys.stderr, flush=True)
    result["measurements"] = found
    result["ratios"] = ratios(found)
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / "training_step.json", text.encode())
    write_atomically(options.out / "training_step.md", markdown(result).encode())
    print(markdown(result))
    return 0


def _measure(name: str, experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in a process of its own, under an arm's environment or the plain one."""
    plain = name.endswith("_published")
    chosen = {"CUDA_VISIBLE_DEVICES": ""} if plain else environment.variables(experiment)
    command = [sys.executable, "-m", "benchmarks.training_step", "--measure", name]
    done = subprocess.run(
        [*command, "--data", options.data, "--steps", str(options.steps)],
        env={**os.environ, **chosen},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure_cache(experiment: Experiment) -> dict[str, float]:
    """Seconds to have the data ready: with an empty cache, and at the second start."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            _load(experiment, Path(folder))
            seconds.append(time.perf_counter() - begun)
    return {"first_start_seconds": seconds[0], "second_start_seconds": seconds[1]}


def _load(experiment: Experiment, cache: Path | None = None) -> FaceData:
    return load(
        experiment.data,
        image_size=experiment.image_size,
        synthetic_images=experiment.synthetic_images,
        cache=cache,
    )


def _keras(experiment: Experiment, steps: int) -> dict[str, Any]:
    from benchmarks.plain_keras import make_step
    from keras_impl.training import Trainer

    trainer = Trainer(experiment, 2)
    trainer.load(weights.draw(experiment))
    bare = make_step(experiment.image_size, experiment.learning_rate)
    return _take_turns(experiment, trainer.train_batch, bare, steps)


def _torch(experiment: Experiment, steps: int) -> dict[str, Any]:
    from benchmarks.plain_torch import make_best_step
    from torch_impl.training import Trainer

    trainer = Trainer(experiment, 2)
    trainer.load(weights.draw(experiment))
    bare = make_best_step(experiment.image_size, experiment.learning_rate)
    return _take_turns(experiment, trainer.train_batch, bare, steps)


def _keras_memory(experiment: Experiment, steps: int) -> dict[str, Any]:
    from keras_impl.training import Trainer

    return _arm_alone(experiment, Trainer(experiment, 2).train_batch, steps)


def _torch_memory(experiment: Experiment, steps: int) -> dict[str, Any]:
    from torch_impl.training import Trainer

    return _arm_alone(experiment, Trainer(experiment, 2).train_batch, steps)


def _keras_published(experiment: Experiment, steps: int) -> dict[str, Any]:
    from benchmarks.plain_keras import make_step

    return _published(experiment, make_step(256, experiment.learning_rate), steps)


def _torch_published(experiment: Experiment, steps: int) -> dict[str, Any]:
    from benchmarks.plain_torch import make_published_step

    return _published(experiment, make_published_step(256, experiment.learning_rate), steps)


def _take_turns(
    experiment: Experiment, arm: Callable[..., Any], bare: Step, steps: int
) -> dict[str, Any]:
    """Arm step, bare step, arm step, …: the arm makes its batch anew, the bare loop's is ready."""
    arm_seconds, bare_seconds = [], []
    batches = _full_batches(experiment)
    for number in range(steps + 1):
        begun = time.perf_counter()
        images, labels = next(batches)
        arm(images, labels)
        between = time.perf_counter()
        bare(images, labels)
        ended = time.perf_counter()
        if number:  # the first compiles
            arm_seconds.append(between - begun)
            bare_seconds.append(ended - between)
    return {"arm_seconds": arm_seconds, "bare_seconds": bare_seconds}


def _arm_alone(experiment: Experiment, arm: Callable[..., Any], steps: int) -> dict[str, Any]:
    batches = _full_batches(experiment)
    seconds = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        arm(*next(batches))
        seconds.append(time.perf_counter() - begun)
    return {"arm_seconds": seconds[1:], "peak_memory_bytes": _peak_memory()}


def _published(experiment: Experiment, step: Step, steps: int) -> dict[str, Any]:
    """The notebooks' way: every image as float64, split, then a float32 copy of each split."""
    data = _load(experiment)
    everything = np.array([np.asarray(image) for image in data.train.images]) / 256
    parts = (data.train, data.test, data.validation)
    train, _test, _validation = (everything[part.rows].astype(np.float32) for part in parts)
    seconds = []
    for number in range(min(steps, 2) + 1):
        chosen = slice(number * experiment.batch_size, (number + 1) * experiment.batch_size)
        begun = time.perf_counter()
        step(train[chosen], data.train.labels[chosen])
        seconds.append(time.perf_counter() - begun)
    return {"bare_seconds": seconds[1:], "peak_memory_bytes": _peak_memory()}


def _full_batches(experiment: Experiment) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    feed = Feed(experiment, _load(experiment))
    for epoch in range(1, 1000):
        for images, labels in feed.training(epoch):
            if len(labels) == experiment.batch_size:
                yield images, labels


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASUREMENTS: dict[str, Callable[[Experiment, int], dict[str, Any]]] = {
    "keras": _keras_memory,
    "torch": _torch_memory,
    "keras_against_bare": _keras,
    "torch_against_bare": _torch,
    "keras_published": _keras_published,
    "torch_published": _torch_published,
}


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Medians against medians; an arm against its bare loop turn by turn."""

    def seconds(name: str, kind: str = "arm_seconds") -> list[float]:
        return [value for result in found[name] for value in result[kind]]

    def turns(name: str) -> float:
        both = zip(seconds(name), seconds(name, "bare_seconds"), strict=True)
        return statistics.median(arm / bare for arm, bare in both)

    def median(name: str, kind: str = "arm_seconds") -> float:
        return statistics.median(seconds(name, kind))

    def memory(name: str) -> int:
        return int(max(result["peak_memory_bytes"] for result in found[name]))

    return {
        "torch arm / keras arm": median("torch") / median("keras"),
        "published torch loop / keras arm": median("torch_published", "bare_seconds")
        / median("keras"),
        "published keras loop / keras arm": median("keras_published", "bare_seconds")
        / median("keras"),
        "keras arm / its bare loop": turns("keras_against_bare"),
        "torch arm / its bare loop": turns("torch_against_bare"),
        "keras memory / published": memory("keras") / memory("keras_published"),
        "torch memory / published": memory("torch") / memory("torch_published"),
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as two small tables."""
    machine = result["environment"]
    lines = [
        f"Batch 64, 256x256x3, padding 0, float32, {machine['threads']} threads, "
        f"{machine['processor']}, Python {machine['python']}.",
        "",
        "| measured | s/step: median (min to max) | peak memory |",
        "|---|---|---|",
    ]
    for name, results in result["measurements"].items():
        for kind in ("arm", "bare"):
            values = [v for one in results for v in one.get(f"{kind}_seconds", [])]
            if values:
                memory = max(one.get("peak_memory_bytes", 0) for one in results)
                spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
                shown = f"{memory / 1e9:.2f} GB" if memory else ""
                lines.append(f"| {name.replace('_', ' ')}: {kind} | {spread} | {shown} |")
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in result["ratios"].items()]
    cache = result["cache"]
    lines += [
        "",
        f"Data ready after {cache['first_start_seconds']:.1f} s with an empty cache, "
        f"{cache['second_start_seconds']:.2f} s at the second start.",
        "",
    ]
    return "\n".join(lines)


def _brief(measured: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {statistics.median(value):.2f}" if isinstance(value, list) else f"{name} {value}"
        for name, value in measured.items()
    )


if __name__ == "__main__":
    sys.exit(main())
