"""A user's model by its name, and weights for it. Its twin is `torch_impl/loading.py`."""

from __future__ import annotations

import inspect
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from keras_impl.exact import precision as computing_in
from keras_impl.failures import NOT_THE_USERS, attempt, said
from keras_impl.graph import drawn, fitted, run, to_tensors
from keras_impl.parameters import named, settle
from keras_impl.rebuilding import computes_in, in_precision
from parity.check import builders
from parity.check.builders import meant, no_method
from shared_data.errors import InputError, listed

FORMS = "module:function, path/to/file.py:function or a .keras file"
EXPECTED = "a keras.Model"
Inputs = Mapping[str, np.ndarray] | Callable[[keras.Model], Mapping[str, np.ndarray]] | None


def load(
    spec: str,
    weights: str | None = None,
    precision: str | None = None,
    inputs: Inputs = None,
    method: str = "",
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
        method: what of the model is called; empty: its call.

    Raises `InputError` where any of that is not so. Code that a `.keras` file carries is not run.
    """
    if precision not in (None, "float32", "float64"):
        raise InputError(f"no precision {precision!r}: expected float64 or float32.")
    if precision == "float64" and keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on its {keras.backend.backend()} backend, parts of which compute in "
            "float32 whatever they are given: float64 is to be had on TensorFlow alone. Set "
            "KERAS_BACKEND=tensorflow, or ask for float32 (--precision float32)."
        )
    make = _file_of_keras(spec) if spec.endswith(".keras") else _builder(spec)

    def build() -> keras.Model:
        return by_method(make(), method)

    if precision is not None and weights is not None:  # then nothing of a first building is kept
        with computing_in(precision):
            made = build()
            _call(made, inputs, spec)
        if computes_in(made, precision):
            set_weights(made, Path(weights))
            return made
    made = build()
    _call(made, inputs, spec)
    if weights is not None:
        set_weights(made, Path(weights))
    if precision is None:
        return made
    again = None if spec.endswith(".keras") else build
    return in_precision(made, precision, again, lambda model: _call(model, inputs, spec), spec)


def by_method(model: keras.Model, method: str) -> keras.Model:
    """The model with another of its methods as its call, around the one that was given, which
    stays as it was. Raises `InputError` where there is none of that name."""
    if not method:
        return model
    own: Any = getattr(model, method, None)
    if not callable(own):
        raise InputError(no_method(model, method))

    class Called(keras.Model):
        def __init__(self) -> None:
            super().__init__(name=model.name)
            self.model = model

        def call(self, *given: Any, **settings: Any) -> Any:
            return own(*given, **settings)

    taken = inspect.signature(own)  # by which Keras decides what it hands on
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = taken.replace(parameters=[me, *taken.parameters.values()])
    vars(Called.call)["__signature__"] = signature
    return Called()


def set_weights(model: keras.Model, path: Path) -> None:
    """Copy a file's tensors into a model. Raises `InputError` as `read_weights` does."""
    assign(model, read_weights(model, path))
    settle(model)


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Set all variables, by name."""
    for name, each in named(model).items():
        each.variable.assign(weights[name].astype(str(each.variable.dtype), copy=False))


def read_weights(model: keras.Model, path: Path) -> dict[str, np.ndarray]:
    """A file's tensors, which must be all of the model's and no others.

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
        f"{name}: not in the model{meant(name, list(own), short=True)}"
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
    return dict(given)


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
            "inputs (--input-shape), or begin it with keras.Input."
        ) from None
    shapes = ", ".join(f"{value.shape} {value.dtype}" for value in given.values())
    attempt(
        lambda: run(model, to_tensors(given), training=False),
        f"{spec}: the model does not run on inputs of {shapes} (batch first)",
        "Give the inputs that it takes (--input-shape, --inputs).",
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
    build = builders.find(spec, FORMS, NOT_THE_USERS)
    if isinstance(build, keras.Model):
        return lambda: build
    made = builders.builder(spec, build, EXPECTED, NOT_THE_USERS)

    def built() -> keras.Model:
        _afresh()
        return _model(spec, made())

    return built


def _afresh() -> None:
    """Names and draws are the same in every process, and at the second building of a model."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@contextmanager
def automatic_names() -> Iterator[None]:
    """Names that Keras makes up (dense, dense_1) count from the start inside, and go on after."""
    from keras.src.backend.common import global_state

    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


def _model(spec: str, model: Any) -> keras.Model:
    if isinstance(model, keras.Model):
        return model
    layer = isinstance(model, keras.layers.Layer)
    hint = " Put the layer into a keras.Sequential." if layer else ""
    raise builders.wrong_type(spec, model, EXPECTED, keras.Model, hint)
