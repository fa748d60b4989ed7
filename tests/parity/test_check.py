"""Any pair of models: faithful twins pass, a planted mistake is named. Live models, one process."""

from __future__ import annotations

import pytest

import parity
from tests import zoo


def pair(name: str):
    from tests.zoo import keras_models, torch_models
    from tests.zoo.__main__ import inputs

    found = zoo.PAIRS[name]
    return getattr(keras_models, found.keras), getattr(torch_models, found.torch), inputs(found)


@pytest.mark.parametrize(
    "name", ["vgg_small", "two_inputs", "lstm_classifier", "transformer_encoder"]
)
def test_a_faithful_twin_passes_every_level(name: str) -> None:
    report = parity.check_pair(*pair(name), level="trajectory")
    assert report.verdict == "pass", report.text()
    assert report.coverage.whole


def test_a_mistake_is_placed_and_its_cause_named() -> None:
    report = parity.check_pair(*pair("vgg_small_padding"), level="gradient")
    assert report.verdict == "fail"
    assert any(each.torch.startswith("features.5") for each in report.origins), report.text()
    assert any(each.key == "padding" and each.torch == "features.5" for each in report.findings)


def test_models_that_hold_other_weights_are_told_apart() -> None:
    build_keras, build_torch, inputs = pair("two_inputs")
    with pytest.raises(AssertionError, match="FAIL at the level transfer"):
        parity.assert_transfer_exact(build_keras(), build_torch(), inputs)
