"""The test for equivalence over seeds: against exact counts, by simulation, and at its edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from parity.equivalence import equivalence, overall, power, verdicts

MARGIN = 0.02
LEAST = 32  # seeds
PAIRED = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=8)


def judged(differences, **options):
    return equivalence(np.zeros(len(differences)), differences, margin=MARGIN, **options)


@given(PAIRED)
def test_what_is_described(pairs):
    left, right = np.array(pairs).T
    found, differences = equivalence(left, right, margin=MARGIN), right - left
    assert found.mean == pytest.approx(differences.mean(), abs=1e-15)
    assert found.interval == (differences.min(), differences.max())
    assert found.noise["left"] == pytest.approx(left.std(ddof=1), abs=1e-15)
    assert found.noise["right"] == pytest.approx(right.std(ddof=1), abs=1e-15)
    turned = equivalence(right, left, margin=MARGIN)
    assert (turned.verdict, turned.beyond, turned.mean) == (
        *(found.verdict, found.beyond, -found.mean),
    )


@pytest.mark.parametrize("seeds", [2, 5, 9, 28, LEAST - 1])
@pytest.mark.parametrize("value", [0.0, 0.019, 0.6])
def test_few_seeds_decide_nothing_however_alike(seeds, value):
    """One in ten that collapses stays unseen in 0.9 ** seeds of all cases: at 29, below 5 %."""
    assert judged([value] * seeds).verdict == "inconclusive"


def test_the_least_seeds_that_decide():
    assert 0.9**LEAST < 0.9**29 < 0.05
    for odd, needed in ((0, LEAST), (1, 57), (2, 82)):
        for seeds, verdict in ((needed - 1, "inconclusive"), (needed, "pass")):
            found = judged([0.2] * odd + [0.0] * (seeds - odd))
            assert (found.verdict, found.beyond) == (verdict, odd)
        assert judged([0.2] * odd + [0.0] * (LEAST - 1 - odd)).seeds_needed == needed


@pytest.mark.parametrize(("tests", "needed"), [(1, LEAST), (4, 46), (8, 54)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_fail_is_shared_among_the_tests(tests, needed, sign):
    apart = [sign * 0.5] * needed
    assert judged(apart, tests=tests).verdict == "fail"
    assert judged(apart[1:], tests=tests).verdict == "inconclusive"


def test_seeds_on_both_sides_do_not_fail():
    """All are further apart than the tolerance, but their mean is not."""
    found = judged([-0.5, 0.5] * 200)
    assert (found.verdict, found.mean, found.beyond) == ("inconclusive", 0.0, 400)


def test_the_p_value_is_wald_s_whatever_the_looks():
    found = judged([0.2, *[0.0] * 9])
    assert found.p_value == pytest.approx(min(1, 1 / (0.1 * (0.99 / 0.9) ** 9)))
    assert judged([0.0] * 57).p_value == pytest.approx((0.9 / 0.99) ** 57)


def crossings(share, looks):
    """The chance that some look decides, by the exact distribution of the count, step by step."""
    counts, decided = np.array([1.0]), 0.0
    for seeds in range(1, looks + 1):
        counts = np.convolve(counts, [1 - share, share])
        for odd in np.flatnonzero(counts):
            ratio = 0.1**odd * (0.99 / 0.9) ** (seeds - odd)
            if ratio >= 20:
                decided += counts[odd]
                counts[odd] = 0.0
    return decided


def test_looking_after_every_seed_is_paid_for():
    assert 0.9**LEAST < crossings(0.1, 600) < 0.05
    assert crossings(0.01, 600) > 0.95


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.1])
@pytest.mark.parametrize("seeds", [10, LEAST, 57, 100])
def test_power_is_the_binomial_chance_of_few_enough(seeds, share):
    allowed = [
        odd for odd in range(seeds) if judged([1.0] * odd + [0.0] * (seeds - odd)).verdict == "pass"
    ]
    expected = sum(stats.binom.pmf(odd, seeds, share) for odd in allowed)
    assert power(seeds, share) == pytest.approx(expected)


TRIALS = 5000
AT_THE_MARGIN = {
    "normal": lambda r, shape: r.normal(0, 0.004, shape),
    "wide": lambda r, shape: r.normal(0, 0.2, shape),
    "t with 3 degrees of freedom": lambda r, shape: 0.004 * r.standard_t(3, shape),
    "lognormal": lambda r, shape: 0.01 * (r.lognormal(0, 1, shape) - math.exp(0.5)),
    "lognormal, turned": lambda r, shape: 0.01 * (math.exp(0.5) - r.lognormal(0, 1, shape)),
    "one in ten collapses": lambda r, shape: 0.2 * (r.random(shape) < 0.1) - 0.02,
    "the others do": lambda r, shape: 0.02 - 0.2 * (r.random(shape) < 0.1),
    "36 images, none won": lambda r, shape: r.binomial(36, 0.02, shape) / 36 - 0.02,
    "36 images, none lost": lambda r, shape: 0.02 - r.binomial(36, 0.02, shape) / 36,
    "no spread": lambda r, shape: np.zeros(shape),
}


@pytest.mark.parametrize("name", AT_THE_MARGIN)
@pytest.mark.parametrize("seeds", [5, LEAST, 57])
@pytest.mark.parametrize("side", [-1, 1])
def test_at_the_margin_at_most_5_percent_pass_and_at_most_5_percent_fail(name, seeds, side):
    random = np.random.default_rng(seeds)
    samples = side * (MARGIN + AT_THE_MARGIN[name](random, (TRIALS, seeds)))
    found = verdicts(np.zeros_like(samples), samples, margin=MARGIN)
    assert found[:20].tolist() == [judged(sample).verdict for sample in samples[:20]]
    error = math.sqrt(0.05 * 0.95 / TRIALS)
    assert (found == "pass").mean() < 0.05 + 3 * error
    assert (found == "fail").mean() < 0.05 + 3 * error


@pytest.mark.parametrize(
    ("left", "right"),
    [(0.5, 0.52), (0.52, 0.5), (0.68, 0.7), (26 / 50, 25 / 50), (2 / 3, 97 / 150)],
)
def test_a_difference_of_the_margin_itself_is_never_decided(left, right):
    """Whichever way its subtraction is rounded."""
    for seeds in (2, 100):
        found = equivalence([left] * seeds, [right] * seeds, margin=MARGIN)
        assert (found.verdict, found.beyond) == ("inconclusive", seeds)


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
