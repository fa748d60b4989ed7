"""What is kept of public repositories is complete, and the page is made of it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.zoo import repositories

KEPT = Path(__file__).parents[2] / "results" / "zoo"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return json.loads((KEPT / "repositories.json").read_text())  # type: ignore[no-any-return]


def test_the_page_is_made_of_the_facts(values: dict[str, Any]) -> None:
    assert (KEPT / "repositories.md").read_text() == repositories.page(values)


def test_each_pair_has_its_commits_its_truth_and_its_proof(values: dict[str, Any]) -> None:
    names = [row["pair"] for row in values["pairs"]]
    assert len(set(names)) == len(names)
    for row in values["pairs"]:
        for side in ("keras", "torch"):
            assert re.fullmatch("[0-9a-f]{40}", row[side]["commit"]), row["pair"]
            assert row[side]["files"], row["pair"]
        proof = row["proof"]
        if row["truth"] == "same":
            assert max(proof["inference"], proof["training"]) < 1e-7, row["pair"]
            assert not proof["running mean"], row["pair"]
        else:
            assert row["differs"], row["pair"]
    sources = {
        tuple(row[side]["repository"] for side in ("keras", "torch")) for row in values["pairs"]
    }
    assert len(sources) >= 12


def test_a_pass_is_right_of_the_same_alone() -> None:
    row = {"truth": "same", "verdict": "pass", "failed": [], "proof": {"running variance": None}}
    assert repositories.is_right(row)
    for change in ({"verdict": "fail"}, {"verdict": "abstain"}, {"truth": "differs"}):
        assert not repositories.is_right(row | change)
    assert repositories.is_right(row | {"truth": "differs", "verdict": "fail"})
    plain = copy.deepcopy(row) | {"verdict": "fail", "failed": ["buffers"]}
    assert not repositories.is_right(plain)
    plain["proof"]["running variance"] = 0.01
    assert repositories.is_right(plain)
