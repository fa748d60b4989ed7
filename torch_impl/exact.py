"""Make float64 mean float64. Its twin is `keras_impl/exact.py`.

PyTorch multiplies the gradient of a hard sigmoid by a sixth of type float32, whatever the tensor's
type: a relative error of 3e-8, which a faithful port would be blamed for. Its softplus gives back
what is above 20, where only float32 cannot tell the difference. And a cast to float32 was meant to
keep the precision, not to lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torch_impl.functions import in_place, name_of


def widened(
    function: Any,
    args: Any,
    kwargs: Any,
    double: Callable[[Tensor], Tensor] = Tensor.double,
    number: Callable[[float], float] = float,
) -> tuple[Any, Any, Any]:
    """A call in float64 without what goes through float32. `double` is what it makes of float32
    tensors, which are constants: all else is float64 already; `number` of numbers."""

    def wide(value: Any) -> Any:
        if type(value) is float:
            return number(value)
        if isinstance(value, Tensor):
            return double(value) if value.dtype is torch.float32 else value
        if type(value) in (list, tuple):
            return type(value)(map(wide, value))
        return WIDE.get(value, value) if isinstance(value, (str, type, torch.dtype)) else value

    if function is Tensor.float:
        function = Tensor.double
    function = REPLACED.get(getattr(function, "__name__", ""), function)
    # What is written to stays itself.
    stays = in_place(function, kwargs) or "out" in kwargs or name_of(function) in ASKING
    first, rest = (args[:1], args[1:]) if stays else ((), args)
    given = {name: each if name == "out" else wide(each) for name, each in kwargs.items()}
    return function, (*first, *map(wide, rest)), given


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    value = functional.relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def hardsigmoid_(input: Tensor) -> Tensor:
    return hardsigmoid(input, inplace=True)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """A lower threshold is one that somebody chose."""
    return functional.softplus(input, beta, threshold if threshold < 20 else max(threshold, 40.0))


WIDE: dict[Any, Any] = {
    torch.float32: torch.float64,
    torch.FloatTensor: torch.DoubleTensor,
    "torch.FloatTensor": "torch.DoubleTensor",
}
# What is asked for its type or its memory stays itself.
ASKING = (
    *("dtype", "data", "grad", "grad_fn", "requires_grad", "requires_grad_", "is_leaf", "shape"),
    *("size", "dim", "numpy", "data_ptr", "storage", "untyped_storage", "retain_grad", "backward"),
)
REPLACED = {  # by the names that watching tells calls by
    "hardsigmoid": hardsigmoid,
    "hardsigmoid_": hardsigmoid_,
    "softplus": softplus,
}
