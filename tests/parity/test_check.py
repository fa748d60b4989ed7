"""Any pair of models: faithful twins pass, a planted mistake is named. Live models, one process."""

from __future__ import annotations

import numpy as np
import pytest

import parity
from shared_data.errors import InputError
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


def test_labels_make_the_loss_their_cross_entropy() -> None:
    build_keras, build_torch, (images,) = pair("vgg_small")
    labels = np.array([2, 0, 1])  # another batch than the usual one
    options = {"level": "update", "labels": (labels,)}
    model = build_keras()
    biases = [each for each in model.weights if each.path.endswith("bias")]
    for at, each in enumerate(biases):  # nothing neutral, which the check would draw
        each.assign(np.random.default_rng(at).normal(0, 0.1, each.shape))
    report = parity.check_pair(model, build_torch, images[:3], **options)
    assert report.verdict == "pass", report.text()
    logits = model.predict(images[:3], verbose=0)
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[range(3), labels] - np.log(np.exp(shifted).sum(1))
    level = next(each for each in report.levels if each.level == "loss")
    loss = next(each for each in level.tensors if each.name == "loss")
    assert loss.left == pytest.approx(-chosen.mean(), rel=1e-5)  # predicted in float32


def test_labels_that_do_not_fit_the_batch_are_refused() -> None:
    build_keras, build_torch, (images,) = pair("vgg_small")
    with pytest.raises(InputError, match=r"expected whole numbers, one for each of the 4 samples"):
        parity.check_pair(build_keras, build_torch, images, labels=(np.array([0, 1]),))


def test_models_that_hold_other_weights_are_told_apart() -> None:
    build_keras, build_torch, inputs = pair("two_inputs")
    with pytest.raises(AssertionError, match="FAIL at the level transfer"):
        parity.assert_transfer_exact(build_keras(), build_torch(), inputs)


def test_a_second_bias_that_is_trained_is_named() -> None:
    build_keras, build_torch, words = pair("lstm_classifier")

    def both_trained():
        model = build_torch()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    report = parity.check_pair(build_keras, both_trained, words, level="trajectory")
    assert report.verdict == "fail", report.text()
    assert any("bias_hh" in each.key and each.divergence == 20 for each in report.findings)
    assert report.first_failure.level == "structure" and report.origins[0].torch == "lstm"
    assert {each.level for each in report.origins} & {"update", "trajectory"}  # numbers show it too


def test_what_training_alone_does_behind_the_last_call_is_placed() -> None:
    import keras
    import torch

    class Larger(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return 1.001 * y if self.training else y

    def build_keras():
        dense = keras.layers.Dense
        return keras.Sequential([keras.Input((5,)), dense(4), dense(3, name="head")])

    report = parity.check_pair(
        build_keras, lambda: torch.nn.Sequential(torch.nn.Linear(5, 4), Larger(4, 3))
    )
    assert report.first_failure.level == "loss", report.text()
    assert [(each.keras, each.torch) for each in report.origins] == [("head", "1")]


@pytest.mark.parametrize(("always", "level"), [(True, "forward"), (False, "randomness")])
def test_a_dropout_that_keras_has_not_fails(always: bool, level: str) -> None:
    import keras
    import torch

    class Dropped(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.3, always or self.training)

    def build_keras():
        return keras.Sequential([keras.Input((5,)), keras.layers.Dense(6)])

    report = parity.check_pair(build_keras, lambda: torch.nn.Sequential(Dropped(5, 6)))
    assert report.first_failure.level == level, report.text()


def test_a_gradient_is_blamed_where_it_starts_and_not_on_ties_that_a_relu_shuts() -> None:
    """Zeros around a pool in Keras, minus infinity in PyTorch: behind a ReLU they tie with others,
    and what comes back to the tied elements ends there."""
    import keras
    import torch

    class Less(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return 0.99 * y + 0.01 * y.detach()

    def build_keras():
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                *(layers.Conv2D(3, 3), layers.ReLU(), layers.ZeroPadding2D(1)),
                *(layers.MaxPooling2D(3, 2), layers.Flatten(), layers.Dense(4, name="hidden")),
                layers.Dense(2),
            ]
        )

    def build_torch():
        return torch.nn.Sequential(
            *(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, padding=1)),
            *(torch.nn.Flatten(), Less(27, 4), torch.nn.Linear(4, 2)),
        )

    report = parity.check_pair(build_keras, build_torch)
    assert report.first_failure.level == "gradient", report.text()
    assert (report.origins[0].keras, report.origins[0].torch) == ("hidden", "4"), report.text()


def test_a_row_that_is_not_trained_is_named() -> None:
    import keras
    import torch

    def build_keras():
        return keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3)])

    words = np.array([[0, 1, 2, 3, 0], [4, 5, 6, 0, 1]])
    report = parity.check_pair(
        build_keras, lambda: torch.nn.Sequential(torch.nn.Embedding(7, 3, padding_idx=0)), words
    )
    assert report.verdict == "fail" and report.first_failure.level == "gradient", report.text()
    assert any(each.key == "padding_idx" and each.divergence == 30 for each in report.findings)


