"""The network, one training step and one evaluated batch in Keras the plain way.

What the arm is measured against.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from parity.experiment import Experiment


class Plain:
    """The published Keras notebook's model. Images NHWC float32, labels int (batch,)."""

    def __init__(self, experiment: Experiment) -> None:
        size = experiment.image_size
        model = keras.Sequential([keras.Input((size, size, 3))])
        for filters in experiment.filters:
            model.add(layers.Conv2D(filters, 3, activation="relu"))
            model.add(layers.MaxPooling2D(2))
        model.add(layers.Flatten())
        model.add(layers.Dense(experiment.hidden_units, activation="relu"))
        model.add(layers.Dense(2, activation="softmax"))
        optimizer = keras.optimizers.Adam(experiment.learning_rate)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
        self.model = model

    def train(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.model.train_on_batch(images, np.eye(2, dtype=np.float32)[labels])

    def evaluate(self, images: np.ndarray) -> None:
        self.model.predict_on_batch(images)
