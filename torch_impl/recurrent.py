"""Recurrent layers of which only the end is read.

Keras' layer gives out its last step alone where it is told to. PyTorch's gives out all steps, and
the state after them, of which a model then takes the last: `out[:, -1]` or `state[-1]`. Such a
call is described, traced and forced as if it gave out the last step alone: its settings say
`sequences: False`, and under `last` where the model takes it from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.check.graph import Node

KINDS = ("lstm", "gru", "simple_rnn")
STEP, STATE = "step", "state"
# How a model writes it, by whether the batch comes first.
_LAST_STEPS = {True: (":, -1", ":, -1, :"), False: ("-1", "-1, :", "-1, :, :")}
_STATE = "/output1"


def summed_up(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """The nodes, with recurrent ones told apart by what is read of them."""
    found = [_of_one_state(node, {each.name: each for each in nodes}) for node in nodes]
    for at, node in enumerate(found):
        if node.kind in KINDS and node.name not in outputs:
            last = _last(node, found, outputs)
            if last:
                directions = 2 if node.settings["bidirectional"] else 1
                size = node.settings.get("projection", node.settings["units"]) * directions
                settings = {**node.settings, "sequences": False, "last": last}
                found[at] = replace(node, shape=(size,), settings=settings)
    return found


def last_of(result: Any, settings: dict[str, Any]) -> Tensor:
    """(batch, units): the last step of what a recurrent layer returned; both directions' ends."""
    output, state = result[0], result[1]
    if settings["last"] == STEP:
        step: Tensor = output[:, -1] if settings.get("batch_first", True) else output[-1]
        return step
    hidden = _hidden(state)
    return torch.cat(list(hidden[-_directions(settings) :]), 1)


def with_last(result: Any, settings: dict[str, Any], last: Tensor) -> Any:
    """What a recurrent layer returned, with another last step."""
    output, state = result
    if settings["last"] == STEP:
        axis = 1 if settings.get("batch_first", True) else 0
        before = output.narrow(axis, 0, output.shape[axis] - 1)
        return torch.cat([before, last.unsqueeze(axis)], axis), state
    hidden, count = _hidden(state), _directions(settings)
    ends = torch.stack(last.chunk(count, 1))
    hidden = torch.cat([hidden[:-count], ends])
    return output, (hidden, *state[1:]) if isinstance(state, tuple) else hidden


def _last(node: Node, nodes: Sequence[Node], outputs: Collection[str]) -> str:
    """Where the end is taken from; empty where more than that is read."""
    state = node.name + _STATE
    own = {node.name + f"/output{number}" for number in (1, 2)}
    readers = [each for each in nodes if node.name in each.inputs and each.name not in own]
    states = [each for each in nodes if own & set(each.inputs)]
    if not readers:
        return STATE if any(state in each.inputs for each in states) else ""
    indices = _LAST_STEPS[node.settings.get("batch_first", True)]
    if states or node.settings["bidirectional"] or own & set(outputs):
        return ""
    only = all(each.kind == "select" and each.settings.get("index") in indices for each in readers)
    return STEP if only else ""


def _of_one_state(node: Node, nodes: dict[str, Node]) -> Node:
    """Both directions' ends put side by side: a selection of the state, nothing computed."""
    if node.kind != "concatenate":
        return node
    parts = [nodes[name] for name in node.inputs if name in nodes]
    sources = {name for part in parts for name in part.inputs}
    if len(sources) != 1 or len(parts) < len(node.inputs):
        return node
    (source,) = sources
    recurrent = nodes.get(source.removesuffix(_STATE))
    if not source.endswith(_STATE) or recurrent is None or recurrent.kind not in KINDS:
        return node
    whole = all(part.kind == "select" for part in parts)
    return replace(node, kind="select", inputs=(source,)) if whole else node


def _hidden(state: Any) -> Tensor:
    """An LSTM's state is (hidden, cell), the others' hidden alone: (layers, batch, units)."""
    hidden: Tensor = state[0] if isinstance(state, tuple) else state
    return hidden


def _directions(settings: dict[str, Any]) -> int:
    return 2 if settings["bidirectional"] else 1
