from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as F

from shared_data import augment

numbers = st.integers(0, 2**31)


def photo(seed: int, side: int = 33) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side)))


@settings(max_examples=60, deadline=None)
@given(numbers, numbers, numbers)
def test_a_tape_plays_as_torchvision_would(seed: int, epoch: int, sample: int) -> None:
    tape = augment.draw(seed, epoch, sample)
    image = photo(seed)
    picture = Image.fromarray(image)
    if tape.flip_horizontal:
        picture = F.hflip(picture)
    if tape.flip_vertical:
        picture = F.vflip(picture)
    picture = F.rotate(picture, tape.angle, fill=0)
    for name in tape.order:
        picture = getattr(F, f"adjust_{name}")(picture, getattr(tape, name))
    np.testing.assert_array_equal(augment.apply(image, tape), np.asarray(picture))


@given(numbers, numbers, numbers)
def test_a_tape_depends_on_seed_epoch_and_sample_alone(seed: int, epoch: int, sample: int) -> None:
    tape = augment.draw(seed, epoch, sample)
    assert tape == augment.draw(seed, epoch, sample)
    assert tape != augment.draw(seed, epoch + 1, sample)
    assert tape != augment.draw(seed, epoch, sample + 1)
    assert abs(tape.angle) <= 15
    assert all(0.9 <= f <= 1.1 for f in (tape.brightness, tape.contrast, tape.saturation))
    assert abs(tape.hue) <= 0.1
    assert sorted(tape.order) == sorted(augment.OPERATIONS)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        augment.apply(image, augment.draw(0, 0, 0))


def test_draws_cover_their_ranges() -> None:
    tapes = [augment.draw(8, 1, sample) for sample in range(400)]
    assert 150 < sum(tape.flip_horizontal for tape in tapes) < 250
    assert 150 < sum(tape.flip_vertical for tape in tapes) < 250
    assert min(tape.angle for tape in tapes) < -14 and max(tape.angle for tape in tapes) > 14
    assert len({tape.order for tape in tapes}) == 24
