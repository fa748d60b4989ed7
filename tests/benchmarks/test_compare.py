"""What got slower from one result to another."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from benchmarks import compare
from benchmarks.measure import Figure

STEP = (1.0, 1.1, 1.2, 1.3, 1.4)
RATE = (100.0, 110.0, 120.0)


def result(**changed: Figure) -> dict[str, Any]:
    figures = {
        "step": Figure("step", "s", STEP),
        "rate": Figure("rate", "images/s", RATE, None, True),
        "growth": Figure("growth", "exponent", (1.0,), 1.05),
        **changed,
    }
    return {
        "benchmark": "run",
        "shape": {"name": "full", "fields": {}},
        "experiment": {"image_size": 256},
        "environment": {
            "processor": "A",
            "cores": 2,
            "threads": 2,
            "memory_bytes": 8,
            "numpy": "2",
            "load_average_before": 0.1,
        },
        "parts": {"part": {"figures": [f.to_dict() for f in figures.values()], "notes": []}},
    }


def times(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(factor * value for value in values)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, compare.SAME),
        ({"step": Figure("step", "s", times(STEP, 1.05))}, compare.SAME),
        ({"step": Figure("step", "s", times(STEP, 2))}, compare.SLOWER),
        ({"step": Figure("step", "s", times(STEP, 0.5))}, compare.FASTER),
        ({"rate": Figure("rate", "images/s", times(RATE, 0.5), None, True)}, compare.SLOWER),
        ({"rate": Figure("rate", "images/s", times(RATE, 2), None, True)}, compare.FASTER),
        ({"growth": Figure("growth", "exponent", (1.04,), 1.05)}, compare.ONCE),
        ({"growth": Figure("growth", "exponent", (1.3,), 1.05)}, compare.SLOWER),
    ],
)
def test_a_change_is_one_beyond_the_spread(changed: dict[str, Figure], verdict: str) -> None:
    changes = {c.name: c.verdict for c in compare.judge(result(), result(**changed))}
    name = next(iter(changed), "step")
    assert changes.pop(f"part: {name}") == verdict
    assert compare.SLOWER not in changes.values() and compare.FASTER not in changes.values()


def test_how_many_times_as_slow_counts_rates_the_other_way() -> None:
    later = result(
        step=Figure("step", "s", times(STEP, 2)),
        rate=Figure("rate", "images/s", times(RATE, 0.5), None, True),
    )
    changes = {each.name: each.worse for each in compare.judge(result(), later)}
    assert changes["part: step"] == pytest.approx(2) and changes["part: rate"] == pytest.approx(2)


@pytest.mark.parametrize(("now", "times"), [(0.0, 1.0), (3.0, float("inf"))])
def test_what_was_nothing_before_can_be_compared(now: float, times: float) -> None:
    before, after = (
        result(growth=Figure("growth", "bytes/image", (value,), 5)) for value in (0.0, now)
    )
    assert compare.judge(before, after)[-1].worse == times


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(content: dict[str, Any]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


Write = Callable[[dict[str, Any]], str]


def test_exit_status_says_whether_something_got_slower(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    before, slower = written(result()), written(result(step=Figure("s", "s", times(STEP, 2))))
    later = written(result(step=Figure("step", "s", times(STEP, 2))))
    assert compare.main([before, before]) == 0
    assert compare.main([before, slower]) == 0  # a figure of another name is not the same figure
    assert compare.main([before, later]) == 1
    assert "slower: part: step: 1.2 -> 2.4 s (2.00 times)" in capsys.readouterr().out
    assert compare.main([later, before]) == 0


@pytest.mark.parametrize(
    ("place", "key", "value", "refused"),
    [
        ("shape", "name", "quick", True),
        ("experiment", "image_size", 190, True),
        ("environment", "processor", "B", True),
        ("environment", "cores", 4, True),
        ("environment", "numpy", "3", False),
    ],
)
def test_other_shapes_and_machines_are_refused_unless_asked_for(
    written: Write,
    capsys: pytest.CaptureFixture[str],
    place: str,
    key: str,
    value: Any,
    refused: bool,
) -> None:
    other = copy.deepcopy(result())
    other[place][key] = value
    files = [written(result()), written(other)]
    assert compare.main(files) == (2 if refused else 0)
    said = f"{place}.{key}: {result()[place][key]} / {value}"
    shown = capsys.readouterr()
    assert said in (shown.err if refused else shown.out)
    assert compare.main([*files, "--anyway"]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"benchmark": "augmentation"}'])
def test_what_is_no_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert compare.main([str(path), str(path)]) == 2
    assert compare.main([str(path), str(tmp_path / "absent.json")]) == 2
    assert str(path) in capsys.readouterr().err


def test_nothing_compared_is_no_pass(written: Write) -> None:
    empty = {**result(), "parts": {}}
    assert compare.main([written(result()), written(empty)]) == 2


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    kept = str(ROOT / "benchmarks" / "results" / "run.json")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", kept, kept],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == "ended: nobody reads the output any more\n"
