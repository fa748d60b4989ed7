"""A user's model by its name, and weights for it. Its twin is `torch_impl/loading.py`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from keras_impl.failures import attempt, culprit, said
from keras_impl.graph import drawn, fitted, run, to_tensors
from keras_impl.parameters import named, settle
from keras_impl.rebuilding import in_precision
from shared_data.errors import InputError, listed

FORMS = "module:function, path/to/file.py:function or a .keras file"
Inputs = Mapping[str, np.ndarray] | Callable[[keras.Model], Mapping[str, np.ndarray]] | None


def load(
    spec: str,
    weights: str | None = None,
    precision: str | None = None,
    inputs: Inputs = None,
) -> keras.Model:
    """The model that a function builds or a `.keras` file holds, with weights if there are any.

    Args:
        spec: `module:function` or `path/file.py:function`: a function or class that can be called
            without arguments and gives a `keras.Model`, or such a model itself; or a `.keras` file.
            Random generators are seeded with 0 before it is built, and automatic names start anew.
        weights: a `.safetensors` whose names are those of `keras_impl.parameters.named`.
        precision: float64 or float32, whatever the model's own types are: all of it computes in it
            then, with the same weights. None leaves the model its own.
        inputs: `input:0`, … or a function from the model to them, for a model that makes its
            weights only when it is called.

    Raises `InputError` where any of that is not so. Code that a `.keras` file carries is not run.
    """
    if precision not in (None, "float32", "float64"):
        raise InputError(f"no precision {precision!r}: expected float64 or float32.")
    if precision == "float64" and keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on its {keras.backend.backend()} backend, parts of which compute in "
            "float32 whatever they are given: float64 is to be had on TensorFlow alone. Set "
            "KERAS_BACKEND=tensorflow, or ask for float32."
        )
    build = _file_of_keras(spec) if spec.endswith(".keras") else _builder(spec)
    made = build()
    _call(made, inputs, spec)
    if weights is not None:
        set_weights(made, Path(weights))
    if precision is None:
        return made
    again = None if spec.endswith(".keras") else build
    return in_precision(made, precision, again, lambda model: _call(model, inputs, spec), spec)


def set_weights(model: keras.Model, path: Path) -> None:
    """Copy a file's tensors into a model, which must have them all and no others.

    Raises `InputError` with every name or shape that does not fit, or where the file holds no
    tensors by name.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no file of weights: expected a .safetensors.")
    if not path.is_file():
        raise InputError(f"there is no file of weights {path} (from {Path.cwd()}).")
    try:
        given = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file, or damaged: {said(error)}.") from None
    own = {name: each.variable for name, each in named(model).items()}
    wrong = [
        f"{name}: missing in the file; the model has it, {list(variable.shape)}"
        for name, variable in own.items()
        if name not in given
    ]
    wrong += [
        f"{name}: not in the model{_meant(name, list(own), short=True)}"
        for name in given
        if name not in own
    ]
    wrong += [
        f"{name}: {list(given[name].shape)} in the file, {list(variable.shape)} in the model"
        for name, variable in own.items()
        if name in given and given[name].shape != tuple(variable.shape)
    ]
    if wrong:
        raise InputError(
            f"the weights in {path} do not fit {model.name}:\n{listed(wrong)}\n"
            "Expected exactly the paths and shapes of the model's variables."
        )
    for name, variable in own.items():
        variable.assign(given[name])
    settle(model)


def _call(model: keras.Model, inputs: Inputs, spec: str) -> None:
    """Once, so that every weight is there."""
    unbuilt = not model.built or any(not layer.built for layer in model._flatten_layers())
    if not unbuilt:
        return
    try:
        given = inputs(model) if callable(inputs) else inputs
        given = drawn(model) if given is None else fitted(model, given)
    except InputError:
        if inputs is not None:
            raise
        raise InputError(
            f"{spec}: the model makes its weights only when it is called: give the shapes of its "
            "inputs, or begin it with keras.Input."
        ) from None
    shapes = ", ".join(f"{value.shape} {value.dtype}" for value in given.values())
    attempt(
        lambda: run(model, to_tensors(given), training=False),
        f"{spec}: the model does not run on inputs of {shapes} (batch first)",
        "Give the inputs that it takes.",
    )


