"""A recording: all that is known of one arm after it ran, as two files in a folder.

`recording.json` says what was run, on what, with which metrics; `tensors.safetensors` holds the
initial and the final weights as `initial/<canonical name>` and `final/<canonical name>`. Everything
after training reads recordings, so the two sides of a comparison need never share a process or a
machine. `digest` covers every number and tensor, but not times, memory and the machine: two runs
of one experiment on one machine have the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from parity.experiment import Experiment
from shared_data.errors import InputError

SCHEMA = 1
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass
class Recording:
    """One arm's run. Losses are in nats, accuracies fractions; lists run over epochs or steps."""

    framework: str  # "keras" or "torch"
    experiment: Experiment
    backend: str
    parameters: int
    data: dict[str, Any]  # shared_data's summary: source, digest, classes, splits
    environment: dict[str, Any]
    history: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in METRICS})
    steps: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "accuracy": []})
    evaluation: dict[str, Any] = field(default_factory=dict)  # per split: criterion.evaluate
    error: str | None = None  # why the run ended before its last epoch
    timings: dict[str, float] = field(default_factory=dict)  # seconds
    peak_memory_bytes: int = 0
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """Names the arm within a comparison: `keras-p0`, `torch-p1`."""
        return arm_id(self.framework, self.experiment)

    @property
    def digest(self) -> str:
        """sha256 over all that must repeat when the experiment does."""
        return _digest(self._facts(), self.tensors)

    def write(self, folder: Path) -> None:
        """Write both files; `recording.json` last, so that where it stands, all of it stands."""
        folder.mkdir(parents=True, exist_ok=True)
        # safetensors writes the bytes of a non-contiguous array in the wrong order, silently.
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        write_atomically(folder / "tensors.safetensors", save(tensors))
        facts = {"schema": SCHEMA, "arm": self.arm, "digest": self.digest, **self._facts()}
        write_atomically(folder / "recording.json", json.dumps(facts, indent=1).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Raises `InputError` where a file is missing, damaged or of another schema."""
        try:
            facts = json.loads((folder / "recording.json").read_text())
            tensors = load_file(folder / "tensors.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds no complete recording: {error}") from None
        if facts.pop("schema", None) != SCHEMA:
            raise InputError(f"{folder}/recording.json is not of schema {SCHEMA}: record it again")
        digest = facts.pop("digest")
        facts.pop("arm")
        found = _digest(facts, tensors)  # of what is written: an experiment may have got new fields
        if found != digest:
            raise InputError(
                f"{folder} is damaged: its content has digest {found[:12]}, but "
                f"{digest[:12]} is written in it. Record it again."
            )
        facts["experiment"] = Experiment.from_dict(facts["experiment"])
        return cls(**facts, tensors=tensors)

    def _facts(self) -> dict[str, Any]:
        facts = {key: value for key, value in vars(self).items() if key != "tensors"}
        return {**facts, "experiment": asdict(self.experiment)}


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    left_out = ("environment", "timings", "peak_memory_bytes")
    parts = {name: value for name, value in facts.items() if name not in left_out}
    sha = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        sha.update(np.ascontiguousarray(tensor).data)
    return sha.hexdigest()


def arm_id(framework: str, experiment: Experiment) -> str:
    return f"{framework}-p{experiment.padding}"


def with_prefix(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def write_atomically(path: Path, content: bytes) -> None:
    """The file is whole or not there: written beside its place, then renamed into it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
