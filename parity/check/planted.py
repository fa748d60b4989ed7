"""What a pass is worth: faults planted in a faithful pair's PyTorch model, each examined.

PyTorch's wing has the faults (`torch_impl/sabotage.py`) and says where they fit. Whether one moves
a number at all is told from batches of the self-test's own, not from the examination's.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from parity.check import run
from parity.check.graph import INPUT, Graph, Node
from parity.check.report import CheckReport, sentence
from parity.check.run import Asked, Observer
from parity.check.sides import Process
from parity.check.trace import Request
from parity.experiment import unknown
from parity.ladder.measure import ABSTAIN, FAIL, PASS
from parity.recording import write_atomically
from parity.study.grid import markdown_table
from shared_data.errors import InputError

CAUGHT, MISSED, UNDECIDED, REFUSED = "caught", "missed", "undecided", "refused"
NOTHING, LAYOUT = "nothing", "layout"  # no faults: no number moves, or weights are carried to fit
ROUNDING = 1e-12  # of the largest number of its kind: what float64 makes of another order of sums
PROOFS = 3, 24  # batches on which a fault has to move a number
ROOT = "self"  # what the graph calls the model, where it names what that calls
ORDERING = ("permute", "reshape", "flatten", "identity")
CARRIED = "transferred.safetensors"
FILE = """\
# A model with a fault in it: {mistake}
from torch_impl import loading, sabotage


def build():
    place = sabotage.Place(**{place!r})
    return sabotage.planted(lambda: loading.load({spec!r}), {operator!r}, place)
"""


@dataclass(frozen=True)
class Fault:
    """One fault and what became of it.

    Attributes:
        place: of the fields that `torch_impl.sabotage.Place` has.
        moves: what it moves most, of numbers in float64 on batches of the self-test's own.
        outcome: caught (the examination fails), missed (it passes), undecided (it abstains),
            refused (it cannot run the model, and says so); or no fault: nothing (it moves no
            number), layout (its weights are carried in another order, and it is the same function).
        level: where it is caught first; `origin` what is named there.
        reason: why it was not caught, in the examination's words.
    """

    operator: str
    mistake: str
    place: dict[str, Any]
    moves: str
    outcome: str
    verdict: str = ""
    level: str = ""
    placed: bool = False
    origin: str = ""
    reason: str = ""

    @property
    def where(self) -> str:
        """`layer1.0/add#2` for the second addition in a module."""
        if end := self.place["end"]:
            return f"the model's {end}"
        name = self.place["call"] and f"/{self.place['call']}"
        again = f"#{self.place['at'] + 1}" if self.place["at"] else ""
        return f"{self.place['module']}{name}{again}".lstrip("/")

    @property
    def proof(self) -> str:
        """That it is no fault."""
        return self.reason if self.outcome == LAYOUT else self.moves


class Unfaithful(InputError):
    """The pair does not pass without a fault."""


def examine(
    keras: str,
    torch: str,
    asked: Asked,
    folder: Path,
    only: Sequence[str] = (),
    every: bool = False,
    observe: Observer = lambda said: None,
) -> dict[str, Any]:
    """Plant each fault that fits in one place of `torch`, or with `every` in all, and check.

    Raises `Unfaithful` where the pair itself does not pass, and `InputError` where a model cannot
    be built or run, or `only` names what is no fault, or nothing that fits.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with Remembered("keras", keras, folder / "remembered") as ours, Process("torch", torch) as port:
        observe("the pair as it is")
        faithful = run.check((ours, port), asked, folder / "faithful")
        if faithful.verdict != PASS:
            raise Unfaithful(f"without a fault the pair does not pass. {sentence(faithful)}")
        planter = _Planter(port, torch, asked, folder, faithful)
        known = planter.operators
        for name in only:
            if name not in known:
                raise InputError(unknown("fault", name, list(known)))
        chosen = [
            (name, place)
            for name in only or known
            for place in _chosen(known[name]["places"], name, asked.seed, every)
        ]
        if not chosen:
            raise InputError("none of these faults fits this model")
        faults = []
        for at, (name, place) in enumerate(chosen, start=1):
            fault = planter.tried(name, place, (ours, port))
            faults.append(fault)
            said = f"{fault.outcome}{', placed' if fault.placed else ''}"
            observe(f"{at} of {len(chosen)}: {name} at {fault.where}: {said}")
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "keras": keras,
        "torch": torch,
        "seed": asked.seed,
        "precision": asked.precision,
        "examination": faithful.examined,
        "environment": faithful.environment,
        "fits nowhere": [name for name in known if not known[name]["places"]],
        "totals": totals(faults),
        "faults": [asdict(each) for each in faults],
    }