# .keras files


def _file_of_keras(spec: str) -> Callable[[], keras.Model]:
    path = Path(spec)
    if not path.is_file():
        raise InputError(f"there is no file {path} (from {Path.cwd()}): expected {FORMS}.")
    if not zipfile.is_zipfile(path) or "config.json" not in zipfile.ZipFile(path).namelist():
        hint = " It is HDF5, the format of before." if _is_hdf5(path) else ""
        raise InputError(
            f"{path} is no .keras archive, or damaged.{hint} Write it anew with "
            "model.save('name.keras'), or give a function that builds the model."
        )
    return lambda: _archived(path)


def _archived(path: Path) -> keras.Model:
    _afresh()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        text = said(error)
        if "Lambda" in text or "safe_mode" in text:
            raise InputError(
                f"{path} carries code, in a Lambda layer, and code in a file is not run. Give the "
                "function that builds the model (path/file.py:function), or write the Lambda as a "
                "layer of its own."
            ) from None
        raise InputError(
            f"Keras cannot load {path}: {text}. Layers of your own are not found in a file: give "
            "the function that builds the model (path/file.py:function)."
        ) from None
    return _model(str(path), model)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


# Builders


def _builder(spec: str) -> Callable[[], keras.Model]:
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(
            f"{spec!r} does not say which function builds the model: expected {FORMS}, such as "
            "my_models.py:build."
        )
    module = _file(spec, Path(place)) if place.endswith(".py") else _module(spec, place)
    if not hasattr(module, name):
        names = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        raise InputError(f"{spec}: {place} has no {name!r}{_meant(name, names)}")
    build = getattr(module, name)
    if isinstance(build, keras.Model):
        return lambda: build
    if not callable(build):
        raise InputError(
            f"{spec} is a {type(build).__name__}, not a function: expected a function or class "
            "that returns a keras.Model."
        )
    needed = _needed(build)
    if needed:
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)}): expected a function that takes none. "
            f"Write one that gives them, such as\n  def build():\n"
            f"      return {name}({', '.join(f'{each}=...' for each in needed)})"
        )

    def built() -> keras.Model:
        _afresh()
        try:
            model = build()
        except Exception as error:
            raise InputError(
                f"{spec} raised {said(error)}{culprit(error)} while it built the model."
            ) from error
        return _model(spec, model)

    return built


def _afresh() -> None:
    """Names and draws are the same in every process, and at the second building of a model."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


def _model(spec: str, model: Any) -> keras.Model:
    if isinstance(model, keras.Model):
        return model
    hint = " Return the model alone." if isinstance(model, tuple | list | dict) else ""
    if isinstance(model, type) and issubclass(model, keras.Model):
        hint = f" Return {model.__name__}(), not the class."
    elif isinstance(model, keras.layers.Layer):
        hint = " Put the layer into a keras.Sequential."
    kind = type(model)
    raise InputError(
        f"{spec} returned a {kind.__module__}.{kind.__qualname__}: expected a keras.Model.{hint}"
    )


def _file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{spec}: there is no file {path} (from {Path.cwd()}): expected {FORMS}.")
    _importable(Path.cwd())
    _importable(path.resolve().parent)
    name = f"model_in_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses, among others, look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        relative = isinstance(error, ImportError) and "relative import" in str(error)
        hint = " A file of a package is given as package.module:function." if relative else ""
        raise InputError(f"{_importing(spec, str(path), error)}{hint}") from error
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
        raise InputError(_importing(spec, name, error)) from error
    except Exception as error:
        raise InputError(_importing(spec, name, error)) from error


def _importing(spec: str, place: str, error: Exception) -> str:
    return f"{spec}: importing {place} raised {said(error)}{culprit(error)}."


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _needed(build: Any) -> list[str]:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # a builtin does not tell
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in skipped]


def _meant(name: str, known: list[str], short: bool = False) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return "" if short or not known else f". It has: {', '.join(known[:20])}."
