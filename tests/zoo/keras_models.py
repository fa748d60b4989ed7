"""Models in Keras to be compared with their twins of the same names in `torch_models.py`.

Builders take no arguments and give the whole model; which pairs there are, and what is known of
each, stands in `tests/zoo/__init__.py`. Weights are random; in the models that are written here
biases, scales and moving statistics are too, so that an exchange of any two shows.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

BATCH_NORM = {"momentum": 0.99, "epsilon": 1e-3}  # Keras' own
WORDS, STEPS = 30, 7  # of the models that read sequences


def stirred(model: keras.Model) -> keras.Model:
    """The model with noise in all that starts as zeros or ones."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        if variable.name == "moving_variance":
            variable.assign(value * rng.uniform(0.5, 1.5, value.shape))
        elif "kernel" not in variable.name:  # Keras draws embeddings within 0.05
            variable.assign(value + 0.2 * rng.standard_normal(value.shape))
    return model


# Published models, as keras.applications has them ------------------------------------------------


def vgg16() -> keras.Model:
    return keras.applications.VGG16(weights=None, classifier_activation=None)


def vgg19() -> keras.Model:
    return keras.applications.VGG19(weights=None, classifier_activation=None)


def resnet50() -> keras.Model:
    return keras.applications.ResNet50(
        weights=None, classifier_activation=None, input_shape=(64, 64, 3)
    )


def densenet121() -> keras.Model:
    return keras.applications.DenseNet121(
        weights=None, classifier_activation=None, input_shape=(32, 32, 3)
    )


def mobilenet_v2() -> keras.Model:
    """At an even size "same" pads one side alone, in every convolution of stride 2."""
    return keras.applications.MobileNetV2(
        weights=None, classifier_activation=None, input_shape=(32, 32, 3)
    )


def mobilenet_v2_odd() -> keras.Model:
    """33, 17, 9, 5, 3: odd wherever the stride is 2, where "same" pads both sides alike."""
    return keras.applications.MobileNetV2(
        weights=None, classifier_activation=None, input_shape=(33, 33, 3)
    )


def convnext_tiny() -> keras.Model:
    """With the normalisation of its inputs, as it comes."""
    return keras.applications.ConvNeXtTiny(
        weights=None, classifier_activation=None, input_shape=(32, 32, 3)
    )


def convnext_tiny_bare() -> keras.Model:
    """Without the normalisation of its inputs."""
    return keras.applications.ConvNeXtTiny(
        weights=None,
        classifier_activation=None,
        input_shape=(32, 32, 3),
        include_preprocessing=False,
    )


# Small models, each the same function as its twin ------------------------------------------------


def vgg_small() -> keras.Model:
    image = x = keras.Input((12, 12, 3))
    for block, filters in enumerate((6, 8), start=1):
        for number in (1, 2):
            name = f"block{block}_conv{number}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(16, activation="relu", name="fc1")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Dense(5, name="predictions")(x)
    return stirred(keras.Model(image, x, name="vgg_small"))


def _residual(x: Any, filters: int, stride: int, name: str) -> Any:
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters, 1, strides=stride, use_bias=False, name=f"{name}_shortcut_conv"
        )(x)
        shortcut = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_shortcut_norm")(shortcut)
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.Conv2D(filters, 3, strides=stride, use_bias=False, name=f"{name}_conv1")(x)
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_norm2")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def resnet_small() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem_conv")(image)
    x = layers.BatchNormalization(**BATCH_NORM, name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)  # zeros are no larger than a ReLU's
    x = _residual(x, 6, 1, "stage1")
    x = _residual(x, 10, 2, "stage2")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, name="head")(x)
    return stirred(keras.Model(image, x, name="resnet_small"))


