"""Which layers of one step make a difference and which only carry it: `origin` puts it together.

A layer is an *origin* if it goes wrong alone, fed with what the reference's layer got, or, where
it was not run alone, if in the net its inputs agree and its output does not. It *carries* a
difference if in the net its output differs, but alone it agrees. A parameter's gradient is judged
likewise: its inputs are the layer's input and the gradient by the layer's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parity.ladder import numbers
from parity.ladder.floors import LOSS
from parity.ladder.measure import FAIL, PASS, Measurement
from parity.ladder.pair import Pair
from parity.ladder.results import CARRIED, ORIGIN, UNDECIDED, Origin, listed
from parity.probe import INPUT, Layer

OPEN = ", as its "  # in a text, begins what is not decided
NEEDS_REFERENCE = "record the right side with --reference LEFT to decide"


class Step:
    """One step's numbers in one precision: which agree in the net, which alone."""

    def __init__(self, pair: Pair, precision: str) -> None:
        probes = [side.probe for side in pair.sides if side.probe]
        self.layers, self.precision = probes[0].layers, precision
        batches = [probe.semantics.get("batches") or {} for probe in probes]
        self.same_images = batches[0].get("probe") == batches[1].get("probe")
        self.free = {
            kind: {each.name.rpartition(" ")[2]: each for each in pair.free(precision, kind)}
            for kinds in numbers.FREE.values()
            for kind in kinds
        }
        self.alone = {
            kind: pair.alone(precision, kind) for kinds in numbers.ALONE.values() for kind in kinds
        }

    def origins(self) -> Iterator[Origin]:
        for layer in self.layers:
            yield from self._forward(layer)
        yield from self._images()
        yield from self._loss()
        for layer in reversed(self.layers):
            yield from self._backward(layer)
            for name in layer.parameters:
                yield from self._parameter(layer, name)
        yield from self._update()

    def _forward(self, layer: Layer) -> Iterator[Origin]:
        free = self.free["activation"].get(layer.name)
        alone = self.alone["activation"].get(layer.name)
        into = self._inputs(layer)
        yield from self._place(layer.name, "forward", "output", "input", free, alone, into)

    def _backward(self, layer: Layer) -> Iterator[Origin]:
        """By the gradient that a layer hands to the layer before it."""
        before = layer.inputs[0] if layer.inputs else INPUT
        free = (
            self.free["gradient"].get(INPUT)
            if before == INPUT
            else self.free["upstream"].get(before)
        )
        alone = self.alone["upstream"].get(layer.name)
        what = "gradient by its input"
        yield from self._place(
            layer.name, "gradient", what, "gradient by its output", free, alone, self._into(layer)
        )

    def _parameter(self, layer: Layer, name: str) -> Iterator[Origin]:
        free, alone = self.free["gradient"].get(name), self.alone["gradient"].get(name)
        what = f"gradient by its {name.rpartition('.')[2]}"
        yield from self._place(
            layer.name, "gradient", what, "gradient by its output", free, alone, self._into(layer)
        )

    def _into(self, layer: Layer) -> list[Measurement | None]:
        """What a layer's backward pass starts from: the gradient by its output, its input."""
        return [self.free["upstream"].get(layer.name), *self._inputs(layer)]

    def _inputs(self, layer: Layer) -> list[Measurement | None]:
        """Its inputs in the net. Images were not recorded; None stands for ones that differ."""
        known = [self.free["activation"].get(name) for name in layer.inputs if name != INPUT]
        return known + ([None] if INPUT in layer.inputs and not self.same_images else [])

    def _place(
        self,
        where: str,
        level: str,
        what: str,
        source: str,
        free: Measurement | None,
        alone: Measurement | None,
        into: Sequence[Measurement | None],
    ) -> Iterator[Origin]:
        """Judge one tensor by how it compares alone, else by what went into it in the net."""
        if alone is not None and alone.verdict == FAIL:
            said = f"{what} {apart(alone)} while its {source} {_agreement(into)}"
            yield self._origin(ORIGIN, where, level, said, alone)
        elif free is not None and free.verdict == FAIL:
            agree = all(each is not None and each.verdict == PASS for each in into)
            said = f"{what} {apart(free)}"
            if alone is not None and alone.verdict == PASS:
                yield self._origin(CARRIED, where, level, f"{said}, alone it agrees", free)
            elif agree:
                said += f" while its {source} {_agreement(into)}"
                yield self._origin(ORIGIN, where, level, said, free)
            else:
                said += f"{OPEN}{source} may be: {NEEDS_REFERENCE}"
                yield self._origin(UNDECIDED, where, level, said, free)

    def _images(self) -> Iterator[Origin]:
        """A layer on the images that agrees alone and differs in the net got other images."""
        for layer in self.layers:
            free = self.free["activation"].get(layer.name)
            alone = self.alone["activation"].get(layer.name)
            if layer.inputs != (INPUT,) or free is None or free.verdict != FAIL:
                continue
            if alone is not None and alone.verdict == PASS:
                said = f"{layer.name} is {apart(free)}, but agrees on the reference's images"
                yield self._origin(ORIGIN, INPUT, "forward", said, free)
            elif alone is None and not self.same_images:
                said = f"the sides were fed other bytes, and {layer.name} is {apart(free)}"
                yield self._origin(ORIGIN, INPUT, "forward", said, free)

    def _loss(self) -> Iterator[Origin]:
        loss = self.free["loss"].get(LOSS)
        logits = self.free["activation"].get(self.layers[-1].name)
        by_logits = self.free["upstream"].get(self.layers[-1].name)
        for what, level, free in (("value", "loss", loss), ("gradient", "gradient", by_logits)):
            if free is None or free.verdict != FAIL or logits is None:
                continue
            said = "gradient by the logits" if what == "gradient" else "value"
            if logits.verdict == PASS:
                text = f"{said} {apart(free)} while its input {_agreement([logits])}"
                yield self._origin(ORIGIN, LOSS, level, text, free)
            else:
                text = f"{said} {apart(free)}, as the logits are"
                yield self._origin(CARRIED, LOSS, level, text, free)

    def _update(self) -> Iterator[Origin]:
        """Parameters whose gradient agrees and whose update does not; many are the optimizer's."""
        found: list[Origin] = []
        for layer in self.layers:
            for name in layer.parameters:
                gradient = self.free["gradient"].get(name)
                wrong = next((m for m in self._after_step(name) if m.verdict == FAIL), None)
                if wrong is None or gradient is None:
                    continue
                said = f"{wrong.name.rpartition(' ')[0]} of {name} {apart(wrong)}"
                agrees = gradient.verdict == PASS
                said += f" while its gradient {_agreement([gradient])}" if agrees else ""
                status = ORIGIN if agrees else CARRIED
                found.append(self._origin(status, layer.name, "update", said, wrong))
        layers = list(dict.fromkeys(each.where for each in found if each.status == ORIGIN))
        if len(layers) > 1:
            first = next(each for each in found if each.status == ORIGIN)
            said = f"{first.text}; likewise in {listed(layers[1:])}"
            yield replace(first, where="optimizer", text=said)
            found = [replace(each, status=CARRIED) for each in found]
        yield from found

    def _after_step(self, name: str) -> list[Measurement]:
        kinds = ("moment1", "moment2", "update")
        return [self.free[kind][name] for kind in kinds if name in self.free[kind]]

    def _origin(self, status: str, where: str, level: str, text: str, by: Measurement) -> Origin:
        return Origin(status, where, level, self.precision, text, by.absolute, by.tolerance)


def apart(measurement: Measurement) -> str:
    """`0.31 apart`, or why there is no number."""
    if measurement.problem:
        return f"differs ({measurement.problem})"
    return f"{measurement.absolute:.2g} apart"


def _agreement(into: Sequence[Measurement | None]) -> str:
    """How well the inputs in the net agree; where they do not, it was fed the reference's."""
    known = [each for each in into if each is not None]
    if len(known) < len(into) or any(each.verdict != PASS for each in known):
        return "is the reference's"
    largest = max((each.absolute or 0.0 for each in known), default=0.0)
    return f"agrees to {largest:.0e}" if largest else "is the same"
