"""In which order numbers run: what stands between a map and the layer that reads it flat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parity import transfer
from parity.check.graph import Graph, Node, Parameter
from parity.transfer.candidates import order_of, order_text
from parity.transfer.layouts import Order

H, W, C = 2, 3, 4
FLAT = H * W * C
Build = Callable[["Net"], str]


class Net:
    """Nodes are added by name; shapes of maps are given as (H, W, C)."""

    def __init__(self, framework: str) -> None:
        self.keras = framework == "keras"
        self.framework = framework
        self.nodes: list[Node] = []
        self.parameters: list[Parameter] = []

    def map(self, h: int = H, w: int = W, c: int = C) -> tuple[int, int, int]:
        return (h, w, c) if self.keras else (c, h, w)

    def add(self, kind: str, *inputs: str, shape: tuple[int, ...], layer: str = "") -> str:
        name = layer or f"{kind}{len(self.nodes)}"
        self.nodes.append(Node(name, kind, inputs, shape, layer))
        return name

    def own(
        self, layer: str, ours: tuple[str, tuple[int, ...]], theirs: tuple[str, tuple[int, ...]]
    ) -> None:
        role, shape = ours if self.keras else theirs
        self.parameters.append(Parameter(f"{layer}.{role}", layer, role, shape, "float32"))

    def conv(self, source: str = "input:0", layer: str = "conv") -> str:
        self.own(layer, ("kernel", (1, 1, 3, C)), ("weight", (C, 3, 1, 1)))
        return self.add("conv2d", source, shape=self.map(), layer=layer)

    def dense(self, source: str, ins: int, outs: int = 5, layer: str = "dense") -> str:
        self.own(layer, ("kernel", (ins, outs)), ("weight", (outs, ins)))
        return self.add("dense", source, shape=(outs,), layer=layer)

    def norm(self, source: str, size: int, layer: str = "bn") -> str:
        for ours, theirs in (
            *(("gamma", "weight"), ("beta", "bias")),
            *(("moving_mean", "running_mean"), ("moving_variance", "running_var")),
        ):
            self.own(layer, (ours, (size,)), (theirs, (size,)))
        return self.add("batch_norm", source, shape=(size,), layer=layer)

    def flatten(self, source: str, size: int = FLAT) -> str:
        return self.add("flatten", source, shape=(size,))

    def graph(self, output: str, inputs: tuple[tuple[int, ...], ...] = ()) -> Graph:
        given = inputs or (self.map(c=3),)
        return Graph(self.framework, tuple(self.nodes), tuple(self.parameters), given, (output,))


def both(build: Build, **inputs: tuple[tuple[int, ...], ...]) -> tuple[Graph, Graph]:
    graphs = []
    for framework in ("keras", "torch"):
        net = Net(framework)
        graphs.append(net.graph(build(net), inputs.get(framework, ())))
    return graphs[0], graphs[1]


def contexts(build: Build) -> dict[str, dict[str, object]]:
    mapping = transfer.find(*both(build))
    return {entry.keras[0]: dict(entry.context) for entry in mapping.entries}


MOVED = (Order((H, W, C), (2, 0, 1)),)


def test_through_dropout_activation_and_batch_norm() -> None:
    def build(net: Net) -> str:
        x = net.flatten(net.add("relu", net.conv(), shape=net.map()))
        x = net.norm(net.add("dropout", x, shape=(FLAT,)), FLAT)
        return net.dense(net.add("relu", x, shape=(FLAT,)), FLAT)

    found = contexts(build)
    assert found["bn"] == {"flattened": MOVED}
    assert found["dense"] == {"flattened": MOVED}
    assert found["conv"] == {}


def test_a_dense_layer_behind_a_dense_layer_is_not_reordered() -> None:
    def build(net: Net) -> str:
        return net.dense(net.dense(net.flatten(net.conv()), FLAT, FLAT), FLAT, 5, "second")

    assert contexts(build)["second"] == {}


def test_nothing_is_reordered_where_pytorch_permutes_first() -> None:
    def build(net: Net) -> str:
        x = net.conv()
        if not net.keras:
            x = net.add("permute", x, shape=(H, W, C))
        return net.dense(net.flatten(x), FLAT)

    assert contexts(build)["dense"] == {}


def test_nor_where_keras_permutes_to_pytorchs_order() -> None:
    def build(net: Net) -> str:
        x = net.conv()
        if net.keras:
            x = net.add("permute", x, shape=(C, H, W))
        return net.dense(net.flatten(x), FLAT)

    assert contexts(build)["dense"] == {}


def test_by_way_of_a_reshape_to_a_sequence_and_back() -> None:
    """(H W, C) in both, which PyTorch permutes to from (C, H W)."""

    def build(net: Net) -> str:
        if net.keras:
            x = net.add("reshape", net.conv(), shape=(H * W, C))
        else:
            x = net.add("flatten", net.conv(), shape=(C, H * W))
            x = net.add("permute", x, shape=(H * W, C))
        return net.dense(net.flatten(x), FLAT)

    assert contexts(build)["dense"] == {}


def test_a_map_of_equal_sides_is_reordered_all_the_same() -> None:
    def build(net: Net) -> str:
        net.own("conv", ("kernel", (1, 1, 3, 3)), ("weight", (3, 3, 1, 1)))
        x = net.add("conv2d", "input:0", shape=(3, 3, 3), layer="conv")
        return net.dense(net.flatten(x, 27), 27)

    assert contexts(build)["dense"] == {"flattened": (Order((3, 3, 3), (2, 0, 1)),)}


def test_after_global_pooling_there_is_nothing_to_reorder() -> None:
    def build(net: Net) -> str:
        x = net.add("global_average_pool", net.conv(), shape=(C,) if net.keras else (C, 1, 1))
        return net.dense(x if net.keras else net.flatten(x, C), C)

    assert contexts(build)["dense"] == {}


def test_a_concatenation_is_reordered_in_its_part() -> None:
    def build(net: Net) -> str:
        x = net.flatten(net.conv())
        y = net.dense("input:1", 5, 6, "other")
        return net.dense(net.add("concatenate", y, x, shape=(FLAT + 6,)), FLAT + 6)

    graphs = both(build, keras=((H, W, 3), (5,)), torch=((3, H, W), (5,)))
    mapping = transfer.find(*graphs)
    (found,) = [e.context["flattened"] for e in mapping.entries if e.keras == ("dense",)]
    assert found == (Order((6,), (0,)), *MOVED)


def test_maps_joined_by_their_channels() -> None:
    def build(net: Net) -> str:
        x = net.add("concatenate", net.conv(), net.conv(layer="b"), shape=net.map(c=2 * C))
        return net.dense(net.flatten(x, 2 * FLAT), 2 * FLAT)

    assert contexts(build)["dense"] == {"flattened": (Order((H, W, 2 * C), (2, 0, 1)),)}


def test_two_flattened_maps_one_behind_the_other() -> None:
    def build(net: Net) -> str:
        x, y = net.flatten(net.conv()), net.flatten(net.conv(layer="b"))
        return net.dense(net.add("concatenate", x, y, shape=(2 * FLAT,)), 2 * FLAT)

    assert contexts(build)["dense"] == {"flattened": MOVED * 2}


def test_a_dense_layer_over_the_channels_of_a_map() -> None:
    """PyTorch permutes for it and back, and flattens channels first."""

    def build(net: Net) -> str:
        x = net.conv()
        x = x if net.keras else net.add("permute", x, shape=(H, W, C))
        net.own("pixel", ("kernel", (C, 5)), ("weight", (5, C)))
        x = net.add("dense", x, shape=(H, W, 5), layer="pixel")
        x = x if net.keras else net.add("permute", x, shape=(5, H, W))
        return net.dense(net.flatten(x, H * W * 5), H * W * 5)

    assert contexts(build)["dense"] == {"flattened": (Order((H, W, 5), (2, 0, 1)),)}


def test_an_input_that_is_flattened_at_once() -> None:
    """Nothing says that it is a map: PyTorch's input has the same shape, nothing is reordered."""

    def build(net: Net) -> str:
        return net.dense(net.flatten("input:0"), FLAT)

    same = both(build, keras=((H, W, C),), torch=((H, W, C),))
    assert transfer.find(*same).entries[0].context == {}


