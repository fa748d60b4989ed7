"""A clock that jumps, and files whose times lie: neither data nor results depend on them."""

from __future__ import annotations

import itertools
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import wellformed
from parity.arm import record
from parity.experiment import Experiment
from parity.side import Side
from shared_data.batches import load

FUTURE, BEFORE_1970 = 4_000_000_000, -1_000_000_000
JUMPS = (1e9, -1e9, 3600.0, -3600.0, 0.0, 4e9)


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the wall clock goes to and fro by years; the seconds since the start of
    the system do not, whatever is set."""
    real, jumps = time.time, itertools.cycle(JUMPS)
    return lambda: monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


def image(folder: Path) -> Path:
    return sorted(folder.rglob("*.bmp"))[0]


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    """Twelve images whose files all have one size."""
    for number in range(12):
        path = tmp_path / "bitmaps" / ("fake", "real")[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        wellformed.picture(number).save(path)
    return tmp_path / "bitmaps"


@pytest.mark.parametrize("moved", [0, -3600, 3600], ids=["the same", "back", "on"])
def test_a_changed_file_of_any_time_is_seen(bitmaps: Path, tmp_path: Path, moved: int) -> None:
    before = load(str(bitmaps), image_size=8, cache=tmp_path / "cache")
    changed, as_it_was = image(bitmaps), image(bitmaps).stat()
    wellformed.picture(99).save(changed)
    assert changed.stat().st_size == as_it_was.st_size
    at = as_it_was.st_mtime_ns + moved * 10**9
    os.utime(changed, ns=(at, at))
    after = load(str(bitmaps), image_size=8, cache=tmp_path / "cache")
    assert after.digest != before.digest
    assert (after.train.images != before.train.images).any()


@pytest.mark.parametrize("at", [FUTURE, BEFORE_1970, 0])
def test_times_of_files_count_for_nothing(bitmaps: Path, tmp_path: Path, at: int) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(bitmaps.rglob("*.bmp")):
            opened.write(path, path.relative_to(bitmaps))
    specs = (str(bitmaps), str(archive))
    cache = tmp_path / "cache"
    before = [load(spec, image_size=8, cache=cache).digest for spec in specs]
    for path in [*bitmaps.rglob("*"), archive, *cache.rglob("*")]:
        os.utime(path, (at, at))
    drawn: list[tuple[int, int]] = []

    def again(spec: str) -> str:
        return load(
            spec, image_size=8, cache=cache, on_progress=lambda *it: drawn.append(it)
        ).digest

    assert [again(spec) for spec in specs] == before
    assert not drawn  # all came from the cache


def test_a_training_while_the_clock_jumps(
    experiment: Experiment,
    numpy_side: Callable[[], Side],
    tmp_path: Path,
    jump: Callable[[], None],
) -> None:
    still = record("numpy", numpy_side(), experiment, folder=tmp_path / "still")
    jump()
    moved = record("numpy", numpy_side(), experiment, folder=tmp_path / "moved")
    assert moved.digest == still.digest
    assert all(0 <= seconds < 600 for seconds in moved.timings.values())


def test_a_cache_filled_while_the_clock_jumps(
    bitmaps: Path, tmp_path: Path, jump: Callable[[], None]
) -> None:
    still = load(str(bitmaps), image_size=8, cache=tmp_path / "still")
    jump()
    for _ in range(2):
        moved = load(str(bitmaps), image_size=8, cache=tmp_path / "moved")
        assert moved.summary() == still.summary()
