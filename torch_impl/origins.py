"""Where a tensor of a forward pass is from: the call that gave it, or a bare parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torch_impl import held, layers

ROOT = "self"  # the path of the model itself, in whose forward a function is called


class Origins:
    """Follows tensors by identity.

    One that is changed in place belongs to the call that changed it last; its views likewise, told
    by the version that they share. Every tensor is kept alive, so that identities stay unique.
    """

    def __init__(self, model: nn.Module) -> None:
        self.owners = owners(model)
        # By identity: the tensor, its node, its version, and whether no gradient went through it.
        self._from: dict[int, tuple[Tensor, str, int, bool]] = {}
        self._made_of: dict[int, tuple[Tensor, tuple[str, str]]] = {}  # of which bare parameter
        self._written: dict[int, str] = {}  # the base of views: the last call that changed it
        self._passed: dict[Any, str] = {}  # a step of the gradient's graph: its node

    def note(self, value: Tensor, name: str) -> None:
        self._from[id(value)] = (value, name, value._version, value.grad_fn is None)
        if value.grad_fn is not None:
            self._passed[value.grad_fn] = name

    def note_change(self, value: Tensor, name: str) -> None:
        """A call wrote on the tensor."""
        self.note(value, name)
        self._written[id(_base(value))] = name

    def note_parameter(self, value: Tensor, owner: tuple[str, str]) -> None:
        """What is made of a bare parameter alone, such as a view of it, still stands for it."""
        if id(value) not in self.owners:
            self._made_of[id(value)] = (value, owner)

    def node(self, value: Tensor) -> str | None:
        """The node that is known to have given a tensor."""
        if id(value) not in self._from:
            return None
        _, name, version, _ = self._from[id(value)]
        return name if version == value._version else self._written.get(id(_base(value)), name)

    def parameter(self, value: Tensor) -> tuple[str, str] | None:
        """Layer and role of the bare parameter that a tensor is, or is made of alone."""
        if id(value) in self.owners:
            return self.owners[id(value)]
        return self._made_of[id(value)][1] if id(value) in self._made_of else None

    def unseen(self, value: Tensor) -> bool:
        """Whether it came from a step that no call is known for, such as an autograd.Function."""
        if value.grad_fn is None or self.parameter(value):
            return False
        if id(value) not in self._from:
            return True
        _, _, version, plain = self._from[id(value)]
        return plain and version == value._version  # made within such a function

    def behind(self, value: Tensor) -> tuple[list[str], tuple[str, str] | None]:
        """Back along the gradient's graph: the nodes and the bare parameter it was made from."""
        found, bare = [], None
        ahead, seen = [value.grad_fn], set()
        while ahead:
            step = ahead.pop(0)
            if step is None or step in seen:
                continue
            seen.add(step)
            if step in self._passed:
                found.append(self._passed[step])
            elif hasattr(step, "variable"):  # where a leaf's gradient gathers
                leaf = step.variable
                bare = bare or self.owners.get(id(leaf))
                found += [self._from[id(leaf)][1]] if id(leaf) in self._from else []
            else:
                ahead += [each for each, _ in step.next_functions]
        return list(dict.fromkeys(found)), bare


def owners(model: nn.Module) -> dict[int, tuple[str, str]]:
    """Of every parameter and buffer that `state_dict` has, by identity: its layer and its role
    there. What lies below a module that is one layer belongs to that layer; what a list of
    parameters holds, to the module that it is the weight of, if the model has that in a list."""
    found: dict[int, tuple[str, str]] = {}
    modules = {path or ROOT: module for module, path in held.modules(model).items()}
    whole = [path for path, each in modules.items() if _one_layer(each)]
    state = model.state_dict(keep_vars=True)
    for key, value in state.items():
        if isinstance(value, Tensor) and id(value) not in found:
            found[id(value)] = _place(key, whole)
    registered = {path or ROOT for path, _ in model.named_modules()}
    for path, module in modules.items():
        for name, value in module.named_parameters(recurse=False):
            layer = found.get(id(value), (ROOT, ""))[0]
            bare = id(value) in found and layers.parent_of(modules.get(layer, model)) is None
            if path not in registered and bare and layer in registered:
                found[id(value)] = _place(f"{path}.{name}", whole)
    return found


def _one_layer(module: nn.Module) -> bool:
    """Attention keeps its last layer's weights in a module of its own."""
    return layers.of_module(module) is not None or isinstance(module, nn.MultiheadAttention)


def _place(key: str, whole: Sequence[str]) -> tuple[str, str]:
    path, _, role = key.rpartition(".")
    for layer in whole:  # the outermost first
        if layer == ROOT or path == layer or path.startswith(layer + "."):
            return layer, key if layer == ROOT else key.removeprefix(layer + ".")
    return path or ROOT, role


def _base(value: Tensor) -> Tensor:
    return value if value._base is None else value._base
