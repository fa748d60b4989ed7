"""A full disk and a read-only folder: refused in words, and what was finished can still be read."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from parity.experiment import Experiment
from parity.feed import load_data
from parity.recording import Recording, write_atomically
from shared_data.batches import load
from shared_data.errors import InputError

Start = Callable[..., "subprocess.Popen[str]"]
Mounted = Callable[..., Any]


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("spec", ["folder", "synthetic"])
def test_a_full_disk_under_the_cache(mounted: Mounted, faces: Path, spec: str) -> None:
    data = str(faces) if spec == "folder" else "synthetic"
    with mounted(size="300k") as disk:  # thirty images of 64x64 take 369 KB, as many faces more
        with pytest.raises(InputError, match=r"cannot write the cache folder .*No space left"):
            load(data, image_size=64, synthetic_images=30, cache=disk)
        assert not [path for path in disk.rglob("*") if path.is_file()]
        if spec == "folder":  # the space is free again: what fits goes on
            kept = load(data, image_size=16, cache=disk)
            fill(disk)
            again = load(data, image_size=16, cache=disk)
            assert kept.summary() == again.summary()


def test_a_full_disk_under_the_results(mounted: Mounted, start: Start) -> None:
    with mounted(size="200k") as disk:
        assert start("record", disk / "first", "--no-probe").wait(timeout=60) == 0
        finished = Recording.read(disk / "first").digest
        fill(disk)
        before = entries(disk)
        for module in ("record", "study"):  # a worker, and a command that starts them
            process = start(module, disk / "second")
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2
            assert "cannot write" in errors and "No space left" in errors
            assert "what is finished stays" in errors and "Traceback" not in errors
        assert Recording.read(disk / "first").digest == finished
        with pytest.raises(InputError, match=r"cannot write .*report\.json: No space left"):
            write_atomically(disk / "report.json", b"x" * 10_000)
        assert {path for path in entries(disk) - before if (disk / path).is_file()} == set()


@pytest.mark.parametrize(
    ("limit", "file"), [(1_000, "tensors.safetensors"), (2_500, "recording.json")]
)
def test_a_disk_that_is_full_in_the_middle_of_a_file(
    experiment: Experiment, tmp_path: Path, start: Start, limit: int, file: str
) -> None:
    """Files of at most `limit` bytes: an error of the system likewise, and no mount needed."""
    load_data(experiment)  # into the cache, which has larger files

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start("record", tmp_path / "out", "--no-probe", preexec_fn=bounded)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in errors
    assert f"epoch-1/{file}: File too large" in errors
    assert not list(tmp_path.rglob("recording.json")) and not list(tmp_path.rglob(".*"))


def test_a_read_only_cache_serves_what_it_has(
    mounted: Mounted, faces: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    filled = load(str(faces), image_size=16, cache=cache)
    drawn = load("synthetic", image_size=16, synthetic_images=12, cache=cache)
    with mounted(read_only=cache):
        assert load(str(faces), image_size=16, cache=cache).summary() == filled.summary()
        again = load("synthetic", image_size=16, synthetic_images=12, cache=cache)
        assert again.summary() == drawn.summary()
        with pytest.raises(InputError, match=r"cannot write the cache .*Read-only.*PARITY_CACHE"):
            load(str(faces), image_size=17, cache=cache)


def test_data_in_a_read_only_folder(mounted: Mounted, faces: Path, tmp_path: Path) -> None:
    with mounted(read_only=faces):
        assert len(load(str(faces), image_size=16, cache=tmp_path).train) == 24


@pytest.mark.parametrize("module", ["parity.compare", "parity.reproduce", "parity.explain"])
def test_results_in_a_read_only_folder(mounted: Mounted, tmp_path: Path, module: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with mounted(read_only=out):
        done = subprocess.run(
            [sys.executable, "-m", module, "--out", str(out)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write to" in done.stderr and "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_in_a_read_only_folder(mounted: Mounted, tmp_path: Path, start: Start) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with mounted(read_only=out):
        process = start("record", out, "--no-probe", "--events")
        events, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in errors
    last = json.loads(events.splitlines()[-1])
    assert last["event"] == "refused" and "Read-only file system" in last["error"]
