from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.experiment import PROFILES, VARIANTS, Experiment
from shared_data.errors import InputError

experiments = st.builds(
    Experiment.of,
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(sorted(PROFILES)),
    padding=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**32),
    epochs=st.integers(1, 200),
    learning_rate=st.floats(1e-9, 10),
    image_size=st.integers(254, 600),
)


@given(experiments)
def test_json_brings_back_an_equal_experiment_with_the_same_id(experiment: Experiment) -> None:
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment
    assert again.id == experiment.id


@given(experiments, experiments)
def test_ids_are_equal_exactly_where_experiments_are(left: Experiment, right: Experiment) -> None:
    assert (left.id == right.id) == (left == right)


def test_id_is_stable() -> None:
    # A change of this value orphans every stored result: change it knowingly.
    assert Experiment().id == "baseline-p0-s8-486e8f858b"


def test_experiments_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().seed = 9  # type: ignore[misc]


@pytest.mark.parametrize(("profile", "rate"), [("paper", 1e-4), ("quick", 5e-4)])
def test_variants_scale_the_learning_rate_of_the_profile(profile: str, rate: float) -> None:
    rates = {name: Experiment.of(name, profile).learning_rate for name in VARIANTS}
    assert rates["baseline"] == rates["additional_layers"] == rates["image_transforms"] == rate
    assert rates["lr_10x"] == pytest.approx(10 * rate)
    assert rates["lr_100x"] == pytest.approx(100 * rate)


def test_the_paper_profile_is_the_published_experiment() -> None:
    paper = Experiment.of("baseline", "paper")
    assert (paper.image_size, paper.batch_size, paper.epochs, paper.seed) == (256, 64, 10, 8)
    assert paper.filters == (32, 64, 128, 256, 256, 512)
    assert paper.hidden_units == 512
    assert Experiment.of("additional_layers", "paper").filters[-1] == 1024
    assert Experiment.of("additional_layers", "paper").hidden_units == 1024


def test_a_flag_overrides_profile_and_variant() -> None:
    assert Experiment.of("lr_10x", "quick", learning_rate=0.5).learning_rate == 0.5
    assert Experiment.of("additional_layers", "quick", padding=1, image_size=128).image_size == 128


def test_quick_is_the_small_float64_profile() -> None:
    quick = Experiment.of()
    assert (quick.image_size, quick.width, quick.precision) == (192, 0.25, "float64")
    assert Experiment.of("additional_layers").image_size == 256


# The least sizes by hand: six times s -> (s - 2) // 2 down to 1, backwards 1, 4, 10, 22, 46, 94.
@pytest.mark.parametrize(
    ("variant", "padding", "least"),
    [
        ("baseline", 0, 190),
        ("baseline", 1, 64),
        ("additional_layers", 0, 254),
        ("additional_layers", 1, 128),
    ],
)
def test_least_image_size(variant: str, padding: int, least: int) -> None:
    assert Experiment.of(variant, padding=padding, image_size=least).feature_map == 1
    with pytest.raises(InputError, match=f"need at least {least} pixels"):
        Experiment.of(variant, padding=padding, image_size=least - 1)


def test_unknown_names_are_answered_with_the_nearest_known() -> None:
    with pytest.raises(InputError, match=r"unknown variant 'adition.*Did you mean 'additional_lay"):
        Experiment.of("aditional_layer")
    with pytest.raises(InputError, match="unknown profile 'papers': there are quick, paper"):
        Experiment.of("baseline", "papers")
    with pytest.raises(InputError, match=r"unknown experiment field 'epoch'.*'epochs'"):
        Experiment.from_dict({"epoch": 3})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("epochs", None),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("precision", "float16"),
        ("padding", 2),
        ("seed", -1),
        ("device", "tpu"),
        ("width", -0.5),
        ("data", 3),
    ],
)
def test_bad_values_name_their_flag(field: str, value: object) -> None:
    with pytest.raises(InputError, match="--" + field.replace("_", "-")):
        Experiment.of("baseline", "paper", **{field: value})


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"'])
def test_malformed_json_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Experiment.from_json(text)


def test_every_field_has_a_help_text() -> None:
    assert all(item.metadata["help"] for item in dataclasses.fields(Experiment))
    assert json.loads(Experiment().to_json()).keys() == {
        item.name for item in dataclasses.fields(Experiment)
    }


def test_a_worker_is_told_of_tf32_and_of_its_device() -> None:
    from parity import environment

    usual = environment.variables(Experiment())
    assert usual["NVIDIA_TF32_OVERRIDE"] == "0" and usual["CUDA_VISIBLE_DEVICES"] == ""
    asked = environment.variables(Experiment(device="cuda", tf32="on"))
    assert "NVIDIA_TF32_OVERRIDE" not in asked and "CUDA_VISIBLE_DEVICES" not in asked
    assert asked["TF_DETERMINISTIC_OPS"] == "1"
