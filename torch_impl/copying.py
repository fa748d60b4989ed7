"""A model for every run: a copy that shares nothing with it, or itself, put back afterwards."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from torch_impl.held import held, of_functions, within

_REGISTRIES = ("_parameters", "_buffers", "_modules")


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Functions that close over parts of the model close over the copy's, what was
    computed from parameters is copied as numbers, and hooks on parameters' gradients stay, all of
    which `copy.deepcopy` leaves out."""
    plain = Tensor.__deepcopy__

    def tensor(value: Tensor, memo: dict[int, Any]) -> Tensor:
        if value.is_leaf or id(value) in memo:
            found: Tensor = plain(value, memo)
            return found
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]

    def kept(value: Any, memo: dict[int, Any]) -> Any:
        return value

    ways: dict[Any, Any] = {
        types.FunctionType: _function,
        **dict.fromkeys((types.ModuleType, types.GeneratorType), kept),
        **dict.fromkeys((type(threading.Lock()), type(threading.RLock()), torch.Generator), kept),
    }
    dispatch = copy._deepcopy_dispatch  # type: ignore[attr-defined]
    with patch.dict(dispatch, ways), patch.object(Tensor, "__deepcopy__", tensor):
        made = copy.deepcopy(model)
    for own, other in zip(model.parameters(), made.parameters(), strict=True):
        for hook in (own._backward_hooks or {}).values():
            other.register_hook(hook)
        for hook in (getattr(own, "_post_accumulate_grad_hooks", None) or {}).values():
            other.register_post_accumulate_grad_hook(hook)
    return made


def _function(function: Any, memo: dict[int, Any]) -> Any:
    cells = function.__closure__ or ()
    if not any(True for _ in held([within(each) for each in cells], "")):
        return function
    empty = tuple(types.CellType() for _ in cells)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, empty
    )
    memo[id(function)] = made  # before its cells: it may close over itself
    made.__kwdefaults__, made.__doc__ = function.__kwdefaults__, function.__doc__
    made.__dict__.update(function.__dict__)
    for own, cell in zip(empty, cells, strict=True):
        if (value := within(cell)) is not None:
            own.cell_contents = copy.deepcopy(value, memo)
    return made


class Fresh:
    """Gives out a model as it was at the beginning, time and again.

    It is a copy, unless the model cannot be copied, or its methods reach its parts by a way that
    no copy can change (a class in a function, a global): then it is the model itself, which is as
    it was when the context ends.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._undo: Callable[[], None] | None = None
        try:
            copied(model)
            alone = not _reached_by_classes(model)
        except Exception:  # whatever a user's own object raises
            alone = False
        if not alone:
            self._undo = kept_state(model)

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *error: object) -> None:
        if self._undo is not None:
            self._undo()

    @property
    def copies(self) -> bool:
        """Whether what is given out shares nothing with the model."""
        return self._undo is None

    def take(self) -> nn.Module:
        if self._undo is None:
            return copied(self.model)
        self._undo()
        return self.model


def kept_state(model: nn.Module) -> Callable[[], None]:
    """What puts the model back as it is now: numbers, types, modes and plain attributes."""
    numbers = [(each, each.data, each.data.clone(), each.grad) for each in model.parameters()]
    modules = []
    for each in model.modules():
        buffers = {name: (b, None if b is None else b.clone()) for name, b in each._buffers.items()}
        own = {name: value for name, value in vars(each).items() if name not in _REGISTRIES}
        modules.append((each, dict(each._parameters), buffers, own))

    def undo() -> None:
        with torch.no_grad():
            for module, parameters, buffers, own in modules:
                for name in set(vars(module)) - set(own) - set(_REGISTRIES):
                    del vars(module)[name]
                vars(module).update(own)
                module._parameters.update(parameters)
                module._buffers.update({name: buffer for name, (buffer, _) in buffers.items()})
                for buffer, value in buffers.values():
                    if buffer is not None and value is not None:
                        buffer.copy_(value)
            for parameter, data, value, gradient in numbers:
                parameter.data = data.copy_(value)
                parameter.grad = gradient

    return undo


def _reached_by_classes(model: nn.Module) -> bool:
    """Whether methods of its classes close over, or know as globals, what is the model's own."""
    own = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    functions = [
        function
        for kind in {type(each) for each in model.modules()}
        for base in kind.__mro__
        if base.__module__.partition(".")[0] not in ("torch", "builtins")
        for function in vars(base).values()
        if isinstance(function, types.FunctionType)
    ]
    return any(
        id(part) in own
        for _, each in of_functions(functions)
        for part in (
            (each, *each.parameters(), *each.buffers()) if isinstance(each, nn.Module) else (each,)
        )
    )
