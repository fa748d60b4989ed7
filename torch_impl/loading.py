"""A user's model by its name, and weights for it. Its twin is `keras_impl/loading.py`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from shared_data.errors import InputError, listed
from torch_impl.graph import COUNTERS, culprit, said

FORMS = "module:function or path/to/file.py:function"


def load(spec: str, weights: str | None = None) -> nn.Module:
    """The model that a function builds, with weights from a file if there is one.

    `spec` is `module:function` or `path/file.py:function`: a function or class that can be called
    without arguments and gives an `nn.Module`, or such a module itself. `weights` is a
    `.safetensors`, or a `.pt` or `.pth` that holds a state dict; code in it is never run.

    Raises `InputError` where any of that is not so.
    """
    place, name = _parts(spec)
    module = _file(spec, Path(place)) if place.endswith(".py") else _module(spec, place)
    if not hasattr(module, name):
        names = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        raise InputError(f"{spec}: {place} has no {name!r}{_meant(name, names)}")
    model = _built(spec, getattr(module, name))
    if weights is not None:
        set_weights(model, Path(weights))
    return model


def set_weights(model: nn.Module, path: Path) -> None:
    """Copy a file's tensors into a model, which must have them all and no others.

    Of tied weights one name is enough, and counters of batches may be missing. Raises `InputError`
    with every name or shape that does not fit, or where the file holds no tensors by name.
    """
    given = _read(path)
    state = {
        key: value
        for key, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    reached = {id(state[key]) for key in given if key in state}
    wrong = [
        f"{key}: missing in the file; the model has it, {_shape(value)}"
        for key, value in state.items()
        if id(value) not in reached and not key.endswith(COUNTERS)
    ]
    wrong += [
        f"{key}: not in the model{_meant(key, list(state), short=True)}"
        for key in given
        if key not in state
    ]
    for key, value in state.items():
        if key in given and not is_lazy(value) and given[key].shape != value.shape:
            wrong.append(f"{key}: {_shape(given[key])} in the file, {_shape(value)} in the model")
    if wrong:
        prefixed = all(key.startswith("module.") for key in given)
        hint = " Its names begin with 'module.', as DataParallel writes them." if prefixed else ""
        raise InputError(
            f"the weights in {path} do not fit {type(model).__name__}:\n{listed(wrong)}\n"
            f"Expected exactly the names and shapes of model.state_dict().{hint}"
        )
    model.load_state_dict(given, strict=False)


def _parts(spec: str) -> tuple[str, str]:
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(
            f"{spec!r} does not say which function builds the model: expected {FORMS}, such as "
            "my_models.py:build."
        )
    return place, name


def _file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(
            f"{spec}: there is no file {path} (from {Path.cwd()}). Expected {FORMS}; check it."
        )
    _importable(path.resolve().parent)
    _importable(Path.cwd())
    name = f"model_in_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses, among others, look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        hint = ""
        if isinstance(error, ImportError) and "relative import" in str(error):
            hint = " A file of a package is given as package.module:function."
        raise InputError(f"{spec}: importing {path} raised {_raised(error)}.{hint}") from error
    return module


def _module(spec: str, name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(
                f"{spec}: there is no module {error.name!r} (looked in {Path.cwd()} and in the "
                f"installed packages). Expected {FORMS}; check the name, or install the package."
            ) from None
        raise InputError(f"{spec}: importing {name} raised {_raised(error)}.") from error
    except Exception as error:
        raise InputError(f"{spec}: importing {name} raised {_raised(error)}.") from error


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _built(spec: str, build: Any) -> nn.Module:
    if isinstance(build, nn.Module):
        return build
    if not callable(build):
        raise InputError(
            f"{spec} is a {type(build).__name__}, not a function: expected a function or class "
            "that returns an nn.Module."
        )
    needed = _needed(build)
    if needed:
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)}): expected a function that takes none. "
            f"Write one that gives them, such as\n  def build():\n"
            f"      return {spec.rpartition(':')[2]}({', '.join(f'{each}=...' for each in needed)})"
        )
    try:
        model = build()
    except Exception as error:
        raise InputError(f"{spec} raised {_raised(error)} while it built the model.") from error
    if not isinstance(model, nn.Module):
        hint = " Return the model alone." if isinstance(model, (tuple, list, dict)) else ""
        if isinstance(model, type) and issubclass(model, nn.Module):
            hint = f" Return {model.__name__}(), not the class."
        raise InputError(
            f"{spec} returned a {type(model).__module__}.{type(model).__qualname__}: expected a "
            f"torch.nn.Module.{hint}"
        )
    return model


def _needed(build: Any) -> list[str]:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # a builtin does not tell
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in skipped]


def _read(path: Path) -> dict[str, Tensor]:
    kinds = {".safetensors": _read_safetensors, ".pt": _read_pickle, ".pth": _read_pickle}
    if path.suffix not in kinds:
        raise InputError(f"{path} is no file of weights: expected one of {', '.join(kinds)}.")
    if not path.is_file():
        raise InputError(f"there is no file of weights {path} (from {Path.cwd()}).")
    return kinds[path.suffix](path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file, or damaged: {said(error)}.") from None
    return found


def _read_pickle(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip archive, or, before it, a bare pickle
        raise InputError(f"{path} is no file of torch.save, or damaged.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = str(error).partition("WeightsUnpickler error:")[2].strip().splitlines()
        reason = f" ({told[0].rstrip('.')})" if told else ""
        raise InputError(
            f"{path} holds more than tensors, and code in a file is not run{reason}: expected a "
            "state dict. Save it with torch.save(model.state_dict(), path)."
        ) from None
    except Exception as error:
        raise InputError(f"{path} is no file of torch.save, or damaged: {said(error)}.") from None
    if not isinstance(found, Mapping):
        raise InputError(
            f"{path} holds a {type(found).__name__}: expected a state dict, tensors by name. Save "
            "it with torch.save(model.state_dict(), path)."
        )
    strange = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    strange = [key for key in strange if not key.endswith("_extra_state")]
    if strange:
        raise InputError(
            f"{path} holds a dict in which these are no tensors:\n{listed(strange)}\nExpected a "
            "state dict. If it lies within, save that part alone: torch.save(saved[name], path)."
        )
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _raised(error: Exception) -> str:
    where = culprit(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}, line {error.lineno})"
    return f"{said(error)}{where}"


def _shape(value: Tensor) -> str:
    return "of a shape not known yet" if is_lazy(value) else str(list(value.shape))


def _meant(name: str, known: list[str], short: bool = False) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return "" if short or not known else f". It has: {', '.join(known[:20])}."
