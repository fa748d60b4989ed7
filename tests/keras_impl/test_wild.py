"""Models as found: classes that are a kind of a layer, float32 that is written into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.check.trace import Request

keras = pytest.importorskip("keras")
from keras import layers, ops  # noqa: E402

from keras_impl.exact import precision  # noqa: E402
from keras_impl.graph import describe  # noqa: E402
from keras_impl.rebuilding import in_precision  # noqa: E402
from keras_impl.tracing import trace  # noqa: E402

tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


class Scaled(layers.Embedding):
    def call(self, ids: Any, reverse: bool = False) -> Any:
        return super().call(ids) * 4.0


class Table(layers.Embedding):
    def call(self, ids: Any) -> Any:
        return ops.take(self.embeddings, ids, axis=0)


class Clipped(layers.ReLU):
    def call(self, x: Any) -> Any:
        return ops.minimum(super().call(x), 1.0)


class ByHand(layers.Dense):
    def call(self, x: Any) -> Any:
        return ops.matmul(x, self.kernel) + self.bias


class Same(layers.Conv2D):
    def call(self, x: Any) -> Any:
        return super().call(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]))


class Attention(layers.MultiHeadAttention):
    def call(self, query: Any, value: Any, key: Any = None, **others: Any) -> Any:
        return super().call(query, value, key)


class Strange(layers.GroupNormalization):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.groups = "all"

    def call(self, x: Any) -> Any:
        return x * self.gamma + self.beta


KINDS: list[tuple[Any, tuple[int, ...], str, list[tuple[str, str, str]]]] = [
    (Scaled(5, 3), (4,), "int32", [("a", "embedding", "a"), ("a/multiply", "rescale", "")]),
    (Table(5, 3), (4,), "int32", [("a", "embedding", "a")]),
    (Clipped(), (4,), "float32", [("a", "relu", ""), ("a/minimum", "other:minimum", "")]),
    (ByHand(3), (4,), "float32", [("a", "dense", "a")]),
    (Same(3, 3), (4, 4, 2), "float32", [("a/pad", "pad", ""), ("a", "conv2d", "a")]),
    (Strange(2), (4, 4, 2), "float32", [("a", "other:Strange", "a")]),
]


@pytest.mark.parametrize(("layer", "shape", "dtype", "expected"), KINDS)
def test_a_kind_of_a_known_layer_is_looked_into(
    layer: Any, shape: tuple[int, ...], dtype: str, expected: list[tuple[str, str, str]]
) -> None:
    layer.name = "a"
    x = keras.Input(shape, dtype=dtype)
    found = describe(keras.Model(x, layer(x)))
    assert [(node.name, node.kind, node.layer) for node in found.nodes] == expected
    assert {each.layer for each in found.parameters} <= {"a"}


def test_the_weights_of_a_kind_of_attention_are_its_own() -> None:
    x = keras.Input((4, 2))
    found = describe(keras.Model(x, Attention(2, 3, name="a")(x, x)))
    assert [(node.name, node.kind, node.layer) for node in found.nodes] == [("a", "attention", "a")]
    assert {(each.layer, each.role) for each in found.parameters} >= {("a", "query/kernel")}


# float32 that is written into a model


def forward(build: Any, value: np.ndarray, folder: Path) -> tuple[np.ndarray, float, str]:
    """The output in float64, its floor, and the notes."""
    model = build()
    described = describe(model, {"input:0": value})

    def call(made: Any) -> None:
        made(value)

    double = in_precision(model, "float64", build, call, "model")
    np.savez(folder / "in.npz", **{"input:0": value})
    request = Request("model", inputs=str(folder / "in.npz"), levels=("forward",))
    found = trace(double, described, request)
    name = f"forward/{described.outputs[0]}"
    return found.tensors[name], found.floors[name], " ".join(found.notes)


class Gate(layers.Layer):
    """Of a layer of its own in float32, with casts and constants."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = layers.Softmax(dtype="float32", name="inner")

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(3,), initializer="ones", dtype="float32", name="s")

    def call(self, x: Any) -> Any:
        scores = self.inner(ops.cast(x, "float32")) * ops.convert_to_tensor([0.1, 0.2, 0.3])
        scores = tf.cast(scores, tf.float32) / tf.constant([0.7]) + tf.zeros((3,))
        return ops.cast(scores, x.dtype) * self.scale


def test_float32_is_overruled(tmp_path: Path) -> None:
    def build() -> Any:
        x = keras.Input((3,), dtype="float32")
        return keras.Model(
            x, Gate(name="gate")(layers.Rescaling([0.3, 0.2, 0.1], [0.7, 0.9, 1.1])(x))
        )

    value = random(4, 3)
    output, floor, notes = forward(build, value, tmp_path)
    x = value * [0.3, 0.2, 0.1] + [0.7, 0.9, 1.1]
    softmax = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(output, softmax * [0.1, 0.2, 0.3] / 0.7, rtol=1e-12)
    assert floor < 1e-14 and not notes


class Constant(layers.Layer):
    def __init__(self, value: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.table = np.array([value], "float32")
        self.number = value

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(
            shape=(1,), initializer=keras.initializers.Constant(self.number), trainable=False
        )

    def call(self, x: Any) -> Any:
        return x * ops.convert_to_tensor(self.table) * self.kept


def test_a_rounded_constant_has_a_floor_of_float32(tmp_path: Path) -> None:
    def build(number: float) -> Any:
        x = keras.Input((1,))
        return keras.Model(x, Constant(number, name="own")(x))

    value = random(4, 1)
    output, floor, notes = forward(lambda: build(0.1), value, tmp_path)
    off = np.abs(output - value * 0.01).max()
    assert 1e-10 < off < 2 * floor < 1e-8
    assert "own.table is held in float32" in notes and "own/" in notes
    _, floor, notes = forward(lambda: build(0.25), value, tmp_path)
    assert floor < 1e-15 and not notes


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    "method", ["bilinear", "bicubic", "area", "lanczos3", "gaussian", "mitchellcubic"]
)
def test_resizing_is_exact(method: str, antialias: bool) -> None:
    value = random(2, 7, 5, 1)
    for size in ((14, 10), (3, 4), (9, 5)):
        single = tf.image.resize(value.astype("float32"), size, method, antialias=antialias)
        with precision("float64"):
            x = tf.constant(value)
            with tf.GradientTape() as tape:
                tape.watch(x)
                double = tf.image.resize(x, size, method, antialias=antialias)
            gradient = tape.gradient(double, x)
        assert double.dtype == gradient.dtype == tf.float64
        np.testing.assert_allclose(double, single, atol=5e-6)
        # Each pixel of the output is a weighted mean, so what comes back is as much as there is.
        np.testing.assert_allclose(np.sum(gradient), 2 * np.prod(size), rtol=1e-12)


def test_bilinear_upsampling_against_the_formula() -> None:
    value = random(1, 1, 2, 1)
    with precision("float64"):
        found = tf.image.resize(tf.constant(value), (1, 4), "bilinear")
    first, second = value[0, 0, :, 0]
    expected = [first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second]
    np.testing.assert_allclose(found[0, 0, :, 0], expected, rtol=1e-15)
