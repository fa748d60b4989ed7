"""Models as they are found: classes that are a kind of a layer, parts beside the registered ones,
float32 that is written into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.check.trace import Request
from shared_data.errors import InputError

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torch_impl import check  # noqa: E402
from torch_impl.copying import Fresh, copied  # noqa: E402
from torch_impl.graph import describe  # noqa: E402
from torch_impl.tracing import trace  # noqa: E402

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def nodes(model: nn.Module, value: np.ndarray) -> list[tuple[str, str, str]]:
    found = describe(model, {"input:0": value})
    return [(node.name, node.kind, node.layer) for node in found.nodes]


def forward(model: nn.Module, value: np.ndarray, folder: Path) -> tuple[np.ndarray, float, str]:
    """The output in float64, its floor, and the notes."""
    graph = describe(model, {"input:0": value})
    np.savez(folder / "in.npz", **{"input:0": value})
    request = Request("model", inputs=str(folder / "in.npz"), levels=("forward",))
    found = trace(model, graph, request)
    name = f"forward/{graph.outputs[0]}"
    return found.tensors[name], found.floors[name], " ".join(found.notes)


# Kinds of a layer


class Clipped(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=1.0)


class Causal(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (2, 0)))


class Scaled(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 4.0


class Table(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight[x]


class Same(nn.Conv2d):
    """As ports from TensorFlow have it: what its attributes say is not PyTorch's."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.padding, self.dilation = "SAME", "one"  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class ByHand(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


class Last(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][:, -1]


class Softer(nn.Softmax):
    """Its `forward` is the known one's."""


IDS = RNG.integers(0, 5, (2, 4))
KINDS: list[tuple[nn.Module, np.ndarray, list[tuple[str, str, str]]]] = [
    (Clipped(), random(2, 3), [("0", "relu", ""), ("0/clamp", "other:clamp", "")]),
    (Causal(2, 3, 3), random(2, 2, 6), [("0/pad", "pad", ""), ("0", "conv1d", "0")]),
    (Scaled(5, 3), IDS, [("0", "embedding", "0"), ("0/rescale", "rescale", "")]),
    (Table(5, 3), IDS, [("0", "embedding", "0")]),
    (Same(2, 3, 3), random(2, 2, 5, 5), [("0/pad", "pad", ""), ("0/conv2d", "conv2d", "0")]),
    (ByHand(3, 4), random(2, 3), [("0", "dense", "0")]),
    (
        Last(3, 4, batch_first=True),
        random(2, 5, 3),
        [("0", "lstm", "0"), ("0/select", "select", "")],
    ),
    (Softer(-1), random(2, 3), [("0", "softmax", "")]),
]


