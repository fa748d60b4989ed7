"""What a layer or a function is, in the terms of `parity.check.graph`: its kind and its settings.

A module and a call of the function that it wraps go by the same rules, `Rule`s: each reads its
values as attributes, of the module or of the function's arguments under the module's names
(`torch_impl.functions`), and has the first input and the first output at hand, so that what
depends on sizes ("same", ceil_mode, adaptive pools) is worked out for them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Kind = tuple[str, dict[str, Any]]
Rule = Callable[[Any, Tensor, Tensor], Kind]


def plain(kind: str) -> Rule:
    """A kind without settings."""
    return lambda given, x, y: (kind, {})


def conv(given: Any, x: Tensor, y: Tensor) -> Kind:
    weight = given.weight
    n = weight.ndim - 2
    kernel, strides, dilation = (
        _each(value, n) for value in (list(weight.shape[2:]), given.stride, given.dilation)
    )
    depthwise = given.groups == x.shape[1] > 1 and n < 3
    settings = {
        "kernel_size": kernel,
        "strides": strides,
        "dilation": dilation,
        "groups": given.groups,
        "padding": _conv_padding(given.padding, kernel, dilation),
        "bias": given.bias is not None,
    }
    if getattr(given, "padding_mode", "zeros") != "zeros":
        settings["padding_mode"] = given.padding_mode
    return f"{'depthwise_' if depthwise else ''}conv{n}d", settings


def conv_transpose(given: Any, x: Tensor, y: Tensor) -> Kind:
    n = given.weight.ndim - 2
    crops, extra = _each(given.padding, n), _each(given.output_padding, n)
    return f"conv_transpose{n}d", {
        "kernel_size": list(given.weight.shape[2:]),
        "strides": _each(given.stride, n),
        "dilation": _each(given.dilation, n),
        "groups": given.groups,
        "padding": [[crop, crop - more] for crop, more in zip(crops, extra, strict=True)],
        "bias": given.bias is not None,
    }


def dense(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "dense", {"bias": given.bias is not None}


def batch_norm(given: Any, x: Tensor, y: Tensor) -> Kind:
    kept = None if given.momentum is None else 1 - given.momentum
    return "batch_norm", {"momentum": kept, "unbiased": _unbiased(given, x), **_norm(given)}


def layer_norm(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "layer_norm", {**_norm(given), "size": math.prod(_tuple(given.normalized_shape))}


def rms_norm(given: Any, x: Tensor, y: Tensor) -> Kind:
    epsilon = torch.finfo(x.dtype).eps if given.eps is None else given.eps
    size = math.prod(_tuple(given.normalized_shape))
    return "rms_norm", {
        "epsilon": epsilon,
        "scale": given.weight is not None,
        "center": False,
        "size": size,
    }


def group_norm(given: Any, x: Tensor, y: Tensor) -> Kind:
    size = math.prod(x.shape[1:]) // given.num_groups
    return "group_norm", {**_norm(given), "groups": given.num_groups, "size": size}


def instance_norm(given: Any, x: Tensor, y: Tensor) -> Kind:
    """A group norm of one channel each."""
    settings = {**_norm(given), "groups": x.shape[1], "size": math.prod(x.shape[2:])}
    return "group_norm", settings


def embedding(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "embedding", {"padding_idx": given.padding_idx, "mask_zero": False}


def recurrent(given: Any, x: Tensor, y: Tensor) -> Kind:
    kind = {"LSTM": "lstm", "GRU": "gru"}.get(given.mode, "simple_rnn")
    settings: dict[str, Any] = {
        "units": given.hidden_size,
        "layers": given.num_layers,
        "bidirectional": given.bidirectional,
        "bias": given.bias,
        "activation": "relu" if given.mode == "RNN_RELU" else "tanh",
        "sequences": True,
    }
    if kind != "simple_rnn":
        settings["recurrent_activation"] = "sigmoid"
    if kind == "gru":
        settings["reset_after"] = True
    settings["batch_first"] = given.batch_first
    if getattr(given, "proj_size", 0):
        settings["projection"] = given.proj_size
    return kind, settings


def attention(given: Any, x: Tensor, y: Tensor) -> Kind:
    settings: dict[str, Any] = {
        "heads": given.num_heads,
        "head_size": given.head_dim,
        "bias": given.in_proj_bias is not None,
    }
    return "attention", {**settings, "batch_first": given.batch_first}


def leaky_relu(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "leaky_relu", {"negative_slope": float(given.negative_slope)}


def elu(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "elu", {"alpha": float(given.alpha)}


def celu(given: Any, x: Tensor, y: Tensor) -> Kind:
    return elu(given, x, y) if given.alpha == 1 else ("other:celu", {"alpha": float(given.alpha)})


def gelu(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "gelu", {"approximate": given.approximate == "tanh"}


def softplus(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "softplus", {} if given.beta == 1 else {"beta": float(given.beta)}


def hardtanh(given: Any, x: Tensor, y: Tensor) -> Kind:
    bounds = (given.min_val, given.max_val)
    return ("relu6", {}) if bounds == (0, 6) else ("other:hardtanh", {"bounds": list(bounds)})


def softmax(given: Any, x: Tensor, y: Tensor) -> Kind:
    dim = given.dim
    if dim is None:  # what PyTorch then takes, with a warning
        dim = 0 if x.ndim in (0, 1, 3) else 1
    return "softmax", {"axis": from_last(dim, x.ndim)}


def softmax2d(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "softmax", {"axis": -1}


def max_pool(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "max_pool", _pool(given, x, y, _each(given.dilation, y.ndim - 2))


def average_pool(given: Any, x: Tensor, y: Tensor) -> Kind:
    settings = _pool(given, x, y, [1] * (y.ndim - 2))
    settings["count_include_pad"] = given.count_include_pad
    if getattr(given, "divisor_override", None):
        settings["divisor"] = given.divisor_override
    return "average_pool", settings


def adaptive(kind: str) -> Rule:
    """Global where one value is left of each map; a plain pool where the sizes divide."""

    def rule(given: Any, x: Tensor, y: Tensor) -> Kind:
        before, after = list(x.shape[2:]), list(y.shape[2:])
        if all(size == 1 for size in after):
            return f"global_{kind}", {}
        if any(b % a for b, a in zip(before, after, strict=True)):
            return f"other:adaptive_{kind}", {"size": after}
        size = [b // a for b, a in zip(before, after, strict=True)]
        more = {"count_include_pad": True} if kind == "average_pool" else {}
        return kind, {"size": size, "strides": size, "padding": [[0, 0]] * len(size), **more}

    return rule


def flatten(given: Any, x: Tensor, y: Tensor) -> Kind:
    return ("flatten", {}) if y.ndim == 2 and len(x) == len(y) else reshape(given, x, y)


def reshape(given: Any, x: Tensor, y: Tensor) -> Kind:
    """A reshape that leaves (batch, all the rest) is a flatten, whatever it was called."""
    if y.ndim == 2 < x.ndim and len(x) == len(y):
        return "flatten", {}
    return "reshape", {"shape": list(y.shape[1:])}


def pad(given: Any, x: Tensor, y: Tensor) -> Kind:
    """`padding` of the last dimensions, in their order; PyTorch counts from the last."""
    padding = _tuple(given.padding)
    pairs = [list(padding[at : at + 2]) for at in range(0, len(padding), 2)]
    mode = getattr(given, "mode", None) or _PAD_MODES.get(type(given).__name__[:4], "constant")
    return "pad", {
        "padding": pairs[::-1],
        "mode": mode,
        "value": float(getattr(given, "value", None) or 0),
    }


_PAD_MODES = {"Refl": "reflect", "Repl": "replicate", "Circ": "circular"}


def upsample(given: Any, x: Tensor, y: Tensor) -> Kind:
    factors = [b / a for a, b in zip(x.shape[2:], y.shape[2:], strict=True)]
    settings = {
        "size": [int(each) if each.is_integer() else each for each in factors],
        "interpolation": given.mode,
    }
    if given.mode not in ("nearest", "area", "nearest-exact"):
        settings["align_corners"] = bool(given.align_corners)
    return "upsample", settings


def dropout(given: Any, x: Tensor, y: Tensor) -> Kind:
    rate = getattr(given, "p", getattr(given, "drop_prob", None))
    return "dropout", {"rate": float(rate or 0)}


def from_last(dim: int, ndim: int) -> int:
    """A dimension counted from the last in channels-last terms.

    >>> from_last(1, 4), from_last(1, 2), from_last(-1, 4), from_last(2, 3)
    (-1, -1, -1, -1)
    """
    dim %= ndim
    return -1 if ndim >= 4 and dim == 1 else dim - ndim


def _unbiased(given: Any, x: Tensor) -> bool:
    """Which variance of the batch a batch norm remembers. A user's own class is tried out."""
    own = isinstance(given, nn.Module) and type(given).__module__.partition(".")[0] != "torch"
    if not own or given.running_var is None or not given.momentum:
        return True
    tried = copy.copy(given)
    tried.__dict__["_buffers"] = {  # its own: the module itself stays as it is
        name: None if each is None else each.clone() for name, each in given._buffers.items()
    }
    tried.training = True
    with torch.no_grad():
        tried.running_var.zero_()
        tried.forward(x.detach().clone())
        axes = [axis for axis in range(x.ndim) if axis != 1]
        biased, unbiased = (
            given.momentum * x.detach().var(axes, correction=correction) for correction in (0, 1)
        )
        off = [(tried.running_var - each).abs().sum() for each in (biased, unbiased)]
    return bool(off[1] < off[0])