def test_a_dense_layer_whose_outputs_become_a_map() -> None:
    def build(net: Net) -> str:
        x = net.norm(net.dense("input:0", 5, FLAT), FLAT)
        x = net.add("reshape", net.add("relu", x, shape=(FLAT,)), shape=net.map())
        net.own("up", ("kernel", (2, 2, 6, C)), ("weight", (C, 6, 2, 2)))
        return net.add("conv_transpose2d", x, shape=net.map(4, 6, 6), layer="up")

    mapping = transfer.find(*both(build, keras=((5,),), torch=((5,),)))
    found = {entry.keras[0]: entry.context for entry in mapping.entries}
    assert found["dense"] == {"unflattened": MOVED}
    assert found["bn"] == {"flattened": MOVED}
    assert found["up"] == {}


def test_columns_of_a_map_read_as_a_sequence() -> None:
    """Text in an image: (W, H C) in Keras, (W, C H) in PyTorch, into an LSTM."""

    def build(net: Net) -> str:
        x = net.add("permute", net.conv(), shape=(W, H, C) if net.keras else (W, C, H))
        x = net.add("reshape", x, shape=(W, H * C))
        for role, other, shape in (
            ("kernel", "weight_ih_l0", (H * C, 8)),
            ("recurrent_kernel", "weight_hh_l0", (2, 8)),
        ):
            net.own("lstm", (role, shape), (other, shape[::-1]))
        return net.add("lstm", x, shape=(W, 2), layer="lstm")

    assert contexts(build)["lstm"] == {"flattened": (Order((H, C), (1, 0)),)}


