"""What every benchmark shares: processes that take turns, medians with their spread, the machine.

`python -m benchmarks.measure MODULE:FUNCTION SPEC` is the process: it calls `FUNCTION(SPEC)`, which
sets up what is measured and returns a function, and answers each line on standard input by that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parity import environment
from parity.experiment import Experiment
from shared_data.errors import InputError

RATIO = "ratio"
LAST_LINES = 15  # of a dead process' log, shown to the user
GRACE_SECONDS = 10.0
_PACKAGES = ("tensorflow", "keras", "torch", "imagehash")

Answer = Callable[[Any], dict[str, float]]


@dataclass(frozen=True)
class Figure:
    """Something measured, several times where it can be.

    Attributes:
        values: of each time, in `unit`.
        limit: what the median should reach: at most this, or at least where `more_is_better`.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    more_is_better: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The spread: half of the values lie between these."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        lower, _, upper = statistics.quantiles(self.values, n=4, method="inclusive")
        return lower, upper

    @property
    def reached(self) -> bool | None:
        """None where there is nothing to reach."""
        if self.limit is None:
            return None
        return self.median >= self.limit if self.more_is_better else self.median <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "median": self.median,
            "quartiles": self.quartiles,
            "reached": self.reached,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Figure:
        """The inverse of `to_dict`; medians and quartiles are computed anew."""
        known = ("name", "unit", "values", "limit", "more_is_better")
        chosen = {key: fields[key] for key in known}
        return cls(**{**chosen, "values": tuple(fields["values"])})


@dataclass
class Part:
    """One part of the benchmarks: its figures, and sentences that explain them."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"figures": [each.to_dict() for each in self.figures], "notes": self.notes}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """k of cost = a * size^k, by least squares on logarithms: 1 is linear growth."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    ).slope


class Process:
    """A fresh process that does one thing each time it is asked; it is idle in between."""

    def __init__(self, target: str, spec: Any, variables: Mapping[str, str] | None = None) -> None:
        self.target = target
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process lives
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measure", target, json.dumps(spec)],
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, request: Any = None) -> dict[str, float]:
        """What the process answers, `peak_memory_bytes` so far among it.

        Raises:
            InputError: the process ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            said = "".join(self._log.readlines()[-LAST_LINES:])
            raise InputError(f"{self.target} ended with status {self._process.wait()}:\n{said}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it: it does so by itself once nothing more is to be asked."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # dead already
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


@contextmanager
def processes(
    specs: Mapping[str, tuple[str, Any, Mapping[str, str]]],
) -> Iterator[dict[str, Process]]:
    """One process per entry: target, spec and environment variables. All start at once."""
    started: dict[str, Process] = {}
    try:
        for name, (target, spec, variables) in specs.items():
            started[name] = Process(target, spec, variables)
        yield started
    finally:
        for process in started.values():
            process.close()


def take_turns(
    running: Mapping[str, Process], requests: Sequence[Any], turns: int
) -> dict[str, list[list[dict[str, float]]]]:
    """Ask every process every request, again and again, so that ratios survive a drifting machine.

    Who comes first changes from turn to turn. One turn before, not returned, compiles and fills
    caches.

    Returns:
        per process, per request, the answer of each turn.
    """
    found: dict[str, list[list[dict[str, float]]]] = {
        name: [[] for _ in requests] for name in running
    }
    for turn in range(turns + 1):
        for number, request in enumerate(requests):
            for name in list(running)[:: 1 if turn % 2 else -1]:
                answer = running[name].ask(request)
                if turn:
                    found[name][number].append(answer)
    return found


def seconds(answers: Sequence[Mapping[str, float]], kind: str = "seconds") -> tuple[float, ...]:
    return tuple(answer[kind] for answer in answers)


def turn_by_turn(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Ratios of what was measured in the same turn."""
    return tuple(one / other for one, other in zip(ours, theirs, strict=True))


def describe(experiment: Experiment) -> dict[str, Any]:
    """The machine, the versions, and how busy it was with other things."""
    return {
        **environment.describe(experiment),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        **{name: version(name) for name in _PACKAGES},
        "load_average_before": os.getloadavg()[0],
    }


def peak_memory() -> int:
    """The most bytes that this process has held at a time.

    `ru_maxrss` starts at what the parent held when it started this process: too much for a small
    one, so that it is asked where there is nothing better.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The process that `Process` starts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__)
    parser.add_argument("target", metavar="MODULE:FUNCTION")
    parser.add_argument("spec", metavar="SPEC", help="JSON")
    options = parser.parse_args(arguments)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print must not stand among the answers
    module, _, function = options.target.partition(":")
    answer: Answer = getattr(import_module(module), function)(json.loads(options.spec))
    for line in sys.stdin:
        found = answer(json.loads(line))
        found = {"peak_memory_bytes": peak_memory(), **found}
        print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
