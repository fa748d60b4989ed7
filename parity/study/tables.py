"""Tables 1 to 5 of the report, each number beside the published one.

"Published" is what the notebooks put out, with more digits than the report prints; where the
report prints something else, a note says so. Accuracies are in percent here, as in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from parity import published
from parity.study.arms import (
    BASELINE,
    BASELINES,
    FRAMEWORKS,
    MODIFICATIONS,
    Arm,
    Study,
    arm_of,
    measure,
    printed,
    published_study,
    title,
)
from parity.study.grid import Cell, Row, Table
from shared_data.errors import InputError

Counts = Mapping[str, int]  # class -> images

SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
MAIN_ROWS = {"duplicates": "Duplicates", **SPLITS, "original": "Original"}
OOD_ROWS = {"duplicates": "Duplicates", "test": "Test", "original": "Original"}
REFERENCE_MODEL = "Reference Model*"
REFERENCE_NOTE = (
    "\\* Salman and Abu-Naser (2022), as the report quotes them; their data is another."
)


@dataclass(frozen=True)
class Measure:
    """A row of Tables 3 to 5: `name` as `arms.measure` takes it, decimals here and in print."""

    label: str
    name: str
    digits: int
    printed_digits: int

    def scaled(self, value: float | None) -> float | None:
        """In the table's unit: percent for accuracies, nats for losses."""
        return value if value is None or "loss" in self.name else 100 * value


MEASURES = (
    Measure("Training Accuracy (%)", "accuracy", 2, 2),
    Measure("Validation Accuracy (%)", "val_accuracy", 2, 2),
    Measure("Training Loss", "loss", 6, 6),
    Measure("Validation Loss", "val_loss", 4, 4),
    Measure("Testing Accuracy (%)", "test", 2, 0),
    Measure("Testing Accuracy (%), 50-50 Dataset", "ood", 2, 0),
)


def study_tables(study: Study) -> list[Table]:
    """Tables 1 to 5, in order. What an arm did not leave is None, shown as `-`.

    Raises `InputError` where arms were trained on different data.
    """
    data = _common_data(study)
    notes = _other_classes(data) if data else []
    return [
        _table_1(data),
        _table_2(data),
        _results(3, "The Reference Model and the baseline models", study, tuple(FRAMEWORKS), notes),
        _results(4, "The Keras models", study, ("keras",), notes, tuple(MODIFICATIONS)),
        _results(5, "The PyTorch models", study, ("torch",), notes, tuple(MODIFICATIONS)),
    ]


def _common_data(study: Study) -> Mapping[str, Any] | None:
    """What the arms say of their data, which has to be the same; None where there is no arm."""
    found: list[tuple[str, Arm]] = [
        (title(variant, framework), arm)
        for variant, arms in study.items()
        for framework, arm in arms.items()
        if arm.data.get("splits")
    ]
    for name, arm in found[1:]:
        first, other = found[0][1].data, arm.data
        if any(first.get(key) != other.get(key) for key in ("digest", "splits")):
            raise InputError(
                f"{found[0][0]} and {name} were not trained on the same data (its digest or its "
                "splits differ): the study's tables need arms of one data set. Run one of them "
                "again with the data of the other."
            )
    return found[0][1].data if found else None


def _table_1(data: Mapping[str, Any] | None) -> Table:
    ours = _main_counts(data) if data else {}
    return _counts(1, "Images of the main data set", MAIN_ROWS, ours, published.table_1())


def _table_2(data: Mapping[str, Any] | None) -> Table:
    ours = _ood_counts(data) if data else {}
    theirs = printed()["table_2"]
    had, have = (sum(counts.get("test", {}).values()) for counts in (theirs, ours))
    notes = [f"The report tests on {had} images of this data set, we on {have}."]
    return _counts(
        2,
        "Images of the out-of-distribution data set",
        OOD_ROWS,
        ours,
        theirs,
        notes if have not in (0, had) else (),
    )


def _main_counts(data: Mapping[str, Any]) -> dict[str, Counts]:
    """Images per class in each row of Table 1."""
    splits = {split: data["splits"][split] for split in SPLITS}
    duplicates = _per_class(data["duplicates"], splits["train"])
    original = {
        label: count + sum(counts[label] for counts in splits.values())
        for label, count in duplicates.items()
    }
    return {"duplicates": duplicates, **splits, "original": original}


def _ood_counts(data: Mapping[str, Any]) -> dict[str, Counts]:
    """Images per class in each row of Table 2."""
    test, described = data["splits"].get("ood"), data.get("ood")
    if not test or not described:
        return {}
    return {
        "duplicates": _per_class(described["duplicates"], test),
        "test": test,
        "original": described["images"],
    }


