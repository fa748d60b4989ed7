"""Both engines do the same with the same tasks; how many arms fit; what the flags ask for."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Finished

from parity import cli, environment, matrix
from parity.engines import RETRIES, Task, ray, sizing
from parity.experiment import Experiment
from shared_data import batches
from shared_data.errors import InputError

Command = Callable[..., Finished]
PROCESSES = [sys.executable, "-m", "tests.parity.engine_processes"]
BEHAVIOURS = ("finish", "refuse", "crash", "die-once", "die")
KEPT = sorted((ROOT / "results").rglob("recording.json"))

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
ENGINES = ["local", pytest.param("ray", marks=needs_ray)]


class Nodes:
    """A Ray cluster of two nodes on this machine, each with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.caches = [folder / "cache-head", folder / "cache-second"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [*PROCESSES, "cluster", *map(str, self.caches)],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
        self.address = self._answer()

    def lose_the_second(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("lose the second\n")
        self._process.stdin.flush()
        assert self._answer() == "gone"

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    found = Nodes(tmp_path_factory.mktemp("nodes"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=ENGINES)
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Path]:
    """An engine, what a run of every behaviour gave, and the folder of the results."""
    folder = tmp_path_factory.mktemp("ran")
    stale = folder / "crash" / "result.json"
    stale.parent.mkdir()
    stale.write_text("an earlier run's")
    address, more = "", ()
    if request.param == "ray":
        address, more = request.getfixturevalue("nodes").address, ("other-data",)
    done = subprocess.run(
        [*PROCESSES, "drive", request.param, address, str(folder), *BEHAVIOURS, *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout), folder


def _of(said: dict[str, Any], task: str) -> list[str]:
    return [event["event"] for name, event in said["events"] if name == task]


@pytest.mark.workers
def test_events_come_in_order_and_the_result_is_there(ran: tuple[str, Any, Path]) -> None:
    _, said, folder = ran
    assert _of(said, "finish") == ["start", "done"]
    assert ["finish", {"event": "start", "steps": 10}] in said["events"]
    assert (folder / "finish" / "result.json").exists()


@pytest.mark.workers
def test_each_task_has_a_fresh_process_under_its_experiments_environment(
    ran: tuple[str, Any, Path],
) -> None:
    _, _, folder = ran
    found = [json.loads((folder / name / "result.json").read_text()) for name in BEHAVIOURS[::3]]
    assert found[0].pop("pid") != found[1].pop("pid")
    for each in found:
        assert each == {
            "OMP_NUM_THREADS": "1",
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONHASHSEED": "0",
        }


@pytest.mark.workers
def test_failures_are_told_and_leave_the_others_alone(ran: tuple[str, Any, Path]) -> None:
    _, said, folder = ran
    assert {"refuse", "crash", "die"} == said["failed"].keys() - {"other-data"}
    assert said["failed"]["refuse"] == "this cannot be done"
    assert "the worker of crash ended with code 3" in said["failed"]["crash"]
    assert "the last words" in said["failed"]["crash"]
    assert not (folder / "crash" / "result.json").exists()
    for name in ("refuse", "crash"):
        assert _of(said, name) == ["start", "failed"]


@pytest.mark.workers
def test_a_killed_worker_is_started_again_a_few_times(ran: tuple[str, Any, Path]) -> None:
    _, said, _ = ran
    assert _of(said, "die-once") == ["start", "retry", "start", "done"]
    assert _of(said, "die") == ["start", "retry"] * RETRIES + ["start", "failed"]
    assert "the worker of die was killed by SIGKILL" in said["failed"]["die"]
    again = [event["error"] for _, event in said["events"] if event["event"] == "retry"]
    assert f"killed by SIGKILL, started again (1 of {RETRIES})" in again


@pytest.mark.workers
@pytest.mark.parametrize("ran", ENGINES[1:], indirect=True)
def test_a_node_with_other_data_is_refused(ran: tuple[str, Any, Path]) -> None:
    _, said, folder = ran
    assert "other data" in said["failed"]["other-data"]
    assert "where the command runs 000000000000" in said["failed"]["other-data"]
    assert not (folder / "other-data" / "result.json").exists()


@pytest.mark.workers
@pytest.mark.parametrize("engine", ENGINES)
def test_interrupted_no_worker_stays(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    address = request.getfixturevalue("nodes").address if engine == "ray" else ""
    process = subprocess.Popen(
        [*PROCESSES, "drive", engine, address, str(tmp_path), "sleep"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A suite started in the background of a shell ignores SIGINT, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    asleep = tmp_path / "sleep" / "asleep"
    _wait_for(lambda: asleep.exists() and bool(asleep.read_text()))
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode and "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(asleep.read_text()), 0)


@pytest.mark.workers
@needs_ray
def test_a_node_lost_in_the_middle_loses_nothing(
    nodes: Nodes, command: Command, tmp_path: Path
) -> None:
    arguments = (
        *("--image-size", "190", "--width", "0.125", "--batch-size", "3", "--threads", "1"),
        *("--synthetic-images", "24", "--epochs", "6", "--paddings", "1"),
    )
    alone = command("parity.matrix", *arguments, "--out", tmp_path / "local", "--json")
    assert alone.code == 0, alone.err
    out = tmp_path / "ray"
    on_ray = (*arguments, "--out", out, "--json", "--engine", "ray", "--address", nodes.address)
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.matrix", *map(str, on_ray)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    stopped: list[int] = []  # in the middle, however fast this machine is
    _wait_for(lambda: _stop(out, nodes.caches[1], stopped) or process.poll() is not None)
    nodes.lose_the_second()
    for worker in stopped:  # with its node
        os.kill(worker, signal.SIGKILL)
    told, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "lost with its node" in errors and "going on after epoch" in errors
    assert told.startswith("{"), told[:500]
    for left, right in zip(alone.json["arms"], json.loads(told)["arms"], strict=True):
        assert (left["arm"], left["digest"]) == (right["arm"], right["digest"])
        both = [of / left["arm"] / "tensors.safetensors" for of in (tmp_path / "local", out)]
        assert both[0].read_bytes() == both[1].read_bytes()
    for cache in nodes.caches:  # each node has prepared the data for itself, once
        assert len(list((cache / "images").iterdir())) == 1
    again = command("parity.matrix", *on_ray)
    assert again.code == 0 and "epoch" not in again.err
    assert [arm["digest"] for arm in again.json["arms"]] == [
        arm["digest"] for arm in alone.json["arms"]
    ]


def _stop(out: Path, cache: Path, stopped: list[int]) -> bool:
    """Halt an arm on the node with this cache if it has ended an epoch."""
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode()
            if "_impl.record" not in line or str(out) not in line:
                continue
            if f"PARITY_CACHE={cache}" in (entry / "environ").read_bytes().decode():
                folder = Path(line.rstrip("\0").rpartition("\0")[2])
                if any(folder.glob("checkpoints/epoch-*/recording.json")):
                    stopped.append(int(entry.name))
                    os.kill(stopped[-1], signal.SIGSTOP)
                    return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_a_node_refuses_what_it_would_do_otherwise(tmp_path: Path) -> None:
    task = Task("arm", ("module",), Experiment(), tmp_path, "result.json")
    cores = environment.cores()
    with pytest.raises(InputError, match=f"{cores} here and {cores + 1} where the command runs"):
        ray._enter(Path.cwd(), task, cores + 1)
    ray._enter(Path.cwd(), task, cores)
    elsewhere = Task("arm", ("module",), Experiment(), tmp_path / "not-here", "result.json")
    with pytest.raises(InputError, match="all nodes share"):
        ray._enter(Path.cwd(), elsewhere, cores)


def test_one_process_of_a_node_prepares_the_data_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
    inside, most = [], []

    def load(**_: object) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return SimpleNamespace(summary=dict)

    monkeypatch.setattr(batches, "load", load)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: ray._summary(split_seed=seed), range(4)))
    assert most == [1] * 4


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"parity-bench\[ray\]"):
        ray.Ray(None, Experiment())


def _node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("node", "room"),
    [
        (_node(CPU=8, memory=64e9), 4),
        (_node(CPU=8, memory=5e9), 1),
        (_node(CPU=1, memory=64e9), 0),
        (_node(memory=64e9), 0),
        ({**_node(CPU=8, memory=64e9), "Alive": False}, 0),
    ],
)
def test_a_node_holds_as_many_arms_as_its_cpus_and_memory(node: dict[str, Any], room: int) -> None:
    assert ray._room(node, Experiment.of(profile="paper", threads=2)) == room


def test_an_arm_on_a_gpu_takes_a_gpu() -> None:
    experiment = Experiment.of(profile="paper", threads=2, device="cuda")
    assert ray._room(_node(CPU=8, memory=64e9), experiment) == 0
    assert ray._room(_node(CPU=8, memory=64e9, GPU=1), experiment) == 1
    assert "a GPU" in ray._no_room(experiment)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_the_estimate_of_memory_is_above_every_kept_peak(path: Path) -> None:
    kept = json.loads(path.read_text())
    estimate = sizing.memory(Experiment.from_dict(kept["experiment"]))
    assert kept["peak_memory_bytes"] <= estimate <= 2.5 * kept["peak_memory_bytes"]


MEMINFO = "MemTotal:       32000 kB\nMemAvailable:   16000 kB\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": MEMINFO}, 16000 * 1024),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory.max": "9000000\n",
                "sys/fs/cgroup/memory.current": "5000000\n",
                "sys/fs/cgroup/memory.stat": "anon 3000000\ninactive_file 1000000\n",
            },
            5000000,
        ),
        (
            {"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"},
            16000 * 1024,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "8000000\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 0\n",
            },
            0,
        ),
    ],
)
def test_free_memory_minds_the_containers_limit(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert sizing.free_memory(tmp_path) == free


@pytest.mark.parametrize(
    ("cores", "free", "jobs"), [(8, 64e9, 4), (8, 10e9, 2), (1, 64e9, 1), (8, 1e9, 1), (8, None, 4)]
)
def test_as_many_arms_as_cores_and_memory_hold(
    monkeypatch: pytest.MonkeyPatch, cores: int, free: float | None, jobs: int
) -> None:
    monkeypatch.setattr(environment, "cores", lambda: cores)
    monkeypatch.setattr(sizing, "free_memory", lambda: free)
    experiment = Experiment.of(profile="paper", threads=2)
    assert 4e9 < sizing.memory(experiment) < 5e9
    assert sizing.jobs(experiment) == jobs
    assert cli.jobs(None, [experiment]) == jobs and cli.jobs(3, [experiment]) == 3


@pytest.mark.parametrize(("flags", "jobs"), [((), 1), (("--jobs", "3"), 3)])
def test_a_gpu_has_one_arm_at_a_time_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], jobs: int
) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 8)
    monkeypatch.setattr(sizing, "free_memory", lambda: 64e9)
    parser = argparse.ArgumentParser()
    cli.add_engine_flags(parser)
    arms = [Experiment.of(threads=1, device=device) for device in ("cpu", "cuda", "cpu")]
    assert cli.engine(parser.parse_args(flags), arms).jobs == jobs
    assert cli.engine(parser.parse_args(flags), arms[:1]).jobs == (jobs if flags else 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--address", "10.0.0.1:6379"), "--engine ray alone"),
        (("--engine", "ray", "--jobs", "2"), "--jobs"),
        (("--jobs", "0"), "--jobs"),
        (("--variants", "base"), "unknown variant 'base'"),
        (("--keras-backends", "torch"), "--keras-backend tensorflow"),
        (("--engine", "moon"), "invalid choice"),
    ],
)
def test_bad_requests_of_the_matrix_are_explained(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = command("parity.matrix", *arguments, "--out", tmp_path)
    assert done.code == 2 and message in done.err and "Traceback" not in done.err


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "10.0.0.1:x"])
def test_where_no_cluster_answers_the_address_is_named(
    command: Command, tmp_path: Path, address: str
) -> None:
    done = command("parity.matrix", "--engine", "ray", "--address", address, "--out", tmp_path)
    assert done.code == 2 and "Traceback" not in done.err
    assert done.err.startswith(f"error: --address {address}: no Ray cluster answers there")


