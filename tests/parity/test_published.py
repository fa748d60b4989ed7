"""The study's numbers as package data, and the criterion applied to them."""

import pytest

from parity import published
from parity.criterion import METRICS, judge, verdict
from parity.experiment import VARIANTS
from shared_data.errors import InputError


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("baseline", "pass"),
        ("lr_10x", "fail"),
        ("lr_100x", "fail"),
        ("additional_layers", "pass"),
        ("image_transforms", "fail"),
    ],
)
def test_the_criterion_gives_the_study_s_verdicts(variant, expected):
    criterion = judge(published.history(variant, "keras"), published.history(variant, "torch"))
    assert verdict(criterion) == expected


@pytest.mark.parametrize(
    ("variant", "difference"), [("lr_10x", 0.1254), ("additional_layers", 0.0198)]
)
def test_the_validation_losses_are_as_far_apart_as_the_study_says(variant, difference):
    criterion = judge(published.history(variant, "keras"), published.history(variant, "torch"))
    assert criterion["val_loss"]["difference"] == pytest.approx(difference, abs=5e-5)


def test_every_variant_is_there_with_ten_epochs():
    assert published.variants() == tuple(VARIANTS)
    for variant in published.variants():
        for framework in ("keras", "torch"):
            history = published.history(variant, framework)
            assert {metric: len(values) for metric, values in history.items()} == dict.fromkeys(
                METRICS, 10
            )


def test_test_sets():
    assert published.test("image_transforms", "torch") == {"loss": 0.1891, "accuracy": 0.9225}
    assert published.ood("baseline", "torch") == {"loss": 3.1531, "accuracy": 0.531}


def test_table_1_adds_up():
    table = published.table_1()
    assert table["train"] == {"real": 470, "fake": 561}
    for label in ("real", "fake"):
        parts = sum(table[split][label] for split in ("train", "validation", "test"))
        assert parts == table["original"][label] - table["duplicates"][label]


def test_what_is_handed_out_can_be_changed_without_harm():
    published.history("baseline", "keras")["loss"].clear()
    published.test("baseline", "keras").clear()
    published.table_1()["train"].clear()
    assert len(published.history("baseline", "keras")["loss"]) == 10
    assert published.test("baseline", "keras")
    assert published.table_1()["train"]


@pytest.mark.parametrize("accessor", [published.history, published.test, published.ood])
def test_an_unknown_model_names_the_known_ones(accessor):
    with pytest.raises(InputError, match=r"baseline, lr_10x.*Did you mean 'lr_10x'"):
        accessor("lr_10", "keras")
    with pytest.raises(InputError, match="keras, torch"):
        accessor("baseline", "jax")
