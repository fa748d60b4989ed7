"""The one place that decides what a worker process runs under, and describes it afterwards."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from parity.experiment import Experiment

FRAMEWORKS = ("keras", "tensorflow", "torch", "jax")  # entries of an environment with a version
MACHINE = ("platform", "processor", "cores")  # entries that tell of the machine alone
_MEBIBYTE = 1 << 20


def variables(experiment: Experiment, *, keep_pages: bool = True) -> dict[str, str]:
    """Environment variables that must be set before a worker's interpreter starts.

    `keep_pages`: glibc keeps freed pages instead of returning them. It saves a third of PyTorch's
    time per step, and costs memory where large tensors come and go: of VGG16's check 0.8 GiB.
    """
    threads = str(thread_count(experiment))
    chosen = {
        "KERAS_BACKEND": experiment.keras_backend,
        "PYTHONHASHSEED": "0",
        # Threads: every library reads its own.
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "1",
        # Determinism.
        "TF_DETERMINISTIC_OPS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # TensorFlow leaves oneDNN off where the CPU lacks AVX-512, at twice the time per step.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if keep_pages:
        chosen |= {
            "MALLOC_MMAP_THRESHOLD_": str(4096 * _MEBIBYTE),
            "MALLOC_TRIM_THRESHOLD_": str(8192 * _MEBIBYTE),
            "MALLOC_TOP_PAD_": str(256 * _MEBIBYTE),
        }
    if experiment.tf32 == "off":
        chosen["NVIDIA_TF32_OVERRIDE"] = "0"
    if experiment.device == "cpu":
        chosen["CUDA_VISIBLE_DEVICES"] = ""
        chosen["JAX_PLATFORMS"] = "cpu"
    return chosen


def thread_count(experiment: Experiment) -> int:
    return experiment.threads or cores()


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def enter(experiment: Experiment, command: list[str], *, keep_pages: bool = True) -> None:
    """Return at once if this process runs under `variables` of the experiment; else start over
    under them, as `python -m COMMAND…`: most are read once, before the first line of Python."""
    wanted = variables(experiment, keep_pages=keep_pages)
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *command], {**os.environ, **wanted})


def describe(experiment: Experiment) -> dict[str, Any]:
    """The machine and the settings under which a recording was made."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "threads": thread_count(experiment),
        "device": experiment.device,
        "precision": experiment.precision,
        "numpy": version("numpy"),
        "pillow": version("pillow"),
        "variables": variables(experiment),
    }


def unchanged(experiment: Experiment, recorded: dict[str, Any], *, machine: bool = True) -> bool:
    """Whether a recording's environment is that of here: the same settings and versions, and,
    unless `machine` is False, the same kind of machine."""
    here = describe(experiment)
    if not machine:
        here = {key: value for key, value in here.items() if key not in MACHINE}
    if any(recorded.get(key) != value for key, value in here.items()):
        return False
    return all(_version(name) == _public(recorded[name]) for name in FRAMEWORKS if name in recorded)


def _version(name: str) -> str | None:
    try:
        return _public(version(name))
    except PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the build, `+cpu`, which a package's metadata may leave out."""
    return version.partition("+")[0]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
