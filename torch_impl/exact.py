"""Make float64 mean float64. Its twin is `keras_impl/exact.py`.

PyTorch multiplies the gradient of a hard sigmoid by a sixth of type float32, whatever the tensor's
type: a relative error of 3e-8, which a faithful port would be blamed for. And a cast to float32 was
meant to keep the precision, not to lose it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def widened(function: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """A call in float64 without what goes through float32."""

    def wide(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    if function is Tensor.float:
        function = Tensor.double
    function = REPLACED.get(getattr(function, "__name__", ""), function)
    return function, tuple(map(wide, args)), {name: wide(each) for name, each in kwargs.items()}


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    value = functional.relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def hardsigmoid_(input: Tensor) -> Tensor:
    return hardsigmoid(input, inplace=True)


REPLACED = {  # by the names that watching tells calls by
    "hardsigmoid": hardsigmoid,
    "hardsigmoid_": hardsigmoid_,
}
