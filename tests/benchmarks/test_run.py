"""The parts of the benchmarks, at their smallest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import data, ladder, report, startup, training_step
from benchmarks.measure import RATIO, Figure, Part
from benchmarks.run import RESULTS
from benchmarks.shape import QUICK


def medians(part: Part) -> dict[str, float]:
    return {figure.name: figure.median for figure in part.figures}


def test_a_run_is_written_shown_and_equal_to_itself(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    done = command("benchmarks.run", "--quick", "--only", "data", "--out", tmp_path)
    assert done.code == 0, done.err
    text = (tmp_path / "run.md").read_text()
    assert done.out.strip() == text.strip()
    found = json.loads((tmp_path / "run.json").read_text())
    assert list(found["parts"]) == ["data"] and found["shape"]["name"] == "quick"
    assert found["environment"]["cores"] >= 1 and "tensorflow" in found["environment"]
    figures = {each["name"]: each for each in found["parts"]["data"]["figures"]}
    alone = figures["decoding, resizing, hashing in Pillow"]["median"]
    assert 0 < alone < figures["Pillow decoding alone"]["median"]
    assert figures["prepared, filled cache"]["median"] > figures["prepared, empty cache"]["median"]
    for name in figures:
        assert f"| {name} |" in text
    again = command("benchmarks.compare", tmp_path / "run.json", tmp_path / "run.json")
    assert again.code == 0 and f"{len(figures)} figures: 0 slower" in again.out


def test_a_part_that_is_not_there_is_refused(command: Callable[..., Any]) -> None:
    done = command("benchmarks.run", "--only", "data,dta")
    assert done.code == 2 and "'dta'" in done.err and "training_step" in done.err


def test_the_readme_says_what_was_measured() -> None:
    result = json.loads((RESULTS / "run.json").read_text())
    said = report.section(result)
    assert f"### Measured\n\n{said}\n" in (ROOT / "README.md").read_text()
    assert all(f": {figure.name}" in said for _, figure in report.missed(result))
    assert result["shape"]["name"] == "full"


def test_results_of_some_parts_are_no_section(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"benchmark": "run", "parts": {"data": {}}}')
    document = tmp_path / "x.md"
    document.write_text("# x\n\n### Measured\n")
    done = command("benchmarks.run", "--readme", document, "--out", tmp_path)
    assert done.code == 2 and "some parts alone" in done.err
    assert document.read_text() == "# x\n\n### Measured\n"


@pytest.mark.workers
def test_two_ways_take_turns_and_each_turn_has_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "PAIRS", training_step.PAIRS[:1])
    shape = replace(QUICK, batch_sizes=(2,), turns=3)
    found = training_step.run(shape, "synthetic", ["training_step", "evaluation"])
    assert list(found) == ["training_step", "evaluation"]
    for part in found.values():
        figures = {figure.name: figure for figure in part.figures}
        ours, theirs = (figures[f"{side} arm, batch 2"].values for side in ("torch", "keras"))
        ratio = figures["torch arm / keras arm, batch 2"]
        assert len(ours) == 3 and ratio.limit == 1
        assert np.allclose(ratio.values, np.divide(ours, theirs))
        assert all(0 < each < min(theirs) for each in figures["making a batch of 2"].values)
    assert medians(found["training_step"])["torch arm, peak memory"] > 0.1


@pytest.mark.workers
def test_the_ladder_is_climbed_on_recordings(small_run: tuple[Any, Path]) -> None:
    _, folder = small_run
    answer = ladder.climbed([str(folder / side) for side in ("keras-p0", "torch-p0")])
    assert answer(None)["seconds"] > 0


def test_images_of_the_growth_are_different_and_as_many_as_asked(tmp_path: Path) -> None:
    data.write_images(tmp_path, 20)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 20 == len({file.read_bytes() for file in files})
    with Image.open(files[0]) as image:
        assert image.size == (data.GROWTH_SIDE, data.GROWTH_SIDE)
    assert (tmp_path / "data.csv").read_text().count("\n") == 21


def test_commands_are_those_that_a_user_can_start() -> None:
    found = startup.commands()
    assert {"parity.compare", "parity.check", "keras_impl.record", "benchmarks.run"} <= set(found)
    assert "torch_impl.faults" not in found and len(found) == len(set(found))


def test_every_command_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "commands", lambda: ["parity.diff", "benchmarks.compare"])
    part = startup.run(QUICK, "synthetic", ["startup"])["startup"]
    found = medians(part)
    alone = found["the interpreter alone"]
    assert 0 < alone < min(found["parity.diff --help"], found["benchmarks.compare --help"])
    assert [figure.limit for figure in part.figures] == [None, 0.3, 0.3]


def test_the_table_says_what_was_missed() -> None:
    figures = [
        Figure("fast", RATIO, (0.9, 0.95, 1.0), 1.0),
        Figure("slow", RATIO, (1.3, 1.4, 1.5), 1.0),
        Figure("plain", "s", (12.0,)),
    ]
    result = {
        "shape": QUICK.to_dict(),
        "experiment": QUICK.experiment("synthetic").to_dict(),
        "environment": {
            **dict.fromkeys(("processor", "python", "pillow", "tensorflow", "keras", "torch"), "1"),
            "cores": 2,
            "memory_bytes": 8e9,
            "load_average_before": 3.0,
        },
        "seconds": 60,
        "parts": {"part": Part(figures, ["why it is slow"]).to_dict()},
    }
    text = report.markdown(result, {"part": "A part"})
    assert "1 of 2 reached." in text and "- missed in part: slow" in text
    assert "| slow | 1.400 (1.350 to 1.450) | 3 | at most 1 | **missed** |" in text
    assert "| fast | 0.950 (0.925 to 0.975) | 3 | at most 1 | reached |" in text
    assert "| plain | s | 12.0 | 12.0 to 12.0 | 1 |" in text
    assert "- why it is slow" in text and "shared** (load average 3.0" in text
    assert "figures say nothing" in text
    full = report.markdown({**result, "shape": {"name": "full"}}, {"part": "A part"})
    assert "figures say nothing" not in full
    assert [figure.name for _, figure in report.missed(result)] == ["slow"]
