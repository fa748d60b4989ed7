"""Constants that a model holds in float32, in a run in float64.

Their rounding cannot be taken back. In a nudged run they are moved by one unit of float32's, so
that a floor covers it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from parity.check.trace import nudged_number, nudged_single
from torch_impl import held


class Singles:
    """The constants of a model; of none (a run in float32) all stays as it is.

    A buffer is one unless its module is a norm that keeps statistics, or training moves it. So is a
    tensor of type float32 that meets what is computed (`met`), and a number of about its digits.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.notes: list[str] = []
        self._nudge = False
        self._names: dict[int, str] = {}
        self._handed: nn.Module | None = None
        self._buffers = _buffers(model) if model is not None else {}

    def watch(self, model: nn.Module, nudge: bool) -> nn.Module:
        """Take notice of the model of the next run."""
        if self._handed is not None:  # what the run before has moved is no constant
            now = dict(self._handed.named_buffers())
            kept = {n: v for n, v in self._buffers.items() if torch.equal(now[n].to(v.dtype), v)}
            self._buffers = kept
        self._handed, self._nudge = (model if not nudge else None), nudge
        self._names = held.tensors(model)
        return model

    def nudged(self, name: str, value: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """A parameter or buffer, moved by a unit of float32's if it is a constant."""
        if name not in self._buffers:
            return otherwise
        moved = nudged_single(value, otherwise)
        if (moved != otherwise).any():
            self._note(name)
        return moved

    def met(self, value: Tensor, where: str) -> Tensor:
        """A float32 tensor that is neither a parameter nor computed from the inputs, in float64."""
        plain = value.detach().double().numpy()
        moved = nudged_single(plain, plain)
        if (moved != plain).any():
            self._note(self._names.get(id(value), f"a constant in {where}"))
        return torch.from_numpy(moved) if self._nudge else value.double()

    def number(self, value: float, where: str) -> float:
        """A number that the model computes with, which may have been cut off."""
        moved = nudged_number(value)
        if moved != value:
            self._note(f"{value!r} in {where}", "has no more digits than float32")
        return moved if self._nudge else value

    def _note(self, name: str, held: str = "is held in float32") -> None:
        note = f"{name} {held}: judged with float32's rounding of it"
        if note not in self.notes:
            self.notes.append(note)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for path, module in model.named_modules():
        for name, each in module._buffers.items() if not isinstance(module, _NormBase) else ():
            if each is not None and each.dtype is torch.float32:
                found[f"{path}.{name}" if path else name] = each.detach().clone()
    return found
