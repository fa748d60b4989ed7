from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared_data.cleaning import MAX_PIXELS, average_hash, find_duplicates, open_image
from shared_data.errors import InputError

Draw = Callable[..., Image.Image]


@pytest.mark.parametrize("seed", range(5))
def test_hashes_are_those_of_imagehash(noise_image: Draw, seed: int) -> None:
    image = noise_image(seed, (60, 50))
    assert f"{average_hash(image):016x}" == str(imagehash.average_hash(image, hash_size=8))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40))
def test_the_first_of_equal_hashes_in_a_class_stays(rows: list[tuple[int, int]]) -> None:
    found = find_duplicates([code for code, _ in rows], [label for _, label in rows])
    assert found == {n: rows.index(row) for n, row in enumerate(rows) if rows.index(row) < n}


def test_hashes_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        find_duplicates([1, 2], [0])


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_modes_are_converted_as_pillow_does(noise_image: Draw, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tiff"
    noise_image(1).convert(mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    opened = open_image(path)
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_over_black(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (200, 200, 200, 255))
    image.putpixel((1, 0), (200, 200, 200, 0))
    image.convert(mode).save(tmp_path / "image.png")
    pixels = np.asarray(open_image(tmp_path / "image.png"))
    assert pixels.tolist() == [[[200] * 3, [0] * 3]]


def test_a_palette_with_a_transparent_colour_is_laid_over_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "image.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "image.png")).tolist() == [[[0, 0, 0], [200, 100, 50]]]


def test_16_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "image.png")
    assert np.asarray(open_image(tmp_path / "image.png"))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_the_exif_orientation_is_not_applied(noise_image: Draw, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    noise_image(1, (30, 20)).save(tmp_path / "image.jpg", exif=exif)
    assert open_image(tmp_path / "image.jpg").size == (30, 20)


def _half(path: Path, draw: Draw) -> None:
    draw(1, (99, 99)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-500])


BAD: dict[str, tuple[Callable[[Path, Draw], object], str]] = {
    "empty": (lambda path, _: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path, _: path.write_text("hello"), "not an image"),
    "half": (_half, "cannot be decoded: .*truncated"),
    "missing": (lambda path, _: None, "No such file"),
    "folder": (lambda path, _: path.mkdir(), "directory|cannot be decoded"),
    "float": (
        lambda path, _: Image.new("F", (4, 4)).save(path, format="TIFF"),
        "pixel format F has no fixed range",
    ),
    "other format": (
        lambda path, draw: draw(1).convert("RGB").save(path, format="PPM"),
        "not an image, or one of an unknown format",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_images_are_refused(tmp_path: Path, noise_image: Draw, case: str) -> None:
    spoil, reason = BAD[case]
    spoil(tmp_path / "x.jpg", noise_image)
    with pytest.raises(InputError, match=rf"x\.jpg: .*({reason})"):
        open_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("side", [7072, 10_000, 20_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_images_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    assert side * side > MAX_PIXELS
    Image.new("1", (side, side)).save(tmp_path / "x.png")

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(InputError, match=r"x\.png: too large: .*50,000,000 pixels"):
        open_image(tmp_path / "x.png")
