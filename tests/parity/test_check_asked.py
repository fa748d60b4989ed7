"""What a user may say beside the two models: which side is right, which method is compared, how
inputs and outputs correspond, what is known; and advice, which is tried before it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import parity
from shared_data.errors import InputError


def dense_net(**settings: Any) -> keras.Model:
    x = keras.Input((3,))
    y = L.Dense(4, activation="relu", name="hidden", **settings)(x)
    return keras.Model(x, L.Dense(2, name="head")(y))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(x).relu())


# Either side may be the reference -----------------------------------------------------------------


def conv_net() -> keras.Model:
    x = keras.Input((6, 6, 2))
    y = L.BatchNormalization(epsilon=1e-3, name="norm")(L.Conv2D(3, 3, name="conv")(x))
    return keras.Model(x, L.MaxPooling2D(2, name="pool")(y))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm, self.pool = nn.BatchNorm2d(3, momentum=0.01), nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.norm(self.conv(x)))


@pytest.mark.parametrize(
    ("reference", "advice"), [("keras", "norm: eps=0.001"), ("torch", "norm: epsilon=1e-05")]
)
def test_advice_is_for_the_side_that_is_not_the_reference(reference: str, advice: str) -> None:
    report = parity.check_pair(conv_net, ConvNet, reference=reference)
    assert report.verdict == "fail"
    (cause,) = (each for each in report.findings if each.key == "epsilon")
    assert cause.change == advice
    assert report.levels[1].verdict == "pass"  # weights came from the reference


def test_a_reference_is_one_of_the_two() -> None:
    with pytest.raises(InputError, match="reference: got 'jax', expected keras or torch"):
        parity.check_pair(dense_net, Net, reference="jax")


# Advice is tried ----------------------------------------------------------------------------------


def test_advice_that_helps_is_said_to_and_what_changes_nothing_is_none() -> None:
    """The epsilon moves the numbers; the dilation of a kernel of one cell does not."""

    def net() -> keras.Model:
        x = keras.Input((6, 6, 2))
        y = L.Conv2D(3, 1, dilation_rate=2, name="conv")(x)
        return keras.Model(x, L.BatchNormalization(epsilon=1e-2, name="norm")(y))

    def port() -> nn.Module:
        modules = {"conv": nn.Conv2d(2, 3, 1), "norm": nn.BatchNorm2d(3, momentum=0.01)}
        model = nn.Sequential()
        for name, module in modules.items():
            model.add_module(name, module)
        return model

    report = parity.check_pair(net, port)
    helps = {each.key: each.helps for each in report.findings}
    assert helps == {"dilation": False, "epsilon": True, "unbiased": None}
    text = " ".join(report.text().split())
    causes, _, others = text.partition("Declared differently, without effect here:")
    assert "norm: eps=0.01 (tried: it brings the numbers nearer)" in causes
    assert "dilation" not in causes and "dilation" in others


def sequence(*modules: nn.Module) -> nn.Module:
    model = nn.Sequential()
    for at, module in enumerate(modules):
        model.add_module(f"layer{at}", module)
    return model


PLACES = {
    "a max pool, padded by minus infinity": (
        lambda x: L.MaxPooling2D(3, 2, padding="same")(x - 9.0),
        lambda: sequence(Minus(), nn.MaxPool2d(3, 2, padding=1)),
        "padding",
        'F.pad(x, (0, 1, 0, 1), value=float("-inf")) before it',
    ),
    "a transposed convolution": (
        lambda x: L.Conv2DTranspose(3, 3, 2, padding="same")(x),
        lambda: sequence(nn.ConvTranspose2d(2, 3, 3, 2, padding=1, output_padding=1)),
        "padding",
        "padding=0, output_padding=0, with F.pad(y, (0, -1, 0, -1)) after it",
    ),
    "a frozen batch norm": (
        lambda x: L.BatchNormalization(trainable=False)(L.Conv2D(3, 1)(x)),
        lambda: sequence(nn.Conv2d(2, 3, 1), frozen(nn.BatchNorm2d(3, eps=1e-3))),
        "frozen",
        "eval() after every train()",
    ),
    "batch first": (
        lambda x: L.SimpleRNN(3, return_sequences=True)(L.Reshape((6, 12))(x)),
        lambda: Recurrent(),
        "batch_first",
        "batch_first=True",
    ),
    "corners": (
        lambda x: L.UpSampling2D(2, interpolation="bilinear")(x),
        lambda: sequence(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        "align_corners",
        "align_corners=False",
    ),
}


class Minus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 9.0


def frozen(norm: nn.BatchNorm2d) -> nn.Module:
    return norm.requires_grad_(False)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(12, 3)
        self.rnn.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x.permute(0, 2, 3, 1).flatten(2))[0]


@pytest.mark.parametrize("place", PLACES)
def test_advice_is_an_argument_that_exists_and_helps(place: str) -> None:
    layer, port, key, advice = PLACES[place]

    def net() -> keras.Model:
        x = keras.Input((6, 6, 2))
        return keras.Model(x, layer(x))

    report = parity.check_pair(net, port)
    assert report.verdict == "fail"
    (cause,) = (each for each in report.findings if each.key == key)
    assert advice in cause.change and cause.helps is True


# Another method -----------------------------------------------------------------------------------


class Coder(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = L.Dense(2), L.Dense(3)

    def encode(self, x: Any) -> Any:
        return keras.ops.tanh(self.down(x))

    def call(self, x: Any) -> Any:
        return self.up(self.encode(x))


class TorchCoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(3, 2), nn.Linear(2, 3)

    def code(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(x).tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.code(x)).relu()  # which Keras' has not


INPUTS = np.random.default_rng(0).standard_normal((4, 3))


def test_another_method_is_compared_by_its_name_on_each_side() -> None:
    def built() -> keras.Model:
        model = Coder()
        model(INPUTS)
        return model

    assert parity.check_pair(built, TorchCoder, INPUTS, level="forward").verdict == "fail"
    report = parity.check_pair(built, TorchCoder, INPUTS, method="encode:code")
    assert report.verdict == "pass", report.text()
    model = TorchCoder()  # a live one is called as before, after
    parity.check_pair(built, model, INPUTS, method="encode:code")
    assert torch.equal(model(torch.ones(1, 3)), TorchCoder.forward(model, torch.ones(1, 3)))


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"--method: TorchCoder has no method 'codes'.*'code'"):
        parity.check_pair(Coder, TorchCoder, INPUTS, method="encode:codes")


# How inputs and outputs correspond ----------------------------------------------------------------


def two_inputs() -> keras.Model:
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    return keras.Model([left, right], {"sum": left + 2.0 * right, "both": left * right})


class Crossed(nn.Module):
    """Its inputs stand the other way round, its outputs too, under names of its own."""

    def forward(self, b: torch.Tensor, a: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"product": a * b, "total": a + 2.0 * b}


NAMES = {"left": "a", "right": "b", "sum": "total", "both": "product"}


def test_inputs_and_outputs_go_by_the_names_that_are_said() -> None:
    assert parity.check_pair(two_inputs, Crossed, level="forward").verdict == "fail"
    report = parity.check_pair(two_inputs, Crossed, aliases=NAMES, level="forward")
    assert report.verdict == "pass", report.text()
    wrong = {**NAMES, "sum": "product", "both": "total"}
    assert parity.check_pair(two_inputs, Crossed, aliases=wrong, level="forward").verdict == "fail"


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"lift": "a"}, "--alias: Keras has no input or output 'lift': did you mean 'left'"),
        ({"left": "c"}, "--alias: PyTorch has no input or output 'c': it has a, b, product, total"),
    ],
)
def test_a_name_that_is_none_is_refused(aliases: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parity.check_pair(two_inputs, Crossed, aliases=aliases)


def square() -> keras.Model:
    x = keras.Input((4, 4))
    return keras.Model(x, keras.ops.tanh(x) * np.arange(16.0).reshape(4, 4))


class Turned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = torch.arange(16, dtype=x.dtype).reshape(4, 4).T
        return x.tanh() * factor


def test_axes_that_equal_sizes_leave_open_can_be_said() -> None:
    assert parity.check_pair(square, Turned, level="forward").verdict == "abstain"
    turned = ((0, 2, 1),)
    said = {"input_axes": turned, "output_axes": turned, "level": "forward"}
    assert parity.check_pair(square, Turned, **said).verdict == "pass"
    alike = {"input_axes": ((0, 1, 2),), "output_axes": ((0, 1, 2),), "level": "forward"}
    assert parity.check_pair(square, Turned, **alike).verdict == "fail"


@pytest.mark.parametrize("axes", [((0, 1),), ((1, 0, 2),), ((0, 1, 2), (0, 1, 2))])
def test_axes_that_are_none_are_refused(axes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InputError, match="--input-axes: got"):
        parity.check_pair(square, Turned, input_axes=axes)


class Own(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.sigmoid(x)


def test_the_line_of_the_port_is_named() -> None:
    """Of either side that is not the reference, where its own code makes the call."""

    def net() -> keras.Model:
        x = keras.Input((3,))
        return keras.Model(x, L.Dense(2, name="head")(Own()(x)))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.tanh())

    for reference, code in (("keras", "x.tanh()"), ("torch", "ops.sigmoid(x)")):
        origin = parity.check_pair(net, Port, reference=reference).origins[0]
        file, _, number = origin.line.partition(", line ")
        assert code in Path(file).read_text().splitlines()[int(number) - 1]
