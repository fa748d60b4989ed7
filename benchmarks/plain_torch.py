"""The network and one training step in PyTorch the plain way: what the arm is measured against."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

FILTERS = (32, 64, 128, 256, 256, 512)

Step = Callable[[np.ndarray, np.ndarray], float]


def make_published_step(size: int, learning_rate: float) -> Step:
    """A step of the published PyTorch code, padding apart: NCHW in memory, ReLU before the pool."""
    return _step(make_model(size), learning_rate)


def make_best_step(size: int, learning_rate: float) -> Step:
    """The fastest bare loop we know: channels last, ReLU after the pool."""
    model = make_model(size, relu_first=False).to(memory_format=torch.channels_last)
    return _step(model, learning_rate)


def make_model(size: int, *, relu_first: bool = True) -> nn.Sequential:
    """The reference network, padding 0. `relu_first`: ReLU before each pool, the plain order."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side = 3, size
    for number, filters in enumerate(FILTERS, start=1):
        parts[f"conv{number}"] = nn.Conv2d(channels, filters, 3)
        rest: list[tuple[str, nn.Module]] = [
            (f"relu{number}", nn.ReLU()),
            (f"pool{number}", nn.MaxPool2d(2)),
        ]
        parts.update(rest if relu_first else rest[::-1])
        channels, side = filters, (side - 2) // 2
    parts["flatten"] = nn.Flatten()
    parts["dense1"] = nn.Linear(channels * side * side, 512)
    parts["relu"] = nn.ReLU()
    parts["dense2"] = nn.Linear(512, 2)
    return nn.Sequential(parts)


def _step(model: nn.Sequential, learning_rate: float) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    loss_function = nn.CrossEntropyLoss()

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        optimizer.zero_grad()
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
        if not next(model.parameters()).is_contiguous(memory_format=torch.channels_last):
            inputs = inputs.contiguous()
        loss = loss_function(model(inputs), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step
