from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from parity import environment
from parity.check.graph import Graph
from parity.check.trace import Request, Trace
from shared_data.errors import InputError

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from parity.check.worker import like  # noqa: E402
from torch_impl.graph import describe  # noqa: E402
from torch_impl.tracing import trace  # noqa: E402

EVERYTHING = ("forward", "loss", "update", "trajectory")


class Asked:
    """A model, and a request for it in a folder."""

    def __init__(self, folder: Path, model: nn.Module, *inputs: np.ndarray, **fields: Any) -> None:
        self.model, self.inputs = model, inputs
        given = {f"input:{at}": value for at, value in enumerate(inputs)}
        self.graph = describe(model, given)
        shapes = [self.graph.node(name).shape for name in self.graph.outputs]
        self.targets = [
            np.random.default_rng([1, at]).standard_normal((len(inputs[0]), *shape))
            for at, shape in enumerate(shapes)
        ]
        np.savez(folder / "inputs.npz", **given)
        fields = {"levels": EVERYTHING, "nudge": False, **fields}
        self.request = Request("", inputs=str(folder / "inputs.npz"), **fields)

    def trace(self, reference: Trace | None = None, **fields: Any) -> Trace:
        return trace(self.model, self.graph, replace(self.request, **fields), reference)

    def pairs(self) -> tuple[tuple[str, str, None], ...]:
        return tuple((node.name, node.name, None) for node in self.graph.nodes)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def stirred(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(0.5 * torch.randn_like(each))
    return model


class Net(nn.Module):
    def __init__(self, inplace: bool = False, rate: float = 0.0) -> None:
        super().__init__()
        self.inplace, self.rate = inplace, rate
        self.conv, self.bn = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu, self.drop = nn.ReLU(inplace=inplace), nn.Dropout2d(rate)
        self.mix, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3 * 2 * 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        branch = self.drop(F.relu(self.mix(x), inplace=self.inplace))
        if self.inplace:
            branch += x
        else:
            branch = branch + x
        x = F.dropout(F.max_pool2d(branch, 2), self.rate, self.training)
        return self.fc(torch.flatten(x, 1))


def by_hand(model: Net, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What is in a trace of `Net` in training, by plain calls; upstream by autograd.grad."""
    kept: dict[str, Tensor] = {}
    kept["conv"] = F.conv2d(x, model.conv.weight, model.conv.bias, padding=1)
    mean = kept["conv"].mean((0, 2, 3), keepdim=True)
    variance = kept["conv"].var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = (each.view(1, -1, 1, 1) for each in (model.bn.weight, model.bn.bias))
    kept["bn"] = (kept["conv"] - mean) / (variance + 1e-5).sqrt() * scale + shift
    kept["relu"] = kept["bn"] * (kept["bn"] > 0)
    kept["mix"] = F.conv2d(kept["relu"], model.mix.weight, model.mix.bias)
    kept["self/relu"] = kept["mix"] * (kept["mix"] > 0)
    kept["self/add"] = kept["self/relu"] + kept["relu"]
    n, c, h, w = kept["self/add"].shape
    kept["self/max_pool"] = kept["self/add"].view(n, c, h // 2, 2, w // 2, 2)
    kept["self/max_pool"] = kept["self/max_pool"].transpose(3, 4).flatten(4).max(4).values
    kept["self/flatten"] = kept["self/max_pool"].reshape(n, -1)
    kept["fc"] = kept["self/flatten"] @ model.fc.weight.T + model.fc.bias
    kept["loss"] = ((kept["fc"] - target) ** 2).mean() / 2
    return kept


def close(got: np.ndarray, expected: Any, scale: float = 1e-13) -> None:
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else np.asarray(expected)
    atol = scale * max(1e-3, np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def measured(found: Trace) -> set[str]:
    """What a nudged run has a floor for: all that the plain one has."""
    beside = ("forced/", "nudged/", "outputs/again/")
    return {name for name in found.tensors if not name.startswith(beside)}


@pytest.mark.parametrize(("inplace", "rate"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_outputs_and_gradients_are_those_of_the_plain_model(
    tmp_path: Path, inplace: bool, rate: float
) -> None:
    """Calls in place leave what was recorded before; dropout, in layers and functions, is off."""
    asked = Asked(tmp_path, stirred(Net(inplace, rate)), images(5, 2, 4, 4), levels=("loss",))
    found = asked.trace()
    model = stirred(Net()).double()
    x = torch.from_numpy(asked.inputs[0]).requires_grad_()
    expected = by_hand(model, x, torch.from_numpy(asked.targets[0]))
    loss = expected.pop("loss")
    close(found.tensors["loss"], loss)
    names = list(expected)
    gradients = torch.autograd.grad(loss, list(expected.values()), retain_graph=True)
    for name, gradient in zip(names, gradients, strict=True):
        close(found.tensors[f"training/{name}"], expected[name])
        close(found.tensors[f"upstream/{name}"], gradient)
    dropped = {"drop", "self/dropout"}
    assert set(found.under("training")) == set(found.under("upstream")) == {*names, *dropped}
    close(found.tensors["training/drop"], expected["self/relu"])
    by = {**dict(model.named_parameters()), "input:0": x}
    assert set(found.under("gradient")) == set(by)
    for name, gradient in zip(by, torch.autograd.grad(loss, list(by.values())), strict=True):
        close(found.tensors[f"gradient/{name}"], gradient)


def test_inference_uses_moving_statistics_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = stirred(Net(rate=0.5))
    model.bn.running_mean.add_(0.25)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = Asked(tmp_path, model, images(5, 2, 4, 4))
    found = asked.trace()
    after = model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert model.training and torch.get_default_dtype() == torch.float32
    plain = stirred(Net()).double().eval()
    plain.bn.running_mean.add_(0.25)
    close(found.tensors["forward/fc"], plain(torch.from_numpy(asked.inputs[0])))
    assert np.abs(found.tensors["forward/bn"] - found.tensors["training/bn"]).max() > 0.1


def test_moving_statistics_move_by_the_batch(tmp_path: Path) -> None:
    asked = Asked(tmp_path, stirred(Net()), images(5, 2, 4, 4), levels=("loss", "update"))
    found = asked.trace()
    batch = found.tensors["training/conv"]
    close(found.tensors["update/bn.running_mean"], 0.1 * batch.mean((0, 2, 3)))
    close(found.tensors["update/bn.running_var"], 0.9 + 0.1 * batch.var((0, 2, 3), ddof=1))
    assert "update/bn.num_batches_tracked" not in found.tensors


def test_steps_are_those_of_the_formula(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.1, "momentum": 0.6}
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    asked = Asked(tmp_path, model, images(6, 3), optimizer="sgd", optimizer_settings=settings)
    found = asked.trace()
    x, t = asked.inputs[0], asked.targets[0]
    w, b = (value.double().numpy() for value in model.state_dict().values())
    losses, velocity, steps = [], np.zeros_like(w), []
    for _ in range(3):
        apart = x @ w.T + b - t
        losses.append((apart**2).mean() / 2)
        velocity = 0.6 * velocity - 0.1 * apart.T @ x / apart.size
        w = w + velocity
        steps.append(w)
    close(found.tensors["trajectory/loss"], losses)
    close(found.tensors["loss"], losses[0])
    close(found.tensors["update/weight"], steps[0])
    close(found.tensors["trajectory/weight"], steps[2])
    assert (found.tensors["trajectory/bias"] == b).all()
    assert set(found.under("gradient")) == {"weight", "input:0"}


@pytest.mark.parametrize("softmax", [False, True])
def test_cross_entropy_of_logits_and_of_probabilities(tmp_path: Path, softmax: bool) -> None:
    layers = [nn.Linear(3, 4), *([nn.Softmax(1)] if softmax else [])]
    labels = np.array([0, 3, 1, 1, 2, 0])
    np.savez(tmp_path / "labels.npz", **{"output:0": labels})
    asked = Asked(tmp_path, nn.Sequential(*layers), images(6, 3), levels=("loss",))
    found = asked.trace(loss="cross_entropy", labels=str(tmp_path / "labels.npz"))
    z = found.tensors["training/0"]
    probability = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    close(found.tensors["loss"], -np.log(probability[np.arange(6), labels]).mean())
    upstream = (probability - np.eye(4)[labels]) / 6
    close(found.tensors["upstream/0"], upstream)


class TwoInputs(nn.Module):
    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, 4, 2, batch_first=True, dropout=rate)
        self.attention = nn.MultiheadAttention(4, 2, dropout=rate, batch_first=True)
        self.rate, self.head = rate, nn.Linear(4, 2)

    def forward(self, words: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        x, _ = self.lstm(self.embedding(words))
        x, _ = self.attention(x, x, x)
        x = F.scaled_dot_product_attention(x, x, x, None, self.rate if self.training else 0.0)
        state = torch.zeros(len(words), 4)  # of the default type
        return self.head(x.float().mean(1) + vector), torch.cat([vector, state], 1)


def two_inputs(folder: Path, rate: float = 0.0, **fields: Any) -> Asked:
    words = np.random.default_rng(0).integers(0, 9, (3, 5))
    return Asked(folder, stirred(TwoInputs(rate)), words, images(3, 4), **fields)


def test_dropout_within_layers_is_off(tmp_path: Path) -> None:
    found, plain = (two_inputs(tmp_path, rate).trace() for rate in (0.5, 0.0))
    for name, value in plain.tensors.items():
        assert (found.tensors[name] == value).all(), name


def test_whole_numbers_get_no_gradient_and_losses_add_up(tmp_path: Path) -> None:
    asked = two_inputs(tmp_path)
    found = asked.trace()
    assert "gradient/input:1" in found.tensors and "gradient/input:0" not in found.tensors
    outputs = [found.tensors[f"training/{name}"] for name in asked.graph.outputs]
    squares = [((o - t) ** 2).mean() / 2 for o, t in zip(outputs, asked.targets, strict=True)]
    close(found.tensors["loss"], sum(squares))


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_everything_is_in_the_precision_asked_for(tmp_path: Path, precision: str) -> None:
    found = two_inputs(tmp_path).trace(precision=precision)
    assert {value.dtype.name for value in found.tensors.values()} == {precision}
    exact = two_inputs(tmp_path).trace().tensors["forward/head"]
    apart = np.abs(found.tensors["forward/head"] - exact).max()
    assert (apart == 0) if precision == "float64" else (1e-9 < apart < 1e-5)


def test_a_trace_repeats_bit_for_bit_and_its_floor_is_that_of_rounding(tmp_path: Path) -> None:
    asked = two_inputs(tmp_path, nudge=True)
    found, again = asked.trace(), asked.trace()
    assert all((again.tensors[name] == value).all() for name, value in found.tensors.items())
    assert found.floors == again.floors
    assert set(found.floors) == measured(found)
    assert 0 < found.floors["forward/head"] < 1e-14
    assert 0 < found.floors["gradient/lstm.weight_ih_l0"] < 1e-14


class Gate(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(3, 9), form
        self.gate = nn.Hardsigmoid(inplace=form == "module in place")

    def forward(self, x: Tensor) -> Tensor:
        y = 4 * self.fc(x)
        return F.hardsigmoid(y) if self.form == "function" else self.gate(y)


@pytest.mark.parametrize("form", ["function", "module", "module in place"])
def test_a_hard_sigmoids_gradient_is_of_double_precision(tmp_path: Path, form: str) -> None:
    asked = Asked(tmp_path, stirred(Gate(form)), np.linspace(-1, 1, 12).reshape(4, 3))
    found = asked.trace()
    gate = "self/hard_sigmoid" if form == "function" else "gate"
    y, back = found.tensors[f"training/{gate}"], found.tensors[f"upstream/{gate}"]
    inside = ((y > 0) & (y < 1)) / 6  # PyTorch's own sixth is of single precision
    expected = 4 * (back * inside).sum(0)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(found.tensors["gradient/fc.bias"], expected, rtol=1e-14, atol=1e-18)


# Outputs, a series of batches, inputs by name ----------------------------------------------------


class Kept(nn.Module):
    """Adds how often it was called before."""

    def __init__(self, keeps: bool = True) -> None:
        super().__init__()
        self.fc, self.before, self.keeps = nn.Linear(3, 2), 0, keeps

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) + self.before
        self.before += self.keeps
        return y


@pytest.mark.parametrize("keeps", [True, False])
def test_a_second_call_shows_what_is_kept_between_calls(tmp_path: Path, keeps: bool) -> None:
    model = stirred(Kept(keeps))
    asked = Asked(tmp_path, model, images(4, 3), levels=("forward",), nudge=True)
    model.before = 0  # describing calls too
    made = asked.trace()
    outputs = made.under("outputs")
    said = [note for note in made.notes if "something else the second time" in note]
    assert bool(said) is keeps
    expected = images(4, 3) @ model.fc.weight.double().detach().numpy().T
    expected = expected + model.fc.bias.double().detach().numpy()
    close(outputs["forward/0"], expected)
    close(outputs["again/0"], expected + keeps)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_parameters_gradient_is_part_of_the_model(tmp_path: Path, kind: str) -> None:
    def halved(given: Tensor) -> Tensor | None:
        if kind == "register_hook":
            return given / 2
        given.grad /= 2
        return None

    plain = Asked(tmp_path, stirred(nn.Linear(3, 2)), images(4, 3)).trace()
    model = stirred(nn.Linear(3, 2))
    getattr(model.weight, kind)(halved)
    found = Asked(tmp_path, model, images(4, 3)).trace()
    close(found.tensors["gradient/weight"], plain.tensors["gradient/weight"] / 2)
    close(found.tensors["gradient/bias"], plain.tensors["gradient/bias"])


class FourOnly(nn.Module):
    """Runs on four rows alone; in training on any number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.fc(x).view(-1, 2) if self.training else self.fc(x).view(4, 2))


def test_a_batch_that_a_model_refuses_is_kept_apart(tmp_path: Path) -> None:
    batches = {"four": images(4, 3), "three": images(3, 3)}
    for name, value in batches.items():
        np.savez(tmp_path / f"{name}.npz", **{"input:0": value})
    series = tuple((name, str(tmp_path / f"{name}.npz")) for name in batches)
    asked = Asked(tmp_path, stirred(FourOnly()), images(4, 3), levels=("loss",), series=series)
    found = asked.trace()
    assert set(found.refused) == {"series/three/forward"}
    assert "shape '[4, 2]' is invalid for input of size 6" in found.refused["series/three/forward"]
    assert not found.under("series/three")
    close(found.tensors["series/four/loss"], found.tensors["loss"])  # the same batch once more
    close(found.tensors["series/four/gradient/input:0"], found.tensors["gradient/input:0"])


def test_a_batch_refused_in_training_alone_has_its_outputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", **{"input:0": images(1, 3)})
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    series = (("one", str(tmp_path / "one.npz")),)
    found = Asked(tmp_path, model, images(4, 3), levels=("loss",), series=series).trace()
    assert set(found.refused) == {"series/one/training"}
    assert "more than 1 value per channel" in found.refused["series/one/training"]
    assert found.under("series/one").keys() == {"outputs/forward/0"}


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(
        self, first: Tensor, mask: Tensor | None = None, second: Tensor | None = None
    ) -> Tensor:
        assert mask is None and second is not None
        return self.fc(first - 2 * second)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        first, second = inputs
        return self.fc(first - 2 * second)


@pytest.mark.parametrize(
    ("model", "how"),
    [(Named(), {"called": ("first", "second")}), (Packed(), {"packed": True})],
)
def test_inputs_by_name_and_in_one_list(
    tmp_path: Path, model: nn.Module, how: dict[str, Any]
) -> None:
    first, second = np.random.default_rng(3).standard_normal((2, 4, 3))
    given = {"input:0": first, "input:1": second}
    np.savez(tmp_path / "inputs.npz", **given)
    graph = describe(model, given, *[how.get(name, ()) for name in ("called", "packed")])
    request = Request("", inputs=str(tmp_path / "inputs.npz"), levels=("forward", "loss"), **how)
    found = trace(model, graph, request)
    weight, bias = (each.double().numpy() for each in model.state_dict().values())
    close(found.tensors["outputs/forward/0"], (first - 2 * second) @ weight.T + bias)
    close(found.tensors["gradient/input:1"], -2 * found.tensors["gradient/input:0"])


def test_the_outputs_that_count_are_taken_in_their_order(tmp_path: Path) -> None:
    found = two_inputs(tmp_path, levels=("loss",)).trace()
    other = two_inputs(tmp_path, levels=("loss",)).trace(outputs=(1, 0))
    one = two_inputs(tmp_path, levels=("loss",)).trace(outputs=(1,))
    close(other.tensors["outputs/training/0"], found.tensors["outputs/training/1"])
    close(other.tensors["outputs/training/1"], found.tensors["outputs/training/0"])
    assert one.under("outputs/training").keys() == {"0"}


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.fc(x))
        return 3 * x if self.training else x


