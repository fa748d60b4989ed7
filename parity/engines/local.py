"""The engine of one machine: worker processes, at most `jobs` at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from parity import environment
from parity.engines import RETRIES, Failure, Observer, Task
from parity.recording import explained, write_atomically
from shared_data.errors import InputError

LAST_LINES = 15  # of a dead worker's log, shown to the user
GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.5  # Ray interrupts a node's main thread between two looks, not within one


class Local:
    """Worker processes of this machine. See `Engine`."""

    one_machine = True

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._lock = Lock()
        self._living: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, tasks: Sequence[Task], observe: Observer) -> dict[str, Failure]:
        with ThreadPoolExecutor(max_workers=self.jobs) as executor:
            try:
                waiting = {executor.submit(self._run, task, observe) for task in tasks}
                results = []
                while waiting:
                    done, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                    results += [each.result() for each in done]
            except BaseException:
                self.close()
                executor.shutdown(cancel_futures=True)
                raise
        return {failure.arm: failure for failure in results if failure}

    def close(self) -> None:
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

    def _run(self, task: Task, observe: Observer) -> Failure | None:
        """One task to its end, started again where a signal killed it; it goes on at its last
        checkpoint then."""
        for attempt in range(1, RETRIES + 2):
            try:
                code, last = self._attempt(task, observe)
            except InputError as error:  # of its folder: the others may have room
                code, last = 2, {"event": "refused", "error": str(error)}
            lost = code < 0 and last.get("event") != "done" and not self._closed
            if not lost or attempt > RETRIES:
                break
            again = f"killed by {_signal_name(code)}, started again ({attempt} of {RETRIES})"
            observe(task.name, {"event": "retry", "error": again})
        if last.get("event") == "done":
            return None
        refused = last.get("event") == "refused"
        message = last["error"] if refused else _post_mortem(task, code)
        observe(task.name, {"event": "failed", "error": message})
        return Failure(task.name, message, unavailable=bool(last.get("unavailable")))

    def _attempt(self, task: Task, observe: Observer) -> tuple[int, dict[str, Any]]:
        """Exit code and last event of one worker process."""
        with explained(task.folder):
            task.folder.mkdir(parents=True, exist_ok=True)
            (task.folder / task.result).unlink(missing_ok=True)  # an earlier run's is not ours
            write_atomically(task.folder / "experiment.json", task.experiment.to_json().encode())
            log = _log(task).open("w")
        with log as errors:
            process = self._start(task, errors)
            last = _follow(task, process, observe)
            code = process.wait()
        with self._lock:
            self._living.discard(process)
        return code, last

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


def _follow(task: Task, process: subprocess.Popen[str], observe: Observer) -> dict[str, Any]:
    """Pass the worker's events on until it closes its stdout. Returns the last of them."""
    assert process.stdout is not None
    event: dict[str, Any] = {}
    for line in process.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library printed something
        if event["event"] != "refused":
            observe(task.name, event)
    return event


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name


def _log(task: Task) -> Path:
    return (task.folder / task.result).with_suffix(".log")


def _post_mortem(task: Task, code: int) -> str:
    how = f"was killed by {_signal_name(code)}" if code < 0 else f"ended with code {code}"
    hint = " It may have run out of memory: try a smaller --batch-size." if code == -9 else ""
    lines = _log(task).read_text(errors="replace").splitlines()[-LAST_LINES:] or ["(none)"]
    last = "\n".join(f"    {line}" for line in lines)
    return f"the worker of {task.name} {how}.{hint} Its last lines ({_log(task)}):\n{last}"
