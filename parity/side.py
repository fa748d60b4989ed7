"""What a framework supplies: a `Trainer` that knows one step, a `Prober` that looks inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from parity.experiment import Experiment
from parity.feed import Feed
from parity.probe import Layer
from shared_data.batches import FaceData

Tensors = dict[str, np.ndarray]


class Trainer(Protocol):
    """One side's network, loss and optimizer. Images are NHWC, labels int64 (batch,).

    Weights and moments are dicts of canonical names (`parity.weights`).
    """

    def train_batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]: ...
    def predict_batch(self, images: np.ndarray) -> np.ndarray: ...
    def weights(self) -> Tensors: ...
    def moments(self) -> tuple[Tensors, Tensors]: ...
    def load(self, values: Tensors) -> None: ...
    def restart(self, values: Tensors) -> None: ...
    def resume(self, values: Tensors, first: Tensors, second: Tensors, steps: int) -> None: ...
    def parameters(self) -> int: ...
    def semantics(self) -> dict[str, Any]: ...


class Prober(Protocol):
    """A look inside a trainer's network, layer by layer (`parity.probe` says what it sees)."""

    def layers(self) -> tuple[Layer, ...]: ...
    def free(self, images: np.ndarray, labels: np.ndarray) -> dict[str, Tensors]: ...
    def isolated(self, inputs: Tensors, upstream: Tensors) -> dict[str, Tensors]: ...


@dataclass(frozen=True)
class Side:
    """What a wing hands to the harness."""

    Trainer: Callable[[Experiment, int], Trainer]
    Prober: Callable[[Any], Prober]
    environment: Callable[[], dict[str, Any]]
    Feed: Callable[[Experiment, FaceData], Feed] = Feed