def test_a_module_of_the_users_own_runs_in_training_mode(tmp_path: Path) -> None:
    """What drops is off, the rest of what it does in training is not."""
    outputs = Asked(tmp_path, stirred(Own()), images(4, 3)).trace().under("outputs")
    close(outputs["training/0"], 3 * outputs["forward/0"])


# Forced -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_a_faithful_twin_forced_is_itself(tmp_path: Path, inplace: bool) -> None:
    reference = Asked(tmp_path, stirred(Net()), images(5, 2, 4, 4)).trace()
    asked = Asked(tmp_path, stirred(Net(inplace)), images(5, 2, 4, 4))
    found = asked.trace(reference, pairs=asked.pairs(), nudge=True)
    assert not found.notes
    for kind in ("training", "upstream"):
        assert set(found.under(f"forced/{kind}")) == set(reference.under(kind))
    for name, value in found.under("forced").items():
        close(value, reference.tensors[name])
    assert set(found.floors) == measured(found)


def test_forced_recurrent_layers_and_attention(tmp_path: Path) -> None:
    asked = two_inputs(tmp_path)
    reference = asked.trace()
    for name, value in asked.trace(reference, pairs=asked.pairs()).under("forced").items():
        close(value, reference.tensors[name])


class Ends(nn.Module):
    def __init__(self, last_step: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=not last_step)
        self.fc, self.last_step = nn.Linear(4 if last_step else 8, 2), last_step

    def forward(self, x: Tensor) -> Tensor:
        steps, (ends, _) = self.lstm(x)
        return self.fc(steps[:, -1] if self.last_step else torch.cat([ends[0], ends[1]], 1))


