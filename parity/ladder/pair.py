"""Two sides and every comparison of their probes, each made once, whichever level asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

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
from parity.ladder.sides import Side, reference_alone
from parity.probe import INPUT


class Pair:
    """`right` against the reference `left`. `free` and `alone` need a probe of both."""

    def __init__(self, left: Side, right: Side) -> None:
        self.left, self.right = left, right
        self.free = lru_cache(maxsize=None)(self._free)
        self.alone = lru_cache(maxsize=None)(self._alone)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @cached_property
    def allowance(self) -> Allowance:
        return Allowance(self.left, self.right)

    @cached_property
    def _reference(self) -> str:
        """By what name the right says that it was fed by the left."""
        return self.left.probe.digest if self.left.probe else ""

    def without(self, part: str) -> str:
        """The sides that lack a `probe` or a `recording`, in words; empty where none does."""
        return " and ".join(side.label for side in self.sides if getattr(side, part) is None)

    def lacking(self, precision: str) -> str:
        """The sides that probed nothing in a precision, likewise."""
        return " and ".join(s.label for s in self.sides if precision not in s.precisions())

    def _free(self, precision: str, kind: str) -> tuple[Measurement, ...]:
        """Every tensor of one kind of both networks as they are, in the left's order.

        What the left's layers say must be there, but is on neither side, abstains.
        """
        prefix = f"{precision}/free/{kind}"
        ours, theirs = (side.names(prefix) for side in self.sides)
        found = []
        for name in dict.fromkeys([*ours, *self._expected(kind), *theirs]):
            a, b = (side.tensor(f"{prefix}/{name}") for side in self.sides)
            shown = name if kind in ("activation", LOSS) else f"{kind} {name}"
            allowed = self.allowance.of(precision, kind, name)
            if a is None and b is None:
                found.append(Measurement(shown, ABSTAIN, f"{shown} was recorded on neither side"))
            elif wrong := _wrong_precision(precision, a, b):
                found.append(Measurement(shown, FAIL, allowed.reason, wrong))
            else:
                found.append(compare(shown, a, b, allowed))
        return (*found, *_misplaced(kind, ours, theirs))

    def _alone(self, precision: str, kind: str) -> dict[str, Measurement]:
        """What each layer of the right gives alone, fed with the left's tensors.

        By layer, or by parameter; only what the right recorded, and whose reference the left has.
        Layers that were fed by another reference than the left prove nothing here.
        """
        ours, theirs = self.left.probe, self.right.probe
        if ours is None or theirs is None or theirs.reference != self._reference:
            return {}
        found = {}
        for name in self.right.names(f"{precision}/isolated/{kind}"):
            reference = reference_alone(self.left, self.right, precision, kind, name)
            if reference is not None:
                own = self.right.tensor(f"{precision}/isolated/{kind}/{name}")
                allowed = self.allowance.alone(precision, kind, name)
                found[name] = compare(f"{kind} of {name} alone", reference, own, allowed)
        return found

    def _expected(self, kind: str) -> list[str]:
        """What a probe must hold of one kind; upstream gradients only help to find the origin."""
        assert self.left.probe is not None
        if kind == "activation":
            return [layer.name for layer in self.left.probe.layers]
        if kind in ("loss", "upstream"):
            return [LOSS] if kind == "loss" else []
        more = {"gradient": [INPUT], "trajectory": [LOSS]}.get(kind, [])
        return [*self.left.parameters(), *more]


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
