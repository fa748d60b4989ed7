"""Units of transfer: layers with parameters, and how they hang together in a graph.

Wings may describe a composite layer's parts as layers of their own (`attention/query`) or by roles
(`query/kernel`); here both become roles of one unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from parity.check.graph import INPUT, Graph, Node, Parameter

UNCALLED = "uncalled"  # parameters that no call in the graph uses
# Counters and generators: no part of the function, so nothing corresponds to them.
STATE = ("num_batches_tracked", "count", "seed_generator_state", "seed")
# Layers that hold their parameters in parts.
COMPOSITE = ("attention", "lstm", "gru", "simple_rnn", "separable_conv1d", "separable_conv2d")
# Roles that make a layer of parameters without a call; others are bare.
LAYER_ROLES = frozenset(
    [
        *("kernel", "weight", "bias", "gamma", "beta"),
        *("moving_mean", "moving_variance", "running_mean", "running_var"),
    ]
)
KNOWN_ROLES = LAYER_ROLES | frozenset(
    ["embeddings", "alpha", "scale", "depthwise_kernel", "pointwise_kernel"]
)
STATISTICS = frozenset(["mean", "variance", "var", "std"])
# Graphs need not show these, or hold them in another place.
LOOSE = ("scale", "normalization", UNCALLED)


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer with parameters, or a bare parameter.

    Attributes:
        name: the layer's path; of a bare parameter its own name, unless the layer holds it alone.
        kind: of its calls (`parity.check.graph`); `uncalled` where there is none.
        at: its place in the order of calls.
        calls: its nodes.
        names: the native name of the parameter in each role; parts are set off by `/`.
        shapes, dtypes: likewise.
        state: native names of counters, ids and masks by role: nothing corresponds to them on the
            other side.
        settings: of its first call.
    """

    name: str
    framework: str
    kind: str
    at: int
    calls: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def loose(self) -> bool:
        """Whether it may stand elsewhere in the other side's graph, or not at all."""
        return self.kind in LOOSE or self.kind.startswith("other:")

    def part(self, names: Iterable[str], name: str = "") -> Unit:
        """The unit with some of its tensors alone."""
        kept = {role for role, each in self.names.items() if each in names}
        fields = {
            key: {role: value for role, value in getattr(self, key).items() if role in kept}
            for key in ("names", "shapes", "dtypes")
        }
        return replace(self, name=name or self.name, **fields)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<{self.framework} {self.kind} {self.name}>"


def units(graph: Graph) -> list[Unit]:
    """All units in the order of their first calls, uncalled ones last.

    Every parameter of the graph is in exactly one of them, as a tensor or as state.
    """
    calls: dict[str, list[Node]] = {}
    for node in graph.nodes:
        calls.setdefault(node.layer, []).append(node)
    separator = "/" if graph.framework == "keras" else "."
    owned: dict[str, list[tuple[str, Parameter]]] = {}
    for each in graph.parameters:
        owner = _owner(each.layer, calls, separator)
        part = each.layer[len(owner) :].strip(separator)
        role = f"{part}/{each.role}" if part else each.role
        owned.setdefault(owner, []).append((role.replace(".", "/"), each))
    order = [layer for layer in calls if layer in owned]
    order += [layer for layer in owned if layer not in calls]
    found: list[Unit] = []
    for layer in order:
        nodes = [n for n in calls.get(layer, ()) if layer or n.kind in LOOSE]
        for name, members, own in _split(layer, owned[layer], nodes):
            kind = own[0].kind if own else _uncalled(members)
            found.append(_unit(graph.framework, name, kind, len(found), members, own))
    place = {node.name: at for at, node in enumerate(graph.nodes)}
    last = len(place)
    found.sort(key=lambda u: min((place[c] for c in u.calls), default=last))
    return [_placed(unit, at) for at, unit in enumerate(found)]


def _owner(layer: str, calls: dict[str, list[Node]], separator: str) -> str:
    """The called layer whose part `layer` is, else `layer` itself."""
    above = layer
    while above not in calls and separator in above:
        above = above.rpartition(separator)[0]
        if above in calls:
            kind = calls[above][0].kind
            return above if kind in COMPOSITE or kind.startswith("other:") else layer
    return layer


def _split(
    layer: str, members: list[tuple[str, Parameter]], nodes: list[Node]
) -> Iterable[tuple[str, list[tuple[str, Parameter]], list[Node]]]:
    """Bare parameters each for itself; a layer's own together."""
    roles = {role for role, _ in members if role not in STATE}
    known = _known(nodes[0].kind) if nodes else None
    if known:
        for each in [each for each in members if each[0] not in known]:
            if each[0] not in STATE and _floating(each[1]):
                yield each[1].name, [each], []  # a buffer of the user's, a parametrization
                members = [other for other in members if other is not each]
    bare = bool(nodes and nodes[0].kind == "scale") or not (nodes or roles <= LAYER_ROLES)
    if not bare or roles <= STATISTICS or (len(members) == 1 and layer):
        yield layer or members[0][1].name, members, nodes
        return
    together = [each for each in members if each[0] in STATISTICS]
    if len(together) > 1:
        yield layer or together[0][1].name, together, []
        members = [each for each in members if each not in together]
    one_each = len(nodes) == len(members)
    for at, each in enumerate(members):
        named = [node for node in nodes if node.settings.get("parameter") == each[1].role]
        yield each[1].name, [each], named or (nodes[at : at + 1] if one_each else nodes)


