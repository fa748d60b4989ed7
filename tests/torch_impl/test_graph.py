from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.check.graph import Graph
from shared_data.errors import InputError

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torch_impl.graph import describe  # noqa: E402

RNG = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def graph(model: nn.Module, *inputs: np.ndarray) -> Graph:
    return describe(model, {f"input:{at}": value for at, value in enumerate(inputs)})


def calls(found: Graph) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(node.name, node.kind, node.inputs) for node in found.nodes]


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(3, 4, 3, stride=2)
        self.fc1, self.fc2 = nn.Linear(4 * 3 * 3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = torch.tanh(self.conv2(x)).view(x.size(0), -1)
        x = F.dropout(F.relu_(self.fc1(x)), 0.25, self.training)
        return F.softmax(self.fc2(x), dim=1)


def test_functions_between_layers_are_nodes_under_their_callers_name() -> None:
    found = graph(LeNet(), images(2, 1, 14, 14))
    assert calls(found) == [
        ("conv1", "conv2d", ("input:0",)),
        ("self/relu", "relu", ("conv1",)),
        ("self/max_pool", "max_pool", ("self/relu",)),
        ("conv2", "conv2d", ("self/max_pool",)),
        ("self/tanh", "tanh", ("conv2",)),
        ("self/flatten", "flatten", ("self/tanh",)),
        ("fc1", "dense", ("self/flatten",)),
        ("self/relu#2", "relu", ("fc1",)),
        ("self/dropout", "dropout", ("self/relu#2",)),
        ("fc2", "dense", ("self/dropout",)),
        ("self/softmax", "softmax", ("fc2",)),
    ]
    assert found.inputs == ((1, 14, 14),)
    assert found.outputs == ("self/softmax",)
    assert [node.shape for node in found.nodes[:4]] == [(3, 14, 14)] * 2 + [(3, 7, 7), (4, 3, 3)]
    conv, pool = found.node("conv2").settings, found.node("self/max_pool").settings
    assert conv["strides"] == [2, 2] and conv["padding"] == [[0, 0], [0, 0]] and conv["bias"]
    assert pool["size"] == pool["strides"] == [2, 2]
    assert found.node("self/dropout").settings["rate"] == 0.25
    assert found.node("self/softmax").settings["axis"] == -1


def test_parameters_are_those_of_the_state_dict_without_counters() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model[0].bias.requires_grad_(False)
    found = graph(model, images(2, 1, 4, 4))
    state = model.state_dict()
    del state["1.num_batches_tracked"]
    assert {p.name: p.shape for p in found.parameters} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    roles = {p.name: (p.layer, p.role, p.trained) for p in found.parameters}
    assert roles["0.bias"] == ("0", "bias", False)
    assert roles["1.running_var"] == ("1", "running_var", False)
    assert roles["1.weight"] == ("1", "weight", True)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph(model, images(4, 3))
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Residual(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3, padding="same"), nn.BatchNorm2d(2)
        self.relu, self.drop = nn.ReLU(inplace=inplace), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(x))
        out = self.conv(self.drop(x))
        out += x
        return self.relu(out)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_sum_reads_both_branches(inplace: bool) -> None:
    found = graph(Residual(inplace), images(2, 2, 4, 4))
    assert calls(found) == [
        ("bn", "batch_norm", ("input:0",)),
        ("relu", "relu", ("bn",)),
        ("drop", "dropout", ("relu",)),
        ("conv", "conv2d", ("drop",)),
        ("self/add", "add", ("conv", "relu")),
        ("relu#2", "relu", ("self/add",)),
    ]
    assert found.node("conv").settings["padding"] == [[1, 1], [1, 1]]
    norm = found.node("bn").settings
    assert norm["momentum"] == pytest.approx(0.9) and norm["unbiased"] and norm["epsilon"] == 1e-5


class ChangedThroughAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        F.relu_(x.view(len(x), -1))
        return x + 1


def test_what_is_changed_through_a_view_comes_from_the_change() -> None:
    found = graph(ChangedThroughAView(), images(2, 3, 4))
    assert found.node("self/relu").inputs == ("self/flatten",)
    assert found.nodes[-1].inputs == ("self/relu",)
    assert found.nodes[-1].kind == "rescale" and found.nodes[-1].settings["offset"] == 1


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.again = self.encoder
        self.image = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor, image: Tensor) -> dict[str, Any]:
        left, right = self.encoder(a), self.again(b)
        both = torch.cat([left * right, self.image(image)], dim=-1).mean(1)
        return {"scores": (self.head(left - right), left), "mean": both}


