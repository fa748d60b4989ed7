"""The criterion against independent oracles, at its boundary, and where nothing may pass."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from parity.criterion import METRICS, TOLERANCE, evaluate, judge, overall, pairs, verdict


def history(value=0.5, epochs=3, **last):
    """All metrics `value` in every epoch; `last` replaces the final value of a metric."""
    values = {metric: [value] * epochs for metric in METRICS}
    for metric, final in last.items():
        values[metric] = [*values[metric][:-1], final]
    return values


class TestEvaluate:
    @pytest.mark.parametrize("classes", [2, 3, 5])
    def test_agrees_with_scikit_learn(self, classes):
        random = np.random.default_rng(classes)
        logits = random.normal(scale=3, size=(200, classes)).astype(np.float32)
        labels = random.integers(0, classes, size=200)
        exponents = np.exp(logits.astype(np.float64))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        scores = probabilities[:, 1] if classes == 2 else probabilities

        result = evaluate(logits, labels)

        assert result["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
        assert result["confusion"] == confusion_matrix(labels, logits.argmax(1)).tolist()
        assert result["accuracy"] == np.trace(result["confusion"]) / 200
        assert result["roc_auc"] == roc_auc_score(labels, scores, multi_class="ovr")

    def test_rows_of_the_confusion_are_true_classes(self):
        result = evaluate(np.array([[0.0, 1.0]] * 3), np.array([0, 0, 1]))
        assert result["confusion"] == [[0, 2], [0, 1]]

    def test_large_logits_do_not_overflow(self):
        result = evaluate(np.array([[1e5, 0.0], [0.0, 1e5]], dtype=np.float32), np.array([1, 1]))
        assert result["loss"] == pytest.approx(5e4)

    def test_float32_logits_are_summed_in_float64(self):
        logits = np.tile(np.array([[0.1, 0.0]], dtype=np.float32), (100_000, 1))
        expected = math.log1p(math.exp(-float(np.float32(0.1))))
        labels = np.zeros(100_000, dtype=np.int64)
        assert evaluate(logits, labels)["loss"] == pytest.approx(expected, rel=1e-13)

    def test_an_absent_class_leaves_no_roc_auc(self):
        assert evaluate(np.eye(2), np.array([1, 1]))["roc_auc"] is None

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_logits_that_are_not_finite_are_reported_not_raised(self, bad):
        result = evaluate(np.array([[bad, 0.0], [0.0, 1.0]]), np.array([0, 1]))
        assert not math.isfinite(result["loss"])
        assert result["roc_auc"] is None

    def test_a_true_class_ruled_out_costs_an_infinite_loss(self):
        assert evaluate(np.array([[-math.inf, 0.0]]), np.array([0]))["loss"] == math.inf

    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (np.zeros((3, 2)), np.zeros(2, dtype=int), r"\(3, 2\) and \(2,\)"),
            (np.zeros(3), np.zeros(3, dtype=int), "expected logits"),
            (np.zeros((3, 2)), np.zeros((3, 1), dtype=int), "expected logits"),
            (np.zeros((0, 2)), np.zeros(0, dtype=int), "nothing to evaluate"),
            (np.zeros((2, 0)), np.zeros(2, dtype=int), "nothing to evaluate"),
            (np.zeros((1, 2)), np.array([2]), "from 0 to 1"),
            (np.zeros((1, 2)), np.array([-1]), "from 0 to 1"),
            (np.zeros((1, 2)), np.array([0.0]), "integers"),
        ],
    )
    def test_what_cannot_be_evaluated_raises(self, logits, labels, message):
        with pytest.raises(ValueError, match=message):
            evaluate(logits, labels)


class TestJudge:
    def test_only_the_last_epoch_counts(self):
        left = history(loss=0.25)
        right = {metric: [9.0, 9.0, values[-1]] for metric, values in left.items()}
        assert verdict(judge(left, right)) == "pass"

    @pytest.mark.parametrize("metric", METRICS)
    def test_each_metric_alone_can_fail(self, metric):
        criterion = judge(history(), history(**{metric: 0.53}))
        assert verdict(criterion) == "fail"
        assert [name for name in METRICS if not criterion[name]["within"]] == [metric]
        assert criterion[metric]["left"] == 0.5
        assert criterion[metric]["right"] == 0.53
        assert criterion[metric]["difference"] == 0.03

    @pytest.mark.parametrize("left", [0.5, 0.1, 0.98, 1.0, 0.0, 0.29])
    def test_exactly_the_tolerance_is_within_however_floats_round(self, left):
        right = round(left + 0.02, 10)
        assert verdict(judge(history(loss=left), history(loss=right))) == "pass"
        beyond = round(left + 0.0200001, 10)
        assert verdict(judge(history(loss=left), history(loss=beyond))) == "fail"

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
    def test_not_finite_is_never_within_not_even_against_itself(self, bad):
        for left, right in [(bad, 0.5), (0.5, bad), (bad, bad)]:
            criterion = judge(history(loss=left), history(loss=right), tolerance=1e9)
            assert criterion["loss"]["within"] is False
            assert verdict(criterion) == "fail"

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (history(epochs=0), history(epochs=0)),
            ({}, {}),
            (history(epochs=2), history(epochs=3)),
            (history(), {k: v for k, v in history().items() if k != "val_loss"}),
            ({**history(), "val_loss": [0.5]}, {**history(), "val_loss": [0.5]}),
        ],
        ids=["empty", "missing", "other epochs", "missing metric", "shorter metric"],
    )
    def test_nothing_to_compare_raises(self, left, right):
        with pytest.raises(ValueError, match="same number of epochs"):
            judge(left, right)

    @pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
    def test_a_tolerance_that_is_none_raises(self, tolerance):
        with pytest.raises(ValueError, match="tolerance"):
            judge(history(), history(), tolerance)

    def test_tolerance_zero_is_equality(self):
        assert verdict(judge(history(), history(), 0)) == "pass"
        assert verdict(judge(history(), history(loss=np.nextafter(0.5, 1)), 0)) == "fail"

    numbers = st.floats(-1e6, 1e6)
    anything = st.floats()  # NaN and infinities too
    tolerances = st.floats(0, 1e3)

    @given(anything, anything, tolerances)
    def test_symmetric(self, a, b, tolerance):
        forth = judge(history(loss=a), history(loss=b), tolerance)["loss"]
        back = judge(history(loss=b), history(loss=a), tolerance)["loss"]
        assert forth["within"] == back["within"]
        assert np.array_equal(forth["difference"], back["difference"], equal_nan=True)

    @given(numbers, numbers, tolerances, tolerances)
    def test_what_a_tolerance_allows_a_larger_one_allows(self, a, b, one, other):
        small, large = sorted([one, other])
        strict = judge(history(loss=a), history(loss=b), small)["loss"]
        loose = judge(history(loss=a), history(loss=b), large)["loss"]
        assert loose["within"] or not strict["within"]

    @given(numbers, numbers)
    def test_the_reported_difference_is_the_smallest_tolerance_that_passes(self, a, b):
        difference = judge(history(loss=a), history(loss=b))["loss"]["difference"]
        assert difference == pytest.approx(abs(a - b), abs=1e-9)
        above = float(np.nextafter(difference, math.inf))
        assert judge(history(loss=a), history(loss=b), above)["loss"]["within"]


class TestVerdict:
    def test_nothing_judged_fails(self):
        assert verdict({}) == "fail"

    def test_a_metric_left_out_fails(self):
        criterion = judge(history(), history())
        del criterion["val_accuracy"]
        assert verdict(criterion) == "fail"


class TestPairs:
    def test_all_four_arms(self):
        found = pairs(["torch-p1", "torch-p0", "keras-p1", "keras-p0"])
        assert [tuple(pair.values()) for pair in found] == [
            ("keras-p0", "torch-p0", "port"),
            ("keras-p1", "torch-p1", "port"),
            ("keras-p0", "torch-p1", "as_published"),
        ]

    def test_one_padding_is_one_pair(self):
        found = pairs(["keras-p1", "torch-p1"])
        assert found == [{"left": "keras-p1", "right": "torch-p1", "role": "port"}]

    def test_one_framework_is_none(self):
        assert pairs(["keras-p0", "keras-p1"]) == []

    def test_every_backend_of_keras_is_compared_with_pytorch_and_with_the_others(self):
        found = pairs(["keras-jax-p0", "keras-p0", "keras-torch-p0", "torch-p0"])
        assert [tuple(pair.values()) for pair in found] == [
            ("keras-p0", "torch-p0", "port"),
            ("keras-jax-p0", "torch-p0", "port"),
            ("keras-torch-p0", "torch-p0", "port"),
            ("keras-p0", "keras-jax-p0", "backend"),
            ("keras-p0", "keras-torch-p0", "backend"),
            ("keras-jax-p0", "keras-torch-p0", "backend"),
        ]

    def test_frameworks_are_compared_on_one_device_and_devices_in_one_framework(self):
        found = pairs(["keras-cuda-p1", "keras-p1", "torch-cuda-p1", "torch-p1"])
        assert [tuple(pair.values()) for pair in found] == [
            ("keras-p1", "torch-p1", "port"),
            ("keras-cuda-p1", "torch-cuda-p1", "port"),
            ("keras-p1", "keras-cuda-p1", "device"),
            ("torch-p1", "torch-cuda-p1", "device"),
        ]

    @given(st.data())
    def test_a_pair_is_named_once_and_never_with_itself(self, data):
        names = [
            f"{side}{device}-p{padding}"
            for side in ("keras", "keras-jax", "keras-torch", "torch")
            for device in ("", "-cuda")
            for padding in (0, 1)
        ]
        found = pairs(data.draw(st.permutations(names)))
        sides = [frozenset((pair["left"], pair["right"])) for pair in found]
        assert len(set(sides)) == len(sides) and all(len(side) == 2 for side in sides)
        assert found == pairs(names)

    def test_what_is_no_arm_is_refused(self):
        with pytest.raises(ValueError, match="no name of an arm"):
            pairs(["keras-p0", "jax-p0"])


class TestOverall:
    @pytest.mark.parametrize(
        ("port", "expected"),
        [
            ([], "error"),
            (["pass"], "pass"),
            (["pass", "pass"], "pass"),
            (["pass", "fail"], "fail"),
            (["fail", "error"], "error"),
            (["pass", "error"], "error"),
            (["pass", "abstain"], "abstain"),
            (["fail", "abstain"], "fail"),
            (["error", "abstain"], "error"),
            (["pass", "unheard of"], "error"),
        ],
    )
    @pytest.mark.parametrize("shown", ["pass", "fail", "error"])
    def test_port_pairs_decide_and_published_ones_never(self, port, expected, shown):
        judged = [{"role": "port", "verdict": each} for each in port]
        assert overall([*judged, {"role": "as_published", "verdict": shown}]) == expected


def test_the_tolerance_is_the_study_s():
    assert TOLERANCE == 0.02


def test_importing_loads_no_scikit_learn():
    code = "import sys, parity.criterion; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
