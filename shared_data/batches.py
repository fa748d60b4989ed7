"""Load a data set ready for training, and hand out its batches, equal for both frameworks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from shared_data.cleaning import find_duplicates
from shared_data.errors import InputError
from shared_data.images import ImageSet, prepare
from shared_data.sources import open_source
from shared_data.splits import class_counts, split_rows

__all__ = ["FaceData", "ImageSet", "Subset", "batches", "epoch_order", "load", "prepare"]


@dataclass(frozen=True)
class Subset:
    """Some rows of an image set, in a fixed order.

    Attributes:
        images: uint8 NHWC (N, S, S, 3), all images of the set (memory-mapped, read-only).
        rows: int64 (len,), which of them belong to the subset.
        labels: int64 (len,), the label of each of `rows`.
    """

    images: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class FaceData:
    """A data set cleaned and split, and perhaps a second one that models never train on.

    `duplicates` are pairs (file left out, first file with the same hash in the same class).
    `ood` is the balanced out-of-distribution set, None where none was given; `ood_images` counts
    its files per class before duplicates were left out.
    """

    source: str
    digest: str
    classes: tuple[str, ...]
    image_size: int
    split_seed: int
    train: Subset
    test: Subset
    validation: Subset
    duplicates: tuple[tuple[str, str], ...]
    ood: Subset | None = None
    ood_source: str | None = None
    ood_digest: str | None = None
    ood_duplicates: tuple[tuple[str, str], ...] = ()
    ood_images: dict[str, int] | None = None

    def summary(self) -> dict[str, Any]:
        """Describe the data in types that JSON knows: origin, digest, duplicates, counts."""
        subsets = {"train": self.train, "test": self.test, "validation": self.validation}
        if self.ood is not None:
            subsets["ood"] = self.ood
        return {
            "source": self.source,
            "digest": self.digest,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "split_seed": self.split_seed,
            "duplicates": [list(pair) for pair in self.duplicates],
            "splits": {
                name: class_counts(subset.labels, self.classes) for name, subset in subsets.items()
            },
            "ood": None
            if self.ood is None
            else {
                "source": self.ood_source,
                "digest": self.ood_digest,
                "images": self.ood_images,
                "duplicates": [list(pair) for pair in self.ood_duplicates],
            },
        }


def load(
    data: str,
    *,
    ood: str | None = None,
    image_size: int,
    synthetic_images: int = 1289,
    split_seed: int = 8,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FaceData:
    """Open, decode, clean and split `data`, and balance `ood` if given.

    Duplicates are left out before the split and listed in the result; no file is ever deleted.
    Of `ood` the duplicates are left out, then the first rows of each class are taken, as many as
    the smallest class has (the study's "50-50 Dataset").

    Args:
        data, ood: data sets as `open_source` takes them.
        image_size: side of the square images in pixels.
        synthetic_images: how many images `synthetic` has.
        split_seed: seed of the split; the study used 8.
        cache: the cache folder; `cache_root()` by default.
        on_progress: called with (done, total) while images are drawn or decoded, from 1 again
            for each data set.

    Raises:
        InputError: a data set cannot be used, is too small, or `ood` has other classes.
    """

    def opened(spec: str) -> ImageSet:
        source = open_source(
            spec, synthetic_images=synthetic_images, cache=cache, on_progress=on_progress
        )
        return prepare(source, image_size, cache=cache, on_progress=on_progress)

    main = opened(data)
    kept, duplicates = _without_duplicates(main)
    splits = {
        name: Subset(main.images, kept[rows], main.labels[kept[rows]])
        for name, rows in split_rows(len(kept), split_seed).items()
    }
    absent = [k for k, n in class_counts(splits["train"].labels, main.classes).items() if n == 0]
    if absent:
        raise InputError(
            f"data: no image of {' and '.join(absent)} fell into the training split of {data} "
            f"({len(kept)} images, split seed {split_seed}). Give more images of it."
        )
    common: dict[str, Any] = {
        "source": data,
        "digest": main.digest,
        "classes": main.classes,
        "image_size": image_size,
        "split_seed": split_seed,
        "duplicates": duplicates,
        **splits,
    }
    if ood is None:
        return FaceData(**common)
    other = opened(ood)
    if other.classes != main.classes:
        raise InputError(
            f"out-of-distribution data: {ood} has the classes {', '.join(other.classes)}, "
            f"expected those of {data}: {', '.join(main.classes)}. Rename its folders, or give a "
            "set that has all of these and no other."
        )
    kept, ood_duplicates = _without_duplicates(other)
    return FaceData(
        **common,
        ood=_balanced(other, kept),
        ood_source=ood,
        ood_digest=other.digest,
        ood_duplicates=ood_duplicates,
        ood_images=class_counts(other.labels, other.classes),
    )


def _without_duplicates(images: ImageSet) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    duplicates = find_duplicates(images.hashes, images.labels)
    kept = [row for row in range(len(images.files)) if row not in duplicates]
    pairs = tuple((images.files[row], images.files[first]) for row, first in duplicates.items())
    return np.array(kept, dtype=np.int64), pairs


def _balanced(images: ImageSet, kept: np.ndarray) -> Subset:
    labels = images.labels[kept]
    smallest = int(np.bincount(labels).min())
    first = np.zeros(len(kept), dtype=bool)
    for label in range(len(images.classes)):
        first[np.flatnonzero(labels == label)[:smallest]] = True
    return Subset(images.images, kept[first], labels[first])


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the positions 0 to `count` - 1 shuffled for one epoch, int64 (count,).

    It depends on `seed` and `epoch` alone, so an epoch can be repeated without those before it.
    """
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)


def batches(
    subset: Subset,
    order: np.ndarray,
    batch_size: int,
    dtype: DTypeLike = np.float32,
    transform: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    *,
    divisor: float = 256,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (x, y) for `order`, a batch at a time; a short last batch is kept.

    Args:
        subset: where the images come from.
        order: int64 positions within the subset (0 to len(subset) - 1), as `epoch_order` gives.
        batch_size: images per batch, at least 1.
        dtype: floating type of x. Dividing by 256 is exact in all of them, float16 included.
        transform: called with the positions (B,) and their images, uint8 NHWC (B, S, S, 3),
            which it may change in place; returns images of the same type and shape.
        divisor: what pixels are divided by; 256 as in the study.

    Yields:
        x: `dtype`, C-contiguous NHWC (B, S, S, 3), from 0 to 255 / divisor.
        y: int64 (B,) labels.

    Raises:
        ValueError: `batch_size` is less than 1.
        IndexError: a position is outside the subset.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        images = np.asarray(subset.images[subset.rows[positions]])
        if transform is not None:
            images = transform(positions, images)
        x = np.ascontiguousarray(images, dtype=dtype)
        x /= divisor
        yield x, subset.labels[positions]
