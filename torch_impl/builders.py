"""The reference network in PyTorch. Its twin, layer by layer, is `keras_impl/builders.py`."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from parity.experiment import Experiment
from parity.weights import CLASSES


class Block(nn.Module):
    """Convolution 3x3, ReLU, max pooling 2x2."""

    def __init__(self, inputs: int, filters: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, filters, 3, padding=padding)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        # Maximum and ReLU commute: the same bits as pool(relu(x)) for a quarter of the work.
        return self.relu(self.pool(self.conv(x)))


def build(experiment: Experiment, classes: int = CLASSES) -> nn.Sequential:
    """The experiment's network, channels last in memory.

    Input: images, NCHW, (batch, 3, image_size, image_size), in the experiment's precision,
    0 <= value < 1. Output: (batch, classes) logits.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    blocks = zip(experiment.filters, experiment.block_paddings, strict=True)
    for number, (filters, padding) in enumerate(blocks, start=1):
        modules[f"block{number}"] = Block(channels, filters, padding)
        channels = filters
    modules["flatten"] = nn.Flatten()  # columns in C, H, W order
    modules["dense1"] = nn.Linear(channels * experiment.feature_map**2, experiment.hidden_units)
    modules["dense1_relu"] = nn.ReLU()
    modules["dense2"] = nn.Linear(experiment.hidden_units, classes)
    model = nn.Sequential(modules).to(dtype=getattr(torch, experiment.precision))
    return model.to(memory_format=torch.channels_last)


def build_cnn(variant: str = "baseline", *, classes: int = CLASSES, **fields: Any) -> nn.Sequential:
    """The network of a variant by name, at the paper's size unless `fields` say otherwise.

    >>> sum(p.numel() for p in build_cnn("baseline", padding=0).parameters())
    3208770
    """
    return build(Experiment.of(variant, "paper", **fields), classes)
