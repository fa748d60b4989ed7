"""The ladder on ports with planted faults; the whole table is kept in results/selftest."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import ladder_twins as twins
import pytest
from conftest import ROOT, Finished

from parity import selftest
from parity.engines import Observer, Task
from parity.engines.local import Local
from parity.faults import CONTROLS, FAULTS, Fault

Command = Callable[..., Finished]
KEPT = ROOT / "results" / "selftest"

# One fault for each level that can be the first to fail, and one of the data.
TRIED = ("padding", "NaN weight", "float16 layer", "doubled bias", "gradient not zeroed", "BGR")


@pytest.mark.workers
def test_faults_are_caught_and_placed_and_a_faithful_twin_is_not_accused(
    command: Command, tmp_path: Path
) -> None:
    arguments = ("--quick", "--only", *TRIED, "batch size 1", "--json", "--out", tmp_path)
    done = command("parity.selftest", *arguments, timeout=600)
    assert done.code == 0, done.err + done.out
    table = done.json
    assert [each["name"] for each in table["faults"]] == [f.name for f in FAULTS if f.name in TRIED]
    for each in table["faults"]:
        assert each["caught_at"] == each["level"], each
        assert each["caught_by_numbers_at"], each
        assert each["named"].startswith(each["where"]), each
    assert [(each["name"], each["verdict"]) for each in table["controls"]] == [
        ("batch size 1", "pass")
    ]
    assert table == json.loads((tmp_path / "selftest.json").read_text())
    assert (tmp_path / "report.html").exists()


def recorded_as(twin: twins.Twin, reference: twins.Twin) -> Callable[..., dict[str, object]]:
    """In place of workers: NumPy twins' recordings, the reference's on the left."""

    def run(_: Local, tasks: Sequence[Task], observe: Observer) -> dict[str, object]:
        for task in tasks:
            left = twins.probe(reference)
            if task.name.startswith("keras"):
                sides = left, twins.recording(reference)
            else:
                sides = twins.probe(twin, "torch", left), twins.recording(twin, "torch")
            for side in sides:
                side.write(task.folder)
        return {}

    return run


def wrong_kernel(layer: str, stage: str, value: twins.Array) -> twins.Array:
    return value * 1.001 if (layer, stage) == ("block3.conv", "by_kernel") else value


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        (("gradient", "block3.conv"), 0),
        (("forward", "block3.conv"), 1),  # caught at another level than expected
        (("gradient", "block2.conv"), 1),  # another layer named
    ],
)
def test_a_fault_must_be_caught_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected: tuple[str, str], code: int
) -> None:
    faulty = twins.Twin(backwards=True, change=wrong_kernel)
    monkeypatch.setattr(Local, "run", recorded_as(faulty, twins.Twin()))
    monkeypatch.setattr(selftest, "FAULTS", (Fault("kernel", "scaled", *expected),))
    assert selftest.main(["--only", "kernel", "--out", str(tmp_path)]) == code
    (row,) = json.loads((tmp_path / "selftest.json").read_text())["faults"]
    assert (row["caught_at"], row["ok"]) == ("gradient", not code)
    assert row["criterion_alone"] == "pass"


def test_a_fault_that_slips_through_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Local, "run", recorded_as(twins.Twin(backwards=True), twins.Twin())
    )  # nothing planted
    assert selftest.main(["--only", "padding", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL: 0 of 1 faults caught and placed" in shown and "not caught" in shown


def test_an_accused_control_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faulty = twins.Twin(backwards=True, change=wrong_kernel)
    monkeypatch.setattr(Local, "run", recorded_as(faulty, twins.Twin()))
    assert selftest.main(["--only", "padding 1", "--out", str(tmp_path)]) == 1
    (row,) = json.loads((tmp_path / "selftest.json").read_text())["controls"]
    assert row["verdict"] == "fail" and row["failing"][0]["level"] == "gradient"


def test_an_unknown_name_and_a_bad_number_are_refused(command: Command, tmp_path: Path) -> None:
    done = command("parity.selftest", "--only", "paddin", "--out", tmp_path)
    assert done.code == 2 and "Did you mean 'padding'" in done.err and "Traceback" not in done.err
    done = command("parity.selftest", "--jobs", "0", "--out", tmp_path)
    assert done.code == 2 and "--jobs" in done.err


def test_every_fault_is_planted_and_none_is_left_out() -> None:
    faults = pytest.importorskip("torch_impl.faults")
    assert list(faults.FAULTS) == [fault.name for fault in FAULTS]
    assert len(FAULTS) >= 25 and len(CONTROLS) >= 10


def test_the_readme_shows_the_kept_table() -> None:
    kept = json.loads((KEPT / "selftest.json").read_text())
    assert [each["name"] for each in kept["faults"]] == [fault.name for fault in FAULTS]
    assert [each["name"] for each in kept["controls"]] == list(CONTROLS)
    assert all(each["ok"] for each in (*kept["faults"], *kept["controls"]))
    assert selftest.markdown(kept) in (ROOT / "README.md").read_text()
