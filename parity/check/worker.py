"""What the workers of both wings do alike: one request, or one after another.

    python -m keras_impl.check REQUEST.json OUT    once, as told on the command line
    python -m keras_impl.check --serve N           as a check needs it, until its stdin closes

A serving worker gets a request as a line on stdin, `[what, request file, folder]` in JSON, and
answers with a line on the pipe of the number N, `{}` or `{"refused": why}`. `what` is the name of a
function of `keras_impl/check.py`, as of its twin.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from parity import cli, environment
from parity.check.trace import Request
from parity.experiment import Experiment
from shared_data.errors import InputError

OWN_PRECISION = (
    "describe",
    "own",
    "save",
    "signature",
)  # what else a worker does, it does in the precision asked for
LARGE = 30_000_000  # numbers of a model that is not kept: built again, and in memory once


class Wing(Protocol):
    """`{framework}_impl.check`, which imports its framework when it is called. Beside these it has
    a function (model, request, folder) for each thing to do, `describe` and `trace` among them."""

    IN_PRECISION: bool  # whether a model runs only in the precision in which it is built

    def load(self, request: Request, in_precision: bool) -> Any:
        """The model of a request, in its own precision or in the one asked for."""
        ...

    def reload(self, model: Any, weights: str) -> None:
        """Load other weights over all that the model has."""
        ...

    def settle(self, request: Request, names: Any) -> None:
        """Whatever draws, draws the same, and names go on from `names`, whenever work begins."""
        ...

    def names(self) -> Any:
        """How far the framework has counted the names that it makes up."""
        ...

    def held(self, model: Any) -> list[dict[str, Any]]:
        """The attributes of the layers of the user's own."""
        ...

    def size(self, model: Any) -> int:
        """How many numbers it holds."""
        ...


@dataclass
class _Kept:
    """A model, whose weights were loaded over its own, and how it was when it had been built."""

    model: Any
    weights: str | None
    held: Any
    names: Any


class Worker:
    """Does what a wing can. A model that it built serves the next request too, where nothing tells
    it from one that is built anew."""

    def __init__(self, framework: str) -> None:
        self.wing: Any = import_module(f"{framework}_impl.check")
        self._kept: dict[tuple[str, str | None, int], _Kept] = {}

    def do(self, what: str, request: Request, folder: Path) -> None:
        """Raises `InputError` with what is refused."""
        own = what in OWN_PRECISION or not self.wing.IN_PRECISION
        precision = None if own else request.precision
        key = (request.model, precision, request.seed)
        kept = self._again(self._kept.pop(key, None), request) or self._built(request, precision)
        self.wing.settle(request, kept.names)
        getattr(self.wing, what)(kept.model, request, folder)
        if self.wing.size(kept.model) <= LARGE:
            self._kept[key] = kept
        else:
            self._kept.clear()
            del kept
            gc.collect()  # models hold themselves: their layers know of them

    def _again(self, kept: _Kept | None, request: Request) -> _Kept | None:
        """The same with the weights of this request, unless only a new one has them or a run left
        a trace in it, such as a count of its calls."""
        if kept is None or (kept.weights and not request.weights):
            return None
        if not _same(kept.held, _frozen(self.wing.held(kept.model))):
            return None
        if request.weights:
            self.wing.reload(kept.model, request.weights)
            kept.weights = request.weights
        return kept

    def _built(self, request: Request, precision: str | None) -> _Kept:
        model = self.wing.load(request, precision is not None)
        return _Kept(model, request.weights, _frozen(self.wing.held(model)), self.wing.names())


def _frozen(value: Any, deep: int = 4) -> Any:
    """A value as it is now: of what can be changed in place, a copy; objects are themselves."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return (value.dtype.str, value.shape, hash(value.tobytes()))
    if deep and isinstance(value, list | tuple):
        return tuple(_frozen(each, deep - 1) for each in value)
    if deep and isinstance(value, dict):
        return {key: _frozen(each, deep - 1) for key, each in value.items()}
    return value


def _same(one: Any, other: Any) -> bool:
    """Of what `_frozen` gives: objects have to be the same one, numbers and texts alike."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    plain = isinstance(one, bool | int | float | complex | str | bytes)
    return one is other or (plain and type(one) is type(other) and bool(one == other))


def main(framework: str, arguments: list[str] | None = None) -> int:
    """Do what the command line says, in the environment that the request asks for."""
    module = f"{framework}_impl.check"
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(module)
    options = parser.parse_args(arguments)
    if options.serve is None and options.out is None:
        parser.error("expected REQUEST and OUT")

    def work() -> int:
        if options.serve is not None:
            serve(framework, options.serve)
            return 0
        request = Request.read(options.request)
        environment.enter(like(request), [module, *arguments], keep_pages=False)
        worker = Worker(framework)
        for what in ("describe", "trace"):
            if not (options.trace if what == "describe" else options.describe):
                worker.do(what, request, options.out)
        return 0

    return cli.run(work)


def serve(framework: str, answers: int) -> None:
    """Do what stdin says until it closes, which also ends what is being done: the check is over.

    Standard input and output then belong to the user's code, which may print.
    """
    os.set_inheritable(answers, False)
    asked: SimpleQueue[str] = SimpleQueue()
    requests = os.fdopen(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def listen() -> None:
        for line in requests:
            asked.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    worker = Worker(framework)
    import_module(f"{framework}_impl.tracing")  # the framework, while the other side is at work
    with os.fdopen(answers, "w") as out:
        while True:
            what, request, folder = json.loads(asked.get())
            answer = {}
            try:
                worker.do(what, Request.read(Path(request)), Path(folder))
            except InputError as error:
                answer["refused"] = str(error)
            print(json.dumps(answer), file=out, flush=True)


def like(request: Request) -> Experiment:
    """An experiment whose environment is the request's: what is decided for a training of the
    study's networks goes for any model's. Keras' backend stays the user's choice."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return Experiment(threads=request.threads, keras_backend=backend)


def _parser(module: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description="Describe a model, or run it and write every number of the run.",
        epilog=f"example: python -m {module} request.json out --describe",
    )
    parser.add_argument(
        "request", type=Path, nargs="?", help="a parity.check.trace.Request as JSON"
    )
    parser.add_argument("out", type=Path, nargs="?", help="folder for what is written")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--describe", action="store_true", help="the graph and the weights only")
    only.add_argument("--trace", action="store_true", help="the trace only")
    only.add_argument(
        "--serve",
        type=int,
        metavar="N",
        help="requests from stdin, answers to file descriptor N (parity.check.sides)",
    )
    return parser
