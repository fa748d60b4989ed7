"""The whole command: real worker processes on drawn faces."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import FACES, OOD, ROOT, SMALL, Finished

from parity import weights
from parity.experiment import Experiment
from parity.probe import LIMIT, Probe
from parity.recording import METRICS, Recording

Command = Callable[..., Finished]
ARMS = ["keras-p0", "keras-p1", "torch-p0", "torch-p1"]

TRAIN_ONLY = (*SMALL, "--no-ladder")

workers = pytest.mark.workers


@workers
def test_a_faithful_pair_passes_and_all_files_are_there(small_run: tuple[Finished, Path]) -> None:
    done, out = small_run
    assert done.code == 0, done.err
    assert "PASS" in done.out
    assert {"report.json", "report.html", "curves.png", "curves.svg", "ladders.json", *ARMS} <= {
        p.name for p in out.iterdir()
    }
    for arm in ARMS:
        files = {path.name for path in (out / arm).iterdir()}
        recorded = {"recording.json", "tensors.safetensors", "recording.log"}
        probed = {"probe.json", "probe.safetensors", "probe.log"}
        assert files == {"experiment.json", *recorded, *probed}


@workers
def test_the_report_has_its_schema(small_run: tuple[Finished, Path]) -> None:
    report = json.loads((small_run[1] / "report.json").read_text())
    assert report["schema"] == 1
    assert report["verdict"] == "pass"
    assert report["experiment"]["padding"] == "both"
    assert [arm["id"] for arm in report["arms"]] == ARMS
    for arm in report["arms"]:
        assert all(len(arm["history"][metric]) == 2 for metric in METRICS)
        assert arm["ood"] is None
        for split in ("train", "validation", "test"):
            assert arm[split].keys() == {"loss", "accuracy", "confusion", "roc_auc"}
        assert arm["seconds_per_step"] > 0
        assert arm["peak_memory_bytes"] > 50e6
    roles = [(pair["left"], pair["right"], pair["role"]) for pair in report["pairs"]]
    assert roles == [
        ("keras-p0", "torch-p0", "port"),
        ("keras-p1", "torch-p1", "port"),
        ("keras-p0", "torch-p1", "as_published"),
    ]
    counts = {name: sum(split.values()) for name, split in report["data"]["splits"].items()}
    assert counts == {"train": 32, "test": 4, "validation": 4}
    for key in ("threads", "precision", "device", "python", "numpy"):
        assert key in report["environment"]


@workers
@pytest.mark.parametrize("padding", [0, 1])
def test_float64_twins_train_to_rounding(small_run: tuple[Finished, Path], padding: int) -> None:
    left, right = (
        Recording.read(small_run[1] / f"{side}-p{padding}") for side in ("keras", "torch")
    )
    assert len(left.steps["loss"]) == 8
    np.testing.assert_allclose(left.steps["loss"], right.steps["loss"], rtol=0, atol=1e-12)
    assert list(left.tensors) and left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        np.testing.assert_allclose(value, right.tensors[name], rtol=0, atol=1e-12)


@workers
def test_both_sides_start_from_the_drawn_weights(small_run: tuple[Finished, Path]) -> None:
    for arm in ARMS:
        recording = Recording.read(small_run[1] / arm)
        for name, value in weights.draw(recording.experiment).items():
            assert recording.tensors[f"initial/{name}"].tobytes() == value.tobytes()


@workers
def test_epoch_metrics_are_means_over_samples(small_run: tuple[Finished, Path]) -> None:
    recording = Recording.read(small_run[1] / "torch-p0")
    sizes = [8, 8, 8, 8]
    for metric in ("loss", "accuracy"):
        first = np.average(recording.steps[metric][:4], weights=sizes)
        assert recording.history[metric][0] == pytest.approx(first, rel=1e-15)
    assert recording.history["val_loss"][-1] == recording.evaluation["validation"]["loss"]


PROVEN = [
    *(("structure", None), ("transfer", "float64"), ("forward", "float64"), ("loss", "float64")),
    *(("gradient", "float64"), ("update", "float64"), ("trajectory", "float64")),
]


@workers
def test_the_ladder_proves_port_pairs(small_run: tuple[Finished, Path]) -> None:
    report = json.loads((small_run[1] / "report.json").read_text())
    for pair in report["pairs"][:2]:
        verdicts = {(level["level"], level["precision"]): level for level in pair["ladder"]}
        assert pair["ladder_verdict"] == pair["verdict"] == "pass"
        assert {verdicts[key]["verdict"] for key in PROVEN} == {"pass"}
        assert "fail" not in {level["verdict"] for level in pair["ladder"]}
        keys = ("measured", "tolerance", "reason", "minimum_tolerance", "where", "detail")
        assert set(pair["ladder"][0]) == {"level", "verdict", "precision", *keys}
    assert "proves the port in float64" in small_run[0].out


@workers
def test_the_published_pair_departs_at_structure(small_run: tuple[Finished, Path]) -> None:
    report = json.loads((small_run[1] / "report.json").read_text())
    pair = report["pairs"][2]
    assert (pair["role"], pair["verdict"], pair["ladder_verdict"]) == (
        "as_published",
        *["fail"] * 2,
    )
    first = next(level for level in pair["ladder"] if level["verdict"] == "fail")
    assert first["level"] == "structure"
    assert "block1.conv: padding 0 against 1" in first["detail"]
    assert "dense1.kernel: shape [36, 36] against [144, 36]" in first["detail"]
    assert report["verdict"] == "pass"  # it never decides
    assert "keras-p0 and torch-p1 part at structure:" in small_run[0].out


@workers
def test_probes_stay_as_samples_that_can_be_compared_again(
    small_run: tuple[Finished, Path], command: Command
) -> None:
    for arm in ARMS:
        probe = Probe.read(small_run[1] / arm)
        assert max(value.size for value in probe.tensors.values()) <= LIMIT
    again = command("parity.diff", small_run[1] / "keras-p0", small_run[1] / "torch-p0", "--json")
    assert again.code == 0, again.out
    assert again.json["verdict"] == "pass"


@workers
def test_kept_tensors_are_whole(command: Command, tmp_path: Path) -> None:
    few = ("--padding", "1", "--epochs", "1", "--keep-tensors", "--json", "--out", tmp_path)
    done = command("parity.compare", *SMALL, *few)
    assert done.code == 0, done.err
    for arm in ("keras-p1", "torch-p1"):
        probe = Probe.read(tmp_path / arm)
        assert not any(probe.samples(f"float64/free/{kind}") for kind in ("activation", "gradient"))
        assert probe.tensors["float64/free/activation/block1.conv"].shape == (2, 190, 190, 2)


@workers
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_probe_that_cannot_be_taken_decides_nothing(tmp_path: Path) -> None:
    arguments = [*SMALL, "--padding", "1", "--epochs", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.compare", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    torch = tmp_path / "torch-p1"
    _wait_for(lambda: (torch / "probe.log").exists() and bool(_workers_of(torch)))
    errors = _killing_workers(process, torch)
    assert process.returncode == 2 and "Traceback" not in errors
    report = json.loads((tmp_path / "report.json").read_text())
    (pair,) = report["pairs"]
    assert (pair["verdict"], pair["ladder_verdict"]) == ("error", "error")
    assert "torch-p1 was killed by SIGKILL" in pair["error"]
    assert pair["criterion"]["loss"]["within"]  # what was finished stays usable
    assert Recording.read(torch).history["loss"]


@workers
def test_arms_one_after_the_other_give_the_same_recordings(
    small_run: tuple[Finished, Path], command: Command, tmp_path: Path
) -> None:
    done = command(
        "parity.compare", *TRAIN_ONLY, "--jobs", "1", "--padding", "0", "--out", tmp_path
    )
    assert done.code == 0, done.err
    for arm in ("keras-p0", "torch-p0"):
        folders = (small_run[1] / arm, tmp_path / arm)
        assert len({Recording.read(folder).digest for folder in folders}) == 1
        contents = [(folder / "tensors.safetensors").read_bytes() for folder in folders]
        assert hashlib.sha256(contents[0]).digest() == hashlib.sha256(contents[1]).digest()


@workers
def test_native_sides_differ_and_json_stands_alone_on_stdout(
    command: Command, tmp_path: Path
) -> None:
    arguments = (*SMALL, "--padding", "1", "--init", "native", "--optimizer", "native")
    done = command("parity.compare", *arguments, "--tolerance", "0", "--json", "--out", tmp_path)
    report = done.json
    assert done.code == 1
    assert report["verdict"] == "fail"
    (pair,) = report["pairs"]
    assert not pair["criterion"]["loss"]["within"]
    assert report == json.loads((tmp_path / "report.json").read_text())


FLOAT32 = (*TRAIN_ONLY, "--padding", "1", "--epochs", "1", "--precision", "float32", "--json")


@workers
def test_keras_on_two_backends_is_two_arms(command: Command, tmp_path: Path) -> None:
    arguments = (*FLOAT32, "--keras-backend", "torch,tensorflow", "--out", tmp_path)
    done = command("parity.compare", *arguments)
    assert done.code == 0, done.err
    assert done.json["experiment"]["keras_backend"] == "torch,tensorflow"
    backends = {arm["id"]: arm["backend"] for arm in done.json["arms"]}
    assert backends == {
        "keras-torch-p1": "torch",
        "keras-p1": "tensorflow",
        "torch-p1": "torch",
    }
    pairs = {(p["left"], p["right"]): (p["role"], p["verdict"]) for p in done.json["pairs"]}
    assert pairs == {
        ("keras-p1", "torch-p1"): ("port", "pass"),
        ("keras-torch-p1", "torch-p1"): ("port", "pass"),
        ("keras-p1", "keras-torch-p1"): ("backend", "pass"),
    }


@workers
def test_what_this_machine_has_no_device_for_is_left_open(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = command("parity.compare", *FLOAT32, "--device", "cpu,cuda", "--out", tmp_path)
    assert done.code == 3, done.err
    assert done.json["verdict"] == "abstain"
    pairs = {(p["left"], p["right"]): (p["role"], p["verdict"]) for p in done.json["pairs"]}
    assert pairs == {
        ("keras-p1", "torch-p1"): ("port", "pass"),
        ("keras-cuda-p1", "torch-cuda-p1"): ("port", "abstain"),
        ("keras-p1", "keras-cuda-p1"): ("device", "abstain"),
        ("torch-p1", "torch-cuda-p1"): ("device", "abstain"),
    }
    lost = {arm["id"]: arm["error"] for arm in done.json["arms"] if arm["error"]}
    assert lost.keys() == {"keras-cuda-p1", "torch-cuda-p1"}
    assert all("no GPU" in why and "--device cpu" in why for why in lost.values())


@workers
def test_a_loss_that_is_no_number_names_epoch_and_step(command: Command, tmp_path: Path) -> None:
    arguments = (*TRAIN_ONLY, "--padding", "1", "--learning-rate", "1e200", "--json")
    done = command("parity.compare", *arguments, "--out", tmp_path)
    assert done.code == 2
    assert done.json["verdict"] == "error"
    for arm in done.json["arms"]:
        assert "the loss became" in arm["error"] and "in epoch 1, step " in arm["error"]
    assert "Traceback" not in done.err


@workers
def test_augmented_training_is_the_same_on_both_sides(command: Command, tmp_path: Path) -> None:
    arguments = (*SMALL, "--padding", "1", "--variant", "image_transforms", "--json")
    done = command("parity.compare", *arguments, "--out", tmp_path)
    assert done.code == 0, done.err
    (pair,) = done.json["pairs"]
    assert max(judged["difference"] for judged in pair["criterion"].values()) < 1e-12


def _start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "parity.compare", *TRAIN_ONLY, "--epochs", "500", "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A suite started in the background of a shell ignores SIGINT, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _workers_of(out: Path) -> list[int]:
    """Processes whose command line names the folder `out`, the command itself apart."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            continue
        if str(out) in line and "_impl.record" in line:
            found.append(int(entry.name))
    return found