def test_a_shared_layer_several_inputs_and_nested_outputs() -> None:
    found = graph(Shared(), images(2, 3), images(2, 3), images(2, 1, 5, 5))
    assert found.inputs == ((3,), (3,), (1, 5, 5))
    assert [node.name for node in found.calls("encoder")] == ["encoder", "encoder#2"]
    assert found.node("encoder#2").inputs == ("input:1",)
    assert found.node("self/subtract").inputs == ("encoder", "encoder#2")
    assert found.node("image.1").kind == "global_average_pool"
    assert found.node("self/concatenate").inputs == ("self/multiply", "image.2")
    assert found.node("self/mean").settings["axes"] == [1]
    assert found.outputs == ("head", "encoder", "self/mean")
    assert [p.name for p in found.parameters if p.layer == "encoder"] == [
        "encoder.weight",
        "encoder.bias",
    ]


class Block(nn.Module):
    """ConvNeXt's in small, with a learned embedding of positions and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.gamma = nn.Parameter(torch.full((8,), 0.1))
        self.positions = nn.Parameter(torch.randn(1, 9, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x) * self.gamma.view(1, -1, 1, 1)
        x = x.flatten(2).transpose(1, 2) + self.positions[:, :9]
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return F.gelu(self.norm(x), approximate="tanh")[:, 0]


def test_bare_parameters_are_scales_of_the_module_that_owns_them() -> None:
    found = graph(Block(), images(2, 4, 3, 3))
    assert found.node("depthwise").kind == "depthwise_conv2d"
    gamma, positions = found.node("self/gamma"), found.node("self/positions")
    assert (gamma.kind, gamma.layer, gamma.inputs) == ("scale", "self", ("depthwise",))
    assert gamma.settings["operation"] == "multiply"
    assert (positions.kind, positions.settings["operation"]) == ("scale", "add")
    assert found.node("self/token").inputs == ()
    assert found.node("self/concatenate").inputs == ("self/token", "self/positions")
    assert set(found.owned("self")) == {"gamma", "positions", "token"}
    assert found.node("norm").settings["size"] == 8
    assert found.node("self/gelu").settings["approximate"] is True
    assert found.node("self/select").inputs == ("self/gelu",)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0] + x


def test_attention_is_one_layer_with_all_its_parameters() -> None:
    found = graph(Attention(), images(2, 5, 8))
    assert [node.kind for node in found.nodes] == ["attention", "add"]
    assert found.nodes[0].inputs == ("input:0",) * 3
    settings = found.nodes[0].settings
    assert (settings["heads"], settings["head_size"], settings["bias"]) == (2, 4, True)
    assert set(found.owned("attention")) == {
        *("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"),
    }


class Reader(nn.Module):
    def __init__(self, read: str, **options: Any) -> None:
        super().__init__()
        self.read = read
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        steps, (hidden, _) = self.lstm(self.embedding(x))
        return {
            "steps": lambda: steps,
            "last step": lambda: steps[:, -1],
            "state": lambda: hidden[-1],
            "both ends": lambda: torch.cat([hidden[-2], hidden[-1]], 1),
        }[self.read]()


@pytest.mark.parametrize(
    ("read", "options", "sequences", "shape"),
    [
        ("steps", {}, True, (5, 4)),
        ("last step", {}, False, (4,)),
        ("state", {"num_layers": 2}, False, (4,)),
        ("both ends", {"bidirectional": True}, False, (8,)),
        ("last step", {"bidirectional": True}, True, (5, 8)),  # backward's last step is its first
    ],
)
def test_a_recurrent_layer_says_whether_its_end_alone_is_read(
    read: str, options: dict[str, Any], sequences: bool, shape: tuple[int, ...]
) -> None:
    found = graph(Reader(read, **options), RNG.integers(0, 11, (3, 5)))
    lstm = found.node("lstm")
    assert (lstm.kind, lstm.inputs, lstm.layer) == ("lstm", ("embedding",), "lstm")
    assert (lstm.settings["sequences"], lstm.shape) == (sequences, shape)
    assert lstm.settings["units"] == 4 and lstm.settings["layers"] == options.get("num_layers", 1)
    assert {node.kind for node in found.nodes} <= {"embedding", "lstm", "select"}


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 2


class Unseen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.unseen = nn.Linear(3, 3), Unseen()

    def forward(self, x: Tensor) -> Tensor:
        return self.unseen(Doubled.apply(self.fc(x)).cos().detach()).exp()


def test_what_is_not_seen_is_followed_all_the_same() -> None:
    assert calls(graph(Custom(), images(2, 3))) == [
        ("fc", "dense", ("input:0",)),
        ("self/Doubled", "other:Doubled", ("fc",)),
        ("self/cos", "other:cos", ("self/Doubled",)),
        ("unseen", "other:Unseen", ("self/cos",)),
        ("self/exp", "other:exp", ("unseen",)),
    ]


class OwnNorm(nn.BatchNorm2d):
    """Keeps the biased variance, as Keras does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.eps)


