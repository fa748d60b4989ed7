"""Describe or run a model in Keras: `python -m keras_impl.check REQUEST.json OUT`.

    --describe    writes OUT/graph.json and OUT/weights.safetensors, in the model's own precision
    --trace       writes OUT/trace.json and OUT/trace/, in the precision asked for

Without either, both. The request is a `parity.check.trace.Request` as a file.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from parity.check import worker
from parity.check.graph import Graph
from parity.check.stored import write_tensors
from parity.check.trace import Request, Trace
from parity.recording import write_atomically

if TYPE_CHECKING:
    import keras


def main(arguments: list[str] | None = None) -> int:
    return worker.main("keras", load, describe, trace, arguments)


def load(request: Request, in_precision: bool) -> keras.Model:
    """The model of a request, in its own precision or in the one asked for."""
    from keras_impl import loading, tracing

    return loading.load(
        request.model,
        request.weights,
        request.precision if in_precision else None,
        inputs=lambda made: tracing.inputs_of(made, request),
    )


def built(build: Callable[[], keras.Model]) -> keras.Model:
    """What a function builds, with the same automatic names every time; those of the process go on
    counting where they were."""
    from keras_impl.loading import automatic_names

    with automatic_names():
        return build()


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


def trace(
    model: keras.Model, request: Request, out: Path, build: Callable[[], keras.Model] | None = None
) -> None:
    """Write what the model computes, in the precision asked for, into `out`, where `describe` wrote
    what it is.

    A model of another precision is built anew in it, by `build` or from its configuration; the one
    that was given stays as it was.
    """
    from keras_impl import graph, tracing
    from keras_impl.rebuilding import in_precision

    def call(made: keras.Model) -> None:
        graph.run(made, graph.to_tensors(tracing.inputs_of(made, request)), training=False)

    model = in_precision(model, request.precision, build, call, request.model)
    described = Graph.read(out / "graph.json")
    made = Trace.begin("keras", request.precision, out)
    tracing.trace(model, described, request, made).write(out)


if __name__ == "__main__":
    sys.exit(main())
