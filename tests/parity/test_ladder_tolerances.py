"""Where tolerances come from: counts of roundings, Adam's slope, the noise floor, the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ladder_twins as twins
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.ladder.allowance import Allowance
from parity.ladder.bounds import Bounds
from parity.ladder.floors import RUNS, Floors
from parity.ladder.magnitudes import kernel_of
from parity.ladder.rounding import LEAST, Roundings
from parity.ladder.sides import load
from parity.ladder.tolerances import EPS, FLOOR_FACTOR, TABLE, adam_slope, reason
from parity.probe import INPUT, Layer

ROOT = Path(__file__).parents[2]
ADAM = twins.Twin().adam


@pytest.fixture(scope="module")
def pair():
    left = twins.probe(twins.Twin())
    return left, twins.probe(twins.Twin(backwards=True), "torch", left)


@pytest.fixture(scope="module")
def allowance(pair):
    return Allowance(load(pair[0]), load(pair[1]))


def copied(probe, **changes):
    """A probe whose tensors can be changed without changing the original."""
    return dataclasses.replace(
        probe, tensors=dict(probe.tensors), facts=dict(probe.facts), **changes
    )


class TestRoundings:
    layers = (
        Layer(
            "conv", "conv", (INPUT,), (8, 8, 5), {"conv.kernel": (3, 3, 4, 5), "conv.bias": (5,)}
        ),
        Layer("relu", "relu", ("conv",), (8, 8, 5)),
        Layer("pool", "pool", ("relu",), (4, 4, 5), {}, {"pool": "max", "size": [2, 2]}),
        Layer("flatten", "flatten", ("pool",), (80,)),
        Layer("dense", "dense", ("flatten",), (3,), {"dense.kernel": (80, 3), "dense.bias": (3,)}),
    )
    counts = Roundings(layers, images=7)

    def test_forward_adds_up_over_the_layers(self):
        conv, dense = LEAST, 80 + 1  # 3 * 3 * 4 + 1 terms count as 64
        assert self.counts.forward["conv"] == self.counts.forward["flatten"] == conv
        assert self.counts.forward["dense"] == conv + dense

    def test_backward_adds_up_from_the_loss(self):
        loss = self.counts.loss
        assert loss == self.counts.forward["dense"] + 3 + 7 + LEAST
        assert self.counts.upstream["dense"] == loss
        assert self.counts.upstream["conv"] == loss + LEAST  # dense: 3 terms
        assert self.counts.input() == loss + LEAST + LEAST

    def test_a_parameter_sums_over_images_and_positions(self):
        assert self.counts.parameter_alone("conv.bias") == 7 * 8 * 8 + 1
        assert self.counts.parameter("conv.kernel") == self.counts.upstream["conv"] + 449
        forward = self.counts.forward["flatten"]
        assert self.counts.parameter("dense.kernel") == forward + self.counts.loss + LEAST

    def test_what_only_selects_must_be_exact(self):
        assert [self.counts.forward_alone(name) for name in ("relu", "pool", "flatten")] == [0] * 3
        average = Layer("a", "pool", (INPUT,), (4, 4, 5), {}, {"pool": "average", "size": [9, 9]})
        assert Roundings([average], 1).forward_alone("a") == 81
        assert Roundings([Layer("x", "swish", (INPUT,), (4,))], 1).forward_alone("x") == LEAST

    def test_large_logits_weigh_on_the_loss(self):
        heavy = Roundings(self.layers, 7, {"dense": 100.0})
        assert heavy.loss > 50 * self.counts.loss
        assert heavy.forward == self.counts.forward

    def test_selecting_the_small_leaves_the_error_as_it_is(self):
        """conv's largest values are negative: what ReLU keeps is a tenth of them."""
        scales = {"conv": 1.0, "relu": 0.1, "pool": 0.1, "flatten": 0.1, "dense": 1.0}
        picky = Roundings(self.layers, 7, scales)
        assert picky.forward["relu"] == picky.forward["flatten"] == 10 * LEAST
        assert picky.forward["dense"] == 10 * LEAST + 81
        gradients = {"dense": 1.0, "flatten": 2.0, "pool": 2.0, "relu": 2.0, "conv": 0.5}
        masked = Roundings(self.layers, 7, None, gradients)
        assert masked.upstream["conv"] == 4 * masked.upstream["relu"]
        assert masked.upstream["relu"] == self.counts.upstream["relu"]

    @pytest.mark.parametrize("scales", [{"conv": 1.0, "relu": 0.0}, {"conv": 0.0, "relu": 1.0}])
    def test_zero_scales_change_nothing(self, scales):
        assert Roundings(self.layers, 7, scales).forward == self.counts.forward

    @given(st.integers(1, 3000), st.integers(0, 2**32))
    def test_the_bound_holds_for_sums_in_two_orders(self, terms, seed):
        """For one float32 sum of random signs, against its own scale."""
        a, b = np.random.default_rng(seed).normal(size=(2, 64, terms)).astype("f4")
        products = a * b
        forwards = np.cumsum(products, axis=1, dtype="f4")[:, -1]
        backwards = np.cumsum(products[:, ::-1], axis=1, dtype="f4")[:, -1]
        apart = np.abs(forwards.astype(float) - backwards).max()
        assert apart <= max(LEAST, terms) * EPS["float32"] * np.abs(forwards).max()


