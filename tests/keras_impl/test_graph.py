from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from parity.check.graph import Graph, Node
from shared_data.errors import InputError

keras = pytest.importorskip("keras")
graph = pytest.importorskip("keras_impl.graph")
layers, ops = keras.layers, keras.ops


def described(model: Any, *arrays: np.ndarray) -> Graph:
    return graph.describe(model, {f"input:{at}": value for at, value in enumerate(arrays)})


def lines(found: Graph) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(node.name, node.kind, node.inputs) for node in found.nodes]


def only(model: Any, *arrays: np.ndarray) -> Node:
    (node,) = described(model, *arrays).nodes
    return node


def alone(layer: Any, *shape: int) -> Any:
    return keras.Sequential([keras.Input(shape), layer])


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_a_functional_model_with_fused_activations() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(2, activation="softmax", name="head")(x)
    found = graph.describe(keras.Model(image, x))
    assert lines(found) == [
        ("conv", "conv2d", ("input:0",)),
        ("conv/activation", "relu", ("conv",)),
        ("norm", "batch_norm", ("conv/activation",)),
        ("flat", "flatten", ("norm",)),
        ("head", "dense", ("flat",)),
        ("head/activation", "softmax", ("head",)),
    ]
    assert found.inputs == ((8, 8, 3),) and found.outputs == ("head/activation",)
    assert found.node("head/activation").settings["axis"] == -1
    assert found.node("norm").settings == {
        **{"momentum": 0.9, "epsilon": 1e-3, "scale": True, "center": True, "unbiased": False},
        "frozen": False,
        **{"dtype": "float32", "trainable": True},
    }
    assert [(p.name, p.layer, p.role, p.trained) for p in found.parameters[2:6]] == [
        ("norm/gamma", "norm", "gamma", True),
        ("norm/beta", "norm", "beta", True),
        ("norm/moving_mean", "norm", "moving_mean", False),
        ("norm/moving_variance", "norm", "moving_variance", False),
    ]


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 3, 1), (3, 1, 2)])
def test_same_padding_is_worked_out_for_the_size_at_hand(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    layer = layers.Conv1D(2, kernel, stride, padding="same", dilation_rate=dilation)
    model, x = alone(layer, size, 3), random(1, size, 3).astype("float32")
    ((before, after),) = only(model, x).settings["padding"]
    padded = np.pad(x, ((0, 0), (before, after), (0, 0)))
    weights, bias = layer.get_weights()
    starts = range(0, padded.shape[1] - (kernel - 1) * dilation, stride)
    expected = [
        sum(padded[0, at + k * dilation] @ weights[k] for k in range(kernel)) + bias
        for at in starts
    ]
    np.testing.assert_allclose(model.predict(x, verbose=0)[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_same_padding_of_a_pool(kind: str, size: int) -> None:
    layer = getattr(layers, f"{kind}Pooling2D")(3, 2, padding="same")
    settings = only(alone(layer, size, size, 1)).settings
    expected = [[1, 1], [1, 1]] if size % 2 else [[0, 1], [0, 1]]
    assert (settings["size"], settings["strides"]) == ([3, 3], [2, 2])
    assert settings["padding"] == expected
    assert settings.get("count_include_pad") is (False if kind == "Average" else None)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 3), (4, 2), (3, 1)])
def test_a_transposed_convolution_is_cut_as_said(padding: str, kernel: int, stride: int) -> None:
    layer = layers.Conv1DTranspose(2, kernel, stride, padding=padding)
    model, x = alone(layer, 4, 3), random(1, 4, 3).astype("float32")
    ((before, after),) = only(model, x).settings["padding"]
    weights, bias = layer.get_weights()  # (kernel, out, in)
    whole = np.zeros(((4 - 1) * stride + kernel, 2))
    for at, k in itertools.product(range(4), range(kernel)):
        whole[at * stride + k] += weights[k] @ x[0, at]
    cut = whole[before : len(whole) - after] if after >= 0 else np.pad(whole, ((0, -after), (0, 0)))
    np.testing.assert_allclose(model.predict(x, verbose=0)[0], cut + bias, atol=1e-5)


