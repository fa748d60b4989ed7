"""How long each command takes to say what it does: `--help` in a fresh process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Figure, Part
from benchmarks.shape import Shape

PARTS = ("startup",)
TITLES = {"startup": "Start-up"}
LIMIT = 0.3  # seconds, the interpreter's own included
PACKAGES = ("parity", "keras_impl", "torch_impl", "shared_data", "benchmarks")
# Workers, not commands: the self-test's, the benchmarks' processes and the task that does nothing.
NO_COMMANDS = {"torch_impl.faults", "benchmarks.measure", "benchmarks.nothing"}
ROOT = Path(__file__).parents[1]


def run(shape: Shape, data: str, wanted: Collection[str]) -> dict[str, Part]:
    if "startup" not in wanted:
        return {}
    part = Part()
    found: dict[str, list[float]] = {"the interpreter alone": []}
    found |= {f"{name} --help": [] for name in commands()}
    for turn in range(shape.starts + 1):
        if turn % 4 == 0:
            measure.progress(f"  start {turn} of {shape.starts}")
        for name, seconds in found.items():
            taken = _start(name)
            if turn:  # before, bytecode is compiled and files come from the disk
                seconds.append(taken)
    for name, seconds in found.items():
        limit = LIMIT if name.endswith("--help") else None
        part.figures.append(Figure(name, "s", tuple(seconds), limit))
    return {"startup": part}


def commands() -> list[str]:
    """Every module that `python -m` can run."""
    found = []
    for file in sorted(each for package in PACKAGES for each in (ROOT / package).rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if re.search(r"^if __name__ == .__main__.:", file.read_text(), re.MULTILINE):
            found.append(name.removesuffix(".__main__"))
    return [name for name in found if name not in NO_COMMANDS]


def _start(name: str) -> float:
    arguments = ["-m", *name.split()] if name.endswith("--help") else ["-c", ""]
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "80"},
    )
    return time.perf_counter() - begun
