"""What the workers of both wings do alike: `python -m keras_impl.check REQUEST.json OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity import cli, environment
from parity.check.trace import Request
from parity.experiment import Experiment

Write = Callable[[Any, Request, Path], None]


def main(
    framework: str,
    load: Callable[[Request, bool], Any],
    describe: Write,
    trace: Write,
    arguments: list[str] | None = None,
) -> int:
    """Read the request, enter its environment, build the model, and write what is asked for.

    `load` gets the request, and whether the model is to run in the precision asked for; it imports
    the framework, which reads its environment then.
    """
    module = f"{framework}_impl.check"
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(module).parse_args(arguments)

    def work() -> int:
        request = Request.read(options.request)
        environment.enter(like(request), [module, *arguments], keep_pages=False)
        model = load(request, not options.describe)
        if not options.trace:
            describe(model, request, options.out)
        if not options.describe:
            trace(model, request, options.out)
        return 0

    return cli.run(work)


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
    parser.add_argument("request", type=Path, help="a parity.check.trace.Request as JSON")
    parser.add_argument("out", type=Path, help="folder for what is written")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--describe", action="store_true", help="the graph and the weights only")
    only.add_argument("--trace", action="store_true", help="the trace only")
    return parser
