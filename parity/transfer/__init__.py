"""Weights from a Keras model to a PyTorch model and back, for any pair described as graphs.

    mapping = find(keras_graph, torch_graph)          # which layer is which
    mapping = settle(mapping, reached)                # by numbers, where that leaves doubts
    weights = to_torch(keras_weights, mapping, keras_graph, torch_graph)

Rules (`rules`, `recurrent`, `attention`) say how one layer's tensors become another's; `units` and
`layouts` read a graph, `candidates` tries rules on layers, `search` chooses; what is left over,
`tensors` matches one by one, and `settling` tries what is in doubt. NumPy alone.
"""

from parity.transfer.apply import to_keras, to_torch
from parity.transfer.mapping import Ambiguous, Entry, Mapping, find, read_map
from parity.transfer.rules import (
    RULES,
    Context,
    Pair,
    Paired,
    Rule,
    Unfit,
    load_rules,
    register_rule,
)
from parity.transfer.settling import settle

__all__ = [
    "RULES",
    "Ambiguous",
    "Context",
    "Entry",
    "Mapping",
    "Pair",
    "Paired",
    "Rule",
    "Unfit",
    "find",
    "load_rules",
    "read_map",
    "register_rule",
    "settle",
    "to_keras",
    "to_torch",
]
