"""What a model is: its calls and its parameters. Its twin is `torch_impl/graph.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from keras_impl.exact import precision
from keras_impl.failures import attempt
from keras_impl.parameters import named, parameters
from keras_impl.recorder import Recorder
from parity.check.graph import INPUT, Graph, Node
from parity.check.trace import draw_inputs
from shared_data.errors import InputError

Arrays = Mapping[str, np.ndarray]
SIZES = (16, 32, 64, 224)  # tried where a model leaves a size open


def describe(model: keras.Model, inputs: Arrays | None = None) -> Graph:
    """What the model is, from one forward run in inference mode.

    Inputs: `input:0`, `input:1`, …, batch included, in the order in which the model takes them;
    without them, a batch of two is drawn from what the model says of its inputs. Of a layer with
    several outputs (a state, attention scores) the node is the first. Raises `InputError` where
    inputs do not fit, or the model does not say enough of them.
    """
    given = fitted(model, inputs) if inputs else drawn(model)
    with precision(precision_of(model)), _restored(model):
        tensors = to_tensors(given)
        shapes = ", ".join(f"{tuple(value.shape)} {value.dtype}" for value in given.values())
        attempt(  # it also builds what is built at its first call
            lambda: run(model, tensors, training=False),
            f"the model {model.name} does not run on inputs of {shapes} (batch first)",
            "Give the inputs that it takes (--input-shape, --inputs).",
        )
        recorder = Recorder(model, tensors, begins=run.__code__)
        with recorder.recording():
            result = run(model, tensors, training=False)
    outputs = keras.tree.flatten(result)
    names, lost = [], []
    for at, output in enumerate(outputs):
        name = recorder.trail.producer(output)
        if name is None:  # the trail broke: the output is there nevertheless
            name = f"output:{at}"
            lost.append(Node(name, "other:unknown", (), tuple(output.shape[1:])))
        names.append(name)
    nodes = [*recorder.trail.leading_out(names), *lost]
    return Graph(
        framework="keras",
        nodes=tuple(nodes),
        parameters=parameters(model),
        inputs=tuple(tuple(value.shape[1:]) for value in given.values()),
        outputs=tuple(names),
        semantics={
            **_semantics(model, given),
            **_ends(model, result),
            "uses": _uses(model, recorder),
            "terms": _terms(model),
            "lines": recorder.lines,
        },
    )


@contextmanager
def _restored(model: keras.Model) -> Iterator[None]:
    """What a model keeps from call to call is as it was, after."""
    held = [(each, keras.ops.copy(each.value)) for each in model.variables]
    try:
        yield
    finally:
        for each, value in held:
            each.assign(value)


def run(model: keras.Model, tensors: list[Any], training: bool) -> Any:
    """Call the model as its own `fit` would: with one input, or all of them in one structure."""
    structure = structure_of(model)
    if structure is not None:
        return model(keras.tree.pack_sequence_as(structure, tensors), training=training)
    if len(tensors) == 1:
        return model(tensors[0], training=training)
    taken = [
        each
        for each in inspect.signature(model.call).parameters.values()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if len(taken) == len(tensors):
        return model(*tensors, training=training)
    return model(tensors, training=training)


def structure_of(model: keras.Model) -> Any:
    """The symbolic inputs of a functional or a built sequential model; None of any other."""
    return getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)


def precision_of(model: keras.Model) -> str:
    """float64 where all of the model's floating variables are; else float32."""
    types = {str(v.dtype) for v in model.weights if "float" in str(v.dtype)}
    return "float64" if (types or {str(model.compute_dtype)}) == {"float64"} else "float32"


