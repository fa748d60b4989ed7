"""Planted faults change what a model computes, and say what they did; rows are judged by truth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.zoo import libraries, library_faults


class Net(nn.Module):
    """Something of every kind that a fault looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(4)
        self.blocks, self.act = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.ReLU()

    def forward(self, images: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(images).permute(0, 2, 3, 1)) * attention_mask[..., None]
        for each in self.blocks:
            x = self.act(each(x))
        return x


@pytest.mark.parametrize("kind", library_faults.FAULTS)
def test_a_fault_changes_the_outputs(kind: str) -> None:
    torch.manual_seed(0)
    model = Net()
    given = torch.randn(2, 3, 5, 5), torch.randint(0, 2, (2, 5, 5)).float()
    before = model(*given)
    assert library_faults.plant(kind, model)
    assert not torch.allclose(before, model(*given), atol=1e-6)


@pytest.mark.parametrize("kind", library_faults.FAULTS)
def test_a_fault_that_does_not_fit_says_nothing(kind: str) -> None:
    assert library_faults.plant(kind, nn.Identity()) == ""


@pytest.mark.parametrize(
    ("level", "verdict", "levels", "right"),
    [
        ("trajectory", "pass", {}, True),
        ("trajectory", "abstain", {}, False),
        ("", "fail", {"forward": "fail"}, True),
        ("gradient", "fail", {"forward": "pass", "gradient": "pass", "buffers": "fail"}, True),
        ("gradient", "fail", {"forward": "fail", "gradient": "pass"}, False),
        ("gradient", "pass", {"forward": "pass", "gradient": "pass"}, False),
    ],
)
def test_a_verdict_is_right_by_the_last_level_that_is_the_same(
    level: str, verdict: str, levels: dict[str, str], right: bool
) -> None:
    pair = libraries.Library("p", object, object, lambda rng: {}, level=level)
    row: dict[str, Any] = {"verdict": verdict, "levels": levels}
    assert libraries.is_right(pair, row) is right


@pytest.mark.skipif(bool(libraries.missing()), reason="the libraries are not installed")
@pytest.mark.parametrize("pair", libraries.TEXT, ids=lambda pair: pair.name)
def test_inputs_are_what_the_keras_model_takes(pair: libraries.Library) -> None:
    import numpy as np

    drawn = pair.inputs(np.random.default_rng(0))
    assert list(drawn) == [each.name for each in pair.keras().inputs]
