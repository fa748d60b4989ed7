"""SimpleRNN, LSTM and GRU: gates, two biases for one, both directions, stacked layers.

Gates of a kernel stand side by side: i, f, c, o of an LSTM in both frameworks; z, r, h of a GRU in
Keras and r, z, n in PyTorch (`keras/src/layers/rnn/gru.py`, documentation of `torch.nn.GRU`).
PyTorch always adds two biases. Keras has one in an LSTM, which goes to `bias_ih` and leaves
`bias_hh` zero; a GRU has two with `reset_after`, and without it is another function than PyTorch's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from parity.transfer.rules import Context, Tensors, Unfit, dtype_of, register_rule, reorder

GATES = {"simple_rnn": (0,), "lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}  # each its own inverse
TORCH_ROLE = re.compile(r"(weight|bias)_(ih|hh)(.*)$")
RESET_AFTER = (
    "Keras' GRU has reset_after=False and resets before the recurrent product; PyTorch's resets "
    "after it and cannot do the same: build the Keras model with reset_after=True"
)
Cell = dict[str, str]  # the keys of a cell's tensors by role


class Recurrent:
    """One or several layers to one or several: cells in order, forward before backward."""

    def __init__(self, kind: str) -> None:
        self.gates = GATES[kind]
        self.kind = kind

    def to_torch(self, tensors: Tensors, context: Context) -> Tensors:
        wanted, made = context.wanted("torch"), {}
        for ours, theirs in self._cells(context):
            kernel = tensors[ours["kernel"]]
            rows = reorder(kernel, context.flattened) if reads_input(theirs) else kernel
            made[theirs["weight_ih"]] = self._turn(rows.T)
            made[theirs["weight_hh"]] = self._turn(tensors[ours["recurrent_kernel"]].T)
            first, second = self._biases(tensors, ours, context)
            for role, bias in (("bias_ih", first), ("bias_hh", second)):
                if role in theirs:
                    shape = wanted[theirs[role]]
                    filled = np.zeros(shape, dtype_of(tensors)) if bias is None else bias
                    made[theirs[role]] = self._turn(filled)
                elif bias is not None:
                    context.missing("PyTorch", ours["bias"], bias, 0)
        return made

    def to_keras(self, tensors: Tensors, context: Context) -> Tensors:
        wanted, made = context.wanted("keras"), {}
        for ours, theirs in self._cells(context):
            rows = self._turn(tensors[theirs["weight_ih"]]).T
            if reads_input(theirs):
                rows = reorder(rows, context.flattened, back=True)
            made[ours["kernel"]] = rows
            made[ours["recurrent_kernel"]] = self._turn(tensors[theirs["weight_hh"]]).T
            given = [
                self._turn(tensors[theirs[role]]) if role in theirs else None
                for role in ("bias_ih", "bias_hh")
            ]
            if "bias" not in ours:
                for role, bias in zip(("bias_ih", "bias_hh"), given, strict=True):
                    if bias is not None:
                        context.missing("Keras", theirs[role], bias, 0)
                continue
            shape = wanted[ours["bias"]]
            size = shape[-1]
            first, second = (
                np.zeros(size, dtype_of(tensors)) if bias is None else bias for bias in given
            )
            if len(shape) == 2:
                made[ours["bias"]] = np.stack([first, second])
            else:
                self._not_before(context)
                made[ours["bias"]] = added(first, second)
        return made

    def _turn(self, value: np.ndarray) -> np.ndarray:
        """Exchange gates along the first axis, from Keras' order to PyTorch's or back."""
        if self.gates == tuple(range(len(self.gates))):
            return value
        if len(value) % len(self.gates):
            raise Unfit(f"{value.shape} does not hold {len(self.gates)} gates")
        parts = np.split(value, len(self.gates))
        return np.concatenate([parts[gate] for gate in self.gates])

    def _biases(
        self, tensors: Tensors, ours: Cell, context: Context
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if "bias" not in ours:
            self._not_before(context)
            return None, None
        bias = tensors[ours["bias"]]
        if bias.ndim == 2:
            return bias[0], bias[1]
        self._not_before(context)
        return bias, None

    def _not_before(self, context: Context) -> None:
        """A GRU with one bias, or none, resets before the product unless it says otherwise."""
        if self.kind != "gru":
            return
        for unit in context.keras:
            vector = any(r.endswith("bias") and len(s) == 1 for r, s in unit.shapes.items())
            if vector or unit.settings.get("reset_after") is False:
                context.lose(RESET_AFTER)
                return

    def _cells(self, context: Context) -> list[tuple[Cell, Cell]]:
        ours = keras_cells(list(context.wanted("keras")))
        theirs = torch_cells(list(context.wanted("torch")))
        if len(ours) != len(theirs):
            raise Unfit(f"{len(ours)} cells in Keras, {len(theirs)} in PyTorch")
        for cell, roles in [(c, ("kernel", "recurrent_kernel")) for c in ours] + [
            (c, ("weight_ih", "weight_hh")) for c in theirs
        ]:
            absent = [role for role in roles if role not in cell]
            if absent:
                raise Unfit(f"a cell of {sorted(cell.values())} lacks {absent}")
        return list(zip(ours, theirs, strict=True))


def reads_input(cell: Cell) -> bool:
    """Whether a cell of PyTorch's reads what the first layer is given."""
    return re.search(r"^(0/)?weight_ih(_l0)?(_reverse)?$", cell["weight_ih"]) is not None


def added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum; adding nothing changes not even the sign of a zero."""
    return np.where(second == 0, first, np.where(first == 0, second, first + second))


def keras_cells(keys: Sequence[str]) -> list[Cell]:
    """The cells of Keras' layers: `kernel`, `forward_lstm/lstm_cell/kernel`, `1/kernel`."""
    cells: dict[str, Cell] = {}
    for key in keys:
        prefix, _, role = key.rpartition("/")
        cells.setdefault(prefix, {})[role] = key
    return list(cells.values())


def torch_cells(keys: Sequence[str]) -> list[Cell]:
    """The cells of PyTorch's: `weight_ih_l0`, `weight_ih_l0_reverse`, `0/weight_hh`."""
    found = []
    for key in keys:
        prefix, _, name = key.rpartition("/")
        fits = TORCH_ROLE.match(name)
        if fits is None:  # weight_hr of a projection
            raise Unfit(f"nothing in Keras corresponds to {name}")
        layer, reverse = re.subn("_reverse$", "", fits[3])
        level = int(layer.removeprefix("_l") or 0)
        found.append(((prefix, level, reverse), f"{fits[1]}_{fits[2]}", key))
    # sorted() is stable: several modules keep their order, which their prefixes number.
    found.sort(key=lambda each: (int(each[0][0] or 0), *each[0][1:]))
    return [
        {role: key for _, role, key in members}
        for _, members in groupby(found, key=lambda each: each[0])
    ]


CELLS = {  # in a loop; as modules that are looked into, and as what they call
    "simple_rnn": "other:RNNCell|other:rnn_tanh_cell|other:rnn_relu_cell",
    "lstm": "other:LSTMCell|other:lstm_cell",
    "gru": "other:GRUCell|other:gru_cell",
}
for _kind in GATES:
    register_rule(_kind, keras=_kind, torch=f"{_kind}|{CELLS[_kind]}", many=True)(Recurrent(_kind))
