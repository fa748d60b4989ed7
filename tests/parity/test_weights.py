from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import weights
from parity.experiment import Experiment
from parity.weights import TensorSpec

PARAMETERS = {  # PROTOCOL.md, Models
    ("baseline", 0): 3_208_770,
    ("baseline", 1): 6_354_498,
}


@pytest.mark.parametrize(("variant", "padding"), PARAMETERS)
def test_parameter_counts_are_the_published(variant: str, padding: int) -> None:
    experiment = Experiment.of(variant, "paper", padding=padding)
    assert weights.parameter_count(experiment) == PARAMETERS[variant, padding]


sides = st.integers(1, 4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, np.ndarray]:
    kind = draw(st.sampled_from(["conv", "dense", "flattened", "bias"]))
    if kind == "conv":
        shape: tuple[int, ...] = (draw(sides), draw(sides), draw(sides), draw(sides))
        spec = TensorSpec("x.kernel", shape)
    elif kind == "dense":
        spec = TensorSpec("x.kernel", (draw(sides), draw(sides)))
    elif kind == "flattened":
        height, width, channels = draw(sides), draw(sides), draw(sides)
        shape = (height * width * channels, draw(sides))
        spec = TensorSpec("x.kernel", shape, (height, width, channels))
    else:
        spec = TensorSpec("x.bias", (draw(sides),))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=spec.shape)
    values.flat[0] = draw(st.sampled_from([0.5, -0.0, np.nan, np.inf]))
    return spec, values


@given(tensors())
def test_round_trips_are_exact_to_the_bit(case: tuple[TensorSpec, np.ndarray]) -> None:
    spec, values = case
    back = weights.from_torch(spec, weights.to_torch(spec, values))
    assert back.tobytes() == values.tobytes()
    assert back.flags.c_contiguous
    assert weights.to_torch(spec, values).flags.c_contiguous


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_flattened_dense_gives_the_same_product_in_both_layouts(
    height: int, width: int, channels: int, units: int
) -> None:
    rng = np.random.default_rng(0)
    spec = TensorSpec("d.kernel", (height * width * channels, units), (height, width, channels))
    kernel = rng.normal(size=spec.shape)
    image = rng.normal(size=(height, width, channels))
    ours = image.reshape(-1) @ kernel
    theirs = weights.to_torch(spec, kernel) @ image.transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_drawn_weights_are_glorot_uniform_with_zero_bias(seed: int) -> None:
    experiment = Experiment.of("baseline", "quick", seed=seed)
    drawn = weights.draw(experiment)
    kernel = drawn["block3.conv.kernel"]
    bound = np.sqrt(6 / (9 * (16 + 32)))
    assert np.abs(kernel).max() <= bound
    assert np.abs(kernel).max() > 0.99 * bound
    assert abs(kernel.mean()) < 5 * bound / np.sqrt(3 * kernel.size)
    assert not drawn["block3.conv.bias"].any()


def test_a_seed_draws_the_same_weights_again_and_another_seed_others() -> None:
    first = weights.draw(Experiment.of("baseline", "quick"))
    again = weights.draw(Experiment.of("baseline", "quick"))
    other = weights.draw(Experiment.of("baseline", "quick", seed=9))
    for name, value in first.items():
        assert again[name].tobytes() == value.tobytes()
        if name.endswith("kernel"):
            assert (other[name] != value).all()


def test_a_seventh_block_leaves_the_first_six_as_they_are() -> None:
    plain = weights.draw(Experiment.of("baseline", "quick"))
    longer = weights.draw(Experiment.of("additional_layers", "quick"))
    for name in plain:
        if name.startswith("block"):
            assert longer[name].tobytes() == plain[name].tobytes()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision(precision: str) -> None:
    drawn = weights.draw(Experiment.of("baseline", "quick", precision=precision))
    assert {str(value.dtype) for value in drawn.values()} == {precision}


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    experiment = Experiment.of("baseline", "quick")
    specs, drawn = weights.specs(experiment), weights.draw(experiment)
    weights.check(specs, drawn)
    with pytest.raises(ValueError, match=r"dense2\.bias: expected \(2,\), got nothing"):
        weights.check(specs, {k: v for k, v in drawn.items() if k != "dense2.bias"})
    with pytest.raises(ValueError, match=r"extra: expected no such tensor"):
        weights.check(specs, {**drawn, "extra": np.zeros(1)})
    with pytest.raises(ValueError, match="order"):
        weights.check(specs, dict(reversed(drawn.items())))
