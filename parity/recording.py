"""A recording: all that is known of one arm after it ran, as two files in a folder.

`recording.json` says what was run, on what, with which metrics; `tensors.safetensors` holds the
initial and the final weights as `initial/<canonical name>` and `final/<canonical name>`, and the
final answers to the test split, `answers/test`: logits (samples, classes), floating point, in the
split's order; a run that ended early has none. Everything after training reads recordings, so the
two sides of a comparison need never share a process or a machine. `digest` covers every number and
tensor, but not times, memory and the machine: two runs of one experiment on one machine have the
same digest. `checksum` covers those as well: damage is found by one or the other.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from parity.experiment import Experiment
from shared_data.errors import InputError
from shared_data.leftovers import claimed, sweep

SCHEMA = 1
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")
IN_WORDS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "test": "test accuracy",
    "ood": "out-of-distribution accuracy",
}


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
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # safetensors writes the bytes of a non-contiguous array in the wrong order, silently.
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        write_atomically(folder / "tensors.safetensors", save(tensors))
        own = self._facts()
        sums = {"digest": self.digest, "checksum": checksum(own, {})}
        facts = {"schema": SCHEMA, "arm": self.arm, **sums, **own}
        write_atomically(folder / "recording.json", json.dumps(facts, indent=1).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Raises `InputError` where a file is missing, damaged or of another schema."""
        try:
            facts = json.loads((folder / "recording.json").read_text())
            tensors = load_file(folder / "tensors.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds no complete recording: {error}") from None
        if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
            raise InputError(f"{folder}/recording.json is not of schema {SCHEMA}: record it again")
        digest, of_all, _ = (facts.pop(name, None) for name in ("digest", "checksum", "arm"))
        found = _digest(facts, tensors)  # of what is written: an experiment may have got new fields
        if found != digest:
            raise InputError(
                f"{folder} is damaged: its content has digest {found[:12]}, but "
                f"{str(digest)[:12]} is written in it. Record it again."
            )
        if of_all not in (None, checksum(facts, {})):  # recordings from before have none
            raise InputError(f"{folder} is damaged: times or the machine. Record it again.")
        facts["experiment"] = Experiment.from_dict(facts["experiment"])
        return cls(**facts, tensors=tensors)

    def _facts(self) -> dict[str, Any]:
        facts = {key: value for key, value in vars(self).items() if key != "tensors"}
        return {**facts, "experiment": asdict(self.experiment)}


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    left_out = ("environment", "timings", "peak_memory_bytes")
    return checksum({k: value for k, value in facts.items() if k not in left_out}, tensors)


def checksum(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over facts, as JSON has them, and names, types, shapes and bytes of tensors."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        sha.update(np.ascontiguousarray(tensor).data)
    return sha.hexdigest()


def arm_id(framework: str, experiment: Experiment) -> str:
    """`keras-p0`, `torch-p1`; what is not the usual stands between: `keras-jax-p0`,
    `torch-cuda-p0`."""
    parts = [framework]
    if framework == "keras" and experiment.keras_backend != "tensorflow":
        parts.append(experiment.keras_backend)
    if experiment.device != "cpu":
        parts.append(experiment.device)
    return "-".join([*parts, f"p{experiment.padding}"])


def with_prefix(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def write_atomically(path: Path, content: bytes) -> None:
    """The file is whole or not there: written beside its place, then renamed into it.

    What a killed process left of the same file is removed. Raises `InputError` where the system
    does not write: a full disk, a folder that may not be written to.
    """
    with explained(path):
        sweep(path.parent, f".{glob.escape(path.name)}.*")
        with claimed(lambda: _temporary(path)) as temporary:
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


def _temporary(path: Path) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    return Path(temporary)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system says against writing `path` becomes an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}. Make room there or give another --out, and "
            "start the same command again: what is finished stays."
        ) from error
