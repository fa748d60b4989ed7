"""A user's model by its name, and weights for it. Its twin is `keras_impl/loading.py`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parity.check import builders
from parity.check.builders import meant, no_method, said
from shared_data.errors import InputError, listed
from torch_impl.graph import COUNTERS
from torch_impl.watching import NOT_THE_USERS

FORMS = "module:function or path/to/file.py:function"
EXPECTED = "a torch.nn.Module"


def load(spec: str, weights: str | None = None, method: str = "") -> nn.Module:
    """The model that a function builds, with weights from a file if there is one.

    `spec` is `module:function` or `path/file.py:function`: a function or class that can be called
    without arguments and gives an `nn.Module`, or such a module itself. `weights` is a
    `.safetensors`, or a `.pt` or `.pth` that holds a state dict; code in it is never run. `method`
    is what of the model is called, empty for its forward.

    Raises `InputError` where any of that is not so.
    """
    build = builders.find(spec, FORMS, NOT_THE_USERS)
    model = build
    if not isinstance(build, nn.Module):
        model = builders.builder(spec, build, EXPECTED, NOT_THE_USERS)()
    if not isinstance(model, nn.Module):
        raise builders.wrong_type(spec, model, EXPECTED, nn.Module)
    model = by_method(model, method)
    if weights is not None:
        set_weights(model, Path(weights))
    return model


def by_method(model: nn.Module, method: str) -> nn.Module:
    """The model with another of its methods as its forward: it shares all it has with the one that
    was given, which stays as it was. Raises `InputError` where there is none of that name."""
    if not method:
        return model
    if not callable(getattr(model, method, None)):
        raise InputError(no_method(model, method))
    called = copy.copy(model)
    vars(called)["forward"] = getattr(called, method)
    return called


def set_weights(model: nn.Module, path: Path, widen: bool = False) -> None:
    """Copy a file's tensors into a model, which must have them all and no others. `widen`: what the
    model holds in float16 or bfloat16 takes the file's type, so that no digit is lost.

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
        f"{key}: not in the model{meant(key, list(state), short=True)}"
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
    for key, value in state.items() if widen else ():
        if key in given and value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.to(given[key].dtype)
    model.load_state_dict(given, strict=False)


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


def _shape(value: Tensor) -> str:
    return "of a shape not known yet" if is_lazy(value) else str(list(value.shape))
