"""Figures, growth, and processes that take turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import measure
from benchmarks.measure import RATIO, Figure
from shared_data.errors import InputError

Numbers = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


@given(Numbers)
def test_median_and_quartiles_are_numpys(values: list[float]) -> None:
    figure = Figure("x", "s", tuple(values))
    expected = np.percentile(values, [25, 50, 75])
    assert np.allclose([figure.quartiles[0], figure.median, figure.quartiles[1]], expected)


@given(Numbers, st.floats(1e-3, 1e3), st.booleans())
def test_figures_survive_json(values: list[float], limit: float, more: bool) -> None:
    figure = Figure("x", RATIO, tuple(values), limit, more)
    assert Figure.from_dict(json.loads(json.dumps(figure.to_dict()))) == figure


@pytest.mark.parametrize(
    ("median", "more_is_better", "reached"),
    [(1.0, False, True), (1.01, False, False), (1.0, True, True), (0.99, True, False)],
)
def test_a_limit_is_reached_on_its_own_side(
    median: float, more_is_better: bool, reached: bool
) -> None:
    assert Figure("x", RATIO, (median,), 1.0, more_is_better).reached is reached


def test_nothing_to_reach_is_neither_reached_nor_missed() -> None:
    assert Figure("x", RATIO, (1.0,)).reached is None


@given(st.floats(0.2, 3), st.floats(1e-6, 1e3))
def test_the_exponent_is_that_of_the_growth(power: float, factor: float) -> None:
    sizes = [10, 100, 1000]
    found = measure.exponent(sizes, [factor * size**power for size in sizes])
    assert found == pytest.approx(power)


def counting(spec: dict[str, Any]) -> measure.Answer:
    """A process' work for the test below: says which request it got, and its how manieth."""
    count = 0

    def answer(request: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        print("noise that a framework might print")
        if request == spec.get("fatal"):
            raise RuntimeError("no more")
        return {"seconds": float(count), "request": float(request)}

    return answer


TARGET = "tests.benchmarks.test_measure:counting"
HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_processes_take_turns_and_the_first_turn_is_left_out() -> None:
    with measure.processes({name: (TARGET, {}, HERE) for name in "ab"}) as running:
        found = measure.take_turns(running, [7, 8], turns=2)
    for answers in found.values():  # each was asked 7, 8, 7, 8, 7, 8
        assert [[each["request"] for each in of] for of in answers] == [[7, 7], [8, 8]]
        assert [measure.seconds(of) for of in answers] == [(3, 5), (4, 6)]
        assert all(each["peak_memory_bytes"] > 1e6 for of in answers for each in of)


def test_the_peak_is_of_the_process_itself_not_of_a_large_parent() -> None:
    held = np.ones(50_000_000)  # 400 MB
    with measure.processes({"a": (TARGET, {}, HERE)}) as running:
        assert 1e6 < running["a"].ask(1)["peak_memory_bytes"] < 200e6
    assert measure.peak_memory() > held.nbytes


def test_a_process_that_dies_says_why() -> None:
    with (
        measure.processes({"a": (TARGET, {"fatal": 2}, HERE)}) as running,
        pytest.raises(InputError, match=r"(?s)counting ended with status 1.*no more"),
    ):
        measure.take_turns(running, [1, 2], turns=1)


def test_variables_reach_the_process() -> None:
    with (
        measure.processes({"a": (TARGET, {}, {"PYTHONHASHSEED": "no"})}) as r,
        pytest.raises(InputError, match="PYTHONHASHSEED"),
    ):
        r["a"].ask(1)
