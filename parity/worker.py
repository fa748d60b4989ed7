"""Run arms, each in a fresh process of its own, and bring back their recordings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from parity import environment
from parity.experiment import Experiment
from parity.recording import Recording, arm_id, write_atomically
from shared_data.errors import InputError

FRAMEWORKS = ("keras", "torch")
LAST_LINES = 15  # of a dead worker's log, shown to the user
GRACE_SECONDS = 5.0

Observer = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: an experiment and the framework that runs it.

    `name` tells arms apart whose experiments differ in more than their padding.
    """

    framework: str
    experiment: Experiment
    name: str = ""

    @property
    def id(self) -> str:
        return self.name or arm_id(self.framework, self.experiment)


@dataclass(frozen=True)
class Task:
    """What one worker process does: `python -m MODULE EXPERIMENT FOLDER FLAGS…`.

    `name` stands in events and messages, `result` is the file in `folder` that it writes last.
    """

    name: str
    module: tuple[str, ...]
    experiment: Experiment
    folder: Path
    result: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a task left no complete result, in words for the user."""

    arm: str
    message: str


def run(
    arms: Sequence[Arm], folder: Path, *, jobs: int, observe: Observer, data: dict[str, Any]
) -> dict[str, Recording | Failure]:
    """Train every arm, at most `jobs` at a time, each into `folder/<arm id>`.

    What is finished there already, of this experiment on this `data` (`FaceData.summary`), in this
    environment, is not run again; what was begun goes on at its last checkpoint. Threads per arm
    come from the experiment, so the numbers do not depend on `jobs`. One arm's failure leaves the
    others alone. Interrupted, all workers are ended before the exception goes on; a recording is
    either complete or not there.
    """
    results: dict[str, Recording | Failure] = {}
    tasks = []
    for arm in arms:
        done = _finished(arm, folder / arm.id, data)
        if done:
            results[arm.id] = done
            observe(arm.id, {"event": "done", "error": None})
            continue
        (folder / arm.id / "probe.json").unlink(missing_ok=True)  # an earlier run's is not ours
        tasks.append(_task(arm, folder, "recording.json", "--no-probe"))
    failed = finish(tasks, jobs=jobs, observe=observe)
    for arm in (each for each in arms if each.id not in results):
        try:
            results[arm.id] = failed.get(arm.id) or Recording.read(folder / arm.id)
        except InputError as error:
            results[arm.id] = Failure(arm.id, str(error))
    return {arm.id: results[arm.id] for arm in arms}


def _finished(arm: Arm, folder: Path, data: dict[str, Any]) -> Recording | None:
    """The recording that training the arm again would give, if it is there."""
    try:
        found = Recording.read(folder)
    except InputError:
        return None
    same = found.framework == arm.framework and found.experiment == arm.experiment
    same = same and not found.error and found.data == data
    return found if same and environment.unchanged(arm.experiment, found.environment) else None


def probe(
    arms: Sequence[Arm],
    folder: Path,
    *,
    references: Mapping[Arm, Arm],
    jobs: int,
    observe: Observer,
    keep_tensors: bool = False,
) -> dict[str, Failure]:
    """Take the probe of every arm beside its recording. Returns those that failed.

    Each key of `references` also runs its layers on the tensors of its value, another of the
    `arms`, of the same experiment. These come first.
    """
    failed: dict[str, Failure] = {}
    for fed in (False, True):
        tasks = []
        for arm in (each for each in arms if (each in references) == fed):
            flags = ["--probe-only", *(["--keep-tensors"] * keep_tensors)]
            if fed:
                flags += ["--reference", str(folder / references[arm].id)]
            tasks.append(_task(arm, folder, "probe.json", *flags))
        failed |= finish(tasks, jobs=jobs, observe=observe)
    return failed


def finish(tasks: Sequence[Task], *, jobs: int, observe: Observer) -> dict[str, Failure]:
    """Run every task, at most `jobs` at a time. Returns those that failed, by name."""
    pool = _Pool(observe)
    with ThreadPoolExecutor(max_workers=jobs) as executor:
        try:
            futures = [executor.submit(pool.run, task) for task in tasks]
            results = [done.result() for done in as_completed(futures)]
        except BaseException:
            pool.close()
            executor.shutdown(cancel_futures=True)
            raise
    return {failure.arm: failure for failure in results if failure}


def _task(arm: Arm, folder: Path, result: str, *flags: str) -> Task:
    module = (f"{arm.framework}_impl.record",)
    return Task(arm.id, module, arm.experiment, folder / arm.id, result, flags)


class _Pool:
    """The living workers, so that all can be ended at once."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._lock = Lock()
        self._living: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, task: Task) -> Failure | None:
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / task.result).unlink(missing_ok=True)  # an earlier run's is not ours
        write_atomically(task.folder / "experiment.json", task.experiment.to_json().encode())
        log = (task.folder / task.result).with_suffix(".log")
        with log.open("w") as errors:
            process = self._start(task, errors)
            last = self._follow(task, process)
            code = process.wait()
        with self._lock:
            self._living.discard(process)
        if last.get("event") == "done":
            return None
        refused = last.get("event") == "refused"
        message = last["error"] if refused else _post_mortem(task, code, log)
        self._observe(task.name, {"event": "failed", "error": message})
        return Failure(task.name, message)

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

    def _start(self, task: Task, errors: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *task.module, "--events", *task.flags]
        with self._lock:
            if self._closed:
                raise InterruptedError("the run was ended")
            process = subprocess.Popen(
                [*command, str(task.folder / "experiment.json"), str(task.folder)],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **environment.variables(task.experiment)},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends them
            )
            self._living.add(process)
            return process

    def _follow(self, task: Task, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Pass the worker's events on until it closes its stdout. Returns the last of them."""
        assert process.stdout is not None
        event: dict[str, Any] = {}
        for line in process.stdout:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # a library printed something
            if event["event"] != "refused":
                self._observe(task.name, event)
        return event


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _post_mortem(task: Task, code: int, log: Path) -> str:
    killed = code < 0
    how = f"was killed by {signal.Signals(-code).name}" if killed else f"ended with code {code}"
    hint = " It may have run out of memory: try a smaller --batch-size." if code == -9 else ""
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] or ["(none)"]
    last = "\n".join(f"    {line}" for line in lines)
    return f"the worker of {task.name} {how}.{hint} Its last lines ({log}):\n{last}"