class TestMagnitudes:
    """Against the sums themselves, with every term made positive."""

    @pytest.fixture(scope="class")
    @staticmethod
    def bounds(pair):
        return Bounds(load(pair[0]), "float64")

    def absolute(self, pair, kind, name):
        return np.abs(pair[0].tensors[f"float64/free/{kind}/{name}"])

    def test_of_a_gradient_by_a_bias_is_that_of_what_was_summed(self, pair, bounds):
        for name in load(pair[0]).parameters():
            if name.endswith(".bias"):
                layer = name.removesuffix(".bias")
                summed = self.absolute(pair, "upstream", layer)
                terms = summed.size // summed.shape[-1]
                # n x rms is at least the mean of the sums of absolute values.
                bound = np.sqrt(terms) * bounds.of("gradient", name)[1]
                assert bound >= summed.reshape(terms, -1).sum(axis=0).mean() * (1 - 1e-12)

    def test_covers_what_cancels(self, pair):
        """Two images that pull in opposite directions: the sum is nothing, its terms are not."""
        left = copied(pair[0])
        name = "float64/free/upstream/dense2"
        pull = np.abs(left.tensors[name][:1])
        left.tensors[name] = np.concatenate([pull, -pull])
        left.tensors["float64/free/gradient/dense2.bias"] = np.zeros(2)
        allowed = Bounds(load(left), "float64").alone("gradient", "dense2.bias")
        assert allowed.value >= EPS["float64"] * pull.max()

    def test_is_never_below_the_scale(self, pair, bounds):
        for kind in ("activation", "upstream"):
            for name in twins.Twin().names:
                assert bounds.of(kind, name)[1] >= self.absolute(pair, kind, name).max()
        for name in load(pair[0]).parameters():
            for kind in ("gradient", "moment1", "moment2"):
                largest = self.absolute(pair, kind, name).max()
                assert bounds.of(kind, name)[1] >= largest * (1 - 1e-12)

    def test_the_kernel_is_the_largest_parameter(self, pair):
        names = {layer.name: kernel_of(layer) for layer in pair[0].layers}
        assert names["block1.conv"] == "block1.conv.kernel"
        assert names["flatten"] == ""


class TestAdam:
    def step(self, g, adam):
        uncorrected = adam["epsilon_position"] == "beside the uncorrected root"
        epsilon = adam["epsilon"] / (np.sqrt(1 - adam["beta_2"]) if uncorrected else 1)
        return adam["learning_rate"] * g / (np.abs(g) + epsilon)

    @pytest.mark.parametrize(
        "position", ["beside the uncorrected root", "beside the corrected root"]
    )
    @given(g=st.floats(-1e-3, 1e-3), change=st.floats(1e-12, 1e-6))
    def test_no_step_is_steeper(self, position, g, change):
        adam = {**ADAM, "epsilon_position": position}
        moved = abs(self.step(g + change, adam) - self.step(g, adam))
        assert moved <= adam_slope(adam) * change * (1 + 1e-6) + 1e-16

    def test_the_slope_is_reached_at_zero(self):
        assert self.step(1e-12, ADAM) / 1e-12 == pytest.approx(adam_slope(ADAM), rel=1e-5)

    @pytest.mark.parametrize(
        "optimizer", [{}, {**ADAM, "kind": "sgd"}, {**ADAM, "epsilon": 0.0}, {"kind": "adam"}]
    )
    def test_nothing_is_made_up_for_others(self, optimizer):
        assert adam_slope(optimizer) is None

    def test_an_update_without_a_slope_abstains(self, pair):
        left = copied(pair[0], semantics={**pair[0].semantics, "optimizer": {"kind": "sgd"}})
        allowed = Allowance(load(left), load(pair[1])).of("float64", "update", "dense1.bias")
        assert allowed.value is None


