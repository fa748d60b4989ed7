"""The ladder on NumPy twins: faithful ones agree, every fault fails at its level and its layer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import ladder_twins as twins
import numpy as np
import pytest
from ladder_twins import SMALL, Twin

from parity import probe as probe_format
from parity import weights
from parity.ladder import LEVELS, LadderReport, run
from parity.ladder import sides as sides_module
from parity.ladder.measure import ABSTAIN, FAIL, PASS, Measurement
from parity.ladder.results import LEVELS as NAMES
from parity.ladder.results import NUMERIC, LevelResult, summarise
from parity.ladder.sides import load, reference_of
from parity.ladder.tolerances import TABLE
from parity.probe import INPUT, Probe
from parity.recording import Recording

ROOT = Path(__file__).parents[2]
FLOAT32 = dataclasses.replace(SMALL, precision="float32")
COMPUTING = [name for name in Twin().names if twins.kind_of(name) in ("conv", "dense")]


@pytest.fixture(scope="module")
def left():
    return twins.probe(Twin()), twins.recording(Twin())


@pytest.fixture(scope="module")
def right(left):
    return faulty(left)


def faulty(left, change=twins.unchanged, precisions=("float64", "float32"), **adam):
    """The right side of `left` with a fault in it."""
    twin = Twin(backwards=True, change=change, adam=adam)
    with np.errstate(all="ignore"):
        return twins.probe(twin, "torch", left[0], precisions), twins.recording(twin, "torch")


def at(layer, stage, change):
    """A fault in one place."""
    return lambda n, s, value: change(value) if (n, s) == (layer, stage) else value


def nudge(value):
    """One element a little off."""
    value = value.copy()
    value.flat[np.argmax(np.abs(value))] *= 1 + 1e-9
    return value


def copied(side):
    """A side whose tensors and lists can be changed without changing the original."""
    probe, recording = side
    return (
        dataclasses.replace(probe, tensors=dict(probe.tensors), facts=dict(probe.facts)),
        dataclasses.replace(
            recording,
            tensors=dict(recording.tensors),
            history={key: list(value) for key, value in recording.history.items()},
            steps={key: list(value) for key, value in recording.steps.items()},
            evaluation={key: dict(value) for key, value in recording.evaluation.items()},
        ),
    )


def origins(report, status="origin"):
    return [(each.where, each.level) for each in report.origins if each.status == status]


def only(report, level, precision=None):
    (found,) = report.of(level, precision)
    return found


class TestFaithfulTwins:
    def test_agree_on_every_level(self, left, right):
        report = run(left, right)
        assert {(each.level, each.verdict) for each in report.levels} == {
            (level, PASS) for level in LEVELS
        }
        assert (report.verdict, report.origins, report.first_failure) == (PASS, (), None)
        assert (report.left, report.right) == ("keras-p1", "torch-p1")
        assert {r.precision for r in report.levels} == {None, "float64", "float32"}

    def test_agree_as_folders_too(self, left, right, tmp_path):
        for name, side in (("left", left), ("right", right)):
            for part in side:
                part.write(tmp_path / name)
        report = run(tmp_path / "left", str(tmp_path / "right"))
        assert report.to_list() == run(left, right).to_list()

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_agree_whatever_the_seed(self, seed):
        experiment = dataclasses.replace(SMALL, seed=seed)
        reference = twins.probe(Twin(experiment))
        other = twins.probe(Twin(experiment, backwards=True), "torch", reference)
        report = run(reference, other)
        assert report.verdict == PASS
        assert {each.verdict for each in report.levels} == {PASS, ABSTAIN}
        assert {each.level for each in report.levels if each.verdict == ABSTAIN} == {"outcome"}

    def test_nothing_is_wrong_between_a_side_and_itself(self, left):
        assert run(left, left).verdict == PASS

    def test_numbers_come_with_all_they_need(self, left, right):
        for result in run(left, right).levels:
            if result.level in ("structure", "outcome"):
                continue
            assert result.tolerance is not None
            assert result.measured is not None
            assert result.measured <= result.tolerance
            assert result.minimum_tolerance == result.measured
            assert result.reason.split(":")[0] in TABLE
            said = "units in the last place" if result.measured else "nothing differs"
            assert said in result.detail
            assert result.tensors


class TestOrigins:
    @pytest.mark.parametrize("layer", Twin().names)
    def test_a_wrong_output_is_placed_in_its_layer(self, left, layer):
        side = faulty(left, at(layer, "output", lambda v: v * 1.01), ("float64",))
        report = run(left[0], side[0])
        assert origins(report) == [(layer, "forward")]
        assert report.first_failure.level == "forward"
        later = Twin().names[Twin().names.index(layer) + 1 :]
        carried = [where for where, _ in origins(report, "carried")]
        assert set(later) <= set(carried)
        assert "loss" in carried

    @pytest.mark.parametrize("layer", Twin().names)
    def test_a_wrong_gradient_by_an_input_is_placed_in_its_layer(self, left, layer):
        side = faulty(left, at(layer, "by_input", lambda v: v * 1.01), ("float64",))
        report = run(left[0], side[0])
        assert origins(report) == [(layer, "gradient")]
        assert report.first_failure.level == "gradient"
        before = Twin().names[: Twin().names.index(layer)]
        carried = {where for where, _ in origins(report, "carried")} - {"training"}
        assert {name for name in before if name in COMPUTING} <= carried <= set(before)

    @pytest.mark.parametrize("layer", COMPUTING)
    @pytest.mark.parametrize("stage", ["by_kernel", "by_bias"])
    def test_a_wrong_gradient_by_a_parameter_is_placed_in_its_layer(self, left, layer, stage):
        side = faulty(left, at(layer, stage, nudge), ("float64",))
        report = run(left[0], side[0])
        assert origins(report) == [(layer, "gradient")]
        assert layer in only(report, "gradient", "float64").where

    @pytest.mark.parametrize("layer", ["block2.conv", "dense1"])
    def test_a_frozen_layer_is_placed_at_the_update(self, left, layer):
        def frozen(name, stage, value):
            return value * 0 if stage == "step" and name.startswith(layer + ".") else value

        report = run(left, faulty(left, frozen))
        assert origins(report) == [(layer, "update")]
        assert report.first_failure.level == "update"
        assert only(report, "loss", "float64").verdict == PASS

    def test_wrong_images_are_the_input(self, left):
        report = run(left, faulty(left, at(INPUT, "images", lambda v: v * (256 / 255))))
        assert origins(report) == [(INPUT, "forward")]
        assert ("block1.conv", "forward") in origins(report, "carried")

    @pytest.mark.parametrize("stage", ["loss", "logits"])
    def test_the_loss_is_placed_at_the_loss(self, left, stage):
        report = run(left, faulty(left, at("loss", stage, lambda v: v * 2)))
        assert origins(report) == [("loss", {"loss": "loss", "logits": "gradient"}[stage])]
        assert origins(report, "undecided") == []

    @pytest.mark.parametrize(
        ("adam", "cause"),
        [
            ({"learning_rate": SMALL.learning_rate * 1.01}, "learning rate"),
            ({"epsilon": 1e-8}, "epsilon 1e-07 against 1e-08"),
            ({"epsilon_position": "beside the corrected root"}, "epsilon position"),
            ({"beta_1": 0.91}, "beta 1 0.9 against 0.91"),
            ({"beta_2": 0.99}, "beta 2 0.999 against 0.99"),
            ({"weight_decay": 0.01}, "weight decay 0 against 0.01"),
        ],
    )
    def test_the_optimizer_is_placed_at_the_optimizer_with_its_cause(self, left, adam, cause):
        report = run(left, faulty(left, **adam))
        assert origins(report) == [("optimizer", "update")]
        assert cause in report.origins[0].sentence
        assert only(report, "update", "float64").verdict == FAIL
        assert only(report, "gradient", "float64").verdict == PASS
        assert report.origins[0].remedies

    def test_betas_that_went_through_float32_are_seen(self, left):
        """A relative error of 7e-6 of a step (FINDINGS: Keras on TensorFlow, not aligned)."""
        beta = float(np.float32(0.999))
        report = run(left, faulty(left, beta_2=beta))
        assert only(report, "update", "float64").verdict == FAIL
        assert only(report, "update", "float32").verdict != FAIL

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_one_bad_weight_is_placed_at_the_transfer(self, left, bad):
        def spoil(name, stage, value):
            if (name, stage) != ("block2.conv.kernel", "weights"):
                return value
            value = value.copy()
            value.flat[3] = bad
            return value

        report = run(left, faulty(left, spoil))
        assert origins(report) == [("block2.conv", "transfer")]
        assert report.first_failure.level == "transfer"
        failed = {each.level for each in report.levels if each.verdict == FAIL}
        assert {"forward", "loss", "gradient", "update", "trajectory"} <= failed

    def test_a_transposed_kernel_is_placed_at_the_transfer(self, left):
        turned = at("block5.conv.kernel", "weights", lambda v: v.transpose(1, 0, 2, 3).copy())
        assert origins(run(left, faulty(left, turned))) == [("block5.conv", "transfer")]

    def test_half_precision_in_float32_alone(self, left):
        def half(name, stage, value):
            if (name, stage) == ("block5.conv", "output") and value.dtype == np.float32:
                return value.astype(np.float16).astype(np.float32)
            return value

        report = run(left, faulty(left, half))
        assert origins(report) == [("block5.conv", "forward")]
        assert only(report, "forward", "float64").verdict == PASS
        assert only(report, "forward", "float32").verdict == FAIL

    def test_a_stale_batch_shows_in_the_training_alone(self, left):
        side = copied(faulty(left))
        later = Twin(backwards=True)
        given = twins.batches(SMALL, "float64")
        order = [given[0], given[2], given[1]]
        trained = later.train(order, weights.draw(SMALL))
        name = "float64/free/trajectory/"
        side[0].tensors[name + "loss"] = np.array(trained["losses"])
        for key, value in trained["weights"].items():
            side[0].tensors[name + key] = value
        report = run(left[0], side[0])
        assert origins(report) == [("training", "trajectory")]
        (origin,) = report.origins
        assert "step 2 is the first beyond" in origin.text
        assert "block1.conv.kernel is the first tensor beyond" in origin.text


class TestWithoutLayersAlone:
    """A right side recorded without --reference."""

    def test_agreement_needs_none(self, left):
        twin = Twin(backwards=True)
        report = run(left[0], twins.probe(twin, "torch"))
        assert only(report, "forward", "float64").verdict == PASS
        assert only(report, "gradient", "float64").verdict == PASS

    @pytest.mark.parametrize("layer", ["block1.conv", "block4.pool", "dense1"])
    def test_what_differs_though_its_inputs_agree_is_the_origin(self, left, layer):
        twin = Twin(backwards=True, change=at(layer, "output", lambda v: v * 1.01))
        report = run(left[0], twins.probe(twin, "torch"))
        assert origins(report) == [(layer, "forward")]
        undecided = [each for each in report.origins if each.status == "undecided"]
        assert undecided
        assert all("--reference" in each.text for each in undecided)

    def test_other_batches_make_the_images_the_origin(self, left):
        twin = Twin(backwards=True, change=at(INPUT, "images", lambda v: v / 2))
        probe = twins.probe(twin, "torch")
        probe.semantics["batches"]["probe"] = "x"
        report = run(left[0], probe)
        assert (INPUT, "forward") in origins(report)
        assert "probe" in report.origins[0].sentence


class TestAsPublished:
    """Padding 0 on the left, 1 on the right."""

    @pytest.fixture(scope="class")
    @staticmethod
    def report():
        fields = {"image_size": 190, "width": 0.02, "epochs": 1, "batch_size": 2}
        sides = [dataclasses.replace(SMALL, padding=padding, **fields) for padding in (0, 1)]
        left, right = (Twin(each, backwards=bool(each.padding)) for each in sides)
        return run(
            (twins.probe(left, precisions=("float64",)), twins.recording(left)),
            (twins.probe(right, "torch", None, ("float64",)), twins.recording(right, "torch")),
        )

    def test_fails_at_structure_naming_padding_and_the_first_dense_layer(self, report):
        assert report.verdict == FAIL
        first = report.first_failure
        assert (first.level, first.where) == ("structure", "block1.conv")
        assert "block1.conv: padding 0 against 1 (and 5 more like it)" in first.detail
        assert "dense1.kernel: shape" in first.detail

    def test_names_the_convolutions_and_the_dense_layer_as_origins(self, report):
        where = [each.where for each in report.origins if each.status == "origin"]
        assert where == [*(f"block{n}.conv" for n in range(1, 7)), "dense1"]
        assert "padding 0 against 1" in report.origins[0].sentence
        assert report.origins[0].remedies

    def test_later_levels_compare_what_they_can(self, report):
        gradient = only(report, "gradient", "float64")
        assert gradient.verdict == FAIL
        compared = {each.name for each in gradient.tensors if each.elements}
        assert "gradient block1.conv.kernel" in compared
        assert "gradient dense1.kernel" not in compared
        assert only(report, "loss", "float64").measured > 0


class TestTensorLists:
    def failing(self, left, side, level="forward"):
        result = only(run(left, side), level, "float64")
        return result.verdict, result.detail

    def change(self, right, old, new=None):
        """Rename a tensor of the right probe, or take it away; the order is kept."""
        side = copied(right)
        for part in ("tensors", "facts"):
            pairs = getattr(side[0], part).items()
            kept = {new if key == old else key: value for key, value in pairs if new or key != old}
            setattr(side[0], part, kept)
        return side

    def test_missing(self, left, right):
        side = self.change(right, "float64/free/activation/block2.pool")
        verdict, detail = self.failing(left, side)
        assert verdict == FAIL
        assert "block2.pool: missing on the right" in detail

    def test_extra(self, left, right):
        side = copied(right)
        side[0].keep("float64/free/activation", {"extra": np.ones(2)})
        verdict, detail = self.failing(left, side)
        assert verdict == FAIL
        assert "extra: missing on the left" in detail

    def test_renamed(self, left, right):
        name = "float64/free/update/dense1.bias"
        verdict, detail = self.failing(left, self.change(right, name, name + "es"), "update")
        assert verdict == FAIL
        assert "2 beyond: update dense1.bias, update dense1.biases" in detail

    def test_reordered(self, left, right):
        side = copied(right)
        side[0].tensors = dict(reversed(side[0].tensors.items()))
        assert self.failing(left, side)[0] == FAIL

    def test_missing_on_both_is_not_compared(self, left, right):
        name = "float64/free/moment2/dense1.bias"
        result = only(run(self.change(left, name), self.change(right, name)), "update", "float64")
        assert result.verdict == ABSTAIN
        assert "moment2 dense1.bias was recorded on neither side" in result.detail

    def test_the_same_nan_on_both_sides(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            spoilt = side[0].tensors["float64/free/activation/dense2"].copy()
            spoilt[0, 0] = np.nan
            side[0].tensors["float64/free/activation/dense2"] = spoilt
        verdict, detail = self.failing(*sides)
        assert verdict == FAIL
        assert "not finite: 1 elements on the left, 1 on the right" in detail

    def test_float32_under_the_name_of_float64(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            name = "float64/free/activation/dense2"
            side[0].tensors[name] = side[0].tensors[name].astype("f4")
        verdict, detail = self.failing(*sides)
        assert verdict == FAIL
        assert "recorded as float64, but of type float32 on the left" in detail

    def test_a_precision_that_one_side_lacks_abstains(self, left, right):
        side = copied(right)
        for part in ("tensors", "facts"):
            kept = {k: v for k, v in getattr(side[0], part).items() if k.startswith("float64")}
            setattr(side[0], part, kept)
        report = run(left, side)
        assert only(report, "forward", "float32").verdict == ABSTAIN
        assert "float32 on torch-p1" in only(report, "forward", "float32").detail
        assert only(report, "forward", "float64").verdict == PASS

    def test_without_a_noise_floor_float32_abstains(self, left, right):
        side = copied(right)
        for part in ("tensors", "facts"):
            kept = {k: v for k, v in getattr(side[0], part).items() if "/weights/" not in k}
            setattr(side[0], part, kept)
        for level in ("forward", "loss", "gradient", "update", "trajectory"):
            result = run(left, side).of(level, "float32")[-1]
            assert result.verdict == ABSTAIN
            assert "no usable weights of torch-p1" in result.detail + result.reason

    def test_a_jump_is_decided_by_the_layers_alone(self, left, right):
        """A tie in a pooling window: one element of a gradient elsewhere, in the net only."""
        side = copied(right)
        for name in ("upstream/block1.conv", "gradient/input"):
            tensor = side[0].tensors[f"float64/free/{name}"].copy()
            tensor.flat[0] += 0.01 * np.abs(tensor).max()
            side[0].tensors[f"float64/free/{name}"] = tensor
        result = only(run(left, side), "gradient", "float64")
        assert result.verdict == PASS
        assert "2 undecided: upstream block1.conv, gradient input" in result.detail
        alone = {k: v for k, v in side[0].tensors.items() if "/isolated/" not in k}
        side[0].tensors = alone
        side[0].facts = {key: side[0].facts[key] for key in alone}
        result = only(run(left, side), "gradient", "float64")
        assert result.verdict == ABSTAIN
        assert "--reference" in result.detail


class TestSampledTensors:
    """Probes that keep 100 elements of every larger tensor."""

    LIMIT = 100

    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch):
        for module in (probe_format, sides_module):
            monkeypatch.setattr(module, "LIMIT", self.LIMIT)
        sides_module._places.cache_clear()
        yield
        sides_module._places.cache_clear()

    def pair(self, change=twins.unchanged):
        left = twins.probe(Twin(), precisions=("float64",))
        twin = Twin(backwards=True, change=change)
        return left, twins.probe(twin, "torch", left, ("float64",))

    def test_agree(self):
        left, right = self.pair()
        report = run(left, right)
        assert {each.verdict for each in report.levels} == {PASS, ABSTAIN}
        name = "float64/free/activation/block1.conv"
        assert left.tensors[name].size > self.LIMIT == right.tensors[name].size
        sampled = [e for e in only(report, "gradient", "float64").tensors if e.elements]
        assert max(each.elements for each in sampled) == self.LIMIT

    @pytest.mark.parametrize("layer", ["block2.conv", "block2.pool", "dense1"])
    @pytest.mark.parametrize("stage", ["output", "by_input"])
    def test_faults_are_placed_as_in_whole_ones(self, layer, stage):
        report = run(*self.pair(at(layer, stage, lambda v: v * 1.01)))
        level = {"output": "forward", "by_input": "gradient"}[stage]
        assert origins(report) == [(layer, level)]

    def test_samples_that_never_meet_do_not_decide(self):
        """The gradient by the images, alone and in the net, is kept at different places."""
        report = run(*self.pair(at("block1.conv", "by_input", lambda v: v * 1.01)))
        result = only(report, "gradient", "float64")
        assert result.verdict == ABSTAIN
        assert "--keep-tensors" in result.detail

    def test_the_index_is_that_of_the_whole_tensor(self):
        left, right = self.pair()
        name = "float64/free/activation/block1.conv"
        right.tensors[name] = right.tensors[name] + 1e-9
        result = only(run(left, right), "forward", "float64")
        worst = max(result.tensors, key=lambda each: each.pressure)
        assert (worst.name, worst.elements) == ("block1.conv", self.LIMIT)
        assert left.tensors[name][worst.index] == worst.left

    def test_what_was_not_kept_and_is_not_finite_fails(self):
        left, right = self.pair()
        name = "float64/free/activation/block1.conv"
        right.facts[name] = dataclasses.replace(right.facts[name], nonfinite=1)
        assert only(run(left, right), "forward", "float64").verdict == FAIL


class TestTransfer:
    def test_both_sides_alike_but_not_as_drawn_fails(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            for name in ("float64/transfer/dense1.bias", "float32/transfer/dense1.bias"):
                side[0].tensors[name] = side[0].tensors[name] + 1
        result = only(run(*sides), "transfer", "float64")
        assert result.verdict == FAIL
        assert "dense1.bias as drawn" in result.detail

    def test_the_sign_of_a_zero_counts(self, left, right):
        side = copied(right)
        side[1].tensors["initial/dense1.bias"] = -side[1].tensors["initial/dense1.bias"]
        result = only(run(left, side), "transfer", "float64")
        assert (result.verdict, result.measured) == (FAIL, 0.0)

    def test_native_weights_are_not_held_against_the_draw(self):
        experiment = dataclasses.replace(SMALL, init="native")
        sides = [twins.recording(Twin(experiment)) for _ in range(2)]
        for side in sides:
            side.tensors["initial/dense1.bias"] = side.tensors["initial/dense1.bias"] + 1
        assert only(run(*sides), "transfer", "float64").verdict == PASS

    def test_a_missing_and_an_extra_weight_fail(self, left, right):
        side = copied(right)
        side[1].tensors["initial/other"] = side[1].tensors.pop("initial/dense2.bias")
        detail = only(run(left, side), "transfer", "float64").detail
        assert "2 beyond: initial dense2.bias, initial other" in detail


class TestTrajectory:
    def whole(self, left, right):
        return run(left[1], right[1]).of("trajectory")[0]

    def test_passes_within_and_fails_one_step_beyond(self, left, right):
        side = copied(right)
        side[1].steps["loss"][2] = left[1].steps["loss"][2] + 0.9e-10
        assert self.whole(left, side).verdict == PASS
        side[1].steps["loss"][2] = left[1].steps["loss"][2] + 1.1e-10
        result = self.whole(left, side)
        assert (result.verdict, result.where) == (FAIL, "loss by step[2]")
        assert "first beyond at step 3" in result.detail

    def test_losses_that_swap_keep_their_mean_and_fail(self, left, right):
        side = copied(right)
        side[1].steps["loss"][1:3] = side[1].steps["loss"][2:0:-1]
        assert self.whole(left, side).verdict == FAIL

    def test_a_final_weight_beyond_its_tolerance_fails(self, left, right):
        side = copied(right)
        for change, verdict in ((0.9e-8, PASS), (1.1e-8, FAIL)):
            weight = left[1].tensors["final/dense1.kernel"].copy()
            weight[0, 1] += change
            side[1].tensors["final/dense1.kernel"] = weight
            assert self.whole(left, side).verdict == verdict
        assert self.whole(left, side).where == "final dense1.kernel[0, 1]"

    @pytest.mark.parametrize("steps", [3, 5])
    def test_a_step_less_or_more_fails(self, left, steps):
        side = (None, twins.recording(Twin(backwards=True), "torch", steps))
        result = self.whole(left, side)
        assert result.verdict == FAIL
        assert f"4 steps against {steps}" in json.dumps([e.problem for e in result.tensors])

    def test_too_few_steps_on_both_sides_fail(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            del side[1].steps["loss"][-1]
        result = self.whole(*sides)
        assert result.verdict == FAIL
        assert any("recorded 3 of 4 steps" in each.problem for each in result.tensors)

    def test_a_missing_epoch_fails(self, left, right):
        side = copied(right)
        side[1].history["val_loss"].clear()
        assert self.whole(left, side).verdict == FAIL

    def test_a_run_that_ended_early_fails(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            side[1].error = "the loss became nan in epoch 1, step 4 of 4"
        assert self.whole(*sides).verdict == FAIL

    def test_the_same_nan_on_both_sides_fails(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            side[1].steps["loss"][3] = float("nan")
        result = self.whole(*sides)
        assert result.verdict == FAIL
        assert "first beyond at step 4" in result.detail

    @pytest.mark.parametrize("name", ["dense1.bias", "block1.conv.kernel"])
    def test_a_missing_weight_fails(self, left, right, name):
        side = copied(right)
        del side[1].tensors[f"final/{name}"]
        assert f"final {name}: missing on the right" in self.whole(left, side).detail


class TestEveryNumberOfARecording:
    """Faults that leave every loss by step and every weight as they are."""

    def failing(self, left, side, named):
        report = run(left, side)
        result = report.of("trajectory")[0]
        failed = {each.name for each in result.tensors if each.verdict == FAIL}
        assert (report.verdict, result.verdict, failed) == (FAIL, FAIL, named)
        return next(each for each in report.origins if each.where == "training").text

    @pytest.mark.parametrize("metric", ["loss", "accuracy", "val_loss", "val_accuracy"])
    @pytest.mark.parametrize("off", [1.1e-10, 0.0199])
    def test_a_metric_within_2_percent_fails(self, left, right, metric, off):
        side = copied(right)
        side[1].history[metric][-1] = left[1].history[metric][-1] + off
        text = self.failing(left, side, {f"by epoch {metric}"})
        assert text == f"by epoch {metric} is the first number beyond"
        assert only(run(left, side), "outcome").verdict == PASS

    def test_rounding_does_not(self, left, right):
        side = copied(right)
        side[1].history["val_loss"][-1] = left[1].history["val_loss"][-1] + 0.9e-10
        assert run(left, side).verdict == PASS

    def test_early_epochs_count_too(self):
        experiment = dataclasses.replace(SMALL, epochs=3)
        sides = [twins.recording(Twin(experiment, backwards=b), steps=12) for b in (False, True)]
        for side, early in zip(sides, ([0.9, 0.5], [5.0, 7.0]), strict=True):
            for metric, values in side.history.items():
                side.history[metric] = [*early, *values] if metric == "val_loss" else 3 * values
            side.data["splits"]["train"] = {"all": 8}
        self.failing(*sides, {"by epoch val_loss"})

    def test_the_accuracy_of_every_step(self, left, right):
        sides = copied(left), copied(right)
        for side, value in zip(sides, (0.9, 0.5), strict=True):
            side[1].steps["accuracy"] = [value] * 4
        self.failing(*sides, {"by step accuracy"})

    def test_confusion_and_the_area_under_the_curve(self, left, right):
        sides = copied(left), copied(right)
        for side, counts, area in zip(
            sides, ([[5, 0], [1, 6]], [[0, 5], [6, 1]]), (0.9, 0.1), strict=True
        ):
            side[1].evaluation["test"] |= {"confusion": counts, "roc_auc": area}
        self.failing(*sides, {"evaluation test confusion", "evaluation test roc_auc"})

    def test_what_one_side_alone_measured(self, left, right):
        sides = copied(left), copied(right)
        sides[0][1].evaluation["test"]["roc_auc"] = 0.9
        self.failing(*sides, {"evaluation test roc_auc"})

    def test_the_answers(self, left, right):
        sides = copied(left), copied(right)
        for side, value, verdict in zip(sides, (0.5, 0.5 + 0.9e-8), (FAIL, PASS), strict=True):
            side[1].tensors["answers/test"] = np.array([[value, 1.0]])
            assert run(*sides).verdict == verdict  # first where one side alone has answers
        sides[1][1].tensors["answers/test"] = np.array([[0.5 + 1.1e-8, 1.0]])
        self.failing(*sides, {"answers test"})


class TestWhatAPassNeeds:
    def test_declarations_alone_are_none(self, left, right):
        sides = [
            dataclasses.replace(side[0], tensors={}, facts={}, reference=None)
            for side in (left, right)
        ]
        report = run(*sides)
        assert only(report, "trajectory").verdict == ABSTAIN
        assert {each.verdict for each in report.of("structure")} == {PASS}
        assert report.verdict == ABSTAIN

    def test_a_gradient_by_the_images_that_no_layer_alone_decides_is_none(self, left):
        twin = Twin(backwards=True, change=at("block1.conv", "by_input", lambda v: v / 2))
        report = run(left[0], twins.probe(twin, "torch"))
        assert (report.verdict, report.lacking) == (ABSTAIN, ["gradient float64"])


class TestFloat32Training:
    @pytest.fixture(scope="class")
    @staticmethod
    def sides():
        reference = twins.probe(Twin(FLOAT32))
        twin = Twin(FLOAT32, backwards=True)
        return (
            (reference, twins.recording(Twin(FLOAT32))),
            (twins.probe(twin, "torch", reference), twins.recording(twin, "torch")),
        )

    def whole(self, left, right):
        return run(left, right).of("trajectory", "float32")[0]

    def test_alone_is_undecided_however_close(self, sides):
        result = self.whole(*(side[1] for side in sides))
        assert result.verdict == ABSTAIN
        assert "--precision float64" in result.detail

    def test_within_the_floor_of_the_short_training_it_passes(self, sides):
        result = self.whole(*sides)
        assert result.verdict == PASS
        assert "noise floor of the first 3 steps" in "".join(e.reason for e in result.tensors)

    def test_beyond_it_is_undecided_and_never_fails(self, sides):
        left, right = sides[0], copied(sides[1])
        right[1].steps["loss"][3] += 0.3
        result = self.whole(left, right)
        assert result.verdict == ABSTAIN
        assert "--precision float64" in result.detail

    def test_steps_that_grow_longer_after_the_probed_ones_are_undecided(self, sides):
        taken = Counter()

        def longer(name, stage, value):
            if stage != "step":
                return value
            taken[name] += 1
            return value * (1.1 if taken[name] > 4 else 1)

        recordings = [
            twins.recording(Twin(FLOAT32), steps=8),
            twins.recording(Twin(FLOAT32, backwards=True, change=longer), "torch", 8),
        ]
        report = run(*((probe, each) for (probe, _), each in zip(sides, recordings, strict=True)))
        assert (report.verdict, report.lacking) == (ABSTAIN, ["trajectory float32"])

    @pytest.mark.parametrize("value", [0.9, 5.0])
    def test_so_is_a_validation_loss_of_its_own(self, sides, value):
        left, right = sides[0], copied(sides[1])
        right[1].history["val_loss"][-1] = value
        assert self.whole(left, right).verdict == ABSTAIN

    def test_a_missing_step_still_fails(self, sides):
        left, right = sides[0], copied(sides[1])
        right[1].steps["loss"].pop()
        assert self.whole(left, right).verdict == FAIL


class TestOutcome:
    def outcome(self, left, right, **options):
        return only(run(left[1], right[1], **options), "outcome")

    @pytest.mark.parametrize("metric", ["loss", "accuracy", "val_loss", "val_accuracy"])
    def test_the_criterion_decides(self, left, right, metric):
        side = copied(right)
        side[1].history[metric][-1] += 0.0201
        result = self.outcome(left, side)
        assert (result.verdict, result.where) == (FAIL, metric)
        assert self.outcome(left, side, tolerance=0.021).verdict == PASS

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    @pytest.mark.parametrize("metric", ["loss", "accuracy"])
    def test_so_do_the_evaluations(self, left, right, split, metric):
        side = copied(right)
        side[1].evaluation[split][metric] += 0.0201
        result = self.outcome(left, side)
        assert (result.verdict, result.where) == (FAIL, f"{split} {metric}")

    def test_decimals_count_as_they_are_read(self, left, right):
        sides = copied(left), copied(right)
        for side, value in zip(sides, (0.5, 0.52), strict=True):
            side[1].evaluation["test"]["accuracy"] = value
        assert self.outcome(*sides).verdict == PASS

    def test_not_a_number_fails(self, left, right):
        sides = copied(left), copied(right)
        for side in sides:
            side[1].evaluation["test"]["loss"] = float("nan")
        result = self.outcome(*sides)
        assert (result.verdict, result.where) == (FAIL, "test loss")
        assert result.to_dict()["measured"] is None

    def test_an_evaluation_missing_on_one_side_fails_on_both_abstains(self, left, right):
        sides = copied(left), copied(right)
        del sides[1][1].evaluation["test"]
        assert self.outcome(*sides).verdict == FAIL
        del sides[0][1].evaluation["test"]
        result = self.outcome(*sides)
        assert result.verdict == ABSTAIN
        assert "neither side evaluated test" in result.detail


class TestPartialSides:
    def test_probes_alone(self, left, right):
        report = run(left[0], right[0])
        assert report.verdict == PASS
        undecided = {each.level for each in report.levels if each.verdict == ABSTAIN}
        assert undecided == {"outcome"}
        assert "--probe-only" in only(report, "outcome").detail

    def test_recordings_alone(self, left, right):
        report = run(left[1], right[1])
        assert report.verdict == ABSTAIN
        assert report.lacking == [
            f"{level} float64" for level in ("forward", "loss", "gradient", "update")
        ]
        decided = {each.level for each in report.levels if each.verdict == PASS}
        assert decided == {"transfer", "trajectory", "outcome"}
        assert "--no-probe" in only(report, "forward").detail

    def test_a_probe_against_a_recording_decides_nothing(self, left, right):
        report = run(left[0], right[1])
        assert report.verdict == ABSTAIN
        assert all(each.verdict == ABSTAIN and each.detail for each in report.levels)


class TestUnusableSides:
    def broken(self, tmp_path, left):
        for part in left:
            part.write(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            (lambda folder: (folder / "probe.json").unlink(), "unfinished"),
            (lambda folder: (folder / "recording.json").unlink(), "unfinished"),
            (lambda folder: (folder / "probe.safetensors").unlink(), "no complete probe"),
            (lambda folder: (folder / "probe.json").write_text('{"schema": 2}'), "damaged"),
            (lambda folder: (folder / "probe.json").write_text("[]"), "damaged"),
            (lambda folder: (folder / "recording.json").write_text("{"), "no complete recording"),
            (
                lambda folder: (folder / "tensors.safetensors").write_bytes(b"12345678"),
                "no complete recording",
            ),
        ],
    )
    def test_damage_is_an_error_not_a_verdict(self, left, tmp_path, harm, words):
        folder = self.broken(tmp_path, left)
        harm(folder)
        report = run(folder, left)
        assert report.verdict == "error"
        assert words in report.error
        assert [each.level for each in report.levels] == list(NAMES)
        assert {each["verdict"] for each in report.to_list()} == {"error"}

    def test_nothing_there(self, tmp_path, left):
        assert "no folder" in run(tmp_path / "none", left).error
        assert "neither a recording nor a probe" in run(tmp_path, left).error
        assert "neither a recording nor a probe" in run((None, None), left).error

    def test_a_probe_and_a_recording_of_two_arms(self, left, right):
        assert "by keras and a probe" in run((right[0], left[1]), left).error
        other = dataclasses.replace(left[1], experiment=dataclasses.replace(SMALL, seed=9))
        assert "record it again" in run((left[0], other), left).error

    def test_a_tensor_that_is_not_of_its_shape(self, left):
        side = copied(left)
        side[0].tensors["float64/free/loss/loss"] = np.ones(3)
        assert "has shape (3,)" in run(side, left).error

    def test_a_tensor_without_facts(self, left):
        side = copied(left)
        del side[0].facts["float64/free/loss/loss"]
        assert "float64/free/loss/loss" in run(side, left).error


class TestVerdicts:
    @pytest.mark.parametrize(
        ("verdicts", "overall"),
        [
            ((PASS, PASS), PASS),
            ((PASS, ABSTAIN), ABSTAIN),
            ((ABSTAIN, ABSTAIN), ABSTAIN),
            ((), ABSTAIN),
            ((PASS, FAIL), FAIL),
            ((FAIL, ABSTAIN), FAIL),
            ((FAIL, "error"), "error"),
        ],
    )
    @pytest.mark.parametrize("level", NUMERIC)
    def test_overall(self, verdicts, overall, level):
        others = (LevelResult(each, PASS, "float64") for each in NUMERIC if each != level)
        levels = (*others, *(LevelResult(level, each, "float64") for each in verdicts))
        assert LadderReport("a", "b", levels).verdict == overall

    @pytest.mark.parametrize("without", NUMERIC)
    def test_every_level_of_numbers_must_pass_in_float64(self, without):
        levels = [LevelResult("structure", PASS), LevelResult(without, PASS, "float32")]
        levels += [LevelResult(each, PASS, "float64") for each in NUMERIC if each != without]
        report = LadderReport("a", "b", tuple(levels))
        assert (report.verdict, report.lacking) == (ABSTAIN, [f"{without} float64"])

    def test_float32_may_stay_undecided_but_for_what_was_trained_in_it(self):
        levels = [LevelResult(each, PASS, "float64") for each in NUMERIC]
        levels.append(LevelResult("trajectory", ABSTAIN, "float32"))
        assert LadderReport("a", "b", tuple(levels)).verdict == PASS
        levels.append(LevelResult("trajectory", ABSTAIN, "float32", binding=True))
        report = LadderReport("a", "b", tuple(levels))
        assert (report.verdict, report.lacking) == (ABSTAIN, ["trajectory float32"])

    @pytest.mark.parametrize(
        ("tensors", "verdict"),
        [
            ([], ABSTAIN),
            ([(PASS, False)], PASS),
            ([(PASS, False), (ABSTAIN, False)], ABSTAIN),
            ([(PASS, False), (ABSTAIN, True)], PASS),
            ([(ABSTAIN, True)], ABSTAIN),
            ([(PASS, False), (FAIL, True)], FAIL),
            ([(ABSTAIN, False), (FAIL, False)], FAIL),
        ],
    )
    def test_of_a_level(self, tensors, verdict):
        measured = [
            Measurement(f"t{n}", each, "why", optional=optional, elements=1, absolute=0.0)
            for n, (each, optional) in enumerate(tensors)
        ]
        measured = [
            dataclasses.replace(m, left=0.0, right=0.0, relative=0.0, ulps=0) for m in measured
        ]
        assert summarise("forward", "float64", measured).verdict == verdict

    def test_the_worst_is_shown_and_the_first_problem_before_it(self):
        def measurement(name, absolute, problem=""):
            return Measurement(
                name, FAIL, "", problem, False, 1, absolute, 0.0, 1, (0,), 0.0, 0.0, 1.0
            )

        small, large = measurement("small", 2.0), measurement("large", 5.0)
        assert summarise("loss", None, [small, large]).where == "large[0]"
        broken = [small, large, measurement("x", None, "gone"), measurement("y", None, "gone")]
        result = summarise("loss", None, broken)
        assert (result.where.split("[")[0], result.measured) == ("x", None)
        assert result.minimum_tolerance is None


class TestJson:
    KEYS = (
        "level",
        "verdict",
        "precision",
        "measured",
        "tolerance",
        "reason",
        "minimum_tolerance",
        "where",
        "detail",
    )

    def strictly(self, value):
        return json.loads(json.dumps(value, allow_nan=False))

    def reports(self, left, right):
        bad = at("block2.conv", "output", lambda v: v * np.nan)
        yield run(left, right)
        yield run(left, faulty(left, bad))
        yield run(left[0], right[1])
        yield run("nowhere", left)

    def test_every_report_is_strict_json_of_the_promised_keys(self, left, right):
        for report in self.reports(left, right):
            entries = self.strictly(report.to_list())
            assert entries == report.to_list()
            for entry in entries:
                assert tuple(entry) == self.KEYS
            whole = self.strictly(report.to_dict())
            assert whole["ladder"] == entries
            assert whole["verdict"] == report.verdict

    def test_tensors_come_with_all_numbers(self, left, right):
        tensors = self.strictly(run(left, right).to_dict())["tensors"]
        assert len(tensors) > 300
        wanted = {"absolute", "relative", "ulps", "index", "minimum_tolerance", "headroom"}
        assert all(wanted <= each.keys() for each in tensors)

    def test_numpy_numbers_do_not_leak(self, left, right):
        for entry in run(left, right).to_list():
            for value in entry.values():
                assert value is None or type(value) in (str, int, float)


class TestHelpers:
    def test_the_reference_of_a_layer_alone(self, left):
        side = load(left)
        assert reference_of(side, "activation", "dense1") == "activation/dense1"
        assert reference_of(side, "upstream", "dense1") == "upstream/flatten"
        assert reference_of(side, "upstream", "block1.conv") == "gradient/input"
        assert reference_of(side, "gradient", "dense1.bias") == "gradient/dense1.bias"
        assert reference_of(side, "gradient", "other.bias") is None
        assert reference_of(side, "activation", "other") is None

    def test_an_input_read_twice_has_no_reference(self, left):
        layers = list(left[0].layers)
        layers[2] = dataclasses.replace(layers[2], inputs=("block1.conv",))
        side = load(dataclasses.replace(left[0], layers=tuple(layers)))
        assert reference_of(side, "upstream", "block1.relu") is None

    def test_sides_of_any_kind(self, left):
        probe, recording = left
        assert load(probe).label == load(recording).label == "keras-p1"
        assert load((probe, None)).recording is None
        assert load(left).classes == 2
        assert isinstance(load(left).probe, Probe)
        assert isinstance(load(left).recording, Recording)


def test_levels_are_named_in_one_order():
    assert tuple(LEVELS) == NAMES


def test_importing_the_ladder_loads_no_rich():
    code = "import sys, parity.ladder; print([m for m in sys.modules if m.startswith('rich')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
