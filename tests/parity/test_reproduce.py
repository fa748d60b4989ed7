"""The whole study as a command, on drawn faces and a network of seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished

from parity import experiment as experiments
from parity import reproduce
from parity.recording import Recording

Command = Callable[..., Finished]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick profile, smaller still; workers are real processes."""
    small = {"image_size": 190, "width": 0.07, "epochs": 1, "batch_size": 8, "synthetic_images": 40}
    quick = {**experiments.PROFILES["quick"], **small}
    monkeypatch.setitem(experiments.PROFILES, "quick", quick)


@pytest.mark.workers
def test_a_study_is_written_beside_what_was_published_and_never_run_twice(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", "quick", "--only", "lr_10x,baseline", "--out", str(tmp_path)]
    assert reproduce.main(arguments) == 0
    assert "epoch 1/1" in capsys.readouterr().err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mode"] == "aligned" and len(summary["tables"]) == 5
    verdicts = {
        (each["rule"], each["variant"]): each["ours"]["verdict"]
        for each in summary["judgements"]
        if each["rule"] == "replicates"
    }
    assert verdicts["replicates", "baseline"] == verdicts["replicates", "lr_10x"] == "yes"
    assert verdicts["replicates", "lr_100x"] == "not judged"
    written = {path.name for path in tmp_path.iterdir()}
    assert {"table3.md", "judgements.md", "figures.md", "report.html"} <= written

    first = (tmp_path / "summary.json").read_bytes()
    assert reproduce.main(arguments) == 0
    assert "epoch 1/1" not in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_bytes() == first

    readme = tmp_path / "README.md"
    heading = reproduce.README_HEADINGS["aligned"]
    readme.write_text(f"# A\n\n{heading}\n\nold\n\n## Next\n\nkept\n")
    assert reproduce.main(["--readme", str(readme), "--out", str(tmp_path)]) == 0
    text = readme.read_text()
    assert "old" not in text and "## Next\n\nkept" in text and "Final numbers" in text


@pytest.mark.workers
def test_seeds_after_the_first_are_judged_together_with_it(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", "quick", "--only", "baseline", "--out", str(tmp_path)]
    assert reproduce.main(arguments) == 0
    tables = (tmp_path / "table3.md").read_bytes()
    assert capsys.readouterr().err.count("epoch 1/1") == 2
    assert reproduce.main([*arguments, "--seeds", "8", "9"]) == 0
    assert capsys.readouterr().err.count("epoch 1/1") == 2  # of the second seed alone
    assert (tmp_path / "table3.md").read_bytes() == tables
    (twins,) = json.loads((tmp_path / "summary.json").read_text())["over_seeds"]
    assert (twins["variant"], twins["seeds"]) == ("baseline", [8, 9])
    second = Recording.read(tmp_path / "arms" / "baseline" / "s9" / "torch-p0")
    assert second.experiment.seed == 9
    assert twins["metrics"]["loss"]["right"][1] == second.history["loss"][-1]
    assert twins["metrics"]["loss"]["verdict"] == "inconclusive"
    assert (
        "| baseline (2 seeds) | loss | inconclusive, 32 seeds"
        in (tmp_path / "over_seeds.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "lr_1x"], "Did you mean"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--readme", "no/such/README.md"], "no/such/README.md"),
        (["--jobs", "-1"], "--jobs"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_requests_are_explained(
    command: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = command("parity.reproduce", *arguments, "--out", tmp_path)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err


@pytest.mark.workers
def test_as_published_each_side_has_its_notebooks_way(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--profile", "quick", "--only", "image_transforms", "--mode", "as_published"]
    assert reproduce.main([*arguments, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["mode"] == "as_published"
    arms = tmp_path / "arms" / "image_transforms"
    keras, torch = (Recording.read(arms / name) for name in ("keras-p0", "torch-p1"))
    assert (keras.experiment.normalise, torch.experiment.normalise) == ("none", "imagenet")
    assert keras.parameters < torch.parameters
    # The mean of batch means: the losses of 4 batches of 8 images are its only ingredients.
    assert torch.history["loss"][0] == pytest.approx(np.mean(torch.steps["loss"]), rel=1e-14)
    assert torch.history["val_loss"][0] == pytest.approx(torch.evaluation["validation"]["loss"])
