"""What two models declare differently: the likely causes of what the numbers show.

Each finding names the row of docs/divergences.md it belongs to. Findings explain; they decide
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from parity import divergences
from parity.check.advice import NAMES, setting, shown
from parity.check.graph import Graph, Node
from parity.check.matching import ACTIVATIONS, Matching

OVERRULED = ("dtype", "trainable")  # by the check itself, or judged number by number


@dataclass(frozen=True)
class Finding:
    """One thing that differs.

    Attributes:
        keras, torch: the nodes; empty where a side has none.
        key: what of them.
        left, right: Keras' value and PyTorch's; None where the side has none.
        change: what to write on the port's side.
        divergence: the number of its row in docs/divergences.md, where it has one.
        helps: whether the change, when it was tried, brought the numbers nearer; None where it
            could not be tried.
    """

    keras: str
    torch: str
    key: str
    left: Any
    right: Any
    change: str
    divergence: int | None = None
    helps: bool | None = None

    @property
    def text(self) -> str:
        where = " / ".join(filter(None, (self.keras, self.torch)))
        key = self.key.replace("_", " ")
        return f"{where}: {key} {shown(self.left)} against {shown(self.right)}"


def findings(
    keras: Graph,
    torch: Graph,
    matching: Matching,
    given: Set[str] = frozenset(),
    apart: Sequence[Set[str]] = (frozenset(), frozenset()),
    random: bool = False,
    port: str = "torch",
) -> list[Finding]:
    """Everything that differs, in the order of the calls.

    Args:
        given: parameters that PyTorch's layers hold beside what their counterparts do.
        apart: by side, the calls behind which no tensor is the other side's: another kind, or a
            call that one side lacks, is only there a cause; elsewhere it is another way to write
            the same.
        random: whether the sides differ by what they draw.
        port: the side that is to be changed.
    """
    return [
        *_settings(keras, torch, matching, apart, port),
        *_alone(keras, torch, matching, apart, port),
        *(_dropouts(keras, torch, port) if random else ()),
        *_spare(torch, given),
    ]


def _settings(
    keras: Graph, torch: Graph, matching: Matching, apart: Sequence[Set[str]], port: str
) -> Iterator[Finding]:
    for each in (match for match in matching.matches if not match.joined):
        ours, theirs = each.keras, each.torch
        if ours.kind != theirs.kind and not _one_per_channel(ours, theirs):
            if ours.name not in apart[0]:
                continue
            own, wanted = (theirs, ours) if port == "torch" else (ours, theirs)
            change = f"{own.name}: use {wanted.kind.replace('_', ' ')}"
            row = _row("x.activation" if ours.kind in ACTIVATIONS else f"{ours.kind}.kind")
            yield Finding(ours.name, theirs.name, "kind", ours.kind, theirs.kind, change, row)
            continue
        left, right = _effective(keras, ours), _effective(torch, theirs)
        for key in left:
            if key in right and key not in OVERRULED and not _same(left[key], right[key]):
                yield _finding(ours, theirs, key, left[key], right[key], port)


def _one_per_channel(ours: Node, theirs: Node) -> bool:
    """A depthwise convolution that one side calls a convolution of as many groups as channels."""
    named = {node.kind.removeprefix("depthwise_") for node in (ours, theirs)}
    groups = [node.settings.get("groups") for node in (ours, theirs)]
    return len(named) == 1 and groups[0] is not None and groups[0] == groups[1]


def _finding(ours: Node, theirs: Node, key: str, left: Any, right: Any, port: str) -> Finding:
    own, value = (theirs, left) if port == "torch" else (ours, right)
    change = f"{own.name}: {setting(port, own.kind, key, value)}"
    return Finding(ours.name, theirs.name, key, left, right, change, _row(f"{ours.kind}.{key}"))


def _alone(
    keras: Graph, torch: Graph, matching: Matching, apart: Sequence[Set[str]], port: str
) -> Iterator[Finding]:
    ours = [node for node in matching.keras_alone if node.name in apart[0]]
    theirs = [node for node in matching.torch_alone if node.name in apart[1]]
    others = [node for node in theirs if node.layer]
    paired: list[Node] = []
    for node in (node for node in ours if node.layer):
        other = next((each for each in others if each.kind == node.kind), None)
        if other is None:
            continue
        others.remove(other)
        paired += [node, other]
        left, right = (_shapes(*each) for each in ((keras, node), (torch, other)))
        own = other.name if port == "torch" else node.name
        change = f"{own}: give it the same sizes; what comes before it may give another"
        yield Finding(node.name, other.name, "parameters", left, right, change, _of_kind(node))
    for node in (node for node in ours if node not in paired):
        change = _lacking(node, "keras", port)
        yield Finding(node.name, "", "kind", node.kind, None, change, _of_kind(node))
    for node in (node for node in theirs if node not in paired):
        change = _lacking(node, "torch", port)
        yield Finding("", node.name, "kind", None, node.kind, change, _of_kind(node))


def _lacking(node: Node, side: str, port: str) -> str:
    """Of a call that one side alone makes."""
    if port == side:
        other = NAMES["torch" if side == "keras" else "keras"]
        return f"{other} computes something else where {NAMES[side]} calls {node.name}"
    return f"add a {node.kind} where {NAMES[side]} has {node.name}"


def _shapes(graph: Graph, node: Node) -> str:
    owned = graph.owned(node.layer).items()
    return ", ".join(f"{role} {list(each.shape)}" for role, each in owned)


def _of_kind(node: Node) -> int | None:
    return 2 if node.kind == "softmax" else None


def _dropouts(keras: Graph, torch: Graph, port: str) -> Iterator[Finding]:
    """Dropout is off in every run of the check: its rates are compared in their order."""
    sides = [
        [(node.name, node.settings.get("rate")) for node in graph.nodes if _drops(node)]
        for graph in (keras, torch)
    ]
    rates = [[rate for _, rate in side] for side in sides]
    if rates[0] != rates[1]:
        names = ["; ".join(f"{name}" for name, _ in side) for side in sides]
        right = rates[port == "keras"] or "no rate"
        change = f"give {NAMES[port]} dropouts of {right} in this order"
        yield Finding(names[0], names[1], "dropout_rates", rates[0], rates[1], change, 27)


def _spare(torch: Graph, given: Set[str]) -> Iterator[Finding]:
    """A recurrent layer's second bias: trained, it takes the first one's step a second time."""
    for each in torch.parameters:
        if each.name in given and each.trained:
            change = f"{each.name}: requires_grad_(False), its values at zero"
            kinds = {node.kind for node in torch.calls(each.layer)}
            row = _row("lstm.bias") if kinds & {"lstm", "simple_rnn"} else None
            yield Finding("", each.layer, each.role, None, "trained", change, row)


def _drops(node: Node) -> bool:
    return node.kind == "dropout" and bool(node.settings.get("rate"))


def _effective(graph: Graph, node: Node) -> dict[str, Any]:
    """A node's settings; what a `pad` node before it adds counts as its own padding."""
    settings = dict(node.settings)
    own = settings.get("padding")
    before = {each.name: each for each in graph.nodes}
    while own and len(node.inputs) == 1 and node.inputs[0] in before:
        node = before[node.inputs[0]]
        added = node.settings.get("padding")
        if node.kind != "pad" or not added or len(added) != len(own):
            break
        own = [[a + c, b + d] for (a, b), (c, d) in zip(own, added, strict=True)]
        settings["padding"] = own
    return settings


def _row(key: str) -> int | None:
    found = divergences.find(key)
    return found.number if found else None


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-9 * max(abs(left), abs(right))
    return bool(left == right)
