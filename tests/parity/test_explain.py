"""Which difference matters: the arithmetic on invented arms, the command on real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Finished
from scipy import stats

from parity import explain
from parity.study import effects, explanation

Command = Callable[..., Finished]
SPLITS = {name: {"fake": 50, "real": 50} for name in ("train", "validation", "test")}


@dataclass
class Arm:
    """What the study sees of a recording."""

    history: Mapping[str, list[float]]
    evaluation: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=lambda: {"splits": SPLITS})
    error: str | None = None


def arm(value: float, test: float = 0.9) -> Arm:
    """An arm of which every final metric is `value`."""
    history = {name: [9.0, value] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    return Arm(history, {"test": {"accuracy": test}})


def pair(keras: float, torch: float) -> dict[str, Arm]:
    return {"keras": arm(keras), "torch": arm(torch)}


def study() -> effects.Explanation:
    """Aligned twins that seeds spread by 0.1; one difference of 0.5, one of 0.01, one on both."""
    aligned = {seed: pair(value, value) for seed, value in ((1, 0.4), (2, 0.5), (3, 0.6))}
    runs = {
        "aligned": aligned,
        "optimizer": {s: pair(p["keras"].history["loss"][1], 0.41) for s, p in aligned.items()},
        "padding": {s: pair(v, v + 0.5) for s, v in ((1, 0.4), (2, 0.5), (3, 0.6))},
        "divisor": {s: pair(v, v) for s, v in ((1, 0.6), (2, 0.7), (3, 0.8))},
    }
    return effects.explain("baseline", (1, 2, 3), runs, {})


def test_effects_are_means_over_seeds_largest_first_with_the_control_last() -> None:
    found = study()
    assert [each.name for each in found.effects] == ["padding", "optimizer", "divisor", "aligned"]
    padding = found.effects[0]
    assert padding.gap("val_loss") == pytest.approx(0.5)
    assert padding.change("torch", "val_loss") == pytest.approx(0.5)
    assert padding.change("keras", "val_loss") == pytest.approx(0)
    assert found.effects[1].gap("loss") == pytest.approx(0.41 - 0.5)


def test_what_both_sides_do_alike_is_a_change_without_a_gap() -> None:
    divisor = study().effects[2]
    assert divisor.gap("loss") == 0
    assert divisor.change("keras", "loss") == divisor.change("torch", "loss") == pytest.approx(0.2)


def test_the_noise_floor_is_that_of_two_runs_that_differ_by_their_seeds() -> None:
    found = study()
    expected = stats.t.ppf(0.975, 2) * np.std([0.4, 0.5, 0.6], ddof=1) * np.sqrt(2 / 3)
    assert found.floors["loss"] == pytest.approx(expected)
    assert [found.beyond(each.gap("loss"), "loss") for each in found.effects] == [
        *(True, False, False, False)
    ]


def test_the_floor_keeps_its_promise_where_seeds_alone_differ() -> None:
    """Simulated: a mean gap that chance made lies beyond the floor in 5 of 100 cases."""
    rng, beyond, cases = np.random.default_rng(1), 0, 500
    for _ in range(cases):
        keras, torch = rng.normal(0.5, 0.1, (2, 4))
        # the aligned pair has Keras' numbers on both sides, as float64 gives them
        runs = {
            "aligned": {seed: pair(value, value) for seed, value in enumerate(keras)},
            "padding": {
                seed: pair(*both) for seed, both in enumerate(zip(keras, torch, strict=True))
            },
        }
        found = effects.explain("baseline", range(4), runs, {})
        beyond += bool(found.beyond(found.effects[0].gap("loss"), "loss"))
    assert 0.03 <= beyond / cases <= 0.09


def test_an_accuracy_has_a_floor_of_one_image_and_one_seed_has_none() -> None:
    same = {seed: pair(1.0, 1.0) for seed in (1, 2)}
    found = effects.explain("baseline", (1, 2), {"aligned": same}, {})
    assert found.floors["val_accuracy"] == 0.01 and found.floors["loss"] == 0
    found = effects.explain("baseline", (1,), {"aligned": {1: same[1]}}, {})
    assert found.floors["val_accuracy"] is None
    assert found.beyond(0.5, "loss") is None
    assert "One seed gives no noise floor" in explanation.page(found, "")


def test_an_arm_that_did_not_finish_leaves_its_seed_out() -> None:
    broken = pair(0.4, 0.4)
    broken["torch"].error = "the loss became nan"
    runs = {"aligned": {1: pair(0.5, 0.5), 2: broken}, "padding": {1: pair(0.5, 0.7), 2: {}}}
    found = effects.explain("baseline", (1, 2), runs, {})
    assert found.effects[0].gaps["loss"] == {1: pytest.approx(0.2)}
    assert explanation.to_csv(found)  # and the rest can be written


def test_seeds_stand_beside_their_own_values() -> None:
    runs = {"aligned": {1: {}, 2: pair(0.5, 0.75)}}
    lines = explanation.to_csv(effects.explain("baseline", (1, 2), runs, {})).splitlines()
    assert "aligned,gap,torch - keras,loss,2,0.25" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "paddin"], "Did you mean 'padding'"),
        (["--only", "head"], "additional_layers alone"),
        (["--seeds", "-1"], "--seed"),
        (["--jobs", "0"], "--jobs"),
        (["--data", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_requests_are_explained(
    command: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = command("parity.explain", *arguments, "--out", tmp_path / "out")
    assert done.code == 2 and words in done.err and "Traceback" not in done.err


def test_equal_experiments_share_an_arm() -> None:
    flags = ["--variant", "image_transforms", "--only", "padding,optimizer,divisor"]
    plan = explain.plan(explain.parse([*flags, "--seeds", "8", "9"]))
    keras, torch = (
        [each.name for each in plan.distinct if each.name.endswith(f"s8-{side}")]
        for side in ("keras", "torch")
    )
    rest = ["optimizer-s8", "divisor-s8", "all-together-s8"]
    # with padding 0 Keras is as it is in the aligned pair
    assert keras == [f"{name}-keras" for name in ("aligned-s8", *rest)]
    assert torch == [f"{name}-torch" for name in ("aligned-s8", "padding-s8", *rest)]
    assert len(plan.distinct) == 2 * len(keras + torch)


@pytest.mark.workers
def test_a_difference_shows_where_it_must_and_the_control_passes(
    command: Command, tmp_path: Path
) -> None:
    flags = [*SMALL, "--variant", "image_transforms", "--only", "normalise", "--seeds", "8"]
    done = command("parity.explain", *flags, "--out", tmp_path, "--json", "--jobs", "2")
    assert done.code == 0, done.err
    normalise, control = done.json["effects"]
    assert (normalise["name"], control["name"]) == ("normalise", "aligned")
    assert control["first"] is None and abs(control["gap"]["loss"]["mean"]) < 1e-12
    assert normalise["first"]["level"] == "structure" and normalise["origins"] == ["input"]
    assert normalise["in_numbers"]["level"] == "forward"
    assert normalise["change"]["keras"]["loss"]["mean"] == 0
    assert normalise["gap"]["loss"]["mean"] != 0
    written = {path.name for path in tmp_path.iterdir()}
    files = {f"explain.{kind}" for kind in ("md", "csv", "json", "png", "svg")}
    assert files | {"report.html"} <= written


def test_help_shows_examples_and_no_flag_that_the_command_decides(command: Command) -> None:
    done = command("parity.explain", "--help")
    assert done.code == 0 and "examples:" in done.out
    for flag in ("--padding", "--init", "--optimizer", "--normalise", "--seed "):
        assert flag not in done.out
