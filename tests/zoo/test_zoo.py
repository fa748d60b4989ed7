"""The zoo itself: twins that are said to be faithful are, and mistakes are what they are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo import FAITHFUL, MISTAKEN, PAIRS, Pair
from tests.zoo.carry import carry
from tests.zoo.random_faults import faults
from tests.zoo.random_twins import OWN, WAYS, Layer, Plan, plan_of, worked_out

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
keras_models = pytest.importorskip("tests.zoo.keras_models")
torch_models = pytest.importorskip("tests.zoo.torch_models")
build_keras = pytest.importorskip("tests.zoo.build_keras")
build_torch = pytest.importorskip("tests.zoo.build_torch")

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


# What TensorFlow and Keras compute with constants of float32 in double precision too, and by how
# much that shows.
ROUNDED, BY = {"gelu", "attention", "leaky_relu"}, 1e-6


@pytest.fixture(scope="module", autouse=True)
def float64() -> Iterator[None]:
    """Keras in double precision, for these tests."""
    from keras_impl.exact import precision

    with precision("float64"):  # layers made before have pinned the default policy
        yield


def drawn(shapes: tuple[tuple[int, ...], ...], words: int) -> list[np.ndarray]:
    """Inputs in Keras' layout."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, words, (4, *s)) if words else rng.normal(size=(4, *s)) for s in shapes]


def of_keras(model: Any, inputs: list[np.ndarray], training: bool = False) -> list[np.ndarray]:
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=training)
    return [x.numpy() for x in (outputs if isinstance(outputs, list) else [outputs])]


def of_torch(model: Any, inputs: list[np.ndarray], training: bool = False) -> list[np.ndarray]:
    turned = [torch.from_numpy(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x) for x in inputs]
    with torch.no_grad():
        outputs = model.train(training)(*turned)
    return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else [outputs])]


def apart(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(left, right, strict=True))


def built(pair: Pair) -> tuple[Any, Any]:
    left = getattr(keras_models, pair.keras)()
    return left, getattr(torch_models, pair.torch)().double()


def trained(left: Any, right: Any) -> tuple[int, int]:
    """How many parameters training changes, on both sides."""
    ours = sum(int(np.prod(v.shape)) for v in left.trainable_weights)
    return ours, sum(p.numel() for p in right.parameters() if p.requires_grad)


@pytest.mark.parametrize("pair", FAITHFUL, ids=lambda pair: pair.name)
def test_a_faithful_twin_is_the_same_function(pair: Pair) -> None:
    left, right = built(pair)
    ours, theirs = trained(left, right)
    assert ours == theirs
    inputs = drawn(pair.shapes, pair.words)
    outputs = of_keras(left, inputs)
    assert apart(outputs, of_torch(right, inputs)) > 1e-3
    carry(left, right, **CARRY[pair.name])
    allowed = BY if pair.name == "convnext_small" else 1e-13
    assert apart(outputs, of_torch(right, inputs)) < allowed


@pytest.mark.parametrize("name", ["resnet_small", "resnet_small_plain_bn"])
def test_moving_statistics_agree_with_the_biased_variance_alone(name: str) -> None:
    pair = PAIRS[name]
    left, right = built(pair)
    carry(left, right, **CARRY["resnet_small"])
    inputs = drawn(pair.shapes, 0)
    assert apart(of_keras(left, inputs, True), of_torch(right, inputs, True)) < 1e-13
    ours = left.get_layer("stage2_norm2").moving_variance.numpy()
    theirs = right.get_submodule("layer2.0.bn2").running_var.numpy()
    assert (np.abs(ours - theirs).max() < 1e-14) == (pair.verdict == "pass")


@pytest.mark.parametrize("pair", MISTAKEN, ids=lambda pair: pair.name)
def test_a_mistake_shows_where_it_is_said_to(pair: Pair) -> None:
    """In inference, if at all before training; and what must be named is there."""
    twin = pair.torch if pair.torch in CARRY else next(n for n in CARRY if pair.torch.startswith(n))
    right = getattr(torch_models, twin)().double()
    other = getattr(torch_models, pair.torch)().double()
    modules = dict(other.named_modules())
    assert set(pair.named) <= set(modules)
    if pair.keras != twin:
        return  # the mistake is in Keras' model
    state = right.state_dict()
    if len(state) == len(other.state_dict()):  # a module left out shifts the names behind it
        state = dict(zip(other.state_dict(), state.values(), strict=True))
    other.load_state_dict({k: v for k, v in state.items() if k in other.state_dict()}, strict=False)
    inputs = drawn(pair.shapes, pair.words)
    same = apart(of_torch(right, inputs), of_torch(other, inputs)) == 0
    assert same == (pair.numbers not in ("forward", "transfer"))


