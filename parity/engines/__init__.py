"""Where tasks run: an engine takes what worker processes are to do and sees each to its end.

`local` starts them on this machine, `ray` on the nodes of a Ray cluster, each of which is a `local`
engine of its own. Nothing of a result depends on the engine: a worker gets a file and leaves files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from parity.experiment import Experiment

RETRIES = 2  # times that a task is started again after its process or its node was lost

Observer = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """What one worker process does: `python -m MODULE --events FLAGS… EXPERIMENT FOLDER`.

    `name` stands in events and messages, `result` is the file in `folder` that it writes last.
    `data` is the summary of the data set (`FaceData.summary`) that it must find; an engine whose
    machines have caches of their own fills those first.
    """

    name: str
    module: tuple[str, ...]
    experiment: Experiment
    folder: Path
    result: str
    flags: tuple[str, ...] = ()
    data: dict[str, Any] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a task left no complete result, in words for the user.

    `unavailable`: nothing went wrong, but the machine has not what the task needs, such as a GPU.
    """

    arm: str
    message: str
    unavailable: bool = False


class Engine(Protocol):
    """Runs tasks, each in a fresh process under `environment.variables` of its experiment.

    Attributes:
        jobs: about how many tasks run at a time.
        one_machine: whether all of them run on this machine.
    """

    jobs: int
    one_machine: bool

    def run(self, tasks: Sequence[Task], observe: Observer) -> dict[str, Failure]:
        """Run every task; return those that failed, by name.

        `observe` gets each event of a worker under its task's name, `failed` for a task that
        failed, and `retry` where a process or its node was lost (killed, out of memory, gone) and
        the task starts again, at most `RETRIES` times. One task's failure leaves the others alone.
        Interrupted, all workers are ended before the exception goes on.
        """
        ...

    def close(self) -> None:
        """End what still runs and let go of the machines; the engine runs nothing after that."""
        ...