def totals(faults: Sequence[Fault]) -> dict[str, int]:
    moving = [each for each in faults if each.outcome not in (NOTHING, LAYOUT)]
    return {
        "operators": len({each.operator for each in faults}),
        "planted": len(faults),
        "moving numbers": len(moving),
        "caught": sum(each.outcome == CAUGHT for each in moving),
        "placed": sum(each.placed for each in moving),
        "undecided": sum(each.outcome == UNDECIDED for each in moving),
        "missed": sum(each.outcome == MISSED for each in moving),
    }


def markdown(report: dict[str, Any]) -> str:
    """The table for documents, the faults that move nothing apart."""
    faults = [Fault(**each) for each in report["faults"]]
    count = report["totals"]
    lines = [
        f"{count['caught']} of {count['moving numbers']} faults caught, {count['placed']} placed.",
        "",
        *markdown_table(
            ["fault", "at", "outcome", "level", "placed", "named, or why it was not caught"],
            [_cells(each) for each in faults if each.outcome not in (NOTHING, LAYOUT)],
            left=6,
        ),
    ]
    if still := [each for each in faults if each.outcome in (NOTHING, LAYOUT)]:
        rows = [[each.operator, each.where, each.proof, each.verdict] for each in still]
        table = markdown_table(["is no fault here", "at", "proof", "verdict"], rows, left=4)
        lines += ["", *table]
    return "\n".join(lines) + "\n"


def _cells(fault: Fault) -> list[str]:
    placed = "yes" if fault.placed else "no" if fault.outcome == CAUGHT else ""
    said = fault.origin if fault.outcome == CAUGHT else fault.reason
    return [fault.operator, fault.where, fault.outcome, fault.level, placed, said]


def _chosen(places: list[Any], name: str, seed: int, every: bool) -> list[Any]:
    if every or not places:
        return places
    return [random.Random(f"{seed} {name}").choice(places)]


