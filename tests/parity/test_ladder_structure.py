"""What two sides declare: every kind of difference is found, placed, and explained."""

from __future__ import annotations

import dataclasses

import ladder_twins as twins
import pytest

from parity import divergences
from parity.ladder import mismatches, structure
from parity.ladder.mismatches import MISSING, NOTE, SEVERE, mismatch, plain
from parity.ladder.pair import Pair
from parity.ladder.sides import load
from parity.probe import INPUT, Layer, Probe

LAYERS = (
    Layer(
        "block1.conv",
        "conv",
        (INPUT,),
        (8, 8, 4),
        {"block1.conv.kernel": (3, 3, 3, 4), "block1.conv.bias": (4,)},
        {"padding": [0, 0], "strides": [1, 1], "dtype": "float64", "activation": "linear"},
    ),
    Layer("block1.relu", "relu", ("block1.conv",), (8, 8, 4)),
    Layer("block1.pool", "pool", ("block1.relu",), (4, 4, 4), {}, {"pool": "max"}),
    Layer("flatten", "flatten", ("block1.pool",), (64,), {}, {"order": "HWC"}),
    Layer("dense1", "dense", ("flatten",), (2,), {"dense1.kernel": (64, 2), "dense1.bias": (2,)}),
)
SEMANTICS = twins.semantics(twins.Twin())


def probe(layers=LAYERS, semantics=SEMANTICS, experiment=twins.SMALL):
    return Probe("keras", experiment, {}, tuple(layers), semantics)


def judged(right, left=None):
    return structure.structure(Pair(load(left or probe()), load(right)))


def layer(name, /, **changes):
    """The layers with one changed."""
    return [dataclasses.replace(e, **changes) if e.name == name else e for e in LAYERS]


def setting(name, /, **changes):
    (found,) = (each for each in LAYERS if each.name == name)
    settings = {**found.settings, **changes}
    return layer(name, settings={k: v for k, v in settings.items() if v is not None})


class TestLayers:
    def test_equal_layers_pass_and_are_counted(self):
        of_layers, of_semantics = judged(probe())
        assert (of_layers.verdict, of_semantics.verdict) == ("pass", "pass")
        assert of_layers.detail == "5 layers, 242 parameters alike"

    @pytest.mark.parametrize(
        ("layers", "where", "words"),
        [
            (LAYERS[:-1], "dense1", "kind dense against (missing)"),
            (
                [*LAYERS, Layer("extra", "relu", ("dense1",), (2,))],
                "extra",
                "kind (missing) against relu",
            ),
            (layer("block1.pool", name="block1.pooling"), "block1.pool", "against (missing)"),
            (
                [LAYERS[0], LAYERS[2], LAYERS[1], *LAYERS[3:]],
                "block1.relu",
                "order block1.relu against block1.pool",
            ),
            (layer("block1.relu", kind="gelu"), "block1.relu", "kind relu against gelu"),
            (layer("block1.relu", inputs=(INPUT,)), "block1.relu", "inputs"),
            (layer("dense1", output_shape=(3,)), "dense1", "output shape [2] against [3]"),
            (
                layer("dense1", parameters={"dense1.kernel": (64, 2)}),
                "dense1.bias",
                "shape [2] against (missing)",
            ),
            (
                layer("dense1", parameters={"dense1.kernel": (2, 64), "dense1.bias": (2,)}),
                "dense1.kernel",
                "shape [64, 2] against [2, 64]",
            ),
            (
                layer("dense1", parameters={"dense1.bias": (2,), "dense1.kernel": (64, 2)}),
                "dense1",
                "order",
            ),
            (setting("block1.conv", padding=[1, 1]), "block1.conv", "padding 0 against 1"),
            (setting("block1.conv", strides=[1, 2]), "block1.conv", "strides 1 against [1, 2]"),
            (setting("block1.conv", dtype="float16"), "block1.conv", "float64 against float16"),
            (setting("block1.conv", activation=None), "block1.conv", "linear against (missing)"),
            (setting("block1.pool", pool="average"), "block1.pool", "pool max against average"),
            (setting("flatten", order="CHW"), "flatten", "order HWC against CHW"),
        ],
    )
    @pytest.mark.parametrize("turned", [False, True])
    def test_every_difference_fails_and_is_named(self, layers, where, words, turned):
        sides = [probe(), probe(layers)]
        of_layers = judged(*(sides if turned else reversed(sides)))[0]
        assert of_layers.verdict == "fail"
        assert of_layers.measured >= 1
        if not turned:
            assert of_layers.where == where
            assert words in of_layers.detail

    def test_what_follows_comes_after_what_causes_it(self):
        layers = setting("block1.conv", padding=[1, 1])
        layers[0] = dataclasses.replace(layers[0], output_shape=(10, 10, 4))
        found = structure.structural(load(probe()), load(probe(layers)))
        assert [each.key for each in found] == ["padding", "output_shape"]

    def test_without_layers_nothing_passes(self):
        assert [each.verdict for each in judged(probe([]), probe([]))] == ["abstain", "pass"]

    def test_memory_layout_is_a_note_and_fails_nothing(self):
        right = probe(setting("block1.conv", data_format="channels_first"))
        assert judged(right)[0].verdict == "pass"
        (found,) = structure.structural(load(probe()), load(right))
        assert (found.severity, found.left) == (NOTE, MISSING)


