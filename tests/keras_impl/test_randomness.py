from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.check.randomness import NORMAL, UNIFORM

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
randomness = pytest.importorskip("keras_impl.randomness")
L = keras.layers

X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def model() -> Any:
    given = keras.Input((6,))
    x = L.Dense(5, name="dense")(given)
    x = L.Dropout(0.3, name="drop")(x)
    x = L.GaussianNoise(0.1, name="noise")(x)
    return keras.Model(given, x)


def test_every_draw_of_training_is_recorded_with_what_it_is_meant_for() -> None:
    net = model()
    with randomness.recorded(1) as draws:
        net(X, training=True)
    drop, noise = draws.events
    assert (drop.kind, drop.place, drop.shape) == (UNIFORM, "drop", (4, 5))
    assert drop.rate == pytest.approx(0.3)
    np.testing.assert_allclose(drop.meant[0], net.layers[1](X), rtol=1e-5)
    assert (noise.kind, noise.place, noise.rate) == (NORMAL, "noise", None)
    kept = (drop.numbers >= 0.3) / 0.7
    np.testing.assert_allclose(noise.meant[0], drop.meant[0] * kept, rtol=1e-5)
    assert draws.uncaught == []


def test_a_run_repeats_bit_by_bit_and_draws_as_recorded() -> None:
    net, outputs = model(), []
    for _ in range(2):
        with randomness.recorded(1) as draws:
            outputs.append(net(X, training=True).numpy())
    np.testing.assert_array_equal(*outputs)
    drop, noise = draws.events
    expected = np.where(drop.numbers >= 0.3, drop.meant[0] / 0.7, 0) + 0.1 * noise.numbers
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-6)


def test_inference_draws_nothing() -> None:
    net = model()
    with randomness.recorded(1) as draws:
        net(X, training=False)
    assert draws.events == draws.uncaught == []


@pytest.mark.parametrize(
    ("asked", "kind", "least", "most"),
    [
        (lambda: keras.random.uniform((500,), 2, 5), UNIFORM, 2, 5),
        (lambda: tf.random.uniform((500,), -1.0, 1.0), UNIFORM, -1, 1),
        (lambda: tf.random.uniform((500,), 3, 6, tf.int32), UNIFORM, 3, 5),
        (lambda: keras.random.randint((500,), 3, 6), UNIFORM, 3, 5),
        (lambda: keras.random.normal((500,), 3.0, 0.1), NORMAL, 2, 4),
        (lambda: tf.random.normal((500,), 3.0, 0.1), NORMAL, 2, 4),
        (lambda: tf.random.Generator.from_seed(1).normal((500,), 3.0, 0.1), NORMAL, 2, 4),
        (lambda: tf.random.Generator.from_seed(1).uniform((500,), 2, 5), UNIFORM, 2, 5),
        (lambda: tf.nn.dropout(tf.ones(500), 0.5), UNIFORM, 0, 2),
        (lambda: tf.function(lambda: keras.random.uniform((500,)))(), UNIFORM, 0, 1),
    ],
)
def test_whoever_is_asked(asked: Any, kind: str, least: float, most: float) -> None:
    with randomness.recorded(1) as draws:
        drawn = np.asarray(asked())
    (draw,) = draws.events
    assert draw.kind == kind
    assert draws.uncaught == []
    assert least <= drawn.min() < drawn.max() <= most
    middle = (least + most) / 2
    assert abs(drawn.mean() - middle) < (most - least) / 10


@pytest.mark.parametrize(
    "asked",
    [
        lambda: keras.random.categorical(np.ones((2, 3), "float32"), 1),
        lambda: keras.random.truncated_normal((3,)),
        lambda: keras.random.gamma((3,), 1.0),
        lambda: tf.random.shuffle(tf.range(3)),
        lambda: vars(np.random)["rand"](),
    ],
)
def test_what_cannot_be_caught_is_named(asked: Any) -> None:
    with randomness.recorded(1) as draws:
        asked()
    assert len(draws.uncaught) == 1


def test_masks_of_recurrent_layers_are_recorded() -> None:
    layer = L.LSTM(3, dropout=0.2, recurrent_dropout=0.4)
    with randomness.recorded(1) as draws:
        layer(X[:, :, None], training=True)
    assert {round(float(each.rate), 6) for each in draws.events} == {0.2, 0.4}
    assert all("lstm" in each.place for each in draws.events)
    assert not any(each.told for each in draws.events)  # masks of ones


def test_first_weights_are_no_draws_of_the_model() -> None:
    with randomness.recorded(1) as draws:
        keras.Sequential([L.Dense(3), L.Dense(3)])(X)
    assert draws.events == []


def test_keras_is_itself_again_afterwards() -> None:
    call = L.Layer.__call__
    with pytest.raises(ValueError, match="mine"), randomness.recorded(1):
        raise ValueError("mine")
    assert L.Layer.__call__ is call
    assert not tf.config.functions_run_eagerly()
