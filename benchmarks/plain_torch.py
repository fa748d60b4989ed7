"""The network, one training step and one evaluated batch in PyTorch the plain way.

What the arm is measured against.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from parity.experiment import Experiment


class Plain:
    """The reference network, padding 0. Images NHWC float32, labels int64 (batch,).

    `best`: the fastest bare loop we know, channels last and ReLU after the pool. Otherwise as
    published: NCHW in memory, ReLU before the pool.
    """

    def __init__(self, experiment: Experiment, *, best: bool) -> None:
        parts: list[nn.Module] = []
        channels, side = 3, experiment.image_size
        for filters in experiment.filters:
            pool, relu = nn.MaxPool2d(2), nn.ReLU()
            parts += [nn.Conv2d(channels, filters, 3), *((pool, relu) if best else (relu, pool))]
            channels, side = filters, (side - 2) // 2
        units = experiment.hidden_units
        parts += [nn.Flatten(), nn.Linear(channels * side * side, units), nn.ReLU()]
        self.model = nn.Sequential(*parts, nn.Linear(units, 2))
        if best:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.best = best
        self.optimizer = torch.optim.Adam(self.model.parameters(), experiment.learning_rate)
        self.loss = nn.CrossEntropyLoss()

    def train(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self._inputs(images)), torch.from_numpy(labels))
        loss.backward()
        self.optimizer.step()
        loss.item()

    def evaluate(self, images: np.ndarray) -> None:
        with torch.inference_mode():
            self.model(self._inputs(images)).numpy()

    def _inputs(self, images: np.ndarray) -> torch.Tensor:
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        return inputs if self.best else inputs.contiguous()
