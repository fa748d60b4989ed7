"""Killed (SIGKILL) at any moment, a training ends with the bytes of one that was left alone.

tests/parity/test_compare.py does the same with the frameworks, a few times; here it is a NumPy
wing in the real harness, which can be killed often.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from parity.recording import Recording, write_atomically

Start = Callable[..., "subprocess.Popen[str]"]
KILLS = 6
# Three checkpoints and a recording have two files each: the file that a worker is writing when it
# is killed, and the epoch after which the next one goes on.
WRITES = {1: None, 4: 1, 8: 3}

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All that a run left, without what tells of time and memory."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in [name for name in found if name.endswith("recording.json")]:
        found[name] = Recording.read((folder / name).parent).digest.encode()
    return {name: content for name, content in found.items() if not name.endswith(".log")}


def processes(folder: Path) -> list[int]:
    """Workers that were told to write below `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            line = path.read_bytes()
            if str(folder).encode() in line and b".record" in line:
                found.append(int(path.parent.name))
    return found


def test_a_worker_killed_while_it_writes_any_of_its_files(tmp_path: Path, start: Start) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished(start("record", whole, "--no-probe"))
    for write, epoch in WRITES.items():
        process = start("record", killed, "--no-probe", env={"DIE_AT_WRITE": str(write)})
        assert process.wait(timeout=120) == -signal.SIGKILL
        assert list(killed.rglob(".*.*"))  # half a file is there
        assert not (killed / "recording.json").exists()
        events = finished(start("record", killed, "--no-probe", "--events")).splitlines()
        resumed = [each["epoch"] for each in map(json.loads, events) if each["event"] == "resume"]
        assert resumed == ([epoch] if epoch else [])
        assert files(killed) == files(whole)
        for path in killed.iterdir():
            path.unlink()


def test_parent_or_worker_killed_at_random_moments(tmp_path: Path, start: Start) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    finished(start("study", whole))
    seconds = time.monotonic() - begun
    random = np.random.default_rng(8)
    for kill in range(KILLS):
        process = start("study", killed)
        with suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.3, 1) * seconds)
        victims = processes(killed) if kill % 2 else [process.pid]
        for victim in victims[:1]:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=120)  # the parent starts a worker again, and ends then
        nobody_is_left(killed)
        for path in killed.rglob("recording.json"):
            Recording.read(path.parent)  # whole wherever it stands
    finished(start("study", killed))
    assert files(killed) == files(whole)


def nobody_is_left(folder: Path) -> None:
    """Workers whose parent was killed end by themselves, at their next event."""
    end = time.monotonic() + 60
    while processes(folder):
        assert time.monotonic() < end, "a worker runs on without its parent"
        time.sleep(0.1)


def test_two_writers_of_one_file_leave_one_whole_file_and_no_other(tmp_path: Path) -> None:
    """Neither takes the other's half-written file for one that a killed process left."""
    script = (
        "import sys; from pathlib import Path; from parity.recording import write_atomically\n"
        "for _ in range(300): write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 1000)"
    )
    target = tmp_path / "report.json"
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(target), each], stderr=-1)
        for each in "ab"
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert target.read_bytes() in (b"a" * 1000, b"b" * 1000)
    write_atomically(target, b"c")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
