"""The reference network in plain NumPy, float64, from canonical weights: an independent oracle."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from parity.experiment import Experiment

Weights = dict[str, np.ndarray]


def logits(experiment: Experiment, weights: Weights, images: np.ndarray) -> np.ndarray:
    """Images NHWC (batch, S, S, 3) to logits (batch, classes)."""
    x = images
    for number, padding in enumerate(experiment.block_paddings, start=1):
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = sliding_window_view(x, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
        kernel = weights[f"block{number}.conv.kernel"]
        x = np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)
        x = np.maximum(x + weights[f"block{number}.conv.bias"], 0)
        side = x.shape[1] // 2
        x = x[:, : 2 * side, : 2 * side].reshape(len(x), side, 2, side, 2, -1).max((2, 4))
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ weights["dense1.kernel"] + weights["dense1.bias"], 0)
    return x @ weights["dense2.kernel"] + weights["dense2.bias"]


def loss(experiment: Experiment, weights: Weights, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats."""
    z = logits(experiment, weights, images)
    z = z - z.max(1, keepdims=True)
    log_probabilities = z - np.log(np.exp(z).sum(1, keepdims=True))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def keras_adam(
    weights: Weights, gradients: list[Weights], rate: float, epsilon: float = 1e-7
) -> Weights:
    """Weights after one Adam step per gradient, by Keras' formula (FINDINGS.md, section 2)."""
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    weights = dict(weights)
    for t, gradient in enumerate(gradients, start=1):
        for name, g in gradient.items():
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights[name] = weights[name] - alpha * first[name] / (np.sqrt(second[name]) + epsilon)
    return weights


def batch(experiment: Experiment, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise images as an arm gets them, and labels."""
    rng = np.random.default_rng(seed)
    side = experiment.image_size
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return images.astype(experiment.precision) / 256, rng.integers(0, 2, count)
