"""What a model is: its calls and its parameters. Its twin is `keras_impl/graph.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.check.builders import culprit, said
from parity.check.graph import INPUT, Graph, Node, Parameter
from shared_data.errors import InputError
from torch_impl import recurrent
from torch_impl.origins import ROOT, owners
from torch_impl.watching import NOT_THE_USERS, Watch, compiled, own_layers

COUNTERS = "num_batches_tracked"  # how often a batch norm was called: no weight, no statistic


def describe(
    model: nn.Module,
    inputs: Mapping[str, np.ndarray],
    called: Sequence[str] = (),
    packed: bool = False,
) -> Graph:
    """The graph of a model, from one forward in evaluation mode; the model is left as it was.

    `inputs` are `input:0`, `input:1`, …, in the model's own layout, batch included; those of
    floating type are cast to the model's. Functions whose results lead to no output are left out.

    Raises `InputError` where the model does not run on them, gives out no tensor, or calls nothing.
    """
    given = as_tensors(inputs, dtype_of(model))
    modes = {module: module.training for module in model.modules()}
    watch = Watch(model)
    try:
        model.train()
        frozen = {path or ROOT for path, each in model.named_modules() if not each.training}
        model.eval()
        # With gradients: some modules take a shorter way without, which hides what they call.
        with torch.enable_grad():
            attempt(lambda: watch.run(given, called, packed), given)
            if whole := own_layers(watch):
                inside = watch.uses
                watch = Watch(model, whole=whole)
                attempt(lambda: watch.run(given, called, packed), given)
                for owner, (_, at) in watch.uses.items():
                    watch.uses[owner] = (inside.get(owner, ("", 0))[0], at)
    finally:
        for module, training in modes.items():
            module.training = training
    if not watch.outputs:
        raise InputError(
            f"{type(model).__name__} gives out no tensor: expected one, or tuples, lists or dicts "
            "of them."
        )
    if not watch.nodes:
        raise InputError(
            f"{type(model).__name__} calls no layer and no function on its input: there is nothing "
            "to compare. Check that its forward computes something."
        )
    return Graph(
        framework="torch",
        nodes=tuple(_with_mode(each, frozen) for each in _leading_out(watch)),
        parameters=parameters(model),
        inputs=tuple(tuple(each.shape[1:]) for each in given),
        outputs=tuple(watch.outputs),
        semantics={
            "torch": torch.__version__,
            "dtype": _name(dtype_of(model)),
            "whole": watch.whole,
            "output_names": watch.output_names,
            "input_names": taken(model),
            "uses": _uses(model, watch),
            "terms": _terms(model),
            "lines": watch.lines,
            "precision": _precision(model, watch),
        },
    )


def _with_mode(node: Node, frozen: Set[str]) -> Node:
    """A batch norm says whether `train()` leaves it in evaluation mode."""
    if node.kind != "batch_norm":
        return node
    stays = node.name.partition("#")[0] in frozen
    return replace(node, settings={**node.settings, "frozen": stays})


def parameters(model: nn.Module) -> tuple[Parameter, ...]:
    """All that `state_dict` has, in its order; tied weights once, counters of batches not."""
    found, listed = [], set()
    owned = owners(model)
    for key, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or id(value) in listed or key.endswith(COUNTERS):
            continue
        listed.add(id(value))
        layer, role = owned[id(value)]
        shape, trained = tuple(value.shape), value.requires_grad
        found.append(Parameter(key, layer, role, shape, _name(value.dtype), trained))
    return tuple(found)


def _uses(model: nn.Module, watch: Watch) -> dict[str, list[str]]:
    names = {(each.layer, each.role): each.name for each in parameters(model)}
    nodes = [node.name for node in watch.nodes]
    return {
        names[owner]: [how, nodes[at] if at < len(nodes) else ""]
        for owner, (how, at) in watch.uses.items()
        if owner in names
    }


def dtype_of(model: nn.Module) -> torch.dtype:
    """The first floating type among its parameters and buffers; the default without one."""
    for each in (*model.parameters(), *model.buffers()):
        if each.is_floating_point():
            return each.dtype
    return torch.get_default_dtype()


def as_tensors(inputs: Mapping[str, np.ndarray], dtype: torch.dtype) -> list[Tensor]:
    """Copies, in the order of their numbers; floating ones in `dtype`, others as they are."""
    ordered = [inputs[f"{INPUT}{at}"] for at in range(len(inputs))]
    made = [torch.from_numpy(np.array(each)) for each in ordered]
    return [each.to(dtype) if each.is_floating_point() else each for each in made]


def attempt(action: Callable[[], Any], given: Sequence[Tensor]) -> Any:
    """Run a model. What it raises becomes an `InputError` that names the line in its own code."""
    try:
        return action()
    except InputError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{tuple(each.shape)} {_name(each.dtype)}" for each in given)
        raise InputError(
            f"the model does not run on inputs of {shapes or 'no shape'} (batch first): "
            f"{said(error)}{culprit(error, NOT_THE_USERS)}. Give the inputs that it takes: their "
            "shapes (--input-shape), or arrays of the right type (--inputs; whole numbers for an "
            f"embedding).{_of_precision(error)}"
        ) from error


def _of_precision(error: Exception) -> str:
    """What helps where the model insists on a type."""
    said = str(error).lower()
    mixed = "double" in said and "float" in said
    return " If it insists on float32: --precision float32." if mixed else ""


def _leading_out(watch: Watch) -> tuple[Node, ...]:
    """All layers' calls, and the functions that lead to one or to an output."""
    read = set(watch.outputs)
    kept = []
    for node in reversed(recurrent.summed_up(watch.nodes, watch.outputs)):
        if node.name in read or node.name not in watch.loose:
            kept.append(node)
            read.update(node.inputs)
    return tuple(kept[::-1])


def _precision(model: nn.Module, watch: Watch) -> list[str]:
    """What the model declares beside plain float32 and float64: types of its parameters, autocast,
    and whether it is compiled, which runs do without."""
    types = {_name(each.dtype) for each in (*model.parameters(), *model.buffers())}
    found = sorted(types & {"float16", "bfloat16"})
    found += [f"autocast to {_name(dtype)}" for dtype in watch.autocast]
    return [*found, *(["torch.compile"] if compiled(model) else [])]


def _terms(model: nn.Module) -> list[str]:
    """What changes numbers or gradients by a rule that a run need not show: a bound on the rows of
    a table, hooks on parameters."""
    found = [
        f"{path}: max_norm {module.max_norm:g}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None
    ]
    hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return found + [
        f"{name}: a hook on its gradient"
        for name, each in model.named_parameters()
        if any(getattr(each, kind, None) for kind in hooks)
    ]


def taken(model: nn.Module) -> list[str]:
    """What the model's forward calls its inputs."""
    try:
        taken = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
