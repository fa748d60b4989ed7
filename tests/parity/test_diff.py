"""`python -m parity.diff` on folders."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import ladder_twins as twins
import pytest
from ladder_twins import SMALL, Twin

from parity import diff

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A reference, its faithful twin, a twin with another learning rate, and a lone probe."""
    root = tmp_path_factory.mktemp("sides")
    reference = twins.probe(Twin())
    rate = {"learning_rate": 2 * SMALL.learning_rate}
    sides = {
        "left": (reference, twins.recording(Twin())),
        "right": _twin(reference),
        "fast": _twin(reference, adam=rate),
        "probe": (_twin(reference)[0],),
        "recording": (_twin(reference)[1],),
    }
    for name, parts in sides.items():
        for part in parts:
            part.write(root / name)
    return root


def _twin(reference, **options):
    twin = Twin(backwards=True, **options)
    return twins.probe(twin, "torch", reference), twins.recording(twin, "torch")


def status(folders, left, right, *options):
    return diff.main([str(folders / left), str(folders / right), *options])


@pytest.mark.parametrize(
    ("left", "right", "code", "text"),
    [
        ("left", "right", 0, "PASS: keras-p1 and torch-p1 agree"),
        ("left", "fast", 1, "FAIL: keras-p1 and torch-p1 part at structure"),
        ("left", "probe", 0, "PASS"),
        ("left", "recording", 3, "ABSTAIN: keras-p1 and torch-p1 agree"),
        ("probe", "recording", 3, "ABSTAIN"),
    ],
)
def test_verdict_and_status(folders, capsys, left, right, code, text):
    assert status(folders, left, right) == code
    out, err = capsys.readouterr()
    assert text in out
    assert err == ""


def test_json_is_strict_and_complete(folders, capsys):
    assert status(folders, "left", "fast", "--json") == 1

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert (report["schema"], report["verdict"], report["error"]) == (1, "fail", None)
    assert (report["left"], report["right"]) == ("keras-p1", "torch-p1")
    assert [each["where"] for each in report["origins"] if each["status"] == "origin"] == [
        "optimizer"
    ]
    assert "learning_rate" in {each["key"] for each in report["semantics"]}
    assert {each["level"] for each in report["ladder"]} >= {"structure", "outcome"}
    assert report["tensors"]


def test_the_tolerance_is_that_of_the_outcome(folders, tmp_path, capsys):
    twin = Twin(dataclasses.replace(SMALL, precision="float32"))
    left, off = twins.recording(twin), twins.recording(twin)
    off.history["val_loss"][-1] += 0.5
    left.write(tmp_path / "left")
    off.write(tmp_path / "off")
    arguments = [str(tmp_path / "left"), str(tmp_path / "off")]
    assert diff.main(arguments) == 1
    assert diff.main([*arguments, "--tolerance", "0.6"]) == 3


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_senseless_tolerance_is_refused(folders, capsys, value):
    assert status(folders, "left", "right", f"--tolerance={value}") == 2
    assert "--tolerance: expected a finite number" in capsys.readouterr().err


def test_missing_and_damaged_folders_are_refused_in_words(folders, tmp_path, capsys):
    assert diff.main([str(tmp_path / "gone"), str(folders / "right")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert diff.main([str(folders / "left"), str(tmp_path)]) == 2
    assert "holds neither a recording nor a probe" in capsys.readouterr().err
    recording = twins.recording(Twin())
    recording.write(tmp_path / "bad")
    facts = tmp_path / "bad" / "recording.json"
    facts.write_text(facts.read_text().replace("0.5", "0.25"))
    assert diff.main([str(folders / "left"), str(tmp_path / "bad")]) == 2
    captured = capsys.readouterr()
    assert "is damaged" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_stale_probe_beside_another_recording_is_refused(folders, tmp_path, capsys):
    experiment = dataclasses.replace(SMALL, seed=9)
    twins.recording(Twin(experiment)).write(tmp_path / "stale")
    twins.probe(Twin(), precisions=("float64",)).write(tmp_path / "stale")
    assert diff.main([str(folders / "left"), str(tmp_path / "stale")]) == 2
    assert "record it again" in capsys.readouterr().err


def test_help_has_examples_and_loads_nothing_heavy():
    code = (
        "import sys, runpy\nsys.argv = ['diff', '--help']\n"
        "try:\n    runpy.run_module('parity.diff', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'rich', 'matplotlib', 'sklearn', 'torch', 'keras', 'tensorflow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "examples:" in done.stdout
    assert "exit status" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_without_two_folders_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as end:
        diff.main(["left"])
    assert end.value.code == 2
    assert "RIGHT" in capsys.readouterr().err
