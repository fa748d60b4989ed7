"""What a wing says of a run of a model: every number that the levels compare.

`trace.json` and `trace/` in a folder (`parity.check.stored`). Tensors are in the framework's own
names and layouts, in the precision of the run; `<node>` and `<parameter>` as the wing's
`graph.Graph` has them:

    outputs/forward/<n>     the n-th output in inference mode, batch first as the model has it
    outputs/again/<n>       of a second call on the same inputs, without gradients
    outputs/training/<n>    in training mode: statistics of the batch; dropout switched off
    forward/<node>          a call's output in inference mode
    training/<node>         in training mode
    loss                    (), in training mode
    upstream/<node>         the gradient of the loss by a call's output
    gradient/<parameter>    the gradient by a trained parameter
    gradient/input:<n>      the gradient by an input of floating type
    update/<parameter>      every parameter and buffer after one step
    trajectory/loss         (steps,): the loss before each step
    trajectory/<parameter>  every parameter and buffer after the last step

With `Request.noise` dropout is on in training mode; whatever a run draws, Keras' side keeps in
`Request.draws`, and PyTorch's side draws the same. `drawn` says of each run that draws, by its name
(`forward`, `training`, `series/<batch>/…`), what was drawn and what has no counterpart.

Of every further batch (`Request.series`), below `series/<batch>/`, what decides: `outputs/…`,
`loss` and `gradient/…`. `refused` says of what could not be run, by the name of the batch and the
mode (`series/<batch>/training`), what the framework said.

With a reference, the other side's folder and the pairs of nodes, PyTorch runs *forced*: every
node that has a partner gives on the reference's output instead of its own, and gets the reference's
upstream gradient instead of what came back, so that each shows its own difference alone:

    forced/training/<node>  its own output, all its inputs being the reference's
    forced/upstream/<node>  the gradient that its readers hand back, theirs being the reference's
    forced/gradient/<parameter>
    forced/update/<buffer>  after the run

`floors` holds for the name of each tensor but the forced ones how far the side is from itself
(largest absolute difference) when its inputs and its weights are nudged by one unit in the last
place; constants that the model holds in float32, in a run in float64, by one of float32's. Of
outputs, whose elements may be of different scales, the nudged ones are kept whole, as
`nudged/<name>`.
"""

from __future__ import annotations

import json
import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from parity.check.stored import Growing, Stored
from parity.recording import write_atomically
from shared_data.errors import InputError

SCHEMA = 1
STEPS = 3  # of the trajectory
BLOCK = 1 << 18  # elements, which a processor's cache holds
WRITTEN = range(8, 13)  # digits of a number that was cut off: shorter ones are meant as they stand


