"""TensorFlow's resizing of images in float64: its own computes in float32 whatever it is given.

Each is a matrix for the height and one for the width, and so are its gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import gen_image_ops

from keras_impl.raw_operations import as_one

TABLE = 1024  # TensorFlow looks the weights of a bicubic resizing up: steps between two pixels


@contextmanager
def exact_resizing() -> Iterator[None]:
    """Resizing of float64 images is float64 inside."""
    with ExitStack() as stack:
        for name, weights in WEIGHTS.items():
            original = getattr(gen_image_ops, name)
            stack.enter_context(patch.object(gen_image_ops, name, _in_double(original, weights)))
        yield


def _in_double(original: Any, weights: Callable[..., np.ndarray]) -> Any:
    called = "".join(map(str.capitalize, original.__name__.split("_")))
    signature = inspect.signature(original)

    def resize(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        images = tf.convert_to_tensor(given.pop("images"))
        after = tf.get_static_value(tf.convert_to_tensor(given.pop("size")))
        before = images.shape[1:3]
        moved = "translation" in given and np.any(tf.get_static_value(given["translation"]))
        if images.dtype != tf.float64 or after is None or None in before or moved:
            return original(*args, **kwargs)
        for name in ("name", "scale", "translation"):
            given.pop(name, None)
        height, width = (
            tf.constant(weights(int(b), int(a), **given), tf.float64)
            for b, a in zip(before, after, strict=True)
        )
        return as_one(
            called, (images,), lambda: tf.einsum("ah,bw,nhwc->nabc", height, width, images)
        )

    return resize


def bilinear(
    before: int, after: int, align_corners: bool = False, half_pixel_centers: bool = False
) -> np.ndarray:
    """(after, before): the two nearest pixels, by how near they are."""
    places = _places(before, after, align_corners, half_pixel_centers)
    lower = np.floor(places)
    found, rows = np.zeros((after, before)), np.arange(after)
    np.add.at(found, (rows, np.clip(lower, 0, before - 1).astype(int)), 1 - (places - lower))
    np.add.at(found, (rows, np.clip(lower + 1, 0, before - 1).astype(int)), places - lower)
    return found


def bicubic(
    before: int, after: int, align_corners: bool = False, half_pixel_centers: bool = False
) -> np.ndarray:
    """(after, before): the four nearest pixels. With half pixel centers Keys' weights, without
    what lies outside; else those of -0.75, with the edge repeated."""
    places = _places(before, after, align_corners, half_pixel_centers)
    lower = np.floor(places)
    part = np.rint((places - lower) * TABLE) / TABLE
    found, rows = np.zeros((after, before)), np.arange(after)
    for step in (-1, 0, 1, 2):
        at = lower + step
        weight = _cubic(np.abs(part - step), -0.5 if half_pixel_centers else -0.75)
        if half_pixel_centers:
            weight = np.where((at >= 0) & (at < before), weight, 0)
        np.add.at(found, (rows, np.clip(at, 0, before - 1).astype(int)), weight)
    return found / found.sum(1, keepdims=True) if half_pixel_centers else found


def area(before: int, after: int, align_corners: bool = False) -> np.ndarray:
    """(after, before): the mean over what an output covers."""
    scale = _scale(before, after, align_corners)
    start = np.arange(after)[:, None] * scale
    pixels = np.arange(before)
    covered = np.minimum(start + scale, pixels + 1) - np.maximum(start, pixels)
    return np.maximum(covered, 0) / scale


def sampled(
    before: int, after: int, kernel_type: str = "lanczos3", antialias: bool = True
) -> np.ndarray:
    """(after, before): a kernel around where an output lies, wider where it is to smooth."""
    kernel, radius = KERNELS[kernel_type]
    wide = max(before / after, 1.0) if antialias else 1.0
    places = _places(before, after, False, True)
    away = np.abs(np.arange(before) - places[:, None]) / wide
    found = np.where(away < radius - 1e-9, kernel(away), 0)
    return found / found.sum(1, keepdims=True)


WEIGHTS: dict[str, Callable[..., np.ndarray]] = {
    "resize_bilinear": bilinear,
    "resize_bicubic": bicubic,
    "resize_area": area,
    "scale_and_translate": sampled,
}


def _places(before: int, after: int, align_corners: bool, half_pixel_centers: bool) -> np.ndarray:
    """Where an output lies between the inputs."""
    half = 0.5 if half_pixel_centers else 0.0
    found: np.ndarray = (np.arange(after) + half) * _scale(before, after, align_corners) - half
    return found


def _scale(before: int, after: int, align_corners: bool) -> float:
    if align_corners and after > 1:
        return (before - 1) / (after - 1)
    return before / after


def _lanczos(radius: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda away: np.sinc(away) * np.sinc(away / radius)


def _mitchell(away: np.ndarray) -> np.ndarray:
    near = ((7 / 6 * away - 2) * away) * away + 8 / 9
    return np.where(away < 1, near, ((-7 / 18 * away + 2) * away - 10 / 3) * away + 16 / 9)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "triangle": (lambda away: 1 - away, 1),
    "keyscubic": (lambda away: _cubic(away, -0.5), 2),
    "mitchellcubic": (_mitchell, 2),
    "gaussian": (lambda away: np.exp(-2 * away**2), 1.5),
    "lanczos3": (_lanczos(3), 3),
    "lanczos5": (_lanczos(5), 5),
}
