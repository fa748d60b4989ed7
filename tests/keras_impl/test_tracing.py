from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.check.trace import STEPS, Request, Trace
from shared_data.errors import InputError

keras = pytest.importorskip("keras")
graph = pytest.importorskip("keras_impl.graph")
tracing = pytest.importorskip("keras_impl.tracing")
exact = pytest.importorskip("keras_impl.exact")
layers, ops = keras.layers, keras.ops

ALL = ("forward", "loss", "update", "trajectory")
Arrays = dict[str, np.ndarray]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def target(*shape: int, at: int = 0) -> np.ndarray:
    """What the output at a place is compared with, where the request's seed is 0."""
    return np.random.default_rng([1, at]).standard_normal(shape)


def traced(folder: Path, model: Any, inputs: list[np.ndarray], **more: Any) -> Trace:
    given = {f"input:{at}": value for at, value in enumerate(inputs)}
    np.savez(folder / "inputs.npz", **given)
    fields = {"levels": ALL, "optimizer_settings": {"learning_rate": 0.1}, "nudge": False, **more}
    request = Request("live", inputs=str(folder / "inputs.npz"), **fields)
    return tracing.trace(model, graph.describe(model, given), request)


def in_float64(build: Any) -> Any:
    with exact.precision("float64"):
        return build()


def convolutional() -> Any:
    image = keras.Input((7, 6, 2))
    x = layers.Conv2D(3, 3, 2, padding="same", activation="relu", name="conv")(image)
    x = layers.BatchNormalization(momentum=0.8, name="norm")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(image, layers.Dense(2, name="head")(x))


@pytest.fixture(scope="module")
def image_model() -> Any:
    return in_float64(convolutional)


X, T = random(4, 7, 6, 2), target(4, 2)


