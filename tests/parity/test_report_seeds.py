"""From one report per seed to the report over all of them, and what is said about it."""

import io

import numpy as np
import pytest
from reports import ARMS, four, recording, report_of, strictly
from rich.console import Console

from parity.ladder.results import NUMERIC, LadderReport, LevelResult
from parity.recording import METRICS
from parity.report import paired, to_json
from parity.report.paired_table import render, sentence

SEEDS = (8, 9, 10, 11, 12)
ENOUGH = tuple(range(8, 40))  # of which all must agree
MANY = tuple(range(60))


PROOF = LadderReport(
    *("keras-p0", "torch-p0"),
    tuple(LevelResult(level, "pass", "float64", 1e-16, 1e-15) for level in NUMERIC),
)


def runs(shift=0.0, spread=0.0, seeds=SEEDS, **options):
    """Reports in which PyTorch's losses are Keras' plus `shift` and a seed's own deviation."""
    random = np.random.default_rng(1)
    found = {}
    for seed in seeds:
        arms = []
        for arm in ARMS:
            own = shift + random.normal(0, spread) if arm.startswith("torch") else 0.0
            history = {
                metric: [0.9] * 10 if "accuracy" in metric else [0.1 + 0.01 * seed + own] * 10
                for metric in METRICS
            }
            arms.append(recording(arm, history=history))
        found[seed] = report_of(*arms, **(options if seed == seeds[0] else {}))
    return found


def said(report):
    console = Console(file=io.StringIO(), width=100)
    render(report, console)
    return console.file.getvalue()


def pair_of(report, left="keras-p0", right="torch-p0"):
    (pair,) = (p for p in report["equivalence"] if (p["left"], p["right"]) == (left, right))
    return pair


def test_equal_arms_pass_and_the_plain_reports_stay():
    single = runs(seeds=ENOUGH)
    report = strictly(to_json(paired.combine(single)))
    assert (report["schema"], report["verdict"], report["seeds"]) == (1, "pass", list(ENOUGH))
    assert report["runs"] == [strictly(to_json(run)) for run in single.values()]
    assert set(pair_of(report)["metrics"]) == set(METRICS)
    assert sentence(report).startswith("PASS: over 32 seeds PyTorch is equivalent to Keras")
    noise = np.std([0.01 * seed for seed in ENOUGH], ddof=1)
    assert pair_of(report)["metrics"]["loss"]["noise"] == pytest.approx(
        {"left": noise, "right": noise}
    )


def test_few_seeds_that_agree_decide_nothing():
    report = paired.combine(runs())
    assert (report["verdict"], pair_of(report)["by"]) == ("inconclusive", "seeds")
    assert "At the earliest 32 do" in sentence(report)


def test_a_shift_beyond_the_tolerance_fails():
    report = paired.combine(runs(shift=0.03, spread=0.001, seeds=MANY))
    assert report["verdict"] == "fail"
    assert "torch-p0 differs from keras-p0 in loss (mean difference +0.03" in sentence(report)


def test_a_wide_spread_decides_nothing_and_says_how_many_seeds_would():
    report = paired.combine(runs(spread=0.03))
    needed = max(
        each["seeds_needed"] or 0
        for p in report["equivalence"][:2]
        for each in p["metrics"].values()
    )
    assert report["verdict"] == "inconclusive"
    assert needed > 5 and f"At the earliest {needed} do" in sentence(report)
    # The criterion that looks at one seed decides by luck, and is named as what it is.
    text = said(report)
    assert "of 5 seeds pass the study's one-seed criterion" in text
    assert "seeds 8 9 10 11 12" in text


def test_the_published_pair_never_decides():
    single = runs(seeds=MANY)
    for run in single.values():
        (published,) = (p for p in run["pairs"] if p["role"] == "as_published")
        assert published["left"] == "keras-p0"
        for arm in run["arms"]:
            if arm["id"] == "torch-p1":
                arm["history"]["loss"][-1] += 0.5
            if arm["id"] == "keras-p1":
                arm["history"]["loss"][-1] += 0.5
    report = paired.combine(single)
    assert pair_of(report, "keras-p0", "torch-p1")["verdict"] == "fail"
    assert report["verdict"] == "pass"


def with_ladder(levels):
    """The port pair without padding proved or not, the other one proved."""
    return {
        (f"keras-p{padding}", f"torch-p{padding}"): LadderReport(
            f"keras-p{padding}", f"torch-p{padding}", levels if padding == 0 else PROOF.levels
        )
        for padding in (0, 1)
    }


@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_the_first_seed_s_ladder_has_a_say(verdict):
    failing = LevelResult("forward", "fail", "float64", 1.0, 1e-15)
    levels = PROOF.levels if verdict == "pass" else (*PROOF.levels, failing)
    report = paired.combine(runs(ladders=with_ladder(levels)))
    assert (report["verdict"], pair_of(report)["by"]) == (verdict, "ladder")
    told = {
        "pass": "proves the port in float64",
        "fail": "the ladder of keras-p0 and torch-p0 fails",
    }
    assert told[verdict] in sentence(report)


def test_what_the_ladder_proved_is_said_where_the_seeds_do_not_decide():
    report = paired.combine(runs(spread=0.03, ladders=with_ladder(PROOF.levels)))
    assert report["verdict"] == "inconclusive"
    assert "proves the port in float64" in sentence(report)
    assert "proves" not in sentence(paired.combine(runs(spread=0.03)))


def test_the_outcome_of_one_seed_decides_nothing():
    level = LevelResult("outcome", "fail", "float32", 0.3, 0.02)
    report = paired.combine(runs(ladders=with_ladder((*PROOF.levels, level)), seeds=ENOUGH))
    assert pair_of(report)["ladder_verdict"] == "abstain"
    assert (report["verdict"], pair_of(report)["by"]) == ("pass", "seeds")
    assert "left open: outcome float32" in sentence(report)


def test_the_table_fits_100_columns_with_the_longest_names():
    single = runs(shift=0.0123456, spread=0.01)
    for run in single.values():
        for pair in run["pairs"]:
            pair["left"], pair["right"] = "keras-jax-cuda-p0", "torch-cuda-p0"
        for arm in run["arms"]:
            arm["id"] = {"keras-p0": "keras-jax-cuda-p0"}.get(arm["id"], "torch-cuda-p0")
    assert "…" not in said(paired.combine(single))


def test_a_lost_arm_is_an_error_and_its_reason_is_shown():
    single = runs()
    lost = [each for each in four() if each.arm != "torch-p0"]
    single[10] = report_of(*lost, errors={"torch-p0": "killed by SIGKILL"})
    report = paired.combine(single)
    assert report["verdict"] == "error"
    assert "killed by SIGKILL" in pair_of(report)["error"]
    assert "killed by SIGKILL" in said(report) and "ERROR" in said(report)


def test_a_loss_that_diverged_fails():
    single = runs()
    for arm in single[9]["arms"]:
        arm["history"]["loss"][-1] = None
    assert paired.combine(single)["verdict"] == "fail"


def test_one_seed_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        paired.combine(runs(seeds=(8,)))
