"""The command of a wing, for the real harness: loop, checkpoints, recording, engine.

`DIE_AT_WRITE=N` in the environment: it kills itself in the middle of writing its file number N.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from parity import arm
from parity.experiment import Experiment
from parity.side import Side

Tensors = dict[str, np.ndarray]


class Trainer:
    """Logistic regression on the mean colour of each quarter of an image, trained by Adam."""

    def __init__(self, experiment: Experiment, classes: int) -> None:
        random = np.random.default_rng(experiment.seed)
        self.values = {"kernel": random.normal(size=(12, classes)), "bias": np.zeros(classes)}
        self.first = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.second = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.steps, self.rate = 0, experiment.learning_rate

    def train_batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        time.sleep(0.01)  # a step of a network takes longer
        features, logits = _features(images), self.predict_batch(images)
        answers = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = answers - np.eye(answers.shape[1])[labels]
        self._step({"kernel": features.T @ error / len(labels), "bias": error.mean(0)})
        loss = -np.log(answers[np.arange(len(labels)), labels]).mean()
        return float(loss), float((logits.argmax(1) == labels).mean())

    def _step(self, gradients: Tensors) -> None:
        self.steps += 1
        for name, gradient in gradients.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            mean = self.first[name] / (1 - 0.9**self.steps)
            square = self.second[name] / (1 - 0.999**self.steps)
            self.values[name] = self.values[name] - self.rate * mean / (np.sqrt(square) + 1e-7)

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        return _features(images) @ self.values["kernel"] + self.values["bias"]

    def weights(self) -> Tensors:
        return dict(self.values)

    def moments(self) -> tuple[Tensors, Tensors]:
        return dict(self.first), dict(self.second)

    def resume(self, values: Tensors, first: Tensors, second: Tensors, steps: int) -> None:
        self.values, self.first, self.second, self.steps = values, first, second, steps

    def parameters(self) -> int:
        return sum(value.size for value in self.values.values())


def _features(images: np.ndarray) -> np.ndarray:
    half = images.shape[1] // 2
    rows = (images[:, :half], images[:, half:])
    quarters = [part for row in rows for part in (row[:, :, :half], row[:, :, half:])]
    return np.concatenate([quarter.mean((1, 2)) for quarter in quarters], axis=1)


def side() -> Side:
    trainer: Any = Trainer  # neither it nor the prober is asked for what only a ladder needs
    return Side(trainer, Prober=trainer, environment=lambda: {"backend": "numpy"})


def _die_at_write(number: int) -> None:
    """The file is written then, but not yet in its place."""
    real, written = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal written
        written += 1
        if written == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = fsync


if __name__ == "__main__":
    _die_at_write(int(os.environ.get("DIE_AT_WRITE", 0)))
    sys.exit(arm.main("numpy", side))
