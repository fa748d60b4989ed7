from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from parity.check.randomness import (
    NORMAL,
    UNIFORM,
    Draw,
    Draws,
    Numbers,
    Partners,
    distributions_agree,
    seeded,
)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return Numbers(seed).drawn(UNIFORM, shape)


def partners(*draws: Draw, mirrored: bool = False) -> Partners:
    return Partners(Draws(list(draws)), mirrored=mirrored)


def test_draws_come_back_from_files_as_they_were(tmp_path: Path) -> None:
    draws = Draws(
        [
            Draw(UNIFORM, numbers(2, 3), "drop", 0.3, [values(2, 3), values(2, 3, seed=1)]),
            Draw(NORMAL, values(), "noise"),
        ],
        ["the model: multinomial"],
    )
    draws.write(tmp_path / "draws")
    read = Draws.read(tmp_path / "draws")
    assert read.uncaught == draws.uncaught
    for one, other in zip(read.events, draws.events, strict=True):
        assert (one.kind, one.place, one.rate) == (other.kind, other.place, other.rate)
        np.testing.assert_array_equal(one.numbers, other.numbers)
        assert len(one.meant) == len(other.meant)
        for left, right in zip(one.meant, other.meant, strict=True):
            np.testing.assert_array_equal(left, right)


def test_no_draw_at_all_can_be_written(tmp_path: Path) -> None:
    Draws().write(tmp_path)
    assert Draws.read(tmp_path) == Draws()


def test_uniform_numbers_are_exact_in_float32_and_so_is_one_minus_them() -> None:
    drawn = numbers(10_000)
    assert drawn.min() > 0
    assert drawn.max() < 1
    for each in (drawn, 1 - drawn):
        np.testing.assert_array_equal(each.astype(np.float32), each)
    assert abs(drawn.mean() - 0.5) < 0.02


def test_numbers_go_with_the_numbers_they_are_meant_for() -> None:
    x, y = values(4, 5, 3), values(4, 5, 3, seed=1)
    one, other = numbers(4, 5, 3), numbers(4, 5, 3, seed=1)
    found = partners(Draw(UNIFORM, one, meant=[x]), Draw(UNIFORM, other, meant=[y]))
    moved = y.transpose(0, 2, 1)
    np.testing.assert_array_equal(
        found.numbers(UNIFORM, moved.shape, meant=[moved]), other.transpose(0, 2, 1)
    )
    flat = x.transpose(2, 0, 1).reshape(12, 5)
    np.testing.assert_array_equal(
        found.numbers(UNIFORM, flat.shape, meant=[flat]), one.transpose(2, 0, 1).reshape(12, 5)
    )
    assert not (found.unused or found.unmatched or found.mismatches)


def test_each_draw_is_handed_out_once() -> None:
    x, drawn = values(4, 5), numbers(4, 5)
    found = partners(Draw(UNIFORM, drawn, meant=[x]))
    np.testing.assert_array_equal(found.numbers(UNIFORM, (4, 5), meant=[x]), drawn)
    again = found.numbers(UNIFORM, (4, 5), "drop", 0.5, [x])
    assert not np.array_equal(again, drawn)
    assert found.unmatched == ["drop: uniform (4, 5), rate 0.5"]
    repeated = found.numbers(UNIFORM, (4, 5), meant=[x], repeats=True)
    np.testing.assert_array_equal(repeated, drawn)


def test_as_many_numbers_in_another_shape_do_not_correspond() -> None:
    """One for each row is not one for each column, even where there are as many."""
    x = values(4, 4)
    found = partners(Draw(UNIFORM, numbers(4, 1), meant=[x]))
    fed = found.numbers(UNIFORM, (1, 4), meant=[x])
    assert not np.array_equal(fed.ravel(), numbers(4))
    assert len(found.mismatches) == 1


def test_a_constant_says_nothing_about_place() -> None:
    drawn = numbers(4, 5)
    found = partners(Draw(UNIFORM, drawn, meant=[np.ones((4, 5))]))
    np.testing.assert_array_equal(
        found.numbers(UNIFORM, (4, 5, 1), meant=[values(4, 5, 7)]), drawn[:, :, None]
    )


def test_another_kind_is_no_partner() -> None:
    found = partners(Draw(NORMAL, values(4)))
    found.numbers(UNIFORM, (4,))
    assert len(found.unused) == len(found.unmatched) == 1


def test_of_equal_shapes_the_same_rate_comes_first() -> None:
    one, other = numbers(4), numbers(4, seed=1)
    found = partners(Draw(UNIFORM, one, rate=0.1), Draw(UNIFORM, other, rate=0.2))
    np.testing.assert_array_equal(found.numbers(UNIFORM, (4,), rate=0.2), other)
    assert not found.mismatches


