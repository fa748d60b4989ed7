from __future__ import annotations

import numpy as np
import pytest
from conftest import FACES
from hypothesis import given
from hypothesis import strategies as st

from parity import published
from shared_data.batches import epoch_order, load
from shared_data.errors import InputError
from shared_data.splits import class_counts, split_rows

real = pytest.mark.skipif(not FACES.exists(), reason="the study's images are not here")


@given(st.integers(10, 3000), st.integers(0, 2**32 - 1))
def test_splits_are_the_shuffled_rows_cut_at_80_and_90_percent(count: int, seed: int) -> None:
    split = split_rows(count, seed)
    rows = np.random.RandomState(seed).permutation(count)
    np.testing.assert_array_equal(split["train"], rows[: int(0.8 * count)])
    np.testing.assert_array_equal(split["test"], rows[int(0.8 * count) : int(0.9 * count)])
    np.testing.assert_array_equal(split["validation"], rows[int(0.9 * count) :])


@given(st.integers(0, 40))
def test_every_split_has_images_or_the_count_is_refused(count: int) -> None:
    try:
        split = split_rows(count)
    except InputError as error:
        assert count < 6
        assert f"{count} images are too few to split" in str(error)
    else:
        assert min(len(rows) for rows in split.values()) >= 1
        assert sorted(np.concatenate(list(split.values()))) == list(range(count))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_numpy_refuses_are_explained(seed: int) -> None:
    with pytest.raises(InputError, match=f"split seed: got {seed}, expected"):
        split_rows(10, seed)


def test_classes_without_images_count_zero() -> None:
    assert class_counts(np.array([1, 1]), ("a", "b", "c")) == {"a": 0, "b": 2, "c": 0}


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
