"""The levels `forward`, `loss`, `gradient` and `update`: every tensor of one step, per precision.

Each compares the two networks running freely and, where the right side was recorded with the left
as `--reference`, its layers alone, fed with what the left's layers got.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity.ladder.allowance import Allowance
from parity.ladder.floors import LOSS
from parity.ladder.measure import (
    ABSTAIN,
    FAIL,
    Measurement,
    Tensor,
    compare,
    differing_names,
)
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.sides import PRECISIONS, Side
from parity.probe import INPUT

FREE = {
    "forward": ("activation",),
    "loss": ("loss",),
    "gradient": ("upstream", "gradient"),
    "update": ("update", "moment1", "moment2"),
}
ALONE = {"forward": ("activation",), "gradient": ("upstream", "gradient")}
NO_PROBE = "no probe of {}: record it without --no-probe"
NO_PRECISION = "nothing was probed in {} on {}"


def level(name: str) -> Callable[[Side, Side], list[LevelResult]]:
    """The function of one of the levels in `FREE`."""

    def judge(left: Side, right: Side) -> list[LevelResult]:
        if lacking := [side.label for side in (left, right) if not side.probe]:
            return [abstain(name, NO_PROBE.format(" and ".join(lacking)))]
        allowance = Allowance(left, right)
        return [_judge(name, left, right, precision, allowance) for precision in PRECISIONS]

    return judge


def free(
    left: Side, right: Side, precision: str, kind: str, allowance: Allowance
) -> list[Measurement]:
    """Every tensor of one kind of both networks as they are, in the left's order.

    What the left's layers say must be there, but is on neither side, abstains.
    """
    prefix = f"{precision}/free/{kind}"
    ours, theirs = left.names(prefix), right.names(prefix)
    found = []
    for name in dict.fromkeys([*ours, *_expected(left, kind), *theirs]):
        a, b = (side.tensor(f"{prefix}/{name}") for side in (left, right))
        shown = name if kind == "activation" else f"{kind} {name}"
        if a is None and b is None:
            found.append(Measurement(shown, ABSTAIN, f"{shown} was recorded on neither side"))
        else:
            wrong = _wrong_precision(precision, a, b)
            allowed = allowance.of(precision, kind, name)
            found.append(
                Measurement(shown, FAIL, allowed.reason, wrong)
                if wrong
                else compare(shown, a, b, allowed)
            )
    return found + _misplaced(kind, ours, theirs)


def alone(
    left: Side, right: Side, precision: str, kind: str, allowance: Allowance
) -> dict[str, Measurement]:
    """What each layer of the right gives alone, fed with the left's tensors, by layer or parameter.

    Only what the right recorded, and whose reference the left holds.
    """
    found = {}
    for name in right.names(f"{precision}/isolated/{kind}"):
        target = reference_of(left, kind, name)
        if target is None:
            continue
        reference = left.tensor(f"{precision}/free/{target}")
        own = right.tensor(f"{precision}/isolated/{kind}/{name}")
        if reference is not None:
            allowed = allowance.alone(precision, kind, name, reference)
            found[name] = compare(f"{kind} of {name} alone", reference, own, allowed)
    return found


def reference_of(left: Side, kind: str, name: str) -> str | None:
    """`kind/name` of the left's free tensor that a layer alone must reproduce.

    A layer's `upstream` is there by its input. Where another layer reads that input too, the
    reference's holds both parts, and there is nothing to compare with.
    """
    assert left.probe is not None
    layers = {layer.name: layer for layer in left.probe.layers}
    if kind == "gradient":
        known = name in left.parameters()
        return f"gradient/{name}" if known else None
    if name not in layers or kind == "activation":
        return f"activation/{name}" if name in layers else None
    inputs = layers[name].inputs
    readers = [layer for layer in layers.values() if set(inputs) & set(layer.inputs)]
    if len(inputs) != 1 or len(readers) != 1:
        return None
    return f"gradient/{INPUT}" if inputs[0] == INPUT else f"upstream/{inputs[0]}"


def _judge(name: str, left: Side, right: Side, precision: str, allowance: Allowance) -> LevelResult:
    lacking = [side.label for side in (left, right) if precision not in side.precisions()]
    if lacking:
        return abstain(name, NO_PRECISION.format(precision, " and ".join(lacking)), precision)
    found = []
    for kind in FREE[name]:
        found += free(left, right, precision, kind, allowance)
    for kind in ALONE.get(name, ()):
        found += alone(left, right, precision, kind, allowance).values()
    return summarise(name, precision, found)


def _expected(left: Side, kind: str) -> list[str]:
    """What a probe must hold of one kind; upstream gradients only help to find the origin."""
    assert left.probe is not None
    if kind == "activation":
        return [layer.name for layer in left.probe.layers]
    if kind == "loss":
        return [LOSS]
    if kind == "upstream":
        return []
    return left.parameters() + ([INPUT] if kind == "gradient" else [])


def _wrong_precision(precision: str, left: Tensor | None, right: Tensor | None) -> str:
    """A float32 tensor under the name of float64 proves nothing."""
    types = [str(side.values.dtype) if side else precision for side in (left, right)]
    if set(types) == {precision}:
        return ""
    return f"recorded as {precision}, but of type {types[0]} on the left, {types[1]} on the right"


def _misplaced(kind: str, left: Sequence[str], right: Sequence[str]) -> list[Measurement]:
    """Missing and extra tensors are found one by one; another order is found here."""
    words = [each for each in differing_names(left, right) if each.startswith("another order")]
    return [Measurement(f"{kind} order", FAIL, "nothing may be reordered", each) for each in words]
