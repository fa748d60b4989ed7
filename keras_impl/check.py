"""Describe or run a model in Keras: `python -m keras_impl.check REQUEST.json OUT`.

    --describe    writes OUT/graph.json and OUT/weights.safetensors, in the model's own precision
    --trace       writes OUT/trace.json and OUT/trace/, in the precision asked for

Without either, both. The request is a `parity.check.trace.Request` as a file.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from parity import environment
from parity.check.graph import Graph
from parity.check.stored import write_tensors
from parity.check.trace import Request, Trace
from parity.cli import run
from parity.experiment import Experiment
from parity.recording import write_atomically

if TYPE_CHECKING:
    import keras

MODULE = "keras_impl.check"


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    return run(lambda: _work(options, arguments))


def _work(options: argparse.Namespace, arguments: list[str]) -> int:
    request = Request.read(options.request)
    # What is decided there for a training of the study's networks goes for any model's. Keras'
    # backend stays the user's choice.
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    like = Experiment(threads=request.threads, keras_backend=backend)
    environment.enter(like, [MODULE, *arguments])
    from keras_impl import tracing
    from keras_impl.loading import load

    precision = None if options.describe else request.precision
    model = load(
        request.model,
        request.weights,
        precision,
        inputs=lambda made: tracing.inputs_of(made, request),
    )
    if not options.trace:
        describe(model, request, options.out)
    if not options.describe:
        trace(model, request, options.out)
    return 0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description="Describe a Keras model, or run it and write every number of the run.",
        epilog=f"example: python -m {MODULE} request.json out --describe",
    )
    parser.add_argument("request", type=Path, help="a parity.check.trace.Request as JSON")
    parser.add_argument("out", type=Path, help="folder for what is written")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--describe", action="store_true", help="the graph and the weights only")
    only.add_argument("--trace", action="store_true", help="the trace only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
