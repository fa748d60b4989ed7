"""What the tests of shared_data share: tiny data sets in temporary folders, and the real data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_data: needs the study's images beside the checkout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REAL_DATA.is_dir():
        for item in items:
            if item.get_closest_marker("real_data"):
                item.add_marker(pytest.mark.skip(reason=f"there is no {REAL_DATA}"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache at a temporary folder, so that no test touches the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PARITY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def main_set() -> Path:
    return REAL_DATA / "hardfakevsrealfaces"


@pytest.fixture(scope="session")
def ood_set() -> Path:
    return REAL_DATA / "deepfake-and-real-images-sample"


def noise_image(seed: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
    """Draw coarse coloured noise: two different seeds never share an average hash."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


MakeSet = Callable[..., Path]


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Return a function that writes a data set of different images: `make_set(real=6, fake=8)`."""

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
