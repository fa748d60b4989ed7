"""The table of known divergences and the page made of it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from parity import divergences

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "divergences.md").read_text("utf-8")
    assert page == divergences.markdown(), "python -m parity.divergences > docs/divergences.md"


def test_the_command_prints_the_page() -> None:
    command = [sys.executable, "-m", "parity.divergences"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == divergences.markdown()


def test_thirty_rows_numbered_and_complete() -> None:
    rows = divergences.table()
    assert [row.number for row in rows] == list(range(1, 31))
    for row in rows:
        for field in dataclasses.fields(row):
            value = getattr(row, field.name)
            assert value, (row.number, field.name)
            assert "|" not in str(value)  # it would break the page's table
    assert len({row.topic for row in rows}) == 30


def test_every_key_finds_its_own_row() -> None:
    """A pattern that another row always takes the key from would be dead."""
    for row in divergences.table():
        for key in row.keys:
            assert divergences.find(key.replace("*", "x")) == row, (row.number, key)


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("conv.padding", 1),
        ("pool.padding", 7),
        ("loss.on", 2),
        ("loss.reduction", 11),
        ("network.initialiser", 3),
        ("dense.kernel.layout", 5),
        ("flatten.order", 6),
        ("optimizer.epsilon_position", 8),
        ("optimizer.beta_2", 8),
        ("optimizer.weight_decay", 12),
        ("optimizer.global_clipnorm", 15),
        ("relu.negative_slope", 18),
        ("conv.activation", 18),
        ("data.digest", 22),
        ("data.divisor", 23),
        ("batches.schedule", 27),
        ("conv.dtype", 28),
    ],
)
def test_keys_of_the_probes_find_their_cause(key: str, number: int) -> None:
    found = divergences.find(key)
    assert found is not None
    assert found.number == number


@pytest.mark.parametrize("key", ["optimizer.learning_rate", "conv", "x.padding", ""])
def test_what_is_not_known_finds_nothing(key: str) -> None:
    assert divergences.find(key) is None
