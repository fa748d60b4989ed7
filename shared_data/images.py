"""Decode and resize every image once, into one file that both frameworks map into memory."""

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from PIL import Image

from shared_data.caching import cache_root, publish
from shared_data.cleaning import ImageError, average_hash, open_image
from shared_data.errors import InputError, listed
from shared_data.sources import Sample, Source

# Raise this whenever the same file would give other pixels or another hash.
PIXEL_RECIPE = "1: rgb, average hash of the original, bicubic"
_AHEAD = 64  # images in memory at once
_MAX_SIZE = 4096
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageSet:
    """The decoded images of a `Source`, row for row.

    Attributes:
        images: uint8, NHWC (N, S, S, 3), 0 to 255, read-only and memory-mapped.
        labels: int64 (N,), indices into `classes`.
        classes: class names in label order.
        files: paths relative to the data set, with `/`.
        digest: sha256 over paths, labels and contents, the pixel recipe and Pillow's version.
        hashes: 64-bit average hashes of the images in their original size.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    files: tuple[str, ...]
    digest: str
    hashes: tuple[int, ...]


def prepare(
    source: Source,
    image_size: int,
    *,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Return the images of `source` at `image_size` x `image_size`, decoding only what is new.

    The cache folder is named by digest and size. It is written beside and renamed, so several
    processes may prepare the same set; size and sha256 are checked whenever it is opened, and
    damage is mended by decoding again. Images are resized with Pillow's bicubic filter (its
    default, as the study did), whatever their aspect ratio. `on_progress` is called with (done,
    total) while images are decoded, and not at all where the cache has them.

    Raises:
        InputError: images cannot be used (all are listed, with the reason for each), the size is
            not from 1 to 4096, or the cache cannot be written.
    """
    if not 1 <= image_size <= _MAX_SIZE:
        raise InputError(f"image size: got {image_size}, expected 1 to {_MAX_SIZE} pixels.")
    files = tuple(s.path.relative_to(source.root).as_posix() for s in source.samples)
    labels = np.array([sample.label for sample in source.samples], dtype=np.int64)
    digest = _digest(source, files)
    folder = (cache or cache_root()) / "images" / f"{digest[:32]}-{image_size}"

    def load(*, ours: bool = False) -> ImageSet | None:
        shape = (len(files), image_size, image_size, 3)
        opened = _open_checked(folder, shape, digest, ours=ours)
        if opened is None:
            return None
        images, hashes = opened
        return ImageSet(images, labels, source.classes, files, digest, hashes)

    ours = False
    for _ in range(3):  # another process may be replacing a damaged folder at this moment
        prepared = load(ours=ours)
        if prepared is not None:
            return prepared
        build = partial(_build, source, files, digest, image_size, on_progress)
        ours = publish(folder, build, lambda _: load() is not None)
    raise InputError(f"the image cache {folder} is damaged again right after it was written.")


def _digest(source: Source, files: tuple[str, ...]) -> str:
    total = hashlib.sha256(f"{PIXEL_RECIPE}\nPillow {PIL.__version__}\n".encode())
    contents = _in_threads(_content_digest, source.samples)
    for file, sample, content in zip(files, source.samples, contents, strict=True):
        total.update(f"{file}\n{sample.label}\n{content}\n".encode())
    return total.hexdigest()


def _content_digest(sample: Sample) -> str:
    try:
        return _sha256(sample.path)
    except OSError:
        return "unreadable"  # never cached: decoding it fails as well, and gives the reason


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_checked(
    folder: Path, shape: tuple[int, ...], digest: str, *, ours: bool
) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """Open a cached set, or return None where it is missing or damaged.

    The pixels of one that is `ours`, just built, were hashed as they were written.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index.pop("checksum") != _checksum(index):
            return None
        if not ours and _sha256(folder / "images.npy") != index["sha256"]:
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        hashes = tuple(int(code, 16) for code in index["hashes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if (images.shape, images.dtype) != (shape, np.uint8) or index["digest"] != digest:
        return None
    return (images, hashes) if len(hashes) == shape[0] else None


def _build(
    source: Source,
    files: tuple[str, ...],
    digest: str,
    image_size: int,
    on_progress: Callable[[int, int], None] | None,
    folder: Path,
) -> None:
    hashes, bad = [], []
    written = hashlib.sha256()
    shape = (len(files), image_size, image_size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(folder / "images.npy", "wb") as pixels:
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(start, header)
        written.update(start.getvalue())
        pixels.write(start.getvalue())
        for done, result in enumerate(_decode(source, image_size), 1):
            if isinstance(result, str):
                bad.append(f"{files[done - 1]}: {result}")
            elif not bad:
                image, code = result
                written.update(image)  # here, since other threads decode meanwhile
                pixels.write(image)
                hashes.append(code)
            if on_progress:
                on_progress(done, len(files))
    if bad:
        raise InputError(
            f"data: {len(bad)} of {len(files)} images of {source.root} cannot be used:\n"
            f"{listed(bad)}\nRemove or replace them"
            f"{' and their rows in data.csv' if (source.root / 'data.csv').exists() else ''}."
        )
    index = {
        "digest": digest,
        "sha256": written.hexdigest(),
        "recipe": PIXEL_RECIPE,
        "pillow": PIL.__version__,
        "classes": source.classes,
        "files": files,
        "labels": [sample.label for sample in source.samples],
        "hashes": [f"{code:016x}" for code in hashes],
    }
    index["checksum"] = _checksum(index)
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _checksum(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _decode(source: Source, image_size: int) -> Iterator[tuple[bytes, int] | str]:
    """Yield pixels (uint8 HWC) and hash of each sample in order, or why it cannot be used."""

    def one(sample: Sample) -> tuple[bytes, int] | str:
        try:
            image = open_image(sample.path)
        except ImageError as error:
            return error.reason
        resized = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return resized.tobytes(), average_hash(image)

    return _in_threads(one, source.samples)


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order. Unlike `Executor.map`, it keeps few of them, and of futures, waiting."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
