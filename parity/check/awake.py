"""Weights that hide nothing: what stands at a neutral value is drawn, the same on both sides.

A bias of zeros, a gamma of ones, a moving mean of zeros: with them a port that forgets the bias, or
exchanges gamma and beta, computes the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

SPREAD = 0.25  # about a constant; trained networks' gammas and variances vary by as much and more
UNIT = 0.5  # a table of embeddings that varies by less is brought to 1
OFFSET = 0.1  # of what is zero: biases, moving means


def neutral(value: np.ndarray) -> bool:
    """Whether a tensor holds one or two numbers alone, as no trained one does."""
    if value.dtype.kind != "f" or not value.size:
        return False
    flat = value.reshape(-1)
    rest = flat[flat != flat[0]]
    return not rest.size or bool(value.size > 2 and (rest == rest[0]).all())


def awakened(
    weights: Mapping[str, np.ndarray],
    known: Collection[str],
    seed: int,
    tables: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The weights with neutral ones drawn, and the names of these; `known` may change.

    Tables of embeddings that are as small as they are drawn at first are brought to unit scale,
    where a bound on the norm of their rows shows.

    Zeros become normal numbers of deviation 0.1 (in a kernel 1 / root of its inputs, if that is
    less); others, such as the ones of a variance, are multiplied by 0.75 to 1.25, which keeps
    their sign.
    """
    made, names = dict(weights), []
    for at, (name, value) in enumerate(weights.items()):
        if name not in known:
            continue
        if name in tables and value.dtype.kind == "f" and 0 < (spread := value.std()) < UNIT:
            made[name] = (value / spread).astype(value.dtype)
            names.append(name)
            continue
        if not neutral(value):
            continue
        generator = np.random.default_rng([seed, at])
        fan = max(1, value.size // max(value.shape[-1:], default=1)) if value.ndim > 1 else 1
        offset = min(OFFSET, fan**-0.5) * generator.standard_normal(value.shape)
        factor = generator.uniform(1 - SPREAD, 1 + SPREAD, value.shape)
        made[name] = np.where(value == 0, offset, value * factor).astype(value.dtype)
        names.append(name)
    return made, names
