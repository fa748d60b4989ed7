"""Results as CSV and as TensorBoard's event files, read back."""

from __future__ import annotations

import csv
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_runs

from parity.report import exports
from parity.report.__main__ import main
from shared_data.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_runs.write_run(tmp_path_factory.mktemp("runs") / "run")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestCsv:
    def test_every_number_comes_back(self, run: Path, tmp_path: Path) -> None:
        written = exports.to_csv([run], tmp_path)
        assert [path.name for path in written] == [
            *("arms.csv", "history.csv", "steps.csv", "pairs.csv", "ladder.csv", "tensors.csv")
        ]
        report = json.loads((run / "report.json").read_text())
        (ladder,) = json.loads((run / "ladders.json").read_text())["ladders"]
        for arm in report["arms"]:
            for name, of, place in (("history", "history", "epoch"), ("steps", "steps", "step")):
                for metric, values in arm[of].items():
                    found = [
                        row
                        for row in rows(tmp_path / f"{name}.csv")
                        if (row["arm"], row["metric"]) == (arm["id"], metric)
                    ]
                    assert [float(row["value"]) for row in found] == values
                    assert [int(row[place]) for row in found] == list(range(1, len(values) + 1))
        tensors = rows(tmp_path / "tensors.csv")
        assert [row["name"] for row in tensors] == [each["name"] for each in ladder["tensors"]]
        for row, each in zip(tensors, ladder["tensors"], strict=True):
            for key in ("absolute", "tolerance", "headroom"):
                assert (float(row[key]) if row[key] else None) == each[key]
        (pair,) = rows(tmp_path / "pairs.csv")
        assert pair["verdict"] == report["verdict"] == "pass"
        criterion = report["pairs"][0]["criterion"]["val_loss"]
        assert float(pair["val_loss difference"]) == criterion["difference"]
        levels = [row["level"] for row in rows(tmp_path / "ladder.csv")]
        assert levels == [each["level"] for each in ladder["ladder"]]

    def test_seeds_and_their_test(self, tmp_path: Path) -> None:
        folder = report_runs.write_seeds(tmp_path / "seeds", lambda seed: (seed - 8) / 128)
        exports.to_csv([folder], tmp_path)
        found = [row for row in rows(tmp_path / "seeds.csv") if row["metric"] == "loss"]
        assert [row["seed"] for row in found] == ["8", "9", "10"]
        apart = [float(row["right"]) - float(row["left"]) for row in found]
        assert [float(row["apart"]) for row in found] == apart
        assert apart == pytest.approx([0, 1 / 128, 2 / 128])
        (row,) = (row for row in rows(tmp_path / "equivalence.csv") if row["metric"] == "loss")
        assert float(row["mean"]) == pytest.approx(1 / 128)
        assert float(row["interval from"]) < 1 / 128 < float(row["interval to"])

    def test_of_the_study_and_of_several(self, run: Path, tmp_path: Path) -> None:
        assert main([str(run), str(ROOT / "results/paper"), "--csv", str(tmp_path),
                     "--out", str(tmp_path / "x.html")]) == 0  # fmt: skip
        arms = rows(tmp_path / "arms.csv")
        assert len(arms) == 2 + 10
        assert {row["run"] for row in arms} == {"run", "paper"}

    def test_every_number_of_an_explanation(self, tmp_path: Path) -> None:
        folder = ROOT / "results/explain/baseline"
        exports.to_csv([folder], tmp_path)
        with open(folder / "explain.csv", newline="") as file:  # the command's own
            own = list(csv.DictReader(file))
        expected = {
            (row["difference"], row["framework"], row["metric"], row["seed"]): row["value"]
            for row in own
        }
        found = {
            (row["difference"], row["side"], row["metric"], row["seed"]): row["value"]
            for row in rows(tmp_path / "effects.csv")
        }
        assert len(expected) == len(own) and found == expected

    def test_faults_and_controls_of_a_selftest(self, tmp_path: Path) -> None:
        folder = ROOT / "results/selftest"
        exports.to_csv([folder], tmp_path)
        facts = json.loads((folder / "selftest.json").read_text())
        for kind in ("faults", "controls"):
            found = rows(tmp_path / f"{kind}.csv")
            assert [row["name"] for row in found] == [each["name"] for each in facts[kind]]
            assert {row["ok"] for row in found} == {"True"}

    def test_nothing_to_write_is_refused(self, tmp_path: Path) -> None:
        facts = {"schema": 1, "faults": [], "controls": []}
        (tmp_path / "selftest.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match="no number"):
            exports.to_csv([tmp_path], tmp_path)


class TestTensorBoard:
    def test_every_curve_comes_back(self, run: Path, tmp_path: Path) -> None:
        pytest.importorskip("tensorboardX")
        assert main([str(run), "--tensorboard", str(tmp_path)]) == 0
        report = json.loads((run / "report.json").read_text())
        for arm in report["arms"]:
            (file,) = (tmp_path / "run" / "seed-8" / arm["id"]).iterdir()
            found: dict[str, list[float]] = {}
            for tag, step, value in scalars(file):
                assert step == len(found.setdefault(tag, [])) + 1
                found[tag].append(value)
            for of, name in (("history", "epoch"), ("steps", "step")):
                for metric, values in arm[of].items():
                    assert found[f"{name}/{metric}"] == pytest.approx(values, rel=1e-6)

    def test_its_absence_is_explained_before_anything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        out = tmp_path / "x.html"
        arguments = [str(ROOT / "results/paper"), "--tensorboard", str(tmp_path / "events")]
        assert main([*arguments, "--out", str(out)]) == 2
        assert "pip install 'parity-bench[tensorboard]'" in capsys.readouterr().err
        assert not out.exists() and not (tmp_path / "events").exists()


def scalars(file: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of every scalar in an event file: a TFRecord of `Event`s.

    A record is its length (uint64), a checksum of that (4 bytes), the content, and a checksum.
    """
    from tensorboardX.proto.event_pb2 import Event

    content = file.read_bytes()
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value
        at += 12 + length + 4
