"""What a training needs to go on after an interruption: after each epoch, a recording so far.

A checkpoint is a recording (two files, checked by its digest) whose tensors are the initial
weights, the present ones and Adam's moments, in `checkpoints/epoch-N` of the arm's folder. The
order of samples and the augmentation depend on seed and epoch alone, so there is no generator
whose state would have to be kept.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from parity.recording import Recording, with_prefix
from parity.side import Trainer
from shared_data.errors import InputError


def save(folder: Path, recording: Recording, trainer: Trainer) -> None:
    """Keep the state after the epochs that `recording` has so far, then drop the one before."""
    first, second = trainer.moments()
    state = {"weights": trainer.weights(), "moment1": first, "moment2": second}
    tensors = dict(recording.tensors)
    for prefix, values in state.items():
        tensors |= with_prefix(prefix, values)
    place = folder / "checkpoints" / f"epoch-{len(recording.history['loss'])}"
    replace(recording, tensors=tensors).write(place)
    for other in place.parent.iterdir():
        if other != place:
            shutil.rmtree(other)


def resume(folder: Path, recording: Recording, trainer: Trainer) -> int:
    """Bring `recording` and `trainer` to the last checkpoint. Returns the epochs that are done.

    Only a whole checkpoint of this experiment, on this data, in this environment is used: anything
    else could end in other bytes than a training that was never stopped.
    """
    found = _latest(folder, recording)
    if found is None:
        return 0
    recording.history, recording.steps = found.history, found.steps
    names = list(trainer.weights())  # in their order, which a file of tensors does not keep
    values, first, second = (
        {name: found.tensors[f"{prefix}/{name}"] for name in names}
        for prefix in ("weights", "moment1", "moment2")
    )
    trainer.resume(values, first, second, len(found.steps["loss"]))
    return len(found.history["loss"])


def clear(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _latest(folder: Path, like: Recording) -> Recording | None:
    places = (folder / "checkpoints").glob("epoch-*")
    for place in sorted(places, key=lambda each: int(each.name.rpartition("-")[2]), reverse=True):
        try:
            found = Recording.read(place)
        except InputError:  # it was being written when the end came
            continue
        if _origin(found) == _origin(like):
            return found
    return None


def _origin(recording: Recording) -> str:
    parts = ("framework", "experiment", "backend", "data", "environment")
    facts = {part: getattr(recording, part) for part in parts}
    return json.dumps({**facts, "experiment": recording.experiment.to_dict()}, sort_keys=True)