def test_which_variance_a_norm_of_the_users_keeps_is_tried_out() -> None:
    model = OwnNorm(2)
    found = graph(model, images(3, 2, 2, 2))
    assert found.nodes[0].name == found.nodes[0].layer == "self"
    assert found.nodes[0].settings["unbiased"] is False
    assert torch.equal(model.running_var, torch.ones(2))


CASES: list[tuple[nn.Module, tuple[int, ...], str, dict[str, Any]]] = [
    (nn.ReLU6(), (2, 3), "relu6", {}),
    (nn.Hardswish(), (2, 3), "hard_silu", {}),
    (nn.LeakyReLU(0.3), (2, 3), "leaky_relu", {"negative_slope": 0.3}),
    (nn.GELU(), (2, 3), "gelu", {"approximate": False}),
    (nn.Softmax(1), (2, 3, 4, 4), "softmax", {"axis": -1}),
    (nn.Softmax(-1), (2, 3, 4, 4), "softmax", {"axis": -1}),
    (nn.GroupNorm(2, 4), (2, 4, 3, 3), "group_norm", {"groups": 2, "size": 18, "scale": True}),
    (nn.RMSNorm(4), (2, 4), "rms_norm", {"size": 4, "epsilon": float(np.finfo("f").eps)}),
    (nn.LayerNorm(4, bias=False), (2, 4), "layer_norm", {"scale": True, "center": False}),
    (nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), (2, 2, 4), "conv_transpose1d", {"padding": [[1, 0]]}),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 1, 6, 6), "max_pool", {"padding": [[0, 1]] * 2}),
    (nn.AvgPool1d(3, padding=1), (2, 1, 9), "average_pool", {"padding": [[1, 1]]}),
    (nn.AdaptiveMaxPool2d(1), (2, 1, 9, 9), "global_max_pool", {}),
    (nn.AdaptiveAvgPool2d(3), (2, 1, 9, 9), "average_pool", {"size": [3, 3], "strides": [3, 3]}),
    (nn.AdaptiveAvgPool2d(4), (2, 1, 9, 9), "other:adaptive_average_pool", {}),
    (nn.ZeroPad2d((1, 2, 3, 4)), (2, 1, 5, 5), "pad", {"padding": [[3, 4], [1, 2]]}),
    (nn.Upsample(scale_factor=2), (2, 1, 3, 3), "upsample", {"size": [2, 2]}),
    (nn.Conv1d(4, 4, 4, padding="same"), (2, 4, 6), "conv1d", {"padding": [[1, 2]]}),
    (nn.PReLU(3), (2, 3), "prelu", {}),
    (nn.GRU(3, 2, batch_first=True), (2, 4, 3), "gru", {"reset_after": True, "units": 2}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("module", "shape", "kind", "settings"), CASES, ids=lambda x: str(x)[:20])