@dataclass(frozen=True)
class Request:
    """What a wing is asked to do with a model; the command line of its worker as a file.

    Attributes:
        model: `module:function`, `path/file.py:function` or, in Keras, a `.keras` file.
        method: what of the model is compared; empty: its call.
        input_shapes: without the batch, in the side's own layout; ignored where `inputs` is given.
        inputs: a `.npz` of the model's inputs in order, batch included, in the side's own layout:
            `input:0`, `input:1`, …
        called: what the model's forward calls its inputs, in the order of `inputs`, by which they
            are then given; empty: by place.
        packed: all inputs in one list, for a forward of one argument.
        series: further batches, (name, `.npz` like `inputs`).
        outputs: which of the model's outputs is the first, second, … of both sides; None: as they
            come. What is left out decides nothing.
        layouts: for each of these, the permutation from Keras' axes to the side's own (batch
            included); None where they are alike. Random targets are drawn in Keras' layout.
        labels: a `.npz` of classes, `output:0`, …, int64 (batch,), for `loss` "cross_entropy".
            Losses are sums over the outputs: "squared": half the mean of squared differences from
            targets that are drawn; "cross_entropy": the mean of minus the logarithm of the label's
            probability, of logits or, where the last node is a softmax, of its probabilities.
            The series' loss is always of squares.
        weights: a `.safetensors` (PyTorch: or a `.pt` that holds tensors alone) in native names,
            to load over what the builder gave.
        levels: which of forward, loss (training outputs, loss, gradients), update, trajectory.
        optimizer: adam, adamw, sgd, rmsprop; Keras' definitions on both sides, whose constants
            are `optimizer_settings`: learning_rate, and what the kind has of beta_1, beta_2,
            epsilon, weight_decay, momentum, rho.
        precision: float64 (the model's own types are overruled) or float32.
        inside: whether calls are recorded, not the ends alone.
        nudge: whether floors are wanted; `series_nudge`: of the series.
        noise: whether dropout is on in training mode.
        mirrored: one minus each uniform number, for a port that keeps where numbers are small.
        draws: the folder in which Keras' draws are, below the name of each run.
        repeats: how often the outputs in training mode are drawn anew, as `repeated/<n>`, for a
            comparison of distributions.
        reference, pairs: the other side's folder, and which of its nodes is which of ours, for
            the forced run: [reference's node, own node, axes], where axes permute the reference's
            tensor (batch included) into ours; null for tensors whose layouts are alike; or, for a
            flattened map, {"flattened": [H, W, C]}: the reference's rows are in H, W, C order,
            ours in C, H, W order.
        changes: of nodes in the forced run, [node, key of its settings, Keras' value]: what advice
            would change. `refused` says which of them could not be, as `change/<n>`.
    """

    model: str
    method: str = ""
    input_shapes: tuple[tuple[int, ...], ...] = ()
    inputs: str | None = None
    called: tuple[str, ...] = ()
    packed: bool = False
    series: tuple[tuple[str, str], ...] = ()
    outputs: tuple[int, ...] | None = None
    layouts: tuple[tuple[int, ...] | None, ...] = ()
    labels: str | None = None
    weights: str | None = None
    levels: tuple[str, ...] = ()
    loss: str = "squared"
    optimizer: str = "adam"
    optimizer_settings: dict[str, float] = field(default_factory=dict)
    precision: str = "float64"
    batch: int = 4
    seed: int = 0
    threads: int = 0
    inside: bool = True
    nudge: bool = True
    series_nudge: bool = True
    noise: bool = False
    mirrored: bool = False
    draws: str | None = None
    repeats: int = 0
    reference: str | None = None
    pairs: tuple[tuple[str, str, Any], ...] = ()
    changes: tuple[tuple[str, str, Any], ...] = ()

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(vars(self), indent=1).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Request:
        """Raises `InputError` where the file is no request."""
        try:
            values = json.loads(path.read_text())
            shapes = tuple(map(tuple, values.pop("input_shapes", ())))
            for name in ("pairs", "series", "changes"):
                values[name] = tuple(map(tuple, values.get(name, ())))
            for name in ("levels", "called"):
                values[name] = tuple(values.get(name, ()))
            if values.get("outputs") is not None:
                values["outputs"] = tuple(values["outputs"])
            layouts = (axes and tuple(axes) for axes in values.pop("layouts", ()))
            return cls(**values, input_shapes=shapes, layouts=tuple(layouts))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is no request: {error}") from None


