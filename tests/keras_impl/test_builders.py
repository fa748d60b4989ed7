from __future__ import annotations

import numpy as np
import oracle
import pytest

from parity import weights
from parity.experiment import Experiment

keras_impl = pytest.importorskip("keras_impl.builders")

SMALL = {"precision": "float64", "width": 0.1}


@pytest.mark.parametrize(("padding", "count"), [(0, 3_208_770), (1, 6_354_498)])
def test_parameter_counts_are_the_published(padding: int, count: int) -> None:
    assert keras_impl.build_cnn("baseline", padding=padding).count_params() == count


@pytest.mark.parametrize("padding", [0, 1])
def test_additional_layers_have_a_seventh_block_and_a_1024_head(padding: int) -> None:
    model = keras_impl.build_cnn("additional_layers", padding=padding)
    assert model.get_layer("block7_conv").filters == 1024
    assert model.get_layer("dense1").units == 1024
    experiment = Experiment.of("additional_layers", "paper", padding=padding)
    assert model.count_params() == weights.parameter_count(experiment)


@pytest.mark.parametrize(
    ("variant", "padding", "size"),
    [("baseline", 0, 190), ("baseline", 1, 70), ("additional_layers", 0, 254)],
)
def test_output_is_the_softmax_of_the_numpy_network(variant: str, padding: int, size: int) -> None:
    experiment = Experiment.of(variant, padding=padding, image_size=size, **SMALL)
    drawn = weights.draw(experiment)
    model = keras_impl.build(experiment)
    for variable, value in zip(model.trainable_variables, drawn.values(), strict=True):
        variable.assign(value)
    images, _ = oracle.batch(experiment, 2)
    expected = np.exp(oracle.logits(experiment, drawn, images))
    expected /= expected.sum(1, keepdims=True)
    got = np.asarray(model(images))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_building_by_name_from_the_package() -> None:
    import keras_impl as package

    assert package.build(Experiment.of(**SMALL)).count_params() > 0
    assert package.build_cnn is keras_impl.build_cnn
