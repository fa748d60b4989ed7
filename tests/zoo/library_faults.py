"""One mistake of each kind, made in a PyTorch model of any library by the types of its modules.

`plant(kind, model)` changes the model in place, says what was done, and returns "" where the kind
does not fit. None of this shares code with `parity`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

EPSILONS = ("eps", "variance_epsilon", "layer_norm_epsilon")
PLAIN = (nn.Linear, nn.Conv2d)


def plant(kind: str, model: nn.Module) -> str:
    return FAULTS[kind](model)


def epsilon(model: nn.Module) -> str:
    """A hundred times as large in one norm, at least 1e-3."""
    for name, module in _norms(model):
        for attribute in EPSILONS:
            if isinstance(value := getattr(module, attribute, None), float):
                setattr(module, attribute, max(100 * value, 1e-3))
                return f"{name}.{attribute}: {value:g} to {getattr(module, attribute):g}"
    return ""


def bias(model: nn.Module) -> str:
    """The last bias is held, but not added."""
    held = [(n, m) for n, m in model.named_modules() if isinstance(m, PLAIN) and m.bias is not None]
    if not held:
        return ""
    name, module = held[-1]
    shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
    module.register_forward_hook(lambda m, _, out: out - m.bias.view(shape))
    return f"{name}.bias is not added"


def mask(model: nn.Module) -> str:
    """The attention mask is not looked at."""
    taken = inspect.signature(model.forward)
    if "attention_mask" not in taken.parameters:
        return ""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = taken.bind_partial(*args, **kwargs)
        given = bound.arguments.get("attention_mask")
        if given is not None:
            bound.arguments["attention_mask"] = torch.ones_like(given)
        return bound.args, bound.kwargs

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return "attention_mask is not looked at"


def axis(model: nn.Module) -> str:
    """Rows and columns exchanged behind the first convolution, or a norm over the steps."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: out.transpose(2, 3))
            return f"{name}: rows and columns exchanged"
    for name, module in _norms(model):
        module.register_forward_hook(lambda _m, _i, out: out - out.mean(1, keepdim=True))
        return f"{name}: the mean over the steps is taken off"
    return ""


def scale(model: nn.Module) -> str:
    """What the last norm (or layer) gives is 1 % too large."""
    held = [*_norms(model)] or [e for e in model.named_modules() if isinstance(e[1], PLAIN)]
    if not held:
        return ""
    name, module = held[-1]
    module.register_forward_hook(lambda _m, _i, out: 1.01 * out)
    return f"{name}: times 1.01"


def block(model: nn.Module) -> str:
    """The second of two blocks has the first one's weights (its own place in a cache stays)."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        for at, (one, two) in enumerate(zip(module, list(module)[1:], strict=False)):
            if type(one) is type(two) and _shapes(one) and _shapes(one) == _shapes(two):
                for first, second in zip(one.modules(), two.modules(), strict=True):
                    second._parameters.update(first._parameters)
                return f"the weights of {name}.{at} also in {name}.{at + 1}"
    return ""


def activation(model: nn.Module) -> str:
    """ELU in place of the first activation that is a module."""
    for name, module in model.named_modules():
        for child, found in module.named_children():
            kind = type(found)
            known = kind.__module__.split(".")[-1].startswith("activation")
            if known and not _shapes(found) and not isinstance(found, nn.MultiheadAttention):
                setattr(module, child, nn.ELU())
                return f"{name}.{child}: ELU in place of {kind.__name__}"
    return ""


FAULTS: dict[str, Callable[[nn.Module], str]] = {
    "epsilon": epsilon,
    "bias": bias,
    "mask": mask,
    "axis": axis,
    "scale": scale,
    "block": block,
    "activation": activation,
}


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, module)
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and not list(module.children())
    )


def _shapes(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in module.named_parameters()]