def _per_class(duplicates: Sequence[Sequence[str]], classes: Counts) -> dict[str, int]:
    """How many files of each class were left out: `real/a_copy.jpg` is of the class `real`."""
    found = Counter(PurePosixPath(left_out).parts[0] for left_out, _ in duplicates)
    return {label: found[label] for label in classes}


def _as_published(counts: Counts, known: Counts) -> Counts:
    """Counts under the published names where only the case is another: `Real` is `real`."""
    lower = {name: name.lower() for name in counts}
    return {
        lower[name] if lower[name] in known and lower[name] not in counts else name: count
        for name, count in counts.items()
    }


def _other_classes(data: Mapping[str, Any]) -> list[str]:
    """What to know of final numbers that are not about the published classes."""
    theirs = published.table_1()["original"]
    ours = _as_published(data["splits"]["train"], theirs)
    if set(ours) == set(theirs):
        return []
    return [
        f"The published models tell {_told_apart(theirs)}, ours {_told_apart(ours)}; "
        "50-50 stands for as many images of each class."
    ]


def _told_apart(classes: Counts) -> str:
    *others, last = classes
    names = f"{', '.join(others)} and {last} apart" if others else f"{last} alone"
    return f"{names} (guessing reaches {100 / len(classes):.3g} %)"


def _counts(
    number: int,
    heading: str,
    rows: Mapping[str, str],
    ours: Mapping[str, Counts],
    theirs: Mapping[str, Counts],
    notes: Sequence[str] = (),
) -> Table:
    """Images and their share per class, for any classes: the report's two first, in its order."""
    ours = {row: _as_published(counts, theirs["original"]) for row, counts in ours.items()}
    classes = dict.fromkeys([*theirs["original"], *ours.get("test", ())])
    columns = [f"{name.title()} {unit}" for name in classes for unit in ("#", "%")]
    lines = [
        Row(label, _count_cells(ours.get(row), theirs[row], list(classes)))
        for row, label in rows.items()
    ]
    return Table(number, heading, (*columns, "Total #"), tuple(lines), tuple(notes))


def _count_cells(ours: Counts | None, theirs: Counts, classes: Sequence[str]) -> tuple[Cell, ...]:
    cells = []
    for name in classes:
        cells.append(Cell(None if ours is None else ours.get(name), theirs.get(name)))
        cells.append(Cell(_share(ours, name), _share(theirs, name), 2))
    total = None if ours is None else sum(ours.values())
    return (*cells, Cell(total, sum(theirs.values())))


def _share(counts: Counts | None, name: str) -> float | None:
    if counts is None or name not in counts:
        return None
    return 100 * counts[name] / (sum(counts.values()) or 1)


def _results(
    number: int,
    heading: str,
    study: Study,
    frameworks: tuple[str, ...],
    common_notes: Sequence[str],
    modifications: tuple[str, ...] = (),
) -> Table:
    """Tables 3 to 5: final numbers of the baselines and of their modifications."""
    theirs = published_study()
    models = {BASELINES[framework]: (BASELINE, framework) for framework in frameworks}
    models |= {MODIFICATIONS[each]: (each, frameworks[0]) for each in modifications}
    with_reference = not modifications
    rows = []
    for each in MEASURES:
        cells = [_reference_cell(each)] if with_reference else []
        for model in models.values():
            ours, other = (measure(arm_of(side, *model), each.name) for side in (study, theirs))
            cells.append(Cell(each.scaled(ours), each.scaled(other), each.digits))
        rows.append(Row(each.label, tuple(cells)))
    notes = [*([REFERENCE_NOTE] if with_reference else []), *common_notes]
    notes += [note for model in models.values() for note in _misprints(*model)]
    columns = ((REFERENCE_MODEL,) if with_reference else ()) + tuple(models)
    return Table(number, heading, columns, tuple(rows), tuple(notes))


def _reference_cell(each: Measure) -> Cell:
    text = printed()["reference_model"].get(each.name)
    return Cell(None, None if text is None else float(text), each.digits)


def _misprints(variant: str, framework: str) -> list[str]:
    """Where the report prints another number than its notebook put out."""
    notes = []
    arm = published_study()[variant][framework]
    for each in MEASURES:
        value = each.scaled(measure(arm, each.name))
        text = printed()["models"][variant][framework][each.name]
        if f"{value:.{each.printed_digits}f}" != f"{float(text):.{each.printed_digits}f}":
            notes.append(
                f"{title(variant, framework)}, {each.label}: the report prints {text}, its "
                f"notebook put out {value:.{each.digits}f}, which stands here."
            )
    return notes