@dataclass
class Trace:
    """The numbers of one side, see above; `environment` says where they were computed.

    `tensors` are in memory, or (`Trace.begin`, `Trace.read`) in files.
    """

    framework: str
    precision: str
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what could not be run, and why
    refused: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @classmethod
    def begin(cls, framework: str, precision: str, folder: Path) -> Trace:
        """An empty trace that keeps its tensors in `folder`; what another left there is void."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trace.json").unlink(missing_ok=True)
        return cls(framework, precision, Growing(folder / "trace"))

    def with_floors(self, other: Trace) -> Trace:
        """The same, with what another run of it says of floors that this one does not know."""
        maps: list[Any] = [self.tensors, other.tensors]
        tensors: Mapping[str, np.ndarray] = ChainMap(*maps)
        return replace(self, tensors=tensors, floors=other.floors | self.floors)

    def names(self, prefix: str) -> list[str]:
        """What stands below `prefix/`: the rest of its names."""
        start = prefix + "/"
        return [name.removeprefix(start) for name in self.tensors if name.startswith(start)]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors below `prefix/`, by the rest of their names, all in memory."""
        return {name: self.tensors[f"{prefix}/{name}"] for name in self.names(prefix)}

    def keep(self, part: Mapping[str, np.ndarray]) -> None:
        """Take in a part of the run."""
        assert isinstance(self.tensors, dict | Growing)
        self.tensors.update(part)

    def keep_floor(self, other: Mapping[str, np.ndarray]) -> None:
        """Take in a nudged run: `other` holds its tensors under the same names."""
        for name, value in other.items():
            own = self.tensors.get(name)
            if own is None or own.shape != value.shape or not own.size:
                continue
            self.floors[name] = _apart(own.reshape(-1), value.reshape(-1))
            if "outputs/" in name:
                self.keep({f"nudged/{name}": value})

    def write(self, folder: Path) -> None:
        """`trace.json` last: where it stands, all of it stands."""
        tensors = self.tensors
        if not isinstance(tensors, Growing):
            made = Trace.begin(self.framework, self.precision, folder)
            made.keep(tensors)
            tensors = made.tensors
            assert isinstance(tensors, Growing)
        tensors.close()
        facts = {key: value for key, value in vars(self).items() if key != "tensors"}
        text = json.dumps({"schema": SCHEMA, **facts}, indent=1)
        write_atomically(folder / "trace.json", text.encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Trace:
        """Raises `InputError` where a file is missing, damaged or of another schema."""
        try:
            facts = json.loads((folder / "trace.json").read_text())
            if facts.pop("schema") != SCHEMA:
                raise ValueError(f"it is not of schema {SCHEMA}")
            return cls(**facts, tensors=Stored(folder / "trace"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no complete trace: {error}") from None


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Their largest difference, block by block: a large tensor is not doubled for it."""
    starts = range(0, one.size, BLOCK)
    parts = ((one[at : at + BLOCK], other[at : at + BLOCK]) for at in starts)
    with np.errstate(invalid="ignore"):  # infinities that agree are no distance apart
        found = (np.subtract(a, b, dtype=np.float64) for a, b in parts)
        return max(float(np.abs(np.nan_to_num(each, nan=0.0)).max()) for each in found)


def nudged(value: np.ndarray) -> np.ndarray:
    """Every element one unit in the last place away from zero; zeros and integers stay, and what is
    not finite."""
    if value.dtype.kind != "f":
        return value
    # The bits of a floating number, read as an integer, count its magnitude up.
    bits = np.array(value, order="C").view(f"i{value.itemsize}")
    bits += (value != 0) & np.isfinite(value)
    return bits.view(value.dtype)


def draw_target(
    shape: tuple[int, ...], axes: tuple[int, ...] | None, seed: int, at: int
) -> np.ndarray:
    """What an output of `shape` is compared with: standard normal, drawn in Keras' layout, of which
    `axes` make the side's own."""
    order = np.argsort(axes) if axes else range(len(shape))
    drawn = np.random.default_rng([seed, at]).standard_normal([shape[each] for each in order])
    return np.ascontiguousarray(drawn.transpose(axes)) if axes else drawn


def nudged_single(value: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Of constants that were rounded to float32 once: every element one unit of that type away
    from zero. What it holds exactly, whole numbers and short binary fractions, is as in
    `otherwise`, and so is what it does not hold at all."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = value.astype(np.float32)
        mantissa = np.frexp(single)[0] * 4096
        exact = (single == np.rint(single)) | (mantissa == np.rint(mantissa))
        moved = np.nextafter(single, np.copysign(np.float32(np.inf), single)).astype(value.dtype)
    rounded = np.isfinite(single) & ~exact & (single == value)
    found: np.ndarray = np.where(rounded, moved, otherwise)
    return found


@cache
def nudged_number(value: float) -> float:
    """The same of a number in a program: one rounded to float32; and by half a unit of its last
    digit, one written with about as many as that type holds (0.79788456 for the root of 2/pi)."""
    single = float(nudged_single(np.array(value), np.array(value)))
    if single != value or not math.isfinite(value):
        return single
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if len(digits) not in WRITTEN:
        return value
    return value + math.copysign(float(Decimal(5).scaleb(int(exponent) - 1)), value)


def draw_inputs(
    shapes: tuple[tuple[int, ...], ...], batch: int, seed: int
) -> dict[str, np.ndarray]:
    """Inputs from a standard normal distribution, float64 (batch, …), channels as `shapes` has."""
    rng = np.random.default_rng(seed)
    return {f"input:{at}": rng.standard_normal((batch, *s)) for at, s in enumerate(shapes)}