class TestFloor:
    def floors(self, left, right):
        return Floors(load(left), load(right), Bounds(load(left), "float32"))

    def test_is_the_largest_difference_of_a_side_against_itself(self, pair):
        name = "activation/block2.conv"
        largest = 0.0
        for probe in pair:
            side = load(probe)
            for run in RUNS:
                free, other = (side.tensor(f"float32/{r}/{name}") for r in ("free", run))
                kept = free.values.reshape(-1)
                kept = kept if other.places is None else kept[other.places]
                apart = np.abs(kept.astype(float) - other.values.reshape(-1))
                largest = max(largest, apart.max())
        assert largest > 0
        assert self.floors(*pair).of("activation", "block2.conv").value == largest

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("side", [0, 1])
    def test_a_missing_run_leaves_none(self, pair, run, side):
        probes = [copied(probe) for probe in pair]
        del probes[side].tensors[f"float32/{run}/loss/loss"]
        del probes[side].facts[f"float32/{run}/loss/loss"]
        floor = self.floors(*probes).of("loss", "loss")
        assert floor.value is None
        assert f"{run} of {load(pair[side]).label}" in floor.lacking

    def test_a_run_that_is_not_finite_measures_nothing(self, pair):
        left = copied(pair[0])
        left.tensors["float32/input/loss/loss"] = np.array(np.nan, "f4")
        assert self.floors(left, pair[1]).of("loss", "loss").value is None

    def test_is_never_below_one_unit_in_the_last_place_of_the_scale(self, pair):
        left, right = (copied(probe) for probe in pair)
        for probe in (left, right):
            for run in RUNS:
                probe.tensors[f"float32/{run}/loss/loss"] = probe.tensors["float32/free/loss/loss"]
        scale = float(left.tensors["float32/free/loss/loss"])
        assert self.floors(left, right).of("loss", "loss").value == EPS["float32"] * scale

    def test_of_losses_grows_with_the_steps(self, pair):
        left = copied(pair[0])
        losses = left.tensors["float32/free/trajectory/loss"]
        left.tensors["float32/input/trajectory/loss"] = losses + np.array([0.0, 0.25, 0.0])
        value = self.floors(left, pair[1]).of("trajectory", "loss").value
        assert value[0] < 1e-5
        assert value[1] == value[2] == pytest.approx(0.25)

    def test_of_trainings_of_different_length_is_none(self, pair):
        left = copied(pair[0])
        for run in ("free", *RUNS):
            name = f"float32/{run}/trajectory/loss"
            left.tensors[name] = left.tensors[name][:2]
            left.facts[name] = dataclasses.replace(left.facts[name], shape=(2,))
        assert self.floors(left, pair[1]).of("trajectory", "loss").value is None

    def test_parameters_share_the_largest(self, pair):
        floors = self.floors(*pair)
        each = [floors.of("update", name).value for name in load(pair[0]).parameters()]
        assert floors.shared("update", False).value == max(each)
        one = copied(pair[0])
        del one.tensors["float32/again/update/dense2.bias"]
        del one.facts["float32/again/update/dense2.bias"]
        assert self.floors(one, pair[1]).shared("update", False).value is None


class TestAllowance:
    def test_float32_is_the_factor_times_the_floor(self, pair, allowance):
        floors = Floors(load(pair[0]), load(pair[1]), Bounds(load(pair[0]), "float32"))
        allowed = allowance.of("float32", "activation", "dense1")
        assert allowed.value == FLOOR_FACTOR * floors.of("activation", "dense1").value
        assert "noise floor" in allowed.reason

    def test_float64_grows_with_the_depth(self, allowance):
        values = [allowance.of("float64", "activation", f"block{n}.conv") for n in range(1, 7)]
        counts = [float(v.reason.split()[1].replace(",", "")) for v in values]
        assert counts == sorted(set(counts))

    def test_relu_pool_and_flatten_alone_are_exact(self, allowance):
        for name in ("block1.relu", "block1.pool", "flatten"):
            for kind in ("activation", "upstream"):
                assert allowance.alone("float64", kind, name).value == 0
        assert allowance.alone("float64", "activation", "dense1").value > 0

    def test_what_the_left_does_not_know_has_no_tolerance(self, allowance):
        for kind, name in [
            ("activation", "block9.conv"),
            ("activation", INPUT),
            ("gradient", "x.kernel"),
            ("loss", "other"),
            ("update", INPUT),
        ]:
            assert allowance.of("float64", kind, name).value is None

    def test_the_gradient_by_the_logits_does_not_jump_the_others_do(self, allowance):
        assert not allowance.of("float64", "upstream", "dense2").undecided_to
        assert allowance.of("float64", "upstream", "dense1").undecided_to
        assert allowance.of("float64", "gradient", INPUT).undecided_to
        assert not allowance.of("float64", "gradient", "block1.conv.kernel").undecided_to

    def test_the_gradient_by_the_images_is_required_unless_layers_ran_alone(self, pair, allowance):
        assert allowance.of("float64", "gradient", INPUT).optional
        free = Allowance(load(pair[0]), load(pair[0]))
        assert not free.of("float64", "gradient", INPUT).optional
        assert "--reference" in free.of("float64", "gradient", INPUT).reason

    def test_a_floor_as_large_as_a_step_decides_nothing(self, pair):
        left, right = (copied(probe) for probe in pair)
        name = "float32/input/update/dense2.bias"
        left.tensors[name] = left.tensors[name] + np.float32(ADAM["learning_rate"])
        allowed = Allowance(load(left), load(right)).of("float32", "update", "dense1.kernel")
        assert allowed.value >= allowed.limit


class TestTable:
    def test_every_row_stands_in_the_documentation_with_its_reason(self):
        page = " ".join((ROOT / "docs" / "ladder.md").read_text().split())
        for name, row in TABLE.items():
            assert f"| {name} | {row.judges} | {row.size} | {row.reason} |" in page

    def test_reasons_name_their_row(self):
        assert reason("bits") == "bits: 0, bit for bit"
        with pytest.raises(KeyError):
            reason("no such row")
