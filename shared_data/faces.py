"""Draw a synthetic face, real-like or with the structural faults of a generator.

Both classes share every distribution of colour, brightness, contrast and noise. A fake differs only
in *structure*, and each fault replaces something of the same mean, variance and gradient:

- texture: skin and hair have ripples of one wavelength; in a real face their directions are
  random, in a fake one they form a lattice like the checkerboard of upsampling layers;
- light: a real face darkens towards its outline, as a round body does; a fake one brightens
  there by as much, as a face pasted into other light;
- eyes: in a real face both irises and their highlights match, in a fake one they do not.

How strong the faults are differs from fake to fake.
"""

import numpy as np

from shared_data.painting import AXIS, SIZE, Array, Frame, ellipse, paint, waves

SEED = 8  # the study's; of its 1289 faces no two have the same average hash
# Raise this whenever the same seed would draw other pixels.
VERSION = 2

_SKIN = np.array([[109, 77, 59], [143, 102, 79], [174, 130, 104], [184, 144, 119], [189, 154, 132]])
_HAIR = np.array([[55, 43, 37], [76, 54, 42], [105, 75, 52], [139, 110, 76], [116, 108, 101]])
_IRIS = np.array([[66, 46, 34], [92, 76, 48], [82, 100, 112], [80, 100, 76]])
_WAVES = 8  # in a natural texture
_RIPPLE, _LIGHT = 6.0, 52.0  # grey levels of the structures that tell the classes apart


def draw_face(fake: bool, index: int, seed: int = SEED) -> Array:
    """Return face number `index` of its class, uint8 HWC (300, 300, 3) RGB, 4 to 251.

    It depends on `seed`, `fake` and `index` alone (all from 0). Arithmetic is in float64, so
    that the last bits in which processors differ vanish in the rounding to uint8.
    """
    rng = np.random.default_rng([seed, 0 if fake else 1, index])
    tilt = rng.uniform(-0.14, 0.14)
    frame = Frame(
        x=150 + rng.uniform(-22, 22),
        y=148 + rng.uniform(-16, 16),
        rx=rng.uniform(68, 92),
        ry=rng.uniform(90, 114),
        cos=float(np.cos(tilt)),
        sin=float(np.sin(tilt)),
    )
    skin, hair = _mixed(rng, _SKIN), _mixed(rng, _HAIR)
    light = rng.uniform(-1, 1, 2)
    canvas = np.empty((3, SIZE, SIZE))
    _draw_background(canvas, rng)
    _draw_head(canvas, rng, frame, skin, hair, light)
    strength = rng.uniform(0.55, 1.0)
    # on skin alone: the darkest and brightest pixels, in hair and eyes, stay as they are
    _add_light(canvas, frame, strength, fake)
    _draw_fringe(canvas, rng, frame, hair)
    _draw_eyes(canvas, rng, frame, hair, light, strength if fake else 0.0)
    _draw_nose_and_mouth(canvas, rng, frame, skin, light)
    _add_ripples(canvas, rng, frame, strength, fake)
    return _photographed(canvas, rng)


