"""Where a difference starts: between cut points that agree on what goes in, not on what comes out.

PyTorch is run once more, each of its calls that has a partner on Keras' numbers, so that what lies
behind one difference shows its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.check import cuts
from parity.check.graph import INPUT, Graph
from parity.check.levels import Comparison
from parity.check.matching import Match, Matching
from parity.check.trace import Trace
from parity.ladder.measure import FAIL, Measurement
from parity.ladder.results import LevelResult

CLOSED = {"relu": (0, np.inf), "relu6": (0, 6)}  # activations, and between what they are open


@dataclass(frozen=True)
class Origin:
    """Where a difference starts: a layer on both sides, the level that shows it, and where in the
    port's code the layer is called."""

    keras: str
    torch: str
    level: str
    text: str
    line: str = ""

    @property
    def names(self) -> str:
        """Of both sides; of one, where the other has nothing there."""
        return " / ".join(filter(None, (self.keras, self.torch)))


class Inside:
    """What two runs have between their ends; `forced` is PyTorch's run on Keras' numbers."""

    def __init__(
        self,
        comparison: Comparison,
        graphs: tuple[Graph, Graph],
        matching: Matching,
        forced: Trace | None,
        trains: bool,
    ) -> None:
        self.comparison, self.graphs = comparison, graphs
        self.matching, self.forced = matching, forced
        self.mode = "training" if trains and comparison.keras.names("training") else "forward"
        self.cuts = cuts.cut_points(comparison.keras, comparison.torch, self.mode)
        seen = comparison.keras.names(self.mode), comparison.torch.names(self.mode)
        known = set(self.cuts), {name for names in self.cuts.values() for name in names}
        self.parted = [cuts.parted(*each) for each in zip(graphs, known, seen, strict=True)]

    def origins(self, results: Sequence[LevelResult]) -> list[Origin]:
        """In forward order. Calls that one side lacks are named where nothing else is; parameters
        that part by training alone, where nothing before that level differs."""
        failing = [each for each in results if each.verdict == FAIL]
        first = next((e for e in failing if e.level not in ("structure", "transfer")), None)
        if first is None:
            return []
        if first.level in ("buffers", "update", "trajectory"):
            return self._by_training(first)
        found = self._by_numbers()
        if first.level in ("forward", "loss"):  # what comes back explains no output
            forward = [each for each in found if each.level == "forward"]
            return forward or self._starts(first.level) or self._behind(first) or found
        if first.level == "gradient":
            return found or self._starts(first.level) or self._before()
        return found or self._starts(first.level)

    def _by_training(self, level: LevelResult) -> list[Origin]:
        """What is trained on one side alone, or else the parameters that differ after steps with
        the same gradients."""
        weights = self.comparison.weights
        spare = sorted(weights.spare - weights.buffers)
        if spare and level.level == "trajectory":
            said = "trained, and Keras has none"
            return [Origin(weights.owners[n], n, level.level, said) for n in spare]
        apart = [each for each in level.tensors if each.verdict == FAIL]
        named = [(each.name.partition(" ")[2], each) for each in apart]
        return [
            Origin(weights.owners[name], name, level.level, _apart(each))
            for name, each in named
            if name in weights.owners
        ]

    def strain(self, forced: Trace) -> dict[str, tuple[int, float]]:
        """By Keras node, how far its partner is from it on its numbers: output, what it hands back,
        gradients and statistics. How many cannot be compared; and the others' differences, each in
        units of its tolerance, summed."""
        outputs, back = (self._nodes(forced, f"forced/{kind}") for kind in ("training", "upstream"))
        weights, owned = self.comparison.weights, defaultdict[str, list[Measurement]](list)
        for prefix in ("gradient", "update"):
            if not self.comparison.keras.names(prefix):
                continue
            for name, each in self.comparison.parameters(prefix, forced).items():
                if prefix == "gradient" or name in weights.buffers:
                    owned[weights.owners[name]].append(each)
        found = {}
        for name, match in self.matching.by_keras.items():
            inputs = [back[n] for n in match.keras.inputs if n in back]
            near = [outputs.get(name), *inputs, *owned[match.keras.layer]]
            known = [e for e in near if e is not None and e.absolute is not None]
            excess = [(e.absolute or 0.0) / max(e.tolerance or 0.0, 1e-300) for e in known]
            found[name] = (len(near) - len(known), sum(excess))
        return found

    def _starts(self, level: str) -> list[Origin]:
        """The first calls on both sides behind which nothing agrees."""
        ours, theirs = (
            cuts.starts(graph, apart) for graph, apart in zip(self.graphs, self.parted, strict=True)
        )
        partners = self.matching.by_keras
        found = []
        for name in ours:
            partner = partners[name].torch.name if name in partners else ""
            if not partner and len(ours) == len(theirs) == 1:
                partner = theirs[0]
            found.append(Origin(name, partner, level, "its inputs agree and its output does not"))
        if not found:
            found = [
                Origin("", n, level, "its inputs agree, its output is nowhere") for n in theirs
            ]
        return found

    def _behind(self, level: LevelResult) -> list[Origin]:
        """Outputs that differ though the calls that gave them agree: what is done behind these is
        no call of the graph, since inference does without it."""
        outputs = {f"output {at}": each for at, each in enumerate(self.comparison.outputs.given)}
        failing = {m.name for m in level.tensors if m.verdict == FAIL}  # of the first batch
        keras, torch = (graph.outputs for graph in self.graphs)
        said = f"it agrees in {self.mode}, and what is given out behind it does not"
        return [
            Origin(keras[each.keras], torch[each.torch], level.level, said)
            for name, each in outputs.items()
            if failing & {name, f"{name} in training mode"}
            and torch[each.torch] in self.cuts.get(keras[each.keras], ())
        ]

    def _before(self) -> list[Origin]:
        """The last call whose gradient differs though those that read it have the same ones."""
        apart = [
            name
            for name, each in self._nodes(self.comparison.torch, "upstream").items()
            if each.verdict == FAIL
        ]
        graph, said = self.graphs[0], "the gradient that comes back to it differs"
        for name in reversed(apart):
            behind = {node.name for node in graph.nodes if name in node.inputs}
            if not behind & set(apart):
                theirs = self.matching.by_keras[name].torch.name
                return [Origin(name, theirs, "gradient", said)]
        return []

    def _by_numbers(self) -> list[Origin]:
        if self.forced is None:
            return []
        found: dict[str, Origin] = {}
        partners, sources = self.matching.by_keras, self.matching.sources
        apart = set(self.parted[0])
        free, alone = self._nodes(self.comparison.torch, "training"), self._forced("training")
        sizes = {n for n, each in free.items() if "shape" in each.problem}
        for name in partners:
            each = alone.get(name) or free.get(name)
            differs = each is not None and each.verdict == FAIL
            if name not in apart or not (differs or name in sizes):
                continue
            if name in sources and not sizes & set(sources[name]):
                said = _apart(each) if each is not None and differs else free[name].problem
                found[name] = self._missing(name, said) or Origin(
                    name, partners[name].torch.name, "forward", said
                )
        owners = self.comparison.weights.owners
        layers = {partners[name].keras.layer for name in found}
        for parameter, each in self.comparison.parameters("gradient", self.forced).items():
            owner = owners.get(parameter, "")
            free_run = self.comparison.gradients.get(parameter)
            agrees = free_run is not None and free_run.verdict != FAIL
            if each.verdict == FAIL and owner not in {"", *layers} and not agrees:
                found[parameter] = Origin(owner, parameter, "gradient", _apart(each))
        for name, each in self._forced("upstream").items():
            readers = self.matching.readers.get(name, ())
            known = any(m.keras.name in found or m.keras.layer in layers for m in readers)
            if each.verdict == FAIL and readers and not known and not self._agrees_upstream(name):
                first = readers[0]
                found[f"upstream {name}"] = Origin(
                    first.keras.name, first.torch.name, "gradient", f"by its input: {_apart(each)}"
                )
        return list(found.values())

    def _missing(self, name: str, said: str) -> Origin | None:
        """Where Keras has a call before this one that PyTorch has not, and PyTorch nothing that
        could stand for it, that call is what is missing."""
        partners, torch = self.matching.by_keras, self.graphs[1]
        theirs = {each.torch.name: each for each in partners.values()}
        inputs = torch.node(partners[name].torch.name).inputs
        if any(n not in theirs and not n.startswith(INPUT) for n in inputs):
            return None
        calls = {node.name: node for node in self.graphs[0].nodes}
        for before in (calls[n] for n in calls[name].inputs if n in calls and n not in partners):
            known = [partners[n].torch.name for n in before.inputs if n in partners]
            if before.name in self.parted[0] and known:
                return Origin(before.name, known[0], "forward", f"nothing for it; {name}: {said}")
        return None

    def _agrees_upstream(self, name: str) -> bool:
        """Whether in the free run the gradient by a call's output is the same."""
        match = self.matching.by_keras[name]
        left = self.comparison.keras.tensors.get(f"upstream/{match.keras.name}")
        right = self.comparison.torch.tensors.get(f"upstream/{match.torch.name}")
        if left is None or right is None:
            return False
        return self._node(match, "upstream", left, right).verdict != FAIL

    def _forced(self, kind: str) -> dict[str, Measurement]:
        """By Keras node: PyTorch's own where all that it gets is Keras'."""
        assert self.forced is not None
        return self._nodes(self.forced, f"forced/{kind}")

    def _nodes(self, torch: Trace, below: str) -> dict[str, Measurement]:
        kind, found = below.removeprefix("forced/"), {}
        for each in self.matching.matches:
            left = self.comparison.keras.tensors.get(f"{kind}/{each.keras.name}")
            right = torch.tensors.get(f"{below}/{each.torch.name}")
            if left is not None and right is not None:
                found[each.keras.name] = self._node(each, kind, left, right)
        return found

    def _node(self, match: Match, kind: str, left: np.ndarray, right: np.ndarray) -> Measurement:
        """Compared in Keras' layout, in which the element is named."""
        try:
            theirs = match.to_keras(right)
        except ValueError:  # another size: `compare` says so
            theirs = right
        comparison = self.comparison
        floor = max(
            comparison.keras.floors.get(f"{kind}/{match.keras.name}", 0.0),
            comparison.torch.floors.get(f"{kind}/{match.torch.name}", 0.0),
        )
        name = match.keras.name if kind != "upstream" else f"upstream {match.keras.name}"
        if kind == "upstream" and match.keras.kind in CLOSED:  # where it is shut, nothing goes back
            low, high = CLOSED[match.keras.kind]
            given = comparison.keras.tensors[f"{self.mode}/{match.keras.name}"]
            if given.shape == left.shape == theirs.shape:
                opened = (given > low) & (given < high)
                left, theirs = np.where(opened, left, 0), np.where(opened, theirs, 0)
        theirs = np.ascontiguousarray(theirs)
        return comparison.compared(name, left, theirs, lambda a: comparison._allowed(a, floor))


def laid_out(matching: Matching, keras: Trace, torch: Trace, mode: str) -> Iterator[Match]:
    """The matches, with the order of axes that their numbers tell where they agree."""
    for match in matching.matches:
        left = keras.tensors.get(f"{mode}/{match.keras.name}")
        right = torch.tensors.get(f"{mode}/{match.torch.name}")
        if left is None or right is None or left.shape == () or match.flattened:
            yield match
            continue
        axes = cuts.arranged(left, right, torch.precision)
        yield match if axes is None else replace(match, axes=axes)


def _apart(measurement: Measurement) -> str:
    if measurement.problem:
        return measurement.problem
    return f"{measurement.absolute:.2g} apart at {measurement.where}, {measurement.reason}"