@pytest.mark.parametrize("last_step", [True, False])
def test_of_a_recurrent_layer_the_end_is_traced_and_forced(tmp_path: Path, last_step: bool) -> None:
    model = stirred(Ends(last_step))
    asked = Asked(tmp_path, model, images(3, 5, 3), levels=("loss",))
    reference = asked.trace()
    plain = model.double()
    steps, (ends, _) = plain.lstm(torch.from_numpy(asked.inputs[0]))
    end = steps[:, -1] if last_step else torch.cat([ends[0], ends[1]], 1)
    close(reference.tensors["training/lstm"], end)
    by_output = (plain.fc(end) - torch.from_numpy(asked.targets[0])) / 6
    close(reference.tensors["upstream/lstm"], by_output @ plain.fc.weight)

    model.float()
    moved = Trace("torch", "float64", dict(reference.tensors))
    moved.tensors["training/lstm"] = reference.tensors["training/lstm"] + 1
    found = asked.trace(moved, pairs=(("lstm", "lstm", None),))
    close(found.tensors["forced/training/lstm"], reference.tensors["training/lstm"])
    expected = model.double().fc(end + 1).detach().numpy()
    residual = (expected - asked.targets[0]) / 6
    close(found.tensors["forced/gradient/fc.bias"], residual.sum(0))