def _mixed(rng: np.random.Generator, palette: Array) -> Array:
    """Return a colour between two neighbours of `palette`, float64 (3,), with its own cast."""
    place = rng.uniform(0, len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    colour = palette[low] + (place - low) * (palette[low + 1] - palette[low])
    return np.asarray(colour * rng.uniform(0.95, 1.05, 3))


def _draw_background(canvas: Array, rng: np.random.Generator) -> None:
    """Fill the canvas with a soft gradient between two colours, with blotches."""
    middle = rng.uniform(90, 150) + rng.uniform(-15, 15, 3)
    change = rng.choice([-1, 1]) * rng.uniform(16, 40) + rng.uniform(-8, 8, 3)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (AXIS / 150 - 1) + np.sin(angle) * (AXIS[:, None] / 150 - 1)
    kx, ky = rng.uniform(-0.05, 0.05, (2, 4))
    along += 0.4 * waves(AXIS, AXIS, kx, ky, rng.uniform(0, 2 * np.pi, 4))
    for plane, level, slope in zip(canvas, middle, change, strict=True):
        np.multiply(along, slope, out=plane)
        plane += level


def _draw_head(
    canvas: Array, rng: np.random.Generator, frame: Frame, skin: Array, hair: Array, light: Array
) -> None:
    rx, ry = frame.rx, frame.ry
    cloth = rng.uniform(75, 155) + rng.uniform(-30, 30, 3)
    paint(
        canvas, (frame.x, SIZE + rng.uniform(-4, 24)), (rng.uniform(100, 150), 62), frame, cloth, 4
    )
    volume = rng.uniform(1.08, 1.3)
    paint(canvas, frame.at(0, -0.12), (rx * volume, ry * rng.uniform(1.05, 1.3)), frame, hair, 5)
    paint(canvas, frame.at(0, 1.05), (rx * 0.45, ry * 0.5), frame, skin * 0.8, 5)
    for side in (-1, 1):
        paint(canvas, frame.at(side * 1.0, 0.0), (rx * 0.12, ry * 0.2), frame, skin * 0.9)
    window, mask, u, v = ellipse((frame.x, frame.y), rx, ry, frame, 3)
    shade = 0.95 + 0.1 * (light[0] * u + light[1] * v)
    for plane, level in zip(canvas[window], skin, strict=True):
        plane += mask * (level * shade - plane)
    blush = skin * np.array([1.05, 0.92, 0.92])
    for side in (-1, 1):
        paint(canvas, frame.at(side * 0.5, 0.3), (rx * 0.3, ry * 0.2), frame, blush, 14, 0.5)


def _draw_fringe(canvas: Array, rng: np.random.Generator, frame: Frame, hair: Array) -> None:
    """Draw hair over the forehead, combed in fine streaks."""
    top = frame.at(rng.uniform(-0.15, 0.15), -0.88)
    window, mask, u, v = ellipse(top, frame.rx * rng.uniform(0.85, 1.0), frame.ry * 0.36, frame, 5)
    streaks = 1 + 0.08 * np.sin(rng.uniform(18, 30) * u + rng.uniform(3, 9) * v)
    for plane, level in zip(canvas[window], hair, strict=True):
        plane += mask * (level * streaks - plane)


def _draw_eyes(
    canvas: Array,
    rng: np.random.Generator,
    frame: Frame,
    hair: Array,
    light: Array,
    fault: float,
) -> None:
    """Draw eyes and brows; `fault` (0 in real faces) parts irises and highlights."""
    rx, ry = frame.rx, frame.ry
    apart, height = rng.uniform(0.38, 0.46), rng.uniform(-0.2, -0.1)
    wide, tall = rx * rng.uniform(0.19, 0.24), ry * rng.uniform(0.075, 0.11)
    colour, radius = _mixed(rng, _IRIS), tall * rng.uniform(0.72, 0.92)
    white, brow = rng.uniform(182, 208) + rng.uniform(-8, 8, 3), hair * rng.uniform(0.55, 0.8)
    look = rng.uniform(-0.2, 0.2)
    grow = rng.choice([-1, 1]) * fault
    for side in (-1, 1):
        x, y = frame.at(side * apart, height)
        paint(canvas, (x, y - 0.2 * tall), (wide * 1.2, tall * 1.4), frame, brow, 6, 0.35)
        paint(canvas, (x, y), (wide, tall), frame, white, 2)
        # A fault makes one iris larger and the other smaller, so that the mean stays
        iris = radius * (1 + 0.22 * side * grow)
        middle = (x + look * wide + side * grow * 1.5, y)
        paint(canvas, middle, (iris, iris), frame, colour, 2)
        paint(canvas, middle, (iris * 0.45, iris * 0.45), frame, np.full(3, 30.0), 2)
        # and puts the highlights on opposite sides, where one light would put them on the same
        toward = light if side == 1 or not fault else -light
        spot = (middle[0] + 0.5 * iris * toward[0], middle[1] + 0.5 * iris * toward[1])
        paint(canvas, spot, (2.2, 2.2), frame, np.full(3, 226.0), 1.5)
        paint(
            canvas,
            frame.at(side * apart, height - 0.2),
            (wide * 1.15, ry * 0.03),
            frame,
            brow,
            3,
            0.8,
        )


def _draw_nose_and_mouth(
    canvas: Array, rng: np.random.Generator, frame: Frame, skin: Array, light: Array
) -> None:
    rx, ry = frame.rx, frame.ry
    side = 0.08 if light[0] < 0 else -0.08
    paint(canvas, frame.at(side, 0.08), (rx * 0.06, ry * 0.2), frame, skin * 0.8, 6, 0.6)
    paint(canvas, frame.at(0, 0.2), (rx * 0.15, ry * 0.09), frame, skin * 1.05, 8, 0.6)
    for nostril in (-0.08, 0.08):
        paint(canvas, frame.at(nostril, 0.27), (rx * 0.045, ry * 0.02), frame, skin * 0.45, 3)
    lips = skin * np.array([0.95, 0.66, 0.68])
    wide, open_ = rx * rng.uniform(0.26, 0.38), ry * rng.uniform(0.05, 0.09)
    mouth = frame.at(rng.uniform(-0.04, 0.04), rng.uniform(0.5, 0.58))
    paint(canvas, mouth, (wide, open_), frame, lips, 4)
    paint(canvas, mouth, (wide * 0.9, open_ * 0.16), frame, lips * 0.5, 2)


def _add_ripples(
    canvas: Array, rng: np.random.Generator, frame: Frame, strength: float, fake: bool
) -> None:
    """Add ripples on cheeks, forehead or hair: of random directions, or a lattice."""
    places = [(-0.5, 0.3), (0.5, 0.3), (0.0, -0.55), (0.0, 0.75)]
    for place in rng.permutation(len(places))[: rng.integers(2, 4)]:
        number = 2 * np.pi / rng.uniform(7, 9)
        phase = rng.uniform(0, 2 * np.pi, _WAVES)
        angle = rng.uniform(0, 2 * np.pi, _WAVES)
        if fake:
            phase, angle = phase[:2], np.array([0.25, 0.75]) * np.pi
        reach = rng.uniform(0.3, 0.45)
        window, _, u, v = ellipse(
            frame.at(*places[place]), frame.rx * reach, frame.ry * reach, frame
        )
        fade = np.clip(1.5 * (1 - (u * u + v * v)), 0, 1)
        ripple = waves(
            AXIS[window[2]],
            AXIS[window[1]],
            number * np.cos(angle),
            number * np.sin(angle),
            phase,
        )
        canvas[window] += (_RIPPLE * strength) * fade * ripple


def _add_light(canvas: Array, frame: Frame, strength: float, fake: bool) -> None:
    """Darken the face towards its outline, or brighten it; both keep the mean.

    On an ellipse u u + v v is spread evenly from 0 to 1, so minus a half its mean is 0.
    """
    window, mask, u, v = ellipse((frame.x, frame.y), frame.rx, frame.ry, frame, 8)
    outward = mask * (u * u + v * v - 0.5)
    canvas[window] += outward * (_LIGHT * strength * (1 if fake else -1))


def _photographed(canvas: Array, rng: np.random.Generator) -> Array:
    """Expose, add sensor noise (grey and coloured) and round to uint8 HWC."""
    gain = rng.uniform(0.88, 1.02) * rng.uniform(0.97, 1.03, 3)
    canvas *= gain[:, None, None]
    # bytes are drawn five times faster than normal deviates, and after the sum and the JPEG
    # nobody can tell; a byte's standard deviation is 74
    grain = rng.uniform(2.0, 5.0) / 74
    noise = rng.integers(0, 256, (5, SIZE, SIZE), dtype=np.uint8)
    canvas += (0.6 * grain) * (noise[0].astype(np.float64) + noise[1] - 255)
    canvas += (0.4 * grain) * noise[2:]
    canvas += 0.5 - 0.4 * grain * 127.5
    return np.clip(canvas, 4, 251, out=canvas).astype(np.uint8).transpose(1, 2, 0)
