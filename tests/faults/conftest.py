"""A small data set, commands on a NumPy wing, and disks that are full or read-only."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from benchmarks import wellformed
from parity import environment
from parity.experiment import Experiment

Start = Callable[..., "subprocess.Popen[str]"]
Mounted = Callable[..., Any]


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty small images in two classes, no two alike."""
    root = tmp_path_factory.mktemp("faces")
    for number in range(30):
        path = root / ("fake", "real")[number % 2] / f"image_{number}.png"
        path.parent.mkdir(exist_ok=True)
        wellformed.picture(number, side=40).save(path)
    return root


@pytest.fixture
def experiment(faces: Path) -> Experiment:
    """Four epochs of six steps."""
    small: dict[str, Any] = {"image_size": 64, "epochs": 4, "batch_size": 4, "threads": 1}
    return Experiment.of(data=str(faces), padding=1, init="native", **small)


@pytest.fixture
def numpy_side(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The NumPy wing, in this process."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    side: Callable[[], Any] = importlib.import_module("numpy_impl.record").side
    return side


@pytest.fixture
def start(tmp_path: Path, experiment: Experiment) -> Start:
    """Start `python -m numpy_impl.MODULE FLAGS… EXPERIMENT.json FOLDER`."""
    file = tmp_path / "experiment.json"
    file.write_text(experiment.to_json())
    own = {**os.environ, **environment.variables(experiment)}  # else it has to start over

    def run(module: str, folder: Path, *flags: str, **options: Any) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        return subprocess.Popen(
            [sys.executable, "-m", f"numpy_impl.{module}", *flags, str(file), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**own, "PYTHONPATH": paths, **options.pop("env", {})},
            **options,
        )

    return run


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """A disk of its own: `with mounted(size="1m") as folder`, `with mounted(read_only=folder)`."""

    @contextmanager
    def mount(size: str = "", read_only: Path | None = None) -> Iterator[Path]:
        place = read_only or tmp_path / "disk"
        place.mkdir(exist_ok=True)
        if read_only:
            steps = [["--bind", place, place], ["-o", "remount,bind,ro", place]]
        else:
            steps = [["-t", "tmpfs", "-o", f"size={size}", "none", place]]
        done = 0
        try:
            for step in steps:
                result = subprocess.run(["mount", *map(str, step)], capture_output=True, text=True)
                if result.returncode:
                    pytest.skip(f"needs the right to mount: {result.stderr.strip()}")
                done += 1
            yield place
        finally:
            if done:
                subprocess.run(["umount", "--lazy", str(place)], check=True)  # images stay mapped

    return mount
