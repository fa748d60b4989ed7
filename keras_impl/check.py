"""Describe or run a model in Keras: `python -m keras_impl.check REQUEST.json OUT`.

    --describe    writes OUT/graph.json and OUT/weights.safetensors, in the model's own precision
    --trace       writes OUT/trace.json and OUT/trace/, in the precision asked for

Without either, both. The request is a `parity.check.trace.Request` as a file.
"""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.check import worker
from parity.check.graph import Graph
from parity.check.stored import write_tensors
from parity.check.trace import Request, Trace
from parity.recording import write_atomically

if TYPE_CHECKING:
    import keras

IN_PRECISION = True
COUNTS = "object_name_uids"  # Keras' name for them


def main(arguments: list[str] | None = None) -> int:
    return worker.main("keras", arguments)


def load(request: Request, in_precision: bool) -> keras.Model:
    """The model of a request, in its own precision or in the one asked for."""
    from keras_impl import loading, tracing

    return loading.load(
        request.model,
        request.weights,
        request.precision if in_precision else None,
        inputs=lambda made: tracing.inputs_of(made, request),
        method=request.method,
    )


def reload(model: keras.Model, weights: str) -> None:
    """Load other weights over all that the model has."""
    from keras_impl.loading import set_weights

    set_weights(model, Path(weights))


def names() -> Any:
    """How far Keras has counted the names that it makes up (dense, dense_1)."""
    from keras.src.backend.common import global_state

    return copy.copy(global_state.get_global_attribute(COUNTS))


def settle(request: Request, names: Any) -> None:
    """Whatever draws, draws the same, and names go on from `names`, whenever work begins."""
    import keras
    from keras.src.backend.common import global_state

    keras.utils.set_random_seed(0)
    global_state.set_global_attribute(COUNTS, copy.copy(names))


def held(model: keras.Model) -> list[dict[str, Any]]:
    """The attributes of the layers of the user's own, without those that every layer has."""
    import keras

    known = vars(keras.layers.Layer(name="any")).keys()
    return [
        {name: value for name, value in vars(layer).items() if name not in known}
        for layer in model._flatten_layers()
        if not type(layer).__module__.startswith("keras.")
    ]


def size(model: keras.Model) -> int:
    """How many numbers it holds."""
    import numpy as np

    return sum(int(np.prod(each.shape)) for each in model.variables)


def built(build: Callable[[], keras.Model], method: str = "") -> keras.Model:
    """What a function builds, with the same automatic names every time; those of the process go on
    counting where they were."""
    from keras_impl.loading import automatic_names

    with automatic_names():
        return by_method(build(), method)


def by_method(model: keras.Model, method: str) -> keras.Model:
    """The model, called by another of its methods. Its twin is in `torch_impl/check.py`."""
    from keras_impl import loading

    return loading.by_method(model, method)


def describe(model: keras.Model, request: Request, out: Path) -> None:
    """Write what the model is, its weights, and the batch that it was run on, into `out`."""
    import numpy as np

    from keras_impl import graph, parameters
    from keras_impl.tracing import inputs_of

    out.mkdir(parents=True, exist_ok=True)
    inputs = inputs_of(model, request)
    described = graph.describe(model, inputs)
    write_tensors(out / "weights.safetensors", parameters.values(model))
    content = io.BytesIO()
    np.savez(content, **dict(inputs))  # type: ignore[arg-type]
    write_atomically(out / "inputs.npz", content.getvalue())
    described.write(out / "graph.json")


def own(model: keras.Model, request: Request, out: Path) -> None:
    """Write the outputs in inference mode, computed in the precision that the model has. Its twin
    is in `torch_impl/check.py`."""
    import keras
    import numpy as np

    from keras_impl import graph, loading, parameters
    from keras_impl.tracing import inputs_of

    before = parameters.values(model)
    try:
        if request.weights:
            loading.set_weights(model, Path(request.weights))
        tensors = graph.to_tensors(inputs_of(model, request))
        found = keras.tree.flatten(graph.run(model, tensors, training=False))
    finally:
        loading.assign(model, before)
        parameters.settle(model)
    write_tensors(
        out / "own.safetensors",
        {str(at): np.asarray(each).astype(np.float64) for at, each in enumerate(found)},
    )


def trace(model: keras.Model, request: Request, out: Path) -> None:
    """Write what the model computes into `out`, where `describe` wrote what it is; the model is in
    the precision asked for, and stays as it was."""
    from keras_impl import tracing

    described = Graph.read(out / "graph.json")
    made = Trace.begin("keras", request.precision, out)
    tracing.trace(model, described, request, made).write(out)


def save(model: keras.Model, request: Request, out: Path) -> None:
    """Write the model, with the weights of the request, into `out` as `model.keras`."""
    model.save(out / "model.keras")


@contextmanager
def lent(
    model: keras.Model,
    request: Request,
    build: Callable[[], keras.Model] | None,
    kept: dict[str, keras.Model],
) -> Iterator[keras.Model]:
    """A live model as a request asks for it. In another precision it is built anew, once, by
    `build` or from its configuration; the one that was given stays as it was."""
    from keras_impl import graph, tracing
    from keras_impl.rebuilding import in_precision

    def call(made: keras.Model) -> None:
        graph.run(made, graph.to_tensors(tracing.inputs_of(made, request)), training=False)

    name = request.precision
    kept[name] = kept.get(name) or in_precision(model, name, build, call, request.model)
    yield kept[name]


if __name__ == "__main__":
    sys.exit(main())
