from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared_data import batches as module
from shared_data.batches import FaceData, Subset, load
from shared_data.cleaning import find_duplicates
from shared_data.errors import InputError


def picture(seed: int, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Twelve images of each class, all different."""
    for offset, name in enumerate(("fake", "real")):
        folder = tmp_path / "faces" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture(100 * offset + number).save(folder / f"{name}_{number}.png")
    return tmp_path / "faces"


def loaded(source: Path, size: int = 16, **more: object) -> FaceData:
    return load(str(source), image_size=size, cache=source.parent / "cache", **more)  # type: ignore


def test_images_are_resized_with_pillow_and_divided_by_256(faces: Path) -> None:
    data = loaded(faces)
    ((x, y),) = module.batches(data.validation, np.arange(3), 3, np.float64)
    assert x.shape == (3, 16, 16, 3) and x.flags.c_contiguous and y.dtype == np.int64
    assert x.min() >= 0 and x.max() < 1
    by_pillow = {
        np.asarray(Image.open(file).resize((16, 16), Image.Resampling.BICUBIC)).tobytes()
        for file in faces.rglob("*.png")
    }
    for image in x * 256:
        assert image.astype(np.uint8).tobytes() in by_pillow


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_batches_cover_the_order_once_and_keep_the_short_last(
    count: int, size: int, seed: int
) -> None:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    subset = Subset(images, np.arange(count), np.arange(count) % 2)
    order = np.random.default_rng(seed).permutation(count)
    parts = list(module.batches(subset, order, size, np.float32))
    assert [len(y) for _, y in parts[:-1]] == [size] * (len(parts) - 1)
    seen = np.concatenate([x[:, 0, 0, 0] for x, _ in parts]) * 256
    np.testing.assert_array_equal(seen, order)
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), order % 2)


def test_a_second_start_reads_the_cache_and_gives_the_same(faces: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = loaded(faces, on_progress=lambda *at: calls.append(at))
    assert calls[-1] == (24, 24)
    calls.clear()
    second = loaded(faces, on_progress=lambda *at: calls.append(at))
    assert not calls
    assert first.digest == second.digest
    assert isinstance(second.train.images, np.memmap)
    np.testing.assert_array_equal(first.train.images, second.train.images)


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_cache_is_rebuilt(faces: Path, damage: str) -> None:
    expected = np.array(loaded(faces).train.images)
    (file,) = (faces.parent / "cache").rglob("images.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content[:-7] if damage == "truncate" else content)
    np.testing.assert_array_equal(loaded(faces).train.images, expected)


def test_a_changed_image_changes_the_digest(faces: Path) -> None:
    before = loaded(faces).digest
    picture(999).save(faces / "real" / "real_3.png")
    assert loaded(faces).digest != before


def _digest(faces: Path) -> str:
    return loaded(faces).digest


def test_two_processes_may_fill_one_cache_at_once(faces: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        digests = list(pool.map(_digest, [faces, faces]))
    assert digests[0] == digests[1] == loaded(faces).digest


def test_duplicates_are_left_out_and_listed_and_stay_on_disk(faces: Path) -> None:
    Image.open(faces / "real" / "real_1.png").save(faces / "real" / "real_99.png")
    data = loaded(faces)
    assert data.duplicates == (("real/real_99.png", "real/real_1.png"),)
    assert len(data.train) + len(data.test) + len(data.validation) == 24
    assert (faces / "real" / "real_99.png").exists()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=30))
def test_the_first_of_equal_hashes_in_a_class_stays(rows: list[tuple[int, int]]) -> None:
    found = find_duplicates([h for h, _ in rows], [label for _, label in rows])
    expected = {row: rows.index(key) for row, key in enumerate(rows) if rows.index(key) < row}
    assert found == expected


def test_out_of_distribution_data_is_balanced(faces: Path, tmp_path: Path) -> None:
    for name, count in (("fake", 5), ("real", 3)):
        (tmp_path / "ood" / name).mkdir(parents=True)
        for number in range(count):
            picture(7000 + number + 50 * count).save(tmp_path / "ood" / name / f"{number}.png")
    data = loaded(faces, ood=str(tmp_path / "ood"))
    assert data.ood is not None
    assert data.summary()["splits"]["ood"] == {"fake": 3, "real": 3}
    with pytest.raises(InputError, match="classes"):
        (tmp_path / "ood" / "real").rename(tmp_path / "ood" / "genuine")
        loaded(faces, ood=str(tmp_path / "ood"))


def test_a_zip_gives_what_its_folder_gives(faces: Path, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in faces.rglob("*.png"):
            target.write(file, file.relative_to(faces.parent))
    np.testing.assert_array_equal(loaded(archive).train.images, loaded(faces).train.images)


def test_modes_that_can_be_converted_are(faces: Path) -> None:
    for seed, mode in enumerate(("L", "P", "RGBA", "CMYK", "I;16"), start=4000):
        suffix = "tiff" if mode == "CMYK" else "png"
        grey = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40))
        image = grey if mode == "I;16" else picture(seed).convert(mode)
        image.save(faces / "real" / f"mode_{mode.replace(';', '')}.{suffix}")
    data = loaded(faces)
    assert len(data.train) + len(data.test) + len(data.validation) == 29


def _cases() -> dict[str, tuple[Callable[[Path], None], tuple[str, ...]]]:
    def remove(folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            file.unlink()
        folder.rmdir()

    def empty(folder: Path) -> None:
        for file in folder.rglob("*.png"):
            file.unlink()

    def table(text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "data.csv").write_text(text) and None

    def broken(folder: Path) -> None:
        (folder / "real" / "empty.png").write_bytes(b"")
        (folder / "real" / "text.jpg").write_text("not an image")
        whole = (folder / "fake" / "fake_3.png").read_bytes()
        (folder / "fake" / "half.png").write_bytes(whole[: len(whole) // 2])
        Image.new("L", (8000, 8000)).save(folder / "fake" / "bomb.png")

    return {
        "no images": (empty, ("no image",)),
        "one class": (lambda folder: remove(folder / "real"), ("class",)),
        "bad files, all at once": (
            broken,
            ("empty.png", "text.jpg", "half.png", "bomb.png"),
        ),
        "csv without columns": (table("a,b\n1,2\n"), ("images_id", "label")),
        "csv with a missing file": (
            table("images_id,label\nreal_0,real\nreal_77,real\nfake_88,fake\n"),
            ("real_77", "fake_88"),
        ),
        "csv with an unknown label": (
            table("images_id,label\nreal_0,reel\nfake_0,fake\n"),
            ("reel",),
        ),
    }


@pytest.mark.parametrize("case", _cases())
def test_bad_data_is_explained(faces: Path, case: str) -> None:
    spoil, words = _cases()[case]
    spoil(faces)
    with pytest.raises(InputError) as caught:
        loaded(faces)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "faces/../../evil.png"])
def test_a_zip_that_leaves_its_folder_is_refused_whole(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("faces/real/a.png", b"x")
        target.writestr(name, b"x")
    with pytest.raises(InputError, match=r"evil\.png"):
        loaded(archive)
    assert not list(tmp_path.rglob("evil.png"))


def test_what_is_no_zip_and_what_does_not_exist_is_refused(tmp_path: Path, faces: Path) -> None:
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(InputError, match=r"x\.zip"):
        loaded(tmp_path / "x.zip")
    with pytest.raises(InputError, match="facse"):
        loaded(tmp_path / "facse")


def test_kaggle_without_its_package_or_network_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kaggle"):
        load("kaggle:nobody/nothing", image_size=16, cache=tmp_path)


def test_the_csv_gives_the_order(faces: Path) -> None:
    rows = [(f"{name}_{k}", name) for k in (3, 1, 2, 0, 7, 5, 6) for name in ("fake", "real")]
    with (faces / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("images_id", "label"), *rows])
    from shared_data.sources import open_source

    assert [sample.path.stem for sample in open_source(str(faces)).samples] == [r for r, _ in rows]
