"""Pairs whose weights no rule on layers carries: mapped, carried, and both models then agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import transfer
from parity.transfer import Mapping
from parity.transfer.tensors import forms

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
L: Any = keras.layers
nn: Any = torch.nn
ops, F = keras.ops, nn.functional
Models = tuple[Any, Any, tuple[int, ...]]  # of Keras, of PyTorch, what Keras reads


class Net(nn.Module):
    """A module of these parts, with a forward of its own."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self._forward(self, x)


def p(*shape: int) -> Any:
    return nn.Parameter(torch.randn(*shape) * 0.1)


def sequential(shape: tuple[int, ...], *layers: Any) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


class Bare(L.Layer):
    """A layer of weights by name and shape, with a call of its own."""

    def __init__(self, call: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.compute, self.shapes = call, shapes

    def build(self, shape: Any) -> None:
        self.w = {name: self.add_weight(shape=s, name=name) for name, s in self.shapes.items()}

    def call(self, x: Any) -> Any:
        return self.compute(x, **self.w)


def functional_network() -> Models:
    def forward(net: Any, x: Any) -> Any:
        x = F.max_pool2d(F.conv2d(x, net.w, net.b).relu(), 2)
        return F.linear(x.flatten(1), net.v, net.c)

    layers = L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(2), L.Flatten(), L.Dense(5)
    parts = {"w": p(4, 3, 3, 3), "b": p(4), "v": p(5, 36), "c": p(5)}
    return sequential((8, 8, 3), *layers), Net(forward, **parts), (8, 8, 3)


def square_matrices_multiplied_from_the_right() -> Models:
    def forward(net: Any, x: Any) -> Any:
        return torch.addmm(net.c, torch.tanh(x @ net.w + net.b), net.v)

    net = Net(forward, w=p(6, 6), b=p(6), v=p(6, 6), c=p(6))
    return sequential((6,), L.Dense(6, "tanh"), L.Dense(6)), net, (6,)


def weights_of_one_layer_used_in_another_order() -> Models:
    def compute(x: Any, w: Any, u: Any) -> Any:
        return ops.tanh(ops.matmul(x, w)) + ops.tensordot(x, u, [[1], [0]])

    def forward(net: Any, x: Any) -> Any:
        return net.out(net.first(x) + net.second(x).tanh())

    parts = {n: nn.Linear(6, 6, bias=False) for n in ("first", "second")}
    ours = sequential((6,), Bare(compute, w=(6, 6), u=(6, 6)), L.Dense(3))
    return ours, Net(forward, **parts, out=nn.Linear(6, 3)), (6,)


def an_lstm_by_one_matrix_with_its_gates_in_another_order() -> Models:
    def forward(net: Any, x: Any) -> Any:
        h = c = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            i, f, o, g = net.gates(torch.cat([step, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return net.out(h)

    net = Net(forward, gates=nn.Linear(3 + 4, 16), out=nn.Linear(4, 2))
    return sequential((3, 3), L.LSTM(4), L.Dense(2)), net, (3, 3)


def a_gru_by_its_cell() -> Models:
    def forward(net: Any, x: Any) -> Any:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = net.cell(step, h)
        return net.out(h)

    net = Net(forward, cell=nn.GRUCell(3, 4), out=nn.Linear(4, 2))
    return sequential((3, 3), L.GRU(4), L.Dense(2)), net, (3, 3)


def a_gru_that_resets_before_by_six_matrices() -> Models:
    def forward(net: Any, x: Any) -> Any:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            z = torch.sigmoid(net.wz(step) + net.uz(h))
            r = torch.sigmoid(net.wr(step) + net.ur(h))
            h = z * h + (1 - z) * torch.tanh(net.wh(step) + net.uh(r * h))
        return net.out(h)

    parts = {f"w{gate}": nn.Linear(3, 4) for gate in "zrh"}
    parts |= {f"u{gate}": nn.Linear(4, 4, bias=False) for gate in "zrh"}
    net = Net(forward, **parts, out=nn.Linear(4, 2))
    return sequential((3, 3), L.GRU(4, reset_after=False), L.Dense(2)), net, (3, 3)


def attention(ours: Callable[[Any], Any], split: Callable[[Any, Any], Any], **parts: Any) -> Models:
    def forward(net: Any, x: Any) -> Any:
        q, k, v = split(net, x)
        made = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return net.out(made if made.ndim == 3 else made.transpose(1, 2).flatten(2))

    given = keras.Input((5, 8))
    q, k, v = ours(given)
    turned = ops.swapaxes(k, -1, -2)
    made = ops.matmul(ops.softmax(ops.matmul(q, turned)), v)
    if len(made.shape) == 4:
        made = ops.reshape(ops.transpose(made, (0, 2, 1, 3)), (-1, 5, 8))
    model = keras.Model(given, L.Dense(3, name="out")(made))
    return model, Net(forward, **parts, out=nn.Linear(8, 3)), (5, 8)


def three_layers(x: Any) -> Any:
    return [L.Dense(8, name=name)(x) for name in "abc"]


def one_matrix_for_key_query_and_value() -> Models:
    def split(net: Any, x: Any) -> Any:
        k, q, v = net.all(x).chunk(3, -1)
        return q, k, v

    return attention(three_layers, split, all=nn.Linear(8, 24))


def three_matrices_for_a_layer_of_all() -> Models:
    def split(net: Any, x: Any) -> Any:
        return net.q(x), net.k(x), net.v(x)

    parts = {name: nn.Linear(8, 8) for name in "qkv"}
    return attention(lambda x: ops.split(L.Dense(24)(x), 3, -1), split, **parts)


def one_matrix_dealt_out_head_by_head() -> Models:
    def heads(x: Any) -> Any:
        return [ops.transpose(L.Reshape((5, 2, 4))(each), (0, 2, 1, 3)) for each in three_layers(x)]

    def split(net: Any, x: Any) -> Any:
        return net.all(x).view(len(x), 5, 2, 12).transpose(1, 2).chunk(3, -1)

    return attention(heads, split, all=nn.Linear(8, 24))


def einsum_kernels_with_heads_first_and_last() -> Models:
    given = keras.Input((5, 8))
    made = L.EinsumDense("btd,ndh->btnh", output_shape=(None, 2, 6), bias_axes="nh")(given)
    made = L.EinsumDense("btnh,nhd->btd", output_shape=(None, 8), bias_axes="d")(ops.tanh(made))
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
    return keras.Model(given, made), net, (5, 8)


def batch_norm_by_hand() -> Models:
    def forward(net: Any, x: Any) -> Any:
        x = (net.conv(x) - net.mean) / torch.sqrt(net.var + 1e-3)
        return net.out((x * net.g + net.b).mean((2, 3)))

    net = Net(
        forward, g=p(1, 4, 1, 1), b=p(1, 4, 1, 1), conv=nn.Conv2d(3, 4, 3), out=nn.Linear(4, 2)
    )
    net.register_buffer("mean", torch.zeros(1, 4, 1, 1))
    net.register_buffer("var", torch.ones(1, 4, 1, 1))
    net.register_buffer("steps", torch.zeros((), dtype=torch.long))
    layers = L.Conv2D(4, 3), L.BatchNormalization(), L.GlobalAveragePooling2D(), L.Dense(2)
    return sequential((6, 6, 3), *layers), net, (6, 6, 3)


def a_bias_added_by_hand_and_a_buffer_beside_it() -> Models:
    def forward(net: Any, x: Any) -> Any:
        return net.out((net.conv(x) + net.bias[:, None, None]).relu().mean((2, 3)))

    conv = nn.Conv2d(3, 4, 3, bias=False)
    conv.register_buffer("past", torch.zeros(1, 3, 2))
    net = Net(forward, conv=conv, bias=p(4), out=nn.Linear(4, 2))
    layers = L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(2)
    return sequential((6, 6, 3), *layers), net, (6, 6, 3)


def a_class_token_and_positions() -> Models:
    def compute(x: Any, token: Any, places: Any) -> Any:
        first = ops.broadcast_to(token, (ops.shape(x)[0], 1, 4))
        return ops.concatenate([first, x], 1) + places

    def forward(net: Any, x: Any) -> Any:
        return net.out(torch.cat([net.cls.expand(len(x), -1, -1), x], 1) + net.pos.weight)

    net = Net(forward, pos=nn.Embedding(6, 4), cls=p(1, 1, 4), out=nn.Linear(4, 2))
    ours = sequential((5, 4), Bare(compute, token=(1, 1, 4), places=(1, 6, 4)), L.Dense(2))
    return ours, net, (5, 4)


def a_weight_norm_by_hand() -> Models:
    def compute(x: Any, v: Any, g: Any, b: Any) -> Any:
        return ops.matmul(x, v * g / ops.norm(v, axis=0)) + b

    module = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    ours = sequential((6,), Bare(compute, v=(6, 4), g=(4,), b=(4,)), L.Dense(2))
    return ours, nn.Sequential(module, nn.Linear(4, 2)), (6,)


def rows_behind_a_flatten_that_is_not_seen() -> Models:
    def forward(net: Any, x: Any) -> Any:
        return net.out(torch.stack([each.reshape(-1) for each in net.conv(x)]))

    net = Net(forward, conv=nn.Conv2d(3, 2, 3), out=nn.Linear(32, 3))
    return sequential((6, 6, 3), L.Conv2D(2, 3), L.Flatten(), L.Dense(3)), net, (6, 6, 3)


def a_convolution_for_every_step() -> Models:
    def forward(net: Any, x: Any) -> Any:
        maps = net.conv(x.flatten(0, 1)).mean((2, 3))
        return net.out(maps.view(*x.shape[:2], -1))

    layers = (
        L.TimeDistributed(L.Conv2D(4, 3)),
        L.TimeDistributed(L.GlobalAveragePooling2D()),
        L.Dense(2),
    )
    net = Net(forward, conv=nn.Conv2d(3, 4, 3), out=nn.Linear(4, 2))
    return sequential((2, 6, 6, 3), *layers), net, (2, 6, 6, 3)


def halves_of_a_gate_in_the_other_order() -> Models:
    def forward(net: Any, x: Any) -> Any:
        value, gate = net.both(x).chunk(2, -1)
        return net.out(value * gate.sigmoid())

    given = keras.Input((6,))
    made = L.Multiply()([L.Dense(5, "sigmoid", name="one")(given), L.Dense(5, name="two")(given)])
    net = Net(forward, both=nn.Linear(6, 10), out=nn.Linear(5, 2))
    return keras.Model(given, L.Dense(2)(made)), net, (6,)


def one_matrix_for_query_key_and_value_beside_an_output_as_wide_as_each() -> Models:
    def forward(net: Any, x: Any) -> Any:
        return net.out(F.scaled_dot_product_attention(net.q(x), net.k(x), net.v(x)))

    given = keras.Input((5, 6))
    q, k, v = ops.split(L.Dense(18)(given), 3, axis=-1)
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, 1, 2)) / 6**0.5)
    net = Net(forward, **{name: nn.Linear(6, 6) for name in ("q", "k", "v", "out")})
    return keras.Model(given, L.Dense(6)(ops.matmul(scores, v))), net, (5, 6)


def positions_from_the_third_row_on() -> Models:
    def forward(net: Any, x: Any) -> Any:
        return net.out(x + net.positions(torch.arange(2, 7)))

    ours = sequential((5, 6), Bare(lambda x, table: x + table, table=(5, 6)), L.Dense(3))
    return ours, Net(forward, positions=nn.Embedding(7, 6), out=nn.Linear(6, 3)), (5, 6)


PAIRS = [
    functional_network,
    square_matrices_multiplied_from_the_right,
    weights_of_one_layer_used_in_another_order,
    an_lstm_by_one_matrix_with_its_gates_in_another_order,
    a_gru_by_its_cell,
    a_gru_that_resets_before_by_six_matrices,
    one_matrix_for_key_query_and_value,
    three_matrices_for_a_layer_of_all,
    one_matrix_dealt_out_head_by_head,
    einsum_kernels_with_heads_first_and_last,
    batch_norm_by_hand,
    a_bias_added_by_hand_and_a_buffer_beside_it,
    a_class_token_and_positions,
    a_weight_norm_by_hand,
    rows_behind_a_flatten_that_is_not_seen,
    a_convolution_for_every_step,
    halves_of_a_gate_in_the_other_order,
    one_matrix_for_query_key_and_value_beside_an_output_as_wide_as_each,
    positions_from_the_third_row_on,
]


class Pair:
    """Both models, described, with numbers of their own; runs as often as it is asked."""

    def __init__(self, models: Models) -> None:
        from keras_impl.graph import describe
        from keras_impl.parameters import named
        from keras_impl.recorder import Recorder
        from torch_impl.graph import describe as describe_torch

        self.model, self.port, shape = models
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3, *shape)).astype(np.float32)
        ranks = {4: (0, 3, 1, 2), 5: (0, 1, 4, 2, 3)}
        self.x = {"input:0": x.transpose(ranks[x.ndim]) if x.ndim in ranks else x}
        self.keras = describe(self.model, {"input:0": x})
        self.torch = describe_torch(self.port, self.x)
        self.weights = {}
        for name, each in named(self.model).items():
            if "float" in str(each.variable.dtype):
                value = rng.uniform(0.1, 0.6, each.variable.shape)
                each.variable.assign(
                    value * np.where(rng.random(value.shape) < 0.5, 1, -1)
                    if "variance" not in name
                    else value
                )
            self.weights[name] = keras.ops.convert_to_numpy(each.variable)
        given = keras.ops.convert_to_tensor(x)
        recorder = Recorder(self.model, [given])
        with recorder.recording():
            self.wanted = keras.ops.convert_to_numpy(self.model(given, training=False))
        self.nodes = {n: np.asarray(v, np.float64) for n, v in recorder.trail.tensors.items()}
        self.runs = 0

    def carried(self, mapping: Mapping) -> dict[str, np.ndarray]:
        start = {name: value.numpy() for name, value in self.port.state_dict().items()}
        graphs = self.keras, self.torch
        return transfer.to_torch(self.weights, mapping, *graphs, start=start, lost=[])

    def run(self, mapping: Mapping) -> tuple[dict[str, np.ndarray], np.ndarray]:
        from torch_impl.watching import Watch

        self.port.load_state_dict({n: torch.tensor(v) for n, v in self.carried(mapping).items()})
        self.port.eval()
        seen = {}

        def see(name: str, value: Any) -> Any:
            seen[name] = value.detach().numpy().astype(np.float64)
            return value

        (out,) = Watch(self.port, see).run([torch.tensor(value) for value in self.x.values()])
        return seen, out.detach().numpy()

    def reached(self, mapping: Mapping) -> set[str]:
        self.runs += 1
        seen, out = self.run(mapping)
        found = found_again(self.nodes, seen.values(), 1e-5)
        right = np.allclose(out, self.wanted, rtol=1e-4, atol=1e-5)
        return found if right else found - {*self.keras.outputs}


