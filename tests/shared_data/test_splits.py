from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import FACES
from hypothesis import given
from hypothesis import strategies as st

from parity import published
from shared_data.batches import epoch_order, load
from shared_data.errors import InputError
from shared_data.sources import open_source
from shared_data.splits import split_rows

real = pytest.mark.skipif(not FACES.exists(), reason="the study's images are not here")


@given(st.integers(10, 3000), st.integers(0, 2**32 - 1))
def test_splits_are_the_shuffled_rows_cut_at_80_and_90_percent(count: int, seed: int) -> None:
    split = split_rows(count, seed)
    rows = np.random.RandomState(seed).permutation(count)
    np.testing.assert_array_equal(split["train"], rows[: int(0.8 * count)])
    np.testing.assert_array_equal(split["test"], rows[int(0.8 * count) : int(0.9 * count)])
    np.testing.assert_array_equal(split["validation"], rows[int(0.9 * count) :])


def test_too_few_images_to_split_are_refused() -> None:
    with pytest.raises(InputError, match="few"):
        split_rows(3)


@given(st.integers(1, 500), st.integers(0, 2**31), st.integers(1, 1000))
def test_an_epochs_order_is_a_permutation_of_its_own(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(count, seed, epoch))
    if count > 20:
        assert (order != epoch_order(count, seed, epoch + 1)).any()
        assert (order != epoch_order(count, seed + 1, epoch)).any()


@real
@pytest.mark.real_data
def test_real_data_split_as_table_1_says() -> None:
    data = load(str(FACES), image_size=32)
    table = published.table_1()
    splits = data.summary()["splits"]
    for name in ("train", "validation", "test"):
        assert splits[name] == table[name]
    assert data.duplicates == ()


@real
@pytest.mark.real_data
def test_without_its_csv_the_real_data_has_the_same_order(tmp_path: Path) -> None:
    with_csv = open_source(str(FACES))
    bare = tmp_path / "faces"
    for name in ("real", "fake"):
        (bare / name).mkdir(parents=True)
        for file in (FACES / name).iterdir():
            (bare / name / file.name).write_bytes(file.read_bytes())
    without = open_source(str(bare))
    names = [[sample.path.name for sample in source.samples] for source in (with_csv, without)]
    assert names[0] == names[1]
