"""One forward pass of any module, seen call by call: what was called, on what, and what it gave."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.check import builders
from parity.check.graph import INPUT, Graph, Node
from torch_impl import functions, held, kinds, layers, recurrent
from torch_impl.exact import widened
from torch_impl.kinds import Rule
from torch_impl.nests import mapped, names, tensors
from torch_impl.origins import ROOT, Origins
from torch_impl.singles import Singles

NOT_THE_USERS = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
See = Callable[[str, Tensor], Tensor]


@dataclass
class _Frame:
    """A module whose forward runs: what it got, and the tensor to write to if it works in place."""

    given: list[Tensor]
    inputs: tuple[str, ...]
    versions: list[int]
    target: Tensor | None = None


class Watch(TorchFunctionMode):
    """Runs `model` once and lists its calls in `nodes`, the outputs' nodes in `outputs`.

    Layers are modules that `torch_impl.kinds` knows; other modules are looked into, and the
    functions that they call are nodes of their own. What is not seen even so, such as an
    autograd.Function, is followed through the gradient's graph. Two kinds of module become a node
    as a whole, `other:` and their class: those in `whole`, and those that give out a tensor of
    unknown origin.

    Arguments:
        see: is called with a node's name and its output, and returns what the model goes on
            with: that output, or another in its stead.
        replaces: whether `see` may return another. A call in place then works on a copy, and what
            goes on is written to where it would have written.
        quiet: dropout is off, in modules and in functions.
        precision: float64 reads float32 in the model's casts as float64.
        graph: what the model is known to be: of recurrent nodes, what is read of them, and which
            modules are whole.
        whole: paths of modules that are one layer each, though of unknown type (`own_layers`).
        singles: is told of constants that are float32, in float64.
    """

    def __init__(
        self,
        model: nn.Module,
        see: See = lambda name, output: output,
        *,
        replaces: bool = False,
        quiet: bool = False,
        precision: torch.dtype | None = None,
        graph: Graph | None = None,
        whole: Sequence[str] = (),
        singles: Singles | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.nodes: list[Node] = []
        self.outputs: list[str] = []
        self.output_names: list[str] = []  # where they are in a dict
        self.loose: set[str] = set()  # nodes that are no module's
        self.rules: dict[str, Rule] = {}  # by node, as far as one is known
        self.lines: dict[str, str] = {}  # by node, where in the user's code it was called
        self._notes_lines = graph is None
        self.autocast: set[torch.dtype] = set()  # what the model's own code asks for
        self.paths = {module: path or ROOT for module, path in held.modules(model).items()}
        self.whole = sorted({*whole, *(graph.semantics.get("whole", ()) if graph else ())})
        self._see, self._replaces, self._quiet = see, replaces, quiet
        self._double, self._singles = precision == torch.float64, singles or Singles(None)
        self._lasts = {n.name: n for n in graph.nodes if "last" in n.settings} if graph else {}
        self.origins = Origins(model)
        # Of layer and role of a parameter, how (`Graph.semantics`) and by which node it is used.
        self.uses: dict[tuple[str, str], tuple[str, int]] = {}
        self._names: Counter[str] = Counter()
        self._inside = 0  # depth of layers, in which functions are not looked at
        self._frames: list[_Frame | None] = []
        self._path: list[str] = []

    def run(
        self, inputs: Sequence[Tensor], called: Sequence[str] = (), packed: bool = False
    ) -> list[Tensor]:
        """The model's outputs, in order, whatever they are nested in. Inputs are given by place, by
        what they are `called`, or packed in one list.

        Floating inputs get a gradient. The model gets copies: it may write on what it is given.
        """
        copies = []
        for at, value in enumerate(inputs):
            copies.append(value.requires_grad_().clone() if value.is_floating_point() else value)
            self.origins.note(copies[-1], f"{INPUT}{at}")
        handles = [each for module in self.paths for each in self._hook(module)]
        try:
            with _uncompiled(), self, self._heard_parents():
                if called:
                    result = self.model(**dict(zip(called, copies, strict=True)))
                else:
                    result = self.model(copies) if packed else self.model(*copies)
        finally:
            for handle in handles:
                handle.remove()
        given = list(tensors(result))
        self.outputs = [self._named(each) for each in given]
        self.output_names = names(result)
        return given

    # Modules ---------------------------------------------------------------------------------

    def _rule(self, module: nn.Module) -> Rule | None:
        if self.paths[module] not in self.whole:
            return layers.of_module(module)
        parent = layers.parent_of(module)
        if parent is not None:
            return layers.MODULES[parent]
        return lambda module, given, output: (f"other:{type(module).__name__}", {})

    def _hook(self, module: nn.Module) -> Iterator[Any]:
        rule = self._rule(module)
        before = self._layer_begins if rule else self._module_begins
        yield module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        yield module.register_forward_hook(self._layer_ends if rule else self._module_ends)

    @contextmanager
    def _heard_parents(self) -> Iterator[None]:
        """Where a class of the user's own calls `super().forward`, that is a call of the layer
        that it is a kind of."""
        parents = {layers.parent_of(each) for each in self.paths if self._rule(each) is None}
        with ExitStack() as stack:
            for parent in filter(None, parents):
                stack.enter_context(patch.object(parent, "forward", self._heard(parent)))
            yield

    def _heard(self, parent: type[nn.Module]) -> Callable[..., Any]:
        original = parent.forward

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            own = layers.parent_of(module) is parent and module in self.paths
            if self._inside or not own or self._rule(module) is not None:
                return original(module, *args, **kwargs)
            given = self._layer_begins(module, args, kwargs)
            args, kwargs = given or (args, kwargs)
            result = None
            try:
                result = original(module, *args, **kwargs)
            finally:
                changed = self._layer_ends(module, args, result, layers.MODULES[parent])
            return result if changed is None else changed

        return forward

    def _layer_begins(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._inside += 1
        if self._inside > 1:
            self._frames.append(None)
            return None
        frame = self._frame([args, kwargs], whole=True)
        self._frames.append(frame)
        if self._replaces and getattr(module, "inplace", False) is True:
            frame.target = args[0]
            return (args[0].clone(), *args[1:]), kwargs
        return None

    def _layer_ends(
        self, module: nn.Module, args: Any, result: Any, rule: Rule | None = None
    ) -> Any:
        frame = self._frames.pop()
        try:
            if frame is None:
                return None
            rule, path = rule or self._rule(module), self.paths[module]
            output = next(tensors(result), None)
            if rule is None or output is None or not frame.given:
                return None
            kind, settings = layers.described(rule, module, frame.given[0], output)
            layer = path if any(True for _ in _weights(module)) else ""
            return self._finish(path, kind, settings, layer, frame, result, rule=rule)
        finally:
            self._inside -= 1

    def _module_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        with self._aside():
            self._path.append(self.paths[module])
            self._frames.append(self._frame([args, kwargs]))

    def _module_ends(self, module: nn.Module, args: Any, result: Any) -> Any:
        path, frame = self._path.pop(), self._frames.pop()
        if frame is None or self._inside:
            return None
        with self._aside():
            found = [self._source(each) or self.origins.parameter(each) for each in tensors(result)]
            if all(found) or not frame.inputs:
                return None
            kind = f"other:{type(module).__name__}"
            layer = path if any(True for _ in module.parameters()) else ""
            return self._finish(path, kind, {}, layer, frame, result)

    def _frame(self, values: Any, whole: bool = False) -> _Frame:
        """`whole`: a bare parameter among the values becomes a node too."""
        given = list(tensors(values))
        sources = [
            self._named(each, optional=True) if whole else self._source(each) for each in given
        ]
        versions = [each._version for each in given]
        return _Frame(given, tuple(name for name in sources if name), versions)

    # Functions -------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._quiet:
            args, kwargs = functions.without_dropout(function, args, kwargs)
        if self._double:
            with self._aside():
                function, args, kwargs = widened(
                    function, args, kwargs, self._doubled, self._numbered
                )
        if torch.is_autocast_enabled("cpu"):
            self.autocast.add(torch.get_autocast_dtype("cpu"))
        if self._inside:
            return function(*args, **kwargs)
        with self._aside():
            return self._call(function, args, kwargs)

    def _doubled(self, value: Tensor) -> Tensor:
        """A float32 tensor in a run in float64: a constant, unless it is known where it is from."""
        wide = value.double()
        source, owner = self.origins.node(value), self.origins.parameter(value)
        if source:
            self.origins.note(wide, source)
        elif owner:
            self.origins.note_parameter(wide, owner)
        elif value.grad_fn is None:
            wide = self._singles.met(value, self._path[-1] if self._path else ROOT)
        return wide

    def _numbered(self, value: float) -> float:
        return self._singles.number(value, self._path[-1] if self._path else ROOT)

    def _call(self, function: Any, args: Any, kwargs: Any) -> Any:
        given = list(tensors([args, kwargs]))
        sources = [self._source(each) for each in given]
        self._note_uses(function, args, kwargs, given)
        if not any(sources):
            return self._of_parameters(given, function(*args, **kwargs))
        name = functions.name_of(function)
        if name in functions.CONSTANT:
            return function(*args, **kwargs)
        if name in functions.TRANSPARENT:
            result = function(*args, **kwargs)
            for each in tensors(result):
                if sources[0] and each is not given[0]:
                    self.origins.note(each, sources[0])
            return result
        frame = _Frame(given, (), [each._version for each in given])
        used = args
        if functions.in_place(function, kwargs):
            frame.target = given[0]
            if self._replaces:
                used = (given[0].clone(), *args[1:])
        result = function(*used, **kwargs)
        written = result if frame.target is None or result is not None else used[0]
        output = next(tensors(written), None)
        if output is None:  # a size, a type
            return result
        first = next(each for each, source in zip(given, sources, strict=True) if source)
        kind, settings = functions.describe(function, args, kwargs, first, output)
        label = kind.removeprefix("other:")
        kind, layer, role = self._parameter_of(kind, name, args, kwargs, given, sources)
        if role:
            settings = {**settings, "operation": label, "parameter": role}
        if kind == "concatenate":
            frame.inputs = tuple(filter(None, (self._named(each, True) for each in given)))
        else:
            frame.inputs = tuple(source for source in sources if source)
        path = f"{self._path[-1] if self._path else ROOT}/{role or label}"
        rule = functions.FUNCTIONS.get(name, ("", None))[1]
        finished = self._finish(
            path, kind, settings, layer, frame, written, name, loose=True, rule=rule
        )
        return result if result is None else finished

    def _parameter_of(
        self, kind: str, name: str, args: Any, kwargs: Any, given: Any, sources: Any
    ) -> tuple[str, str, str]:
        """The kind with regard to bare parameters, the layer that owns one, and its role."""
        weight = functions.weight_of(name, args, kwargs)
        if isinstance(weight, Tensor):
            owner = self.origins.parameter(weight)
            return kind, owner[0] if owner else "", ""
        bare = [self.origins.parameter(each) for each in given]
        found = [owner for owner, source in zip(bare, sources, strict=True) if owner and not source]
        if not found or kind == "concatenate":
            return kind, "", ""
        layer, role = found[0]
        if kind in ("add", "subtract", "multiply", "other:divide") and len(given) == 2:
            return "scale", layer, role
        return kind, layer, ""

    def _note_uses(self, function: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        for value in given:
            owner = self.origins.parameter(value)
            if owner:
                how = functions.use(functions.name_of(function), args, kwargs, value)
                known = self.uses.get(owner, ("", 0))
                if how is not None and not known[0]:
                    self.uses[owner] = (how, len(self.nodes))

    def _of_parameters(self, given: list[Tensor], result: Any) -> Any:
        """What is made of a bare parameter alone, such as a view of it, still stands for it."""
        owner = next(filter(None, map(self.origins.parameter, given)), None)
        for each in tensors(result) if owner else ():
            self.origins.note_parameter(each, owner)  # type: ignore[arg-type]
        return result

    # Nodes -----------------------------------------------------------------------------------

    def _finish(
        self,
        path: str,
        kind: str,
        settings: dict[str, Any],
        layer: str,
        frame: _Frame,
        result: Any,
        function: str = "",
        loose: bool = False,
        rule: Rule | None = None,
    ) -> Any:
        """List a call's node or nodes, and return its result as the model goes on with it."""
        name, pieces = "", function in functions.PIECES
        count = sum(1 for _ in tensors(result))
        number = 0

        def goes_on(output: Tensor) -> Tensor:
            nonlocal name, number
            if pieces:
                own, more = self._unique(path), {"output": number, "of": count}
                self._list(own, "select", frame.inputs, output, "", more, loose)
            elif number == 0:
                own = name = self._unique(path)
                if rule is not None:
                    self.rules[name] = rule
                self._list(own, kind, frame.inputs, output, layer, settings, loose)
            else:
                own = f"{name}/output{number}"
                self._list(own, "select", (name,), output, "", {"output": number}, loose=True)
            number += 1
            if own in self._lasts:
                self.origins.note(output, own)
                return output
            return self._go_on(own, output, frame, kind)

        with self._aside():
            finished = mapped(result, goes_on)
            if name in self._lasts:
                finished = self._of_last(name, finished)
            if frame.target is not None and self._replaces:
                # Into where it would have written: other names of that tensor see it as well.
                value = next(tensors(finished))
                frame.target.copy_(value)
                self.origins.note(frame.target, name)
                finished = frame.target
            for each, version in zip(frame.given, frame.versions, strict=True):
                if each._version != version and id(each) not in self.origins.owners:
                    self.origins.note_change(each, name)
        return finished

    def _of_last(self, name: str, result: Any) -> Any:
        """A recurrent layer of which only the end is read: that is what is seen, and goes on."""
        settings = self._lasts[name].settings
        seen = self._see(name, recurrent.last_of(result, settings))
        result = recurrent.with_last(result, settings, seen)
        for number, each in enumerate(tensors(result)):
            self.origins.note(each, f"{name}/output{number}" if number else name)
        return result

    def _go_on(self, name: str, output: Tensor, frame: _Frame, kind: str) -> Tensor:
        unchanged = any(
            each is output and each._version == version
            for each, version in zip(frame.given, frame.versions, strict=True)
        )
        if unchanged:  # an identity: its input keeps its own name
            # A dropout that is switched off gives out a tensor of its own, as when it is on.
            off = self._quiet and kind == "dropout"
            output = output.clone() if off else output.view_as(output)
        after = self._see(name, output)
        self.origins.note(after, name)
        return after

    def _list(
        self,
        name: str,
        kind: str,
        inputs: tuple[str, ...],
        output: Tensor,
        layer: str,
        settings: dict[str, Any],
        loose: bool,
    ) -> None:
        settings = {**settings, "dtype": str(output.dtype).removeprefix("torch.")}
        if layer:
            for owner in self.origins.owners.values():
                if owner[0] == layer and not loose:
                    self.uses.setdefault(owner, ("", len(self.nodes)))
            settings["trainable"] = any(
                each.requires_grad
                for each in self.model.parameters()
                if self.origins.owners.get(id(each), ("", ""))[0] == layer
            )
        if loose:
            self.loose.add(name)
        if self._notes_lines and (line := builders.line(NOT_THE_USERS, Watch.run.__code__)):
            self.lines[name] = line
        self.nodes.append(Node(name, kind, inputs, tuple(output.shape[1:]), layer, settings))

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"

    # Where a tensor is from --------------------------------------------------------------------

    def _source(self, value: Tensor) -> str | None:
        """The node that gave a tensor; None of a parameter, a constant or an unknown one."""
        known = self.origins.node(value)
        return (self._followed(value) or known) if self.origins.unseen(value) else known

    def _followed(self, value: Tensor) -> str | None:
        """A node for what no call is known to have given; None where it has to do with none."""
        found, bare = self.origins.behind(value)
        if not found:
            if bare:
                self.origins.note_parameter(value, bare)
            return None
        label = value.grad_fn.name().removesuffix("Backward")  # type: ignore[union-attr]
        name = self._unique(f"{self._path[-1] if self._path else ROOT}/{label}")
        layer = bare[0] if bare else ""
        self._list(name, f"other:{label}", tuple(found), value, layer, {}, loose=True)
        self.origins.note(value, name)
        self._see(name, value)
        return name

    def _named(self, value: Tensor, optional: bool = False) -> str:
        """The node of a tensor; a bare parameter or, unless optional, a constant becomes one."""
        with self._aside():
            name, owner = self._source(value), self.origins.parameter(value)
            if name or (optional and not owner):
                return name or ""
            layer, role = owner or ("", "constant")
            name = self._unique(f"{layer or ROOT}/{role}")
            kind = "scale" if owner else "other:constant"
            settings = {"parameter": role} if owner else {}
            self._list(name, kind, (), value, layer, settings, loose=True)
            self.origins.note(value, name)
            self._see(name, value)
            return name

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Our own use of tensors, which is no call of the model's."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