def fitted(model: keras.Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """The inputs in order, in the types that the model takes: floating ones in its precision.

    They are `input:0`, … or called as the model calls them. Raises `InputError` where their number
    or shapes are not the model's.
    """
    floating = precision_of(model)
    names = input_names(model)
    if set(inputs) == set(names):
        inputs = {f"{INPUT}{at}": inputs[name] for at, name in enumerate(names)}
    values = [np.asarray(inputs[name]) for name in _numbered(inputs)]
    wanted = _declared(model)
    if wanted is None:
        types = [floating if value.dtype.kind == "f" else value.dtype.name for value in values]
    else:
        if len(wanted) != len(values):
            shapes = ", ".join(_shown(shape) for shape, _ in wanted)
            raise InputError(
                f"the model {model.name} takes {len(wanted)} inputs, but got {len(values)}. Give "
                f"one of each: {shapes} (without the batch)."
            )
        for at, (value, (shape, _)) in enumerate(zip(values, wanted, strict=True)):
            if not _fits(value.shape[1:], shape):
                raise InputError(
                    f"{INPUT}{at} of the model {model.name}: got {_shown(value.shape[1:])}, "
                    f"expected {_shown(shape)} (both without the batch)."
                )
        types = [floating if "float" in dtype else dtype for _, dtype in wanted]
    fit = {}
    for at, (value, dtype) in enumerate(zip(values, types, strict=True)):
        fit[f"{INPUT}{at}"] = value.astype(dtype)
        broken = value.dtype.kind == "f" and not np.issubdtype(dtype, np.floating)
        if broken and (fit[f"{INPUT}{at}"] != value).any():
            raise InputError(
                f"{INPUT}{at} of the model {model.name} is of type {dtype}: got {value.dtype} "
                "numbers that are not whole. Give an array of the right type (--inputs)."
            )
    return fit


def drawn(
    model: keras.Model, batch: int = 2, seed: int = 0, shapes: Sequence[tuple[int, ...]] = ()
) -> dict[str, np.ndarray]:
    """Inputs as the model says it takes them, in these shapes, if any; whole numbers are below its
    smallest embedding's number of rows. A size that is left open is the first of `SIZES` that it
    runs on. Raises `InputError` where there is none, or the model does not say anything."""
    wanted = _declared(model)
    if shapes:
        types = [dtype for _, dtype in wanted or ()]
        types += ["float64"] * (len(shapes) - len(types))
        wanted = list(zip(shapes, types, strict=False))
    if wanted and any(side is None for shape, _ in wanted for side in shape):
        for size in SIZES:
            closed = [(tuple(size if n is None else n for n in s), d) for s, d in wanted]
            given = _drawn(model, closed, batch, seed)
            try:
                run(model, to_tensors(given), training=False)
            except Exception:  # whatever a model raises of a size that it cannot take
                continue
            return given
    if wanted is None or any(side is None for shape, _ in wanted for side in shape):
        said = "nothing" if wanted is None else ", ".join(_shown(shape) for shape, _ in wanted)
        raise InputError(
            f"the model {model.name} does not say the whole shape of its inputs (it says {said}): "
            "give the shapes, without the batch (--input-shape, or arrays with --inputs)."
        )
    return _drawn(model, wanted, batch, seed)


def _drawn(
    model: keras.Model, wanted: Sequence[tuple[Any, str]], batch: int, seed: int
) -> dict[str, np.ndarray]:
    shapes = tuple(shape for shape, _ in wanted)
    given = draw_inputs(shapes, batch, seed)
    rows = [
        layer.input_dim
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    ]
    rng = np.random.default_rng(seed)
    for name, (_, dtype) in zip(given, wanted, strict=True):
        if "float" not in dtype:
            given[name] = rng.integers(0, min(rows, default=2), given[name].shape)
    return fitted(model, given)


def to_tensors(given: Arrays) -> list[Any]:
    return [keras.ops.convert_to_tensor(value, dtype=value.dtype.name) for value in given.values()]


def _declared(model: keras.Model) -> list[tuple[tuple[int | None, ...], str]] | None:
    """Shape without the batch and dtype of each input, where the model says so."""
    structure = structure_of(model)
    if structure is None:
        return None
    inputs = keras.tree.flatten(structure)
    return [(tuple(each.shape[1:]), str(each.dtype)) for each in inputs]


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    same = zip(got, wanted, strict=False)
    return len(got) == len(wanted) and all(b is None or a == b for a, b in same)


def _numbered(inputs: Arrays) -> list[str]:
    """`input:0`, `input:1`, … without a gap."""
    names = [f"{INPUT}{at}" for at in range(len(inputs))]
    if set(names) != set(inputs):
        raise InputError(
            f"inputs are called {', '.join(map(str, inputs))}; expected {', '.join(names)}, in the "
            "order in which the model takes them."
        )
    return names


def _shown(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape) or "(a number each)"


def _ends(model: keras.Model, result: Any) -> dict[str, Any]:
    """What inputs and outputs are called, and which sizes of inputs the model leaves open."""
    declared = _declared(model)
    return {
        "input_names": input_names(model),
        "output_names": sorted(result) if isinstance(result, dict) else [],
        "open": [[size is None for size in shape] for shape, _ in declared or ()],
    }


def input_names(model: keras.Model) -> list[str]:
    """In the order of its inputs, which of a dict is that of the sorted names."""
    structure = structure_of(model)
    if isinstance(structure, dict):
        return sorted(structure)
    return [] if structure is None else [each.name for each in keras.tree.flatten(structure)]


def _uses(model: keras.Model, recorder: Recorder) -> dict[str, list[str]]:
    names = {id(each.variable): name for name, each in named(model).items()}
    nodes = [node.name for node in recorder.trail.nodes]
    return {
        names[variable]: [how, nodes[at] if at < len(nodes) else ""]
        for variable, (how, at) in recorder.trail.uses.items()
        if variable in names
    }


def _terms(model: keras.Model) -> list[str]:
    """What belongs to the training and not to what the model gives out: regularizers, constraints,
    losses of layers' own. Called after a run."""
    found = []
    for layer in model._flatten_layers():
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            for what in ("regularizer", "constraint"):
                if (term := getattr(variable, what, None)) is not None:
                    found.append(f"{variable.path}: {what} {_called(term)}")
        if (term := getattr(layer, "activity_regularizer", None)) is not None:
            found.append(f"{layer.name}: activity regularizer {_called(term)}")
    added = len(model.losses) - sum(": regularizer" in each for each in found)
    if added > sum("activity regularizer" in each for each in found):
        found.append("losses that layers add (add_loss)")
    return list(dict.fromkeys(found))


def _called(term: Any) -> str:
    return getattr(term, "__name__", None) or type(term).__name__


def _precision(model: keras.Model) -> list[str]:
    """What the model declares beside plain float32 and float64: the precision of its layers, and
    whether `fit` compiles it."""
    low = ("float16", "bfloat16")
    names = [each.dtype_policy.name for each in model._flatten_layers()]
    found = [name for name in dict.fromkeys(names) if name.endswith(low)]
    return [*found, *(["jit_compile"] if getattr(model, "jit_compile", None) is True else [])]


def _semantics(model: keras.Model, given: Arrays) -> dict[str, Any]:
    backend = keras.backend.backend()
    return {
        "keras": keras.__version__,
        "backend": backend,
        backend: version(backend),
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
        "precision": _precision(model),
        "input_dtypes": [value.dtype.name for value in given.values()],
    }