def test_a_fault_stays_in_its_layer(tmp_path: Path) -> None:
    right = Asked(tmp_path, stirred(Net()), images(5, 2, 4, 4))
    reference = right.trace()
    wrong = stirred(Net(inplace=True))
    with torch.no_grad():
        wrong.mix.weight.mul_(1.5)
    asked = Asked(tmp_path, wrong, images(5, 2, 4, 4))
    found = asked.trace(reference, pairs=asked.pairs())

    def differing(kind: str, forced: str) -> set[str]:
        own = found.under(forced + kind)
        return {
            name
            for name, value in reference.under(kind).items()
            if name in own and np.abs(own[name] - value).max() > 1e-12
        }

    assert {"mix", "self/add", "fc"} <= differing("training", "")
    assert {"conv.weight", "bn.bias", "fc.weight"} <= differing("gradient", "")
    assert differing("training", "forced/") == {"mix"}
    assert differing("upstream", "forced/") == {"relu"}  # what the layer hands back
    assert differing("gradient", "forced/") == set()


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        branch = self.drop(F.relu(self.mix(x.detach()))) + x
        return self.fc(torch.flatten(F.dropout(F.max_pool2d(branch, 2), 0.0), 1))


def test_a_lost_gradient_stays_where_it_is_lost(tmp_path: Path) -> None:
    reference = Asked(tmp_path, stirred(Net()), images(5, 2, 4, 4)).trace()
    asked = Asked(tmp_path, stirred(Detached()), images(5, 2, 4, 4))
    found = asked.trace(reference, pairs=asked.pairs())
    apart = {
        name
        for name, value in found.under("forced").items()
        if np.abs(value - reference.tensors[name]).max() > 1e-12
    }
    assert apart == {"upstream/relu"}


