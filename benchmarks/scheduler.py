"""`python -m benchmarks.scheduler`: what an engine adds to a task, beside the bare process.

A task's process does nothing but say that it is done. Run in turns, so that a shared machine
disturbs all alike: the bare processes one after the other, then the same number through each
engine, one at a time, and the median of the rounds. The start of an engine is measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from parity import environment
from parity.cli import run, writable
from parity.engines import Engine, Task
from parity.engines.local import Local
from parity.engines.ray import Ray
from parity.experiment import Experiment
from parity.recording import write_atomically
from shared_data.errors import InputError

RESULTS = Path(__file__).parent / "results"
MODULE = "benchmarks.nothing"
EXPERIMENT = Experiment(threads=1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--address", help="of a Ray cluster (default: one of this machine)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return run(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    writable(options.out)
    engines: dict[str, Callable[[], Engine]] = {
        "local": lambda: Local(jobs=1),
        "ray": lambda: Ray(options.address, EXPERIMENT),
    }
    started, opened = {}, {}
    for name, start in engines.items():
        begun = time.monotonic()
        opened[name] = start()
        started[name] = time.monotonic() - begun
    rounds: dict[str, list[float]] = {"process": [], **{name: [] for name in engines}}
    with closing(opened["local"]), closing(opened["ray"]), tempfile.TemporaryDirectory() as folder:
        for name in engines:
            _through(opened[name], 1, Path(folder))  # Ray's first task also starts its worker
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            rounds["process"].append(_bare(options.tasks, Path(folder)))
            for name in engines:
                rounds[name].append(_through(opened[name], options.tasks, Path(folder)))
    bare = statistics.median(rounds["process"])
    result = {
        "tasks": options.tasks,
        "seconds_per_task": rounds,
        "overhead_seconds": {name: statistics.median(rounds[name]) - bare for name in engines},
        "start_seconds": started,
        "environment": environment.describe(EXPERIMENT),
        "load": os.getloadavg(),
    }
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / "scheduler.json", text.encode())
    write_atomically(options.out / "scheduler.md", markdown(result).encode())
    print(markdown(result))
    return 0


def _bare(count: int, folder: Path) -> float:
    """Seconds per process that is started as an engine would, one after the other."""
    experiment = folder / "experiment.json"
    experiment.write_text(EXPERIMENT.to_json())
    command = [sys.executable, "-m", MODULE, "--events", str(experiment), str(folder)]
    variables = {**os.environ, **environment.variables(EXPERIMENT)}
    begun = time.monotonic()
    for _ in range(count):
        subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - begun) / count


def _through(engine: Engine, count: int, folder: Path) -> float:
    """Seconds per task, each run for itself."""
    begun = time.monotonic()
    for number in range(count):
        task = Task(f"task {number}", (MODULE,), EXPERIMENT, folder / "task", "result.json")
        failed = engine.run([task], lambda name, event: None)
        if failed:
            raise InputError(failed[task.name].message)
    return (time.monotonic() - begun) / count


def markdown(result: dict[str, Any]) -> str:
    """One line for the bare process and for each engine."""
    lines = [
        f"{result['tasks']} tasks that do nothing, {len(result['seconds_per_task']['process'])} "
        f"times, {result['environment']['processor']}, {result['environment']['cores']} cores, "
        f"load {result['load'][0]:.0f}.",
        "",
        "| | s per task: median (min to max) | more than the process, s | start, s |",
        "|---|---:|---:|---:|",
    ]
    for name, seconds in result["seconds_per_task"].items():
        spread = f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        engine = name in result["overhead_seconds"]
        more = f"{result['overhead_seconds'][name]:.3f}" if engine else ""
        start = f"{result['start_seconds'][name]:.1f}" if engine else ""
        lines.append(f"| {name} | {spread} | {more} | {start} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
