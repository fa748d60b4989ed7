"""Run arms, each in a fresh process of its own, and bring back their recordings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity import environment
from parity.engines import Engine, Failure, Observer, Task
from parity.experiment import Experiment
from parity.recording import Recording, arm_id
from shared_data.errors import InputError

FRAMEWORKS = ("keras", "torch")


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


def run(
    arms: Sequence[Arm],
    folder: Path,
    *,
    engine: Engine,
    observe: Observer,
    data: dict[str, Any],
) -> dict[str, Recording | Failure]:
    """Train every arm on `engine`, each into `folder/<arm id>`.

    What is finished there already, of this experiment on this `data` (`FaceData.summary`), in this
    environment, is not run again; what was begun goes on at its last checkpoint. Threads per arm
    come from the experiment, so the numbers do not depend on how many run at a time. One arm's
    failure leaves the others alone. Interrupted, all workers are ended before the exception goes
    on; a recording is either complete or not there.
    """
    results: dict[str, Recording | Failure] = {}
    tasks = []
    for arm in arms:
        done = _finished(arm, folder / arm.id, data, one_machine=engine.one_machine)
        if done:
            results[arm.id] = done
            observe(arm.id, {"event": "done", "error": None})
            continue
        (folder / arm.id / "probe.json").unlink(missing_ok=True)  # an earlier run's is not ours
        tasks.append(_task(arm, folder, "recording.json", "--no-probe", data=data))
    failed = engine.run(tasks, observe)
    for arm in (each for each in arms if each.id not in results):
        try:
            results[arm.id] = failed.get(arm.id) or Recording.read(folder / arm.id)
        except InputError as error:
            results[arm.id] = Failure(arm.id, str(error))
    return {arm.id: results[arm.id] for arm in arms}


def _finished(
    arm: Arm, folder: Path, data: dict[str, Any], *, one_machine: bool
) -> Recording | None:
    """The recording that training the arm again would give, if it is there: from this machine, or
    from any where arms run on many."""
    try:
        found = Recording.read(folder)
    except InputError:
        return None
    same = found.framework == arm.framework and found.experiment == arm.experiment
    same = same and not found.error and found.data == data
    same = same and environment.unchanged(arm.experiment, found.environment, machine=one_machine)
    return found if same else None


def probe(
    arms: Sequence[Arm],
    folder: Path,
    *,
    references: Mapping[Arm, Arm],
    engine: Engine,
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
        failed |= engine.run(tasks, observe)
    return failed


def by_data(arms: Iterable[Arm]) -> list[list[Arm]]:
    """The arms in groups that train on one prepared data set, each in the order given."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(str(arm.experiment.data_set), []).append(arm)
    return list(groups.values())


def _task(
    arm: Arm, folder: Path, result: str, *flags: str, data: dict[str, Any] | None = None
) -> Task:
    module = (f"{arm.framework}_impl.record",)
    return Task(arm.id, module, arm.experiment, folder / arm.id, result, flags, data)
