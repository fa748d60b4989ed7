"""How the two models' inputs and outputs correspond: their order, their axes, their types.

Keras' side is the common form. Only conventions are allowed for: channels first or last, one fixed
transposition of (steps, channels), axes of one, whole numbers given as floats, another order by
name. Never a permutation within an axis.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.check.builders import meant
from parity.check.graph import INPUT, Graph
from shared_data.errors import InputError

Axes = tuple[int, ...] | None
# What the same input is called in other libraries.
ALIASES = (
    {"input_ids", "token_ids", "encoder_token_ids", "tokens", "ids"},
    {"attention_mask", "padding_mask", "encoder_padding_mask", "mask"},
    {"decoder_input_ids", "decoder_token_ids"},
    {"decoder_attention_mask", "decoder_padding_mask"},
    {"token_type_ids", "segment_ids"},
    {"pixel_values", "images", "image"},
)


@dataclass(frozen=True)
class Taken:
    """How PyTorch takes one of Keras' inputs.

    Attributes:
        at: its place among what PyTorch is given.
        called: what PyTorch's forward calls it, where it is given by name.
        axes: the permutation of Keras' axes, batch included; None where they are alike.
        squeezed: without its axes of one.
        whole: floats that hold whole numbers, given as int64.
    """

    at: int
    called: str = ""
    axes: Axes = None
    squeezed: bool = False
    whole: bool = False

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        value = value if self.axes is None else value.transpose(self.axes)
        if self.squeezed:
            value = value.reshape([len(value), *(n for n in value.shape[1:] if n != 1)])
        if self.whole or (value.dtype.kind in "iu" and value.dtype != np.uint8):
            value = value.astype(np.int64)
        return np.ascontiguousarray(value)

    def text(self, at: int, name: str) -> str:
        """What was settled, in words; empty where it is as Keras has it."""
        said = []
        if self.called and self.called != name:
            said.append(f"PyTorch's {self.called}")
        if self.axes:
            said.append(f"with axes {list(self.axes)} of Keras'")
        said += ["without its axes of one"] * self.squeezed + ["as int64"] * self.whole
        return f"input {at} ({name}): {', '.join(said)}" if said else ""


def ways_in(
    inputs: dict[str, np.ndarray],
    indices: set[str],
    keras: Sequence[str],
    torch: Sequence[str],
    declared: Sequence[tuple[int, ...]] = (),
) -> Iterator[tuple[Taken, ...]]:
    """The ways in which PyTorch may take Keras' inputs, the likeliest first.

    Args:
        inputs: `input:0`, …, as Keras takes them, batch included.
        indices: those that are looked up in a table.
        keras, torch: what both call their inputs, in order; empty where they do not say.
        declared: the permutation of each input's axes, where the user says it.
    """
    checked(declared, [value.ndim for value in inputs.values()], "--input-axes", "inputs")
    names = _by_name(len(inputs), keras, torch)
    tried = set()
    for flipped in (False, True):
        for squeezed in (False, True):
            for whole in (False, True):
                way = []
                for at, (name, value) in enumerate(inputs.items()):
                    images = value.ndim > 3
                    ones = squeezed and 1 in value.shape[1:] and value.ndim > 1
                    moved = value.ndim > 2 and value.dtype.kind != "i" and images != flipped
                    moved &= not (ones and value.shape[-1] == 1)  # which is left out anyway
                    as_index = whole and name in indices and value.dtype.kind == "f"
                    axes = (0, value.ndim - 1, *range(1, value.ndim - 1)) if moved else None
                    axes = _permutation(declared[at]) if declared else axes
                    way.append(Taken(at, names[at], axes, ones, as_index))
                if tuple(way) not in tried:
                    tried.add(tuple(way))
                    yield tuple(way)


def checked(
    declared: Sequence[tuple[int, ...]], ranks: Sequence[int], flag: str, what: str
) -> None:
    """Raises `InputError` where permutations are declared that are none of these arrays' axes."""
    if not declared:
        return
    if len(declared) != len(ranks):
        raise InputError(f"{flag}: got {len(declared)} for {len(ranks)} {what}: give one for each")
    for axes, rank in zip(declared, ranks, strict=True):
        if sorted(axes) != list(range(rank)) or axes[:1] != (0,):
            raise InputError(
                f"{flag}: got {','.join(map(str, axes))} for {rank} axes, batch included: expected "
                f"the numbers 0 to {rank - 1} in the order of PyTorch's axes, 0 (the batch) first"
            )


