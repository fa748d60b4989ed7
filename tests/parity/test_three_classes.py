"""A third class folder, from data to report: nothing anywhere counts on two."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from PIL import Image
from rich.console import Console

from parity import experiment as experiments
from parity import published, reproduce
from parity.probe import Probe
from parity.recording import Recording
from parity.report.table import render
from parity.study.arms import published_study
from parity.study.figures import FIGURES
from parity.study.grid import Table
from parity.study.judgements import generalises
from parity.study.tables import study_tables

CLASSES = ["deepfake", "real", "synthetic"]
# By hand: of 35 images 28, 3 and 4; split seed 8 puts every class into every split.
TRAIN = {"deepfake": 7, "real": 10, "synthetic": 11}
TEST = {"deepfake": 1, "real": 1, "synthetic": 1}
VALIDATION = {"deepfake": 1, "real": 1, "synthetic": 2}
OOD = {"deepfake": 4, "real": 4, "synthetic": 4}  # of 5, 4 and 4

SMALLEST = {"image_size": 190, "width": 0.07, "epochs": 2, "batch_size": 14}

workers = pytest.mark.workers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags for a data set of three classes and another one, of coarse noise."""
    root = tmp_path_factory.mktemp("three")
    _draw(root / "faces", seed=1, deepfake=9, real=12, synthetic=14)
    _draw(root / "other", seed=2, deepfake=5, real=4, synthetic=4)
    made = root / "faces" / "synthetic"
    shutil.copy(made / "synthetic_1.png", made / "synthetic_1_copy.png")
    return ["--data", str(root / "faces"), "--ood", str(root / "other")]


def _draw(folder: Path, seed: int, **counts: int) -> None:
    random = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((24, 24), Image.Resampling.NEAREST)
            image.save(folder / name / f"{name}_{number}.png")


@pytest.fixture(scope="module")
def compared(
    folders: list[str],
    command: Callable[..., Finished],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Finished, Path]:
    """One comparison with its ladder, where a study keeps the arms of a variant."""
    out = tmp_path_factory.mktemp("study") / "arms" / "baseline"
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALLEST.items()]
    return command("parity.compare", "--padding", "0", *small, *folders, "--out", out), out


@pytest.fixture(scope="module")
def study(compared: tuple[Finished, Path], folders: list[str]) -> Iterator[Path]:
    """One variant of the study, with two of its figures. Its arms are there already."""
    out = compared[1].parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiments.PROFILES, "quick", {**experiments.PROFILES["quick"], **SMALLEST})
        for letter in set(FIGURES) - {"A", "K"}:
            patch.delitem(FIGURES, letter)
        flags = ["--profile", "quick", "--only", "baseline", "--out", str(out)]
        assert reproduce.main([*flags, *folders]) == 0
        yield out


@workers
def test_the_comparison_passes_and_its_ladder_proves_it(compared: tuple[Finished, Path]) -> None:
    done, out = compared
    assert done.code == 0, done.err
    said = " ".join(done.out.split())  # however long the folder's name is
    assert "1 duplicate left out" in said and "proves the port in float64" in said
    (pair,) = json.loads((out / "report.json").read_text())["pairs"]
    assert "fail" not in {level["verdict"] for level in pair["ladder"]}
    passed = {lv["level"] for lv in pair["ladder"] if lv["verdict"] == "pass"}
    assert {"structure", "transfer", "forward", "loss", "gradient", "update"} <= passed


@workers
def test_the_report_counts_three_classes(compared: tuple[Finished, Path]) -> None:
    done, out = compared
    data = json.loads((out / "report.json").read_text())["data"]
    assert data["classes"] == CLASSES
    assert data["splits"] == {"train": TRAIN, "test": TEST, "validation": VALIDATION, "ood": OOD}
    shown = [line.split() for line in done.out.splitlines()]
    assert ["split", *CLASSES, "all"] in shown
    assert ["train", "7", "10", "11", "28"] in shown and ["ood", "4", "4", "4", "12"] in shown
    assert {"curves.png", "curves.svg"} <= {path.name for path in out.iterdir()}


@workers
def test_every_evaluation_tells_three_classes_apart(compared: tuple[Finished, Path]) -> None:
    report = json.loads((compared[1] / "report.json").read_text())
    for arm in report["arms"]:
        for split, counts in report["data"]["splits"].items():
            confusion = np.array(arm[split]["confusion"])
            assert confusion.shape == (3, 3)
            assert confusion.sum(axis=1).tolist() == list(counts.values())  # rows: true classes
            assert arm[split]["accuracy"] == np.trace(confusion) / confusion.sum()
            assert 0 <= arm[split]["roc_auc"] <= 1
        assert arm["history"]["loss"][0] == pytest.approx(np.log(3), abs=0.2)  # it knows nothing


