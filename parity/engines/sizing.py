"""How many arms fit one machine: what an arm takes, and what is free.

What an arm takes is estimated from above, by a line through measured peaks of either framework:
0.9 to 1.3 GB for the quick profile's networks, 1.4 to 2.0 at full width in batches of 8, 3.7 to 4.7
in batches of 64 (float64: 6.6 in Keras, 13.6 in PyTorch, whose convolution unfolds its input).
"""

from __future__ import annotations

from pathlib import Path

from parity import environment, weights
from parity.experiment import Experiment

# Bytes of interpreter, framework, allocator and mapped images, by Keras' backend.
AT_REST = {"tensorflow": 1.2e9, "jax": 1.8e9, "torch": 1.8e9}
PARAMETERS = 20  # copies at once: gradient, moments, initial, those of a checkpoint being written
ACTIVATIONS = {"float32": 3.1, "float64": 6.3}  # copies of a batch's activations at once
CGROUPS = (  # v2, v1: limit, usage, and the entry of memory.stat that is given back on demand
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def memory(experiment: Experiment) -> int:
    """Bytes that an arm of `experiment` needs at its peak, about, rather too many than too few."""
    side, activations = experiment.image_size, 0
    for padding, filters in zip(experiment.block_paddings, experiment.filters, strict=True):
        side += 2 * padding - 2
        activations += side * side * filters
        side //= 2
    parameters = PARAMETERS * weights.parameter_count(experiment)
    batch = ACTIVATIONS[experiment.precision] * experiment.batch_size * activations
    size = {"float32": 4, "float64": 8}[experiment.precision]
    return int(AT_REST[experiment.keras_backend] + size * (parameters + batch))


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that may still be taken, of the machine and of a container's limit; None where the
    system does not say (it is no Linux)."""
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    found = [int(fields["MemAvailable"].split()[0]) * 1024]
    for names in CGROUPS:
        limit, usage = (root / "sys/fs/cgroup" / name for name in names[:2])
        if limit.exists() and limit.read_text().strip() != "max":
            stat = dict(line.split() for line in (usage.parent / "memory.stat").open())
            used = int(usage.read_text()) - int(stat[names[2]])
            found.append(max(0, int(limit.read_text()) - used))
    return min(found)


def jobs(experiment: Experiment) -> int:
    """Arms of `experiment` at a time: as many as cores and free memory have room for, at least
    one; on a GPU one, whose memory nothing here knows."""
    if experiment.device != "cpu":
        return 1
    by_cores = environment.cores() // environment.thread_count(experiment)
    free = free_memory()
    by_memory = by_cores if free is None else free // memory(experiment)
    return max(1, min(by_cores, by_memory))
