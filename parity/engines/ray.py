"""The engine of many machines: each task is a Ray task, on its node a `Local` engine of one job.

The nodes share the folder of the results at one path, and the folder that the command runs in if
paths are relative to it. A task that a lost node had begun starts again on another, which goes on
at the last checkpoint in the shared folder, if it is a machine of the same kind.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any

from parity import environment
from parity.engines import RETRIES, Failure, Observer, Task, sizing
from parity.engines.local import GRACE_SECONDS, Local
from parity.experiment import Experiment
from shared_data.errors import InputError

LOOK_SECONDS = 0.2  # between two looks for events
ANSWER_SECONDS = 5.0  # for a cluster to take a connection


class Ray:
    """The nodes of a Ray cluster. See `Engine`.

    Args:
        address: of a running cluster (`host:port`); by default the one that this machine belongs
            to, else one of this machine alone is started, and ended with the engine.
        experiment: the largest of those that will run, for `jobs`.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or no node of it has the CPUs,
            memory or GPU for one arm.
    """

    one_machine = False

    def __init__(self, address: str | None, experiment: Experiment) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        try:
            import ray
        except ImportError:
            raise InputError(
                "--engine ray needs the package ray, which is not installed. "
                "Run pip install 'parity-bench[ray]', on every node."
            ) from None
        try:
            if address and ":" in address:  # Ray would try for a quarter of an hour
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({error}). `ray start --head` "
                "starts one and prints its address; one with a token wants RAY_AUTH_MODE=token."
            ) from None
        # A thread of Ray's tells of nodes that it lost, at any time: stdout is the command's.
        self._aside = ExitStack()
        self._aside.enter_context(redirect_stdout(sys.stderr))
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self.jobs = sum(_room(node, experiment) for node in ray.nodes())
        if not self.jobs:
            self.close()
            raise InputError(_no_room(experiment))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # On the node of this process: another's loss must not take the events of all with it.
        self._events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def run(self, tasks: Sequence[Task], observe: Observer) -> dict[str, Failure]:
        running = {self._submit(task): (task, 1) for task in tasks}
        failed = {}
        try:
            while running:
                done, _ = self._ray.wait(list(running), timeout=LOOK_SECONDS)
                self._pass_on(observe)
                for reference in done:
                    task, attempt = running.pop(reference)
                    failure, lost = self._result(reference, task)
                    if lost and attempt <= RETRIES:
                        again = f"{lost}, started again ({attempt} of {RETRIES})"
                        observe(task.name, {"event": "retry", "error": again})
                        running[self._submit(task)] = (task, attempt + 1)
                    elif failure:
                        failed[task.name] = failure
                        if lost:  # of any other failure its node has told
                            observe(task.name, {"event": "failed", "error": failure.message})
        except BaseException:
            self._cancel(list(running))
            raise
        return failed

    def close(self) -> None:
        self._ray.shutdown()
        self._aside.close()

    def _cancel(self, references: list[Any]) -> None:
        """Interrupt tasks, and wait until their nodes have ended the workers."""
        for reference in references:
            self._ray.cancel(reference)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=2 * GRACE_SECONDS)

    def _submit(self, task: Task) -> Any:
        task.folder.mkdir(parents=True, exist_ok=True)  # the node looks whether it shares it
        remote = self._ray.remote(_on_node).options(
            **_needs(task.experiment),
            max_retries=0,  # `run` starts it again, and says so
            name=task.name,
        )
        threads = environment.thread_count(task.experiment)
        return remote.remote(task, Path.cwd(), threads, self._events)

    def _result(self, reference: Any, task: Task) -> tuple[Failure | None, str]:
        """What became of a task, and how it was lost, if it was."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference), ""
        except errors.RayTaskError:  # the code on the node raised
            raise
        except errors.RayError as error:
            lost = f"lost with its node or its Ray worker ({type(error).__name__})"
            return Failure(task.name, f"{task.name} was {lost}: {error}"), lost

    def _pass_on(self, observe: Observer) -> None:
        for name, event in self._events.get_nowait_batch(self._events.qsize()):
            observe(name, event)


def _on_node(task: Task, cwd: Path, threads: int, events: Any) -> Failure | None:
    """What Ray runs on a node. Ray cancels it by an interrupt, which ends the worker as Ctrl-C
    does; is this process killed, the worker ends at its next event, which nobody reads."""

    def send(name: str, event: dict[str, Any]) -> None:
        events.put((name, event))

    try:
        _enter(cwd, task, threads)
        if task.data is not None:
            _prepared(task)
        return Local(jobs=1).run([task], send).get(task.name)
    except (InputError, OSError) as error:
        message = f"node {os.uname().nodename}: {error}"
        send(task.name, {"event": "failed", "error": message})
        return Failure(task.name, message)


def _enter(cwd: Path, task: Task, threads: int) -> None:
    """Into the folder in which the command was given. Raises where this node cannot do the task as
    the machine that asks for it would."""
    with suppress(FileNotFoundError):  # only relative paths need it
        os.chdir(cwd)
    if not task.folder.is_dir():
        raise InputError(
            f"there is no {task.folder}. Give an --out that all nodes share at the same path."
        )
    here = environment.thread_count(task.experiment)
    if here != threads:
        raise InputError(
            f"0 threads mean all cores, which are {here} here and {threads} where the command "
            f"runs, and numbers depend on them. Say --threads {min(here, threads)}."
        )


def _prepared(task: Task) -> None:
    """Fill this node's cache, unless it is; raises where the node has other data."""
    found = _summary(**task.experiment.data_set)
    if found != task.data:
        raise InputError(
            f"--data {task.experiment.data} is other data here: digest {found['digest'][:12]}, "
            f"where the command runs {(task.data or {})['digest'][:12]}."
        )


@cache  # of this process, which Ray uses for more than one task
def _summary(**data_set: Any) -> dict[str, Any]:
    from shared_data.batches import load

    with _alone():
        return load(**data_set).summary()


@contextmanager
def _alone() -> Iterator[None]:
    """One process of this machine at a time; the lock goes with the process that held it."""
    from shared_data.caching import cache_root

    cache_root().mkdir(parents=True, exist_ok=True)
    with open(cache_root() / ".prepare.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _needs(experiment: Experiment) -> dict[str, float]:
    """What an arm takes of a node, as Ray counts it."""
    return {
        "num_cpus": environment.thread_count(experiment),
        "num_gpus": float(experiment.device == "cuda"),
        "memory": sizing.memory(experiment),
    }


def _room(node: dict[str, Any], experiment: Experiment) -> int:
    """How many arms a node has room for at a time."""
    has = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    return min(
        int(node["Resources"].get(has[name], 0) / amount)
        for name, amount in _needs(experiment).items()
        if amount
    ) * bool(node["Alive"])


def _no_room(experiment: Experiment) -> str:
    needs = _needs(experiment)
    gpu = " and a GPU" if needs["num_gpus"] else ""
    return (
        f"--engine ray: an arm takes {needs['num_cpus']} CPUs, {needs['memory'] / 1e9:.1f} GB of "
        f"memory{gpu}, and no node of the cluster has them. Give fewer --threads, a smaller "
        "--batch-size, or larger nodes."
    )
