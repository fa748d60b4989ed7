"""Which layer is which, on graphs written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import transfer
from parity.check.graph import Graph, Node, Parameter
from parity.transfer import Ambiguous, Entry, Mapping
from parity.transfer.units import units
from shared_data.errors import InputError

ROLES = {
    "keras": {
        "conv2d": ("kernel", "bias"),
        "dense": ("kernel", "bias"),
        "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    },
    "torch": {
        "conv2d": ("weight", "bias"),
        "dense": ("weight", "bias"),
        "batch_norm": ("weight", "bias", "running_mean", "running_var"),
    },
}


class Maker:
    """A graph, call by call. Sizes are given once and laid out as the framework does."""

    def __init__(self, framework: str, *inputs: tuple[int, ...]) -> None:
        self.framework = framework
        self.inputs = inputs
        self.nodes: list[Node] = []
        self.parameters: list[Parameter] = []

    def own(self, layer: str, role: str, shape: Sequence[int]) -> None:
        separator = "/" if self.framework == "keras" else "."
        name = f"{layer}{separator}{role}" if layer else role
        self.parameters.append(Parameter(name, layer, role, tuple(shape), "float32"))

    def call(
        self,
        kind: str,
        *inputs: str,
        shape: Sequence[int] = (),
        layer: str = "",
        name: str = "",
        **settings: Any,
    ) -> str:
        wanted = name or layer or kind
        taken = {node.name for node in self.nodes}
        number = 2
        name = wanted
        while name in taken:
            name, number = f"{wanted}#{number}", number + 1
        self.nodes.append(Node(name, kind, inputs, tuple(shape), layer, settings))
        return name

    def conv(self, layer: str, source: str, ins: int, outs: int, side: int = 8, k: int = 3) -> str:
        keras = self.framework == "keras"
        weight, bias = ROLES[self.framework]["conv2d"]
        self.own(layer, weight, (k, k, ins, outs) if keras else (outs, ins, k, k))
        self.own(layer, bias, (outs,))
        return self.call("conv2d", source, shape=self.map(side, outs), layer=layer)

    def norm(self, layer: str, source: str, channels: int, side: int = 8) -> str:
        for role in ROLES[self.framework]["batch_norm"]:
            self.own(layer, role, (channels,))
        shape = self.map(side, channels) if side else (channels,)
        return self.call("batch_norm", source, shape=shape, layer=layer)

    def dense(self, layer: str, source: str, ins: int, outs: int, lead: Sequence[int] = ()) -> str:
        weight, bias = ROLES[self.framework]["dense"]
        self.own(layer, weight, (ins, outs) if self.framework == "keras" else (outs, ins))
        self.own(layer, bias, (outs,))
        return self.call("dense", source, shape=(*lead, outs), layer=layer)

    def map(self, side: int, channels: int) -> tuple[int, int, int]:
        return (side, side, channels) if self.framework == "keras" else (channels, side, side)

    def graph(self, *outputs: str) -> Graph:
        return Graph(
            self.framework, tuple(self.nodes), tuple(self.parameters), self.inputs, outputs
        )


IMAGE = {"keras": (8, 8, 3), "torch": (3, 8, 8)}


def maker(framework: str) -> Maker:
    return Maker(framework, IMAGE[framework])


def alternatives(mapping: Mapping) -> Iterator[Mapping]:
    """Every combination of choices, the likeliest first."""
    for picked in product(*(range(len(choices)) for choices in mapping.ambiguous)):
        made = mapping
        for doubt, choice in enumerate(picked):
            made = made.choosing(doubt, choice)
        yield made


def pairs(mapping: Mapping) -> dict[str, str]:
    return {"+".join(e.keras): "+".join(e.torch) for e in mapping.entries}


def chain(framework: str, names: Sequence[str]) -> Graph:
    """Convolutions, all of the same shape, and a dense layer behind a flatten."""
    make = maker(framework)
    x = make.conv(names[0], "input:0", 3, 4)
    for name in names[1:-1]:
        x = make.call("relu", make.conv(name, x, 4, 4), shape=make.map(8, 4))
    x = make.call("dropout", make.call("flatten", x, shape=(256,)), shape=(256,))
    return make.graph(make.dense(names[-1], x, 256, 5))


def test_a_chain_of_equal_layers_is_matched_by_its_order_in_the_graph() -> None:
    mapping = transfer.find(
        chain("keras", ["conv2d", "conv2d_1", "conv2d_2", "dense"]),
        chain("torch", ["features.9", "features.4", "features.0", "head"]),
    )
    assert not mapping.ambiguous and not mapping.notes
    assert pairs(mapping) == {
        "conv2d": "features.9",
        "conv2d_1": "features.4",
        "conv2d_2": "features.0",
        "dense": "head",
    }


def test_a_dense_layer_behind_a_flatten_knows_its_map() -> None:
    mapping = transfer.find(chain("keras", ["a", "b", "c"]), chain("torch", ["x", "y", "z"]))
    (order,) = mapping.entries[-1].context["flattened"]
    assert (order.shape, order.axes) == ((8, 8, 4), (2, 0, 1))
    assert "flattened" not in mapping.entries[0].context


def residual(framework: str, shortcut_first: bool, names: Sequence[str]) -> Graph:
    """Both branches hold one convolution of the same shape, so that only the norm tells."""
    make = maker(framework)
    stem = make.conv(names[0], "input:0", 3, 4)

    def main() -> str:
        return make.conv(names[2], make.norm(names[5], make.conv(names[1], stem, 4, 4), 4), 4, 4)

    if shortcut_first:
        short = make.conv(names[3], stem, 4, 4)
        x = main()
    else:
        x = main()
        short = make.conv(names[3], stem, 4, 4)
    x = make.call("add", x, short, shape=make.map(8, 4))
    x = make.call("global_average_pool", x, shape=(4,))
    return make.graph(make.dense(names[4], x, 4, 5))


@pytest.mark.parametrize("keras_first", [True, False])
@pytest.mark.parametrize("torch_first", [True, False])
def test_branches_are_told_apart_in_whatever_order_they_run(
    keras_first: bool, torch_first: bool
) -> None:
    ours = [f"conv2d_{n}" for n in range(4)] + ["dense", "batch_normalization"]
    theirs = ["m.7", "m.3", "m.5", "m.1", "m.0", "m.2"]
    mapping = transfer.find(
        residual("keras", keras_first, ours), residual("torch", torch_first, theirs)
    )
    assert not mapping.ambiguous
    assert pairs(mapping) == dict(zip(ours, theirs, strict=True))


def shared(framework: str, name: str, head: str) -> Graph:
    make = Maker(framework, (6,), (6,))
    a = make.dense(name, "input:0", 6, 4)
    b = make.call("dense", "input:1", shape=(4,), layer=name)
    x = make.call("concatenate", a, b, shape=(8,))
    return make.graph(make.dense(head, x, 8, 2))


def test_a_layer_called_twice_is_one_layer() -> None:
    mapping = transfer.find(shared("keras", "enc", "dense"), shared("torch", "tower", "out"))
    assert pairs(mapping) == {"enc": "tower", "dense": "out"}


def parallel(framework: str, names: Sequence[str]) -> Graph:
    make = maker(framework)
    branches = [make.conv(name, "input:0", 3, 4) for name in names[:-1]]
    x = make.call("add", *branches, shape=make.map(8, 4))
    x = make.call("global_average_pool", x, shape=(4,))
    return make.graph(make.dense(names[-1], x, 4, 2))


def test_branches_of_the_same_shape_are_in_doubt_and_all_choices_are_given() -> None:
    mapping = transfer.find(
        parallel("keras", ["conv2d", "conv2d_1", "dense"]), parallel("torch", ["b.0", "b.1", "h"])
    )
    ((first, second),) = mapping.ambiguous
    assert {(e.keras[0], e.torch[0]) for e in first} == {("conv2d", "b.0"), ("conv2d_1", "b.1")}
    assert {(e.keras[0], e.torch[0]) for e in second} == {("conv2d", "b.1"), ("conv2d_1", "b.0")}
    assert pairs(mapping)["conv2d"] == "b.0"  # the order is the likelier
    with pytest.raises(InputError, match=r"in doubt(.|\n)*keras = \"conv2d\""):
        weights = {p.name: np.zeros(p.shape) for p in parallel("keras", KERAS_NAMES).parameters}
        transfer.to_torch(
            weights, mapping, parallel("keras", KERAS_NAMES), parallel("torch", ["b.0", "b.1", "h"])
        )


KERAS_NAMES = ["conv2d", "conv2d_1", "dense"]


def test_branches_change_places_only_as_wholes() -> None:
    def two_long(framework: str, names: Sequence[str]) -> Graph:
        make = maker(framework)
        ends = []
        for at in (0, 2):
            x = make.conv(names[at], "input:0", 3, 3)
            ends.append(make.conv(names[at + 1], x, 3, 3))
        return make.graph(make.call("add", *ends, shape=make.map(8, 3)))

    ours = ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3"]
    mapping = transfer.find(two_long("keras", ours), two_long("torch", ["0", "1", "2", "3"]))
    assert [pairs(each) for each in alternatives(mapping)] == [
        dict(zip(ours, "0123", strict=True)),
        dict(zip(ours, "2301", strict=True)),
    ]


def test_inputs_tell_layers_apart_and_the_order_of_outputs_does_not() -> None:
    """A port that exchanges two alike outputs is to be seen: numbers tell its heads apart."""

    def crossed(framework: str, names: Sequence[str], swapped: bool) -> Graph:
        make = Maker(framework, (6,), (6,))
        reads = [(names[0], "input:0"), (names[1], "input:1")]
        made = {n: make.dense(n, s, 6, 6) for n, s in (reads[::-1] if swapped else reads)}
        x = make.call("add", made[names[0]], made[names[1]], shape=(6,))
        heads = [make.dense(n, x, 6, 6) for n in (names[:1:-1] if swapped else names[2:])]
        return make.graph(*(heads[::-1] if swapped else heads))

    ours = ["dense", "dense_1", "dense_2", "dense_3"]
    keras = crossed("keras", ours, False)
    mapping = transfer.find(keras, crossed("torch", ["3", "2", "1", "0"], True))
    found = [pairs(each) for each in alternatives(mapping)]
    assert all((each["dense"], each["dense_1"]) == ("3", "2") for each in found)
    heads = [(each["dense_2"], each["dense_3"]) for each in found]
    assert sorted(heads) == [("0", "1"), ("1", "0")]


def test_names_decide_where_they_say_something() -> None:
    mapping = transfer.find(
        parallel("keras", ["left_conv", "right_conv", "dense"]),
        parallel("torch", ["right.conv", "left.conv", "h"]),
    )
    assert not mapping.ambiguous
    assert pairs(mapping)["left_conv"] == "left.conv"


def test_numbers_in_names_that_contradict_the_order_decide_nothing() -> None:
    mapping = transfer.find(
        parallel("keras", ["conv1", "conv2", "dense"]),
        parallel("torch", ["conv0", "conv1", "h"]),
    )
    assert mapping.ambiguous


def gated(framework: str, names: Sequence[str]) -> Graph:
    """A layer of two kernels, bare in Keras, and one that is bare in PyTorch, all of one shape."""
    make = Maker(framework, (7, 4))
    gate, head = names
    if framework == "keras":
        for part in ("value", "gate"):
            make.own(gate, f"{part}_kernel", (4, 4))
            make.own(gate, f"{part}_bias", (4,))
        x = make.call("other:Gated", "input:0", shape=(7, 4), layer=gate)
        return make.graph(make.dense(head, x, 4, 4, (7,)))
    parts = [make.dense(f"{gate}.{part}", "input:0", 4, 4, (7,)) for part in ("value", "gate")]
    x = make.call("multiply", *parts, shape=(7, 4))
    make.own(head, "w", (4, 4))
    make.own(head, "b", (4,))
    return make.graph(make.call("other:Bare", x, shape=(7, 4), layer=head))


def test_a_layer_that_both_sides_call_alike_is_that_layer_whatever_it_is_made_of() -> None:
    named = gated("keras", ["gated3", "dense5"]), gated("torch", ["gated3", "dense5"])
    assert pairs(transfer.find(*named)) == {
        **{f"gated3/{p}_kernel": f"gated3.{p}.weight" for p in ("value", "gate")},
        **{f"gated3/{p}_bias": f"gated3.{p}.bias" for p in ("value", "gate")},
        **{"dense5/kernel": "dense5.w", "dense5/bias": "dense5.b"},
    }


@pytest.mark.parametrize("names", [["layer1", "layer2", "h"], ["layer0", "layer1", "h"]])
def test_names_that_mislead_are_not_followed(names: list[str]) -> None:
    """The graphs say which is which; and numbers from 0 on are not those from 1 on."""
    keras, torch = chain("keras", ["layer2", "layer1", "h"]), chain("torch", names)
    assert [*pairs(transfer.find(keras, torch)).values()] == names


def recurrent(framework: str, layers: int) -> Graph:
    """Two LSTMs in Keras; one of two layers, or two, in PyTorch."""
    make = Maker(framework, (7, 3))
    if framework == "keras":
        x = "input:0"
        for name, width in (("lstm", 3), ("lstm_1", 5)):
            make.own(name, "kernel", (width, 20))
            make.own(name, "recurrent_kernel", (5, 20))
            make.own(name, "bias", (20,))
            x = make.call("lstm", x, shape=(7, 5), layer=name, units=5)
    else:
        x = "input:0"
        for module in range(2 // layers):
            name = f"rnn{module}"
            for level in range(layers):
                width = 3 if module == level == 0 else 5
                for role, shape in (
                    (f"weight_ih_l{level}", (20, width)),
                    (f"weight_hh_l{level}", (20, 5)),
                    (f"bias_ih_l{level}", (20,)),
                    (f"bias_hh_l{level}", (20,)),
                ):
                    make.own(name, role, shape)
            x = make.call("lstm", x, shape=(7, 5), layer=name, units=5)
    return make.graph(make.dense("head", x, 5, 2, lead=(7,)))


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [(2, {"lstm+lstm_1": "rnn0", "head": "head"}), (1, {"lstm": "rnn0", "lstm_1": "rnn1"})],
)
def test_stacked_lstms(layers: int, wanted: dict[str, str]) -> None:
    mapping = transfer.find(recurrent("keras", 1), recurrent("torch", layers))
    assert not mapping.ambiguous
    assert pairs(mapping) | wanted == pairs(mapping)


def test_a_separable_convolution_and_the_two_that_stand_for_it() -> None:
    ours, theirs = maker("keras"), maker("torch")
    ours.own("sep", "depthwise_kernel", (3, 3, 3, 2))
    ours.own("sep", "pointwise_kernel", (1, 1, 6, 4))
    ours.own("sep", "bias", (4,))
    x = ours.call("separable_conv2d", "input:0", shape=(8, 8, 4), layer="sep")
    keras = ours.graph(ours.conv("conv", x, 4, 4))
    theirs.own("depth", "weight", (6, 1, 3, 3))
    y = theirs.call("depthwise_conv2d", "input:0", shape=(6, 8, 8), layer="depth")
    theirs.own("point", "weight", (4, 6, 1, 1))
    theirs.own("point", "bias", (4,))
    y = theirs.call("conv2d", y, shape=(4, 8, 8), layer="point")
    torch = theirs.graph(theirs.conv("conv", y, 4, 4))
    assert pairs(transfer.find(keras, torch)) == {"sep": "depth+point", "conv": "conv"}


def attention(framework: str, names: Sequence[str], apart: bool = False) -> Graph:
    make = Maker(framework, (7, 8))
    x = "input:0"
    if apart:
        q, k, v = (make.dense(name, x, 8, 8, lead=(7,)) for name in names[:3])
        x = make.call("other:scaled_dot_product_attention", q, k, v, shape=(7, 8))
        x = make.dense(names[3], x, 8, 8, lead=(7,))
    else:
        for part in ("query", "key", "value"):
            make.own(names[0], f"{part}/kernel", (8, 2, 4))
            make.own(names[0], f"{part}/bias", (2, 4))
        make.own(names[0], "attention_output/kernel", (2, 4, 8))
        make.own(names[0], "attention_output/bias", (8,))
        x = make.call("attention", x, shape=(7, 8), layer=names[0], heads=2)
    return make.graph(make.dense("head", x, 8, 2, lead=(7,)))


def test_attention_written_as_four_dense_layers_is_told_by_their_names() -> None:
    keras = attention("keras", ["multi_head_attention"])
    torch = attention("torch", ["attn.v_proj", "attn.q_proj", "attn.k_proj", "attn.o"], apart=True)
    mapping = transfer.find(keras, torch)
    assert not mapping.ambiguous
    assert mapping.entries[0].torch == ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o")


def test_attention_whose_layers_have_no_telling_names_is_in_doubt() -> None:
    torch = attention("torch", ["m.0", "m.1", "m.2", "m.3"], apart=True)
    mapping = transfer.find(attention("keras", ["multi_head_attention"]), torch)
    assert [len(choices) for choices in mapping.ambiguous] == [6]
    assert mapping.entries[0].torch == ("m.0", "m.1", "m.2", "m.3")


def test_bare_parameters_of_one_module_are_each_for_itself() -> None:
    ours, theirs = Maker("keras", (7, 8)), Maker("torch", (7, 8))
    ours.own("scale_1", "gamma", (8,))
    ours.own("positions", "table", (1, 7, 8))
    x = ours.call("other:Positions", "input:0", shape=(7, 8), layer="positions")
    keras = ours.graph(ours.call("scale", x, shape=(7, 8), layer="scale_1"))
    theirs.own("self", "gamma", (1, 1, 8))
    theirs.own("self", "pos_embed", (7, 8))
    y = theirs.call("scale", "input:0", shape=(7, 8), layer="self", parameter="pos_embed")
    torch = theirs.graph(theirs.call("scale", y, shape=(7, 8), layer="self", parameter="gamma"))
    assert pairs(transfer.find(keras, torch)) == {
        "positions": "self.pos_embed",
        "scale_1": "self.gamma",
    }


def test_a_missing_layer_is_named_with_what_comes_closest() -> None:
    keras = chain("keras", ["conv_a", "conv_b", "conv_c", "dense"])
    torch = chain("torch", ["x", "y", "z"])
    with pytest.raises(Ambiguous, match="have no counterpart") as error:
        transfer.find(keras, torch)
    text = str(error.value)
    assert "2 parameters of the Keras model and 0 of the PyTorch model" in text
    assert "conv2d: kernel [3, 3, 4, 4], bias [4]" in text
    assert "[[layer]]" in text
    partial = transfer.find(keras, torch, partial=True)
    assert len(partial.keras_alone) == 2 and not partial.torch_alone
    assert len(partial.entries) == 3 and partial.notes


def test_extra_layers_are_named_with_why_nothing_fits() -> None:
    keras = chain("keras", ["a", "dense"])
    make = maker("torch")
    x = make.conv("x", "input:0", 3, 4, k=5)
    x = make.norm("bn", x, 4)
    torch = make.graph(make.dense("fc", make.call("flatten", x, shape=(256,)), 256, 5))
    with pytest.raises(Ambiguous) as error:
        transfer.find(keras, torch)
    text = str(error.value)
    assert "PyTorch bn (batch_norm" in text
    assert "weight (4, 3, 3, 3) for (4, 3, 5, 5)" in text  # got, wanted


def test_a_wrong_connection_still_gives_a_mapping_with_a_note() -> None:
    keras = chain("keras", ["a", "b", "c", "dense"])
    make = maker("torch")
    x = make.conv("x", "input:0", 3, 4)
    y = make.conv("y", x, 4, 4)
    z = make.conv("z", x, 4, 4)  # it should read y
    flat = make.call("flatten", make.call("add", y, z, shape=make.map(8, 4)), shape=(256,))
    torch = make.graph(make.dense("fc", flat, 256, 5))
    mapping = transfer.find(keras, torch)
    assert pairs(mapping) == {"a": "x", "b": "y", "c": "z", "dense": "fc"}
    assert any("order and names" in note for note in mapping.notes)


def test_graphs_that_could_not_be_followed_are_aligned_by_order() -> None:
    def cut(graph: Graph) -> Graph:
        nodes = tuple(Node(n.name, n.kind, (), n.shape, n.layer) for n in graph.nodes)
        return Graph(graph.framework, nodes, graph.parameters, graph.inputs, graph.outputs)

    keras, torch = chain("keras", ["a", "b", "c", "d"]), chain("torch", ["w", "x", "y", "z"])
    mapping = transfer.find(cut(keras), cut(torch))
    assert pairs(mapping) == {"a": "w", "b": "x", "c": "y", "d": "z"}


def test_a_bias_on_one_side_alone_is_mapped_and_noted() -> None:
    keras = chain("keras", ["a", "b", "dense"])
    torch = chain("torch", ["x", "y", "z"])
    kept = tuple(p for p in torch.parameters if p.name != "y.bias")
    torch = Graph("torch", torch.nodes, kept, torch.inputs, torch.outputs)
    mapping = transfer.find(keras, torch)
    assert mapping.entries[1].lost and "b -> y: PyTorch has no bias" in mapping.notes
    weights = {p.name: np.ones(p.shape, np.float32) for p in keras.parameters}
    with pytest.raises(InputError, match="bias is not 0 everywhere, and PyTorch has no place"):
        transfer.to_torch(weights, mapping, keras, torch)
    lost: list[str] = []
    moved = transfer.to_torch(weights, mapping, keras, torch, lost=lost)
    assert list(moved) == [p.name for p in torch.parameters]
    assert len(lost) == 1 and "bias" in lost[0]
    weights["b/bias"][:] = 0
    assert transfer.to_torch(weights, mapping, keras, torch)
    back = transfer.to_keras(moved, mapping, keras, torch)
    assert not back["b/bias"].any()


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    keras, torch = chain("keras", ["a", "b", "dense"]), chain("torch", ["x", 'y"\\', "z"])
    mapping = transfer.find(keras, torch)
    mapping.write(tmp_path / "map.toml")
    assert "flattened = [8, 8, 4]" in (tmp_path / "map.toml").read_text()
    again = transfer.read_map(tmp_path / "map.toml", keras, torch)
    assert again == mapping


def test_a_map_may_give_a_part_and_settle_a_doubt(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[[layer]]\nkeras = "conv2d"\ntorch = "b.1"\n')
    keras, torch = parallel("keras", KERAS_NAMES), parallel("torch", ["b.0", "b.1", "h"])
    mapping = transfer.read_map(path, keras, torch)
    assert not mapping.ambiguous
    assert pairs(mapping) == {"conv2d": "b.1", "conv2d_1": "b.0", "dense": "h"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[layer]]\nkeras = "a"\n', "no map of layers"),
        ('[[layers]]\nkeras = "a"\ntorch = "x"\n', r"expected \[\[layer\]\] alone"),
        ('[[layer]]\nkeras = "a"\ntorch = "x"\nflat = 1\n', "unknown keys"),
        ('[[layer]]\nkeras = "aa"\ntorch = "x"\n', "no layer 'aa'.*Close to it: a"),
        ('[[layer]]\nkeras = "a"\ntorch = "z"\n', "does not fit"),
        ('[[layer]]\nkeras = "a"\ntorch = "x"\nrule = "cnv"\n', "no rule 'cnv'"),
        ('[[layer]]\nkeras = "a"\ntorch = "x"\n' * 2, "stands in two entries"),
        ("[[layer]\n", "no map of layers"),
    ],
)
def test_a_wrong_map_is_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        transfer.read_map(path, chain("keras", ["a", "b", "d"]), chain("torch", ["x", "y", "z"]))


def test_weights_that_are_not_the_models_are_refused() -> None:
    keras, torch = chain("keras", ["a", "d"]), chain("torch", ["x", "z"])
    mapping = transfer.find(keras, torch)
    weights = {p.name: np.zeros(p.shape, np.float32) for p in keras.parameters}
    with pytest.raises(InputError, match=r"a/bias: expected \[4\], got nothing"):
        transfer.to_torch(
            {k: v for k, v in weights.items() if k != "a/bias"}, mapping, keras, torch
        )
    with pytest.raises(InputError, match="extra: expected no such tensor"):
        transfer.to_torch({**weights, "extra": np.zeros(1)}, mapping, keras, torch)
    with pytest.raises(InputError, match=r"a/bias: expected \[4\], got \[5\]"):
        transfer.to_torch({**weights, "a/bias": np.zeros(5)}, mapping, keras, torch)
    short = Mapping(mapping.entries[:1])
    with pytest.raises(InputError, match="leaves out"):
        transfer.to_torch(weights, short, keras, torch)
    wrong = Mapping((Entry(("a",), ("z",), "conv2d"), Entry(("d",), ("x",), "dense")))
    with pytest.raises(InputError, match=r"Keras a to PyTorch z \(rule conv2d\) do not fit"):
        transfer.to_torch(weights, wrong, keras, torch)


def test_dtypes_are_kept_unless_a_cast_is_asked_for() -> None:
    keras, torch = chain("keras", ["a", "d"]), chain("torch", ["x", "z"])
    mapping = transfer.find(keras, torch)
    weights = {p.name: np.ones(p.shape, np.float64) for p in keras.parameters}
    for cast, dtype in ((None, "float64"), ("model", "float32"), ("float16", "float16")):
        moved = transfer.to_torch(weights, mapping, keras, torch, cast=cast)
        assert {str(value.dtype) for value in moved.values()} == {dtype}
        assert all(value.flags.c_contiguous for value in moved.values())


def test_every_parameter_is_in_exactly_one_unit() -> None:
    graph = attention("keras", ["mha"])
    held = [name for unit in units(graph) for name in unit.names.values()]
    assert sorted(held) == sorted(p.name for p in graph.parameters)


def test_counters_have_no_counterpart_and_are_kept_or_zero() -> None:
    ours, theirs = maker("keras"), maker("torch")
    keras = ours.graph(ours.norm("bn", "input:0", 3))
    theirs.norm("norm", "input:0", 3)
    theirs.parameters.append(
        Parameter("norm.num_batches_tracked", "norm", "num_batches_tracked", (), "int64", False)
    )
    torch = theirs.graph("norm")
    mapping = transfer.find(keras, torch)
    weights = {p.name: np.ones(p.shape, np.float32) for p in keras.parameters}
    moved = transfer.to_torch(weights, mapping, keras, torch)
    counter = moved["norm.num_batches_tracked"]
    assert (counter.dtype, counter.shape, int(counter)) == (np.int64, (), 0)
    start = {"norm.num_batches_tracked": np.array(7)}
    moved = transfer.to_torch(weights, mapping, keras, torch, start=start)
    assert int(moved["norm.num_batches_tracked"]) == 7
    assert transfer.to_keras(moved, mapping, keras, torch).keys() == weights.keys()


def test_models_without_parameters_or_of_one_framework_are_refused() -> None:
    keras, torch = chain("keras", ["a", "d"]), chain("torch", ["x", "z"])
    with pytest.raises(InputError, match="no parameters"):
        transfer.find(Graph("keras", keras.nodes, (), keras.inputs, keras.outputs), torch)
    with pytest.raises(InputError, match="expected the graph of a keras model"):
        transfer.find(torch, torch)


def test_a_second_name_of_a_tied_weight_follows_the_first() -> None:
    """A file of PyTorch's has both names, its graph the first alone."""
    keras, torch = chain("keras", ["a", "d"]), chain("torch", ["x", "z"])
    mapping = transfer.find(keras, torch)
    rng = np.random.default_rng(0)
    start = {p.name: rng.normal(size=p.shape) for p in torch.parameters}
    start |= {"tied.weight": start["x.weight"].copy(), "bn.num_batches_tracked": np.array(3)}
    weights = {p.name: rng.normal(size=p.shape) for p in keras.parameters}
    moved = transfer.to_torch(weights, mapping, keras, torch, start=start)
    assert list(moved)[-2:] == ["tied.weight", "bn.num_batches_tracked"]
    assert moved["tied.weight"].tobytes() == moved["x.weight"].tobytes()
    assert moved["x.weight"].tobytes() != start["x.weight"].tobytes()
    back = transfer.to_keras(moved, mapping, keras, torch)
    assert all(back[name].tobytes() == value.tobytes() for name, value in weights.items())
    with pytest.raises(InputError, match="other: expected no such tensor"):
        transfer.to_keras({**moved, "other": np.ones(3)}, mapping, keras, torch)