def _killing_workers(process: subprocess.Popen[str], out: Path) -> str:
    """Kill those of the folder `out`, however often they are started again. Returns the command's
    standard error."""
    while process.poll() is None:
        for worker in _workers_of(out):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.05)
    return process.communicate(timeout=120)[1]


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


@workers
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_interrupted_all_workers_end_and_no_half_recording_stays(tmp_path: Path) -> None:
    process = _start(tmp_path)
    _wait_for(lambda: len(_workers_of(tmp_path)) == 2)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert not _workers_of(tmp_path)
    assert not list(tmp_path.glob("*/recording.json"))
    assert not list(tmp_path.rglob(".*"))


def _epochs(arm: Path) -> list[int]:
    """After which epochs there is a whole checkpoint in an arm's folder."""
    whole = arm.glob("checkpoints/epoch-*/recording.json")
    return [int(path.parent.name.removeprefix("epoch-")) for path in whole]


@workers
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_killed_at_random_moments_a_training_ends_with_the_same_bytes(
    command: Command, tmp_path: Path
) -> None:
    few = ("--padding", "1", "--epochs", "4", "--synthetic-images", "120")
    whole = command("parity.compare", *TRAIN_ONLY, *few, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    out, said = tmp_path / "killed", ""
    names = ("keras-p1", "torch-p1")
    random = np.random.default_rng(8)
    caught: set[str] = set()  # arms that were killed after a checkpoint
    for epoch in (1, 1, 2):
        process = subprocess.Popen(
            [sys.executable, "-m", "parity.compare", *TRAIN_ONLY, *few, "--out", str(out)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        next_ones = set(names) - caught or names  # whichever is quicker: the other may end first
        _wait_for(
            lambda at=epoch, of=next_ones, it=process: (  # type: ignore[misc]
                any(at <= each for name in of for each in _epochs(out / name))
                or it.poll() is not None
            )
        )
        time.sleep(random.uniform(0, 0.5))  # some way into the epoch after that one
        caught |= {name for name in names if _epochs(out / name)}
        process.kill()  # it would start them again
        for each in ARMS:  # both sides, wherever the other one is
            for worker in _workers_of(out / each):
                with suppress(ProcessLookupError):  # it ends by itself where nobody listens
                    os.kill(worker, signal.SIGKILL)
        said += process.communicate(timeout=120)[1]
    assert caught == set(names)
    last = command("parity.compare", *TRAIN_ONLY, *few, "--out", out)
    assert last.code == 0, last.err
    said += last.err
    for name in names:
        assert f"{name}  going on after epoch" in said
        assert not (out / name / "checkpoints").exists()
        contents = [tmp_path / run / name / "tensors.safetensors" for run in ("whole", "killed")]
        assert contents[0].read_bytes() == contents[1].read_bytes()
        digests = {Recording.read(tmp_path / run / name).digest for run in ("whole", "killed")}
        assert len(digests) == 1


@workers
def test_what_is_finished_is_not_run_again(command: Command, tmp_path: Path) -> None:
    arguments = (*TRAIN_ONLY, "--padding", "1", "--epochs", "1", "--out", tmp_path)
    first, again = command("parity.compare", *arguments), command("parity.compare", *arguments)
    assert first.code == again.code == 0
    assert "epoch 1/1" in first.err and "epoch 1/1" not in again.err
    assert command("parity.compare", *arguments, "--seed", "9").err.count("epoch 1/1") == 2
    (tmp_path / "keras-p1" / "tensors.safetensors").write_bytes(b"damaged")
    assert command("parity.compare", *arguments, "--seed", "9").err.count("epoch 1/1") == 1


@workers
def test_seeds_are_judged_together_and_more_of_them_join_in(
    command: Command, tmp_path: Path
) -> None:
    # Without a ladder, and of too few seeds to see what one in ten does.
    arguments = (*TRAIN_ONLY, "--padding", "1", "--epochs", "1", "--out", tmp_path, "--json")
    two = command("parity.compare", *arguments, "--seeds", "8", "9")
    assert two.code == 3, two.err
    assert {"seeds.png", "seeds.svg", "report.json", "s8", "s9"} <= set(os.listdir(tmp_path))
    assert two.json["verdict"] == "inconclusive"
    three = command("parity.compare", *arguments, "--seeds", "8", "9", "10")
    assert three.err.count("epoch 1/1") == 2  # the third seed's two arms
    assert (three.json["seeds"], len(three.json["runs"])) == ([8, 9, 10], 3)
    (pair,) = three.json["equivalence"]
    for metric in ("loss", "val_loss"):
        assert pair["metrics"][metric]["verdict"] == "inconclusive"
        finals = [
            Recording.read(tmp_path / f"s{seed}" / "torch-p1").history[metric][-1]
            for seed in (8, 9, 10)
        ]
        assert pair["metrics"][metric]["right"] == finals


@workers
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_worker_that_dies_is_reported_and_the_others_are_kept(tmp_path: Path) -> None:
    arguments = [*SMALL, "--padding", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.compare", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    keras = tmp_path / "keras-p1"
    _wait_for(lambda: bool(_workers_of(keras)))
    errors = _killing_workers(process, keras)
    assert process.returncode == 2
    assert "keras-p1 was killed by SIGKILL" in errors and "Traceback" not in errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "error"
    assert Recording.read(tmp_path / "torch-p1").history["loss"]
    assert not (keras / "recording.json").exists()


BAD_REQUESTS = {
    "variant": (["--variant", "additional_layer"], "Did you mean 'additional_layers'"),
    "profile": (["--profile", "fast"], "unknown profile 'fast': there are quick, paper"),
    "size": (["--image-size", "189"], "need at least 190 pixels"),
    "data": (["--data", "no/such/folder"], "no/such/folder"),
    "tolerance": (["--tolerance", "nan"], "--tolerance"),
    "jobs": (["--jobs", "0"], "--jobs"),
    "epochs": (["--epochs", "0"], "--epochs"),
    "backend": (["--keras-backend", "tensorflow,mxnet"], "--keras-backend: expected one of"),
    "choice": (["--precision", "float16"], "invalid choice: 'float16'"),
    "float64": (["--keras-backend", "torch"], "--keras-backend tensorflow"),
    "seeds": (["--seeds", "8", "9", "--seed", "8"], "--seed or --seeds"),
    "few": (["--synthetic-images", "3"], "few"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_are_explained(command: Command, tmp_path: Path, case: str) -> None:
    arguments, message = BAD_REQUESTS[case]
    done = command("parity.compare", *arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not done.out


def test_an_unwritable_folder_is_refused_before_any_work(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command("parity.compare", "--out", tmp_path / "file" / "out")
    assert done.code == 2
    assert "cannot write to" in done.err and "--out" in done.err


def test_help_shows_examples_and_every_field(command: Command) -> None:
    done = command("parity.compare", "--help")
    assert done.code == 0
    assert "python -m parity.compare --variant additional_layers" in done.out
    for flag in ("--image-size", "--width", "--epochs", "--batch-size", "--learning-rate"):
        assert flag in done.out
    for flag in ("--seed", "--precision", "--device", "--optimizer", "--init", "--keras-backend"):
        assert flag in done.out


@workers
@pytest.mark.real_data
@pytest.mark.skipif(not FACES.exists(), reason="the study's images are not here")
def test_real_faces_with_an_out_of_distribution_set(command: Command, tmp_path: Path) -> None:
    arguments = ("--image-size", "64", "--width", "0.1", "--epochs", "1", "--padding", "1")
    done = command(
        "parity.compare",
        *(*arguments, "--data", FACES, "--ood", OOD, "--no-ladder", "--json", "--out", tmp_path),
    )
    assert done.code == 0, done.err
    report = done.json
    assert report["data"]["splits"]["train"] == {"fake": 561, "real": 470}
    assert report["data"]["splits"]["test"] == {"fake": 71, "real": 58}
    assert report["data"]["splits"]["validation"] == {"fake": 68, "real": 61}
    assert report["data"]["duplicates"] == []
    for arm in report["arms"]:
        matrix = np.array(arm["ood"]["confusion"])
        assert matrix.sum(1)[0] == matrix.sum(1)[1] > 0


def test_seeds_join_a_comparison_of_the_same_id() -> None:
    from parity.compare import comparison_id

    ids = {comparison_id([Experiment.of(seed=seed)], several=True) for seed in (8, 9)}
    assert len(ids) == 1
    assert comparison_id([Experiment.of()]) not in ids


def test_ids_of_comparisons_differ_with_the_request() -> None:
    from parity.compare import comparison_id

    requests = [
        [Experiment.of(padding=0)],
        [Experiment.of(padding=1)],
        [Experiment.of(padding=0), Experiment.of(padding=1)],
        [Experiment.of(padding=0, seed=9)],
    ]
    ids = sorted(comparison_id(request) for request in requests)
    assert all(left != right for left, right in pairwise(ids))
