"""Where a fault of the self-test fits in a model, and how it is planted there."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]
Changed = Callable[..., Any]  # (module, its own forward, *arguments) -> what it gives out
Fits = Callable[["Call"], bool]


@dataclass(frozen=True)
class Place:
    """Where a fault is planted: in a module; or in a function's call while that module runs.

    Attributes:
        module: its path; empty for the whole model.
        call, at: of its own calls of that function the `at`-th.
        end: "input" or "output" where the fault lies at an end of the whole model.
        size: of the first input there: samples at the output, steps or columns at the input.
    """

    module: str
    call: str = ""
    at: int = 0
    end: str = ""
    size: int = 0

    @property
    def kind(self) -> str:
        return "call" if self.call else self.end or "module"


@dataclass(frozen=True)
class Call:
    """A call that was seen: of which module or in which, the shapes of tensors in and out.

    Attributes:
        floating: whether what came in first is.
        count: how often the module was called in the run.
        longest: of all batches of the examination, the largest size of the input.
    """

    place: Place
    module: nn.Module
    given: tuple[Shape, ...]
    gave: tuple[Shape, ...]
    floating: bool
    count: int = 1
    longest: int = 0

    @property
    def same(self) -> bool:
        """Whether what comes out could go in again."""
        return self.floating and self.given[:1] == self.gave[:1]


@dataclass(frozen=True)
class Way:
    fits: Fits
    plant: Callable[[nn.Module, Place], None]


@dataclass
class Operator:
    """A mistake, in words, and the ways to make it, by the kind of the place."""

    mistake: str
    ways: dict[str, Way] = field(default_factory=dict)

    def places(self, calls: Sequence[Call]) -> list[Place]:
        fitting = [
            each.place
            for each in calls
            if (way := self.ways.get(each.place.kind)) and each.gave and way.fits(each)
        ]
        return list(dict.fromkeys(fitting))


OPERATORS: dict[str, Operator] = {}


def planted(build: Callable[[], nn.Module], name: str, place: Place) -> nn.Module:
    """What `build` gives, with that fault in it."""
    model = build()
    OPERATORS[name].ways[place.kind].plant(model, place)
    return model


# Where faults go ---------------------------------------------------------------------------------


def seen(model: nn.Module, run: Callable[[nn.Module], Any], longest: int = 0) -> list[Call]:
    """The calls of one run of `model` in inference: of modules, of functions in modules that are
    not PyTorch's own, and of the whole model."""
    paths = {module: path for path, module in model.named_modules()}
    counts: Counter[str] = Counter()
    stack: list[tuple[nn.Module, Counter[str]]] = []
    calls: list[Call] = []

    class See(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            name = _called(func)
            if stack and not type(stack[-1][0]).__module__.startswith("torch.nn."):
                inside, frame = stack[-1]
                calls.append(_call(Place(paths[inside], name, frame[name]), inside, args, out))
                frame[name] += 1
            return out

    def begins(module: nn.Module, *_: Any) -> None:
        stack.append((module, Counter()))

    def ends(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        stack.pop()
        path = paths[module]
        counts[path] += 1
        call = _call(Place(path), module, (*args, *kwargs.values()), out)
        if path:
            calls.append(call)
            return
        sizes = {"input": length(call.given[0]), "output": call.given[0][0]}
        for end, size in sizes.items():
            place = Place(path, end=end, size=size)
            calls.append(replace(call, place=place, longest=longest))

    handles: list[Any] = []
    for each in paths:
        handles.append(each.register_forward_pre_hook(begins))
        handles.append(each.register_forward_hook(ends, with_kwargs=True))
    try:
        with See(), torch.no_grad():
            run(model.eval())
    finally:
        for handle in handles:
            handle.remove()
    return [replace(each, count=counts[each.place.module]) for each in calls]


def length(shape: Sequence[int]) -> int:
    """Of a sequence its steps, of an image its columns."""
    return shape[-1 if len(shape) == 4 else 1] if len(shape) > 1 else 0


def _call(place: Place, module: nn.Module, args: Any, out: Any) -> Call:
    given, gave = list(tensors(args)), list(tensors(out))
    floating = bool(given) and given[0].is_floating_point()
    shapes = [tuple(tuple(each.shape) for each in side) for side in (given, gave)]
    return Call(place, module, shapes[0], shapes[1], floating)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def _called(func: Any) -> str:
    """`add` for `+`, `+=` and `torch.add`."""
    name: str = getattr(func, "__name__", "")
    return name.strip("_").removeprefix("i" if name.startswith("__i") else "")


# How they are planted ----------------------------------------------------------------------------


def change(module: nn.Module, changed: Changed) -> None:
    """Give one module another forward, by a class of its own, as an author would."""
    kind: Any = type(module)
    taken = inspect.signature(kind.forward)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = taken.bind(self, *args, **kwargs)  # by place where it may be
        return changed(self, partial(kind.forward, self), *bound.args[1:], **bound.kwargs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward})


class _Otherwise(TorchFunctionMode):
    """While it is entered, one of a module's own calls of functions is another."""

    def __init__(self, module: nn.Module, place: Place, changed: Changed) -> None:
        super().__init__()
        self.module, self.place, self.changed, self.count = module, place, changed, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _called(func) == self.place.call and _caller() is self.module:
            self.count += 1
            if self.count == self.place.at + 1:
                return self.changed(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _caller() -> nn.Module | None:
    """Whose method is running: not the modules' that it calls, nor what looks on."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return owner
        frame = frame.f_back
    return None


@contextmanager
def instead(module: nn.Module, **values: Any) -> Iterator[None]:
    """Parameters, buffers or attributes of a module are others for now."""
    kept = []
    for name, value in values.items():
        registries: tuple[Any, ...] = (module._parameters, module._buffers)
        held = next((each for each in registries if name in each), module.__dict__)
        kept.append((held, name, held[name]))
        held[name] = value
    try:
        yield
    finally:
        for held, name, value in kept:
            held[name] = value


Kinds = type | tuple[type, ...]


def always(call: Call) -> bool:
    return True


def enter(name: str, kind: str, mistake: str | None, way: Way) -> None:
    operator = OPERATORS.setdefault(name, Operator(mistake or ""))
    operator.ways[kind] = way


def module(name: str, kinds: Kinds, fits: Fits = always) -> Callable[[Changed], Changed]:
    """The decorated function is the forward of a module of these kinds."""

    def keep(changed: Changed) -> Changed:
        way = Way(
            lambda call: isinstance(call.module, kinds) and fits(call),
            lambda model, place: change(model.get_submodule(place.module), changed),
        )
        enter(name, "module", changed.__doc__, way)
        return changed

    return keep


def setting(name: str, kinds: Kinds, fits: Fits = always) -> Callable[[Any], Any]:
    """The decorated function changes a module of these kinds once, when it has been built."""

    def keep(changes: Callable[[nn.Module], None]) -> Any:
        way = Way(
            lambda call: isinstance(call.module, kinds) and fits(call),
            lambda model, place: changes(model.get_submodule(place.module)),
        )
        enter(name, "module", changes.__doc__, way)
        return changes

    return keep


def call(name: str, functions: str, fits: Fits = always) -> Callable[[Changed], Changed]:
    """The decorated function (function, *arguments) stands for one call of one of `functions`."""

    def plant(changed: Changed, model: nn.Module, place: Place) -> None:
        def forward(self: nn.Module, plain: Any, *args: Any, **kwargs: Any) -> Any:
            with _Otherwise(self, place, changed):
                return plain(*args, **kwargs)

        change(model.get_submodule(place.module), forward)

    def keep(changed: Changed) -> Changed:
        fitting = Way(
            lambda call: call.place.call in functions.split() and fits(call),
            partial(plant, changed),
        )
        enter(name, "call", changed.__doc__, fitting)
        return changed

    return keep


def whole(name: str, end: str, fits: Fits = always) -> Callable[[Changed], Changed]:
    """The decorated function is the whole model's forward, changed at that end."""

    def keep(changed: Changed) -> Changed:
        way = Way(fits, lambda model, place: change(model, changed))
        enter(name, end, changed.__doc__, way)
        return changed

    return keep


def pointwise(name: str, kinds: Kinds, functions: str) -> Callable[[Any], Any]:
    """The decorated function of a tensor stands for a module or for a call of a function."""

    def keep(changed: Callable[[Tensor], Tensor]) -> Any:
        module(name, kinds)(_documented(changed, lambda self, plain, x: changed(x)))
        call(name, functions)(_documented(changed, lambda func, x, *args, **kwargs: changed(x)))
        return changed

    return keep


def _documented(of: Any, made: Any) -> Any:
    made.__doc__ = of.__doc__
    return made


def first(changes: Callable[[Tensor], Tensor], out: Any) -> Any:
    """Of what a module gives out, the first tensor changed."""
    if isinstance(out, Tensor):
        return changes(out)
    if isinstance(out, tuple) and out and type(out) is tuple:
        return (first(changes, out[0]), *out[1:])
    if isinstance(out, Mapping):
        key = next(key for key, value in out.items() if isinstance(value, Tensor))
        made = copy.copy(out)
        made[key] = changes(out[key])  # type: ignore[index]
        return made
    return out
