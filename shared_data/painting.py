"""Paint soft, tilted ellipses and waves on a canvas of colour planes: what faces are made of.

A canvas is float64, CHW (3, SIZE, SIZE), in grey levels; planes are faster to paint on than
interleaved pixels.
"""

from dataclasses import dataclass

import numpy as np

SIZE = 300
Array = np.ndarray
AXIS = np.arange(SIZE, dtype=np.float64)


@dataclass(frozen=True)
class Frame:
    """Where a face is: centre and half axes in pixels, and its tilt as cosine and sine."""

    x: float
    y: float
    rx: float
    ry: float
    cos: float
    sin: float

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Return the pixel of (u, v), given in half axes right and down of the centre."""
        a, b = u * self.rx, v * self.ry
        return self.x + self.cos * a - self.sin * b, self.y + self.sin * a + self.cos * b


def waves(x: Array, y: Array, kx: Array, ky: Array, phase: Array) -> Array:
    """Sum the waves cos(kx x + ky y + phase) on a grid, (len(y), len(x)), to variance 1.

    By cos(a + b) = cos a cos b - sin a sin b each wave is two outer products.
    """
    a, b = np.outer(kx, x), np.outer(ky, y) + phase[:, None]
    total = np.einsum("wy,wx->yx", np.cos(b), np.cos(a))
    total -= np.einsum("wy,wx->yx", np.sin(b), np.sin(a))
    return np.asarray(total * np.sqrt(2 / len(kx)))


def _span(middle: float, reach: float) -> tuple[int, int]:
    return max(0, int(middle - reach)), min(SIZE, int(middle + reach) + 2)


def ellipse(
    centre: tuple[float, float], rx: float, ry: float, frame: Frame, soft: float = 2.0
) -> tuple[tuple[slice, slice, slice], Array, Array, Array]:
    """Return the window of a tilted ellipse, its mask (0 to 1, edge `soft` pixels wide) and the
    coordinates (u, v) inside, 1 on the outline."""
    x0, x1 = _span(centre[0], np.hypot(rx * frame.cos, ry * frame.sin) + soft)
    y0, y1 = _span(centre[1], np.hypot(rx * frame.sin, ry * frame.cos) + soft)
    dx, dy = AXIS[x0:x1] - centre[0], AXIS[y0:y1, None] - centre[1]
    u = (frame.cos / rx) * dx + (frame.sin / rx) * dy
    v = (-frame.sin / ry) * dx + (frame.cos / ry) * dy
    mask = np.sqrt(u * u + v * v)
    mask *= -min(rx, ry) / soft
    mask += min(rx, ry) / soft + 0.5
    np.clip(mask, 0, 1, out=mask)
    return (slice(None), slice(y0, y1), slice(x0, x1)), mask, u, v


def paint(
    canvas: Array,
    centre: tuple[float, float],
    size: tuple[float, float],
    frame: Frame,
    colour: Array,
    soft: float = 2.0,
    opacity: float = 1.0,
) -> None:
    """Lay one colour, float64 (3,), over the canvas: an ellipse of half axes `size`."""
    window, mask, _, _ = ellipse(centre, *size, frame, soft)
    mask *= opacity
    for plane, level in zip(canvas[window], colour, strict=True):
        plane += mask * (level - plane)
