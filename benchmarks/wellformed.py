"""Small valid images, zips and tables, to be spoilt by `benchmarks.malformed`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

ROWS = tuple(f"{name}_{number},{name}" for name in ("fake", "real") for number in (1, 2, 3))
Variant = tuple[str, dict[str, Any]]  # Pillow's mode, what its save is told
Entry = tuple[zipfile.ZipInfo, bytes]


def picture(seed: int, mode: str = "RGB", side: int = 24) -> Image.Image:
    """Coarse noise, `side` x `side`: no two seeds are each other's duplicates."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image)[:, :, 0].astype(np.uint16) << 8)
    return Image.new(mode, image.size) if mode == "LAB" else image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


@cache
def images(kind: str) -> tuple[bytes, ...]:
    """Images of a kind (`png`, `jpeg`, …), as different inside as Pillow can write them."""
    of_kind = enumerate(_variants()[kind])
    return tuple(encoded(picture(at, mode), kind, **more) for at, (mode, more) in of_kind)


def _variants() -> dict[str, list[Variant]]:
    frames = {"save_all": True, "append_images": [picture(2)]}
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    tiff: list[Variant] = [
        ("RGB", {"compression": name})
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    return {
        "png": [*_plain("RGB RGBA L 1 I;16 LA"), ("P", {"transparency": 0}), ("RGB", frames)],
        "jpeg": [*_plain("RGB L CMYK"), ("RGB", {"progressive": True, "exif": exif})],
        "webp": [*_plain("RGB"), ("RGBA", {"lossless": True}), ("RGBA", frames)],
        "bmp": _plain("RGB RGBA L P 1"),
        "gif": [*_plain("P"), ("P", frames)],
        "tiff": [*_plain("RGB RGBA CMYK I;16 F P LAB"), *tiff, ("1", {"compression": "group4"})],
    }


def _plain(modes: str) -> list[Variant]:
    return [(mode, {}) for mode in modes.split()]


@cache
def dataset() -> tuple[tuple[str, bytes], ...]:
    """Names and contents of the smallest data set that can be split: six images in two classes."""
    names = [f"{row.split(',')[1]}/{row.split(',')[0]}.png" for row in ROWS]
    return tuple((name, encoded(picture(at), "png")) for at, name in enumerate(names))


def entries() -> list[Entry]:
    """The data set, to be zipped."""
    return [(zipfile.ZipInfo(name), content) for name, content in dataset()]


def zipped(entries: Iterable[Entry], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for info, data in entries:
            opened.writestr(info, data, method)
    return content.getvalue()
