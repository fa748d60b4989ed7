"""The test for equivalence over seeds: against SciPy, by simulation, and at its edges."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from parity.equivalence import equivalence, overall, power, seeds_needed

MARGIN = 0.02
VALUES = st.floats(-1, 1, allow_subnormal=False)
PAIRED = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8)


def judged(differences, **options):
    return equivalence(np.zeros(len(differences)), differences, margin=MARGIN, **options)


@settings(deadline=None)  # the first call imports statsmodels
@given(PAIRED)
def test_it_is_the_textbook_s_paired_test(pairs):
    left, right = np.array(pairs).T
    differences = right - left
    error = differences.std(ddof=1) / math.sqrt(len(pairs))
    assume(error > 1e-9)
    found = equivalence(left, right, margin=MARGIN)
    upper = stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
    lower = stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
    half = stats.t.ppf(0.95, len(pairs) - 1) * error
    assert found.p_value == pytest.approx(max(upper, lower), abs=1e-12)
    assert found.mean == pytest.approx(differences.mean(), abs=1e-15)
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), rel=1e-9)
    assert found.noise == {"left": left.std(ddof=1), "right": right.std(ddof=1)}


@settings(deadline=None)
@given(PAIRED, st.integers(1, 8))
def test_sides_may_be_exchanged_and_the_verdict_says_where_the_mean_is(pairs, tests):
    left, right = np.array(pairs).T
    found, turned = (
        equivalence(*sides, margin=MARGIN, tests=tests) for sides in ((left, right), (right, left))
    )
    assert (found.verdict, found.mean) == (turned.verdict, -turned.mean)
    low, high = found.interval
    half = stats.t.ppf(1 - 0.05 / tests / 2, len(pairs) - 1) * found.std / math.sqrt(len(pairs))
    apart = abs(found.mean) - half - MARGIN  # by how much even the wider interval is outside
    assume(min(abs(abs(low) - MARGIN), abs(abs(high) - MARGIN), abs(apart)) > 1e-12)
    inside = low > -MARGIN and high < MARGIN
    assert found.verdict == ("pass" if inside else "fail" if apart > 0 else "inconclusive")


def shares(step, differences):
    """How often which verdict falls, over samples (trials, seeds)."""
    verdicts = [judged(sample, step=step).verdict for sample in differences]
    return {name: verdicts.count(name) / len(verdicts) for name in ("pass", "fail")}


TRIALS = 2000
BEYOND_CHANCE = 3 * math.sqrt(0.05 * 0.95 / TRIALS)  # three standard errors of a share of 5 %


@pytest.mark.parametrize("seeds", [2, 5, 12])
@pytest.mark.parametrize("side", [-1, 1])
def test_at_the_margin_at_most_5_percent_pass_and_at_most_5_percent_fail(seeds, side):
    random = np.random.default_rng(seeds)
    found = shares(0.0, random.normal(side * MARGIN, 0.004, (TRIALS, seeds)))
    assert 0.02 < found["pass"] < 0.05 + BEYOND_CHANCE
    assert found["fail"] < 0.05 + BEYOND_CHANCE


def test_of_many_tests_of_equal_twins_hardly_one_fails():
    """The spread is far beyond the margin, as in float32: each alone would fail in 5 %."""
    random = np.random.default_rng(3)
    together = 8
    samples = random.normal(0, 10 * MARGIN, (TRIALS // together, together, 5))
    failed = [
        any(judged(each, tests=together).verdict == "fail" for each in sample) for sample in samples
    ]
    error = math.sqrt(0.05 * 0.95 / len(failed))
    assert np.mean(failed) < 0.05 + 3 * error


@pytest.mark.parametrize("images", [16, 129])
def test_an_accuracy_of_few_images_passes_no_oftener(images):
    """Each image is lost with a chance of the margin: the mean difference is the margin."""
    random = np.random.default_rng(images)
    for seeds in (2, 5, 9):
        lost, won = random.binomial(images, [[[0.07]], [[0.05]]], (2, TRIALS, seeds))
        assert shares(1 / images, (lost - won) / images)["pass"] < 0.05 + BEYOND_CHANCE


@pytest.mark.parametrize(
    ("seeds", "mean", "std"), [(3, 0.0, 0.008), (5, 0.008, 0.012), (8, 0.03, 0.01), (4, 0.0, 0.05)]
)
def test_power_is_how_often_it_decides(seeds, mean, std):
    random = np.random.default_rng(seeds)
    found = shares(0.0, random.normal(mean, std, (TRIALS, seeds)))
    expected = power(seeds, mean=mean, std=std, margin=MARGIN)
    for verdict in ("pass", "fail"):
        assert found[verdict] == pytest.approx(expected[verdict], abs=0.035)


def test_power_of_two_seeds_by_another_formula():
    """One degree of freedom: |N(0,1)| is the spread, and the region is integrated over it."""
    from scipy.integrate import dblquad

    mean, std, t = 0.004, 0.001, stats.t.ppf(0.95, 1)

    def density(middle, spread):
        normal = stats.norm.pdf(middle, mean, std / math.sqrt(2))
        return normal * 2 * stats.norm.pdf(spread / std) / std

    def reach(spread):
        return MARGIN - t * spread / math.sqrt(2)

    widest = MARGIN * math.sqrt(2) / t
    expected, _ = dblquad(density, 0, widest, lambda s: -reach(s), reach)
    found = power(2, mean=mean, std=std, margin=MARGIN)["pass"]
    assert found == pytest.approx(expected, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.018), st.floats(1e-4, 0.03))
def test_as_many_seeds_as_needed_and_no_more(mean, std):
    needed = seeds_needed(mean=mean, std=std, margin=MARGIN)
    assume(needed is not None)

    def decided(seeds):
        return sum(power(seeds, mean=mean, std=std, margin=MARGIN).values())

    assert decided(needed) >= 0.8
    assert needed == 2 or decided(needed - 1) < 0.8


def test_a_difference_of_the_margin_itself_is_never_decided():
    found = judged([0.019, 0.021, 0.02, 0.02])
    assert (found.verdict, found.seeds_needed) == ("inconclusive", None)


def test_seeds_that_agree_to_the_image_are_not_certain():
    """One of 16 images is three times the tolerance: nine seeds, not five, exclude it."""
    five, nine = (judged([0.0] * seeds, step=1 / 16) for seeds in (5, 9))
    assert (five.verdict, five.seeds_needed) == ("inconclusive", 9)
    assert (nine.verdict, nine.seeds_needed) == ("pass", None)
    assert 5 < math.log(0.05) / math.log(1 - MARGIN * 16) < 9  # all agree by luck: below 5 %


@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_seeds_that_differ_alike_have_no_spread_but_that_of_a_step(seeds):
    """Their mean is rounded: what is left of it must not pass for a spread."""
    for value in (0.1, 1 / 3, 3 / 129):
        assert judged([value] * seeds).interval == (value, value)
        low, high = judged([value] * seeds, step=1 / 129).interval
        assert (low + high) / 2 == pytest.approx(value) and low < value < high


def test_equal_to_the_bit_is_equal():
    assert judged([0.0, 0.0]).interval == (0.0, 0.0)
    assert judged([0.0, 0.0]).verdict == "pass"
    assert judged([0.03, 0.03]).verdict == "fail"


def test_a_training_that_diverged_is_never_within():
    found = equivalence([0.1, math.nan], [0.1, math.nan], margin=MARGIN)
    assert (found.verdict, found.seeds_needed) == ("fail", None)


@pytest.mark.parametrize(
    ("left", "right", "margin"),
    [([1], [1], 0.02), ([1, 2], [1], 0.02), ([1, 2], [1, 2], 0), ([1, 2], [1, 2], math.nan)],
)
def test_what_cannot_be_tested_is_refused(left, right, margin):
    with pytest.raises(ValueError):
        equivalence(left, right, margin=margin)


def test_a_pair_passes_only_with_all_its_metrics():
    assert overall(["pass", "pass"]) == "pass"
    assert overall(["pass", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", "fail", "pass"]) == "fail"
    assert overall([]) == "inconclusive"
