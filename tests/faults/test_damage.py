"""What is damaged on the disk, at any place, in any way, is rebuilt or refused and never used.

Each property is over all files of a thing, all places in them and three kinds of damage; what comes
back after it must be what was there before it, or an `InputError`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity import checkpoint
from parity.experiment import Experiment
from parity.probe import Layer, Probe
from parity.recording import Recording, with_prefix
from shared_data import synthetic
from shared_data.errors import InputError
from shared_data.images import prepare
from shared_data.sources import open_source

# Where, as a share of the file, and how: a bit turned over, the end cut off, zeros (what a disk
# that lost its power may have in place of what was written last).
DAMAGES = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["bit", "cut", "zeros"]), st.integers(0, 7)
)
# A folder is damaged and mended again by each example.
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damage(path: Path, where: float, how: str, bit: int) -> bool:
    """Returns whether that changed anything."""
    before = path.read_bytes()
    content, at = bytearray(before), int(where * len(before))
    if how == "bit":
        content[at] ^= 1 << bit
    elif how == "cut":
        del content[at:]
    else:
        content[at:] = bytes(len(content) - at)
    path.write_bytes(content)
    return bytes(content) != before


def recording() -> Recording:
    return Recording(
        framework="torch",
        experiment=Experiment.of("baseline", "quick", padding=1, epochs=3),
        backend="torch",
        parameters=3,
        data={"source": "faces", "digest": "d1", "classes": ["fake", "real"]},
        environment={"threads": 2, "torch": "2.15"},
        history={name: [0.7, 0.61] for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
        steps={"loss": [0.1 + 0.2], "accuracy": [0.5]},
        evaluation={"test": {"loss": 0.5, "accuracy": 1.0}},
        timings={"total_seconds": 1.25},
        peak_memory_bytes=123,
        tensors={"initial/a": np.arange(6.0).reshape(2, 3), "final/a": np.ones((2, 3))},
    )


def probe() -> Probe:
    layers = (Layer("conv", "conv", ("input",), (2, 2, 1), {"conv.kernel": (3, 3, 3, 1)}),)
    made = Probe("keras", Experiment.of(), {"threads": 1}, layers, {"optimizer": {"epsilon": 1e-7}})
    made.keep("float64/free/activation", {"conv": np.arange(4.0).reshape(1, 2, 2, 1)})
    return made


def content(thing: Any) -> Any:
    """All that is in a recording or a probe, in a form that can be compared."""
    facts = {name: value for name, value in vars(thing).items() if name != "tensors"}
    tensors = {k: (v.dtype.str, v.shape, v.tobytes()) for k, v in thing.tensors.items()}
    return facts, tensors


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    recording().write(folder / "recording")
    probe().write(folder / "probe")
    return folder


@pytest.mark.parametrize("kind", ["recording", "probe"])
@many
@given(file=st.sampled_from([0, 1]), how=DAMAGES)
def test_a_damaged_recording_or_probe(
    written: Path, tmp_path: Path, kind: str, file: int, how: tuple[float, str, int]
) -> None:
    folder = tmp_path / kind
    shutil.copytree(written / kind, folder, dirs_exist_ok=True)
    damage(sorted(folder.iterdir())[file], *how)
    assert refused_or_the_same(kind, folder, written / kind)


@pytest.mark.parametrize("kind", ["recording", "probe"])
def test_a_bit_of_any_character_of_the_facts(written: Path, tmp_path: Path, kind: str) -> None:
    """Such a bit makes one digit another, which JSON does not mind."""
    shutil.copytree(written / kind, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{kind}.json"
    facts = file.read_bytes()
    for at in range(len(facts)):
        file.write_bytes(facts[:at] + bytes([facts[at] ^ 1]) + facts[at + 1 :])
        assert refused_or_the_same(kind, tmp_path, written / kind), facts[at - 20 : at + 20]


def refused_or_the_same(kind: str, folder: Path, whole: Path) -> bool:
    read: Callable[[Path], Any] = {"recording": Recording.read, "probe": Probe.read}[kind]
    try:
        found = read(folder)
    except InputError as error:
        return str(folder) in str(error)
    # a space more or less, or the arm's name, which stands there for people
    return bool(content(found) == content(read(whole)))


class Resumed:
    """A trainer that only tells what it was brought to."""

    def __init__(self, value: float) -> None:
        self.state: Any = {"w": np.full(3, value)}
        self.steps = 0

    def weights(self) -> Any:
        return self.state

    def moments(self) -> Any:
        return self.state, self.state

    def resume(self, values: Any, first: Any, second: Any, steps: int) -> None:
        self.state, self.steps = {**values, "first": first["w"], "second": second["w"]}, steps


@many
@given(file=st.sampled_from([0, 1]), how=DAMAGES)
def test_a_damaged_checkpoint_is_not_gone_on_from(
    tmp_path: Path, file: int, how: tuple[float, str, int]
) -> None:
    """The one of the epoch before is; had it gone already, the training starts anew."""
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    begun: Any = replace(recording(), history={name: [0.7] for name in recording().history})
    state = Resumed(1.0).state
    both = {**with_prefix("weights", state), **with_prefix("moment1", state)}
    tensors = {**recording().tensors, **both, **with_prefix("moment2", state)}
    trainer: Any = Resumed(2.0)
    checkpoint.save(tmp_path, recording(), trainer)
    replace(begun, tensors=tensors).write(tmp_path / "checkpoints" / "epoch-1")
    damage(sorted((tmp_path / "checkpoints" / "epoch-2").iterdir())[file], *how)
    resumed: Any = Resumed(0.0)
    epoch = checkpoint.resume(tmp_path, recording(), resumed)
    expected = {1: 1.0, 2: 2.0}[epoch]
    assert all((value == expected).all() for value in resumed.state.values())


def caches(faces: Path, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Loads of three data sets that keep something in the cache, from one that it fills."""
    archive = folder / "faces.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(faces.rglob("*.png")):
            opened.write(path, path.relative_to(faces))

    def of(spec: str) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            cache = folder / "cache"
            source = open_source(spec, synthetic_images=12, cache=cache)
            found = prepare(source, 8, cache=cache)
            return {**vars(found), "images": found.images.tobytes(), "labels": list(found.labels)}

        return run

    return {"folder": of(str(faces)), "zip": of(str(archive)), "synthetic": of("synthetic")}


