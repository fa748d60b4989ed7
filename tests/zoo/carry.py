"""Weights of a Keras model put into its PyTorch twin: the zoo's own, independent of `parity`.

It knows neither framework: layers are told apart by the names and shapes of what they hold. Every
value on both sides must find its partner; `carry` raises where one is left over or does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Values = dict[str, np.ndarray]
RECURRENT = ("LSTM", "GRU", "RNN")
KINDS = {
    *("Linear", "Conv2d", "BatchNorm1d", "BatchNorm2d", "LayerNorm", "GroupNorm", "Embedding"),
    *("PReLU", "MultiheadAttention", *RECURRENT),
}
ROLES = {
    **{"kernel": "weight", "embeddings": "weight", "alpha": "weight", "gamma": "weight"},
    **{"beta": "bias", "bias": "bias"},
    **{"moving_mean": "running_mean", "moving_variance": "running_var"},
}


def carry(
    source: Any,
    target: Any,
    rules: Sequence[tuple[str, str]] = (),
    rows: Mapping[str, tuple[int, int, int]] | None = None,
    bare: Mapping[str, str] | None = None,
) -> None:
    """Fill the PyTorch model `target` from the Keras model `source`.

    Args:
        rules: regular expressions, and what takes their place, that make the path of a PyTorch
            module that of a Keras layer; several layers, of a stacked one, stand with "+" between.
        rows: (H, W, C) of the map whose flattened form a dense layer reads, by PyTorch's path.
        bare: the path of a Keras variable for each PyTorch parameter that is none of a layer with
            a twin.
    """
    own = {re.sub(f"^{source.name}/", "", v.path): v.numpy() for v in source.weights}
    left = set(own)
    rows, bare = rows or {}, bare or {}
    values: Values = {}
    for path, module in target.named_modules():
        kind = _base(module)
        if kind not in KINDS or any(name.startswith(f"{path}.") for name in bare):
            continue
        layer = path
        for pattern, replacement in rules:
            layer = re.sub(pattern, replacement, layer)
        found: Values = {}
        for level, part in enumerate(layer.split("+")):
            taken = {k: v for k, v in own.items() if k.startswith(f"{part}/")}
            left -= set(taken)
            roles = {k.removeprefix(f"{part}/"): v for k, v in taken.items()}
            found |= _turned(kind, module, roles, level, rows.get(path))
        values |= {f"{path}.{name}": value for name, value in found.items()}
    for name, variable in bare.items():
        values[name] = _bare(own[variable], target.get_parameter(name).dim())
        left.discard(variable)
    targets = dict(target.named_parameters()) | dict(target.named_buffers())
    wanted = {name for name in targets if not name.endswith("num_batches_tracked")}
    if left or wanted != set(values):
        raise ValueError(f"left over: {sorted(left)}; {sorted(wanted ^ set(values))}")
    for name, value in values.items():
        if value.shape != tuple(targets[name].shape):
            raise ValueError(f"{name}: {value.shape} for {tuple(targets[name].shape)}")
        tensor = targets[name].data
        tensor.copy_(tensor.new_tensor(np.ascontiguousarray(value)))


def _base(module: Any) -> str:
    """The class of PyTorch's own that a module is or derives from."""
    return next(c.__name__ for c in type(module).__mro__ if c.__module__.startswith("torch.nn"))


def _turned(
    kind: str, module: Any, roles: Values, level: int, rows: tuple[int, int, int] | None
) -> Values:
    if kind in RECURRENT:
        return _recurrent(kind, roles, level)
    if kind == "MultiheadAttention":
        return _attention(roles)
    found = {ROLES[role]: value for role, value in roles.items()}
    if kind == "PReLU":
        found["weight"] = found["weight"].reshape(-1)
    elif kind == "Linear" and rows:
        kernel = found["weight"].reshape(*rows, -1)
        found["weight"] = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)
    elif kind == "Linear":
        found["weight"] = found["weight"].T
    elif kind == "Conv2d":
        within = module.in_channels // module.groups
        depthwise = found["weight"].shape[2] != within
        found["weight"] = (_depthwise if depthwise else _convolution)(found["weight"])
    return found


def _convolution(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    """(h, w, C, M) as (C x M, 1, h, w)."""
    height, width, channels, each = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * each, 1, height, width)


def _bare(value: np.ndarray, dimensions: int) -> np.ndarray:
    """A kernel that is half of a separable convolution, or a parameter as it is."""
    if value.ndim < 4:
        return value.reshape(value.shape + (1,) * (dimensions - value.ndim))
    return _convolution(value) if value.shape[:2] == (1, 1) else _depthwise(value)


def _recurrent(kind: str, roles: Values, level: int) -> Values:
    found = {}
    for half in {name.rpartition("/")[0] for name in roles}:
        suffix = "_reverse" if half.startswith("backward_") else ""
        kernel, bias = roles[f"{half}/kernel"], roles[f"{half}/bias"]
        recurrent = roles[f"{half}/recurrent_kernel"]
        gates = range(recurrent.shape[1] // recurrent.shape[0])
        order = [1, 0, 2] if kind == "GRU" else list(gates)  # Keras: update, reset, new
        biases = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        for name, value in (
            *(("weight_ih", kernel.T), ("weight_hh", recurrent.T)),
            *(("bias_ih", biases[0]), ("bias_hh", biases[1])),
        ):
            parts = np.split(value, len(order))
            found[f"{name}_l{level}{suffix}"] = np.concatenate([parts[gate] for gate in order])
    return found


def _attention(roles: Values) -> Values:
    size, parts = roles["query/kernel"].shape[0], ("query", "key", "value")
    kernels = [roles[f"{part}/kernel"].reshape(size, -1).T for part in parts]
    found = {
        "in_proj_weight": np.concatenate(kernels),
        "out_proj.weight": roles["attention_output/kernel"].reshape(-1, size).T,
    }
    if "query/bias" in roles:
        found["in_proj_bias"] = np.concatenate([roles[f"{p}/bias"].reshape(-1) for p in parts])
        found["out_proj.bias"] = roles["attention_output/bias"]
    return found
