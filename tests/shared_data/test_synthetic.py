from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from PIL import Image

from shared_data import faces, synthetic
from shared_data.errors import InputError
from shared_data.sources import open_source


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
        assert max(accuracy.max(), 1 - accuracy.min()) < 0.70, name


def test_the_command_writes_a_set_and_never_overwrites_one(
    command: Callable[..., Finished], tmp_path: Path
) -> None:
    arguments = ("--out", tmp_path / "set", "--real", "3", "--fake", "4")
    assert command("shared_data.synthetic", *arguments).code == 0
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 7
    again = command("shared_data.synthetic", *arguments)
    assert again.code == 2 and str(tmp_path / "set") in again.err and "Traceback" not in again.err


def test_pixels_are_neither_flat_nor_saturated(drawn: Path) -> None:
    for file in (drawn / "fake" / "fake_7.jpg", drawn / "real" / "real_7.jpg"):
        pixels = np.asarray(Image.open(file), dtype=int)
        assert ((pixels == 0) | (pixels == 255)).mean() < 0.001
        squares = pixels[:296, :296].reshape(37, 8, 37, 8, 3)
        assert squares.std(axis=(1, 3)).min() > 0


def test_other_seeds_draw_other_faces() -> None:
    images = [faces.draw_face(fake, 1, seed).tobytes() for fake in (False, True) for seed in (0, 1)]
    assert len(set(images)) == 4


def test_the_cache_is_filled_once_and_mended(tmp_path: Path) -> None:
    calls = []

    def ensure() -> Path:
        return synthetic.ensure(3, 4, tmp_path, on_progress=lambda *at: calls.append(at))

    folder = ensure()
    assert calls[-1] == (7, 7) and len(calls) == 7
    assert ensure() == folder and len(calls) == 7
    (folder / "fake" / "fake_2.jpg").unlink()
    assert ensure() == folder and (folder / "fake" / "fake_2.jpg").exists()
    assert [p.name for p in (tmp_path / "synthetic").iterdir()] == [folder.name]


def test_synthetic_is_a_source_in_the_studys_ratio(tmp_path: Path) -> None:
    assert synthetic.study_ratio(1289) == (589, 700)
    source = open_source("synthetic", synthetic_images=9, cache=tmp_path)
    assert [s.label for s in source.samples] == [1] * 4 + [0] * 5


@pytest.mark.parametrize("total", [1, 10**7])
def test_impossible_totals_are_refused(total: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"synthetic images: got {total}, expected 2 to"):
        open_source("synthetic", synthetic_images=total, cache=tmp_path)


def test_an_unwritable_cache_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write the cache folder .*PARITY_CACHE"):
        synthetic.ensure(1, 1, tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "{file}/inside"], "cannot write to"),
        (["--out", "{file}"], "cannot write to"),
        (["--out", "x", "--real", "0"], "got 0, expected an integer from 1"),
        (["--out", "x", "--fake", "many"], "got 'many', expected an integer from 1"),
        (["--out", "x", "--seed", "-1"], "got -1, expected an integer from 0"),
        ([], "--out"),
    ],
)
def test_wrong_requests_exit_with_2_and_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    try:
        code = synthetic.main([a.format(file=tmp_path / "file") for a in arguments])
    except SystemExit as stopped:  # argparse's way
        code = int(str(stopped.code))
    assert code == 2
    assert expected in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        synthetic.main(["--help"])
    assert "--real 40 --fake 40" in capsys.readouterr().out