def test_layer_norm_over_a_map() -> None:
    def build(net: Net) -> str:
        x = net.conv()
        net.own("ln", ("gamma", (H, W, C)), ("weight", (C, H, W)))
        return net.add("layer_norm", x, shape=net.map(), layer="ln")

    assert contexts(build)["ln"] == {"axes": (2, 0, 1)}


def test_the_whole_of_it_gives_the_same_numbers() -> None:
    """Flatten, batch norm, dense, by hand on both sides with the weights carried over."""

    def build(net: Net) -> str:
        return net.dense(net.norm(net.flatten(net.conv()), FLAT), FLAT)

    keras, torch = both(build)
    rng = np.random.default_rng(0)
    weights = {p.name: rng.uniform(0.5, 1, p.shape) for p in keras.parameters}
    mapping = transfer.find(keras, torch)
    made = transfer.to_torch(weights, mapping, keras, torch)
    image = rng.normal(size=(H, W, 3))

    def normed(x: np.ndarray, w: dict[str, np.ndarray], *names: str) -> np.ndarray:
        scale, shift, mean, variance = (w[f"bn.{name}"] for name in names)
        return scale * (x - mean) / np.sqrt(variance) + shift

    x = np.einsum("hwi,io->hwo", image, weights["conv.kernel"][0, 0]).reshape(-1)
    x = normed(x, weights, "gamma", "beta", "moving_mean", "moving_variance")
    ours = x @ weights["dense.kernel"]
    y = np.einsum("ihw,oi->ohw", image.transpose(2, 0, 1), made["conv.weight"][..., 0, 0])
    y = normed(y.reshape(-1), made, "weight", "bias", "running_mean", "running_var")
    np.testing.assert_allclose(made["dense.weight"] @ y, ours, rtol=1e-12)
    back = transfer.to_keras(made, mapping, keras, torch)
    assert all(back[name].tobytes() == value.tobytes() for name, value in weights.items())


@pytest.mark.parametrize(
    ("orders", "text"),
    [
        (MOVED, "[2, 3, 4]"),
        ((Order((2, 4), (1, 0)),), "[2, 4]"),
        ((Order((6,), (0,)), *MOVED), "[{ shape = [6] }, { shape = [2, 3, 4] }]"),
        ((Order((4, 2, 3), (1, 2, 0)),), "[{ shape = [4, 2, 3], axes = [1, 2, 0] }]"),
    ],
)
def test_orders_in_a_map(orders: tuple[Order, ...], text: str) -> None:
    import tomllib

    assert order_text(orders) == text
    assert order_of(tomllib.loads(f"x = {text}")["x"]) == orders


@pytest.mark.parametrize("value", [3, [{"shape": [2, 3], "axes": [0, 0]}], [{"sizes": [2]}]])
def test_orders_that_make_no_sense(value: object) -> None:
    with pytest.raises((ValueError, KeyError)):
        order_of(value)