@pytest.mark.workers
@needs_ray
def test_an_arm_that_fits_no_node_is_refused(
    nodes: Nodes, command: Command, tmp_path: Path
) -> None:
    arguments = ("--threads", "64", "--engine", "ray", "--address", nodes.address)
    done = command("parity.matrix", *arguments, "--out", tmp_path)
    assert done.code == 2 and "64 CPUs" in done.err and "Traceback" not in done.err


def test_the_matrix_has_every_arm_once() -> None:
    asked = ("--variants", "baseline,lr_10x", "--seeds", "8", "9", "--precision", "float32")
    arms = matrix.arms(matrix.parse([*asked, "--keras-backends", "tensorflow", "torch"]))
    assert len(arms) == len({arm.id for arm in arms}) == 2 * 2 * 2 * (2 + 1)
    keras = {arm.experiment.keras_backend for arm in arms if arm.framework == "keras"}
    torch = {arm.experiment.keras_backend for arm in arms if arm.framework == "torch"}
    assert keras == {"tensorflow", "torch"} and torch == {"tensorflow"}
    for arm in arms:  # a pair of the same experiment lies side by side
        assert arm.id == f"{arm.experiment.id}/{arm.framework}"


def test_help_says_where_arms_run_and_loads_no_ray(command: Command) -> None:
    code = "import sys, parity.matrix\ntry: parity.matrix.main(['--help'])\nexcept SystemExit: pass"
    script = f"{code}\nprint('ray' in sys.modules, 'rich' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "--address" in done.stdout and done.stderr.strip() == "False False"


@pytest.mark.workers
def test_a_folder_that_cannot_be_made_fails_its_task_alone(tmp_path: Path) -> None:
    from parity.engines.local import Local

    (tmp_path / "file").write_text("in the way")
    blocked, free = (
        Task(name, ("benchmarks.nothing",), Experiment(threads=1), tmp_path / place, "result.json")
        for name, place in (("blocked", "file/arm"), ("free", "arm"))
    )
    events: list[tuple[str, str]] = []
    failed = Local(jobs=1).run(
        [blocked, free], lambda name, event: events.append((name, event["event"]))
    )
    assert list(failed) == ["blocked"]
    assert "cannot write" in failed["blocked"].message and "--out" in failed["blocked"].message
    assert ("blocked", "failed") in events and ("free", "done") in events
