"""Tiny data sets in temporary folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def noise_image() -> Callable[..., Image.Image]:
    """Return a function that draws coarse noise; no two seeds share an average hash."""

    def draw(seed: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)

    return draw


@pytest.fixture
def make_set(tmp_path: Path, noise_image: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Return a function that writes a set of different images: `make_set(real=6, fake=8)`."""

    def make(folder: str = "faces", **counts: int) -> Path:
        root = tmp_path / folder
        seed = 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for number in range(1, count + 1):
                seed += 1
                noise_image(seed).save(root / name / f"{name}_{number}.png")
        return root

    return make
