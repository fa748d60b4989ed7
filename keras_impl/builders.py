"""The reference network in Keras. Its twin, layer by layer, is `torch_impl/builders.py`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from parity.experiment import Experiment
from parity.weights import CLASSES


def build(experiment: Experiment, classes: int = CLASSES) -> keras.Model:
    """The experiment's network.

    Input: images, NHWC, (batch, image_size, image_size, 3), in the experiment's precision,
    0 <= value < 1. Output: (batch, classes) probabilities. The layer `dense2` gives the logits.
    Layers have their canonical names with "_" for ".", which Keras' torch backend cannot take.
    """
    dtype = experiment.precision
    images = keras.Input((experiment.image_size, experiment.image_size, 3), dtype=dtype)
    x = images
    blocks = zip(experiment.filters, experiment.block_paddings, strict=True)
    for number, (filters, padding) in enumerate(blocks, start=1):
        x = layers.Conv2D(
            filters,
            3,
            padding="same" if padding else "valid",  # at stride 1, 3x3, "same" is 1 on each side
            name=f"block{number}_conv",
            dtype=dtype,
        )(x)
        x = layers.ReLU(name=f"block{number}_relu", dtype=dtype)(x)
        x = layers.MaxPooling2D(2, name=f"block{number}_pool", dtype=dtype)(x)
    x = layers.Flatten(name="flatten", dtype=dtype)(x)  # rows in H, W, C order
    x = layers.Dense(experiment.hidden_units, name="dense1", dtype=dtype)(x)
    x = layers.ReLU(name="dense1_relu", dtype=dtype)(x)
    x = layers.Dense(classes, name="dense2", dtype=dtype)(x)
    x = layers.Softmax(name="softmax", dtype=dtype)(x)
    return keras.Model(images, x, name=experiment.variant)


def build_cnn(variant: str = "baseline", *, classes: int = CLASSES, **fields: Any) -> keras.Model:
    """The network of a variant by name, at the paper's size unless `fields` say otherwise.

    >>> build_cnn("baseline", padding=0).count_params()
    3208770
    """
    return build(Experiment.of(variant, "paper", **fields), classes)
