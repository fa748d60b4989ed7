"""Whether a fault moves a number: on batches that are not the examination's, in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torch_impl.sabotage.places import (
    tensors,
)


def drawn(like: Sequence[Sequence[Tensor]], count: int, seed: int) -> Iterator[list[Tensor]]:
    """Batches of inputs that are not the examination's, though in its sizes: floating numbers of
    many scales; whole ones up to the largest that it has."""
    generator, sizes = torch.Generator().manual_seed(seed), random.Random(seed)
    scales = (1.0, 1e-3, 30.0, 1e3, 1e5, 1.0)
    for at in range(count):
        chosen = like[at % len(like)]
        batch = 4 if at % 3 == 0 else sizes.randint(1, 7)
        made = []
        for place, each in enumerate(chosen):
            shape = (batch, *each.shape[1:])
            if each.is_floating_point():
                value = torch.randn(shape, generator=generator, dtype=torch.float64)
                made.append(value * scales[at % len(scales)])
                continue
            largest = max(int(other[place].max()) for other in like)
            value = torch.randint(0, largest + 1, shape, generator=generator)
            made.append(value.to(each.dtype))
        yield made


def numbers(
    build: Callable[[], nn.Module],
    batches: Iterable[Sequence[Tensor]],
    run: Callable[[nn.Module, Sequence[Tensor]], Any],
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """What the model gives in both modes, twice each, in float64: outputs, gradients, and what it
    holds afterwards; or what it raises. It is built anew each time."""
    for at, batch in enumerate(batches):
        for mode in ("inference", "without gradients", "training"):
            model = build().double().train(mode == "training")
            given = [x.clone().requires_grad_(x.is_floating_point()) for x in batch]
            outputs: list[Tensor] = []
            try:
                with torch.set_grad_enabled(mode != "without gradients"):
                    for time in (1, 2):
                        torch.manual_seed(seed + at)
                        outputs = list(tensors(run(model, given)))
                        for place, each in enumerate(outputs):
                            yield f"{at}/{mode}/outputs/{time}/{place}", _array(each)
                if mode == "training":
                    _loss(outputs, seed + at).backward()
            except Exception as error:  # whatever a model raises
                yield f"{at}/{mode}/raises {type(error).__name__}", np.zeros(0)
                continue
            if mode != "training":
                continue
            held: dict[Any, Tensor] = {**dict(model.named_parameters()), **dict(enumerate(given))}
            for name, value in held.items():
                if value.requires_grad and value.grad is not None:
                    yield f"{at}/{mode}/gradients/{name}", _array(value.grad)
            for name, value in model.state_dict().items():
                yield f"{at}/{mode}/held/{name}", _array(value)


def _loss(outputs: Sequence[Tensor], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros((), dtype=torch.float64)
    for each in (each for each in outputs if each.is_floating_point()):
        weights = torch.randn(each.shape, generator=generator, dtype=torch.float64)
        found = found + (weights * each).sum() + (each * each).mean() / 2
    return found


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()