def _permutation(declared: tuple[int, ...]) -> Axes:
    return None if list(declared) == sorted(declared) else declared


def renamed(graph: Graph, aliases: Mapping[str, str]) -> Graph:
    """Keras' graph, its inputs and outputs called as PyTorch calls them where the user says so.
    Raises `InputError` where it has none of a name."""
    kinds = ("input_names", "output_names")
    known = [name for kind in kinds for name in graph.semantics.get(kind, ())]
    for name in aliases:
        if name not in known:
            raise InputError(
                f"--alias: Keras has no input or output {name!r}{meant(name, known)} Expected "
                "KERAS_NAME=TORCH_NAME"
            )
    names = {
        kind: [aliases.get(name, name) for name in graph.semantics.get(kind, ())] for kind in kinds
    }
    return replace(graph, semantics={**graph.semantics, **names}) if aliases else graph


def _by_name(count: int, keras: Sequence[str], torch: Sequence[str]) -> list[str]:
    """For each of Keras' inputs what PyTorch calls it, where all are called alike; else nothing."""
    names = [_named(name, torch) for name in keras]
    alike = len(keras) == count and all(names) and len(set(names)) == count
    return names if alike else [""] * count


def _named(name: str, others: Sequence[str]) -> str:
    alike = next((each for each in ALIASES if name in each), {name})
    return next((other for other in others if other in alike), "")


def doubts_about(way: Sequence[Taken], inputs: dict[str, np.ndarray]) -> list[str]:
    """Inputs that agree only if steps and channels change places, and whose sizes are equal: a port
    that takes them so looks like one that forgot to transpose."""
    return [
        f"input {at} agrees if its axes are turned by {list(taken.axes)}, and equal sizes leave "
        "open whether that is PyTorch's convention or a mistake: give other sizes (--input-shape)"
        for at, (taken, value) in enumerate(zip(way, inputs.values(), strict=True))
        if taken.axes and value.ndim == 3 and value.shape[1] == value.shape[2]
    ]


def moved(inputs: dict[str, np.ndarray], way: Sequence[Taken]) -> dict[int, np.ndarray]:
    """By place, what PyTorch is given."""
    given = {
        taken.at: taken.to_torch(value) for taken, value in zip(way, inputs.values(), strict=True)
    }
    return dict(sorted(given.items()))


