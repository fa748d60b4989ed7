"""A side of a check: a model in a process of its own, or one that lives in this process.

Either way files travel: what a side is asked and what it answers lie in the check's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, Self

from parity import environment
from parity.check import worker
from parity.check.graph import Graph
from parity.check.trace import Request, Trace
from shared_data.errors import InputError

LAST_LINES, LAST_BYTES = 15, 1 << 16  # of a dead worker, shown to the user


class Side(ABC):
    """`framework` is keras or torch; `model` names it in a report; `method` is what of it is
    compared, its call where that is empty."""

    framework: str
    model: str
    method: str

    @abstractmethod
    def ask(self, what: str, request: Request, folder: Path) -> None:
        """Have the wing's function of that name (`keras_impl/check.py` and its twin) write what is
        asked into `folder`. Raises `InputError` with what it refuses."""

    def start(self, threads: int = 0) -> None:  # noqa: B027
        """Get ready to be asked, while others work."""

    def close(self) -> None:  # noqa: B027
        """End what was started. What is asked later starts it again."""

    def describe(self, request: Request, folder: Path) -> Graph:
        """Leaves `graph.json`, `weights.safetensors` and `inputs.npz` in `folder`."""
        self.ask("describe", request, folder)
        return Graph.read(folder / "graph.json")

    def trace(self, request: Request, folder: Path) -> Trace:
        """Leaves `trace.json` and `trace/` in `folder`."""
        self.ask("trace", request, folder)
        return Trace.read(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Process(Side):
    """A model that a worker of its wing builds: `module:function`, `file.py:function`, `.keras`.

    The worker is one process for all that is asked (`parity.check.worker.serve`), started at the
    first question or before. It ends when this is closed or forgotten, and when this process ends,
    however that ends.
    """

    def __init__(self, framework: str, model: str, method: str = "") -> None:
        self.framework, self.model, self.method = framework, model, method
        self._worker: _Started | None = None

    def start(self, threads: int = 0) -> None:
        if self._worker and self._worker.threads != threads:  # libraries read it when they load
            self.close()
        self._worker = self._worker or _Started(self.framework, threads)

    def ask(self, what: str, request: Request, folder: Path) -> None:
        self.start(request.threads)
        assert self._worker is not None
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"request-{what}.json"
        request.write(file)
        try:
            answer = self._worker.ask(what, str(file.absolute()), str(folder.absolute()))
        except BaseException:  # interrupted: an answer that comes now would answer nothing
            self.close()
            raise
        if answer is None:
            status, lines = self._worker.ended()
            self.close()
            raise _died(self.framework, status, lines)
        if "refused" in answer:
            raise InputError(answer["refused"])

    def close(self) -> None:
        if self._worker:
            self._worker.end()
        self._worker = None


class _Started:
    """A worker that serves."""

    def __init__(self, framework: str, threads: int) -> None:
        self.threads = threads
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `_end` closes it
        self._before = 0  # how much of that belongs to what was answered
        variables = environment.variables(
            worker.like(Request("", threads=threads)), keep_pages=False
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{framework}_impl.check", "--serve", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # users' code prints to it
                stderr=self._said,
                text=True,
                pass_fds=[theirs],
                env={**os.environ, **variables},
            )
        finally:
            os.close(theirs)
        self.end = weakref.finalize(self, _end, self._process, self._answers, self._said)

    def ask(self, what: str, file: str, folder: str) -> dict[str, str] | None:
        """The answer; None where the worker ended without one."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            print(json.dumps([what, file, folder]), file=stdin, flush=True)
        except BrokenPipeError:
            return None
        while True:
            over = self._process.poll() is not None
            # A process that the user's code started may hold the pipe open: no end of it to see.
            if wait([self._answers.fileno()], 0 if over else 1):
                line = self._answers.readline()
                break
            if over:
                return None
        if not line.endswith("\n"):
            return None
        self._before = os.fstat(self._said.fileno()).st_size
        answer: dict[str, str] = json.loads(line)
        return answer

    def ended(self) -> tuple[int, list[str]]:
        """The status of a worker that ended, and its last lines since it last answered."""
        status = self._process.wait()
        size = os.fstat(self._said.fileno()).st_size
        start = max(self._before, size - LAST_BYTES)
        said = os.pread(self._said.fileno(), size - start, start).decode(errors="replace")
        return status, [line for line in said.splitlines() if line.strip()][-LAST_LINES:]


def _end(process: subprocess.Popen[str], *files: IO[Any]) -> None:
    """A worker has nothing to finish: what it writes is whole, or not there."""
    process.kill()
    process.wait()
    for each in (process.stdin, *files):
        try:
            if each:
                each.close()
        except BrokenPipeError:  # a question that nobody read
            pass


def _died(framework: str, status: int, lines: list[str]) -> InputError:
    how = f"was killed by signal {-status}" if status < 0 else "failed"
    hint = " It may have run out of memory: try a smaller batch." if status == -9 else ""
    last = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
    return InputError(f"the {framework} side {how}.{hint} Its last lines:\n{last}")


class Live(Side):
    """A model in this process, or a function that builds one.

    A model is left as it was: runs happen on copies, or are undone.
    """

    def __init__(self, framework: str, given: Any, builds: bool = False, method: str = "") -> None:
        self.framework, self.method = framework, method
        self._wing = import_module(f"{framework}_impl.check")
        self._build: Callable[[], Any] | None = None
        if builds:
            self._build = partial(self._wing.built, given, method)
        self._live = self._build() if self._build else self._wing.by_method(given, method)
        self._kept: dict[str, Any] = {}  # by precision, where that takes another model
        self.model = getattr(self._live, "name", None) or type(self._live).__name__
        let_both_live()

    def ask(self, what: str, request: Request, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        do = getattr(self._wing, what)
        if what in worker.OWN_PRECISION:  # which leaves a model as it was
            do(self._live, request, folder)
            return
        with self._wing.lent(self._live, request, self._build, self._kept) as model:
            do(model, request, folder)


def methods_of(given: str) -> tuple[str, str]:
    """Keras' and PyTorch's, of `NAME` or `KERAS_NAME:TORCH_NAME`."""
    ours, colon, theirs = given.partition(":")
    return ours, theirs if colon else ours


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
