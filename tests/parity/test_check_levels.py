"""Two traces compared at their ends: every channel on its own scale, and nothing by default."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.check.ends import Given, Outputs, Taken
from parity.check.levels import Comparison, Weights, levels
from parity.check.trace import Trace
from parity.ladder.results import LevelResult

RANDOM = np.random.default_rng(0)
WEIGHTS = Weights(dict, {"w": "layer"}, frozenset(), frozenset())
EPS = 2.0**-52


def trace(framework: str, tensors: dict[str, Any], **more: Any) -> Trace:
    arrays = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    return Trace(framework, "float64", arrays, **more)


def outputs(*values: Any, **more: Any) -> dict[str, Any]:
    """Of both calls in inference."""
    modes = ("forward", "again")
    return {f"outputs/{m}/{at}": v for m in modes for at, v in enumerate(values)} | more


def compared(ours: Trace, theirs: Trace, level: str = "forward", **more: Any) -> LevelResult:
    count = len(ours.names("outputs/forward"))
    ends = more.pop("ends", Outputs(tuple(Given(at, at) for at in range(count))))
    comparison = Comparison(ours, theirs, WEIGHTS, [Taken(0)], ends, **more)
    found = levels(comparison, ["forward", "loss", "gradient"])
    return next(each for each in found if each.level == level)


def forward(ours: Any, theirs: Any, **more: Any) -> LevelResult:
    return compared(trace("keras", outputs(ours)), trace("torch", outputs(theirs)), **more)


# Tolerances --------------------------------------------------------------------------------------

WIDE = RANDOM.uniform(1, 2, (8, 3)) * [1e13, 1, 1e-3]  # channels of very different scales


def test_a_small_channel_beside_one_of_1e13_is_judged_by_its_own_scale() -> None:
    wrong = WIDE.copy()
    wrong[:, 1] *= 1 + 1e-6
    found = forward(WIDE, wrong)
    assert found.verdict == "fail" and found.where.endswith("1]")
    wrong = WIDE.copy()
    wrong[:, 2] *= -1  # sixteen orders of magnitude below
    assert forward(WIDE, wrong).verdict == "fail"


def test_rounding_of_every_channel_passes() -> None:
    assert forward(WIDE, WIDE * (1 + 8 * EPS)).verdict == "pass"


def test_rounding_of_the_largest_channel_is_no_excuse_in_the_others() -> None:
    wrong = WIDE + 1e-3  # nothing beside 1e13
    assert forward(WIDE[:, :1], wrong[:, :1]).verdict == "pass"
    assert forward(WIDE, wrong).verdict == "fail"


def test_a_small_output_beside_a_large_one_is_judged_alone() -> None:
    large, small = RANDOM.standard_normal((4, 3)) * 1e11, RANDOM.standard_normal((4, 3))
    ours, theirs = outputs(large, small), outputs(large, -small)
    found = compared(trace("keras", ours), trace("torch", theirs))
    assert found.verdict == "fail" and found.where.startswith("output 1")


def test_a_nudge_widens_the_channel_that_it_moves_and_no_other() -> None:
    ours = RANDOM.uniform(1, 2, (6, 2))
    moved = ours + np.array([1e-9, 0])
    nudged = {"nudged/outputs/forward/0": moved}
    for channel, verdict in ((0, "pass"), (1, "fail")):
        theirs = ours.copy()
        theirs[:, channel] += 1e-8
        sides = trace("keras", outputs(ours) | nudged), trace("torch", outputs(theirs))
        assert compared(*sides).verdict == verdict


def test_a_floor_that_would_pass_anything_decides_nothing() -> None:
    ours = RANDOM.uniform(1, 2, (6, 2))
    nudged = {"nudged/outputs/forward/0": ours + 0.5}
    found = compared(trace("keras", outputs(ours) | nudged), trace("torch", outputs(ours + 0.1)))
    assert found.verdict == "abstain"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(-6, 6), st.data())
def test_every_element_off_by_a_millionth_of_its_channel_fails(
    samples: int, channels: int, exponent: int, data: st.DataObject
) -> None:
    ours = np.random.default_rng(samples).uniform(1, 2, (samples, channels))
    ours[:, 0] *= 10.0**exponent
    at = data.draw(st.integers(0, ours.size - 1))
    theirs = ours.copy()
    theirs.flat[at] *= 1 + 1e-6
    assert forward(ours, ours.copy()).verdict == "pass"
    found = forward(ours, theirs)
    assert found.verdict == "fail"
    place = np.unravel_index(at, ours.shape)
    assert f"[{', '.join(map(str, place))}]" in found.where


def test_tolerances_that_were_given_are_used() -> None:
    ours = RANDOM.uniform(1, 2, (4, 3))
    assert forward(ours, ours + 1e-3, atol=1e-2).verdict == "pass"
    assert forward(ours, ours + 1e-3, rtol=1e-2).verdict == "pass"
    assert forward(ours, ours + 1e-3, atol=1e-4, rtol=1e-4).verdict == "fail"


# What is not finite ------------------------------------------------------------------------------

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([[1, INF], [2, -INF]], [[1, INF], [2, -INF]], "pass"),
        ([[1, INF], [2, -INF]], [[1, INF], [2.1, -INF]], "fail"),  # elsewhere they differ
        ([[1, INF]], [[1, -INF]], "abstain"),
        ([[1, INF]], [[1, 5]], "fail"),
        ([[1, 5]], [[1, INF]], "fail"),
        ([[1, NAN]], [[1, NAN]], "abstain"),
        ([[1, NAN]], [[1, 5]], "fail"),
        ([[1, 5]], [[1, NAN]], "fail"),
        ([[NAN, 5]], [[5, NAN]], "fail"),  # not at the same places
        ([[INF, NAN]], [[INF, 5]], "fail"),
    ],
)
def test_what_is_not_finite_agrees_where_it_is_the_same(
    ours: Any, theirs: Any, verdict: str
) -> None:
    found = forward(ours, theirs)
    assert found.verdict == verdict
    assert verdict != "abstain" or "--inputs" in found.detail


def test_a_further_batch_that_overflows_on_both_sides_leaves_it_to_the_first() -> None:
    x = RANDOM.standard_normal((2, 3))
    far = {"series/large/outputs/forward/0": np.full((2, 3), NAN)}
    ours, theirs = (trace(each, outputs(x) | far) for each in ("keras", "torch"))
    assert compared(ours, theirs, series={"large": True}).verdict == "pass"


# Shapes, names, runs -----------------------------------------------------------------------------


def test_outputs_are_compared_in_keras_layout() -> None:
    ours = RANDOM.standard_normal((2, 4, 5, 3))
    ends = Outputs((Given(0, 0, axes=(0, 3, 1, 2)),))
    assert forward(ours, np.moveaxis(ours, -1, 1), ends=ends).verdict == "pass"
    assert forward(ours, np.moveaxis(ours, -1, 1), ends=Outputs((Given(0, 0),))).verdict == "fail"


def test_another_shape_and_an_output_that_is_missing_fail() -> None:
    x = RANDOM.standard_normal((2, 3))
    found = forward(x, x[:1])
    assert found.verdict == "fail" and "shape (2, 3) against (1, 3)" in found.detail
    found = forward(x, x, ends=Outputs((Given(0, 0),), missing=("mask",)))
    assert found.verdict == "fail" and "mask" in found.detail


def test_a_second_call_that_differs_fails() -> None:
    x = RANDOM.standard_normal((2, 3))
    theirs = outputs(x) | {"outputs/again/0": 2 * x}
    found = compared(trace("keras", outputs(x)), trace("torch", theirs))
    assert found.verdict == "fail" and "the second time" in found.where


X = RANDOM.standard_normal((2, 3))
TRAINED = outputs(X) | {"outputs/training/0": X, "loss": 0.5, "gradient/w": X}
ONE = {f"series/one/{n}": v for n, v in TRAINED.items() if "again" not in n}


def without(training: bool) -> dict[str, Any]:
    """Where the further batch was refused, in training or altogether."""
    kept = ("outputs/forward",) if training else ()
    return TRAINED | {n: v for n, v in ONE.items() if any(k in n for k in kept)}


@pytest.mark.parametrize("side", [0, 1])
def test_a_batch_that_one_side_alone_refuses_fails_with_its_words(side: int) -> None:
    refused = {"series/one/forward": "a fixed batch of 4", "series/one/training": "the same"}
    sides = [trace("keras", TRAINED | ONE), trace("torch", TRAINED | ONE)]
    sides[side] = trace(sides[side].framework, without(training=False), refused=refused)
    found = compared(sides[0], sides[1], series={"one": False})
    who = ("Keras", "PyTorch")[side]
    assert found.verdict == "fail" and f"{who} refuses it: a fixed batch of 4" in found.detail
    assert "one" in found.detail


@pytest.mark.parametrize("level", ["forward", "loss", "gradient"])
def test_a_batch_that_a_framework_refuses_to_train_on_decides_nothing(level: str) -> None:
    said = "ValueError: Expected more than 1 value per channel when training, got [1, 3]"
    theirs = trace("torch", without(training=True), refused={"series/one/training": said})
    sides = trace("keras", TRAINED | ONE), theirs
    assert compared(*sides, level, series={"one": False}).verdict == "pass"


def test_a_batch_that_a_port_alone_cannot_train_on_fails() -> None:
    """It trains on the first; on other sizes it does not."""
    said = "RuntimeError: shape '[4, 3]' is invalid for input of size 6"
    theirs = trace("torch", without(training=True), refused={"series/one/training": said})
    found = compared(trace("keras", TRAINED | ONE), theirs, "loss", series={"one": False})
    assert found.verdict == "fail" and f"PyTorch refuses it: {said}" in found.detail


def test_a_batch_that_both_refuse_decides_nothing() -> None:
    refused = {"series/one/forward": "too small", "series/one/training": "too small"}
    values = without(training=False)
    ours, theirs = (trace(n, values, refused=refused) for n in ("keras", "torch"))
    assert compared(ours, theirs, series={"one": False}).verdict == "pass"


@pytest.mark.parametrize(
    ("name", "level"),
    [("outputs/training/0", "loss"), ("loss", "loss"), ("gradient/w", "gradient")],
)
@pytest.mark.parametrize("batch", ["", "series/one/"])
def test_every_batch_decides_at_every_level(name: str, level: str, batch: str) -> None:
    wrong = TRAINED | ONE
    wrong[batch + name] = np.asarray(wrong[batch + name]) * (1 + 1e-6)
    sides = trace("keras", TRAINED | ONE), trace("torch", wrong)
    assert compared(*sides, level, series={"one": False}).verdict == "fail"
    same = trace("keras", TRAINED | ONE), trace("torch", TRAINED | ONE)
    assert compared(*same, level, series={"one": False}).verdict == "pass"


@pytest.mark.parametrize(("larger", "verdict"), [(1.0, "fail"), (1e3, "pass")])
def test_what_saturation_leaves_of_a_gradient_is_rounding(larger: float, verdict: str) -> None:
    """1 - tanh(x)² far out is a difference of numbers near 1, which then meets inputs of 1e3."""
    far = {"series/one/gradient/w": X * 1e-12}
    ours, theirs = trace("keras", TRAINED | ONE | far), trace("torch", TRAINED | ONE | far)
    theirs.tensors["series/one/gradient/w"] = X * 3e-12  # type: ignore[index]
    found = compared(ours, theirs, "gradient", series={"one": False}, magnitudes={"one": larger})
    assert found.verdict == verdict


def test_a_gradient_that_one_side_lacks_fails() -> None:
    lacking = {n: v for n, v in TRAINED.items() if n != "gradient/w"}
    for sides in ((TRAINED, lacking), (lacking, TRAINED)):
        found = compared(trace("keras", sides[0]), trace("torch", sides[1]), "gradient")
        assert found.verdict == "fail"


def test_inference_that_draws_what_the_other_side_does_not_is_not_judged() -> None:
    drawn = {"forward": {"uncaught": ["a sampler of its own"]}}
    found = compared(trace("keras", outputs(X)), trace("torch", outputs(X + 1), drawn=drawn))
    assert found.verdict == "abstain" and "a sampler of its own" in found.detail


MORE = {"unmatched": ["dropout: uniform (4, 3)"], "unused": []}


@pytest.mark.parametrize(
    ("ours", "theirs", "alone"),
    [
        ({}, MORE, True),  # PyTorch alone draws
        ({"draws": ["drop"]}, MORE, True),  # and goes on where Keras' draws are used up
        ({"draws": ["drop"]}, {"unmatched": [], "unused": ["drop"]}, True),  # Keras alone draws
        ({"draws": ["drop"]}, {**MORE, "unused": ["drop"]}, False),  # they may be the same
        ({"draws": ["a", "b"]}, {"unmatched": [], "unused": ["a"]}, False),  # perhaps drawn in one
        ({}, {"uncaught": ["a sampler"]}, False),
        ({"uncaught": ["numpy.random"]}, MORE, False),
        ({}, {}, False),
    ],
)
def test_draws_that_nothing_is_left_to_pair_with_decide(
    ours: dict[str, list[str]], theirs: dict[str, list[str]], alone: bool
) -> None:
    sides = (
        trace("keras", outputs(X), drawn={"forward": ours}),
        trace("torch", outputs(X + 1), drawn={"forward": theirs}),
    )
    open_ = any(theirs.get(kind) for kind in ("unmatched", "unused", "uncaught"))
    open_ = open_ or bool(ours.get("uncaught"))
    expected = "abstain" if open_ and not alone else "fail"
    assert compared(*sides).verdict == expected