class _Planter:
    """A faithful pair that was checked, and its faulty likes."""

    def __init__(
        self, port: Process, spec: str, asked: Asked, folder: Path, faithful: CheckReport
    ) -> None:
        self.spec, self.asked, self.folder, self.faithful = spec, asked, folder, faithful
        self.keras, self.graph = (
            Graph.read(folder / "faithful" / side / "graph.json") for side in run.FRAMEWORKS
        )
        ran = Request.read(folder / "faithful" / "torch" / "request-trace.json")
        # Weights awake: what is neutral would hide a fault from the proof too.
        self.request = replace(ran, weights=None, reference=str(folder / "faithful" / "torch"))
        port.ask("places", self.request, folder)
        self.operators: dict[str, Any] = json.loads((folder / "places.json").read_text())
        self.port, self.count = port, 0
        self.numbers: dict[int, dict[str, np.ndarray]] = {}

    def tried(self, name: str, place: dict[str, Any], sides: tuple[Process, Process]) -> Fault:
        mistake, port = self.operators[name]["mistake"], self.port
        self.count += 1
        file = self.folder / f"planted_{self.count}.py"
        text = FILE.format(mistake=mistake, place=place, spec=self.spec, operator=name)
        write_atomically(file, text.encode())
        port.model = f"{file}:build"
        fault = Fault(name, mistake, place, "", MISSED)
        try:
            largest, said = self._moves(port.model)
            outcome = NOTHING if largest <= ROUNDING else MISSED
            fault = replace(fault, moves=said, outcome=outcome)
            return self._judged(fault, sides)
        except InputError as error:
            if fault.outcome == NOTHING:
                return replace(fault, verdict=REFUSED, reason=str(error))
            placed = self._in_text(place, str(error))
            return replace(fault, outcome=REFUSED, placed=placed, reason=str(error).splitlines()[0])
        finally:
            port.model = self.spec

    def _moves(self, model: str) -> tuple[float, str]:
        """How far a fault moves any number, of the largest of its kind; and which. A few batches
        show most; that nothing moves is said of many."""
        for count in PROOFS:
            largest, said = _moved(self._numbers(self.spec, count), self._numbers(model, count))
            if largest > ROUNDING:
                break
        return largest, said

    def _numbers(self, model: str, count: int) -> dict[str, np.ndarray]:
        if model == self.spec and count in self.numbers:
            return self.numbers[count]
        request = replace(self.request, model=model, repeats=count)
        self.port.ask("numbers", request, self.folder / "numbers")
        with np.load(self.folder / "numbers" / "numbers.npz") as found:
            numbers = {name: found[name] for name in found.files}
        if model == self.spec:
            self.numbers[count] = numbers
        return numbers

    def _judged(self, fault: Fault, sides: tuple[Process, Process]) -> Fault:
        """What fails on one batch, in inference already, fails in the whole examination; what
        passes there is looked at further."""
        report = None
        quick = replace(self.asked, examination="quick")
        for asked in (replace(quick, level="forward"), quick, self.asked):
            below = self.folder / "checked"
            shutil.rmtree(below, ignore_errors=True)
            report = run.check(sides, asked, below)
            if report.verdict == FAIL:
                break
        assert report is not None
        fault = replace(fault, verdict=report.verdict)
        if fault.outcome == NOTHING:
            return fault
        if report.verdict == PASS and self._carried_otherwise():
            said = "Keras' numbers are carried to it in another order, with which it is the same"
            return replace(fault, outcome=LAYOUT, reason=said)
        if report.verdict == PASS:
            return replace(
                fault, reason="no number of the examination differs by more than its tolerance"
            )
        if report.verdict == ABSTAIN:
            open_ = next(each for each in report.levels if each.verdict == ABSTAIN)
            return replace(fault, outcome=UNDECIDED, level=open_.level, reason=open_.detail)
        graph = Graph.read(self.folder / "checked" / "torch" / "graph.json")
        failure = report.first_failure
        assert failure is not None
        origin = report.origins[0].names if report.origins else ""
        if not origin:
            origin = report.findings[0].text if report.findings else failure.where
        return replace(
            fault,
            outcome=CAUGHT,
            level=failure.level,
            placed=self._placed(fault.place, report, graph),
            origin=origin,
        )

    def _carried_otherwise(self) -> bool:
        """Whether what passes holds Keras' numbers in another order than the faithful model."""
        files = [self.folder / name / "torch" / CARRIED for name in ("faithful", "checked")]
        kept, used = (load_file(file) for file in files)
        return any(not np.array_equal(kept[n], used[n], equal_nan=True) for n in kept if n in used)

    # Whether the place is named -------------------------------------------------------------------

    def _placed(self, place: dict[str, Any], report: CheckReport, graph: Graph) -> bool:
        """Whether the first origin, the first finding or what the first level says names the
        module, a call beside it in the same module, or a parameter of it."""
        known = {node.name for node in self.graph.nodes}
        near = _near(self.graph, place, known) | _near(graph, place, known)
        blamed: list[Any] = [*report.origins[:1], *report.findings[:1]]
        named = {name for each in blamed for name in each.torch.split("; ")}
        if not place["call"] and place["module"]:
            near |= {name for name in named if name and _below(name, place["module"])}
        if named & near:
            return True
        keras = {name for each in blamed for name in each.keras.split("; ") if name}
        if keras & self._partners(place):
            return True
        failure = report.first_failure
        said = f"{failure.where} {failure.detail}" if failure else ""
        first = {name for name, node in _nodes(self.graph).items() if _reads_input(node)}
        if said.startswith("output" if place["end"] else "gradient input") and (
            place["end"] == "output" or near & first
        ):
            return True
        told = [note for note in report.notes if "refuse" in note or "second time" in note]
        return self._in_text(place, " ".join([said, *told]))

    def _partners(self, place: dict[str, Any]) -> set[str]:
        """Keras' calls where the place is: of the layer with the same weights; or, of what has
        none, between the same layers."""
        module, owners = place["module"], self.faithful.owners
        own = {owners[n] for n in owners if n.startswith(f"{module}.") and module}
        if own:
            return {n for n in _nodes(self.keras) if any(_below(n, each) for each in own)}
        layers = {name.rpartition(".")[0]: owner for name, owner in owners.items()}
        nodes = _nodes(self.graph)
        theirs = [_around(self.graph, n, layers) for n in nodes if module and _below(n, module)]
        same = {layer: layer for layer in layers.values()}
        return {n for n in _nodes(self.keras) if _around(self.keras, n, same) in theirs}

    def _in_text(self, place: dict[str, Any], text: str) -> bool:
        """A parameter of the module, or a line of code that has the module's name."""
        module = place["module"]
        last = module.rpartition(".")[2] or module
        return bool(module) and (
            re.search(rf"\b{re.escape(module)}\b", text) is not None
            or re.search(rf"self\.{re.escape(last)}\b", text) is not None
        )