class TestSemantics:
    @pytest.mark.parametrize(
        ("section", "changes", "words"),
        [
            ("optimizer", {"epsilon": 1e-8}, "optimizer: epsilon 1e-07 against 1e-08"),
            ("optimizer", {"beta_1": 0.8}, "beta 1 0.9 against 0.8"),
            ("optimizer", {"momentum": 0.9}, "momentum (missing) against 0.9"),
            ("loss", {"reduction": "sum"}, "loss: reduction mean against sum"),
            ("data", {"digest": "e" * 64}, "digest dddddddddddd… against eeeeeeeeeeee…"),
            ("data", {"divisor": 255}, "divisor 256 against 255"),
            ("batches", {"schedule": "x" * 64}, "batches: schedule"),
        ],
    )
    def test_every_difference_fails(self, section, changes, words):
        semantics = {**SEMANTICS, section: {**SEMANTICS[section], **changes}}
        of_layers, of_semantics = judged(probe(semantics=semantics))
        assert (of_layers.verdict, of_semantics.verdict) == ("pass", "fail")
        assert words in of_semantics.detail

    @pytest.mark.parametrize("section", ["optimizer", "initialiser"])
    def test_a_section_that_one_side_lacks_fails(self, section):
        less = {key: value for key, value in SEMANTICS.items() if key != section}
        result = judged(probe(semantics=less))[1]
        assert result.verdict == "fail"
        assert "(missing)" in result.detail

    def test_a_section_that_both_lack_was_not_compared(self):
        less = {key: value for key, value in SEMANTICS.items() if key != "batches"}
        result = judged(probe(semantics=less), probe(semantics=less))[1]
        assert result.verdict == "abstain"
        assert "batches" in result.detail

    def test_experiments_are_compared_but_for_the_machine(self):
        other = dataclasses.replace(twins.SMALL, threads=7)
        assert judged(probe(experiment=other))[1].verdict == "pass"
        other = dataclasses.replace(twins.SMALL, seed=9)
        result = judged(probe(experiment=other))[1]
        assert "experiment: seed 8 against 9" in result.detail

    def test_true_is_not_one(self):
        semantics = {**SEMANTICS, "loss": {**SEMANTICS["loss"], "reduction": True}}
        left = {**SEMANTICS, "loss": {**SEMANTICS["loss"], "reduction": 1}}
        assert judged(probe(semantics=semantics), probe(semantics=left))[1].verdict == "fail"

    def test_nan_is_not_itself(self):
        semantics = {**SEMANTICS, "loss": {"kind": float("nan")}}
        assert judged(probe(semantics=semantics), probe(semantics=semantics))[1].verdict == "fail"


class TestRecordings:
    def test_alone_they_tell_of_parameters_only(self):
        side = load(twins.recording(twins.Twin()))
        assert [each.verdict for each in structure.structure(Pair(side, side))] == ["abstain"] * 2

    def test_shapes_data_and_missing_parameters_fail(self):
        left, right = (twins.recording(twins.Twin()) for _ in range(2))
        del right.tensors["initial/dense1.bias"]
        right.data = {**right.data, "digest": "other"}
        of_layers, of_semantics = structure.structure(Pair(load(left), load(right)))
        assert (of_layers.verdict, of_layers.where) == ("fail", "dense1.bias")
        assert (of_semantics.verdict, of_semantics.where) == ("fail", "data")


class TestMismatch:
    def test_a_known_divergence_is_the_remedy(self):
        found = mismatch("block3.conv", "padding", [1, 1], [0, 0], topic="conv.padding")
        assert found.text == "padding 1 against 0"
        assert found.divergence == 1
        assert divergences.find("conv.padding").aligned_by in found.remedy

    def test_an_unknown_one_says_what_to_make_equal(self):
        found = mismatch("optimizer", "learning_rate", 1e-3, 1e-4)
        assert (found.remedy, found.severity) == ("give both sides the same learning rate", SEVERE)

    def test_every_exception_has_a_reason_and_an_effect(self):
        for pattern, why in mismatches.SIDE_SPECIFIC.items():
            where, _, key = pattern.replace("*", "block1.conv").rpartition(".")
            assert why
            assert mismatch(where, key, 1, 2).severity == NOTE

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ([1, 1], "1"),
            ([3, 2], "[3, 2]"),
            ([4], "[4]"),
            (1e-7, "1e-07"),
            (None, "None"),
            ("a" * 64, "a" * 12 + "…"),
            ("beside the uncorrected root of it", "beside the uncorrected root of it"),
        ],
    )
    def test_values_for_people(self, value, text):
        assert plain(value) == text
