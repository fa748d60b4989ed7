"""What a module holds beside its registered parts: in lists, dicts, functions that close over it.

PyTorch does not list such modules, calls no hook of a model's on them and does not move them; their
parameters may be registered elsewhere.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

DEEPEST = 4  # containers within containers


def held(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """Modules and tensors in nested containers and functions, with the way to them."""
    if isinstance(value, (nn.Module, Tensor)):
        yield path, value
        return
    if depth > DEEPEST:
        return
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = enumerate(value)
    elif isinstance(value, functools.partial):
        inside = [*enumerate((value.func, *value.args)), *value.keywords.items()]
    elif isinstance(value, types.MethodType):
        inside = [("self", value.__self__)]
    elif isinstance(value, types.FunctionType):
        names, cells = value.__code__.co_freevars, value.__closure__ or ()
        closed = [(name, within(cell)) for name, cell in zip(names, cells, strict=False)]
        inside = [*closed, *enumerate(value.__defaults__ or ())]
    for name, each in list(inside):
        yield from held(each, f"{path}.{name}" if path else str(name), depth + 1)


def of_functions(functions: Iterable[Any]) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """As `held`, of functions with the globals that they name, and those of the functions that
    they call."""
    ahead = list(functions)
    seen = {id(each) for each in ahead}
    while ahead:
        function = ahead.pop()
        yield from held(function, "")
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            yield from held(value, name)
            if isinstance(value, types.FunctionType) and id(value) not in seen:
                seen.add(id(value))
                if value.__module__.partition(".")[0] != "torch":
                    ahead.append(value)


def modules(model: nn.Module) -> dict[nn.Module, str]:
    """Every module with its path, the registered ones first, each once; the model's is ``."""
    found = {module: path for path, module in model.named_modules()}
    ahead = list(found.items())
    while ahead:
        module, path = ahead.pop(0)
        for way, each in _beside(module, path):
            if isinstance(each, nn.Module) and each not in found:
                for inner, below in each.named_modules():
                    if below not in found:
                        found[below] = f"{way}.{inner}" if inner else way
                        ahead.append((below, found[below]))
    return found


def tensors(model: nn.Module) -> dict[int, str]:
    """By identity, the way to every tensor that is neither a parameter nor a buffer."""
    found: dict[int, str] = {}
    for module, path in modules(model).items():
        for way, each in _beside(module, path):
            if isinstance(each, Tensor):
                found.setdefault(id(each), way)
    return found


def _beside(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module | Tensor]]:
    for name, value in list(vars(module).items()):
        if name not in ("_parameters", "_buffers", "_modules"):
            yield from held(value, f"{path}.{name}" if path else name)


def within(cell: Any) -> Any:
    """What a function closes over in a cell."""
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None
