"""The canonical weights: one name, shape and layout per tensor, drawn once, given to both sides.

Canonical layout is that of NHWC networks: convolution kernels HWIO (height, width, in, out),
dense kernels (in, out); the rows of a dense kernel behind a flatten run in H, W, C order.
PyTorch keeps OIHW, (out, in) and C, H, W order: `to_torch` and `from_torch` are pure permutations,
so a round trip is exact to the bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.experiment import Experiment

CLASSES = 2


@dataclass(frozen=True)
class TensorSpec:
    """One canonical tensor. `flattened` is the (H, W, C) map that a dense kernel reads, if any."""

    name: str
    shape: tuple[int, ...]
    flattened: tuple[int, int, int] | None = None


def specs(experiment: Experiment, classes: int = CLASSES) -> tuple[TensorSpec, ...]:
    """Every parameter of the network in forward order, kernel before bias."""
    result: list[TensorSpec] = []
    channels = 3
    for number, filters in enumerate(experiment.filters, start=1):
        result += [
            TensorSpec(f"block{number}.conv.kernel", (3, 3, channels, filters)),
            TensorSpec(f"block{number}.conv.bias", (filters,)),
        ]
        channels = filters
    side = experiment.feature_map
    hidden = experiment.hidden_units
    result += [
        TensorSpec("dense1.kernel", (side * side * channels, hidden), (side, side, channels)),
        TensorSpec("dense1.bias", (hidden,)),
        TensorSpec("dense2.kernel", (hidden, classes)),
        TensorSpec("dense2.bias", (classes,)),
    ]
    return tuple(result)


def parameter_count(experiment: Experiment, classes: int = CLASSES) -> int:
    return sum(int(np.prod(spec.shape)) for spec in specs(experiment, classes))


def draw(experiment: Experiment, classes: int = CLASSES) -> dict[str, np.ndarray]:
    """Initial weights from the experiment's seed, in its precision.

    Kernels are Glorot uniform, U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio
    2010, equation 16), biases zero: Keras' defaults, the study's reference side. Every tensor has
    a generator of its own, keyed by its name, so a change of one layer leaves the others' draws.
    """
    return {
        spec.name: _draw(spec, experiment.seed).astype(experiment.precision)
        for spec in specs(experiment, classes)
    }


def _draw(spec: TensorSpec, seed: int) -> np.ndarray:
    if spec.name.endswith(".bias"):
        return np.zeros(spec.shape)
    *window, fan_in, fan_out = spec.shape
    area = int(np.prod(window))
    bound = np.sqrt(6.0 / (area * (fan_in + fan_out)))
    generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    return generator.uniform(-bound, bound, spec.shape)


def to_torch(spec: TensorSpec, value: np.ndarray) -> np.ndarray:
    """Canonical to PyTorch layout: HWIO to OIHW, (in, out) to (out, in), H,W,C to C,H,W columns."""
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    if spec.flattened:
        value = value.reshape(*spec.flattened, -1).transpose(2, 0, 1, 3).reshape(value.shape)
    return np.ascontiguousarray(value.T)


def from_torch(spec: TensorSpec, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch`."""
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    value = value.T
    if spec.flattened:
        height, width, channels = spec.flattened
        value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        value = value.reshape(spec.shape)
    return np.ascontiguousarray(value)


def check(expected: tuple[TensorSpec, ...], values: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` unless `values` has exactly the expected names, order and shapes."""
    got = {name: tuple(value.shape) for name, value in values.items()}
    want = {spec.name: spec.shape for spec in expected}
    if list(got.items()) != list(want.items()):
        wrong = [
            f"{name}: expected {want.get(name, 'no such tensor')}, got {got.get(name, 'nothing')}"
            for name in {**want, **got}
            if want.get(name) != got.get(name)
        ]
        raise ValueError("weights do not fit: " + ("; ".join(wrong) or "their order differs"))
