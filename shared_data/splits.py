"""Split a data set into train, test and validation, row for row as the study did."""

from collections.abc import Sequence

import numpy as np

from shared_data.errors import InputError


def split_rows(count: int, seed: int = 8) -> dict[str, np.ndarray]:
    """Return the rows of `train`, `test` and `validation`, int64 arrays in shuffled order.

    The rows are shuffled with `numpy.random.RandomState(seed).permutation(count)`, which is what
    pandas' `sample(frac=1, random_state=seed)` does; the first `int(.8 * count)` are train, up
    to `int(.9 * count)` test, the rest validation. For the study's 1289 images and seed 8 this
    gives its Table 1.

    Raises:
        InputError: a split would be empty (fewer than 6 images), or the seed is not in
            [0, 2**32).
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"split seed: got {seed}, expected an integer from 0 to {2**32 - 1}.")
    # the study's own expressions, with its floating-point products
    train_end, test_end = int(0.8 * count), int(0.9 * count)
    if not 0 < train_end < test_end < count:
        raise InputError(
            f"data: {count} images are too few to split into train, test and validation "
            f"({train_end}, {test_end - train_end} and {count - test_end}). Give at least 6."
        )
    order = np.random.RandomState(seed).permutation(count).astype(np.int64)
    return {
        "train": order[:train_end],
        "test": order[train_end:test_end],
        "validation": order[test_end:],
    }


def class_counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Count `labels` (int64, shape (N,)) per class name; a class without images counts 0."""
    counts = np.bincount(labels, minlength=len(classes))
    return {name: int(number) for name, number in zip(classes, counts, strict=True)}
