from __future__ import annotations

import math

import numpy as np
import pytest

from shared_data.errors import InputError

torch = pytest.importorskip("torch")
optimizers = pytest.importorskip("torch_impl.optimizers")

STEPS = 4
Settings = dict[str, float]


def adam(w: np.ndarray, gradients: list[np.ndarray], s: Settings) -> np.ndarray:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        w = w - s.get("weight_decay", 0.0) * s["learning_rate"] * w
        m = s["beta_1"] * m + (1 - s["beta_1"]) * g
        v = s["beta_2"] * v + (1 - s["beta_2"]) * g**2
        rate = s["learning_rate"] * math.sqrt(1 - s["beta_2"] ** t) / (1 - s["beta_1"] ** t)
        w = w - rate * m / (np.sqrt(v) + s["epsilon"])
    return w


def sgd(w: np.ndarray, gradients: list[np.ndarray], s: Settings) -> np.ndarray:
    v = np.zeros_like(w)
    for g in gradients:
        w = w * (1 - s.get("weight_decay", 0.0) * s["learning_rate"])
        v = s["momentum"] * v - s["learning_rate"] * g
        w = w + v
    return w


def rmsprop(w: np.ndarray, gradients: list[np.ndarray], s: Settings) -> np.ndarray:
    v, moved = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        v = s["rho"] * v + (1 - s["rho"]) * g**2
        moved = s.get("momentum", 0) * moved + s["learning_rate"] * g / np.sqrt(v + s["epsilon"])
        w = w - moved
    return w


ADAM = {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3}
CASES = [
    ("adam", adam, ADAM),
    ("adam", adam, {**ADAM, "weight_decay": 0.1}),
    ("adamw", adam, {**ADAM, "weight_decay": 0.2}),
    ("sgd", sgd, {"learning_rate": 0.1, "momentum": 0.0}),
    ("sgd", sgd, {"learning_rate": 0.1, "momentum": 0.7, "weight_decay": 0.1}),
    ("rmsprop", rmsprop, {"learning_rate": 0.01, "rho": 0.7, "epsilon": 1e-4}),
    ("rmsprop", rmsprop, {"learning_rate": 0.01, "rho": 0.7, "epsilon": 1e-4, "momentum": 0.5}),
]


def stepped(
    name: str, settings: Settings, w: np.ndarray, gradients: list[np.ndarray]
) -> np.ndarray:
    parameter = torch.from_numpy(w.copy()).requires_grad_()
    optimizer = optimizers.make(name, [parameter], settings)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.astype(w.dtype))
        optimizer.step()
    result: np.ndarray = parameter.detach().numpy()
    return result


def problem() -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    gradients = [10.0 ** -rng.integers(0, 6, (3, 4)) * rng.standard_normal((3, 4))] * STEPS
    return rng.standard_normal((3, 4)), gradients


@pytest.mark.parametrize(("name", "expected", "settings"), CASES)
def test_steps_are_those_of_the_formula(name, expected, settings) -> None:  # type: ignore[no-untyped-def]
    w, gradients = problem()
    got = stepped(name, settings, w, gradients)
    np.testing.assert_allclose(got, expected(w, gradients, settings), rtol=1e-14, atol=1e-16)
    other = {**settings, "learning_rate": settings["learning_rate"] * (1 + 1e-9)}
    assert np.abs(stepped(name, other, w, gradients) - got).max() > 1e-13


def test_defaults_are_those_of_keras() -> None:
    w, gradients = problem()
    keras = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    assert (stepped("adam", {}, w, gradients) == stepped("adam", keras, w, gradients)).all()
    decayed = {**keras, "weight_decay": 0.004}
    assert (stepped("adamw", {}, w, gradients) == stepped("adam", decayed, w, gradients)).all()


def test_the_aligned_adam_of_the_study_takes_the_same_steps() -> None:
    training = pytest.importorskip("torch_impl.training")
    w, gradients = problem()
    parameter = torch.from_numpy(w.copy()).requires_grad_()
    optimizer = training.KerasAdam([parameter], lr=0.001)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    got = stepped("adam", {"learning_rate": 0.001}, w, gradients)
    np.testing.assert_allclose(got, parameter.detach().numpy(), rtol=1e-14)


def test_the_precision_is_the_parameters() -> None:
    w, gradients = problem()
    for name, _, settings in CASES:
        assert stepped(name, settings, w.astype("float32"), gradients).dtype == np.float32


def test_a_parameter_without_a_gradient_stays() -> None:
    still, moved = (torch.ones(2, requires_grad=True) for _ in range(2))
    moved.grad = torch.ones(2)
    optimizers.make("adamw", [still, moved], {}).step()
    assert (still == 1).all() and (moved != 1).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adan", {}, "no optimizer 'adan': did you mean 'adam'"),
        ("sgd", {"beta_1": 0.9}, "sgd has no setting 'beta_1'"),
        ("adam", {"epsilom": 0.9}, "did you mean 'epsilon'"),
    ],
)
def test_what_there_is_not_is_refused(name: str, settings: Settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimizers.make(name, [], settings)