@pytest.mark.parametrize("make", PAIRS, ids=lambda make: str(make.__name__))
def test_weights_reach_their_places_whatever_holds_them(
    make: Callable[[], Models], tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    pair = Pair(make())
    mapping = transfer.find(pair.keras, pair.torch, partial=True)
    mapping = transfer.settle(mapping, pair.reached)
    np.testing.assert_allclose(pair.run(mapping)[1], pair.wanted, rtol=1e-4, atol=1e-5)
    assert not mapping.undecided and not mapping.keras_alone and pair.runs <= 12

    moved = pair.carried(mapping)
    start = {name: np.zeros_like(value) for name, value in pair.weights.items()}
    graphs = pair.keras, pair.torch
    back = transfer.to_keras(moved, mapping, *graphs, start=start, lost=[])
    assert all(np.allclose(back[name], value) for name, value in pair.weights.items())

    mapping.write(tmp_path / "map.toml")
    again = transfer.read_map(tmp_path / "map.toml", *graphs)
    assert all((moved[n] == v).all() for n, v in pair.carried(again).items())


def test_a_use_that_is_seen_leaves_one_form_and_an_unknown_one_leaves_all() -> None:
    assert [f.axes for f in forms("turned matrix", "", "w", (5, 5), "torch")] == [(1, 0)]
    assert [f.axes for f in forms("", "other:x", "w", (5, 5), "torch")] == [(0, 1), (1, 0)]
    (form,) = forms("einsum btd,ndh->btnh 1", "", "w", (2, 8, 6), "keras")
    assert form.axes == (1, 0, 2) and form.shape == (8, 12)


def found_again(
    ours: dict[str, np.ndarray], theirs: Iterable[np.ndarray], tolerance: float = 1e-6
) -> set[str]:
    """Which of our arrays hold the numbers of one of theirs, in any order and shape."""
    sizes: dict[int, list[np.ndarray]] = {}
    for value in theirs:
        sizes.setdefault(value.size, []).append(np.sort(value, axis=None))
    found = set()
    for name, value in ours.items():
        own = np.sort(value, axis=None)
        finite = np.abs(own[np.isfinite(own)])
        allowed = tolerance * max(1e-30, float(finite.max(initial=0)))
        few = slice(None, None, max(1, own.size // 64))  # most are told apart by these
        if any(
            np.allclose(own[few], each[few], 0, allowed, equal_nan=True)
            and np.allclose(own, each, 0, allowed, equal_nan=True)
            for each in sizes.get(value.size, ())
        ):
            found.add(name)
    return found