@workers
@pytest.mark.parametrize("arm", ["keras-p0", "torch-p0"])
def test_the_network_ends_in_three_units(compared: tuple[Finished, Path], arm: str) -> None:
    folder = compared[1] / arm
    recording, probe = Recording.read(folder), Probe.read(folder)
    assert recording.tensors["final/dense2.kernel"].shape == (36, 3)
    assert recording.tensors["final/dense2.bias"].shape == (3,)
    logits = next(layer for layer in probe.layers if layer.name == "dense2")
    assert logits.output_shape == (3,)
    # One image of each class: every unit of the output has a gradient of its own sign.
    assert probe.facts["float64/free/activation/dense2"].shape == (3, 3)
    assert probe.facts["float64/transfer/dense2.kernel"].shape == (36, 3)
    assert np.all(np.diag(probe.tensors["float64/free/upstream/dense2"]) < 0)


@workers
def test_the_study_s_first_tables_have_the_published_classes_first(study: Path) -> None:
    first, second = (_table(study, number) for number in (1, 2))
    names = ["Real", "Fake", "Deepfake", "Synthetic"]
    for table in (first, second):
        assert list(table.columns) == [f"{n} {unit}" for n in names for unit in "#%"] + ["Total #"]
        for row in table.rows:
            assert table.cell(row.label, "Fake #").text("ours") == "-"
            for name in ("Deepfake", "Synthetic"):
                for unit in "#%":
                    assert table.cell(row.label, f"{name} {unit}").text("published") == "-"
    assert first.cell("Original", "Synthetic #").ours == 15
    assert first.cell("Duplicates", "Synthetic %").ours == 100
    assert first.cell("Training", "Deepfake %").text("ours") == "25.00"
    assert first.cell("Training", "Total #").ours == 28
    assert second.cell("Original", "Deepfake #").ours == 5
    assert second.cell("Test", "Real %").text("ours") == "33.33"
    assert not first.exact


@workers
def test_chance_is_a_third_in_what_the_study_says(study: Path, tmp_path: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    judged = [
        each
        for each in summary["judgements"]
        if each["rule"] == "generalises" and each["variant"] == "baseline"
    ]
    assert len(judged) == 2
    for each in judged:
        assert each["ours"]["numbers"]["chance"] == pytest.approx(1 / 3)
        assert each["ours"]["numbers"]["images"] == 12
        assert "over 33.3 %" in each["ours"]["because"]
        assert "over 50 %" in each["published"]["because"]
    (twins,) = (
        each
        for each in summary["judgements"]
        if each["rule"] == "replicates" and each["variant"] == "baseline"
    )
    assert twins["ours"]["verdict"] == "yes"

    readme = tmp_path / "README.md"
    readme.write_text(f"# A\n\n{reproduce.README_HEADINGS['aligned']}\n")
    assert reproduce.main(["--readme", str(readme), "--out", str(study)]) == 0
    text = readme.read_text()
    assert "50 % with the report's two classes (section 3.4), 1/k with k classes" in text
    said = "real and fake apart (guessing reaches 50 %), ours deepfake, real and synthetic apart"
    assert text.count(f"{said} (guessing reaches 33.3 %)") == 1
    for letter in ("A", "K"):
        assert (study / "figures" / f"{letter}.png").stat().st_size > 10_000


def test_as_many_right_as_by_guessing_is_not_over_chance() -> None:
    theirs: Any = published_study()
    arm = theirs["baseline"]["keras"]
    arm.data["splits"]["ood"] = dict.fromkeys(CLASSES, 100)
    for correct, words in ((100, "33.3 %, not over 33.3 %"), (101, "33.7 %, over 33.3 %")):
        arm.evaluation["ood"] = {"accuracy": correct / 300}
        assert words in generalises(theirs, "baseline", "keras").because


def test_class_folders_in_capitals_are_the_published_classes() -> None:
    """Data sets often come as `Real/` and `Fake/`."""
    theirs: Any = published_study()
    plain = study_tables(theirs)
    for arms in theirs.values():
        for arm in arms.values():
            for split, counts in arm.data["splits"].items():
                named = {name.capitalize(): count for name, count in counts.items()}
                arm.data["splits"][split] = named
    assert study_tables(theirs) == plain and plain[0].exact
    assert list(published.table_1()["original"]) == ["real", "fake"]  # what it was compared with


@pytest.mark.parametrize("width", [80, 100])
def test_many_classes_are_rows_of_the_report(report: dict[str, Any], width: int) -> None:
    names = [f"generator_{number}" for number in range(1, 21)]
    counts = {name: 1000 + place for place, name in enumerate(names)}
    report["data"]["splits"] = dict.fromkeys(("train", "test", "validation", "ood"), counts)
    console = Console(file=io.StringIO(), width=width)
    render(report, console)
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["class", "train", "test", "validation", "ood"] in shown
    assert ["generator_20", *["1019"] * 4] in shown and ["all", *["20190"] * 4] in shown


@pytest.fixture
def report() -> dict[str, Any]:
    """As little as can be rendered: no arm finished."""
    from parity.report import build_report

    found = build_report([], {**experiments.Experiment.of().to_dict(), "padding": "both"})
    found["data"] = {"source": "faces", "digest": "ab", "splits": {}}
    return found


def _table(folder: Path, number: int) -> Table:
    return Table.from_dict(json.loads((folder / f"table{number}.json").read_text()))
