"""Where a difference starts: the first wrong weights, layers or step, and the likely causes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parity.ladder.floors import LOSS
from parity.ladder.measure import FAIL
from parity.ladder.mismatches import FOLLOWING, MISSING, SEVERE, Mismatch
from parity.ladder.pair import Pair
from parity.ladder.placing import OPEN, Step, apart
from parity.ladder.results import CARRIED, ORIGIN, UNDECIDED, LevelResult, Origin
from parity.ladder.sides import PRECISIONS
from parity.ladder.trajectory import BY_STEP, COUNT, FINAL, SHORT, first_beyond
from parity.ladder.transfer import AS_DRAWN, INITIAL
from parity.probe import INPUT

RANK = (ORIGIN, UNDECIDED, CARRIED)
# Where a difference starts that no layer makes, and the sections that declare its likely causes.
CAUSES = {
    INPUT: ("data", "batches", "experiment"),
    LOSS: ("loss", "batches", "data"),
    "optimizer": ("optimizer",),
    "training": ("batches", "data", "optimizer", "loss", "experiment"),
}


def find(
    pair: Pair, results: Sequence[LevelResult], mismatches: Sequence[Mismatch]
) -> tuple[Origin, ...]:
    """Every place that differs, once, with its strongest status; origins first, in forward order.

    `results` are those of all levels. In float32 only what float64 did not place already.
    """
    found: dict[str, Origin] = {}
    for origin in _at_transfer(results):
        _keep(found, origin)
    probe = pair.left.probe
    layers = [layer.name for layer in probe.layers] if probe and pair.right.probe else []
    for precision in PRECISIONS if layers else ():
        if not pair.lacking(precision):
            for origin in Step(pair, precision).origins():
                _keep(found, origin)
    for origin in _at_structure(mismatches, layers):
        _keep(found, origin)
    explained = any(origin.status == ORIGIN for origin in found.values())
    for origin in _at_training(pair, results, explained):
        _keep(found, origin)
    order = [INPUT, *layers, *found]  # what is no layer comes last, as it was found
    linked = [_with_causes(origin, mismatches) for origin in found.values()]
    return tuple(sorted(linked, key=lambda o: (RANK.index(o.status), order.index(o.where))))


def _at_structure(mismatches: Sequence[Mismatch], layers: Sequence[str]) -> Iterator[Origin]:
    """Layers that a side has alone or in another place: each may agree alone, as far as it is."""
    for each in mismatches:
        alone = each.key == "kind" and MISSING in (each.left, each.right)
        if layers and (alone or each.key == "order"):
            yield Origin(ORIGIN, each.where, "structure", None, each.text)


def _at_transfer(results: Sequence[LevelResult]) -> Iterator[Origin]:
    """Weights that arrive wrong: in what the networks start from, nothing is carried."""
    for result in (each for each in results if each.level == "transfer"):
        for each in result.tensors:
            if each.verdict != FAIL:
                continue
            name = each.name.removeprefix(INITIAL).removesuffix(AS_DRAWN)
            where, _, parameter = name.rpartition(".")
            text = f"its {each.name.replace(name, parameter)} {apart(each)} before any step"
            numbers = each.absolute, each.tolerance
            yield Origin(ORIGIN, where or name, "transfer", result.precision, text, *numbers)


def _at_training(pair: Pair, results: Sequence[LevelResult], explained: bool) -> Iterator[Origin]:
    """The first step that leaves the tolerance, then the first tensor beyond it at the end."""
    for result in (each for each in results if each.level == "trajectory"):
        failing = [each for each in result.tensors if each.verdict == FAIL]
        if not failing:
            continue
        parts = [each.problem for each in failing if each.name == COUNT]
        if beyond := first_beyond(pair, result):
            step, values = beyond
            parts.append(f"step {step} is the first beyond, loss {values}")
        losses = (COUNT, BY_STEP, SHORT + LOSS)
        others = [each.name for each in failing if each.name not in losses]
        at_end = [name for name in others if name.startswith((FINAL, SHORT))]
        if at_end:
            name = at_end[0].removeprefix(FINAL).removeprefix(SHORT)
            parts.append(f"after the last step {name} is the first tensor beyond")
        elif others:
            parts.append(f"{others[0]} is the first number beyond")
        first = next((each for each in failing if each.name != COUNT), failing[0])
        status = CARRIED if explained else ORIGIN
        text = ", ".join(parts) or first.problem
        numbers = first.absolute, first.tolerance
        yield Origin(status, "training", "trajectory", result.precision, text, *numbers)


def _keep(found: dict[str, Origin], origin: Origin) -> None:
    """One entry per place: the first of the strongest status."""
    known = found.get(origin.where)
    if known is None or RANK.index(origin.status) < RANK.index(known.status):
        found[origin.where] = origin


def _with_causes(origin: Origin, mismatches: Sequence[Mismatch]) -> Origin:
    """Link what the sides declare differently of this place.

    That decides what numbers could not: a layer declared differently makes a difference; one whose
    shape is another, and that is declared alike, has got another shape to work on.
    """
    if origin.status == CARRIED:
        return origin
    sections = CAUSES.get(origin.where, ())
    own = [
        each
        for each in mismatches
        if each.severity == SEVERE
        and each.text != origin.text
        and (
            each.where == origin.where
            or each.where.rpartition(".")[0] == origin.where
            or each.where in sections
        )
    ]
    made = [each for each in own if each.key not in FOLLOWING]
    status, own = origin.status, made or own
    text = origin.text
    if status == UNDECIDED and own:
        status, text = ORIGIN if made else CARRIED, text.partition(OPEN)[0]
    return replace(
        origin,
        status=status,
        text=text,
        causes=tuple(each.text for each in own),
        remedies=tuple(dict.fromkeys(each.remedy for each in own)),
    )