@pytest.fixture(scope="module")
def filled(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("filled")
    loads = caches(faces, folder)
    return folder / "cache", {name: (run, run()) for name, run in loads.items()}


@pytest.mark.parametrize("kind", ["folder", "zip", "synthetic"])
@settings(many, max_examples=40)
@given(choice=st.floats(0, 1, exclude_max=True), how=DAMAGES)
def test_a_damaged_cache_gives_the_same_data(
    filled: Any, kind: str, choice: float, how: tuple[float, str, int]
) -> None:
    cache, loads = filled
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    changed = damage(files[int(choice * len(files))], *how)
    for run, expected in [loads[kind], *loads.values()] if changed else []:
        assert run() == expected
    assert not list(cache.rglob(".*"))


def test_a_changed_hash_in_the_index_is_not_used(faces: Path, tmp_path: Path) -> None:
    """It decides what is a duplicate, and is as good a number as the right one."""
    first = prepare(open_source(str(faces)), 8, cache=tmp_path)
    (index,) = tmp_path.rglob("index.json")
    written = json.loads(index.read_text())
    written["hashes"][1] = written["hashes"][0]
    index.write_text(json.dumps(written))
    assert prepare(open_source(str(faces)), 8, cache=tmp_path).hashes == first.hashes


def test_faces_from_before_the_seal_are_drawn_again(tmp_path: Path) -> None:
    """They cannot be told from damaged ones."""
    folder = synthetic.ensure(2, 2, tmp_path)
    (folder / "sha256.txt").unlink()
    drawn: list[tuple[int, int]] = []
    synthetic.ensure(2, 2, tmp_path, on_progress=lambda *at: drawn.append(at))
    assert drawn[-1] == (4, 4)


def test_a_recording_without_a_checksum_is_one_from_before_it(
    written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written / "recording", tmp_path, dirs_exist_ok=True)
    facts = json.loads((tmp_path / "recording.json").read_text())
    del facts["checksum"]
    (tmp_path / "recording.json").write_text(json.dumps(facts))
    assert content(Recording.read(tmp_path)) == content(Recording.read(written / "recording"))
