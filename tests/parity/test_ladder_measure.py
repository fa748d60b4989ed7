"""Every comparison helper, and each shown to fail."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parity.ladder.measure import (
    Allowed,
    Tensor,
    aligned,
    compare,
    differing_names,
    ulp_distance,
)

FLOATS = st.floats(-1e9, 1e9, allow_nan=False)
SMALL = arrays(np.float64, st.integers(1, 12), elements=FLOATS)


def against(left, right, value=0.0, **more):
    def whole(side):
        return None if side is None else Tensor.whole(np.asarray(side))

    return compare("t", whole(left), whole(right), Allowed(value, "because", **more))


class TestCompare:
    @given(SMALL)
    def test_a_tensor_agrees_with_itself_at_no_tolerance(self, values):
        found = against(values, values.copy())
        assert (found.verdict, found.absolute, found.ulps) == ("pass", 0.0, 0)

    @given(SMALL, st.floats(0, 1e6), st.data())
    def test_the_smallest_tolerance_passes_and_any_smaller_one_does_not(self, left, step, data):
        right = left.copy()
        right[data.draw(st.integers(0, len(left) - 1))] += step
        least = against(left, right).minimum_tolerance
        assert least == np.abs(left - right).max()
        assert against(left, right, least).verdict == "pass"
        if least:
            assert against(left, right, np.nextafter(least, 0)).verdict == "fail"

    def test_one_unit_in_the_last_place_beyond_the_tolerance_fails(self):
        tolerance = 2.0**-20
        edge = 1 + tolerance
        assert against([1.0], [edge], tolerance).verdict == "pass"
        assert against([1.0], [np.nextafter(edge, 2)], tolerance).verdict == "fail"

    def test_errors_that_keep_the_mean_fail(self):
        left, right = np.zeros(1000), np.tile([1e-3, -1e-3], 500)
        assert left.mean() == right.mean()
        assert against(left, right, 1e-4).verdict == "fail"

    def test_one_wrong_element_among_many_fails_and_is_named(self):
        left = np.ones((4, 5, 6))
        right = left.copy()
        right[2, 3, 4] = 1.5
        found = against(left, right, 0.1)
        assert found.verdict == "fail"
        assert (found.index, found.where) == ((2, 3, 4), "t[2, 3, 4]")
        assert (found.left, found.right, found.absolute) == (1.0, 1.5, 0.5)
        assert found.relative == pytest.approx(1 / 3)
        assert found.minimum_tolerance == 0.5
        assert found.headroom == pytest.approx(0.2)
        assert found.elements == 120

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("sides", ["left", "right", "both"])
    def test_what_is_not_finite_fails_equal_or_not(self, bad, sides):
        left, right = np.ones(3), np.ones(3)
        if sides != "right":
            left[1] = bad
        if sides != "left":
            right[1] = bad
        found = against(left, right, np.inf)
        assert found.verdict == "fail"
        assert "not finite" in found.problem

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_elements_not_kept_count_too(self, side):
        clean = Tensor(np.ones(2), (9,), np.array([0, 1]))
        spoilt = Tensor(np.ones(2), (9,), np.array([0, 1]), nonfinite=1)
        pair = (spoilt, clean) if side == "left" else (clean, spoilt)
        assert compare("t", *pair, Allowed(1.0, "")).verdict == "fail"

    @pytest.mark.parametrize(
        ("left", "right", "problem"),
        [
            (None, [1.0], "missing on the left"),
            ([1.0], None, "missing on the right"),
            ([1.0, 2.0], [1.0], "shape (2,) against (1,)"),
            ([[1.0]], [1.0], "shape (1, 1) against (1,)"),
            (np.ones(1, "f4"), np.ones(1, "f8"), "type float32 against float64"),
            (np.ones(1, int), np.ones(1, int), "expected floating point"),
            (np.ones(0), np.ones(0), "no element in common"),
        ],
    )
    def test_what_cannot_be_compared_fails(self, left, right, problem):
        found = against(left, right, np.inf)
        assert found.verdict == "fail"
        assert problem in found.problem
        assert found.absolute is None
        assert found.minimum_tolerance is None

    def test_an_infinite_difference_of_finite_numbers_fails(self):
        assert against([1.7e308], [-1.7e308], 1e308).verdict == "fail"

    def test_a_tolerance_for_each_element(self):
        tolerance = np.array([1e-9, 1e-3, 1e-3])
        within = against([1.0, 1.0, 1.0], [1.0, 1.0005, 1.0], tolerance)
        assert (within.verdict, within.index) == ("pass", (1,))
        beyond = against([1.0, 1.0, 1.0], [1.0 + 1e-6, 1.0005, 1.0], tolerance)
        assert (beyond.verdict, beyond.index, beyond.tolerance) == ("fail", (0,), 1e-9)

    def test_without_a_tolerance_it_abstains_and_still_measures(self):
        found = against([1.0], [2.0], None)
        assert (found.verdict, found.absolute, found.tolerance) == ("abstain", 1.0, None)

    def test_a_tolerance_that_lets_a_wrong_tensor_pass_abstains(self):
        assert against([1.0], [1.0], 0.5, limit=1.0).verdict == "pass"
        assert against([1.0], [1.0], 1.0, limit=1.0).verdict == "abstain"
        assert against([1.0], [3.0], 1.0, limit=1.0).verdict == "fail"
        assert against([0.0], [0.0], 0.0, limit=0.0).verdict == "pass"

    def test_beyond_a_jumping_tolerance_it_abstains_but_not_beyond_the_jump(self):
        verdicts = [
            against([1.0], [1.0 + step], 1e-6, undecided_to=0.5).verdict
            for step in (1e-7, 1e-3, 0.6)
        ]
        assert verdicts == ["pass", "abstain", "fail"]

    def test_shapeless_tensors(self):
        found = against(np.array(1.0), np.array(1.5), 1.0)
        assert (found.verdict, found.index, found.where) == ("pass", (), "t")

    def test_bits(self):
        zero = against([0.0, 1.0], [-0.0, 1.0], bits=True)
        assert (zero.verdict, zero.index, zero.ulps) == ("fail", (0,), 0)
        assert "1 of 2 elements differ in their bits" in zero.problem
        assert against([0.0], [-0.0]).verdict == "pass"
        assert against([np.nan], [np.nan], bits=True).verdict == "fail"
        assert against([1.5, -0.0], [1.5, -0.0], bits=True).verdict == "pass"

    @given(SMALL, st.data())
    def test_any_flipped_bit_is_seen(self, values, data):
        turned = values.view(np.uint64).copy()
        turned[data.draw(st.integers(0, len(values) - 1))] ^= 1 << data.draw(st.integers(0, 51))
        assert against(values, turned.view(np.float64), bits=True).verdict == "fail"


class TestSamples:
    whole = np.arange(10.0).reshape(2, 5)

    def sampled(self, *places, change=0.0):
        places = np.array(places)
        return Tensor(self.whole.reshape(-1)[places] + change, (2, 5), places)

    def test_the_index_is_that_of_the_whole(self):
        found = compare(
            "t", self.sampled(1, 7), self.sampled(1, 7, change=[0, 1]), Allowed(0.5, "")
        )
        assert (found.verdict, found.index) == ("fail", (1, 2))

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_whole_against_a_sample(self, turned):
        pair = [Tensor.whole(self.whole), self.sampled(3, 9, change=[0, 2])]
        found = compare("t", *(reversed(pair) if turned else pair), Allowed(0.5, ""))
        assert (found.verdict, found.index, found.elements) == ("fail", (1, 4), 2)

    def test_samples_of_different_places_meet_where_they_can(self):
        a, b, places = aligned(self.sampled(1, 3, 5), self.sampled(3, 4, 5))
        assert (list(a), list(b), list(places)) == ([3, 5], [3, 5], [3, 5])

    def test_samples_that_never_meet_fail(self):
        found = compare("t", self.sampled(1), self.sampled(2), Allowed(9.0, ""))
        assert found.verdict == "fail"


class TestUlps:
    @given(st.sampled_from([np.float16, np.float32, np.float64]), st.data())
    def test_counts_steps_of_nextafter(self, kind, data):
        width = np.finfo(kind).bits
        start = kind(data.draw(st.floats(-1000, 1000, width=width)))
        steps = data.draw(st.integers(0, 40))
        end = start
        for _ in range(steps):
            end = np.nextafter(end, kind(np.inf))
        pair = [np.array([value]) for value in (start, end)]
        assert ulp_distance(*pair) == ulp_distance(*reversed(pair)) == steps

    def test_across_zero_and_the_whole_range(self):
        tiny = np.array([5e-324])
        assert ulp_distance(-tiny, tiny) == 2
        assert ulp_distance(np.array([0.0]), np.array([-0.0])) == 0
        largest = np.array([np.finfo(float).max])
        assert ulp_distance(-largest, largest) == 2 * (0x7FEFFFFFFFFFFFFF)

    def test_in_the_tensors_own_precision(self):
        pair = np.float32([1]), np.nextafter(np.float32([1]), np.float32(2))
        assert against(*pair, 1.0).ulps == 1
        assert against(*(each.astype(float) for each in pair), 1.0).ulps == 1 << 29


class TestNames:
    def test_equal_lists_have_nothing_to_say(self):
        assert differing_names(["a", "b"], ["a", "b"]) == []

    @pytest.mark.parametrize(
        ("right", "words"),
        [
            (["a", "b"], "missing on the right: c"),  # a shorter list
            (["a", "b", "c", "d"], "extra on the right: d"),
            (["a", "B", "c"], "missing on the right: b"),  # renamed
            (["b", "a", "c"], "another order: a on the left where b is on the right"),
        ],
    )
    def test_every_difference_is_said(self, right, words):
        assert words in differing_names(["a", "b", "c"], right)

    def test_every_permutation_but_the_first_is_found(self):
        for order in itertools.permutations("abc"):
            assert bool(differing_names("abc", order)) == (order != ("a", "b", "c"))
