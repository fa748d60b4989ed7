"""`python -m benchmarks.compare BEFORE AFTER`: what got slower from one result to another."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cli import EXIT_FAIL, EXIT_PASS, run
from shared_data.errors import InputError

MACHINE = ("processor", "cores", "threads", "memory_bytes")
SLOWER, FASTER, SAME, ONCE = "slower", "faster", "within the spread", "measured once"

EXAMPLES = """examples:
  python -m benchmarks.compare benchmarks/results/run.json runs/today/run.json
  python -m benchmarks.compare laptop.json server.json --anyway

A figure got slower (or larger) if the lower quartile of its values now lies above the upper one
before. What was measured once has no spread: it counts if it reached its limit before and misses it
now.

exit status: 0 nothing got slower, 1 something did, 2 a file is no result, or the two are of
different shapes or machines"""


@dataclass(frozen=True)
class Change:
    """One figure in both results. `worse` is how many times as slow (or large) it is now."""

    name: str
    unit: str
    before: float
    after: float
    worse: float
    verdict: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Say what got slower from one result of benchmarks.run to another.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, metavar="BEFORE", help="a run.json")
    parser.add_argument("after", type=Path, metavar="AFTER", help="another")
    parser.add_argument(
        "--anyway", action="store_true", help="compare different shapes or machines as well"
    )
    options = parser.parse_args(arguments)
    return run(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    before, after = read(options.before), read(options.after)
    differing = differences(before, after)
    grave = [each for each in differing if _grave(each)]
    if grave and not options.anyway:
        raise InputError(
            f"{options.before} and {options.after} differ in more than what was measured:\n  "
            + "\n  ".join(grave)
            + "\nMeasure both with one shape on one machine, or compare them with --anyway."
        )
    changes = judge(before, after)
    if not changes:
        raise InputError(f"{options.before} and {options.after} have no figure in common.")
    for text in differing:
        print(f"differs: {text}")
    for verdict in (SLOWER, FASTER):
        for change in (each for each in changes if each.verdict == verdict):
            print(
                f"{verdict}: {change.name}: {change.before:.4g} -> {change.after:.4g} "
                f"{change.unit} ({change.worse:.2f} times)"
            )
    counts = [f"{sum(c.verdict == v for c in changes)} {v}" for v in (SLOWER, FASTER, SAME, ONCE)]
    print(f"{len(changes)} figures: {', '.join(counts)}")
    return EXIT_FAIL if any(change.verdict == SLOWER for change in changes) else EXIT_PASS


def judge(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every figure that both results have, in the order of `before`."""
    from benchmarks.measure import Figure

    def figures(result: Mapping[str, Any]) -> dict[str, Figure]:
        return {
            f"{part}: {each['name']}": Figure.from_dict(each)
            for part, found in result["parts"].items()
            for each in found["figures"]
        }

    later = figures(after)
    changes = []
    for name, old in figures(before).items():
        new = later.get(name)
        if new is None or new.unit != old.unit:
            continue
        pair = (new.median, old.median)
        worse = _times(*(pair[::-1] if old.more_is_better else pair))
        verdict = _verdict(old.quartiles, new.quartiles, old.more_is_better)
        if len(old.values) == 1 or len(new.values) == 1:
            verdict = SLOWER if old.reached and new.reached is False else ONCE
        changes.append(Change(name, old.unit, old.median, new.median, worse, verdict))
    return changes


def _times(value: float, other: float) -> float:
    """`value / other`; a growth can be 0."""
    return 1.0 if value == other else value / other if other else math.inf


def _verdict(old: tuple[float, float], new: tuple[float, float], more_is_better: bool) -> str:
    if new[0] > old[1]:
        return FASTER if more_is_better else SLOWER
    if new[1] < old[0]:
        return SLOWER if more_is_better else FASTER
    return SAME


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else differs: shape, experiment, environment; `place: before / after`."""
    found = []
    for place in ("shape", "experiment", "environment"):
        one, other = (dict(_flat(result[place])) for result in (before, after))
        for key in [*one, *(each for each in other if each not in one)]:
            if one.get(key) != other.get(key) and key != "load_average_before":
                found.append(f"{place}.{key}: {one.get(key)} / {other.get(key)}")
    return found


def _grave(text: str) -> bool:
    place, _, key = text.partition(":")[0].partition(".")
    return place != "environment" or key in MACHINE


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read(path: Path) -> dict[str, Any]:
    """A `run.json`. Raises `InputError` where it is none."""
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from None
    if not isinstance(result, dict) or result.get("benchmark") != "run":
        raise InputError(f"{path} is no result of benchmarks.run: give its run.json.")
    return result


if __name__ == "__main__":
    sys.exit(main())
