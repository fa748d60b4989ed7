from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.experiment import Experiment
from parity.recording import Recording, write_atomically
from shared_data.errors import InputError


def make(**changes: Any) -> Recording:
    values: dict[str, Any] = {
        "framework": "torch",
        "experiment": Experiment.of("baseline", "quick", padding=1),
        "backend": "torch",
        "parameters": 3,
        "data": {"digest": "d"},
        "environment": {"threads": 2},
        "history": {"loss": [0.7], "accuracy": [0.5], "val_loss": [0.6], "val_accuracy": [0.5]},
        "steps": {"loss": [0.1 + 0.2], "accuracy": [0.5]},
        "timings": {"total_seconds": 1.0},
        "tensors": {"initial/a": np.arange(6.0).reshape(2, 3), "final/a": np.ones((2, 3))},
    }
    return Recording(**{**values, **changes})


def test_reading_brings_back_what_was_written(tmp_path: Path) -> None:
    recording = make()
    recording.write(tmp_path)
    again = Recording.read(tmp_path)
    assert again.arm == "torch-p1"
    assert again.digest == recording.digest
    assert again.steps == recording.steps
    for field in dataclasses.fields(Recording):
        if field.name != "tensors":
            assert getattr(again, field.name) == getattr(recording, field.name)
    for name, value in recording.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)


def test_non_contiguous_tensors_are_written_right(tmp_path: Path) -> None:
    turned = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    make(tensors={"final/a": turned}).write(tmp_path)
    np.testing.assert_array_equal(Recording.read(tmp_path).tensors["final/a"], turned)


@pytest.mark.parametrize(
    "change",
    [
        {"history": {"loss": [0.7000000000000001]}},
        {"steps": {"loss": [0.3], "accuracy": [0.5]}},
        {"tensors": {"final/a": np.full((2, 3), np.nextafter(1.0, 2.0))}},
        {"tensors": {"final/b": np.ones((2, 3))}},
        {"tensors": {"final/a": np.ones((3, 2))}},
        {"framework": "keras"},
        {"data": {"digest": "e"}},
    ],
)
def test_the_digest_sees_every_number(change: dict[str, Any]) -> None:
    assert make(**change).digest != make().digest


def test_the_digest_leaves_out_time_and_machine() -> None:
    other = make(timings={"total_seconds": 9.0}, peak_memory_bytes=5, environment={"threads": 1})
    assert other.digest == make().digest


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "number", "schema"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    make().write(tmp_path)
    tensors, facts = tmp_path / "tensors.safetensors", tmp_path / "recording.json"
    content = bytearray(tensors.read_bytes())
    if damage == "truncate":
        tensors.write_bytes(content[:-4])
    elif damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "remove":
        tensors.unlink()
    elif damage == "number":
        facts.write_text(facts.read_text().replace("0.7", "0.6"))
    else:
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "schema": 99}))
    with pytest.raises(InputError, match=str(tmp_path)):
        Recording.read(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
