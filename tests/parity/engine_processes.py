"""Processes that the tests of the engines start, so that Ray and pytest share none.

python -m tests.parity.engine_processes worker --events BEHAVIOUR EXPERIMENT.json FOLDER
python -m tests.parity.engine_processes drive ENGINE ADDRESS FOLDER BEHAVIOUR…
python -m tests.parity.engine_processes cluster CACHE-OF-HEAD CACHE-OF-SECOND
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from parity.engines import Task
from parity.experiment import Experiment

SEEN = ("OMP_NUM_THREADS", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED")


def worker(_: str, behaviour: str, experiment: str, folder: str) -> None:
    """A task that trains nothing and behaves as it is told."""
    out = Path(folder)
    _say(event="start", steps=json.loads(Path(experiment).read_text())["epochs"])
    if behaviour == "refuse":
        _say(event="refused", error="this cannot be done")
        sys.exit(2)
    if behaviour == "crash":
        print("the last words", file=sys.stderr)
        sys.exit(3)
    if behaviour == "die" or (behaviour == "die-once" and not (out / "died").exists()):
        (out / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "sleep":
        (out / "asleep").write_text(str(os.getpid()))
        time.sleep(600)
    print("a library's own line")
    about = {"pid": os.getpid(), **{name: os.environ[name] for name in SEEN}}
    (out / "result.json").write_text(json.dumps(about))
    _say(event="done", error=None)


def drive(engine: str, address: str, folder: str, *behaviours: str) -> None:
    """Run a task per behaviour; print the failures and all events, in their order."""
    experiment = Experiment(threads=1, image_size=190, synthetic_images=24)
    tasks = [
        Task(
            name=behaviour,
            module=("tests.parity.engine_processes", "worker"),
            experiment=experiment,
            folder=Path(folder, behaviour),
            result="result.json",
            flags=(behaviour,),
            data={"digest": "0" * 64} if behaviour == "other-data" else None,
        )
        for behaviour in behaviours
    ]
    if engine == "ray":
        from parity.engines.ray import Ray

        runs = Ray(address, experiment)
    else:
        from parity.engines.local import Local

        runs = Local(jobs=2)
    events = []
    failed = runs.run(tasks, lambda name, event: events.append([name, event]))
    runs.close()
    print(json.dumps({"failed": {k: v.message for k, v in failed.items()}, "events": events}))


def cluster(*caches: str) -> None:
    """Two nodes of one core each; prints the address, ends the second when it is told a line, and
    both at the end of its input."""
    from ray.cluster_utils import Cluster

    many = {"num_cpus": 1, "memory": 4e9, "object_store_memory": 100 << 20}
    nodes = [{**many, "env_vars": {"PARITY_CACHE": cache}} for cache in caches]
    both = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **nodes[0]})
    second = both.add_node(**nodes[1])
    try:
        print(both.address, flush=True)
        if sys.stdin.readline():
            both.remove_node(second, allow_graceful=False)
            print("gone", flush=True)
        sys.stdin.read()
    finally:
        both.shutdown()


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
