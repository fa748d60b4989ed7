"""Every number of a run of a model. Its twin is `torch_impl/tracing.py`.

`parity.check.trace` lists what a trace holds. Each run starts from the weights and the statistics
that the model had, and leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

from keras_impl import optimizers
from keras_impl.exact import precision
from keras_impl.failures import attempt
from keras_impl.graph import drawn, fitted, precision_of, run, to_tensors
from keras_impl.parameters import named, own, settle, values
from keras_impl.recorder import Recorder
from keras_impl.singles import Singles, moved, noted, now
from keras_impl.trail import floating
from keras_impl.training import environment
from parity.check.graph import INPUT, Graph
from parity.check.trace import STEPS, Request, Trace, draw_inputs, nudged
from shared_data.errors import InputError

LEVELS = ("forward", "loss", "update", "trajectory")
Arrays = dict[str, np.ndarray]


def trace(model: keras.Model, graph: Graph, request: Request, made: Trace | None = None) -> Trace:
    """Run the model as asked: as it is, and nudged. Forced runs are PyTorch's alone.

    The numbers go into `made`, if it is given. `graph` is what `describe` says of it; only its
    nodes are kept. The model must compute in the precision asked for (`keras_impl.loading.load`
    makes it so). Raises `InputError` where it does not, or does not run, or what is asked does not
    fit it; and on a backend other than TensorFlow.
    """
    _check(model, request)
    constants = Singles(model if request.precision == "float64" else None)
    with precision(request.precision), noted(constants):
        side = _Side(model, graph, request)
        constants.notes = side.notes
        given = inputs_of(model, request)
        made = made or Trace("keras", request.precision)
        made.environment = environment()
        for part in side.run(given):
            made.keep(part)
        other = {name: nudged(value) for name, value in given.items()}
        for part in side.run(other, nudge=True):
            made.keep_floor(part)
        made.notes += side.notes
    return made


def inputs_of(model: keras.Model, request: Request) -> Arrays:
    """The inputs of a request, from its file, drawn in its shapes, or as the model says it takes
    them. Raises `InputError` where they do not fit the model."""
    if request.inputs is not None:
        return fitted(model, _arrays(request.inputs))
    if request.input_shapes:
        return fitted(model, draw_inputs(request.input_shapes, request.batch, request.seed))
    return drawn(model, request.batch, request.seed)


class _Side:
    """A model and what it is run on."""

    def __init__(self, model: keras.Model, graph: Graph, request: Request) -> None:
        self.model, self.graph, self.request = model, graph, request
        self.nodes = [node.name for node in graph.nodes]
        self.notes: list[str] = []
        self.loss: Callable[..., Any] | None = None
        if set(request.levels) - {"forward"}:
            from keras_impl.losses import Loss  # TensorFlow's

            targets = _arrays(request.targets) if request.targets else {}
            self.loss = Loss(graph, request, targets)

    def run(self, inputs: Arrays, nudge: bool = False) -> Iterator[Arrays]:
        """All that is asked for, by the names of a trace, part by part."""
        tensors = to_tensors(inputs)
        if "forward" in self.request.levels:
            with _restarted(self.model, nudge):
                recorder = Recorder(self.model, tensors)
                with recorder.recording():
                    run(self.model, tensors, training=False)
                found = self._of_nodes("forward", recorder.trail.tensors)
                del recorder
            yield found
            del found
        if self.loss is not None:
            with _restarted(self.model, nudge), dropout_off():
                yield from self._trained(tensors)

    def _trained(self, tensors: list[Any]) -> Iterator[Arrays]:
        """The training run, a step, and the steps after it."""
        levels = self.request.levels
        steps = STEPS if "trajectory" in levels else 1
        steps_on = bool({"update", "trajectory"} & set(levels))
        optimizer = optimizers.make(
            self.request.optimizer, self.request.optimizer_settings, self.request.precision
        )
        losses = []
        for step in range(steps):
            loss, gradients, seen = self._backward(tensors, first=step == 0)
            losses.append(loss)
            if step == 0 and "loss" in levels:
                yield seen
            del seen
            if steps_on:
                optimizer.apply(gradients, self.model.trainable_weights)
            if step == 0 and "update" in levels:
                yield _under("update", values(self.model))
        if "trajectory" in levels:
            yield {"trajectory/loss": np.array(losses, self.request.precision)}
            yield _under("trajectory", values(self.model))

    def _backward(self, tensors: list[Any], first: bool) -> tuple[np.ndarray, list[Any], Arrays]:
        """Loss and gradients, of the first step with all that lies between."""
        import tensorflow as tf

        weights = self.model.trainable_weights
        sources = [each for each in tensors if floating(each)]
        outputs: dict[str, Any] = {}
        with tf.GradientTape() as tape:
            for each in sources:
                tape.watch(each)
            if first:
                recorder = Recorder(self.model, tensors, tape.watch)
                with recorder.recording():
                    result = run(self.model, tensors, training=True)
                outputs = {n: recorder.trail.tensors.get(n) for n in self.nodes}
            else:
                result = run(self.model, tensors, training=True)
            given = keras.tree.flatten(result)
            loss = self.loss(given)  # type: ignore[misc]
        between = {n: each for n, each in outputs.items() if each is not None and floating(each)}
        by = [[each.value for each in weights], sources, list(between.values())]
        gradients = attempt(
            lambda: tape.gradient(loss, by),
            f"{self.model.name}: TensorFlow finds no gradients",
            "Ask for the level forward alone (--level forward).",
        )
        by_weights, by_sources, upstream = (
            [None if each is None else tf.convert_to_tensor(each) for each in part]
            for part in gradients
        )
        if not any(each is not None for each in by_weights):
            raise InputError(
                "the loss depends on no trained parameter: nothing to train, and no gradients to "
                "compare. Ask for the level forward alone, or set trainable = True."
            )
        value = loss.numpy()
        if not first:
            return value, by_weights, {}
        self._note_outputs(given)
        found = self._of_nodes("training", outputs)
        found["loss"] = np.asarray(value)
        pairs = zip(between, upstream, between.values(), strict=True)
        found |= {f"upstream/{name}": _array(each, of) for name, each, of in pairs}
        names = {id(each.variable): name for name, each in named(self.model).items()}
        found |= {  # not copied: of a large model they are its largest tensors
            f"gradient/{names[id(variable)]}": _zeros(variable)
            if each is None
            else np.asarray(each)
            for variable, each in zip(weights, by_weights, strict=True)
        }
        places = [at for at, each in enumerate(tensors) if floating(each)]
        found |= {
            f"gradient/{INPUT}{at}": _array(each, tensors[at])
            for at, each in zip(places, by_sources, strict=True)
        }
        return value, by_weights, found

    def _of_nodes(self, prefix: str, tensors: Mapping[str, Any]) -> Arrays:
        """In the order of the graph. A node may be missing: a constant, a call in one mode only."""
        found = {name: tensors[name] for name in self.nodes if tensors.get(name) is not None}
        missing = [name for name in self.nodes if name not in found and name in self._called]
        if missing:
            self._note(f"in {prefix} mode these were not called: {', '.join(missing)}")
        return {f"{prefix}/{name}": _array(each, each) for name, each in found.items()}

    @property
    def _called(self) -> set[str]:
        """Nodes that have an input: others are no calls, such as a bare parameter."""
        return {node.name for node in self.graph.nodes if node.inputs}

    def _note_outputs(self, given: list[Any]) -> None:
        if len(given) != len(self.graph.outputs):
            self._note(
                f"in training the model gives out {len(given)} tensors, in inference "
                f"{len(self.graph.outputs)}: the loss is of the first ones alone"
            )
        if self.model.losses:
            self._note("regularizers and other losses of layers' own are left out of the loss")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@contextmanager
def dropout_off() -> Iterator[None]:
    """Layers that only draw noise (dropout, random images) do nothing in training mode inside.

    They are the ones without weights that ask for the mode; and what drops within a recurrent or
    an attention layer.
    """
    original = keras.layers.Layer.__call__
    dropping = (keras.layers.RNN, keras.layers.Attention, keras.layers.AdditiveAttention)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        plain = not (layer.weights or layer._layers or isinstance(layer, keras.Model))
        if layer._call_has_training_arg and (plain or isinstance(layer, dropping)):
            kwargs["training"] = False
        return original(layer, *args, **kwargs)

    with patch.object(keras.layers.Layer, "__call__", call):
        yield


@contextmanager
def _restarted(model: keras.Model, nudge: bool) -> Iterator[None]:
    """Weights nudged or as they are inside; all variables as they were after."""
    import tensorflow as tf

    # TensorFlow's tensors do not change: what was read stays, and no number is copied.
    held = [(each, tf.convert_to_tensor(each.value)) for each in model.variables]
    try:
        if nudge:
            for each in model.weights:
                _nudge(each)
        settle(model)
        with moved(nudge):
            yield
    finally:
        for each, value in held:
            each.assign(value)
        settle(model)


def _nudge(variable: keras.Variable) -> None:
    """As `parity.check.trace.nudged`, without a way through NumPy: weights may be gigabytes."""
    import tensorflow as tf

    if now().nudged(variable):
        return
    value = tf.convert_to_tensor(variable.value)
    if value.dtype.is_floating:
        infinity = tf.constant(np.inf, value.dtype)
        moved = tf.math.nextafter(value, tf.where(value < 0, -infinity, infinity))
        variable.assign(tf.where((value == 0) | tf.math.is_inf(value), value, moved))


def _check(model: keras.Model, request: Request) -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(
            f"Keras runs on its {backend} backend: gradients by what lies between layers, and "
            "float64 that is float64 throughout, are to be had on TensorFlow alone. Set "
            "KERAS_BACKEND=tensorflow."
        )
    for level in request.levels:
        if level not in LEVELS:
            raise InputError(f"no level {level!r}: expected some of {', '.join(LEVELS)}.")
    if request.precision != precision_of(model):
        raise InputError(
            f"the model {model.name} computes in {precision_of(model)}, {request.precision} is "
            "asked for: load it in that precision."
        )


def _arrays(path: str) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}. Expected a .npz of arrays.") from None


def _array(value: Any, like: Any) -> np.ndarray:
    """A copy; zeros in the form of `like` for a gradient that there is none of."""
    return _zeros(like) if value is None else own(keras.ops.convert_to_numpy(value))


def _zeros(like: Any) -> np.ndarray:
    return np.zeros(tuple(like.shape), keras.backend.standardize_dtype(like.dtype))


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}/{name}": value for name, value in arrays.items()}