def test_a_max_pool_and_a_relu_may_stand_either_way_round() -> None:
    import keras_impl.builders
    import torch_impl.builders

    small = {"padding": 0, "image_size": 190, "width": 1 / 16}  # PyTorch's blocks pool first

    def build_keras():
        import keras

        model = keras_impl.builders.build_cnn(**small)
        return keras.Model(model.input, model.get_layer("dense2").output)  # without the softmax

    report = parity.check_pair(
        build_keras, lambda: torch_impl.builders.build_cnn(**small), level="update", batch=2
    )
    assert report.verdict == "pass", report.text()
    assert report.coverage.whole and not report.findings


@pytest.mark.parametrize("groups", [6, 3])
def test_a_convolution_of_a_group_per_channel_is_depthwise_by_either_name(groups: int) -> None:
    import keras
    import torch

    def build_keras():
        own = keras.layers.Conv2D(6, 3, groups=6)
        return keras.Sequential([keras.Input((8, 8, 6)), own])

    def build_torch():
        return torch.nn.Sequential(torch.nn.Conv2d(6, 6, 3, groups=groups))

    images = np.random.default_rng(0).random((2, 8, 8, 6))
    # Forward alone: TensorFlow has no gradient of grouped convolutions on CPU.
    report = parity.check_pair(build_keras, build_torch, images, level="forward")
    assert report.verdict == ("pass" if groups == 6 else "fail"), report.text()
    assert bool(report.findings) == (groups != 6)


def test_a_dense_block_may_join_part_by_part_or_anew_each_time() -> None:
    import keras
    import torch

    def build_keras():
        x = inputs = keras.Input((6, 6, 2))
        for _ in range(3):
            new = keras.layers.Conv2D(2, 3, padding="same")(keras.layers.ReLU()(x))
            x = keras.layers.Concatenate()([x, new])
        return keras.Model(inputs, x)

    class Block(torch.nn.Module):
        def __init__(self, order=1):
            super().__init__()
            channels = (2, 4, 6)
            self.convs = torch.nn.ModuleList(torch.nn.Conv2d(n, 2, 3, padding=1) for n in channels)
            self.order = order

        def forward(self, x):
            parts = [x]
            for conv in self.convs:
                parts.append(conv(torch.relu(torch.cat(parts, 1))))
            return torch.cat([*parts[:2], *parts[2:][:: self.order]], 1)

    images = np.random.default_rng(0).normal(size=(2, 6, 6, 2))
    report = parity.check_pair(build_keras, Block, images, level="gradient")
    assert report.verdict == "pass", report.text()
    assert report.coverage.whole
    mistaken = parity.check_pair(build_keras, lambda: Block(order=-1), images, level="gradient")
    assert mistaken.verdict == "fail", mistaken.text()


@pytest.mark.parametrize("clipped", [True, False])
def test_a_clip_that_only_large_numbers_reach_is_seen_behind_a_table(clipped: bool) -> None:
    import keras
    import torch

    def build_keras():
        words = keras.Input((4,), dtype="int32")
        x = keras.layers.Embedding(9, 3)(words)
        x = keras.layers.ReLU(6.0, name="clip")(keras.layers.Dense(5)(x))
        return keras.Model(words, keras.layers.Dense(2)(keras.layers.Flatten()(x)))

    def build_torch():
        clip = torch.nn.ReLU6() if clipped else torch.nn.ReLU()
        layers = torch.nn.Embedding(9, 3), torch.nn.Linear(3, 5), clip
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(20, 2))

    report = parity.check_pair(build_keras, build_torch, level="gradient")
    assert report.verdict == ("pass" if clipped else "fail"), report.text()
    assert "large numbers in tables" in report.examined
    assert clipped or [each.keras for each in report.origins] == ["clip"]


@pytest.mark.parametrize("read", [False, True])
def test_rows_of_a_table_that_one_side_alone_has_decide_nothing_unless_they_are_read(
    read: bool,
) -> None:
    import keras
    import torch
    from torch import nn

    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(7, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = x + self.table(torch.arange(2, 7))
            return self.out(x + self.table(torch.tensor(1)) if read else x)

    class Added(keras.layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(5, 6), name="table")

        def call(self, x):
            return x + self.table

    def build_keras():
        return keras.Sequential([keras.Input((5, 6)), Added(), keras.layers.Dense(2, name="out")])

    values = np.random.default_rng(0).normal(size=(2, 5, 6))
    report = parity.check_pair(build_keras, Looked, values, level="update")
    said = "rows 0, 1 of table.weight have no counterpart"
    assert report.verdict == ("fail" if read else "pass"), report.text()
    assert any(said in note for note in report.notes) != read
    assert ("PyTorch alone has rows 0, 1 of table.weight" in report.levels[0].detail) == read


@pytest.mark.parametrize("threshold", [20, 10])
def test_a_softplus_is_one_of_float64_unless_another_threshold_is_chosen(threshold: int) -> None:
    import keras
    import torch

    def build_keras():
        gate = keras.layers.Activation("softplus", name="gate")
        return keras.Sequential([keras.Input((6,)), gate, keras.layers.Dense(2)])

    def build_torch():
        gate = torch.nn.Softplus(threshold=threshold)
        return torch.nn.Sequential(gate, torch.nn.Linear(6, 2))

    numbers = np.linspace(-5, 36, 24).reshape(4, 6)
    report = parity.check_pair(build_keras, build_torch, numbers, level="gradient")
    assert report.verdict == ("pass" if threshold == 20 else "fail"), report.text()
    assert threshold == 20 or [each.keras for each in report.origins] == ["gate"]