@dataclass(frozen=True)
class Given:
    """An output of both models.

    Attributes:
        keras, torch: its place among each side's outputs.
        name: what it is called; empty where only its place is known.
        axes: the permutation from Keras' axes to PyTorch's, batch included; None where alike.
    """

    keras: int
    torch: int
    name: str = ""
    axes: Axes = None

    def to_keras(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """PyTorch's in Keras' layout, where it can be; axes of one are as in `shape`."""
        if self.axes is not None and len(self.axes) == value.ndim:
            value = value.transpose(np.argsort(self.axes))
        if value.shape != shape and _without_ones(value.shape) == _without_ones(shape):
            value = value.reshape(shape)
        return np.ascontiguousarray(value)

    def text(self, at: int) -> str:
        said = [] if self.torch == self.keras else [f"PyTorch's output {self.torch}"]
        said += [f"with axes {list(self.axes)} of Keras'"] if self.axes else []
        return (
            f"output {at}{f' ({self.name})' if self.name else ''}: {', '.join(said)}"
            if said
            else ""
        )


@dataclass(frozen=True)
class Outputs:
    """All outputs of both models.

    Attributes:
        given: those that both have, in the order of Keras'.
        missing: what Keras gives out and PyTorch does not.
        spare: what PyTorch alone gives out: it decides nothing.
        doubts: where equal sizes leave open whether an output is transposed by convention or by
            mistake.
    """

    given: tuple[Given, ...]
    missing: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def by_name(keras: Graph, torch: Graph) -> Graph:
    """PyTorch's graph with its outputs in Keras' order, where both call them alike."""
    names = [list(g.semantics.get("output_names", ())) for g in (keras, torch)]
    if not names[0] or sorted(names[0]) != sorted(names[1]):
        return torch
    return replace(torch, outputs=tuple(torch.outputs[names[1].index(n)] for n in names[0]))


def pair_outputs(
    keras: Graph,
    torch: Graph,
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    moved: Collection[int] = (),
    declared: Sequence[tuple[int, ...]] = (),
) -> Outputs:
    """Which output is which, and how its axes run, from one run with the same numbers.

    By name where both sides name theirs, else by place; where PyTorch gives out more, Keras' only
    output is the one that agrees.

    Args:
        moved: the ranks of the inputs that PyTorch takes with their axes turned.
        declared: the permutation of each output's axes, where the user says it.
    """
    checked(declared, [value.ndim for value in ours], "--output-axes", "outputs")
    names = [list(g.semantics.get("output_names", ())) for g in (keras, torch)]
    pairs: list[tuple[int, int, str]] = []
    named = all(names) and set(names[0]) <= set(names[1])
    if named:
        pairs = [(at, names[1].index(name), name) for at, name in enumerate(names[0])]
    elif all(names) or len(ours) == 1 < len(theirs):  # names that say nothing of each other
        for at, value in enumerate(ours):
            free = [n for n in range(len(theirs)) if n not in {taken for _, taken, _ in pairs}]
            fits = [n for n in free if _axes(value, theirs[n], moved)[1]]
            shaped = [n for n in free if sorted(theirs[n].shape) == sorted(value.shape)]
            place = next(iter([*fits, *shaped, *free]), None)
            if place is not None:
                pairs.append((at, place, names[0][at] if names[0] else ""))
    else:
        pairs = [(at, at, "") for at in range(min(len(ours), len(theirs)))]
    given, doubts = [], []
    for left, right, name in pairs:
        axes, agree, doubtful = _axes(ours[left], theirs[right], moved)
        if declared:
            axes, doubtful = _permutation(declared[left]), False
        given.append(Given(left, right, name, axes))
        if doubtful and agree:
            doubts.append(
                f"output {left} agrees if its axes are turned by {list(axes or ())}, and equal "
                "sizes leave open whether that is PyTorch's convention or a mistake: give other "
                "sizes (--input-shape)"
            )
    lacking = [names[0][at] if names[0] else f"output {at}" for at in range(len(pairs), len(ours))]
    used = {each.torch for each in given}
    extra = [at for at in range(len(theirs)) if at not in used]
    spare = [names[1][at] if at < len(names[1]) else f"output {at}" for at in extra]
    return Outputs(tuple(given), tuple(lacking), tuple(spare), tuple(doubts))


def _axes(ours: np.ndarray, theirs: np.ndarray, moved: Collection[int]) -> tuple[Axes, bool, bool]:
    """The permutation that makes the numbers agree, else the likeliest by shape; whether they do;
    and whether equal sizes leave it in doubt."""
    rank = ours.ndim
    first: Axes = (0, rank - 1, *range(1, rank - 1)) if rank > 2 else None
    fits = [
        axes
        for axes in (None, first)
        if theirs.ndim == rank and _turned(ours, axes).shape == theirs.shape
    ]
    fits = list(dict.fromkeys(fits))
    if not fits:
        alike = _without_ones(ours.shape) == _without_ones(theirs.shape)
        return None, alike and close(ours.reshape(theirs.shape), theirs), False
    agreeing = [axes for axes in fits if close(_turned(ours, axes), theirs)]
    if agreeing:
        # Of a map the channels come first by convention; of steps and channels only sizes tell.
        convention = rank > 3 or rank in moved
        doubtful = len(fits) > 1 and agreeing[0] is not None and not convention
        return agreeing[0], True, doubtful
    return (fits[-1] if rank > 3 or moved else fits[0]), False, False


def _turned(value: np.ndarray, axes: Axes) -> np.ndarray:
    return value if axes is None else value.transpose(axes)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    if one.size == 0 or one.shape != other.shape:
        return False
    a, b = (np.nan_to_num(each.astype(np.float64)) for each in (one, other))
    return bool(np.abs(a - b).max() <= 1e-4 * max(np.abs(a).max(), 1e-300))


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:1], *(size for size in shape[1:] if size != 1))


def indices(graph: Graph) -> dict[str, int]:
    """The inputs that are looked up in a table, and the rows of the smallest of these."""
    rows: dict[str, int] = {}
    source = {f"{INPUT}{at}": f"{INPUT}{at}" for at in range(len(graph.inputs))}
    for node in graph.nodes:
        name = next((source[each] for each in node.inputs if each in source), None)
        if name is None:
            continue
        if node.kind == "embedding":
            own = [p.shape[0] for p in graph.parameters if p.layer == node.layer and p.shape]
            rows[name] = min([*own, rows.get(name, 1 << 62)])
        elif node.kind in ("flatten", "reshape", "permute", "identity", "select"):
            source[node.name] = name
    return rows
