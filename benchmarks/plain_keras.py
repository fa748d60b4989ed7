"""The network and one training step in Keras the plain way: what the arm is measured against."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers

FILTERS = (32, 64, 128, 256, 256, 512)


def make_step(size: int, learning_rate: float) -> Callable[[np.ndarray, np.ndarray], float]:
    """A step of the published Keras notebook. Images NHWC float32, labels int; returns the loss."""
    model = keras.Sequential([keras.Input((size, size, 3))])
    for filters in FILTERS:
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(2, activation="softmax"))
    model.compile(
        keras.optimizers.Adam(learning_rate), "categorical_crossentropy", metrics=["accuracy"]
    )

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        return float(model.train_on_batch(images, np.eye(2, dtype=np.float32)[labels])[0])

    return step
