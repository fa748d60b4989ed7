"""Describe or run a model in PyTorch: `python -m torch_impl.check REQUEST.json OUT`.

    --describe    writes OUT/graph.json and OUT/weights.safetensors, the model's `state_dict`
    --trace       writes OUT/trace.json and OUT/trace/

Without either, both. The request is a `parity.check.trace.Request` as a file.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.check import worker
from parity.check.graph import Graph
from parity.check.trace import Request, Trace
from parity.recording import write_atomically

if TYPE_CHECKING:
    import torch
    from torch import nn

IN_PRECISION = False  # a run takes copies in the one asked for
LARGE = 20_000_000  # numbers of a model's runs that are held at once


def main(arguments: list[str] | None = None) -> int:
    return worker.main("torch", arguments)


def load(request: Request, in_precision: bool) -> nn.Module:
    """The model of a request, in its own precision."""
    from torch_impl import loading

    settle(request)  # a builder draws the same weights every time
    runs = bool(request.levels or request.pairs)
    model = loading.load(request.model, None, request.method)
    if request.weights:
        loading.set_weights(model, Path(request.weights), widen=runs)
    return model


def reload(model: nn.Module, weights: str) -> None:
    """Load other weights over all that the model has."""
    from torch_impl.loading import set_weights

    set_weights(model, Path(weights), widen=True)


def names() -> None:
    """PyTorch makes up none. Its twin is in `keras_impl/check.py`."""


def settle(request: Request, names: None = None) -> None:
    """Whatever draws, draws the same whenever work begins."""
    import numpy as np
    import torch

    if request.threads:
        torch.set_num_threads(request.threads)
    torch.manual_seed(request.seed)
    random.seed(request.seed)
    np.random.seed(request.seed)  # noqa: NPY002 - the user's code draws from it


def held(model: nn.Module) -> list[dict[str, Any]]:
    """The attributes of the modules of the user's own."""
    return [
        {name: value for name, value in vars(module).items() if name != "training"}
        for module in model.modules()
        if not type(module).__module__.startswith("torch.")
    ]


def size(model: nn.Module) -> int:
    """How many numbers it holds."""
    return sum(each.numel() for each in (*model.parameters(), *model.buffers()))


def built(build: Callable[[], nn.Module], method: str = "") -> nn.Module:
    """What a function builds. Its twin is in `keras_impl/check.py`."""
    return by_method(build(), method)


def by_method(model: nn.Module, method: str) -> nn.Module:
    """The model, called by another of its methods. Its twin is in `keras_impl/check.py`."""
    from torch_impl import loading

    return loading.by_method(model, method)


@contextmanager
def lent(
    model: nn.Module,
    request: Request,
    build: Callable[[], nn.Module] | None,
    kept: dict[str, nn.Module],
) -> Iterator[nn.Module]:
    """A live model with a request's weights; what was given is as it was after it. Its twin is in
    `keras_impl/check.py`."""
    from torch_impl import loading
    from torch_impl.copying import Fresh

    with Fresh(model) as models:
        taken = models.take()
        if request.weights:
            loading.set_weights(taken, Path(request.weights), widen=True)
        yield taken


def signature(model: nn.Module, request: Request, out: Path) -> None:
    """Write what the model's forward calls its inputs, which no run is needed for."""
    from torch_impl.graph import taken

    text = json.dumps(taken(model)) + "\n"
    write_atomically(out / "signature.json", text.encode())


def describe(model: nn.Module, request: Request, out: Path) -> None:
    """Write what the model is, and its weights, into `out`."""
    import torch
    from safetensors.torch import save_file

    from torch_impl import graph
    from torch_impl.tracing import inputs_of

    out.mkdir(parents=True, exist_ok=True)
    described = graph.describe(model, inputs_of(request), request.called, request.packed)
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    save_file(state, out / "weights.safetensors")
    described.write(out / "graph.json")


def own(model: nn.Module, request: Request, out: Path) -> None:
    """Write the outputs in inference mode, computed in the precision that the model has. Its twin
    is in `keras_impl/check.py`."""
    import torch

    from parity.check.stored import write_tensors
    from torch_impl import loading
    from torch_impl.copying import Fresh
    from torch_impl.graph import as_tensors, dtype_of
    from torch_impl.tracing import inputs_of
    from torch_impl.watching import Watch

    with Fresh(model) as models:
        taken = models.take().eval()
        if request.weights:
            loading.set_weights(taken, Path(request.weights))
        given = as_tensors(inputs_of(request), dtype_of(taken))
        found = Watch(taken).run(given, request.called, request.packed)
    write_tensors(
        out / "own.safetensors",
        {str(at): each.detach().to(torch.float64).numpy() for at, each in enumerate(found)},
    )


def trace(model: nn.Module, request: Request, out: Path) -> None:
    """Write what the model computes into `out`, where `describe` wrote what it is; the model stays
    as it was."""
    from torch_impl import tracing

    described = Graph.read(out / "graph.json")
    reference = Trace.read(Path(request.reference)) if request.reference else None
    made = Trace.begin("torch", request.precision, out)
    tracing.trace(model, described, request, reference, made).write(out)


def places(model: nn.Module, request: Request, out: Path) -> None:
    """Write where each fault of the self-test fits."""
    from dataclasses import asdict

    from torch_impl import sabotage
    from torch_impl.graph import as_tensors, dtype_of
    from torch_impl.tracing import inputs_of

    batches = _batches(request)
    longest = max(sabotage.length(each[0].shape) for each in batches)
    given = as_tensors(inputs_of(request), dtype_of(model))
    run = _runner(request)
    calls = sabotage.seen(model, lambda model: run(model, given), longest)
    found = {
        name: {
            "mistake": operator.mistake,
            "places": [asdict(place) for place in operator.places(calls)],
        }
        for name, operator in sabotage.OPERATORS.items()
    }
    write_atomically(out / "places.json", json.dumps(found, indent=1).encode() + b"\n")


def numbers(model: nn.Module, request: Request, out: Path) -> None:
    """Write what a model gives on batches of the self-test's own, with the weights that its
    faithful like ran with (in the folder `request.reference`); `request.repeats` batches, fewer of
    a large model."""
    import numpy as np
    from safetensors.torch import load_file

    from torch_impl import loading, sabotage

    weights = load_file(Path(request.reference or "") / "transferred.safetensors")

    def build() -> nn.Module:
        settle(request)
        built = loading.load(request.model)
        built.load_state_dict(weights, strict=False)
        return built

    count = max(2, min(request.repeats, LARGE // (1 + size(model))))
    batches = sabotage.drawn(_batches(request), count, request.seed)
    found = dict(sabotage.numbers(build, batches, _runner(request), request.seed))
    np.savez(out / "numbers.npz", **found)  # type: ignore[arg-type]


def _batches(request: Request) -> list[list[torch.Tensor]]:
    """All of the examination."""
    from dataclasses import replace

    import torch

    from torch_impl.graph import as_tensors
    from torch_impl.tracing import inputs_of

    files = [request.inputs, *(file for _, file in request.series)]
    requests = (replace(request, inputs=file) for file in files)
    return [as_tensors(inputs_of(each), torch.float64) for each in requests]


def _runner(request: Request) -> Callable[[nn.Module, Sequence[torch.Tensor]], Any]:
    """How a model takes its inputs."""

    def run(model: nn.Module, given: Sequence[torch.Tensor]) -> Any:
        if request.called:
            return model(**dict(zip(request.called, given, strict=True)))
        return model(list(given)) if request.packed else model(*given)

    return run


if __name__ == "__main__":
    sys.exit(main())
