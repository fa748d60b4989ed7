"""The same model, with the same weights, in another precision: all of it, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_impl.exact import precision as computing_in
from keras_impl.failures import said
from keras_impl.graph import structure_of
from keras_impl.parameters import array_of, named, settle
from shared_data.errors import InputError, listed

Build = Callable[[], keras.Model]


def in_precision(
    model: keras.Model,
    precision: str,
    build: Build | None,
    call: Callable[[keras.Model], None],
    spec: str,
) -> keras.Model:
    """`model` itself where all of it computes in `precision`; else built anew in it, and its
    weights copied over: as `build` gives it while Keras' default is that precision, and if layers
    have types of their own nevertheless, from its configuration with these replaced.

    `call` calls a model once, which makes all of its weights. Raises `InputError`, naming the
    layers, where some still compute in another precision.
    """
    if not _others(model, precision):
        return model
    tried: list[str] = []
    overruled: list[keras.Model] = []  # what says float32 in it is read as float64 in a run
    for way in (build, lambda: _from_config(model, precision)):
        if way is None:
            continue
        try:
            with computing_in(precision):
                made = way()
                call(made)
        except InputError:
            raise
        except Exception as error:  # a configuration that does not say all
            tried.append(said(error))
            continue
        others = _others(made, precision)
        if not others:
            _copy(model, made, spec)
            return made
        tried = others
        if not _others(made, precision, kept=False):
            overruled.append(made)
    if overruled:
        _copy(model, overruled[0], spec)
        return overruled[0]
    raise InputError(
        f"{spec} does not compute in {precision} throughout:\n{listed(tried)}\n"
        f"Leave dtype out when you build these layers, so that keras.config.set_floatx decides, or "
        f"check with --precision {'float32' if precision == 'float64' else 'float64'}."
    )


def computes_in(model: keras.Model, precision: str) -> bool:
    """Whether all of it does."""
    return not _others(model, precision)


def _others(model: keras.Model, precision: str, kept: bool = True) -> list[str]:
    """What does not compute, or is not kept, in `precision`, by name. Unless `kept`, without what
    `keras_impl.exact` overrules in a run: casts and inputs of float32, in float64."""

    def differs(said: str) -> bool:
        overruled = not kept and (said, precision) == ("float32", "float64")
        return "float" in said and said != precision and not overruled

    found = []
    for layer in model._flatten_layers():
        dtype = str(layer.compute_dtype)
        if "float" in dtype and dtype != precision:
            found.append(f"{layer.name} ({type(layer).__name__}) computes in {dtype}")
    for name, each in named(model).items():
        dtype = str(each.variable.dtype)
        if "float" in dtype and dtype != precision:
            found.append(f"{name} is kept in {dtype}")
    for operation in _operations(model):
        dtype = str(getattr(operation, "dtype", ""))
        if type(operation).__name__ == "Cast" and differs(dtype):
            found.append(f"{operation.name} casts to {dtype}")
    for given in keras.tree.flatten(structure_of(model)):
        if given is not None and differs(str(given.dtype)):
            found.append(f"the input {given.name} is taken in {given.dtype}")
    return found


def _operations(model: keras.Model) -> Iterator[Any]:
    for layer in model._flatten_layers():
        yield from getattr(layer, "operations", ())


def _from_config(model: keras.Model, precision: str) -> keras.Model:
    config = _replaced(keras.saving.serialize_keras_object(model), precision)
    known = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    known |= {keras.saving.get_registered_name(each): each for each in known.values()}
    for layer in model._flatten_layers():
        known |= {
            value.__name__: value
            for value in vars(layer).values()
            if callable(value) and hasattr(value, "__name__")
        }
    # Not safe mode: what a builder made is the user's own code already, and what a file held was
    # loaded in safe mode before.
    return keras.saving.deserialize_keras_object(config, custom_objects=known, safe_mode=False)


def _replaced(config: Any, precision: str) -> Any:
    """A configuration with all floating types replaced; whole numbers and truths stay."""
    if isinstance(config, list | tuple):
        return type(config)(_replaced(each, precision) for each in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        name = str(config["config"]["name"])
        return {**config, "config": {"name": precision if "float" in name else name}}
    return {
        key: precision
        if key == "dtype" and isinstance(value, str) and "float" in value
        else _replaced(value, precision)
        for key, value in config.items()
    }


def _copy(model: keras.Model, made: keras.Model, spec: str) -> None:
    """Weights of the one into the other, in the order in which the layers have them."""
    ours = [each.variable for each in named(model).values()]
    theirs = [each.variable for each in named(made).values()]
    if [tuple(each.shape) for each in ours] != [tuple(each.shape) for each in theirs]:
        raise InputError(
            f"{spec} builds another model the second time: {len(ours)} variables, then "
            f"{len(theirs)}, or of other shapes. Let it build the same model whenever it is called."
        )
    for own, other in zip(ours, theirs, strict=True):
        other._path = own.path  # names that Keras makes up count on: a trace must know them again
        other.assign(array_of(own).astype(str(other.dtype), copy=False))
    settle(made)