def test_nested_models_of_the_same_layer_names_one_of_them_called_twice() -> None:
    def block(name: str) -> Any:
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(4, activation="tanh", name="dense")(x), name=name)

    one, two, x = block("one"), block("two"), keras.Input((4,))
    model = keras.Model(x, layers.Add(name="sum")([two(one(x)), one(one(x))]))
    found = graph.describe(model)
    assert {name: inputs for name, _, inputs in lines(found)} == {
        "one/dense": ("input:0",),
        "one/dense/activation": ("one/dense",),
        "two/dense": ("one/dense/activation#2",),
        "two/dense/activation": ("two/dense",),
        "one/dense#2": ("input:0",),
        "one/dense/activation#2": ("one/dense#2",),
        "one/dense#3": ("one/dense/activation",),
        "one/dense/activation#3": ("one/dense#3",),
        "sum": ("two/dense/activation", "one/dense/activation#3"),
    }
    assert [p.name for p in found.parameters] == [
        *("one/dense/kernel", "one/dense/bias", "two/dense/kernel", "two/dense/bias")
    ]
    assert [len(found.calls(layer)) for layer in found.layers()] == [3, 1]


def test_two_inputs_and_two_outputs() -> None:
    image, vector = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="vector")
    x = layers.Flatten(name="flat")(image)
    both = layers.Concatenate(name="both")([x, layers.Dense(2, name="side")(vector)])
    model = keras.Model([image, vector], {"a": layers.Dense(1, name="a")(both), "b": both})
    found = graph.describe(model)
    assert found.inputs == ((4, 4, 1), (3,)) and found.outputs == ("a", "both")
    assert found.node("side").inputs == ("input:1",)
    assert found.node("both").inputs == ("flat", "side")