def _norm(given: Any) -> dict[str, Any]:
    return {
        "epsilon": given.eps,
        "scale": given.weight is not None,
        "center": getattr(given, "bias", None) is not None,
    }


def _pool(given: Any, x: Tensor, y: Tensor, dilation: list[int]) -> dict[str, Any]:
    n = y.ndim - 2
    size = _each(given.kernel_size, n)
    stride = given.stride if given.stride not in (None, (), []) else given.kernel_size
    strides, padding = _each(stride, n), []
    for at, before in enumerate(_each(given.padding, n)):
        reached = (y.shape[2 + at] - 1) * strides[at] + dilation[at] * (size[at] - 1) + 1
        more = reached - x.shape[2 + at] - before if given.ceil_mode else 0
        padding.append([before, max(before, more)])
    settings: dict[str, Any] = {"size": size, "strides": strides, "padding": padding}
    return settings if set(dilation) == {1} else {**settings, "dilation": dilation}


def _conv_padding(padding: Any, kernel: list[int], dilation: list[int]) -> list[list[int]]:
    if padding == "valid":
        padding = 0
    if padding == "same":  # of stride 1, the only one that PyTorch takes it with
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [[total // 2, total - total // 2] for total in totals]
    return [[each, each] for each in _each(padding, len(kernel))]


def _each(value: Any, n: int) -> list[int]:
    """One value per spatial direction.

    >>> _each(2, 2), _each((1,), 2), _each((1, 3), 2)
    ([2, 2], [1, 1], [1, 3])
    """
    values = [int(each) for each in _tuple(value)]
    return values * n if len(values) == 1 else values


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list, torch.Size)) else (value,)
