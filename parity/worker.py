"""Run arms, each in a fresh process of its own, and bring back their recordings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from parity import environment
from parity.experiment import Experiment
from parity.recording import Recording, arm_id, write_atomically
from shared_data.errors import InputError

FRAMEWORKS = ("keras", "torch")
LAST_LINES = 15  # of a dead worker's log, shown to the user
GRACE_SECONDS = 5.0

Result = TypeVar("Result")
Observer = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: an experiment and the framework that runs it."""

    framework: str
    experiment: Experiment

    @property
    def id(self) -> str:
        return arm_id(self.framework, self.experiment)


@dataclass(frozen=True)
class Failure:
    """Why an arm left no complete recording, in words for the user."""

    arm: str
    message: str


def run(
    arms: Sequence[Arm], folder: Path, *, jobs: int, observe: Observer
) -> dict[str, Recording | Failure]:
    """Train every arm, at most `jobs` at a time, each into `folder/<arm id>`.

    Threads per arm come from the experiment, so the numbers do not depend on `jobs`. One arm's
    failure leaves the others alone. Interrupted, all workers are ended before the exception
    goes on; a recording is either complete or not there.
    """

    def train(pool: _Pool, arm: Arm) -> Recording:
        (folder / arm.id / "probe.json").unlink(missing_ok=True)  # an earlier run's is not ours
        pool.run(arm, folder / arm.id, "recording.json", "--no-probe")
        return Recording.read(folder / arm.id)

    return _all(arms, train, jobs, observe)


def probe(
    arms: Sequence[Arm], folder: Path, *, jobs: int, observe: Observer, keep_tensors: bool = False
) -> dict[str, Failure]:
    """Take the probe of every arm beside its recording. Returns those that failed.

    The first framework's arms come first: each is the reference of its twins.
    """
    keep = ["--keep-tensors"] * keep_tensors

    def look(pool: _Pool, arm: Arm) -> Path:
        reference = folder / arm_id(FRAMEWORKS[0], arm.experiment)
        feeds = [] if arm.framework == FRAMEWORKS[0] else ["--reference", str(reference)]
        pool.run(arm, folder / arm.id, "probe.json", "--probe-only", *feeds, *keep)
        return folder / arm.id

    failed: dict[str, Failure] = {}
    for framework in FRAMEWORKS:
        results = _all([a for a in arms if a.framework == framework], look, jobs, observe)
        failed |= {arm: each for arm, each in results.items() if isinstance(each, Failure)}
    return failed


def _all(
    arms: Sequence[Arm], work: Callable[[_Pool, Arm], Result], jobs: int, observe: Observer
) -> dict[str, Result | Failure]:
    """What `work` makes of each arm, in the order of the arms."""
    pool = _Pool(observe)

    def one(arm: Arm) -> Result | Failure:
        try:
            return work(pool, arm)
        except InputError as error:
            observe(arm.id, {"event": "failed", "error": str(error)})
            return Failure(arm.id, str(error))

    with ThreadPoolExecutor(max_workers=jobs) as executor:
        try:
            futures = {executor.submit(one, arm): arm for arm in arms}
            finished = {futures[done].id: done.result() for done in as_completed(futures)}
        except BaseException:
            pool.close()
            executor.shutdown(cancel_futures=True)
            raise
    return {arm.id: finished[arm.id] for arm in arms}


class _Pool:
    """The living workers, so that all can be ended at once."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._lock = Lock()
        self._living: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, arm: Arm, folder: Path, result: str, *flags: str) -> None:
        """Let a worker write `folder/result`. Raises `InputError` if it does not finish."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / result).unlink(missing_ok=True)  # nor is this
        write_atomically(folder / "experiment.json", arm.experiment.to_json().encode())
        log = (folder / result).with_suffix(".log")
        with log.open("w") as errors:
            process = self._start(arm, folder, flags, errors)
            last = self._follow(arm, process)
            code = process.wait()
        with self._lock:
            self._living.discard(process)
        if last.get("event") == "refused":
            raise InputError(last["error"])
        if last.get("event") != "done":
            raise InputError(_post_mortem(arm, code, log))

    def close(self) -> None:
        """End every worker, and let none start any more."""
        with self._lock:
            self._closed = True
            living = list(self._living)
        for process in living:
            _signal(process, signal.SIGTERM)
        for process in living:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)

    def _start(
        self, arm: Arm, folder: Path, flags: Sequence[str], errors: Any
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"{arm.framework}_impl.record", "--events", *flags]
        with self._lock:
            if self._closed:
                raise InterruptedError("the run was ended")
            process = subprocess.Popen(
                [*command, str(folder / "experiment.json"), str(folder)],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **environment.variables(arm.experiment)},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends them
            )
            self._living.add(process)
            return process

    def _follow(self, arm: Arm, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Pass the worker's events on until it closes its stdout. Returns the last of them."""
        assert process.stdout is not None
        event: dict[str, Any] = {}
        for line in process.stdout:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # a library printed something
            if event["event"] != "refused":
                self._observe(arm.id, event)
        return event


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _post_mortem(arm: Arm, code: int, log: Path) -> str:
    killed = code < 0
    how = f"was killed by {signal.Signals(-code).name}" if killed else f"ended with code {code}"
    hint = " It may have run out of memory: try a smaller --batch-size." if code == -9 else ""
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] or ["(none)"]
    last = "\n".join(f"    {line}" for line in lines)
    return f"the worker of {arm.id} {how}.{hint} Its last lines ({log}):\n{last}"