def compiled(model: nn.Module) -> bool:
    """Whether a part of it goes through torch.compile."""
    return any(
        type(each).__name__ == "OptimizedModule" or each._compiled_call_impl is not None
        for each in model.modules()
    )


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What torch.compile has wrapped runs as it was written: seen call by call, and in float64."""
    if "torch._dynamo" not in sys.modules:  # which loads seconds of code
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def own_layers(watch: Watch) -> list[str]:
    """Paths of modules that are a layer of the user's own: the last to hold parameters, which they
    use in several functions, none of which is a known layer's (as `F.linear` is). Of a class that
    is a kind of a known layer one is enough; of a batch norm also its own, whose way differs in
    training."""
    found = []
    for module, path in watch.paths.items():
        holds = any(True for _ in module.parameters(recurse=False))
        last = not any(True for child in module.children() for _ in child.parameters())
        parent = layers.parent_of(module)
        if not (holds and last) or layers.of_module(module) or (path == ROOT and parent is None):
            continue
        inside = [
            n for n in watch.nodes if n.name == path or n.name.startswith((f"{path}/", f"{path}."))
        ]
        using = [n.kind for n in inside if n.layer == path]
        none_known = all(kind.startswith(("scale", "other:", "select")) for kind in using)
        by_hand = bool(using) and none_known
        norm = [watch.rules.get(n.name) for n in inside] == [kinds.batch_norm]
        if (norm and parent) or (by_hand and (len(inside) > 1 or parent)):
            found.append(path)
    return found


def _weights(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
