"""Keras' optimizers in plain tensor arithmetic, for steps that are the same on both sides.

`torch.optim` has others by these names (docs/divergences.md, rows 8 and 12 to 14), and making one
of its own loads triton, which cannot live beside TensorFlow in one process. The formulas are those
of keras/src/optimizers: `adam.py`, `adamw.py`, `sgd.py`, `rmsprop.py`; weight decay, in any of
them, is decoupled and comes first: w -= w decay lr. (`torch_impl.training.KerasAdam` takes the
same steps by way of torch.optim, for long trainings.)
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from shared_data.errors import InputError


class Optimizer:
    """Steps on parameters by their gradients; one without a gradient stays as it is.

    Subclasses have `defaults`, which say what may be set, and the change of one parameter.
    """

    defaults: ClassVar[Mapping[str, float]] = {}

    def __init__(self, parameters: Iterable[Tensor], **settings: float) -> None:
        self.parameters = list(parameters)
        self.settings = {**self.defaults, **settings}
        self.steps = 0
        self.kept: dict[str, list[Tensor]] = {}  # moments, by name

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        decay = self.settings.get("weight_decay") or 0.0
        for at, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if decay:
                parameter -= parameter * decay * self.settings["learning_rate"]
            parameter -= self.change(at, parameter.grad)

    def change(self, at: int, gradient: Tensor) -> Tensor:
        """What is taken away from parameter number `at`."""
        raise NotImplementedError

    def moment(self, name: str, at: int) -> Tensor:
        """Zero before the first step."""
        if name not in self.kept:
            self.kept[name] = [torch.zeros_like(each) for each in self.parameters]
        return self.kept[name][at]


class Adam(Optimizer):
    """w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)."""

    defaults: ClassVar[Mapping[str, float]] = {
        "learning_rate": 0.001,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
        "weight_decay": 0.0,
    }

    def change(self, at: int, gradient: Tensor) -> Tensor:
        beta_1, beta_2 = self.settings["beta_1"], self.settings["beta_2"]
        first, second = self.moment("first", at), self.moment("second", at)
        first += (gradient - first) * (1 - beta_1)
        second += (gradient.square() - second) * (1 - beta_2)
        alpha = self.settings["learning_rate"] * math.sqrt(1 - beta_2**self.steps)
        alpha /= 1 - beta_1**self.steps
        return first * alpha / (second.sqrt() + self.settings["epsilon"])


class AdamW(Adam):
    """Adam with a weight decay by default."""

    defaults: ClassVar[Mapping[str, float]] = {**Adam.defaults, "weight_decay": 0.004}


class SGD(Optimizer):
    """v = momentum v - lr g; w += v."""

    defaults: ClassVar[Mapping[str, float]] = {
        "learning_rate": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }

    def change(self, at: int, gradient: Tensor) -> Tensor:
        step = gradient * self.settings["learning_rate"]
        if not self.settings["momentum"]:
            return step
        velocity = self.moment("velocity", at)
        velocity.mul_(self.settings["momentum"]).sub_(step)
        return -velocity


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; w -= lr g / sqrt(v + epsilon), by way of a momentum if any."""

    defaults: ClassVar[Mapping[str, float]] = {
        "learning_rate": 0.001,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-7,
        "weight_decay": 0.0,
    }

    def change(self, at: int, gradient: Tensor) -> Tensor:
        rho, momentum = self.settings["rho"], self.settings["momentum"]
        velocity = self.moment("velocity", at)
        velocity.mul_(rho).add_((1 - rho) * gradient.square())
        step = self.settings["learning_rate"] * gradient
        step = step / (velocity + self.settings["epsilon"]).sqrt()
        if not momentum:
            return step
        return self.moment("momentum", at).mul_(momentum).add_(step)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "rmsprop": RMSprop,
}


def make(name: str, parameters: Iterable[Tensor], settings: Mapping[str, float]) -> Optimizer:
    """An optimizer by Keras' name and with Keras' settings; those not given are Keras' defaults.

    Raises `InputError` where there is no such optimizer or it has no such setting.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"no optimizer {name!r}{_meant(name, OPTIMIZERS)}")
    kind = OPTIMIZERS[name]
    for setting in settings:
        if setting not in kind.defaults:
            raise InputError(f"{name} has no setting {setting!r}{_meant(setting, kind.defaults)}")
    return kind(parameters, **settings)


def _meant(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"{f': did you mean {close[0]!r}?' if close else '.'} There are: {', '.join(known)}."