def _norm_relu(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def densenet_small() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv0")(image)
    for block in (1, 2):
        for number in (1, 2):
            name = f"dense{block}_{number}"
            new = _norm_relu(x, f"{name}a")
            new = layers.Conv2D(8, 1, use_bias=False, name=f"{name}a_conv")(new)
            new = _norm_relu(new, f"{name}b")
            new = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"{name}b_conv")(new)
            x = layers.Concatenate(name=f"{name}_concat")([x, new])
        if block == 1:
            x = _norm_relu(x, "transition")
            x = layers.Conv2D(7, 1, use_bias=False, name="transition_conv")(x)
            x = layers.AveragePooling2D(2, name="transition_pool")(x)
    x = _norm_relu(x, "last")
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = layers.Dense(5, name="predictions")(x)
    return stirred(keras.Model(image, x, name="densenet_small"))


def mobilenet_small() -> keras.Model:
    """Strides of 2 with padding "same" at even sizes: one row of zeros, below and to the right."""

    def norm_relu6(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(momentum=0.999, epsilon=1e-3, name=f"{name}_BN")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x)

    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="Conv1")(image)
    x = norm_relu6(x, "Conv1")
    for block, (filters, stride) in enumerate(((6, 1), (8, 2)), start=1):
        inputs = x
        x = layers.Conv2D(12, 1, use_bias=False, name=f"block_{block}_expand")(x)
        x = norm_relu6(x, f"block_{block}_expand")
        x = layers.DepthwiseConv2D(
            3, strides=stride, padding="same", use_bias=False, name=f"block_{block}_depthwise"
        )(x)
        x = norm_relu6(x, f"block_{block}_depthwise")
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"block_{block}_project")(x)
        x = layers.BatchNormalization(
            momentum=0.999, epsilon=1e-3, name=f"block_{block}_project_BN"
        )(x)
        if stride == 1:
            x = layers.Add(name=f"block_{block}_add")([inputs, x])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, name="predictions")(x)
    return stirred(keras.Model(image, x, name="mobilenet_small"))


@keras.saving.register_keras_serializable("zoo")
class LayerScale(layers.Layer):
    """A factor for each channel."""

    def build(self, input_shape: Any) -> None:
        self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


def convnext_small() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 2, strides=2, name="stem_conv")(image)
    x = layers.LayerNormalization(epsilon=1e-6, name="stem_norm")(x)
    for stage, width in enumerate((6, 8), start=1):
        if stage > 1:
            x = layers.LayerNormalization(epsilon=1e-6, name="down_norm")(x)
            x = layers.Conv2D(width, 2, strides=2, name="down_conv")(x)
        name, inputs = f"stage{stage}", x
        x = layers.DepthwiseConv2D(7, padding="same", name=f"{name}_depthwise")(x)
        x = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(x)
        x = layers.Dense(4 * width, name=f"{name}_expand")(x)
        x = layers.Activation("gelu", name=f"{name}_gelu")(x)
        x = layers.Dense(width, name=f"{name}_project")(x)
        x = LayerScale(name=f"{name}_scale")(x)
        x = layers.Add(name=f"{name}_add")([inputs, x])
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="head_norm")(x)
    x = layers.Dense(5, name="head")(x)
    return stirred(keras.Model(image, x, name="convnext_small"))


def lstm_classifier() -> keras.Model:
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 6, name="embedding")(words)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.LSTM(4, name="lstm2"), name="both_ways")(x)
    x = layers.Dense(3, name="head")(x)
    return stirred(keras.Model(words, x, name="lstm_classifier"))


def lstm_stacked() -> keras.Model:
    """Two layers here, one of two layers in PyTorch."""
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 6, name="embedding")(words)
    x = layers.LSTM(5, return_sequences=True, name="lower")(x)
    x = layers.LSTM(5, name="upper")(x)
    x = layers.Dense(3, name="head")(x)
    return stirred(keras.Model(words, x, name="lstm_stacked"))


