"""Random twins: what two hundred of them hold, and one of them through a check."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.zoo import randoms
from tests.zoo.random_twins import FEATURES, OF_PLANS, features

pytest.importorskip("keras")
pytest.importorskip("torch")


def test_two_hundred_twins_have_every_feature_ten_times_and_all_mistakes_evenly() -> None:
    drawn = list(randoms.drawn(200))
    assert len({plan.to_json() for _, plan, _ in drawn}) == 200
    held = Counter(name for _, plan, _ in drawn for name in features(plan))
    assert set(held) == {*FEATURES, *OF_PLANS} and min(held.values()) >= 10
    made = Counter(fault.what for *_, fault in drawn)
    assert len(made) > 50 and max(made.values()) < 10


def test_a_random_twin_passes_and_its_mistake_is_caught_and_placed() -> None:
    row = randoms.row(*next(each for each in randoms.drawn(40) if not each[1].words))
    assert (row["twin"], row["verdict"], row["placed"]) == ("pass", "fail", True)
