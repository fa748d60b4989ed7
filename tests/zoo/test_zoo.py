"""The zoo itself: twins that are said to be faithful are, and mistakes are what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.zoo import FAITHFUL, MISTAKEN, PAIRS, Pair
from tests.zoo.carry import carry

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
keras_models = pytest.importorskip("tests.zoo.keras_models")
torch_models = pytest.importorskip("tests.zoo.torch_models")

# What the arguments of `carry` are for each pair of models.
CARRY: dict[str, dict[str, Any]] = {
    "vgg_small": {
        "rules": [
            *((r"features\.0", "block1_conv1"), (r"features\.2", "block1_conv2")),
            *((r"features\.5", "block2_conv1"), (r"features\.7", "block2_conv2")),
            *((r"classifier\.0", "fc1"), (r"classifier\.3", "predictions")),
        ],
        "rows": {"classifier.0": (3, 3, 8)},
    },
    "resnet_small": {
        "rules": [
            *((r"^conv1", "stem_conv"), (r"^bn1", "stem_norm"), ("fc", "head")),
            *((r"layer(\d)\.0\.", r"stage\1_"), (r"_bn(\d)", r"_norm\1")),
            *((r"downsample\.0", "shortcut_conv"), (r"downsample\.1", "shortcut_norm")),
        ],
    },
    "densenet_small": {
        "rules": [
            *(("norm5", "last_bn"), ("^norm$", "transition_bn"), ("^conv$", "transition_conv")),
            *((r"block(\d)\.0\.", r"dense\1_1"), (r"block(\d)\.1\.", r"dense\1_2")),
            *(("norm1", "a_bn"), ("norm2", "b_bn"), (r"(_\d)conv1", r"\1a_conv")),
            *((r"(_\d)conv2", r"\1b_conv"), ("classifier", "predictions")),
        ],
    },
    "mobilenet_small": {
        "rules": [
            *((r"features\.0\.1", "Conv1"), (r"features\.0\.2", "Conv1_BN")),
            (r"features\.(\d)\.conv\.", r"block_\1_"),
            *((r"_0$", "_expand"), (r"^(block_\d)_1$", r"\1_expand_BN")),
            *(("block_1_3", "block_1_depthwise"), ("block_1_4", "block_1_depthwise_BN")),
            *(("block_1_6", "block_1_project"), ("block_1_7", "block_1_project_BN")),
            *(("block_2_4", "block_2_depthwise"), ("block_2_5", "block_2_depthwise_BN")),
            *(("block_2_7", "block_2_project"), ("block_2_8", "block_2_project_BN")),
            ("classifier", "predictions"),
        ],
    },
    "convnext_small": {
        "rules": [
            *(("^stem$", "stem_conv"), ("^down$", "down_conv"), (r"\.dwconv", "_depthwise")),
            *((r"\.norm", "_norm"), (r"\.pwconv1", "_expand"), (r"\.pwconv2", "_project")),
        ],
        "bare": {f"stage{stage}.gamma": f"stage{stage}_scale/gamma" for stage in (1, 2)},
    },
    "lstm_classifier": {
        "rules": [("embed", "embedding"), ("bilstm", "both_ways"), ("fc", "head")],
    },
    "lstm_stacked": {
        "rules": [("embed", "embedding"), ("lstm", "lower+upper"), ("fc", "head")],
    },
    "gru_classifier": {"rules": [("embed", "embedding"), ("fc", "head")]},
    "transformer_encoder": {
        "rules": [
            *(("embed", "embedding"), ("fc", "head"), (r"layers\.0\.", "encoder1_")),
            *((r"layers\.1\.", "encoder2_"), ("self_attn", "attention"), ("linear", "dense")),
        ],
        "bare": {"vectors": "positions/vectors"},
    },
    "two_inputs": {"rules": [("fc", "dense")], "rows": {"image_fc": (3, 3, 4)}},
    "shared_encoder": {"rules": [(r"encoder\.", ""), ("fc", "code")]},
    "subclassed": {"rules": [(r"\.", "/")]},
    "separable": {
        "bare": {
            "depth1.weight": "sep1/depthwise_kernel",
            "point1.weight": "sep1/pointwise_kernel",
            "point1.bias": "sep1/bias",
            "depth2.weight": "sep2/depthwise_kernel",
            "point2.weight": "sep2/pointwise_kernel",
        },
    },
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Both frameworks in double precision, for one test."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def built(pair: Pair) -> tuple[Any, Any]:
    left = getattr(keras_models, pair.keras)()
    return left, getattr(torch_models, pair.torch)().double()


def inputs(pair: Pair) -> tuple[list[np.ndarray], list[Any]]:
    """The same inputs in both layouts."""
    rng = np.random.default_rng(3)
    given = [
        rng.integers(0, pair.words, (4, *s)) if pair.words else rng.standard_normal((4, *s))
        for s in pair.shapes
    ]
    turned = [torch.from_numpy(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x) for x in given]
    return given, turned


def outputs(pair: Pair, left: Any, right: Any, training: bool = False) -> tuple[Any, Any]:
    given, turned = inputs(pair)
    a = left(given if len(given) > 1 else given[0], training=training)
    with torch.no_grad():
        b = right.train(training)(*turned)
    as_list = lambda x: list(x) if isinstance(x, list | tuple) else [x]
    return [np.array(x) for x in as_list(a)], [x.numpy() for x in as_list(b)]


def apart(pair: Pair, left: Any, right: Any) -> float:
    a, b = outputs(pair, left, right)
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("pair", FAITHFUL, ids=lambda pair: pair.name)
def test_a_faithful_twin_is_the_same_function(pair: Pair) -> None:
    left, right = built(pair)
    trained = sum(p.numel() for p in right.parameters() if p.requires_grad)
    assert trained == sum(int(np.prod(v.shape)) for v in left.trainable_weights)
    assert apart(pair, left, right) if pair.name not in CARRY else True
    carry(left, right, **CARRY[pair.name])
    assert apart(pair, left, right) < 1e-13