def test_kinds_and_settings(
    module: nn.Module, shape: tuple[int, ...], kind: str, settings: dict[str, Any]
) -> None:
    node = graph(module, images(*shape)).nodes[0]
    assert node.kind == kind
    assert settings.items() <= node.settings.items()
    assert node.settings["dtype"] == "float32"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x.mean((2, 3)), "global_average_pool"),
        (lambda x: x.amax((-1, -2)), "global_max_pool"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: x.reshape(len(x), -1), "flatten"),
        (lambda x: torch.flatten(x, 2), "reshape"),
        (lambda x: x.permute(0, 2, 3, 1), "permute"),
        (lambda x: 1 - x, "rescale"),
        (lambda x: x / 255, "rescale"),
        (lambda x: F.interpolate(x, scale_factor=2), "upsample"),
        (lambda x: F.pad(x, (1, 1, 1, 1)), "pad"),
        (lambda x: F.avg_pool2d(x, 2), "average_pool"),
        (lambda x: F.adaptive_avg_pool2d(x, 1), "global_average_pool"),
        (lambda x: F.leaky_relu(x), "leaky_relu"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x: x[:, :2], "select"),
        (lambda x: x.chunk(2, 1)[0], "select"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "other:scaled_dot_product_attention"),
        (lambda x: torch.cumsum(x, 1), "other:cumsum"),
    ],
)
def test_functions(call: Any, kind: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = call(x)
            return result

    found = graph(Model(), images(2, 4, 4, 4))
    assert [node.kind for node in found.nodes] == [kind]
    assert set(found.nodes[0].inputs) == {"input:0"}


def test_scalars_of_a_rescale() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (1 - x / 255) * 2

    settings = [node.settings for node in graph(Model(), images(2, 3)).nodes]
    assert [(s["scale"], s["offset"]) for s in settings] == [(1 / 255, 0), (-1, 1), (2, 0)]


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 33), ("vgg11", 32), ("mobilenet_v2", 32), ("convnext_tiny", 32)],
)
def test_published_models_are_followed_without_a_gap(name: str, size: int) -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model = getattr(models, name)(weights=None)
    model = model.to_empty(device="cpu")
    found = graph(model, np.zeros((1, 3, size, size)))
    names = {node.name for node in found.nodes} | {"input:0"}
    assert len(names) == len(found.nodes) + 1
    for node in found.nodes:
        assert node.inputs and set(node.inputs) <= names
    assert {node.layer for node in found.nodes if node.layer} == {
        parameter.layer for parameter in found.parameters
    }
    assert sum(int(np.prod(p.shape)) for p in found.parameters if p.trained) == sum(
        p.numel() for p in model.parameters()
    )


def test_inputs_that_do_not_fit_are_refused_with_the_line_that_failed() -> None:
    with pytest.raises(InputError, match=r"\(2, 1, 9, 9\) float32.*self\.fc1\(x\)"):
        graph(LeNet(), images(2, 1, 9, 9))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x


def test_a_model_that_computes_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="calls no layer"):
        graph(Nothing(), images(2, 3))


def test_a_graph_is_the_same_after_a_file(tmp_path: Any) -> None:
    found = graph(Block(), images(2, 4, 3, 3))
    found.write(tmp_path / "graph.json")
    assert Graph.read(tmp_path / "graph.json") == found


class Bend(nn.Module):
    """A layer of the user's own: several functions, two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3))
        self.shift = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(torch.einsum("bi,ji->bj", x, self.weight)) + self.shift


class Linear(Bend):
    """The same parameters in a function that is a layer's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(F.linear(x, self.weight, self.shift))


def test_a_layer_of_ones_own_is_one_call() -> None:
    model = nn.Sequential(Bend(), nn.ReLU(), nn.Linear(4, 3), Bend())
    graph = describe(model, {"input:0": np.ones((2, 3), np.float32)})
    assert [(n.name, n.kind, n.layer) for n in graph.nodes] == [
        ("0", "other:Bend", "0"),
        ("1", "relu", ""),
        ("2", "dense", "2"),
        ("3", "other:Bend", "3"),
    ]
    assert graph.nodes[0].shape == (4,) and graph.outputs == ("3",)
    known = describe(nn.Sequential(Linear(), nn.ReLU()), {"input:0": np.ones((2, 3), np.float32)})
    assert [n.kind for n in known.nodes] == ["dense", "other:sin", "relu"]
    alone = describe(Bend(), {"input:0": np.ones((2, 3), np.float32)})
    assert len(alone.nodes) > 1  # a whole model as one call would say nothing


# What is said beside the calls -------------------------------------------------------------------


def test_what_belongs_to_the_training_is_declared() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Linear(3, 2))
    words = np.array([[0, 4], [1, 2]])
    assert graph(model, words).semantics["terms"] == ["0: max_norm 0.5"]
    model[1].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    assert graph(model, words).semantics["terms"][1:] == ["1.weight: a hook on its gradient"]
    assert graph(nn.Linear(3, 2), np.zeros((2, 3))).semantics["terms"] == []


class Ends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.spare = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3, 2))

    def forward(self, words: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Any:
        return {"second": words @ self.w, "first": words.tanh() * scale}


def test_inputs_outputs_and_uses_are_named() -> None:
    found = graph(Ends(), np.ones((2, 3))).semantics
    assert found["input_names"] == ["words", "mask"]
    assert found["output_names"] == ["second", "first"]
    assert found["uses"]["w"][0] == "matrix" and "spare" not in found["uses"]