def test_the_references_layout_is_turned_into_ones_own(tmp_path: Path) -> None:
    asked = Asked(tmp_path, stirred(Net()), images(5, 2, 4, 4))
    plain = asked.trace()
    pairs, turned = [], {}
    for node in asked.graph.nodes:
        maps, flat = len(node.shape) == 3, node.name == "self/flatten"
        pairs.append((f"k_{node.name}", node.name, [0, 3, 1, 2] if maps else None))
        if flat:
            pairs[-1] = (f"k_{node.name}", node.name, {"flattened": [2, 2, 3]})
        for kind in ("training", "upstream"):
            value = plain.tensors[f"{kind}/{node.name}"]
            if flat:
                value = value.reshape(5, 3, 2, 2).transpose(0, 2, 3, 1).reshape(5, -1)
            turned[f"{kind}/k_{node.name}"] = value.transpose(0, 2, 3, 1) if maps else value
    found = asked.trace(Trace("keras", "float64", turned), pairs=tuple(pairs))
    assert len(found.under("forced/training")) == len(asked.graph.nodes)
    for name, value in found.under("forced").items():
        close(value, plain.tensors[name])


def test_a_pair_of_other_shapes_is_noted(tmp_path: Path) -> None:
    asked = Asked(tmp_path, nn.Sequential(nn.Linear(3, 2), nn.ReLU()), images(4, 3))
    found = asked.trace(asked.trace(), pairs=(("0", "1", None), ("none", "0", None)))
    assert [note.partition(" was")[0] for note in found.notes] == ["0"]
    other = Trace("keras", "float64", {"training/0": np.zeros((4, 9))})
    (note,) = asked.trace(other, pairs=(("0", "0", None),)).notes
    assert "(4, 9), expected (4, 2)" in note


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": ("loos",)}, "no level 'loos'"),
        ({"precision": "float16"}, "no precision 'float16'"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"loss": "cross_entropy"}, "there are no labels for output:0"),
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"inputs": "none.npz"}, "cannot read the arrays in none.npz"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    asked = Asked(tmp_path, nn.Linear(3, 2), images(4, 3))
    with pytest.raises(InputError, match=message):
        asked.trace(**fields)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 1), int), r"int64 labels \(batch,\): output:0 has shape \(4, 2\)"),
        (np.array([0.0, 1, 1, 0]), "its target .* of type float64"),
        (np.array([0, 1, 2, 0]), "run from 0 to 2: expected 0 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, labels: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "labels.npz", **{"output:0": labels})
    asked = Asked(tmp_path, nn.Linear(3, 2), images(4, 3), levels=("loss",))
    with pytest.raises(InputError, match=message):
        asked.trace(loss="cross_entropy", labels=str(tmp_path / "labels.npz"))


def test_a_model_without_anything_to_train_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    asked = Asked(tmp_path, model, np.ones((4, 3)))
    assert asked.trace(levels=("forward",)).under("forward").keys() == {"self"}


# The worker ---------------------------------------------------------------------------------------

SOURCE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh())
"""


@pytest.mark.workers
def test_the_worker_describes_and_traces(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    request = Request(
        f"{tmp_path}/nets.py:build",
        input_shapes=((3,),),
        levels=EVERYTHING,
        threads=1,
    )
    request.write(tmp_path / "request.json")

    code = (
        "import sys, torch_impl.check as check; code = check.main(sys.argv[1:])\n"
        "assert not {'triton', 'torch._inductor', 'torch._dynamo'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    variables = {
        **environment.variables(like(request)),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def work(*command: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *command, "request.json", "out"]
        return subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True)

    done = work("-c", code)
    assert done.returncode == 0, done.stderr
    found = Graph.read(tmp_path / "out" / "graph.json")
    assert [node.kind for node in found.nodes] == ["dense", "tanh"]
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    traced = Trace.read(tmp_path / "out")
    assert traced.environment["threads"] == 1
    x = np.random.default_rng(0).standard_normal((4, 3))
    close(traced.tensors["forward/0"], x @ weights["0.weight"].T.astype(float) + weights["0.bias"])
    (tmp_path / "request.json").write_text("{}")
    refused = work("-m", "torch_impl.check", "--describe")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")