@pytest.fixture(scope="module")
def seen(image_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return traced(tmp_path_factory.mktemp("trace"), image_model, [X], nudge=True)


def test_forward_is_what_the_model_gives_layer_by_layer(image_model: Any, seen: Trace) -> None:
    forward = seen.under("forward")
    assert list(forward) == ["conv", "conv/activation", "norm", "drop", "flat", "head"]
    for name in ("norm", "flat", "head"):
        part = keras.Model(image_model.input, image_model.get_layer(name).output)
        np.testing.assert_allclose(forward[name], part(X), rtol=1e-13, atol=1e-14)
    kernel, bias = image_model.get_layer("conv").get_weights()
    padded = np.pad(X, ((0, 0), (1, 1), (0, 1), (0, 0)))
    corner = np.einsum("bhwi,hwio->bo", padded[:, :3, :3], kernel) + bias
    np.testing.assert_allclose(forward["conv"][:, 0, 0], corner, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(forward["conv/activation"], np.maximum(forward["conv"], 0))
    assert {value.dtype.name for value in seen.tensors.values()} == {"float64"}


def test_loss_and_gradients_are_those_of_the_plain_model(image_model: Any, seen: Trace) -> None:
    import tensorflow as tf

    plain = keras.models.clone_model(image_model)
    plain.set_weights(image_model.get_weights())
    plain.get_layer("drop").rate = 0.0
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean((plain(x, training=True) - T) ** 2) / 2
    variables = [each.value for each in plain.trainable_variables]
    expected = tape.gradient(loss, [*variables, x])
    assert seen.tensors["loss"].shape == ()
    assert seen.tensors["loss"] == pytest.approx(float(loss), rel=1e-14)
    names = ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "head/kernel", "head/bias"]
    assert list(seen.under("gradient")) == [*names, "input:0"]
    for value, gradient in zip(seen.under("gradient").values(), expected, strict=True):
        np.testing.assert_allclose(value, gradient, rtol=1e-12, atol=1e-15)


def test_upstream_gradients_by_the_chain_rule(image_model: Any, seen: Trace) -> None:
    training, upstream = seen.under("training"), seen.under("upstream")
    head = (training["head"] - T) / T.size
    np.testing.assert_allclose(upstream["head"], head, rtol=1e-12, atol=1e-16)
    kernel = image_model.get_layer("head").get_weights()[0]
    np.testing.assert_allclose(upstream["flat"], head @ kernel.T, rtol=1e-12, atol=1e-16)
    np.testing.assert_array_equal(upstream["drop"].reshape(4, -1), upstream["flat"])
    before = upstream["conv/activation"] * (training["conv"] > 0)
    np.testing.assert_array_equal(upstream["conv"], before)
    np.testing.assert_allclose(
        before.sum((0, 1, 2)), seen.tensors["gradient/conv/bias"], rtol=1e-11, atol=1e-16
    )


def test_dropout_is_off_and_batch_norm_takes_the_batch(seen: Trace) -> None:
    training = seen.under("training")
    np.testing.assert_array_equal(training["drop"], training["norm"])
    before = training["conv/activation"]
    normal = (before - before.mean((0, 1, 2))) / np.sqrt(before.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(training["norm"], normal, rtol=1e-11, atol=1e-13)
    assert not np.allclose(training["norm"], seen.tensors["forward/norm"])


def test_moving_statistics_start_anew_and_go_on(seen: Trace) -> None:
    batch = seen.tensors["training/conv/activation"].mean((0, 1, 2))
    np.testing.assert_allclose(seen.tensors["update/norm/moving_mean"], 0.2 * batch, rtol=1e-13)
    once = 0.8 * 0.2 * batch  # what is left of it after another step
    assert (np.abs(seen.tensors["trajectory/norm/moving_mean"]) > np.abs(once)).any()


def test_every_tensor_has_a_floor_and_the_model_is_as_it_was(
    image_model: Any, seen: Trace, tmp_path: Path
) -> None:
    held = image_model.get_weights()
    again = traced(tmp_path, image_model, [X], nudge=True)
    beside = ("nudged/", "outputs/again/")
    assert set(again.floors) == {n for n in again.tensors if not n.startswith(beside)}
    assert again.floors == seen.floors
    assert 0 < max(again.floors.values()) < 1e-12
    for name, value in seen.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)
    for before, after in zip(held, image_model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert again.tensors["trajectory/loss"].shape == (STEPS,)
    assert again.tensors["trajectory/loss"][0] == again.tensors["loss"]
    assert keras.config.floatx() == "float32" and not again.notes


# Steps, against NumPy


def _adam(w: Any, g: Any, kept: Any, t: int, s: dict[str, float]) -> Any:
    w = w - w * s.get("weight_decay", 0) * s["learning_rate"]
    kept["m"] = kept.get("m", 0) + (g - kept.get("m", 0)) * (1 - s["beta_1"])
    kept["v"] = kept.get("v", 0) + (g * g - kept.get("v", 0)) * (1 - s["beta_2"])
    rate = s["learning_rate"] * math.sqrt(1 - s["beta_2"] ** t) / (1 - s["beta_1"] ** t)
    return w - rate * kept["m"] / (np.sqrt(kept["v"]) + s["epsilon"])


def _sgd(w: Any, g: Any, kept: Any, t: int, s: dict[str, float]) -> Any:
    kept["m"] = s["momentum"] * kept.get("m", 0) - s["learning_rate"] * g
    return w + kept["m"]


def _rmsprop(w: Any, g: Any, kept: Any, t: int, s: dict[str, float]) -> Any:
    kept["v"] = s["rho"] * kept.get("v", 0) + (1 - s["rho"]) * g * g
    kept["m"] = s["momentum"] * kept.get("m", 0) + s["learning_rate"] * g / np.sqrt(
        kept["v"] + s["epsilon"]
    )
    return w - kept["m"]


_BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("name", "step", "settings"),
    [
        ("adam", _adam, _BETAS),
        ("adamw", _adam, {**_BETAS, "weight_decay": 0.3, "beta_1": 0.7}),
        ("sgd", _sgd, {"learning_rate": 0.01, "momentum": 0.9}),
        (
            "rmsprop",
            _rmsprop,
            {"learning_rate": 0.01, "rho": 0.8, "momentum": 0.3, "epsilon": 1e-3},
        ),
    ],
)
def test_steps_are_exact(name: str, step: Any, settings: dict[str, float], tmp_path: Path) -> None:
    x, t = random(5, 3), target(5, 2)
    source = keras.Input((3,), dtype="float64")
    model = in_float64(lambda: keras.Model(source, layers.Dense(2, name="d")(source)))
    w, b = model.get_weights()
    more = {"optimizer": name, "optimizer_settings": settings, "levels": ("update", "trajectory")}
    found = traced(tmp_path, model, [x], **more)
    losses: list[float] = []
    kept: tuple[Arrays, Arrays] = ({}, {})
    for number in range(1, STEPS + 1):
        apart = x @ w + b - t
        losses.append(float(np.mean(apart**2)) / 2)
        w = step(w, x.T @ apart / apart.size, kept[0], number, settings)
        b = step(b, apart.sum(0) / apart.size, kept[1], number, settings)
        if number == 1:
            np.testing.assert_allclose(found.tensors["update/d/kernel"], w, rtol=0, atol=1e-15)
            np.testing.assert_allclose(found.tensors["update/d/bias"], b, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.tensors["trajectory/d/kernel"], w, rtol=0, atol=2e-15)
    np.testing.assert_allclose(found.tensors["trajectory/d/bias"], b, rtol=0, atol=2e-15)
    np.testing.assert_allclose(found.tensors["trajectory/loss"], losses, rtol=1e-14)


# What float32 would creep into


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: layers.LeakyReLU(0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
        (lambda: layers.ReLU(negative_slope=0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
        (lambda: layers.Activation("gelu"), lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2),
        (
            lambda: layers.Activation(ops.gelu),
            lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        ),
        (lambda: layers.ELU(0.3), lambda x: np.where(x > 0, x, 0.3 * np.expm1(x))),
        (lambda: layers.Activation("selu"), None),
        (lambda: layers.Rescaling(0.1), lambda x: 0.1 * x),
        (
            lambda: layers.BatchNormalization(epsilon=0.1),
            lambda x: x / np.sqrt(1 + 0.1),
        ),
        (
            lambda: layers.LayerNormalization(epsilon=0.1),
            lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1),
        ),
    ],
)
def test_constants_are_of_double_precision(layer: Any, expected: Any, tmp_path: Path) -> None:
    model = in_float64(lambda: keras.Sequential([keras.Input((7,)), layer()]))
    x = random(4, 7)
    found = traced(tmp_path, model, [x], levels=("forward",))
    if expected is None:
        scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
        expected = lambda x: scale * np.where(x > 0, x, alpha * np.expm1(x))  # noqa: E731
    (value,) = found.under("forward").values()
    np.testing.assert_allclose(value, expected(x), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_attention_is_exact_and_drops_nothing(rate: float, tmp_path: Path) -> None:
    def build() -> Any:
        x = keras.Input((5, 6))
        y = layers.MultiHeadAttention(2, 3, dropout=rate, name="look")(x, x)
        return keras.Model(x, layers.GaussianNoise(0.5, name="noise")(y))

    model, x = in_float64(build), random(2, 5, 6)
    found = traced(tmp_path, model, [x], levels=("forward", "loss"))
    w = dict(zip(("q", "qb", "k", "kb", "v", "vb", "o", "ob"), model.get_weights(), strict=True))
    q, k, v = (np.einsum("btd,dhe->bhte", x, w[n]) + w[f"{n}b"][:, None] for n in "qkv")
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(3)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    y = np.einsum("bhte,hed->btd", weights @ v, w["o"]) + w["ob"]
    for name in ("forward/look", "training/look", "training/noise"):
        np.testing.assert_allclose(found.tensors[name], y, rtol=1e-13, atol=1e-14)


def test_a_recurrent_layer_drops_nothing_and_words_have_no_gradient(tmp_path: Path) -> None:
    def build() -> Any:
        words = keras.Input((4,), dtype="int32")
        x = layers.Embedding(9, 3, name="words")(words)
        both = layers.Bidirectional(layers.LSTM(2, dropout=0.5, recurrent_dropout=0.5), name="both")
        return keras.Model(words, both(x))

    words = np.random.default_rng(0).integers(0, 9, (3, 4))
    found = traced(tmp_path, in_float64(build), [words], levels=("forward", "loss"))
    np.testing.assert_array_equal(found.tensors["training/both"], found.tensors["forward/both"])
    assert "gradient/input:0" not in found.tensors
    gradient = found.tensors["gradient/words/embeddings"]
    unread = sorted(set(range(9)) - set(words.ravel()))
    assert gradient.shape == (9, 3) and not gradient[unread].any() and gradient.any()


def test_nodes_of_a_subclassed_model_and_of_a_layer_called_twice(tmp_path: Path) -> None:
    class Twice(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="twice")
            self.dense = layers.Dense(3, name="dense")

        def call(self, x: Any) -> Any:
            x = ops.tanh(self.dense(x)) * 0.1
            return self.dense(x), x[:, :1]

    x = random(4, 3)
    model = in_float64(Twice)
    with exact.precision("float64"):
        model(x)
    found = traced(tmp_path, model, [x], levels=("loss",))
    w, b = model.get_weights()
    inner = 0.1 * np.tanh(x @ w + b)
    training = found.under("training")
    np.testing.assert_allclose(training["dense#2"], inner @ w + b, rtol=1e-13, atol=1e-15)
    up = found.under("upstream")
    own = up["dense#2"] @ w.T
    own[:, :1] += up["self/select"]
    np.testing.assert_allclose(up["self/multiply"], own, rtol=1e-12, atol=1e-16)
    both = x.T @ up["dense"] + training["self/multiply"].T @ up["dense#2"]
    np.testing.assert_allclose(found.tensors["gradient/twice/dense/kernel"], both, rtol=1e-12)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_cross_entropy_on_logits_and_on_probabilities(
    activation: str | None, tmp_path: Path
) -> None:
    model = in_float64(
        lambda: keras.Sequential([keras.Input((3,)), layers.Dense(4, activation=activation)])
    )
    x, labels = random(5, 3), np.array([0, 3, 2, 1, 3])
    np.savez(tmp_path / "labels.npz", **{"output:0": labels})
    more = {"loss": "cross_entropy", "labels": str(tmp_path / "labels.npz")}
    found = traced(tmp_path, model, [x], levels=("loss",), **more)
    w, b = model.get_weights()
    logits = x @ w + b
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(5), labels])
    assert found.tensors["loss"] == pytest.approx(expected, rel=1e-14)