def _near(graph: Graph, place: dict[str, Any], known: Collection[str] = ()) -> set[str]:
    """The calls of a place, and those that are next to them in the same module, whatever order
    numbers are brought into between. `known` are the calls of the faithful model: any other in the
    module stands for the one that is another."""
    module, nodes = place["module"], _nodes(graph)
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.name)
    if place["end"] == "input":
        return {name for at, given in readers.items() if at.startswith(INPUT) for name in given}
    if place["end"] == "output":
        last = set(graph.outputs)
        return last | {name for each in last & set(nodes) for name in nodes[each].inputs}

    def inside(name: str) -> bool:
        return name.rpartition("/")[0] == (module or ROOT)

    if place["call"]:
        own = {n for n in nodes if inside(n) and (place["call"] in n or n not in known)}
    else:
        own = {n for n, node in nodes.items() if _below(n, module) or node.layer == module}
    parent = module if place["call"] else module.rpartition(".")[0]
    found, todo = set(own), list(own)
    while todo:
        at = todo.pop()
        for name in (*(nodes[at].inputs if at in nodes else ()), *readers.get(at, ())):
            if name not in found and _below(name, parent):
                found.add(name)
                if name in nodes and nodes[name].kind in ORDERING:
                    todo.append(name)
    return found


def _nodes(graph: Graph) -> dict[str, Node]:
    return {node.name: node for node in graph.nodes}


def _reads_input(node: Node) -> bool:
    return any(name.startswith(INPUT) for name in node.inputs)


def _around(graph: Graph, name: str, layers: dict[str, str]) -> tuple[set[str], set[str]]:
    """Keras' names of the layers before and behind a call, the next ones with weights."""
    nodes = _nodes(graph)
    found: tuple[set[str], set[str]] = (set(), set())
    for side, kept in enumerate(found):
        todo, known = [name], {name}
        while todo:
            at = todo.pop()
            if at != name and at in nodes and (layer := nodes[at].layer) in layers:
                kept.add(layers[layer])
                continue
            before = nodes[at].inputs if at in nodes else ()
            behind = (each.name for each in graph.nodes if at in each.inputs)
            further = set(behind if side else before) - known
            known |= further
            todo += further
    return found


def _below(name: str, module: str) -> bool:
    """Whether a call is one of a module, or in it: `layer1.0/relu` is in `layer1`."""
    return not module or re.match(rf"{re.escape(module)}([./#]|$)", name) is not None


# Whether a number moves ---------------------------------------------------------------------------


def _moved(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, str]:
    """How far any number is off, of the largest of its kind in the same run; and what that is."""
    missing = sorted(one.keys() ^ other.keys())
    if missing:
        return np.inf, f"one alone has {missing[0]}"
    scales: dict[str, float] = {}
    for name, value in one.items():
        scales[_kind(name)] = max(scales.get(_kind(name), 0.0), _largest(value))
    apart = {name: _apart(one[name], other[name]) / (scales[_kind(name)] or 1.0) for name in one}
    worst = max(apart, key=lambda name: apart[name])
    batches = len({name.partition("/")[0] for name in one})
    if apart[worst] == 0:
        return 0.0, (
            f"outputs, gradients and what the model holds are the same on {batches} batches, bit "
            "for bit, in inference with and without gradients and in training, twice each"
        )
    return apart[worst], f"{worst} by {apart[worst]:.1g} of the largest"


def _kind(name: str) -> str:
    return "/".join(name.split("/")[:3])


def _largest(value: np.ndarray) -> float:
    finite = value[np.isfinite(value)]
    return float(np.abs(finite).max(initial=0.0))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return np.inf
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, np.abs(np.subtract(one, other, dtype=np.float64)))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


class Remembered(Process):
    """A side whose model stays the same: what it was asked before is answered from files."""

    def __init__(self, framework: str, model: str, kept: Path) -> None:
        super().__init__(framework, model)
        self.kept = kept

    def ask(self, what: str, request: Request, folder: Path) -> None:
        kept = self.kept / _digest(what, request)
        places = {"out": folder, "draws": Path(request.draws or folder / "draws")}
        if not kept.exists():
            before = {name: _stamps(place) for name, place in places.items()}
            super().ask(what, request, folder)
            for name, place in places.items():
                changed = _stamps(place).items() - before[name].items()
                for path, _ in changed:
                    _copy(place / path, kept / name / path)
            return
        for name, place in places.items():
            for path, _ in _stamps(kept / name).items():
                _copy(kept / name / path, place / path)


def _digest(what: str, request: Request) -> str:
    """Of a request, its files by what they hold."""
    facts = {**vars(request), "draws": None}
    text = json.dumps([what, facts], default=str, sort_keys=True)
    files = re.findall(r'"([^"]*\.(?:npz|safetensors))"', text)
    for file in dict.fromkeys(files):
        text = text.replace(file, hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return hashlib.sha256(text.encode()).hexdigest()


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files: Iterator[Path] = (path for path in folder.rglob("*") if path.is_file())
    found = {}
    for path in files:
        if not path.name.startswith("request-"):
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size)
    return found


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