def _gru(reset_after: bool) -> keras.Model:
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 6, name="embedding")(words)
    x = layers.GRU(5, reset_after=reset_after, name="gru")(x)
    x = layers.Dense(3, name="head")(x)
    return stirred(keras.Model(words, x, name="gru_classifier"))


def gru_classifier() -> keras.Model:
    return _gru(reset_after=True)


def gru_classifier_reset_before() -> keras.Model:
    """The reset gate before the recurrent product: PyTorch has no such GRU."""
    return _gru(reset_after=False)


@keras.saving.register_keras_serializable("zoo")
class Positions(layers.Layer):
    """A trained vector for each step, added."""

    def build(self, input_shape: Any) -> None:
        self.vectors = self.add_weight(shape=input_shape[1:], initializer="zeros", name="vectors")

    def call(self, x: Any) -> Any:
        return x + self.vectors


def transformer_encoder() -> keras.Model:
    words = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS, 8, name="embedding")(words)
    x = Positions(name="positions")(x)
    for number in (1, 2):
        name = f"encoder{number}"
        new = layers.MultiHeadAttention(2, 4, name=f"{name}_attention")(x, x)
        x = layers.Add(name=f"{name}_add1")([x, new])
        x = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
        new = layers.Dense(12, activation="relu", name=f"{name}_dense1")(x)
        new = layers.Dense(8, name=f"{name}_dense2")(new)
        x = layers.Add(name=f"{name}_add2")([x, new])
        x = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dense(3, name="head")(x)
    return stirred(keras.Model(words, x, name="transformer_encoder"))


def two_inputs() -> keras.Model:
    """An image and a vector; scores of three classes and a number in (0, 1)."""
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="vector")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, activation="relu", name="image_dense")(x)
    y = layers.Dense(6, activation="tanh", name="vector_dense")(vector)
    x = layers.Concatenate(name="both")([x, y])
    scores = layers.Dense(3, name="scores")(x)
    number = layers.Dense(1, activation="sigmoid", name="number")(x)
    return stirred(keras.Model([image, vector], [scores, number], name="two_inputs"))


def shared_encoder() -> keras.Model:
    """One encoder, a model of its own, sees two images."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(5, activation="tanh", name="code")(x)
    encoder = keras.Model(image, x, name="encoder")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    a, b = encoder(left), encoder(right)
    apart = layers.Subtract(name="apart")([a, b])
    x = layers.Concatenate(name="all")([a, b, apart])
    x = layers.Dense(1, name="head")(x)
    return stirred(keras.Model([left, right], x, name="shared_encoder"))


class Unit(layers.Layer):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, filters: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, strides=stride, name="conv")
        self.norm = layers.BatchNormalization(**BATCH_NORM, name="norm")
        self.relu = layers.ReLU(name="relu")

    def build(self, input_shape: Any) -> None:
        self.conv.build(input_shape)
        self.norm.build(self.conv.compute_output_shape(input_shape))

    def call(self, x: Any, training: bool = False) -> Any:
        return self.relu(self.norm(self.conv(x), training=training))


class Subclassed(keras.Model):
    """Written in `call`: no graph of layers, a function between them, a layer called twice."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.first = Unit(4, 1, name="first")
        self.second = Unit(6, 2, name="second")
        self.hidden = layers.Dense(6, name="hidden")
        self.head = layers.Dense(3, name="head")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.second(self.first(x, training=training), training=training)
        x = keras.ops.mean(x, axis=(1, 2))
        for _ in range(2):
            x = keras.ops.relu(self.hidden(x))
        return self.head(x)


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 9, 9, 3), keras.config.floatx()))
    return stirred(model)


def separable() -> keras.Model:
    image = keras.Input((9, 9, 3))
    x = layers.SeparableConv2D(
        6, 3, padding="same", depth_multiplier=2, activation="relu", name="sep1"
    )(image)
    x = layers.SeparableConv2D(8, 3, strides=2, use_bias=False, name="sep2")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, name="head")(x)
    return stirred(keras.Model(image, x, name="separable"))
