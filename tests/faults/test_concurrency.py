"""Two commands on one cache at once, killed at random moments: the next has the right data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import ROOT

from shared_data import caching
from shared_data.batches import load

ROUNDS = 5
# Loads it as a command would; says when it begins, so that a kill hits the work and no import.
LOAD = """
import json, sys
from pathlib import Path
from shared_data.batches import load
print("begun", flush=True)
data = load(sys.argv[1], image_size=96, synthetic_images=60, cache=Path(sys.argv[2]))
print(json.dumps([data.digest, int(data.train.images.sum())]))
"""
KILLED = """
import os, sys
from pathlib import Path
from shared_data.caching import publish
def build(folder):
    (folder / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), 9)
publish(Path(sys.argv[1]), build, lambda _: True)
"""
OTHER = """
import sys
from pathlib import Path
from shared_data.caching import publish
publish(Path(sys.argv[1]), lambda folder: None, lambda _: True)
"""


def loading(spec: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOAD, spec, str(cache)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def answer(process: subprocess.Popen[str]) -> list[object]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found: list[object] = json.loads(out.splitlines()[-1])
    return found


def test_two_loads_killed_at_random_moments(tmp_path: Path) -> None:
    begun = time.monotonic()
    data = load("synthetic", image_size=96, synthetic_images=60, cache=tmp_path / "whole")
    seconds = time.monotonic() - begun
    expected = [data.digest, int(data.train.images.sum())]
    random = np.random.default_rng(8)
    for number in range(ROUNDS):
        cache = tmp_path / str(number)
        both = [loading("synthetic", cache) for _ in range(2)]
        for process in both:
            assert process.stdout and process.stdout.readline() == "begun\n"
        time.sleep(random.uniform(0, 1) * seconds)
        victims = both[: 1 + number % 2]
        for process in victims:
            os.kill(process.pid, signal.SIGKILL)
        for process in both:
            if process in victims:
                process.communicate(timeout=60)
            else:
                assert answer(process) == expected
        assert answer(loading("synthetic", cache)) == expected


def test_what_a_killed_process_left_half_built_is_removed(tmp_path: Path, faces: Path) -> None:
    target = tmp_path / "images" / "killed"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], cwd=ROOT, check=False)
    assert len(list(tmp_path.rglob("half"))) == 1
    load(str(faces), image_size=8, cache=tmp_path)
    assert not list(tmp_path.rglob("half"))


def test_what_another_process_is_building_is_left_alone(tmp_path: Path) -> None:
    """It is named and placed like what a killed one left; only the lock tells them apart."""

    def build(folder: Path) -> None:
        (folder / "half").touch()
        other = subprocess.run(
            [sys.executable, "-c", OTHER, str(tmp_path / "other")], cwd=ROOT, check=False
        )
        assert other.returncode == 0
        assert (folder / "half").exists()

    caching.publish(tmp_path / "one", build, lambda _: True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["half", "one", "other"]


def test_one_that_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    """Whole, and not its own: whoever has opened that already goes on with the same files."""

    def build(folder: Path) -> None:
        (folder / "file").write_text("second")
        assert caching.publish(tmp_path / "set", lambda first: _write(first), lambda _: True)

    assert not caching.publish(tmp_path / "set", build, lambda _: True)  # so it is checked anew
    assert (tmp_path / "set" / "file").read_text() == "first"


def _write(folder: Path) -> None:
    (folder / "file").write_text("first")
