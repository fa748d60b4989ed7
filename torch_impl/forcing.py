"""A run in which every call gets the reference's inputs and upstream gradients.

What a node gives out is replaced by the reference's output, and the graph is cut there: what comes
back to the replacement is what the node's readers hand back, and the node's own output gets the
reference's upstream gradient, by way of a term <own output, upstream> that is added to the loss.
So a difference stays where it arises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.check.trace import Trace
from shared_data.errors import InputError


@dataclass
class Forced:
    """What `Watch` sees with: give it as `see`, with `replaces`.

    Attributes:
        reference: the other side's trace, with training outputs and upstream gradients.
        pairs: as `parity.check.trace.Request` has them.
        own: by node, its own output on the reference's inputs.
        notes: nodes that could not be forced, and why.
    """

    reference: Trace
    pairs: Sequence[tuple[str, str, Any]]
    dtype: torch.dtype
    own: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._partners = {own: (name, axes) for name, own, axes in self.pairs}
        self._given: dict[str, Tensor] = {}
        self._terms: list[Tensor] = []

    def __call__(self, name: str, output: Tensor) -> Tensor:
        if name not in self._partners:
            return output
        shape = tuple(output.shape)
        value, upstream = (self._taken(kind, name, shape) for kind in ("training", "upstream"))
        if value is None or value.shape != output.shape:
            other = "no output" if value is None else f"the shape {tuple(value.shape)}"
            self.notes.append(
                f"{name} was not forced: its partner {self._partners[name][0]} has {other}, "
                f"expected {tuple(output.shape)}"
            )
            return output
        self.own[name] = output.detach().to(self.dtype).numpy().copy()
        if not output.requires_grad:
            return value.to(output.dtype)
        if upstream is None or upstream.shape != output.shape:
            self.notes.append(f"{name} was not forced: its partner has no upstream gradient of it")
            return output
        self._terms.append((output * upstream).sum())
        self._given[name] = value.to(output.dtype).requires_grad_()
        return self._given[name].clone()  # which a call in place may write on

    def backward(self, loss: Tensor) -> None:
        total = sum(self._terms, loss)
        if total.requires_grad:
            total.backward()

    def handed_back(self) -> dict[str, np.ndarray]:
        """By node, the gradient that its readers hand back; zero where none does."""
        return {
            name: np.zeros(tuple(each.shape), str(each.dtype).removeprefix("torch."))
            if each.grad is None
            else each.grad.numpy().copy()
            for name, each in self._given.items()
        }

    def _taken(self, kind: str, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """The reference's tensor in this side's layout, and shape where it has as many numbers."""
        partner, axes = self._partners[name]
        value = self.reference.tensors.get(f"{kind}/{partner}")
        if value is None:
            return None
        value = np.ascontiguousarray(aligned(value, axes, name))
        value = value.reshape(shape) if value.size == np.prod(shape) else value
        return torch.from_numpy(value.copy()).to(self.dtype)


def aligned(value: np.ndarray, axes: Any, name: str) -> np.ndarray:
    """Permuted by `axes`; or, of a flattened map, its rows from H, W, C order into C, H, W order.

    Raises `InputError` where the tensor has other dimensions.
    """
    try:
        if axes is None:
            return value
        if isinstance(axes, dict):
            maps = value.reshape(len(value), *axes["flattened"])
            return maps.transpose(0, 3, 1, 2).reshape(len(value), -1)
        return value.transpose(axes)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{name}: the reference's tensor of shape {value.shape} cannot be laid out as {axes}: "
            f"{error}"
        ) from None
