from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from PIL import Image

from shared_data import synthetic


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "faces"
    synthetic.write(out, 120, 120)
    return out


def test_images_are_300_pixel_jpegs_in_the_studys_layout(drawn: Path) -> None:
    files = sorted((drawn / "real").iterdir())
    assert len(files) == 120 and {f.name for f in files} >= {"real_1.jpg", "real_120.jpg"}
    with Image.open(files[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (300, 300))
    lines = (drawn / "data.csv").read_text().split()
    assert lines[:3] == ["images_id,label", "real_1,real", "real_10,real"]


def test_an_image_is_the_same_whatever_the_total(drawn: Path, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "few", 3, 2)
    for name in ("real/real_2.jpg", "fake/fake_1.jpg"):
        assert (tmp_path / "few" / name).read_bytes() == (drawn / name).read_bytes()


def _statistics(file: Path) -> dict[str, float]:
    pixels = np.asarray(Image.open(file), dtype=float)
    across, down = np.diff(pixels, axis=1), np.diff(pixels, axis=0)
    values = {"mean": pixels.mean(), "std": pixels.std(), "bytes": float(file.stat().st_size)}
    values |= {"min": pixels.min(), "max": pixels.max()}
    values |= {"gradient": np.abs(across).mean() + np.abs(down).mean()}
    for channel in range(3):
        values[f"mean {channel}"] = pixels[..., channel].mean()
        values[f"std {channel}"] = pixels[..., channel].std()
    return values


def test_no_single_pixel_statistic_separates_the_classes(drawn: Path) -> None:
    tables = [[_statistics(f) for f in sorted((drawn / c).iterdir())] for c in ("real", "fake")]
    for name in tables[0][0]:
        real, fake = (np.array([row[name] for row in table]) for table in tables)
        thresholds = np.unique(np.concatenate([real, fake]))[:, None]
        accuracy = ((real > thresholds).mean(1) + (fake <= thresholds).mean(1)) / 2
        assert max(accuracy.max(), 1 - accuracy.min()) < 0.72, name


def test_the_command_writes_a_set_and_never_overwrites_one(
    command: Callable[..., Finished], tmp_path: Path
) -> None:
    arguments = ("--out", tmp_path / "set", "--real", "3", "--fake", "4")
    assert command("shared_data.synthetic", *arguments).code == 0
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 7
    again = command("shared_data.synthetic", *arguments)
    assert again.code == 2 and str(tmp_path / "set") in again.err and "Traceback" not in again.err
