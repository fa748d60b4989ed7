"""Describe or run a model in PyTorch: `python -m torch_impl.check REQUEST.json OUT`.

    --describe    writes OUT/graph.json and OUT/weights.safetensors, the model's `state_dict`
    --trace       writes OUT/trace.json and OUT/trace/

Without either, both. The request is a `parity.check.trace.Request` as a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from parity import environment
from parity.check.graph import Graph
from parity.check.trace import Request, Trace
from parity.cli import run
from parity.experiment import Experiment

if TYPE_CHECKING:
    from torch import nn

MODULE = "torch_impl.check"


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    return run(lambda: _work(options, arguments))


def _work(options: argparse.Namespace, arguments: list[str]) -> int:
    request = Request.read(options.request)
    environment.enter(like(request), [MODULE, *arguments])

    # Only now: PyTorch reads its environment when it is imported.
    import torch

    from torch_impl.loading import load

    if request.threads:
        torch.set_num_threads(request.threads)
    torch.manual_seed(request.seed)  # a builder draws the same weights every time
    model = load(request.model, request.weights)
    if not options.trace:
        describe(model, request, options.out)
    if not options.describe:
        trace(model, request, options.out)
    return 0


def built(build: Callable[[], nn.Module]) -> nn.Module:
    """What a function builds. Its twin is in `keras_impl/check.py`."""
    return build()


def describe(model: nn.Module, request: Request, out: Path) -> None:
    """Write what the model is, and its weights, into `out`."""
    import torch
    from safetensors.torch import save_file

    from torch_impl import graph
    from torch_impl.tracing import inputs_of

    out.mkdir(parents=True, exist_ok=True)
    described = graph.describe(model, inputs_of(request))
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    save_file(state, out / "weights.safetensors")
    described.write(out / "graph.json")


def trace(model: nn.Module, request: Request, out: Path) -> None:
    """Write what the model computes into `out`, where `describe` wrote what it is; the model stays
    as it was."""
    from torch_impl import tracing

    described = Graph.read(out / "graph.json")
    reference = Trace.read(Path(request.reference)) if request.reference else None
    made = Trace.begin("torch", request.precision, out)
    tracing.trace(model, described, request, reference, made).write(out)


def like(request: Request) -> Experiment:
    """An experiment whose environment is the request's: what is decided for one goes for both."""
    return Experiment.of(padding=0, threads=request.threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description="Describe and run a PyTorch model for parity.check.",
    )
    parser.add_argument("request", type=Path, help="JSON file of the request")
    parser.add_argument("out", type=Path, help="folder for what it writes")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--describe", action="store_true", help="the graph and the weights only")
    only.add_argument("--trace", action="store_true", help="the trace only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
