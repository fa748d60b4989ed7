"""What each batch of the series holds, and that nothing else stands in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.check.batches import Arrays, Drawing
from parity.check.graph import Graph, Node, Parameter


def graph(*nodes: Node, rows: int = 0, names: tuple[str, ...] = (), **semantics: Any) -> Graph:
    """Whose input 0 is looked up in a table of so many rows, if any."""
    tables = (Parameter("table/table", "table", "table", (rows, 2), "float32"),) if rows else ()
    if rows:
        nodes = (Node("table", "embedding", ("input:0",), (2,), "table"), *nodes)
    return Graph("keras", nodes, tables, ((),) * 2, (), {"input_names": list(names), **semantics})


def drawn(graph: Graph, *inputs: np.ndarray, given: bool = False, seed: int = 0) -> Drawing:
    return Drawing(graph, {f"input:{at}": v for at, v in enumerate(inputs)}, seed, given)


def series(drawing: Drawing) -> dict[str, Arrays]:
    return {each.name: each.values for each in drawing.series()}


PLAIN = np.zeros((4, 6, 3))
WORDS = np.zeros((4, 7), np.int32)


def test_numbers_are_drawn_at_every_scale_and_batch_size() -> None:
    drawing = drawn(graph(), PLAIN)
    assert drawing.first()["input:0"].shape == PLAIN.shape
    assert drawing.first()["input:0"].std() == pytest.approx(1, abs=0.3)
    found = {name: values["input:0"] for name, values in series(drawing).items()}
    assert [len(v) for v in found.values()] == [1, 2, 5, 3, 2, 4]
    assert all(v.shape[1:] == PLAIN.shape[1:] for v in found.values())
    assert found["one sample, small numbers"].std() == pytest.approx(1e-3, rel=0.5)
    assert found["large numbers"].std() == pytest.approx(1e3, rel=0.5)
    assert (found["one number throughout"] == 0.5).all()
    repeated = found["zeros and repeated samples"]
    assert (repeated[0] == repeated[1]).all() and not repeated[2].any() and repeated[3].any()


def test_no_two_batches_hold_the_same_numbers() -> None:
    drawing = drawn(graph(), PLAIN)
    batches = [drawing.first(), *series(drawing).values()]
    scaled = [each["input:0"][0] / np.abs(each["input:0"][0]).max() for each in batches]
    assert all((a != b).any() for at, a in enumerate(scaled) for b in scaled[:at])


def test_what_is_degenerate_is_not_trained_on() -> None:
    alone = [each.name for each in drawn(graph(), PLAIN).series() if each.inference_only]
    assert alone == ["one number throughout", "zeros and repeated samples"]


@pytest.mark.parametrize(
    "settings", [{"max": 5e4}, {"bounds": [-5e4, 2.0]}, {"own": {"limit": 5e4}}]
)
def test_large_numbers_pass_every_constant_of_the_graph(settings: dict[str, Any]) -> None:
    found = series(drawn(graph(Node("clip", "clip", ("input:0",), (3,), "", settings)), PLAIN))
    assert np.abs(found["large numbers"]["input:0"]).max() > 5e4


def test_an_infinite_constant_is_passed_by_nothing() -> None:
    wild = Node("clip", "clip", ("input:0",), (3,), "", {"max": float("inf"), "min": float("nan")})
    assert np.isfinite(series(drawn(graph(wild), PLAIN))["large numbers"]["input:0"]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_indices_are_in_the_table_and_reach_its_ends(
    rows: int, steps: int, masked: bool, seed: int
) -> None:
    masking = [Node("masking", "other:Masking", ("table",), (2,))] if masked else []
    drawing = drawn(graph(*masking, rows=rows), np.zeros((4, steps), np.int32), seed=seed)
    found = series(drawing)
    for values in [drawing.first(), *found.values()]:
        value = values["input:0"]
        assert value.dtype == np.int32 and value.min() >= 0 and value.max() < rows
    hit = set(found["every row of small tables"]["input:0"].ravel().tolist())
    wanted = set(range(1 if masked and rows > 1 else 0, rows))  # 0 is padding there
    assert max(wanted) in hit and min(wanted) in hit
    assert 4 * steps < rows or wanted <= hit


def test_indices_given_as_floats_stay_floats_and_are_not_scaled() -> None:
    found = series(drawn(graph(rows=5), np.zeros((4, 7), np.float32)))
    assert "large numbers" not in found
    for values in found.values():
        value = values["input:0"]
        assert value.dtype == np.float32 and (value == np.rint(value)).all() and value.max() < 5


NAMES = ("tokens", "padding_mask")


def masked(mask: np.ndarray, **more: Any) -> Drawing:
    return drawn(graph(rows=9, names=NAMES), WORDS, mask, **more)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.float32])
def test_a_mask_is_of_ones_but_where_sequences_end(dtype: type) -> None:
    drawing = masked(np.zeros((4, 7), dtype))
    assert "padding_mask is taken for a mask" in drawing.said
    assert "tokens is taken for indices below 9" in drawing.said
    found = series(drawing)
    padded = found.pop("padded at the ends")
    for values in [drawing.first(), *found.values()]:
        assert (values["input:1"] == 1).all()
    words, mask = padded["input:0"], padded["input:1"].astype(bool)
    assert padded["input:1"].dtype == dtype
    assert (mask == (words != 0)).all()  # the same steps, and 0 is padding alone
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # at the ends
    lengths = mask.sum(1)
    assert lengths.max() == 7 and lengths.min() == 1 and len(set(lengths)) == 4


def test_sequences_that_keras_masks_itself_are_padded_too() -> None:
    node = Node("table", "embedding", ("input:0",), (7, 2), "table", {"mask_zero": True})
    table = Parameter("table/table", "table", "table", (9, 2), "float32")
    found = series(drawn(Graph("keras", (node,), (table,), ((7,),), ()), WORDS))
    for name, values in found.items():
        assert (values["input:0"] == 0).any() == (name == "padded at the ends"), name


def test_steps_of_features_are_padded_whole() -> None:
    """For a Masking layer, which looks for steps that are zero throughout."""
    found = series(drawn(graph(Node("m", "other:Masking", ("input:0",), (6, 3))), PLAIN))
    value = found["padded at the ends"]["input:0"]
    lengths = (value != 0).any(2).sum(1)
    assert lengths.tolist() == [6, 3, 1, 5]
    assert (found["zeros and repeated samples"]["input:0"] != 0).any((1, 2)).all()


def test_token_types_are_small_numbers() -> None:
    drawing = drawn(graph(rows=9, names=("tokens", "segment_ids")), WORDS, WORDS)
    assert "segment_ids is taken for small whole numbers" in drawing.said
    every = [each["input:1"] for each in (drawing.first(), *series(drawing).values())]
    assert {n for each in every for n in each.ravel().tolist()} == {0, 1}


def test_bytes_are_bytes() -> None:
    drawing = drawn(graph(), np.zeros((4, 5, 5, 3), np.uint8))
    first = drawing.first()["input:0"]
    assert first.dtype == np.uint8 and first.max() > 200
    assert not drawing.said


def test_a_size_that_is_left_open_is_tried_smaller_and_larger_in_all_inputs() -> None:
    open_ = [[True, False], [True]]
    drawing = drawn(graph(open=open_), PLAIN, np.zeros((4, 6)))
    sizes = [
        (values["input:0"].shape[1:], values["input:1"].shape[1:])
        for name, values in series(drawing).items()
        if name.startswith("another size")
    ]
    assert sizes == [((n, 3), (n,)) for n in (3, 13, 18)]


def test_the_users_batch_stays_as_it_is_and_is_varied() -> None:
    own = np.random.default_rng(3).uniform(10, 11, (6, 3))
    mask = np.array([[1, 0]] * 6)
    drawing = drawn(graph(open=[[True], [True]]), own, mask, given=True)
    assert drawing.first()["input:0"] is own
    found = series(drawing)
    assert not any(name.startswith("another size") for name in found)
    for name in ("two samples", "an odd number of samples"):
        value = found[name]["input:0"]
        assert all((own == sample).all(1).any() for sample in value)
    large = found["large numbers"]["input:0"]
    assert all(np.isclose(own, sample / 1e3, rtol=1e-12).all(1).any() for sample in large)
    for values in found.values():
        assert (values["input:1"] == [1, 0]).all()
    assert not drawing.said


def test_the_same_seed_gives_the_same_batches_and_another_others() -> None:
    one, same, other = (series(masked(WORDS, seed=seed)) for seed in (1, 1, 2))
    for name, values in one.items():
        assert all((value == same[name][key]).all() for key, value in values.items())
    assert any((one[n]["input:0"] != other[n]["input:0"]).any() for n in one)
