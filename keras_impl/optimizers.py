"""Keras' own optimizers, their constants in the precision of the run.

On TensorFlow plain Python floats pass through float32 on their way into a float64 step; NumPy's
float64 scalars do not. The twin is `torch_impl/optimizers.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import keras
import numpy as np

from shared_data.errors import InputError

_ADAM = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")
OPTIMIZERS: dict[str, tuple[type[keras.optimizers.Optimizer], tuple[str, ...]]] = {
    "adam": (keras.optimizers.Adam, _ADAM),
    "adamw": (keras.optimizers.AdamW, _ADAM),
    "sgd": (keras.optimizers.SGD, ("learning_rate", "momentum", "weight_decay")),
    "rmsprop": (
        keras.optimizers.RMSprop,
        ("learning_rate", "rho", "momentum", "epsilon", "weight_decay"),
    ),
}


def make(name: str, settings: Mapping[str, float], precision: str) -> keras.optimizers.Optimizer:
    """An optimizer that has not stepped; settings not given are Keras' defaults.

    Raises `InputError` where there is no such optimizer or it has no such setting.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"no optimizer {name!r}{_meant(name, OPTIMIZERS)}")
    kind, known = OPTIMIZERS[name]
    for setting in settings:
        if setting not in known:
            raise InputError(f"{name} has no setting {setting!r}{_meant(setting, known)}")
    given = {key: float(value) for key, value in settings.items()}
    if not given.get("weight_decay", 1.0) and name != "adamw":
        del given["weight_decay"]  # Keras' way to say none
    if precision == "float64":
        defaults = {k: v for k, v in kind().get_config().items() if k in known and v is not None}
        given = {key: np.float64(value) for key, value in {**defaults, **given}.items()}
    return kind(**given)


def _meant(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"{f': did you mean {close[0]!r}?' if close else '.'} There are: {', '.join(known)}."
