"""What float64 does not show: instability in float32, and a precision that a model declares."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

import parity
from parity.check import precisions
from parity.check.report import CheckReport


def verdicts(report: CheckReport) -> dict[str, str]:
    return {each.level: each.verdict for each in report.levels}


class Centred(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        centre = keras.ops.mean(x, axis=-1, keepdims=True)
        spread = keras.ops.mean((x - centre) ** 2, axis=-1, keepdims=True)
        return (x - centre) / keras.ops.sqrt(spread + 1e-6)


class Norm(nn.Module):
    def __init__(self, stable: bool) -> None:
        super().__init__()
        self.stable, self.head = stable, nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centre = x.mean(-1, keepdim=True)
        if self.stable:
            spread = ((x - centre) ** 2).mean(-1, keepdim=True)
        else:
            spread = (x**2).mean(-1, keepdim=True) - centre**2
        return self.head((x - centre) / (spread + 1e-6).sqrt())


def norm() -> keras.Model:
    x = keras.Input((8,))
    return keras.Model(x, L.Dense(3, name="head")(Centred()(x)))


@pytest.mark.parametrize("reference", ["keras", "torch"])
def test_a_variance_that_is_unstable_on_one_side_alone_is_no_pass(reference: str) -> None:
    assert parity.check_pair(norm, lambda: Norm(True), reference=reference).verdict == "pass"
    report = parity.check_pair(norm, lambda: Norm(False), reference=reference)
    assert report.verdict != "pass"
    assert "PyTorch alone is unstable in float32" in report.levels[2].detail


@pytest.mark.parametrize("side", [0, 1])
def test_who_is_unstable_is_named(side: int) -> None:
    """Against NumPy: float32 that keeps its digits, and one that has lost them."""
    exact = np.random.default_rng(0).standard_normal((4, 5))
    single = [exact.astype("float32").astype("float64")] * 2
    assert precisions.unstable("x", [exact, exact], single, [0.0, 0.0]).verdict == "pass"
    single[side] = single[side] + 0.3
    found = precisions.unstable("x", [exact, exact], single, [0.0, 1e9])
    assert found.verdict == "abstain"
    assert found.reason.startswith(f"{('Keras', 'PyTorch')[side]} alone is unstable")


def test_one_element_behind_a_step_is_no_instability() -> None:
    exact = np.linspace(-1, 1, 20)
    single = exact.copy()
    single[3] += 5.0
    assert precisions.unstable("x", [exact, exact], [exact, single], [0.0, 0.0]).verdict == "pass"


# A precision that is declared


def mixed() -> keras.Model:
    x = keras.Input((6,))
    y = L.Dense(5, activation="relu", dtype="mixed_float16", name="hidden")(x)
    return keras.Model(x, L.Dense(2, dtype="float32", name="head")(y))


class Port(nn.Module):
    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self.autocast = autocast
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            y = self.hidden(x).relu()
        return self.head(y.to(x.dtype))


def plain() -> keras.Model:
    x = keras.Input((6,))
    y = L.Dense(5, activation="relu", name="hidden")(x)
    return keras.Model(x, L.Dense(2, name="head")(y))


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (mixed, Port, "Keras: mixed_float16"),
        (plain, lambda: Port(autocast=True), "PyTorch: autocast to bfloat16"),
        (plain, lambda: Port().to(torch.bfloat16), "PyTorch: bfloat16"),
    ],
)
def test_a_precision_that_is_declared_is_said_and_judged_with_its_rounding(
    ours: Any, theirs: Any, said: str
) -> None:
    report = parity.check_pair(ours, theirs)
    assert report.verdict == "pass", report.text()
    assert any(note.startswith("declared precision: ") and said in note for note in report.notes)
    assert "Each side in the precision that it declares" in report.examined


def test_what_a_low_precision_cannot_hold_is_left_undecided() -> None:
    """Numbers that float16 has no room for, on one side alone."""

    def large() -> keras.Model:
        x = keras.Input((6,))
        y = L.Rescaling(1e6, dtype="mixed_float16")(x)
        return keras.Model(x, L.Dense(2, dtype="float32")(L.Rescaling(1e-6, dtype="float32")(y)))

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x * 1e6 * 1e-6)

    report = parity.check_pair(large, Large)
    assert verdicts(report)["forward"] == "abstain", report.text()


def test_a_compiled_module_is_judged_as_it_was_written() -> None:
    report = parity.check_pair(plain, lambda: torch.compile(Port()))
    assert report.verdict == "pass", report.text()
    assert any("PyTorch: torch.compile" in note for note in report.notes)


def test_a_compiled_keras_model_is_said_to_be() -> None:
    def compiled() -> keras.Model:
        model = plain()
        model.compile("adam", "mse", jit_compile=True)
        return model

    report = parity.check_pair(compiled, Port)
    assert report.verdict == "pass" and any("Keras: jit_compile" in n for n in report.notes)


# How thorough


def test_a_thorough_examination_draws_every_batch_again() -> None:
    few, many = (
        parity.check_pair(plain, Port, level="forward", examination=name).examined
        for name in ("default", "thorough")
    )
    assert many.startswith("thorough examination")
    assert "large numbers, draw 4" in many and "draw 2" not in few