@pytest.mark.parametrize(("layer", "value", "expected"), KINDS)
def test_a_kind_of_a_known_layer_is_looked_into(
    layer: nn.Module, value: np.ndarray, expected: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    model = nn.Sequential(layer)
    assert nodes(model, value) == expected
    output, _, _ = forward(model, value, tmp_path)
    plain = torch.from_numpy(value)
    result = copied(model).double()(plain)
    np.testing.assert_allclose(output, result.detach().numpy(), rtol=1e-12)


def test_attributes_that_cannot_be_read_leave_the_class_alone() -> None:
    class Strange(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight + self.bias

    layer = Strange(3)
    layer.eps = torch.tensor(0.5)  # type: ignore[assignment]
    (node,) = describe(nn.Sequential(layer), {"input:0": random(2, 3)}).nodes
    assert node.kind == "layer_norm" and node.settings["epsilon"] == 0.5
    layer.normalized_shape = None  # type: ignore[assignment]
    assert nodes(nn.Sequential(layer), random(2, 3)) == [("0", "other:Strange", "0")]


def test_packed_steps_of_which_the_end_is_read(tmp_path: Path) -> None:
    class Packed(nn.Module):
        def __init__(self, state: bool) -> None:
            super().__init__()
            self.rnn, self.state = nn.GRU(3, 4, batch_first=True), state

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
            steps, state = self.rnn(packed)
            if self.state:
                return state[-1]
            return nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)[0]

    value = random(2, 5, 3)
    for state in (True, False):
        model = Packed(state)
        found = describe(model, {"input:0": value})
        (rnn,) = (node for node in found.nodes if node.kind == "gru")
        assert rnn.settings["sequences"] is not state
        output, _, _ = forward(model, value, tmp_path)
        expected = copied(model).double()(torch.from_numpy(value)).detach().numpy()
        np.testing.assert_allclose(output, expected, rtol=1e-12)


# Beside the registered parts


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(3, 3), nn.Linear(3, 3)]
        self.held = nn.ParameterList([p for block in self.blocks for p in block.parameters()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return x


def test_modules_in_a_list_are_layers() -> None:
    found = describe(Listed(), {"input:0": random(2, 3)})
    assert [node.layer for node in found.nodes if node.kind == "dense"] == ["blocks.0", "blocks.1"]
    assert [(p.name, p.layer, p.role) for p in found.parameters] == [
        ("held.0", "blocks.0", "weight"),
        ("held.1", "blocks.0", "bias"),
        ("held.2", "blocks.1", "weight"),
        ("held.3", "blocks.1", "bias"),
    ]


class Closed(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        self.run = lambda x: F.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def inner_class() -> nn.Module:
    shared = nn.Linear(3, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = shared.weight, shared.bias

        def forward(self, x: Tensor) -> Tensor:
            return shared(x)

    return Net()


def uncopyable() -> nn.Module:
    class Handle:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("cannot be copied")

    model = nn.Linear(3, 2)
    model.handle = Handle()
    return model


@pytest.mark.parametrize("build", [Closed, inner_class, uncopyable])
def test_runs_leave_a_model_as_it_was(build: Any, tmp_path: Path) -> None:
    model, value = build(), random(4, 3)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with Fresh(model) as models:
        changed = models.take()
        with torch.no_grad():
            changed.weight.add_(1.0)
        again = models.take()
        assert torch.equal(again.weight, before["weight"])
    output, floor, _ = forward(model, value, tmp_path)
    weight, bias = (model.state_dict()[name] for name in ("weight", "bias"))
    np.testing.assert_allclose(
        output, value @ weight.double().numpy().T + bias.double().numpy(), rtol=1e-12
    )
    assert floor < 1e-14
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]) and each.dtype == before[name].dtype


def test_a_live_model_is_lent(tmp_path: Path) -> None:
    model = uncopyable()
    before = model.weight.detach().clone()
    weights = tmp_path / "w.pt"
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, weights)
    with check.lent(model, Request("", weights=str(weights)), None, {}) as lent:
        assert torch.equal(lent.weight, torch.ones(2, 3))
    assert torch.equal(model.weight, before)


# float32 that is written into a model


def test_float32_is_overruled(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = (x.to(torch.float32) / 3).float().type(torch.FloatTensor)
            x = x @ torch.full((3, 3), 0.1, dtype=torch.float32)
            return F.linear(x.type("torch.FloatTensor"), torch.tensor([[0.3] * 3]).float())

    value = random(2, 3)
    output, floor, notes = forward(Net(), value, tmp_path)
    expected = (value / 3 @ np.full((3, 3), 0.1)).sum(1, keepdims=True) * 0.3
    np.testing.assert_allclose(output, expected, rtol=1e-12)
    assert floor < 1e-13 and not notes


def test_a_rounded_constant_has_a_floor_of_float32(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("buffer", torch.tensor([value]), persistent=False)
            self.plain = torch.FloatTensor([value])

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x * self.buffer, self.plain[None])

    value = random(4, 1)
    output, floor, notes = forward(Net(0.1), value, tmp_path)
    off = np.abs(output - value * 0.01).max()
    assert 1e-10 < off < 2 * floor < 1e-8
    assert "buffer is held in float32" in notes and "plain is held in float32" in notes
    for exact in (3.0, 0.25, -65537.0):
        _, floor, notes = forward(Net(exact), value, tmp_path)
        assert floor < 1e-5 * exact**2 * 1e-9 and not notes


def test_a_number_that_was_cut_off_has_a_floor_of_its_digits(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, number: float) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor) -> Tensor:
            return x * self.number

    value = random(4, 1)
    output, floor, notes = forward(Net(0.79788456), value, tmp_path)
    off = np.abs(output - value * np.sqrt(2 / np.pi)).max()
    assert 1e-10 < off < floor < 1e-7 and "0.79788456 in" in notes
    for meant in (0.044715, 1e-5, float(np.sqrt(2 / np.pi)), 1.0 / 3):
        _, floor, notes = forward(Net(meant), value, tmp_path)
        assert floor < 1e-14 and not notes


def test_moving_statistics_are_no_constants(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(3)
    model.running_mean.fill_(0.1)
    _, floor, notes = forward(model, random(4, 3), tmp_path)
    assert floor < 1e-14 and not notes


def test_a_refusal_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"--input-shape.*--inputs"):
        describe(nn.Linear(3, 2), {"input:0": random(2, 4)})
