"""Tables 1 to 5 against the published numbers, which are their own oracle."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity import published
from parity.experiment import Experiment
from parity.recording import Recording
from parity.study.arms import published_study
from parity.study.grid import Cell, Row, Table, to_csv, to_json, to_markdown
from parity.study.tables import study_tables
from shared_data.errors import InputError

TABLES = range(1, 6)


@pytest.fixture(scope="module")
def reproduced():
    """The tables of a study that got exactly what was published."""
    return study_tables(published_study())


def recording(splits, **data):
    """A real recording that finished as the published Keras baseline did."""
    return Recording(
        framework="keras",
        experiment=Experiment.of("baseline", "paper"),
        backend="tensorflow",
        parameters=3_208_770,
        data={"digest": "ab12", "duplicates": [], "splits": splits, "ood": None, **data},
        environment={},
        history=published.history("baseline", "keras"),
        evaluation={"test": {"accuracy": 0.5}, "ood": None},
    )


def splits_of(train, test, validation, **more):
    return {"train": train, "test": test, "validation": validation, **more}


def test_the_published_numbers_differ_from_themselves_by_nothing(reproduced):
    for table in reproduced:
        compared = [c for row in table.rows for c in row.cells if c.ours is not None]
        assert all(cell.difference == 0 for cell in compared)
    assert [table.number for table in reproduced] == list(TABLES)
    assert reproduced[0].exact


@pytest.mark.parametrize(
    ("number", "row", "column", "printed"),
    [
        (3, "Validation Accuracy (%)", "Reference Model*", "95.21"),
        (3, "Training Loss", "Reference Model*", "0.000005"),
        (3, "Training Loss", "PyTorch Conversion", "0.003613"),
        (4, "Validation Loss", "10xLR", "0.1320"),
        (4, "Validation Accuracy (%)", "Image Transforms", "99.22"),
        (5, "Validation Loss", "Image Transforms", "0.1730"),
        (5, "Training Accuracy (%)", "100xLR", "98.06"),
        (1, "Training", "Real %", "45.59"),
        (1, "Original", "Total #", "1289"),
        (2, "Duplicates", "Real %", "66.67"),
        (2, "Original", "Fake #", "5492"),
    ],
)
def test_what_the_report_prints_stands_in_the_tables(reproduced, number, row, column, printed):
    assert reproduced[number - 1].cell(row, column).text("published") == printed


def test_what_the_report_misprints_is_noted_and_nothing_else(reproduced):
    notes = [note for table in reproduced[3:] for note in table.notes]
    assert len(notes) == 3
    for part in ("Keras 10xLR, Training", "prints 53.71", "prints 99.13"):
        assert sum(part in note for note in notes) == 1


def test_a_difference_is_ours_less_the_published_one(reproduced):
    study = published_study()
    worse = published.history("lr_10x", "torch")
    worse["val_accuracy"][-1] -= 0.0078
    study["lr_10x"]["torch"] = dataclasses.replace(study["lr_10x"]["torch"], history=worse)
    changed = study_tables(study)[4]
    cell = changed.cell("Validation Accuracy (%)", "10xLR")
    assert cell.difference == pytest.approx(-0.78)
    assert cell.text("difference") == "-0.78"
    assert changed.cell("Validation Loss", "10xLR").text("difference") == "0"
    assert not changed.exact


@pytest.mark.parametrize("study", [{}, {"baseline": {}}])
def test_nothing_run_is_shown_as_nothing(study):
    for table in study_tables(study):
        assert all(cell.ours is None for row in table.rows for cell in row.cells)
        assert not table.exact
        assert "| ours | - |" in to_markdown(table)


def test_an_arm_that_did_not_finish_has_no_final_numbers():
    cut = recording(splits_of({"real": 3}, {"real": 1}, {"real": 1}))
    cut.error = "the loss became nan in epoch 3, step 4"
    cells = study_tables({"baseline": {"keras": cut}})[2].rows[0].cells
    assert [cell.ours for cell in cells] == [None, None, None]


def test_a_number_that_is_not_finite_is_none():
    diverged = recording(splits_of({"real": 3}, {"real": 1}, {"real": 1}))
    diverged.history["val_loss"][-1] = float("inf")
    table = study_tables({"baseline": {"keras": diverged}})[2]
    assert table.cell("Validation Loss", "Keras Reference").ours is None


def test_the_real_study_s_data_gives_table_1_exactly_and_its_own_table_2():
    ours = {row: dict(sorted(c.items())) for row, c in published.table_1().items()}
    splits = splits_of(ours["train"], ours["test"], ours["validation"])
    arm = recording(
        {**splits, "ood": {"fake": 36, "real": 36}},
        ood={
            "images": {"fake": 51, "real": 38},
            "duplicates": [
                ["real/real_10011_copy.jpg", "real/real_10011.jpg"],
                ["real/real_10044_copy.jpg", "real/real_10044.jpg"],
                ["fake/fake_1005_copy.jpg", "fake/fake_1005.jpg"],
            ],
        },
    )
    first, second, *_ = study_tables({"baseline": {"keras": arm}})
    assert first.exact
    assert second.cell("Duplicates", "Real #").ours == 2
    assert second.cell("Duplicates", "Fake #").ours == 1
    assert second.cell("Test", "Total #").difference == 72 - 258
    assert second.cell("Original", "Total #").ours == 89
    assert "258 images of this data set, we on 72" in second.notes[0]


def test_one_image_in_another_split_is_not_exact():
    rows = published.table_1()
    rows["train"]["real"] -= 1
    rows["test"]["real"] += 1
    arm = recording(splits_of(rows["train"], rows["test"], rows["validation"]))
    table = study_tables({"baseline": {"keras": arm}})[0]
    assert not table.exact
    assert table.cell("Test", "Real #").difference == 1
    assert table.cell("Original", "Real #").difference == 0


def test_three_classes_have_columns_of_their_own():
    each = {"deepfake": 2, "real": 3, "synthetic": 5}
    arm = recording(
        splits_of(each, each, each), duplicates=[["synthetic/a b.jpg", "synthetic/a.jpg"]]
    )
    table = study_tables({"baseline": {"keras": arm}})[0]
    names = ["Real", "Fake", "Deepfake", "Synthetic"]
    assert list(table.columns) == [f"{n} {u}" for n in names for u in "#%"] + ["Total #"]
    assert table.cell("Training", "Synthetic %").ours == 50
    assert table.cell("Original", "Synthetic #").ours == 16
    assert table.cell("Training", "Fake #").ours is None
    assert table.cell("Training", "Deepfake #").published is None
    assert not table.exact


def test_arms_of_different_data_are_refused():
    splits = splits_of({"real": 3}, {"real": 1}, {"real": 1})
    other = recording(splits, digest="cd34")
    with pytest.raises(InputError, match="not trained on the same data"):
        study_tables({"baseline": {"keras": recording(splits), "torch": other}})


def test_a_row_has_a_cell_for_every_column():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(9, "t", ("a", "b"), (Row("r", (Cell(1, 1),)),))


def test_a_cell_that_is_not_there_is_named(reproduced):
    with pytest.raises(KeyError, match="'Nothing'"):
        reproduced[0].cell("Nothing", "Real #")


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 9999)
labels = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)


@st.composite
def tables(draw):
    columns = draw(st.lists(labels, min_size=1, max_size=4, unique=True))
    cell = st.builds(Cell, numbers, numbers, st.integers(0, 6))
    line = st.lists(cell, min_size=len(columns), max_size=len(columns)).map(tuple)
    rows = draw(st.lists(st.builds(Row, labels, line), max_size=4))
    return Table(1, "title", tuple(columns), tuple(rows), tuple(draw(st.lists(labels, max_size=2))))


@given(tables())
def test_json_holds_all_of_a_table(table):
    assert Table.from_dict(json.loads(to_json(table))) == table


@given(tables())
def test_csv_holds_every_number(table):
    head, *lines = csv.reader(io.StringIO(to_csv(table)))
    assert head == ["row", "column", "ours", "published", "difference"]
    cells = [
        (row.label, *each)
        for row in table.rows
        for each in zip(table.columns, row.cells, strict=True)
    ]
    assert len(lines) == len(cells)
    for (label, column, ours, *_), (row, name, cell) in zip(lines, cells, strict=True):
        assert (label, column) == (row, name)
        assert (float(ours) if ours else None) == cell.ours


@given(tables())
def test_markdown_has_three_lines_per_row_and_equal_columns(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 3 * len(table.rows)
    bars = {line.replace("\\|", "").count("|") for line in lines}
    assert bars == {len(table.columns) + 3}