def _known(kind: str) -> frozenset[str] | None:
    """The roles that a layer of a kind has; None where parts of it have their own."""
    plain = kind in ("dense", "embedding", "prelu") or "conv" in kind or kind.endswith("_norm")
    return KNOWN_ROLES if plain and not kind.startswith("other:") else None


def _floating(parameter: Parameter) -> bool:
    return not parameter.dtype.startswith(("int", "uint", "bool"))


def _uncalled(members: list[tuple[str, Parameter]]) -> str:
    roles = {role for role, _ in members if role not in STATE}
    if roles <= STATISTICS:
        return "normalization"
    return UNCALLED if roles <= LAYER_ROLES else "scale"


def _unit(
    framework: str,
    name: str,
    kind: str,
    at: int,
    members: list[tuple[str, Parameter]],
    nodes: list[Node],
) -> Unit:
    state = {
        role: p.name for role, p in members if role.rpartition("/")[2] in STATE or not _floating(p)
    }
    held = {role: p for role, p in members if role not in state}
    return Unit(
        *(name, framework, kind, at, tuple(node.name for node in nodes)),
        names={role: p.name for role, p in held.items()},
        shapes={role: p.shape for role, p in held.items()},
        dtypes={role: p.dtype for role, p in held.items()},
        state=state,
        settings=dict(nodes[0].settings) if nodes else {},
    )


def _placed(unit: Unit, at: int) -> Unit:
    return Unit(**{**vars(unit), "at": at})


@dataclass(frozen=True)
class Web:
    """Which units get the outputs of which, looking through all nodes without parameters.

    Attributes:
        before, after: neighbours of each unit: units, and `input:0`, `output`.
        depth: how many units that are not loose lie on the longest way from an input to the
            unit's first call, to its last, and from its first call to an output.
        followed: whether the inputs of every node are known.
    """

    before: dict[Unit, tuple[Unit | str, ...]]
    after: dict[Unit, tuple[Unit | str, ...]]
    depth: dict[Unit, tuple[int, int, int]]
    followed: bool

    def near(self, group: Iterable[Unit], side: str) -> tuple[Unit | str, ...]:
        """Neighbours of a group on one side, `before` or `after`, without its own members."""
        group = tuple(group)
        links = self.before if side == "before" else self.after
        found = dict.fromkeys(each for unit in group for each in links[unit])
        return tuple(each for each in found if each not in group)


def web(graph: Graph, all_units: list[Unit]) -> Web:
    """The web of a graph's units. Loose units are seen and seen through."""
    of = {call: unit for unit in all_units for call in unit.calls}
    gives: dict[str, tuple[Unit | str, ...]] = {}
    depths: dict[str, int] = {}
    before: dict[Unit, dict[Unit | str, None]] = {unit: {} for unit in all_units}
    after: dict[Unit, dict[Unit | str, None]] = {unit: {} for unit in all_units}
    followed = True
    for node in graph.nodes:
        known = [name for name in node.inputs if name.startswith(INPUT) or name in gives]
        followed &= bool(known) and len(known) == len(node.inputs)
        sources = dict.fromkeys(source for name in known for source in gives.get(name, (name,)))
        depth = max((depths.get(name, 0) for name in known), default=0)
        unit = of.get(node.name)
        if unit is None:
            gives[node.name] = tuple(sources)
        else:
            before[unit].update(sources)
            for source in sources:
                if isinstance(source, Unit):
                    after[source][unit] = None
            gives[node.name] = (*sources, unit) if unit.loose else (unit,)
        depths[node.name] = depth + (unit is not None and not unit.loose)
    # Which output is not told: a port that exchanges two is to be seen, not to be followed.
    for name in graph.outputs:
        for source in gives.get(name, ()):
            if isinstance(source, Unit):
                after[source]["output"] = None
    heights = _heights(graph, of)
    return Web(
        {unit: tuple(each) for unit, each in before.items()},
        {unit: tuple(each) for unit, each in after.items()},
        {
            unit: (depths[unit.calls[0]], depths[unit.calls[-1]], heights[unit.calls[0]])
            for unit in all_units
            if unit.calls
        },
        followed,
    )


def _heights(graph: Graph, of: dict[str, Unit]) -> dict[str, int]:
    heights = {node.name: 0 for node in graph.nodes}
    for node in reversed(graph.nodes):
        unit = of.get(node.name)
        heights[node.name] += unit is not None and not unit.loose
        for name in node.inputs:
            if name in heights:
                heights[name] = max(heights[name], heights[node.name])
    return heights