PUBLISHED_COUNTS = {
    **{"vgg16": (138_357_544,) * 2, "vgg19": (143_667_240,) * 2},
    **{"resnet50": (25_583_592, 25_557_032), "resnet50_aligned": (25_583_592,) * 2},
    **{"densenet121": (7_978_856,) * 2, "convnext_tiny": (28_589_128,) * 2},
    "mobilenet_v2": (3_504_872,) * 2,
}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_a_published_model_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = getattr(torch_models, name)()
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_COUNTS[name][1]


def test_a_published_keras_model_builds() -> None:
    model = keras_models.mobilenet_v2()
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
    assert trained == PUBLISHED_COUNTS["mobilenet_v2"][0]


# Random twins ------------------------------------------------------------------------------------


def rows(plan: Plan) -> dict[str, Any]:
    """What `carry` must know of the plan: the maps behind dense layers."""
    found = {}
    for layer in plan.layers:
        flat = plan.before(layer)
        if layer.kind == "dense" and flat is not None and flat.kind == "flatten":
            source = plan.before(flat)
            found[layer.name] = plan.shape if source is None else source.shape
    return found


UNCARRIED = (*OWN, "squeeze_excite", "causal_conv")  # `carry` knows PyTorch's own modules alone


def plain(seed: int) -> Plan:
    """A plan that `carry` can fill: without masks, and written with PyTorch's own modules."""
    plans = map(plan_of, itertools.count(1000 * seed))
    plan = next(
        plan
        for plan in plans
        if not plan.mask and not any(layer.kind in UNCARRIED for layer in plan.layers)
    )
    layers = (
        replace(
            layer,
            settings=layer.settings
            | ({"way": WAYS[layer.kind][0]} if layer.kind in WAYS else {})
            | ({"inside": ""} if "inside" in layer.settings else {}),
        )
        for layer in plan.layers
    )
    return replace(plan, layers=tuple(layers))


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_is_consistent_and_a_file(seed: int) -> None:
    plan = plan_of(seed)
    assert plan == plan_of(seed) == worked_out(plan) == Plan.from_json(plan.to_json())
    assert len(plan.layers) <= 14
    names = [layer.name for layer in plan.layers]
    assert len(set(names)) == len(names)
    for fault in faults(plan):
        assert fault.plan != plan
        assert set(fault.layers) & {layer.name for layer in (*plan.layers, *fault.plan.layers)}


@pytest.mark.parametrize("seed", range(6))
def test_random_twins_are_the_same_function(seed: int) -> None:
    plan = plain(seed)
    left, right = build_keras.build(plan.as_dict()), build_torch.build(plan.as_dict()).double()
    ours, theirs = trained(left, right)
    assert ours == theirs
    inputs = drawn((plan.shape,), plan.words)
    carry(left, right, rows=rows(plan))
    allowed = BY if ROUNDED & {layer.kind for layer in plan.layers} else 1e-12
    (output,) = of_keras(left, inputs)
    assert output.shape[1:] == plan.layers[-1].shape
    assert apart([output], of_torch(right, inputs)) < allowed


@pytest.mark.parametrize("seed", range(4))
def test_a_fault_shows_in_inference_only_where_it_is_said_to(seed: int) -> None:
    """A fault before the last layer may still hide behind a ReLU or a maximum."""
    plan = plain(seed)
    right = build_torch.build(plan.as_dict()).double().eval()
    inputs = drawn((plan.shape,), plan.words)
    outputs = of_torch(right, inputs)
    for fault in faults(plan):
        other = build_torch.build(fault.plan.as_dict()).double()
        state = {k: v for k, v in right.state_dict().items() if k in other.state_dict()}
        other.load_state_dict(state)
        got = of_torch(other, inputs)
        assert [x.shape for x in got] == [x.shape for x in outputs]
        if fault.numbers in ("gradient", "update") or "dropout" in fault.what:
            assert apart(outputs, got) == 0
        if fault.numbers == "forward" and fault.layers[0] == plan.layers[-1].name:
            assert apart(outputs, got) > 0


def test_an_entry_point_takes_a_plan_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Plan((4, 4, 2), 0, (Layer("flatten1", "flatten", ("input",)), DENSE))
    path = tmp_path / "plan.json"
    path.write_text(worked_out(plan).to_json())
    monkeypatch.setenv("ZOO_PLAN", str(path))
    assert build_keras.from_environment().output_shape == (None, 3)
    assert build_torch.from_environment().dense2.out_features == 3
    monkeypatch.setenv("ZOO_FAULTY_PLAN", worked_out(plan).to_json().replace("3", "7"))
    assert build_torch.faulty_from_environment().dense2.out_features == 7


DENSE = Layer(
    "dense2", "dense", ("flatten1",), settings={"units": 3, "bias": True, "way": "module"}
)
