"""Every number of a run of a model. Its twin is `torch_impl/tracing.py`.

`parity.check.trace` lists what a trace holds. Each run starts from the weights and the statistics
that the model had, and leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

from keras_impl import optimizers
from keras_impl.exact import precision
from keras_impl.failures import attempt
from keras_impl.graph import drawn, fitted, precision_of, run, to_tensors
from keras_impl.loading import assign, read_weights
from keras_impl.parameters import named, own, settle, values
from keras_impl.randomness import recorded
from keras_impl.recorder import Recorder
from keras_impl.singles import Singles, moved, noted, now
from keras_impl.trail import floating
from keras_impl.training import environment
from parity.check.graph import INPUT, Graph
from parity.check.targets import chosen
from parity.check.trace import STEPS, Request, Trace, nudged
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
        if request.nudge:
            for part in side.run(_nudged(given), nudge=True):
                made.keep_floor(part)
        for name, path in request.series:
            batch = fitted(model, _arrays(path))
            for part in side.further(name, batch):
                made.keep(part)
            if request.series_nudge:
                for part in side.further(name, _nudged(batch), nudge=True):
                    made.keep_floor(part)
        made.notes += side.notes
        if request.repeats:
            for part in side.repeated(given):
                made.keep(part)
        made.refused |= side.refused
        made.drawn |= side.drawn
    return made


def inputs_of(model: keras.Model, request: Request) -> Arrays:
    """The inputs of a request, from its file, drawn in its shapes, or as the model says it takes
    them. Raises `InputError` where they do not fit the model."""
    if request.inputs is not None:
        return fitted(model, _arrays(request.inputs))
    return drawn(model, request.batch, request.seed, request.input_shapes)


class _Side:
    """A model and what it is run on."""

    def __init__(self, model: keras.Model, graph: Graph, request: Request) -> None:
        self.model, self.graph, self.request = model, graph, request
        self.nodes = [node.name for node in graph.nodes] if request.inside else []
        self.notes: list[str] = []
        self.refused: dict[str, str] = {}
        self.drawn: dict[str, dict[str, list[str]]] = {}
        self.weights = read_weights(model, Path(request.weights)) if request.weights else {}
        self.loss: Callable[..., Any] | None = None
        if set(request.levels) - {"forward"}:
            from keras_impl.losses import Loss  # TensorFlow's

            self.loss = Loss(graph, request, _arrays(request.labels) if request.labels else {})

    @contextmanager
    def _draws(self, name: str, keep: bool = True) -> Iterator[None]:
        """Whatever is drawn inside is repeatable, and kept for the other side."""
        with recorded(self.request.seed) as draws:
            yield
        if keep and (draws.events or draws.uncaught):
            drawn = {"draws": list(map(str, draws.events)), "uncaught": draws.uncaught}
            self.drawn[name] = drawn
            if self.request.draws:
                draws.write(Path(self.request.draws) / name)

    def _noise(self) -> Any:
        return nullcontext() if self.request.noise else dropout_off()

    def repeated(self, inputs: Arrays) -> Iterator[Arrays]:
        """Outputs in training mode, drawn anew each time."""
        tensors = to_tensors(inputs)
        found: list[list[np.ndarray]] = []
        for at in range(self.request.repeats):
            with self._restarted(False), recorded(self.request.seed + at + 1):
                outputs = self._chosen(run(self.model, tensors, training=True))
            found.append([np.asarray(each) for each in outputs])
        for at, each in enumerate(zip(*found, strict=True)):
            yield {f"repeated/{at}": np.stack(each)}

    def run(self, inputs: Arrays, nudge: bool = False) -> Iterator[Arrays]:
        """All that is asked for, by the names of a trace, part by part."""
        tensors = to_tensors(inputs)
        if "forward" in self.request.levels:
            with self._restarted(nudge), self._draws("forward", not nudge):
                found: Arrays = {}
                if self.request.inside:
                    recorder = Recorder(self.model, tensors)
                    with recorder.recording():
                        outputs = run(self.model, tensors, training=False)
                    found = self._of_nodes("forward", recorder.trail.tensors)
                    del recorder
                else:
                    outputs = run(self.model, tensors, training=False)
                found |= self._outputs("forward", outputs)
                if not nudge and self.request.nudge:
                    found |= self._outputs("again", run(self.model, tensors, training=False))
            yield found
            del found
        if self.loss is not None:
            with self._restarted(nudge), self._draws("training", not nudge), self._noise():
                yield from self._trained(tensors)

    def further(self, name: str, inputs: Arrays, nudge: bool = False) -> Iterator[Arrays]:
        """What decides, of a further batch."""
        tensors = to_tensors(inputs)

        def attempted(mode: str, action: Callable[[], Any]) -> Any:
            try:
                return attempt(action, f"{self.model.name} does not run on it", "")
            except InputError as error:
                self.refused[f"series/{name}/{mode}"] = str(error)

        run_name, keep = f"series/{name}", not nudge
        with self._restarted(nudge), self._draws(f"{run_name}/forward", keep):
            outputs = attempted("forward", lambda: run(self.model, tensors, training=False))
        if outputs is None:
            return
        yield _under(f"series/{name}", self._outputs("forward", outputs))
        if self.loss is None:
            return
        with self._restarted(nudge), self._draws(f"{run_name}/training", keep), self._noise():
            found = attempted("training", lambda: self._backward(tensors, squared=True))
        if found is not None:
            yield _under(f"series/{name}", found[2])

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
            first = step == 0
            loss, gradients, seen = self._backward(tensors, inside=first and self.request.inside)
            losses.append(loss)
            if first and "loss" in levels:
                yield seen
            del seen
            if steps_on and any(each is not None for each in gradients):
                optimizer.apply(gradients, self.model.trainable_weights)
            if first and "update" in levels:
                yield _under("update", values(self.model))
        if "trajectory" in levels:
            yield {"trajectory/loss": np.array(losses, self.request.precision)}
            yield _under("trajectory", values(self.model))

    def _backward(
        self, tensors: list[Any], inside: bool = False, squared: bool = False
    ) -> tuple[np.ndarray, list[Any], Arrays]:
        """Loss, gradients, and all of the run that a trace has; `inside` with every call's."""
        import tensorflow as tf

        weights = self.model.trainable_weights
        sources = [each for each in tensors if floating(each)]
        outputs: dict[str, Any] = {}
        with tf.GradientTape() as tape:
            for each in sources:
                tape.watch(each)
            if inside:
                recorder = Recorder(self.model, tensors, tape.watch)
                with recorder.recording():
                    result = run(self.model, tensors, training=True)
                outputs = {n: recorder.trail.tensors.get(n) for n in self.nodes}
            else:
                result = run(self.model, tensors, training=True)
            loss = self.loss(self._chosen(result), squared)  # type: ignore[misc]
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
        value = loss.numpy()
        found = self._of_nodes("training", outputs) if inside else {}
        found |= self._outputs("training", result)
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

    def _chosen(self, outputs: Any) -> list[Any]:
        return chosen(keras.tree.flatten(outputs), self.request.outputs)

    def _outputs(self, mode: str, outputs: Any) -> Arrays:
        chosen = enumerate(self._chosen(outputs))
        return {f"outputs/{mode}/{at}": _array(each, each) for at, each in chosen}

    @contextmanager
    def _restarted(self, nudge: bool) -> Iterator[None]:
        """With the weights that are asked for, nudged or not, inside; all variables as they were
        after."""
        import tensorflow as tf

        # TensorFlow's tensors do not change: what was read stays, and no number is copied.
        held = [(each, tf.convert_to_tensor(each.value)) for each in self.model.variables]
        try:
            if self.weights:
                assign(self.model, self.weights)
            if nudge:
                for each in self.model.weights:
                    _nudge(each)
            settle(self.model)
            with moved(nudge):
                yield
        finally:
            for each, value in held:
                each.assign(value)
            settle(self.model)

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

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@contextmanager
def dropout_off() -> Iterator[None]:
    """Nothing is dropped in training mode inside, by Keras' own layers that draw noise or by
    TensorFlow's dropout, wherever it is called. A layer of the user's own runs as it is."""
    original = keras.layers.Layer.__call__

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        plain = not (layer.weights or layer._layers or isinstance(layer, keras.Model))
        keras_own = type(layer).__module__.startswith("keras.")
        if layer._call_has_training_arg and plain and keras_own:
            kwargs["training"] = False
        return original(layer, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(keras.layers.Layer, "__call__", call))
        if keras.backend.backend() == "tensorflow":
            from tensorflow.python.ops import nn_ops

            stack.enter_context(patch.object(nn_ops, "_dropout", lambda x, *given, **more: x))
        yield


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


def _nudged(inputs: Arrays) -> Arrays:
    return {name: nudged(value) for name, value in inputs.items()}


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
