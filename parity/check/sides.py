"""A side of a check: a model in a process of its own, or one that lives in this process.

Either way files travel: what a side is asked and what it answers lie in the check's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from parity.check.graph import Graph
from parity.check.trace import Request, Trace
from shared_data.errors import InputError

LAST_LINES = 15  # of a dead worker's output, shown to the user


class Side(Protocol):
    """`framework` is keras or torch; `model` names it in a report."""

    framework: str
    model: str

    def describe(self, request: Request, folder: Path) -> Graph:
        """Leaves `graph.json`, `weights.safetensors` and `inputs.npz` in `folder`."""
        ...

    def trace(self, request: Request, folder: Path) -> Trace:
        """Leaves `trace.json` and `trace/` in `folder`."""
        ...


class Process:
    """A model that a worker of its wing builds: `module:function`, `file.py:function`, `.keras`."""

    def __init__(self, framework: str, model: str) -> None:
        self.framework, self.model = framework, model

    def describe(self, request: Request, folder: Path) -> Graph:
        self._work(request, folder, "--describe")
        return Graph.read(folder / "graph.json")

    def trace(self, request: Request, folder: Path) -> Trace:
        self._work(request, folder, "--trace")
        return Trace.read(folder)

    def _work(self, request: Request, folder: Path, what: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"request{what}.json"
        request.write(file)
        work(self.framework, ["-m", f"{self.framework}_impl.check", str(file), str(folder), what])


def work(framework: str, command: list[str]) -> None:
    """Run Python on `command` for a side. What it refuses is refused here, in its words."""
    done = subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    refused = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if done.returncode == 2 and refused:
        raise InputError("\n".join(lines[refused[-1] :]).removeprefix("error: "))
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
    hint = " It may have run out of memory: try a smaller batch." if done.returncode == -9 else ""
    last = "\n".join(f"    {line}" for line in lines[-LAST_LINES:]) or "    (nothing)"
    raise InputError(f"the {framework} side {how}.{hint} Its last lines:\n{last}")


class Live:
    """A model in this process, or a function that builds one.

    A model is left as it was: runs happen on copies, or are undone.
    """

    def __init__(self, framework: str, given: Any, builds: bool = False) -> None:
        self.framework = framework
        self._wing = import_module(f"{framework}_impl.check")
        self._build: Callable[[], Any] | None = partial(self._wing.built, given) if builds else None
        self._live = self._build() if self._build else given
        self.model = getattr(self._live, "name", None) or type(self._live).__name__
        let_both_live()

    def describe(self, request: Request, folder: Path) -> Graph:
        folder.mkdir(parents=True, exist_ok=True)
        self._wing.describe(self._live, request, folder)
        return Graph.read(folder / "graph.json")

    def trace(self, request: Request, folder: Path) -> Trace:
        if self.framework == "keras":  # in another precision it is another model
            self._wing.trace(self._live, request, folder, self._build)
            return Trace.read(folder)
        with self._wing.lent(self._live, request.weights) as model:
            self._wing.trace(model, request, folder)
        return Trace.read(folder)


def let_both_live() -> None:
    """Keep TensorFlow and PyTorch from ending the process together.

    The first optimizer of `torch.optim` loads triton, whose LLVM cannot be loaded beside
    TensorFlow's: "LLVM ERROR: inconsistency in registered CommandLine options". Without a GPU
    nothing needs triton. With one, it has to be imported before TensorFlow.
    """
    modules = sys.modules
    if "tensorflow" not in modules or "triton" in modules or "torch" not in modules:
        return
    if modules["torch"].cuda.is_available():
        raise InputError(
            "TensorFlow was imported before triton, which PyTorch needs on a GPU: the process "
            "would end when both meet. Put `import triton` before `import tensorflow` or `import "
            "keras`, or give builders as strings (module:function): these run in processes of "
            "their own."
        )
    modules["triton"] = None  # type: ignore[assignment]
