from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared_data import batches as module
from shared_data.batches import FaceData, Subset, load
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


def test_duplicates_are_left_out_and_listed_and_stay_on_disk(faces: Path) -> None:
    Image.open(faces / "real" / "real_1.png").save(faces / "real" / "real_99.png")
    data = loaded(faces)
    assert data.duplicates == (("real/real_99.png", "real/real_1.png"),)
    assert len(data.train) + len(data.test) + len(data.validation) == 24
    assert (faces / "real" / "real_99.png").exists()


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


def test_the_summary_is_json_and_counts_every_split(faces: Path) -> None:
    summary = loaded(faces, ood=str(faces)).summary()
    assert json.loads(json.dumps(summary)) == summary
    splits = summary["splits"]
    assert [sum(splits[name].values()) for name in ("train", "test", "validation")] == [19, 2, 3]
    assert summary["ood"] == {
        "source": str(faces),
        "digest": summary["digest"],
        "images": {"fake": 12, "real": 12},
        "duplicates": [],
    }
    assert loaded(faces).summary()["ood"] is None


def test_duplicates_of_the_out_of_distribution_set_do_not_count(
    faces: Path, make_set: Callable[..., Path]
) -> None:
    other = make_set("other", fake=3, real=3)
    (other / "real" / "real_1b.png").write_bytes((other / "real" / "real_1.png").read_bytes())
    data = loaded(faces, ood=str(other))
    assert data.ood_duplicates == (("real/real_1b.png", "real/real_1.png"),)
    assert data.ood_images == {"fake": 3, "real": 4}
    assert data.ood is not None
    # in row order: real_1, (real_1b), real_2, real_3, fake_1 ...
    assert data.ood.rows.tolist() == [0, 2, 3, 4, 5, 6]
    assert data.ood.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_class_that_is_never_trained_on_is_refused(make_set: Callable[..., Path]) -> None:
    source = make_set(fake=20, real=1)
    # row 0 is the only real image
    seed = next(s for s in range(99) if 0 in np.random.RandomState(s).permutation(21)[16:])
    with pytest.raises(InputError, match="no image of real fell into the training split"):
        loaded(source, split_seed=seed)


def test_a_transform_sees_positions_and_bytes_before_they_are_scaled(faces: Path) -> None:
    subset = loaded(faces).train
    seen = []

    def invert(positions: np.ndarray, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        seen.extend(positions.tolist())
        return 255 - images

    order = module.epoch_order(len(subset), seed=8, epoch=0)
    plain = np.concatenate([x for x, _ in module.batches(subset, order, 5)])
    inverted = np.concatenate([x for x, _ in module.batches(subset, order, 5, transform=invert)])
    assert seen == order.tolist()
    np.testing.assert_array_equal(plain * 256 + inverted * 256, np.full_like(plain, 255))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_division_by_256_is_exact_in_every_type(dtype: type) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    subset = Subset(images, np.array([0]), np.array([1]))
    ((x, _),) = module.batches(subset, np.array([0]), 1, dtype)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x.astype(np.float64) * 256, images)
    ((x, _),) = module.batches(subset, np.array([0]), 1, dtype, divisor=255)
    assert x.max() == 1


def test_wrong_batch_sizes_and_positions_raise(faces: Path) -> None:
    subset = loaded(faces).train
    with pytest.raises(ValueError, match="batch_size: got 0"):
        next(module.batches(subset, np.arange(3), 0))
    with pytest.raises(IndexError):
        next(module.batches(subset, np.array([len(subset)]), 1))
