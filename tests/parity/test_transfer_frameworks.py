"""The frameworks themselves: a layer of each, the weights carried over, the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity.transfer.candidates import convert
from parity.transfer.rules import RULES, Context, Tensors
from parity.transfer.units import Unit

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
L, nn = keras.layers, torch.nn
Make = Callable[[], Any]

IMAGE, SEQUENCE, VECTOR = (2, 8, 8, 4), (2, 7, 4), (2, 4)


def keras_tensors(layer: Any) -> Tensors:
    """By role: the path below the layer, without cells."""
    found = {}
    for variable in layer.weights:
        *above, role = variable.path.split("/")
        part = [p for p in above if p.startswith(("forward", "backward"))] or [
            p for p in above if p in ("query", "key", "value", "attention_output")
        ]
        found["/".join([*part, role])] = keras.ops.convert_to_numpy(variable)
    return found


def torch_tensors(module: Any) -> Tensors:
    state = {name.replace(".", "/"): value.numpy() for name, value in module.state_dict().items()}
    return {name: value for name, value in state.items() if "tracked" not in name}


def unit(framework: str, tensors: Tensors) -> Unit:
    return Unit("x", framework, "some", 0, shapes={n: v.shape for n, v in tensors.items()})


def stir(tensors: Tensors) -> Tensors:
    rng = np.random.default_rng(0)
    return {n: rng.uniform(0.2, 1, v.shape).astype(np.float32) for n, v in tensors.items()}


def load(modules: list[Any], tensors: Tensors) -> None:
    for at, module in enumerate(modules):
        own = {
            key.removeprefix(f"{at}/").replace("/", "."): torch.from_numpy(value.copy())
            for key, value in tensors.items()
            if len(modules) == 1 or key.startswith(f"{at}/")
        }
        module.load_state_dict(own, strict=False)
        module.eval()


CASES: list[tuple[str, tuple[int, ...], Make, Make]] = [
    ("dense", VECTOR, lambda: L.Dense(5), lambda: [nn.Linear(4, 5)]),
    ("conv1d", SEQUENCE, lambda: L.Conv1D(6, 3), lambda: [nn.Conv1d(4, 6, 3)]),
    (
        *("conv2d", IMAGE, lambda: L.Conv2D(6, (3, 2), groups=2)),
        lambda: [nn.Conv2d(4, 6, (3, 2), groups=2)],
    ),
    (
        "conv3d",
        (1, 4, 5, 6, 2),
        lambda: L.Conv3D(3, (1, 2, 3)),
        lambda: [nn.Conv3d(2, 3, (1, 2, 3))],
    ),
    (
        *("depthwise_conv1d", SEQUENCE, lambda: L.DepthwiseConv1D(3, depth_multiplier=2)),
        lambda: [nn.Conv1d(4, 8, 3, groups=4)],
    ),
    (
        *("depthwise_conv2d", IMAGE, lambda: L.DepthwiseConv2D((3, 2), depth_multiplier=2)),
        lambda: [nn.Conv2d(4, 8, (3, 2), groups=4)],
    ),
    (
        *("separable_conv1d", SEQUENCE, lambda: L.SeparableConv1D(5, 3, depth_multiplier=2)),
        lambda: [nn.Conv1d(4, 8, 3, groups=4), nn.Conv1d(8, 5, 1)],
    ),
    (
        *("separable_conv2d", IMAGE, lambda: L.SeparableConv2D(5, 3)),
        lambda: [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 5, 1)],
    ),
    (
        *("conv_transpose1d", SEQUENCE, lambda: L.Conv1DTranspose(5, 3, strides=2)),
        lambda: [nn.ConvTranspose1d(4, 5, 3, 2)],
    ),
    (
        *("conv_transpose2d", IMAGE, lambda: L.Conv2DTranspose(5, (3, 2), strides=2)),
        lambda: [nn.ConvTranspose2d(4, 5, (3, 2), 2)],
    ),
    (
        *("conv_transpose3d", (1, 3, 4, 5, 2), lambda: L.Conv3DTranspose(3, 2, strides=2)),
        lambda: [nn.ConvTranspose3d(2, 3, 2, 2)],
    ),
    (
        *("batch_norm", IMAGE, lambda: L.BatchNormalization(epsilon=1e-3)),
        lambda: [nn.BatchNorm2d(4, eps=1e-3)],
    ),
    (
        *("layer_norm", IMAGE, lambda: L.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5)),
        lambda: [nn.LayerNorm((4, 8, 8))],
    ),
    (
        *("group_norm", IMAGE, lambda: L.GroupNormalization(2, epsilon=1e-5)),
        lambda: [nn.GroupNorm(2, 4)],
    ),
    (
        "rms_norm",
        VECTOR,
        lambda: L.RMSNormalization(epsilon=1e-6),
        lambda: [nn.RMSNorm(4, eps=1e-6)],
    ),
    ("prelu", IMAGE, lambda: L.PReLU(shared_axes=[1, 2]), lambda: [nn.PReLU(4)]),
    (
        *("simple_rnn", SEQUENCE, lambda: L.SimpleRNN(5, return_sequences=True)),
        lambda: [nn.RNN(4, 5, batch_first=True)],
    ),
    (
        *("lstm", SEQUENCE, lambda: L.LSTM(5, return_sequences=True)),
        lambda: [nn.LSTM(4, 5, batch_first=True)],
    ),
    (
        *("gru", SEQUENCE, lambda: L.GRU(5, return_sequences=True)),
        lambda: [nn.GRU(4, 5, batch_first=True)],
    ),
    (
        *("gru", SEQUENCE, lambda: L.Bidirectional(L.GRU(5, return_sequences=True))),
        lambda: [nn.GRU(4, 5, batch_first=True, bidirectional=True)],
    ),
    (
        *("lstm", SEQUENCE, lambda: L.Bidirectional(L.LSTM(5, return_sequences=True))),
        lambda: [nn.LSTM(4, 5, batch_first=True, bidirectional=True)],
    ),
    (
        *("attention", SEQUENCE, lambda: L.MultiHeadAttention(2, 2)),
        lambda: [nn.MultiheadAttention(4, 2, batch_first=True)],
    ),
]


@pytest.mark.parametrize(
    ("rule", "shape", "ours", "theirs"), CASES, ids=[f"{at}-{c[0]}" for at, c in enumerate(CASES)]
)
def test_a_layer_gives_the_same_in_both(
    rule: str, shape: tuple[int, ...], ours: Make, theirs: Make
) -> None:
    layer, modules = ours(), theirs()
    given = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    arguments = (given, given) if rule == "attention" else (given,)
    layer(*arguments)
    tensors = stir(keras_tensors(layer))
    for variable, value in zip(layer.weights, tensors.values(), strict=True):
        variable.assign(value)
    wanted = keras.ops.convert_to_numpy(layer(*arguments))

    held = [unit("torch", torch_tensors(module)) for module in modules]
    known = Context((unit("keras", tensors),), tuple(held))
    load(modules, convert(RULES[rule], "torch", tensors, known))
    channels_last = rule in ("dense", "rms_norm", "simple_rnn", "lstm", "gru", "attention")
    x = torch.from_numpy(given if channels_last else np.moveaxis(given, -1, 1).copy())
    with torch.no_grad():
        for module in modules:
            x = module(x, x, x) if rule == "attention" else module(x)
            x = x[0] if isinstance(x, tuple) else x
    got = x.numpy() if channels_last else np.moveaxis(x.numpy(), 1, -1)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
