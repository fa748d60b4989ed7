"""Open an image safely as RGB, and find the duplicates of a data set."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared_data.errors import InputError

MAX_PIXELS = 50_000_000
# Only these decoders may see the data, whatever the file's suffix says it is.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_CONVERTED_BY_PILLOW = {"1", "L", "CMYK", "YCbCr", "HSV"}


class ImageError(InputError):
    """One image cannot be used; `reason` says why without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def open_image(path: Path) -> Image.Image:
    """Decode `path` to an 8-bit RGB Pillow image of its own size.

    Grey, palette and CMYK images are converted by Pillow; transparent ones are laid over black,
    so that pixels nobody sees do not count; 16-bit grey keeps its high byte. The EXIF
    orientation is not applied, because the study did not. Of several frames the first is taken.

    Raises:
        ImageError: empty, not an image, truncated, more than `MAX_PIXELS` pixels (decided from
            the header, before decoding), or a pixel format without a fixed range.
    """
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(path, "the file is empty")
        with Image.open(path, formats=_FORMATS) as opened:  # reads the header only
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ImageError(path, _too_large(f"{width}x{height} pixels"))
            return _as_rgb(path, opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(path, _too_large(str(error))) from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image, or one of an unknown format") from error
    except MemoryError as error:  # Pillow reads as many bytes as a chunk says that it has
        raise ImageError(path, "takes more memory than there is, or says so") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # the kinds that Pillow's decoders raise on damaged data
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(path, f"cannot be decoded: {reason}") from error


def _too_large(found: str) -> str:
    return f"too large: {found}, at most {MAX_PIXELS:,} pixels are decoded"


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "P", "RGBa", "La"} or "transparency" in image.info:
        over_black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(over_black, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image  # convert() would copy it, at the price of decoding it
    if image.mode in _CONVERTED_BY_PILLOW:
        return image.convert("RGB")
    raise ImageError(path, f"pixel format {image.mode} has no fixed range; save it as 8-bit RGB")


def average_hash(image: Image.Image) -> int:
    """Return the 64-bit average hash of `imagehash.average_hash(image, hash_size=8)`.

    The image is reduced to 8x8 grey pixels; a bit is 1 where a pixel exceeds their mean. The
    first row is in the highest bits, as in `str(imagehash.ImageHash)` read as hexadecimal.
    """
    import imagehash  # brings SciPy and PyWavelets with it: half a second nobody else needs

    bits = imagehash.average_hash(image, hash_size=8).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_duplicates(hashes: Sequence[int], labels: Sequence[int] | np.ndarray) -> dict[int, int]:
    """Map each duplicate row to the first row with an equal hash in the same class.

    The first one stays. Equal hashes in different classes are no duplicates (the study cleaned
    within one class).
    """
    first: dict[tuple[int, int], int] = {}
    duplicates = {}
    for row, (code, label) in enumerate(zip(hashes, labels, strict=True)):
        kept = first.setdefault((int(label), code), row)
        if kept != row:
            duplicates[row] = kept
    return duplicates
