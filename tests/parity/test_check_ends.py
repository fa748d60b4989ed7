"""Which input and which output is which, and how its axes run: declared conventions alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.check import ends
from parity.check.graph import Graph, Node, Parameter

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape)


def graph(framework: str, *outputs: str) -> Graph:
    """With names of outputs alone."""
    nodes = tuple(Node(f"{framework}{at}", "dense", (), ()) for at in range(len(outputs)))
    names = tuple(node.name for node in nodes)
    return Graph(framework, nodes, (), (), names, {"output_names": list(outputs)})


def paired(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    moved: frozenset[int] = frozenset(),
) -> ends.Outputs:
    sides = graph("keras", *names[0]), graph("torch", *names[1])
    return ends.pair_outputs(*sides, ours, theirs, moved)


def places(found: ends.Outputs) -> list[tuple[int, int]]:
    return [(each.keras, each.torch) for each in found.given]


# Inputs ------------------------------------------------------------------------------------------


def ways(
    value: np.ndarray,
    indices: set[str] = frozenset(),  # type: ignore[assignment]
) -> list[np.ndarray]:
    """What PyTorch is given, in the order of trying."""
    return [way[0].to_torch(value) for way in ends.ways_in({"input:0": value}, indices, [], [])]


def test_images_are_tried_with_their_channels_first_and_then_as_they_are() -> None:
    images = numbers(2, 5, 6, 3)
    first, second = ways(images)
    assert (first == np.moveaxis(images, -1, 1)).all() and (second == images).all()


def test_steps_and_channels_are_tried_as_they_are_and_then_turned() -> None:
    steps = numbers(2, 7, 3)
    first, second = ways(steps)
    assert (first == steps).all() and (second == np.swapaxes(steps, 1, 2)).all()


def test_axes_of_one_may_be_left_out() -> None:
    assert [each.shape for each in ways(numbers(2, 7, 1))] == [(2, 7, 1), (2, 7), (2, 1, 7)]


def test_an_axis_of_one_sample_stays() -> None:
    assert {each.shape[0] for each in ways(numbers(1, 7, 1))} == {1}


def test_whole_numbers_given_as_floats_are_indices_only_where_a_table_is_read() -> None:
    words = np.array([[0.0, 3.0], [2.0, 1.0]])
    assert [each.dtype.kind for each in ways(words, {"input:0"})] == ["f", "i"]
    assert [each.dtype.kind for each in ways(words)] == ["f"]


def test_integers_are_int64_but_pixels_stay_bytes() -> None:
    assert ways(np.zeros((2, 3), np.int32))[0].dtype == np.int64
    assert ways(np.zeros((2, 4, 4, 3), np.uint8))[0].dtype == np.uint8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_no_way_is_tried_twice_and_none_permutes_within_an_axis(shape: list[int]) -> None:
    value = np.arange(np.prod(shape)).reshape(shape) + 0.5
    tried = list(ends.ways_in({"input:0": value}, set(), [], []))
    assert len(tried) == len(set(tried))
    for (taken,) in tried:
        given_ = taken.to_torch(value)
        assert len(given_) == len(value)
        for sample, own in zip(given_, value, strict=True):
            rest = [n for n in own.shape if n != 1]
            turned = [rest, [rest[-1], *rest[:-1]] if rest and own.shape[-1] != 1 else rest]
            assert [n for n in sample.shape if n != 1] in turned
            assert sorted(sample.ravel()) == sorted(own.ravel())


NAMED = [
    (["x", "mask"], ["mask", "x"], ["x", "mask"]),
    (
        ["token_ids", "padding_mask"],
        ["attention_mask", "input_ids"],
        ["input_ids", "attention_mask"],
    ),
    (["x", "mask"], ["y", "mask"], ["", ""]),  # one alone is not known: by place
    (["token_ids", "ids"], ["input_ids", "other"], ["", ""]),  # both would be the same
    ([], ["a", "b"], ["", ""]),
]


@pytest.mark.parametrize(("keras", "torch", "called"), NAMED)
def test_inputs_are_given_by_name_where_all_are_called_alike(
    keras: list[str], torch: list[str], called: list[str]
) -> None:
    inputs = {"input:0": numbers(2, 3), "input:1": numbers(2, 3)}
    way = next(ends.ways_in(inputs, set(), keras, torch))
    assert [each.called for each in way] == called
    moved = ends.moved(inputs, way)
    assert all((moved[at] == value).all() for at, value in enumerate(inputs.values()))


def test_what_was_settled_is_said() -> None:
    taken = ends.Taken(0, "input_ids", (0, 2, 1), squeezed=True, whole=True)
    said = taken.text(0, "tokens")
    assert said.startswith("input 0 (tokens): PyTorch's input_ids, with axes [0, 2, 1]")
    assert said.endswith("without its axes of one, as int64")
    assert ends.Taken(0, "x").text(0, "x") == ""


def test_indices_are_told_by_the_table_that_reads_them() -> None:
    tables = (
        Parameter("large/table", "large", "table", (9, 2), "float32"),
        Parameter("small/table", "small", "table", (5, 2), "float32"),
    )
    nodes = (
        Node("turned", "reshape", ("input:1",), (3,)),
        Node("large", "embedding", ("turned",), (3, 2), "large"),
        Node("small", "embedding", ("turned",), (3, 2), "small"),
        Node("dense", "dense", ("input:0",), (3,)),
    )
    found = ends.indices(Graph("keras", nodes, tables, ((3,), (3,)), ("dense",)))
    assert found == {"input:1": 5}  # what both tables have


# Outputs -----------------------------------------------------------------------------------------


def test_outputs_are_paired_by_name() -> None:
    a, b = numbers(4, 3), numbers(4, 3)
    found = paired([a, b], [b, a], (["a", "b"], ["b", "a"]))
    assert places(found) == [(0, 1), (1, 0)] and not found.missing and not found.spare


def test_a_name_decides_even_where_the_numbers_speak_against_it() -> None:
    a, b = numbers(4, 3), numbers(4, 3)
    assert places(paired([a, b], [a, b], (["a", "b"], ["b", "a"]))) == [(0, 1), (1, 0)]


def test_without_names_the_order_is_part_of_the_function() -> None:
    a, b = numbers(4, 3), numbers(4, 3)
    assert places(paired([a, b], [b, a])) == [(0, 0), (1, 1)]


def test_names_that_say_nothing_of_each_other_leave_it_to_the_numbers() -> None:
    a, b = numbers(4, 3), numbers(4, 3)
    names = (["one", "two"], ["p", "q", "r"])
    found = paired([a, b], [b, numbers(4, 3), a], names)
    assert places(found) == [(0, 2), (1, 0)] and found.spare == ("q",)


def test_the_only_output_is_found_among_several() -> None:
    a = numbers(4, 3)
    found = paired([a], [numbers(4, 3), a])
    assert places(found) == [(0, 1)] and found.spare == ("output 0",)


def test_if_none_agrees_the_one_of_its_shape_is_compared() -> None:
    assert places(paired([numbers(4, 3)], [numbers(4, 5), numbers(4, 3)])) == [(0, 1)]


def test_an_output_that_is_missing_is_named() -> None:
    a = numbers(4, 3)
    assert paired([a, a], [a]).missing == ("output 1",)


def test_maps_have_their_channels_first_in_pytorch() -> None:
    ours = numbers(2, 5, 6, 3)
    (found,) = paired([ours], [np.moveaxis(ours, -1, 1)]).given
    assert found.axes == (0, 3, 1, 2)
    assert (found.to_keras(np.moveaxis(ours, -1, 1), ours.shape) == ours).all()


def test_rows_and_columns_of_a_map_are_never_exchanged() -> None:
    ours = numbers(2, 4, 4, 4)
    for axes in ((0, 2, 1, 3), (0, 3, 2, 1), (0, 2, 3, 1)):
        theirs = ours.transpose(axes)
        (found,) = paired([ours], [theirs]).given
        assert not ends.close(ours, found.to_keras(theirs, ours.shape))


@pytest.mark.parametrize("moved", [frozenset(), frozenset({4})])
def test_a_transposed_square_is_a_doubt(moved: frozenset[int]) -> None:
    """Images that come in with their channels first say nothing of a matrix that goes out."""
    ours = numbers(2, 5, 5)
    found = paired([ours], [np.swapaxes(ours, 1, 2)], moved=moved)
    assert len(found.doubts) == 1 and "--input-shape" in found.doubts[0]
    assert not paired([ours], [ours], moved=moved).doubts


def test_a_square_is_none_where_steps_come_in_with_their_channels_first() -> None:
    ours = numbers(2, 5, 5)
    found = paired([ours], [np.swapaxes(ours, 1, 2)], moved=frozenset({3}))
    assert found.given[0].axes == (0, 2, 1) and not found.doubts


def test_samples_and_features_are_never_exchanged() -> None:
    ours = numbers(5, 5)
    (found,) = paired([ours], [ours.T]).given
    assert found.axes is None and not ends.close(ours, found.to_keras(ours.T, ours.shape))


def test_an_axis_of_one_on_one_side_alone_is_no_difference() -> None:
    ours = numbers(4, 1)
    found = paired([ours], [ours[:, 0]])
    assert (found.given[0].to_keras(ours[:, 0], (4, 1)) == ours).all() and not found.doubts


def test_another_number_of_samples_is_no_axis_of_one() -> None:
    found = ends.Given(0, 0)
    assert found.to_keras(numbers(3), (1, 3)).shape == (3,)
    assert found.to_keras(numbers(3, 1), (1, 3)).shape == (3, 1)


def test_outputs_by_name_are_brought_into_keras_order() -> None:
    theirs = ends.by_name(graph("keras", "a", "b"), graph("torch", "b", "a"))
    assert theirs.outputs == ("torch1", "torch0")
    unnamed = graph("torch", "p", "q")
    assert ends.by_name(graph("keras", "a", "b"), unnamed) is unnamed
