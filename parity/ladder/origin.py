"""Where a difference starts: the first wrong weights, layers, step; and what is its likely cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parity.ladder import training, transfer
from parity.ladder.allowance import Allowance
from parity.ladder.floors import LOSS
from parity.ladder.measure import FAIL
from parity.ladder.mismatches import FAIL as SEVERE
from parity.ladder.mismatches import Mismatch
from parity.ladder.placing import CARRIED, ORIGIN, UNDECIDED, Origin, Step, apart
from parity.ladder.sides import PRECISIONS, Side
from parity.ladder.transfer import AS_DRAWN
from parity.probe import INPUT

__all__ = ["CARRIED", "ORIGIN", "UNDECIDED", "Origin", "find"]

RANK = (ORIGIN, UNDECIDED, CARRIED)
# Where a difference starts that no layer makes, and the sections that declare its likely causes.
CAUSES = {
    INPUT: ("data", "batches", "experiment"),
    LOSS: ("loss", "batches", "data"),
    "optimizer": ("optimizer",),
    "training": ("batches", "data", "optimizer", "loss", "experiment"),
}
CONSEQUENCES = ("inputs", "output_shape")


def find(left: Side, right: Side, mismatches: Sequence[Mismatch]) -> tuple[Origin, ...]:
    """Every place that differs, once, with its strongest status; origins first, then by level.

    In float32 only what float64 did not place already.
    """
    found: dict[str, Origin] = {}
    for precision in PRECISIONS:
        for origin in _at_transfer(left, right, precision):
            _keep(found, origin)
    if left.probe and right.probe and left.probe.layers:
        allowance = Allowance(left, right)
        for precision in PRECISIONS:
            if precision in left.precisions() & right.precisions():
                for origin in Step(left, right, precision, allowance).origins():
                    _keep(found, origin)
    for origin in _at_training(left, right, any(o.status == ORIGIN for o in found.values())):
        _keep(found, origin)
    ordered = sorted(found.values(), key=lambda each: RANK.index(each.status))  # stable
    return tuple(_with_causes(origin, mismatches) for origin in ordered)


def _at_transfer(left: Side, right: Side, precision: str) -> Iterator[Origin]:
    """Weights that arrive wrong: in what the networks start from, nothing is carried."""
    measured = transfer.probed(left, right, precision) + transfer.recorded(left, right, precision)
    for each in measured:
        if each.verdict == FAIL:
            name = each.name.removeprefix("initial ").removesuffix(AS_DRAWN)
            where, _, parameter = name.rpartition(".")
            text = f"its {each.name.replace(name, parameter)} {apart(each)} before any step"
            yield Origin(
                ORIGIN, where or name, "transfer", precision, text, each.absolute, each.tolerance
            )


def _at_training(left: Side, right: Side, explained: bool) -> Iterator[Origin]:
    """The first step that leaves the tolerance, then the first tensor beyond it at the end."""
    for level in training.trajectory(left, right):
        failing = [each for each in level.tensors if each.verdict == FAIL]
        if not failing:
            continue
        first = next((each for each in failing if each.name != "training"), failing[0])
        counts = [each.problem for each in failing if each.name == "training"]
        parts = [*counts, *_first_step(left, right, level.precision)]
        tensors = [each.name for each in failing if LOSS not in each.name.split(" ")]
        tensors = [name.rpartition(" ")[2] for name in tensors if name != "training"]
        if tensors:
            parts.append(f"after the last step {tensors[0]} is the first tensor beyond")
        status = CARRIED if explained else ORIGIN
        text = ", ".join(parts) or first.problem
        yield Origin(
            status, "training", "trajectory", level.precision, text, first.absolute, first.tolerance
        )


def _first_step(left: Side, right: Side, precision: str | None) -> Iterator[str]:
    """Of the whole training, else of the probes' short one."""
    pair = training.whole_losses(left, right)
    step = training.first_beyond(*pair) if pair else None
    if pair is None or step is None:
        short = [side.tensor(f"{precision}/free/trajectory/{LOSS}") for side in (left, right)]
        if short[0] is None or short[1] is None or not left.probe or not right.probe:
            return
        allowed = Allowance(left, right).of(precision or "", "trajectory", LOSS)
        pair = short[0], short[1], allowed
        step = training.first_beyond(*pair)
    if step is not None:
        values = [float(side.values[step - 1]) for side in pair[:2]]
        yield f"step {step} is the first beyond, loss {values[0]:.9g} against {values[1]:.9g}"


def _keep(found: dict[str, Origin], origin: Origin) -> None:
    """One entry per place: the first of the strongest status."""
    known = found.get(origin.where)
    if known is None or RANK.index(origin.status) < RANK.index(known.status):
        found[origin.where] = origin


def _with_causes(origin: Origin, mismatches: Sequence[Mismatch]) -> Origin:
    """Link what the sides declare differently of this place."""
    if origin.status == CARRIED:
        return origin
    sections = CAUSES.get(origin.where, ())
    own = [
        each
        for each in mismatches
        if each.severity == SEVERE
        and (
            each.where == origin.where
            or each.where.rpartition(".")[0] == origin.where
            or each.where in sections
        )
    ]
    own = [each for each in own if each.key not in CONSEQUENCES] or own
    return replace(
        origin,
        causes=tuple(each.text for each in own),
        remedies=tuple(dict.fromkeys(each.remedy for each in own)),
    )
