"""The augmentation tape: what happens to a sample in an epoch, the same for both frameworks.

The study's PyTorch side flips, rotates and jitters colours with torchvision. The tape holds the
numbers that torchvision would have drawn itself, so one can be replayed anywhere; `apply` does
with Pillow what torchvision does with them, bit for bit.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

_TAG = 0x617567  # "aug": keeps these draws apart from others of the same seed and epoch
OPERATIONS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Transform:
    """One sample's augmentation in one epoch, in the order in which it is applied.

    Attributes:
        flip_horizontal, flip_vertical: each true for half of the samples.
        angle: degrees counter-clockwise, -15 to 15.
        brightness, contrast, saturation: factors, 0.9 to 1.1; 1 changes nothing.
        hue: shift as a fraction of the colour circle, -0.1 to 0.1.
        order: in which order the four jitter operations run.
    """

    flip_horizontal: bool
    flip_vertical: bool
    angle: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[str, str, str, str]


def draw(seed: int, epoch: int, sample: int) -> Transform:
    """Draw the augmentation of `sample` in `epoch`; it depends on these three (from 0) alone.

    The ranges are those of RandomHorizontalFlip, RandomVerticalFlip, RandomRotation(15) and
    ColorJitter(0.1, 0.1, 0.1, 0.1), the study's transforms.
    """
    rng = np.random.default_rng([seed, epoch, sample, _TAG])
    horizontal, vertical = rng.random(2) < 0.5
    brightness, contrast, saturation = rng.uniform(0.9, 1.1, 3)
    first, second, third, fourth = (OPERATIONS[i] for i in rng.permutation(len(OPERATIONS)))
    return Transform(
        flip_horizontal=bool(horizontal),
        flip_vertical=bool(vertical),
        angle=float(rng.uniform(-15, 15)),
        brightness=float(brightness),
        contrast=float(contrast),
        saturation=float(saturation),
        hue=float(rng.uniform(-0.1, 0.1)),
        order=(first, second, third, fourth),
    )


def apply(image: np.ndarray, transform: Transform) -> np.ndarray:
    """Return `image`, uint8 HWC (H, W, 3) RGB, flipped, rotated and jittered; same shape and type.

    Rotation takes the nearest pixel and fills corners with black. The result equals that of
    torchvision's functional operations on the Pillow image.

    Raises:
        ValueError: the image is not uint8 HWC with three channels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: got {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    picture = Image.fromarray(np.ascontiguousarray(image))
    if transform.flip_horizontal:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if transform.flip_vertical:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    picture = picture.rotate(transform.angle, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))
    for operation in transform.order:
        if operation == "brightness":
            picture = ImageEnhance.Brightness(picture).enhance(transform.brightness)
        elif operation == "contrast":
            picture = ImageEnhance.Contrast(picture).enhance(transform.contrast)
        elif operation == "saturation":
            picture = ImageEnhance.Color(picture).enhance(transform.saturation)
        else:
            picture = _shift_hue(picture, transform.hue)
    return np.array(picture)


def _shift_hue(picture: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    steps = int(shift * 255) % 256  # towards zero, then around the circle of 256
    turned = Image.fromarray(np.asarray(hue) + np.uint8(steps))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
