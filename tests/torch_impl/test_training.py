from __future__ import annotations

import numpy as np
import oracle
import pytest

from parity import weights
from parity.experiment import Experiment

training = pytest.importorskip("torch_impl.training")

EXPERIMENT = Experiment.of(
    "baseline", padding=1, image_size=66, width=0.1, precision="float64", learning_rate=1e-2
)


def trainer(experiment: Experiment = EXPERIMENT):  # type: ignore[no-untyped-def]
    made = training.Trainer(experiment, 2)
    made.load(weights.draw(experiment))
    return made


def test_weights_come_back_as_they_were_loaded() -> None:
    drawn = weights.draw(EXPERIMENT)
    for name, value in trainer().weights().items():
        assert value.tobytes() == drawn[name].tobytes()


def test_weights_are_copies() -> None:
    made = trainer()
    before = made.weights()
    kept = {name: value.copy() for name, value in before.items()}
    made.train_batch(*oracle.batch(EXPERIMENT, 4))
    for name, value in before.items():
        assert value.tobytes() == kept[name].tobytes()


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dense2\.bias"):
        trainer().load({**weights.draw(EXPERIMENT), "dense2.bias": np.zeros(3)})


def test_loss_and_accuracy_are_those_before_the_update() -> None:
    made, drawn = trainer(), weights.draw(EXPERIMENT)
    images, labels = oracle.batch(EXPERIMENT, 7)
    loss, accuracy = made.train_batch(images, labels)
    assert loss == pytest.approx(oracle.loss(EXPERIMENT, drawn, images, labels), rel=1e-12)
    answers = oracle.logits(EXPERIMENT, drawn, images).argmax(1)
    assert accuracy == pytest.approx((answers == labels).mean(), rel=1e-12)


def test_predictions_are_logits_after_the_updates() -> None:
    made = trainer()
    images, labels = oracle.batch(EXPERIMENT, 5)
    made.train_batch(images, labels)
    np.testing.assert_allclose(
        made.predict_batch(images),
        oracle.logits(EXPERIMENT, made.weights(), images),
        rtol=1e-10,
        atol=1e-14,
    )


def test_steps_are_those_of_keras_adam() -> None:
    """Against the formula, fed with central differences of the NumPy network's loss."""
    made, gradients = trainer(), []
    entries = {"dense2.kernel": (1, 0), "dense1.bias": (3,), "block6.conv.kernel": (1, 1, 2, 3)}
    for seed in range(3):
        images, labels = oracle.batch(EXPERIMENT, 6, seed)
        before = made.weights()
        gradients.append(
            {name: _slope(before, name, at, images, labels) for name, at in entries.items()}
        )
        made.train_batch(images, labels)
    start = {name: weights.draw(EXPERIMENT)[name][at] for name, at in entries.items()}
    expected = oracle.keras_adam(start, gradients, EXPERIMENT.learning_rate)
    for name, at in entries.items():
        moved = made.weights()[name][at] - start[name]
        assert moved == pytest.approx(expected[name] - start[name], rel=1e-5)


def _slope(
    at_weights: dict[str, np.ndarray], name: str, at: tuple[int, ...], *batch: np.ndarray
) -> np.ndarray:
    def loss(step: float) -> float:
        moved = at_weights[name].copy()
        moved[at] += step
        return oracle.loss(EXPERIMENT, {**at_weights, name: moved}, *batch)

    return np.float64((loss(1e-6) - loss(-1e-6)) / 2e-6)


def test_training_repeats_bit_for_bit() -> None:
    def final() -> dict[str, bytes]:
        made = trainer()
        for seed in range(3):
            made.train_batch(*oracle.batch(EXPERIMENT, 8, seed))
        return {name: value.tobytes() for name, value in made.weights().items()}

    assert final() == final()


def test_native_initialisation_is_the_frameworks_own_and_follows_the_seed() -> None:
    def kernel(seed: int) -> np.ndarray:
        experiment = Experiment.of(padding=1, image_size=66, init="native", seed=seed)
        value: np.ndarray = training.Trainer(experiment, 2).weights()["block2.conv.kernel"]
        return value

    assert (kernel(1) == kernel(1)).all()
    assert (kernel(1) != kernel(2)).any()


def test_tf32_is_off_unless_asked_for() -> None:
    import dataclasses

    import torch

    for asked in ("on", "off"):
        trainer(dataclasses.replace(EXPERIMENT, tf32=asked))
        assert torch.backends.cuda.matmul.allow_tf32 is (asked == "on")
        assert torch.backends.cudnn.allow_tf32 is (asked == "on")