def test_channels_come_first_where_shapes_alone_tell() -> None:
    drawn = numbers(2, 3, 4, 5)
    found = partners(Draw(UNIFORM, drawn))
    np.testing.assert_array_equal(found.numbers(UNIFORM, (2, 5, 3, 4)), drawn.transpose(0, 3, 1, 2))


def test_mirrored_is_one_minus_each() -> None:
    drawn = numbers(4)
    found = partners(Draw(UNIFORM, drawn), Draw(NORMAL, drawn), mirrored=True)
    np.testing.assert_array_equal(found.numbers(UNIFORM, (4,)), 1 - drawn)
    np.testing.assert_array_equal(found.numbers(NORMAL, (4,)), drawn)


@pytest.mark.parametrize(
    ("rate", "theirs", "mirrored", "turned"),
    [
        (0.3, 0.3, True, False),  # both keep from the rate on
        (0.7, 0.3, False, True),  # ones are what is dropped
        (0.5, 0.5, True, True),  # may be either
        (0.4, 0.3, True, False),
        (None, 0.3, True, True),
        (None, 0.3, False, False),
    ],
)
def test_rates_tell_whether_ones_are_dropped(
    rate: float | None, theirs: float, mirrored: bool, turned: bool
) -> None:
    drawn = numbers(4)
    found = partners(Draw(UNIFORM, drawn, rate=theirs), mirrored=mirrored)
    fed = found.numbers(UNIFORM, (4,), rate=rate)
    np.testing.assert_array_equal(fed, 1 - drawn if turned else drawn)
    assert len(found.mismatches) == (rate == 0.4)


def test_what_is_computed_again_gets_the_same_numbers_without_a_partner() -> None:
    found = partners()
    first = found.numbers(UNIFORM, (4,), "drop")
    np.testing.assert_array_equal(found.numbers(UNIFORM, (4,), "drop", repeats=True), first)
    assert not np.array_equal(found.numbers(UNIFORM, (4,), "drop"), first)


def test_other_generators_start_alike_and_end_as_they_were() -> None:
    legacy, seen = vars(np.random), []
    before = random.getstate(), repr(legacy["get_state"]())
    for _ in range(2):
        uncaught: list[str] = []
        with seeded(1, uncaught):
            seen.append((random.random(), legacy["rand"]()))
        assert uncaught == ["numpy.random", "random"]
    assert seen[0] == seen[1]
    assert (random.getstate(), repr(legacy["get_state"]())) == before
    with seeded(1, quiet := []):
        pass
    assert quiet == []


# Distributions -----------------------------------------------------------------------------------

CALLS = 120


def outputs(rng: np.random.Generator, what: str) -> np.ndarray:
    noise = rng.standard_normal((CALLS, 6))
    x = np.linspace(-1, 2, 6)
    return {
        "normal": x + noise,
        "heavy": x + rng.standard_t(2, (CALLS, 6)),
        "dropped": x * (rng.random((CALLS, 6)) > 0.3) / 0.7,
        "dropped together": x * (rng.random((CALLS, 1)) > 0.3) / 0.7,
        "never": np.broadcast_to(x, (CALLS, 6)),
        "moved": x + 2 + noise,
        "wide": x + 3 * noise,
        "together": x + noise[:, :1],
    }[what]


@pytest.mark.parametrize("what", ["normal", "heavy", "dropped", "dropped together", "never"])
def test_equal_distributions_seem_to_differ_no_more_often_than_stated(what: str) -> None:
    rng = np.random.default_rng(2)
    false = sum(
        distributions_agree(outputs(rng, what), outputs(rng, what) * (1 + 1e-15), 0.1)[0] is False
        for _ in range(100)
    )
    assert false <= 18  # 10 would be the stated rate; 19 have a probability under 0.5 %


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("normal", "moved", "lie elsewhere"),
        ("normal", "wide", "spread otherwise"),
        ("normal", "together", "hang together otherwise"),
        ("dropped", "never", "spread otherwise"),
    ],
)
def test_other_distributions_are_told_apart(one: str, other: str, how: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        agree, text = distributions_agree(outputs(rng, one), outputs(rng, other))
        assert agree is False
        assert how in text


def test_too_few_calls_say_nothing() -> None:
    rng = np.random.default_rng(0)
    few = outputs(rng, "normal")[:8]
    agree, text = distributions_agree(few, few + 100)
    assert agree is None
    assert "too few" in text


def test_many_outputs_are_looked_at_in_a_few_directions() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 60, 10, 50))
    assert distributions_agree(one, other)[0]
    assert distributions_agree(one, other * 3)[0] is False
