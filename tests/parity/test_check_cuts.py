"""Tensors that hold the same numbers are found by these alone, whatever gave them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.check.cuts import arranged, cut_points, parted, starts
from parity.check.graph import Graph, Node
from parity.check.trace import Trace

RANDOM = np.random.default_rng(0)


def trace(framework: str, precision: str = "float64", **nodes: np.ndarray) -> Trace:
    return Trace(framework, precision, {f"forward/{name}": v for name, v in nodes.items()})


def found(ours: np.ndarray, theirs: np.ndarray, precision: str = "float64") -> bool:
    sides = trace("keras", precision, a=ours), trace("torch", precision, b=theirs)
    return cut_points(*sides, "forward") == {"a": ("b",)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_permutation_and_a_reshape_hide_nothing(shape: list[int], random: object) -> None:
    ours = np.random.default_rng(len(shape)).standard_normal((2, *shape))
    axes = list(range(ours.ndim))
    random.shuffle(axes)  # type: ignore[attr-defined]
    theirs = ours.transpose(axes).reshape(2, -1)
    assert found(ours, theirs)
    order = arranged(ours, theirs, "float64")
    assert order is not None
    assert (ours.transpose(order).reshape(-1) == theirs.reshape(-1)).all()


def test_rounding_is_no_difference_and_a_fault_is_one() -> None:
    ours = RANDOM.standard_normal((4, 6))
    assert found(ours, ours * (1 + 1e-14))
    assert not found(ours, ours * (1 + 1e-5)) and found(ours, ours * (1 + 1e-5), "float32")
    one = ours.copy()
    one[2, 3] += 1e-3  # one element of many, which moves no moment by much
    assert not found(ours, one)
    assert not found(ours, -ours) and not found(ours, 2 * ours) and not found(ours, ours + 1)


def test_the_same_moments_are_not_the_same_numbers() -> None:
    ours = np.array([[-1.0, -0.5, 0.5, 1.0, 0.0, 0.0]])
    theirs = np.array([[-1.0, 1.0, 0.35, -0.35, 0.35, -0.35]])
    theirs[0, 2:] *= np.sqrt(0.5 / (4 * 0.35**2))  # the same extremes, mean and mean square
    assert np.square(ours).sum() == pytest.approx(np.square(theirs).sum())
    assert not found(ours, theirs)


@pytest.mark.parametrize(
    "value", [np.zeros((4, 3)), np.full((4, 3), 2.5), np.array([1.0]), np.arange(12).reshape(4, 3)]
)
def test_one_number_throughout_says_nothing_and_whole_numbers_neither(value: np.ndarray) -> None:
    assert not found(value, value)


def test_masks_of_minus_infinity_are_taken_as_they_stand() -> None:
    ours = RANDOM.standard_normal((4, 3))
    ours[0, 0] = -np.inf
    assert found(ours, ours.copy())


def test_all_that_hold_the_numbers_are_named() -> None:
    value = RANDOM.standard_normal((4, 3))
    theirs = trace("torch", view=value.reshape(12), same=value, other=value + 1)
    assert cut_points(trace("keras", x=value), theirs, "forward") == {"x": ("view", "same")}


def test_no_order_of_axes_arranges_other_numbers() -> None:
    value = RANDOM.standard_normal((2, 3, 4))
    flipped = value[:, ::-1]
    assert arranged(value, flipped, "float64") is None
    assert arranged(value, value[:, :2], "float64") is None
    assert arranged(value, value.astype(int), "float64") is None


def test_a_difference_starts_where_nothing_before_it_differs() -> None:
    """A decomposition that meets the other side again behind it is no difference."""
    nodes = (
        Node("stem", "dense", ("input:0",), (3,)),
        Node("inner", "sigmoid", ("stem",), (3,)),
        Node("swish", "mul", ("stem", "inner"), (3,)),
        Node("left", "dense", ("swish",), (3,)),
        Node("right", "dense", ("swish",), (3,)),
        Node("sum", "add", ("left", "right"), (3,)),
    )
    graph = Graph("keras", nodes, (), ((3,),), ("sum",))
    names = [node.name for node in nodes]
    apart = parted(graph, ["stem", "swish", "right"], names)
    assert apart == ["left", "sum"]
    assert starts(graph, apart) == ["left"]
    assert parted(graph, names, names) == [] and parted(graph, [], ["sum"]) == ["sum"]
