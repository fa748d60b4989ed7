"""`python -m benchmarks.augmentation`: does a training step wait for its augmented batch?

On the paper's shape: what a batch costs to make, and, per framework in a process of its own, how
long steps wait and take with no augmentation, with it in line, and with it running ahead. The
three take turns step by step, so that their ratios hold when the machine's speed drifts. A step
outlasts the making of a batch, so what runs ahead is done within the turn that it belongs to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from parity import environment, weights
from parity.cli import run, writable
from parity.experiment import Experiment
from parity.feed import AHEAD, Batch, Feed, load_data
from parity.recording import write_atomically

RESULTS = Path(__file__).parent / "results"
ARMS = ("keras", "torch")
WAYS = ("none", "in line", "ahead")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation", description=__doc__)
    parser.add_argument("--data", default="synthetic", help="as parity.compare takes it")
    parser.add_argument("--steps", type=int, default=6, help="steps per way and process, 2 to 15")
    parser.add_argument("--rounds", type=int, default=2, help="processes per measurement")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](_experiment(options.data), options.steps)))
        return 0
    return run(lambda: _measure_all(options))


def _experiment(data: str) -> Experiment:
    return Experiment.of("image_transforms", "paper", data=data)


def _measure_all(options: argparse.Namespace) -> int:
    writable(options.out)
    experiment = _experiment(options.data)
    load_data(experiment)  # the cache is filled before anything is timed
    batch = experiment.batch_size * experiment.image_size**2 * 3 * 4  # bytes in float32
    result: dict[str, Any] = {
        "benchmark": "augmentation",
        "experiment": experiment.to_dict(),
        "environment": environment.describe(experiment),
        "load_average_before": os.getloadavg()[0],
        "batches_ahead": AHEAD,
        "bytes_ahead": AHEAD * batch,
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MEASUREMENTS}
    for number in range(options.rounds):
        for name, results in found.items():
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            results.append(_measure(name, experiment, options))
    result["measurements"] = found
    result["waiting"] = {name: waiting(found[name]) for name in ARMS}
    result["ratios"] = ratios(found)
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / "augmentation.json", text.encode())
    write_atomically(options.out / "augmentation.md", markdown(result).encode())
    print(markdown(result))
    return 0


def _measure(name: str, experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in a process of its own, under an arm's environment."""
    command = [sys.executable, "-m", "benchmarks.augmentation", "--measure", name]
    done = subprocess.run(
        [*command, "--data", options.data, "--steps", str(options.steps)],
        env={**os.environ, **environment.variables(experiment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _batches(experiment: Experiment) -> dict[str, Iterator[Batch]]:
    """The first epoch, in each way."""
    data = load_data(experiment)
    plain = Experiment.from_dict({**experiment.to_dict(), "augment": False})
    feeds = (Feed(plain, data), Feed(experiment, data, ahead=0), Feed(experiment, data))
    return {way: feed.through([1]) for way, feed in zip(WAYS, feeds, strict=True)}


def _making(experiment: Experiment, steps: int) -> dict[str, Any]:
    """Seconds per batch when no one trains, by the clock and of the processor."""
    found: dict[str, Any] = {}
    for way, batches in _batches(experiment).items():
        next(batches)  # reads the images from the disk, and starts the thread
        begun, used = [time.perf_counter()], [time.process_time()]
        for _ in range(steps):
            next(batches)
            begun.append(time.perf_counter())
            used.append(time.process_time())
        found[way] = {"seconds": _gaps(begun), "processor_seconds": _gaps(used)}
        batches.close()  # type: ignore[attr-defined]
    return found


def _gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _keras(experiment: Experiment, steps: int) -> dict[str, Any]:
    from keras_impl.training import Trainer

    trainer = Trainer(experiment, 2)
    trainer.load(weights.draw(experiment))
    return _take_turns(experiment, trainer.train_batch, steps)


def _torch(experiment: Experiment, steps: int) -> dict[str, Any]:
    from torch_impl.training import Trainer

    trainer = Trainer(experiment, 2)
    trainer.load(weights.draw(experiment))
    return _take_turns(experiment, trainer.train_batch, steps)


def _take_turns(experiment: Experiment, arm: Callable[..., Any], steps: int) -> dict[str, Any]:
    """A step in each way, again and again. The first of each is the first of its epoch."""
    arm(*next(_batches(experiment)["none"]))  # compiles
    found: dict[str, Any] = {way: {"wait_seconds": [], "step_seconds": []} for way in WAYS}
    ways = _batches(experiment)
    for _ in range(steps):
        for way, batches in ways.items():
            begun = time.perf_counter()
            batch = next(batches)
            between = time.perf_counter()
            arm(*batch)
            ended = time.perf_counter()
            found[way]["wait_seconds"].append(between - begun)
            found[way]["step_seconds"].append(ended - between)
    return found


MEASUREMENTS: dict[str, Callable[[Experiment, int], dict[str, Any]]] = {
    "making": _making,
    "keras": _keras,
    "torch": _torch,
}


def waiting(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each way: medians of the seconds, and which share of its time an arm waits.

    The first step of an epoch, for which nothing can run ahead, stands by itself.
    """
    found = {}
    for way in WAYS:
        waits, steps = (
            [value for result in results for value in result[way][kind][1:]]
            for kind in ("wait_seconds", "step_seconds")
        )
        found[way] = {
            "first_wait_seconds": statistics.median(r[way]["wait_seconds"][0] for r in results),
            "wait_seconds": statistics.median(waits),
            "longest_wait_seconds": max(waits),
            "step_seconds": statistics.median(steps),
            "waiting_share": sum(waits) / (sum(waits) + sum(steps)),
        }
    return found


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Wait and step together, turn by turn: the median. First steps are left out."""

    def seconds(name: str, way: str) -> list[float]:
        parts = [zip(*result[way].values(), strict=True) for result in found[name]]
        return [sum(pair) for part in parts for pair in list(part)[1:]]

    return {
        f"{name}: {way} / {other}": statistics.median(
            one / two for one, two in zip(seconds(name, way), seconds(name, other), strict=True)
        )
        for name in ARMS
        for way, other in (("in line", "none"), ("ahead", "none"), ("ahead", "in line"))
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as three small tables."""
    machine = result["environment"]
    lines = [
        f"Batch 64, 256x256x3, padding 0, float32, {machine['threads']} threads, "
        f"{machine['processor']}, Python {machine['python']}. "
        f"{result['batches_ahead']} batches ahead: {result['bytes_ahead'] / 1e6:.0f} MB.",
        "",
        "| augmentation | s/batch, no one training: median (min to max) | s of a core |",
        "|---|---|---|",
    ]
    for way in WAYS:
        seconds, used = (
            [value for one in result["measurements"]["making"] for value in one[way][kind]]
            for kind in ("seconds", "processor_seconds")
        )
        spread = f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        lines.append(f"| {way} | {spread} | {statistics.median(used):.3f} |")
    lines += [
        "",
        "| arm | augmentation | wait, s | longest | first of an epoch | step, s | waiting |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ARMS:
        for way, at in result["waiting"][name].items():
            lines.append(
                f"| {name} | {way} | {at['wait_seconds']:.4f} | {at['longest_wait_seconds']:.4f} "
                f"| {at['first_wait_seconds']:.3f} | {at['step_seconds']:.2f} "
                f"| {100 * at['waiting_share']:.2f} % |"
            )
    lines += ["", "| ratio of wait and step together | |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in result["ratios"].items()]
    if result["load_average_before"] > 0.5:
        lines += [
            "",
            f"The machine was shared (load average {result['load_average_before']:.1f} before this "
            "began): steps swing by far more than a batch costs, so that only the waits can be "
            "told apart, and what runs ahead had no idle core to run on.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
