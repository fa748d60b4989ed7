"""The published differences as switches: what each does to a side, and to the bytes it is fed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from parity.differences import DIFFERENCES, switched_on
from parity.experiment import VARIANTS, Experiment
from parity.feed import Feed
from shared_data.batches import FaceData, Subset
from shared_data.errors import InputError

PAPER = Experiment.of("baseline", "paper")


def changed(experiment: Experiment, framework: str, *names: str) -> dict[str, Any]:
    before, after = experiment.to_dict(), switched_on(experiment, framework, names).to_dict()
    return {name: value for name, value in after.items() if value != before[name]}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_switch_makes_the_two_sides_differ_from_the_aligned_study(name: str) -> None:
    variant = (DIFFERENCES[name].variants or ("baseline",))[0]
    experiment = Experiment.of(variant, "paper")
    sides = [changed(experiment, framework, name) for framework in ("keras", "torch")]
    assert any(sides)


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_published_has_what_the_protocol_says(variant: str) -> None:
    keras, torch = (
        switched_on(Experiment.of(variant, "paper"), side) for side in ("keras", "torch")
    )
    assert (keras.padding, torch.padding) == (0, 1)
    assert keras.init == torch.init == keras.optimizer == torch.optimizer == "native"
    assert (keras.epoch_loss, torch.epoch_loss) == ("samples", "batches")
    units = (1024, 512) if variant == "additional_layers" else (512, 512)
    assert (keras.hidden_units, torch.hidden_units) == units
    transformed = variant == "image_transforms"
    assert keras.divisor == torch.divisor == (255 if transformed else 256)
    assert torch.normalise == ("imagenet" if transformed else "none")
    assert torch.augmentation == ("once" if transformed else "anew")
    assert keras.normalise == "none" and keras.augmentation == "anew"


def test_none_switched_on_is_the_aligned_study() -> None:
    assert switched_on(PAPER, "torch", []) == PAPER
    assert changed(PAPER, "torch", "head", "normalise", "divisor") == {}  # other variants' alone


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="Did you mean 'padding'"):
        switched_on(PAPER, "torch", ["paddin"])
    with pytest.raises(InputError, match="keras or torch"):
        switched_on(PAPER, "jax")


def feed(**changes: Any) -> Feed:
    images = np.random.default_rng(1).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    rows = np.arange(12)
    subset = Subset(images, rows, rows % 2)
    data = FaceData("made", "d", ("fake", "real"), 6, 8, subset, subset, subset, ())
    experiment = dataclasses.replace(PAPER, batch_size=5, precision="float64", **changes)
    return Feed(experiment, data)


def epoch(number: int, **changes: Any) -> np.ndarray:
    return np.concatenate([images for images, _ in feed(**changes).training(number)])


def test_training_images_are_normalised_and_divided_and_no_others() -> None:
    plain, pixels = epoch(1), epoch(1) * 256
    np.testing.assert_allclose(epoch(1, divisor=255), pixels / 255, rtol=1e-15)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        epoch(1, normalise="imagenet"), (plain - mean) / deviation, rtol=1e-12, atol=1e-14
    )
    for changes in ({"divisor": 255}, {"normalise": "imagenet"}):
        made = feed(**changes)
        whole = np.concatenate([images for images, _ in made.evaluation(made.data.test)])
        np.testing.assert_array_equal(whole, made.data.test.images / 256)


def test_another_order_is_a_permutation_too() -> None:
    shared, own = feed().order(1), feed(batch_order="own").order(1)
    assert sorted(own) == sorted(shared) and list(own) != list(shared)


def test_augmentation_once_gives_every_epoch_the_same_images() -> None:
    def by_position(number: int, **changes: Any) -> np.ndarray:
        made = feed(augment=True, **changes)
        images = np.concatenate([images for images, _ in made.training(number)])
        return images[np.argsort(made.order(number))]

    once = [by_position(number, augmentation="once") for number in (1, 2)]
    anew = [by_position(number) for number in (1, 2)]
    np.testing.assert_array_equal(*once)
    assert (anew[0] != anew[1]).any()