class Mixed(keras.Model):  # type: ignore[misc]
    """What raw operations do to the trail, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__(name="mixed")
        self.steps = [layers.Dense(6, name="step"), layers.Dense(6, name="step")]
        self.drop = layers.Dropout(0.5, name="drop")
        self.unused = layers.Dense(1, name="unused")

    def build(self, shape: Any) -> None:
        self.shift = self.add_weight(shape=(6,), name="shift")
        self.unused.build((None, 2))

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        first = self.steps[0](x) + self.shift
        second = self.steps[1](tf.nn.relu(first))
        third = ops.gelu(second) - keras.activations.gelu(self.drop(first))
        ops.exp(third)  # leads nowhere
        return keras.activations.softmax(1 - third / 4)[:, 2:]


def test_a_subclassed_model_is_followed_through_operations() -> None:
    found = described(Mixed(), random(2, 5))
    assert lines(found) == [
        ("step", "dense", ("input:0",)),
        ("self/shift", "scale", ("step",)),
        ("self/relu", "relu", ("self/shift",)),
        ("step~2", "dense", ("self/relu",)),
        ("self/gelu", "gelu", ("step~2",)),
        ("drop", "dropout", ("self/shift",)),
        ("self/gelu#2", "gelu", ("drop",)),
        ("self/subtract", "subtract", ("self/gelu", "self/gelu#2")),
        ("self/divide", "rescale", ("self/subtract",)),
        ("self/subtract#2", "rescale", ("self/divide",)),
        ("self/softmax", "softmax", ("self/subtract#2",)),
        ("self/select", "select", ("self/softmax",)),
    ]
    assert found.node("self/gelu").settings["approximate"] is True
    assert found.node("self/gelu#2").settings["approximate"] is False
    assert found.node("self/divide").settings["scale"] == 0.25
    assert found.node("self/subtract#2").settings["scale"] == -1
    assert found.node("self/shift").layer == "self" and set(found.owned("self")) == {"shift"}
    assert set(found.owned("unused")) == {"kernel", "bias"} and not found.calls("unused")


@pytest.mark.parametrize(
    ("activation", "kind", "approximate"),
    [
        ("gelu", "gelu", False),
        (keras.activations.gelu, "gelu", False),
        (ops.gelu, "gelu", True),
        (lambda x: ops.gelu(x, approximate=False), "gelu", False),
        (lambda x: ops.exp(x) + 1, "other:<lambda>", None),
        (layers.LeakyReLU(0.1), "leaky_relu", None),
    ],
)
def test_an_activation_is_known_by_what_it_computes(
    activation: Any, kind: str, approximate: bool | None
) -> None:
    for layer in (layers.Dense(2, activation=activation), layers.Activation(activation)):
        node = described(alone(layer, 3), random(2, 3)).nodes[-1]
        assert node.kind == kind and not node.layer
        assert node.settings.get("approximate") is approximate


def test_an_activation_with_weights_owns_them() -> None:
    found = graph.describe(alone(layers.Dense(2, activation=layers.PReLU(), name="d"), 3))
    assert lines(found)[1] == ("d/activation", "prelu", ("d",))
    assert set(found.owned("d")) == {"kernel", "bias"}
    assert set(found.owned("d/activation")) == {"alpha"} and found.calls("d/activation")


def test_recurrent_layers_are_one_node_each() -> None:
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, name="words")(words)
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.GRU(2), name="both")(x)
    found = graph.describe(keras.Model(words, x))
    assert [node.kind for node in found.nodes] == ["embedding", "lstm", "gru"]
    assert found.node("lstm").settings == {
        **{"units": 3, "layers": 1, "bidirectional": False, "bias": True, "sequences": True},
        **{"activation": "tanh", "recurrent_activation": "sigmoid"},
        **{"batch_first": True, "dtype": "float32", "trainable": True},
    }
    both = found.node("both")
    assert both.settings["bidirectional"] and both.settings["reset_after"] and both.shape == (4,)
    assert set(found.owned("lstm")) == {"kernel", "recurrent_kernel", "bias"}
    assert set(found.owned("both")) == {
        f"{way}/{role}"
        for way in ("forward", "backward")
        for role in ("kernel", "recurrent_kernel", "bias")
    }


def test_attention_is_one_node_with_the_weights_of_its_parts() -> None:
    x = keras.Input((5, 8))
    y, scores = layers.MultiHeadAttention(2, 4, name="look")(x, x, return_attention_scores=True)
    found = graph.describe(keras.Model(x, [y, scores]))
    assert lines(found) == [
        ("look", "attention", ("input:0", "input:0")),
        ("look/output1", "select", ("look",)),
    ]
    settings = found.node("look").settings
    assert (settings["heads"], settings["head_size"], settings["bias"]) == (2, 4, True)
    parts = ("query", "key", "value", "attention_output")
    assert set(found.owned("look")) == {f"{p}/{r}" for p in parts for r in ("kernel", "bias")}


def test_what_is_compiled_is_followed_too() -> None:
    tf = pytest.importorskip("tensorflow")

    class Compiled(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(3, name="dense")

        @tf.function  # type: ignore[untyped-decorator]
        def call(self, x: Any) -> Any:
            return tf.nn.relu(self.dense(x))

    found = described(Compiled(), random(2, 5))
    assert lines(found) == [("dense", "dense", ("input:0",)), ("self/relu", "relu", ("dense",))]
    assert not tf.config.functions_run_eagerly()


class Scale(layers.Layer):  # type: ignore[misc]
    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=shape[-1:], name="gamma", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.gamma


class Twice(Scale):
    def call(self, x: Any) -> Any:
        return ops.tanh(x * self.gamma)


def test_layers_of_ones_own() -> None:
    assert only(alone(Scale(name="own"), 4)).kind == "scale"
    node = only(alone(Twice(name="own"), 4))
    assert (node.kind, node.layer, node.settings["trainable"]) == ("other:Twice", "own", True)


@pytest.mark.parametrize(
    ("layer", "shape", "kind", "settings"),
    [
        (layers.GroupNormalization(2), (4, 6), "group_norm", {"groups": 2, "size": 12}),
        (layers.LayerNormalization(), (4, 6), "layer_norm", {"epsilon": 1e-3, "size": 6}),
        (layers.RMSNormalization(), (6,), "rms_norm", {"center": False, "size": 6}),
        (layers.ReLU(6), (6,), "relu6", {}),
        (layers.ReLU(negative_slope=0.1), (6,), "leaky_relu", {"negative_slope": 0.1}),
        (layers.LeakyReLU(), (6,), "leaky_relu", {"negative_slope": 0.3}),
        (layers.ELU(0.5), (6,), "elu", {"alpha": 0.5}),
        (layers.Softmax(axis=1), (4, 6), "softmax", {"axis": -2}),
        (layers.ZeroPadding2D(((1, 2), (0, 3))), (4, 4, 1), "pad", {"padding": [[1, 2], [0, 3]]}),
        (layers.SpatialDropout1D(0.25), (4, 6), "dropout", {"rate": 0.25}),
        (layers.Rescaling(0.5, 1), (6,), "rescale", {"scale": 0.5, "offset": 1.0}),
        (layers.Reshape((24,)), (4, 6), "flatten", {}),
        (layers.Conv1D(2, 3, padding="causal"), (4, 6), "conv1d", {"padding": [[2, 0]]}),
        (layers.DepthwiseConv2D(2), (4, 4, 2), "depthwise_conv2d", {"kernel_size": [2, 2]}),
        (layers.EinsumDense("abc,cd->abd", (None, 2)), (4, 6), "dense", {"bias": False}),
        (layers.EinsumDense("abc,bd->adc", (2, None)), (4, 6), "other:EinsumDense", {}),
        (layers.UnitNormalization(), (6,), "other:UnitNormalization", {}),
        (layers.RNN(layers.SimpleRNNCell(3)), (4, 6), "simple_rnn", {"units": 3}),
    ],
)
def test_kinds_and_settings(
    layer: Any, shape: tuple[int, ...], kind: str, settings: dict[str, Any]
) -> None:
    node = only(alone(layer, *shape))
    assert node.kind == kind
    assert {key: node.settings[key] for key in settings} == settings


def test_frozen_layers_are_not_trained() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d", trainable=False)])
    found = graph.describe(model)
    assert not any(p.trained for p in found.parameters)
    assert found.node("d").settings["trainable"] is False


def test_describing_leaves_model_and_keras_as_they_were() -> None:
    model, x = Mixed(), random(2, 5).astype("float32")
    expected = np.asarray(model(x))
    call, relu, held = layers.Layer.__call__, ops.relu(-1.0), model.get_weights()
    described(model, x)
    assert layers.Layer.__call__ is call and ops.relu(-1.0) == relu
    assert model.steps[0].activation is keras.activations.linear
    np.testing.assert_array_equal(model(x), expected)
    for before, after in zip(held, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_does_not_fit_is_refused() -> None:
    model = alone(layers.Dense(2), 3)
    with pytest.raises(InputError, match=r"takes 1 inputs, but got 2"):
        described(model, random(2, 3), random(2, 3))
    with pytest.raises(InputError, match=r"input:0 .* got 4, expected 3"):
        described(model, random(2, 4))
    with pytest.raises(InputError, match=r"type int32: got float64 numbers that are not whole"):
        words = keras.Input((5,), dtype="int32")
        described(keras.Model(words, layers.Embedding(9, 4)(words)), random(2, 5))
    with pytest.raises(InputError, match=r"mixed .* give the shapes"):
        graph.describe(Mixed())
    with pytest.raises(InputError, match=r"does not run .*: ValueError: .*no.* in call: raise"):
        described(Raising(), random(2, 5))


class Raising(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        raise ValueError("no")


# What is said beside the calls


def test_what_belongs_to_the_training_is_declared() -> None:
    class Adds(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            self.add_loss(ops.mean(x))
            return x

    def terms(*made: Any) -> Any:
        model = keras.Sequential([keras.Input((3,)), *made], name="model")
        return described(model, random(2, 3)).semantics["terms"]

    assert terms(layers.Dense(2), Adds(name="adds")) == ["losses that layers add (add_loss)"]
    bound = layers.Dense(2, kernel_regularizer="l2", bias_constraint="non_neg", name="d")
    assert terms(bound) == [
        "model/d/kernel: regularizer L2",
        "model/d/bias: constraint NonNeg",
    ]
    active = layers.Dense(2, activity_regularizer="l1", name="d")
    assert terms(active) == ["d: activity regularizer L1"]
    assert terms(layers.Dense(2)) == []


def test_inputs_and_outputs_are_named_and_open_sizes_are_said() -> None:
    image, vector = keras.Input((None, 4, 3), name="image"), keras.Input((2,), name="vector")
    maps = layers.Conv2D(2, 1)(image)
    ends = {"second": layers.Dense(2)(vector), "first": layers.GlobalAveragePooling2D()(maps)}
    model = keras.Model([image, vector], ends)
    found = described(model, random(2, 5, 4, 3), random(2, 2)).semantics
    assert found["input_names"] == ["image", "vector"]
    assert found["output_names"] == ["first", "second"]
    assert found["open"] == [[True, False, False], [False]]


def test_a_size_left_open_is_the_first_that_the_model_takes() -> None:
    image = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 3, strides=2)(image)
    x = layers.Conv2D(2, 9)(x)  # 16 leaves it 7, 32 leaves it 15
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    assert graph.drawn(model)["input:0"].shape == (2, 32, 32, 1)
    too_large = layers.Conv2D(2, 230)(keras.Input((None, None, 1)))
    with pytest.raises(InputError, match=r"\?x\?x1.*--input-shape"):
        graph.drawn(keras.Model(too_large._keras_history.operation.input, too_large))


def test_inputs_in_given_shapes_are_of_the_types_that_the_model_takes() -> None:
    words, mask = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="bool")
    x = layers.LSTM(2)(layers.Embedding(5, 3)(words), mask=mask)
    found = graph.drawn(keras.Model([words, mask], x), shapes=((6,), (6,)))
    assert [(v.shape, v.dtype.name) for v in found.values()] == [
        ((2, 6), "int32"),
        ((2, 6), "bool"),
    ]
    assert found["input:0"].max() < 5
    with pytest.raises(InputError, match=r"got 6, expected 3"):
        graph.drawn(alone(layers.Dense(2), 3), shapes=((6,),))


def test_how_a_weight_is_used_is_said() -> None:
    class Bare(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(3, 2), name="w")
            self.spare = self.add_weight(shape=(3, 2), name="spare")

        def call(self, x: Any) -> Any:
            return ops.matmul(x, self.w)

    model = keras.Sequential([keras.Input((3,)), Bare(name="bare")], name="net")
    uses = described(model, random(2, 3)).semantics["uses"]
    assert uses == {"net/bare/w": ["matrix", "bare"], "net/bare/spare": ["", "bare"]}


def test_describing_leaves_what_a_model_keeps_as_it_was() -> None:
    class Counts(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x: Any) -> Any:
            self.seen.assign_add(1.0)
            return x + self.seen

    model = keras.Sequential([keras.Input((3,)), Counts()])
    model.layers[0].seen.assign(5.0)
    described(model, random(2, 3))
    assert float(model.layers[0].seen) == 5.0
