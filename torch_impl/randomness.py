"""Run a module with the random numbers that Keras drew. Its twin is `keras_impl/randomness.py`.

Whatever a model asks for its numbers (modules, functions, stacked recurrent layers in C++) ends in
a few operations below autograd, which is where numbers are put in their place. PyTorch tags every
operation that draws, so that none goes unnoticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from parity.check.randomness import NORMAL, UNIFORM, Draws, Partners, seeded
from torch_impl.nests import tensors

_RECENT = 24  # tensors that a draw may be meant for, where the draw itself does not say


class Played(Partners):
    """What became of the draws; `uncaught` are operations whose numbers cannot be replaced.

    A run that neither asked for a draw nor has one uncaught is deterministic.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.uncaught: list[str] = []


@contextmanager
def replayed(
    draws: Draws,
    *,
    mirrored: bool = False,
    earlier: Played | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> Iterator[Played]:
    """Draws inside are those that were recorded, or where none corresponds repeatable ones.

    Arguments:
        earlier: a replay of which `again` says that it may find better partners.
        mirrored: one minus each uniform number, for a port that keeps where the number is small.
        model: its modules are named by their paths.
        seed: as in the recording, for NumPy's own generator.
    """
    played = Played(draws, mirrored=mirrored, earlier=earlier)
    paths = {module: path for path, module in model.named_modules()} if model is not None else {}
    before = torch.get_rng_state()
    mode = _Replay(played, paths)
    handles = [
        register_module_forward_pre_hook(mode.begins),
        register_module_forward_hook(mode.ends, always_call=True),
    ]
    try:
        with seeded(seed, played.uncaught), mode:
            yield played
    finally:
        for handle in handles:
            handle.remove()
        torch.set_rng_state(before)


def _plain(u: Tensor, given: Any) -> Tensor:
    return u


def _uniform(u: Tensor, given: Any) -> Tensor:
    return given["from"] + u * (given["to"] - given["from"])


def _normal(z: Tensor, given: Any) -> Tensor:
    return z * given["std"] + given["mean"]


def _kept(u: Tensor, given: Any) -> Tensor:
    """Kept from the rate on, as TensorFlow keeps."""
    return u >= 1 - given["p"]


def _integers(u: Tensor, given: Any) -> Tensor:
    low, high = given.get("low", given.get("from")) or 0, given.get("high", given.get("to"))
    return torch.floor(low + u * (high - low))


def _order(u: Tensor, given: Any) -> Tensor:
    """As Keras shuffles."""
    return torch.argsort(u)


def _exponential(u: Tensor, given: Any) -> Tensor:
    return -torch.log(u) / given["lambd"]


_DRAWS: dict[str, tuple[str, Callable[[Tensor, Any], Tensor]]] = {
    **dict.fromkeys(("rand", "rand_like", "native_dropout"), (UNIFORM, _plain)),
    **dict.fromkeys(("randn", "randn_like"), (NORMAL, _plain)),
    **dict.fromkeys(("uniform", "uniform_"), (UNIFORM, _uniform)),
    **dict.fromkeys(("normal", "normal_"), (NORMAL, _normal)),
    **dict.fromkeys(("bernoulli", "bernoulli_"), (UNIFORM, _kept)),
    **dict.fromkeys(("randint", "randint_like", "random_"), (UNIFORM, _integers)),
    **dict.fromkeys(("exponential", "exponential_"), (UNIFORM, _exponential)),
    "randperm": (UNIFORM, _order),
}


class _Replay(TorchDispatchMode):
    def __init__(self, played: Played, paths: dict[nn.Module, str]) -> None:
        super().__init__()
        self._played, self._paths = played, paths
        self._places: list[str] = []
        self._recent: deque[Tensor] = deque(maxlen=_RECENT)
        self._like: deque[tuple[int, Tensor]] = deque(maxlen=_RECENT)  # memory made like a tensor

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's compiler, seconds to import, need not be told to keep out of here."""
        return False

    def begins(self, module: nn.Module, args: Any) -> None:
        self._places.append(self._paths.get(module) or type(module).__name__)
        self._note(args)

    def ends(self, module: nn.Module, args: Any, result: Any) -> None:
        self._places.pop()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            result = function(*args, **kwargs)
            self._followed(function, args, result)
            return result
        if function._can_decompose() and function.name() != "aten::native_dropout":
            with self:  # under inference_mode, what else comes in its parts
                return function.decompose(*args, **kwargs)
        name = function.overloadpacket.__name__
        draw = _DRAWS.get(name)
        before = _states()
        result = function(*args, **kwargs)
        arguments = function._schema.arguments
        given = {each.name: each.default_value for each in arguments if each.has_default_value()}
        given.update({each.name: value for each, value in zip(arguments, args, strict=False)})
        given.update(kwargs)
        if draw is None or "out" in given or (name == "random_" and given.get("to") is None):
            if not all(map(torch.equal, before, _states())):  # attention may drop nothing
                self._played.uncaught.append(f"{self._place}: {name}")
            return result
        if isinstance(given.get("p"), float) and given["p"] in (0.0, 1.0):
            return result
        if name == "native_dropout":
            return self._native_dropout(**given)
        kind, scaled = draw
        if scaled is _kept:
            given.setdefault("p", given["self"])
        numbers = self._numbers(kind, result, given)
        return result.copy_(scaled(numbers, given))

    def _native_dropout(self, input: Tensor, p: float, train: bool | None) -> Any:
        if not train:
            return input.clone(), torch.ones_like(input, dtype=torch.bool)
        mask = self._numbers(UNIFORM, input, {"self": input, "p": 1 - p}, input) >= p
        return input * mask / (1 - p), mask

    def _numbers(self, kind: str, drawn: Tensor, given: Any, meant: Tensor | None = None) -> Tensor:
        shape = tuple(drawn.shape)
        rate = _rate(given)
        found = [meant] if meant is not None else [*self._meant(given, drawn)]
        numbers = self._played.numbers(
            kind,
            shape,
            self._place,
            rate,
            map(_array, found),
            repeats=torch._C._current_graph_task_id() != -1,  # a checkpoint computes it again
        )
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(drawn.device)

    def _meant(self, given: Any, drawn: Tensor) -> Iterator[Tensor]:
        """What a draw may be meant for: what it is shaped like, else what was at hand last."""
        own = given.get("self")
        if isinstance(own, Tensor) and own is not drawn:
            yield own  # rand_like
        memory = _memory(drawn)
        known = [like for at, like in self._like if at == memory or at == _memory(own)]
        yield from known[-1:]
        if not known:
            seen = set()
            for each in reversed(self._recent):
                if id(each) not in seen and _fits(drawn.shape, each.shape):
                    seen.add(id(each))
                    yield each

    @property
    def _place(self) -> str:
        return self._places[-1] if self._places else "the model"

    def _followed(self, function: Any, args: Any, result: Any) -> None:
        name = function.overloadpacket.__name__
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if source is not None and (name.endswith("_like") or name.startswith("new_")):
            self._like.append((_memory(result), source))
            return
        self._note(args)
        self._note(result)

    def _note(self, values: Any) -> None:
        for each in tensors(values):
            if each.is_floating_point() and each.numel() > 1:
                self._recent.append(each)


def _rate(given: Any) -> float | None:
    """Of what is dropped, where it is the same for all numbers."""
    p = given.get("p")
    if isinstance(p, Tensor) and p.numel() and bool((p == p.flatten()[0]).all()):
        p = p.flatten()[0].item()
    return 1 - p if isinstance(p, float) else None


def _states() -> list[Tensor]:
    """Of PyTorch's generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


def _array(tensor: Tensor) -> np.ndarray:
    low = tensor.dtype in (torch.bfloat16, torch.float16)  # NumPy has no bfloat16
    array: np.ndarray = (tensor.float() if low else tensor).detach().cpu().numpy()
    return array


def _memory(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr()) if isinstance(tensor, Tensor) else -1


def _fits(shape: Any, whole: Any) -> bool:
    """Whether a draw of this shape can be applied to a tensor of that one."""
    return len(shape) == len(whole) and all(
        side in (1, full) for side, full in zip(shape, whole, strict=True)
    )
