"""Fixtures that several test files share. No test touches the user's own cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# With both frameworks in one process, the first PyTorch optimizer loads triton's LLVM beside
# TensorFlow's, which ends the process. Nothing here needs triton.
sys.modules["triton"] = None  # type: ignore[assignment]
os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
sys.path.insert(0, str(Path(__file__).parent))  # for the oracle

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FACES = SHARED / "data" / "hardfakevsrealfaces"
OOD = SHARED / "data" / "deepfake-and-real-images-sample"

# The smallest real comparison: every arm trains for two epochs on drawn faces within seconds.
SMALL = (
    *("--image-size", "190", "--width", "0.07", "--epochs", "2", "--batch-size", "8"),
    *("--synthetic-images", "40", "--threads", "1"),
)


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the test session's own, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PARITY_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def keras_settings() -> Iterator[None]:
    """Trainers set Keras' default precision, as in a process of their own: no file inherits it."""
    keras: Any = sys.modules.get("keras")
    before = keras.config.floatx() if keras else "float32"
    yield
    keras = sys.modules.get("keras")
    if keras and keras.config.floatx() != before:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def command(cache: Path) -> Callable[..., Finished]:
    """Run `python -m MODULE ARGUMENTS…` as a user would, from the project's root."""

    def run(module: str, *arguments: str | Path, timeout: float = 300) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def small_run(
    command: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Finished, Path]:
    """One whole comparison, all four arms, two at a time."""
    out = tmp_path_factory.mktemp("small")
    return command("parity.compare", *SMALL, "--jobs", "2", "--out", out), out
