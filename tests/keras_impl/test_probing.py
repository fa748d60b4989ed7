from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest

from parity import weights
from parity.experiment import Experiment
from parity.probe import INPUT

probing = pytest.importorskip("keras_impl.probing")
training = pytest.importorskip("keras_impl.training")

EXPERIMENT = Experiment.of("baseline", padding=1, image_size=66, width=0.1, precision="float64")
NAMES = [
    *(f"block{n}.{part}" for n in range(1, 7) for part in ("conv", "relu", "pool")),
    *("flatten", "dense1", "dense1.relu", "dense2"),
]


@pytest.fixture(scope="module")
def prober():  # type: ignore[no-untyped-def]
    trainer = training.Trainer(EXPERIMENT, 2)
    trainer.load(weights.draw(EXPERIMENT))
    return probing.Prober(trainer)


@pytest.fixture(scope="module")
def seen(prober):  # type: ignore[no-untyped-def]
    return prober.free(*oracle.batch(EXPERIMENT, 3))


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_everything_is_in_the_precision_of_the_experiment(precision: str) -> None:
    experiment = dataclasses.replace(EXPERIMENT, precision=precision)
    trainer = training.Trainer(experiment, 2)
    other = {"float64": "float32", "float32": "float64"}[precision]
    training.Trainer(dataclasses.replace(EXPERIMENT, precision=other), 2)  # a stranger beside it
    images, labels = oracle.batch(experiment, 2)
    made = probing.Prober(trainer)
    for tensors in made.free(images, labels).values():
        assert {value.dtype.name for value in tensors.values()} == {precision}


def test_layers_have_the_canonical_names_and_shapes(prober, seen) -> None:  # type: ignore[no-untyped-def]
    layers = prober.layers()
    assert [layer.name for layer in layers] == NAMES
    assert [layer.inputs for layer in layers] == [(name,) for name in [INPUT, *NAMES[:-1]]]
    for layer in layers:
        assert seen["activation"][layer.name].shape == (3, *layer.output_shape)
    shapes = {name: shape for layer in layers for name, shape in layer.parameters.items()}
    assert shapes == {spec.name: spec.shape for spec in weights.specs(EXPERIMENT)}


def test_activations_end_in_the_logits_of_the_numpy_network(seen) -> None:  # type: ignore[no-untyped-def]
    drawn, (images, labels) = weights.draw(EXPERIMENT), oracle.batch(EXPERIMENT, 3)
    expected = oracle.logits(EXPERIMENT, drawn, images)
    np.testing.assert_allclose(seen["activation"]["dense2"], expected, rtol=1e-12, atol=1e-15)
    loss = oracle.loss(EXPERIMENT, drawn, images, labels)
    assert seen["loss"]["loss"] == pytest.approx(loss, rel=1e-13)


def test_activations_are_nhwc_and_flattened_in_that_order(seen) -> None:  # type: ignore[no-untyped-def]
    maps = seen["activation"]["block6.pool"]
    assert maps.shape == (3, 1, 1, 51)
    np.testing.assert_array_equal(seen["activation"]["flatten"], maps.reshape(3, -1))
    np.testing.assert_array_equal(
        seen["activation"]["block2.relu"], np.maximum(seen["activation"]["block2.conv"], 0)
    )


@pytest.mark.parametrize(
    ("name", "at"),
    [("block2.conv.kernel", (0, 1, 2, 3)), ("dense1.kernel", (7, 5)), ("dense2.bias", (1,))],
)
def test_gradients_are_the_slopes_of_the_loss(
    seen,  # type: ignore[no-untyped-def]
    name: str,
    at: tuple[int, ...],
) -> None:
    drawn, batch = weights.draw(EXPERIMENT), oracle.batch(EXPERIMENT, 3)

    def loss(step: float) -> float:
        moved = drawn[name].copy()
        moved[at] += step
        return oracle.loss(EXPERIMENT, {**drawn, name: moved}, *batch)

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert seen["gradient"][name][at] == pytest.approx(slope, rel=1e-4, abs=1e-11)


def test_the_gradient_by_the_images_is_the_slope_of_the_loss(seen) -> None:  # type: ignore[no-untyped-def]
    drawn, (images, labels) = weights.draw(EXPERIMENT), oracle.batch(EXPERIMENT, 3)
    gradient = seen["gradient"][INPUT]
    at = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)

    def loss(step: float) -> float:
        moved = images.copy()
        moved[at] += step
        return oracle.loss(EXPERIMENT, drawn, moved, labels)

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert gradient[at] == pytest.approx(slope, rel=1e-4)


def test_layers_alone_repeat_the_network_when_fed_with_it(prober, seen) -> None:  # type: ignore[no-untyped-def]
    images, _ = oracle.batch(EXPERIMENT, 3)
    outputs = {INPUT: images, **seen["activation"]}
    inputs = dict(zip(NAMES, (outputs[name] for name in [INPUT, *NAMES[:-1]]), strict=True))
    alone = prober.isolated(inputs, seen["upstream"])
    for name, before in zip(NAMES, [INPUT, *NAMES[:-1]], strict=True):
        _close(alone["activation"][name], seen["activation"][name])
        by_input = seen["gradient"][INPUT] if before == INPUT else seen["upstream"][before]
        _close(alone["upstream"][name], by_input)
    for name, value in alone["gradient"].items():
        _close(value, seen["gradient"][name])


def test_a_layer_alone_answers_to_what_it_is_fed(prober, seen) -> None:  # type: ignore[no-untyped-def]
    images, _ = oracle.batch(EXPERIMENT, 3)
    outputs = {INPUT: images, **seen["activation"]}
    inputs = dict(zip(NAMES, (outputs[name] for name in [INPUT, *NAMES[:-1]]), strict=True))
    other = prober.isolated({**inputs, "dense2": 2 * inputs["dense2"]}, seen["upstream"])
    kernel, bias = (weights.draw(EXPERIMENT)[f"dense2.{part}"] for part in ("kernel", "bias"))
    _close(other["activation"]["dense2"], 2 * inputs["dense2"] @ kernel + bias)
    _close(other["activation"]["dense1"], seen["activation"]["dense1"])


def _close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