def test_float32_runs_in_float32(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    found = traced(tmp_path, model, [random(4, 3)], precision="float32")
    assert {value.dtype.name for value in found.tensors.values()} == {"float32"}


def test_what_does_not_fit_is_refused(image_model: Any, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "float32"}, "computes in float64, float32 is asked for"),
        ({"levels": ("backward",)}, "no level 'backward'"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"optimizer": "adm"}, "no optimizer 'adm': did you mean 'adam'"),
        ({"optimizer_settings": {"momentum": 1.0}}, "adam has no setting 'momentum'"),
        ({"loss": "cross_entropy"}, "there are no labels for output:0"),
    ]
    for more, message in cases:
        with pytest.raises(InputError, match=message):
            traced(tmp_path, image_model, [X], **more)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 1), int), r"int64 labels \(batch,\): output:0 has shape \(4, 2\)"),
        (np.array([0.0, 1, 1, 0]), "its target .* of type float64"),
        (np.array([0, 1, 2, 0]), "run from 0 to 2: expected 0 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    image_model: Any, labels: np.ndarray, message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "labels.npz", **{"output:0": labels})
    more = {"loss": "cross_entropy", "labels": str(tmp_path / "labels.npz")}
    with pytest.raises(InputError, match=message):
        traced(tmp_path, image_model, [X], levels=("loss",), **more)


# Outputs, and a series of batches


@pytest.mark.parametrize("keeps", [True, False])
def test_a_second_call_shows_what_is_kept_between_calls(keeps: bool, tmp_path: Path) -> None:
    class Kept(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.before = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x: Any) -> Any:
            y = x + self.before
            if keeps:
                self.before.assign_add(1.0)
            return y

    model = in_float64(lambda: keras.Sequential([keras.Input((3,)), Kept()]))
    x = random(4, 3)
    found = traced(tmp_path, model, [x], levels=("forward",), nudge=True).under("outputs")
    np.testing.assert_allclose(found["again/0"] - found["forward/0"], float(keeps), atol=1e-14)
    assert float(model.layers[0].before) == 0.0


def test_a_batch_that_a_model_refuses_is_kept_apart(tmp_path: Path) -> None:
    def build() -> Any:
        x = keras.Input((3,), batch_size=None)
        four = layers.Lambda(lambda y: ops.reshape(y, (4, 2)), output_shape=(2,))
        return keras.Model(x, four(layers.Dense(2)(x)))

    batches = {"four": random(4, 3), "three": random(3, 3)}
    for name, value in batches.items():
        np.savez(tmp_path / f"{name}.npz", **{"input:0": value})
    series = tuple((name, str(tmp_path / f"{name}.npz")) for name in batches)
    model = in_float64(build)
    found = traced(tmp_path, model, [batches["four"]], levels=("loss",), series=series)
    assert set(found.refused) == {"series/three/forward"} and not found.under("series/three")
    assert "does not run on it" in found.refused["series/three/forward"]
    # The same batch once more.
    for name in ("loss", "gradient/input:0", "outputs/training/0"):
        np.testing.assert_array_equal(found.tensors[f"series/four/{name}"], found.tensors[name])


def test_the_outputs_that_count_are_taken_in_their_order(tmp_path: Path) -> None:
    def build() -> Any:
        x = keras.Input((3,))
        return keras.Model(x, [layers.Dense(2)(x), layers.Dense(4)(x)])

    model, x = in_float64(build), random(5, 3)
    found = traced(tmp_path, model, [x], levels=("loss",), outputs=(1, 0)).under("outputs/training")
    one = traced(tmp_path, model, [x], levels=("loss",), outputs=(1,))
    kernels = [each.numpy() for each in model.weights[::2]]
    np.testing.assert_allclose(found["0"], x @ kernels[1], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found["1"], x @ kernels[0], rtol=1e-13, atol=1e-14)
    assert one.under("outputs/training").keys() == {"0"}
    apart = x @ kernels[1] - target(5, 4)
    assert one.tensors["loss"] == pytest.approx((apart**2).mean() / 2, rel=1e-13)


@pytest.mark.parametrize("raw", [True, False])
def test_layers_of_the_users_own_run_in_training_and_dropout_does_not(
    raw: bool, tmp_path: Path
) -> None:
    import tensorflow as tf

    drop = tf.nn.dropout if raw else keras.random.dropout

    class Own(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            return 3 * drop(x, 0.5) if training else x

    model = in_float64(lambda: keras.Sequential([keras.Input((3,)), Own(), layers.Dense(2)]))
    found = traced(tmp_path, model, [random(4, 3)], levels=("forward", "loss")).under("outputs")
    np.testing.assert_allclose(found["training/0"], 3 * found["forward/0"], rtol=1e-13)
