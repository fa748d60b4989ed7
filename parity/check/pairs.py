"""A check from Python: of models, of builders, or of what the command takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.check import run
from parity.check.report import CheckReport
from parity.check.sides import Live, Process, Side, methods_of
from parity.ladder.measure import PASS

Inputs = np.ndarray | Sequence[Any] | Mapping[str, Any] | None
# Climbed on the way to these.
LEVELS = {"structure": "transfer", "randomness": "gradient", "buffers": "update"}


def check(keras: Any, torch: Any, inputs: Inputs = None, **options: Any) -> CheckReport:
    """Check a pair.

    Args:
        keras, torch: models; functions without arguments that build them, called here; or strings
            as `python -m parity.check` takes them, each built in a process of its own.
        inputs: one array or several, as the Keras model takes them (images NHWC), batch included.
            None draws a batch in the shapes that the Keras model declares.
        options: fields of `parity.check.run.Asked`. Weights go from the reference to the other
            side, but between live models none do, unless `direction="keras-to-torch"` says so.
            And `method="name"` or `"keras_name:torch_name"`: what is compared instead of the call.

    Raises `InputError` where a model cannot be built or run, or layers cannot be told apart.
    """
    if not any(_is_builder(each) for each in (keras, torch)):
        options.setdefault("direction", None)
    elif options.get("reference") == "torch":
        options.setdefault("direction", "torch-to-keras")
    methods = methods_of(options.pop("method", ""))
    options["level"] = LEVELS.get(options.get("level", ""), options.get("level", "gradient"))
    with (
        _side("keras", keras, methods[0]) as ours,
        _side("torch", torch, methods[1]) as theirs,
        tempfile.TemporaryDirectory(prefix="parity-check-") as folder,
    ):
        given = Path(folder) / "inputs-given.npz"
        if inputs is not None:
            with given.open("wb") as file:
                named = inputs if isinstance(inputs, Mapping) else {}
                arrays: dict[str, Any] = {name: np.asarray(each) for name, each in named.items()}
                np.savez(file, *(() if named else _arrays(inputs)), **arrays)
            options["inputs"] = given
        return run.check((ours, theirs), run.Asked(**options), Path(folder))


def asserted(keras: Any, torch: Any, inputs: Inputs = None, **options: Any) -> CheckReport:
    """`check`; raises `AssertionError` with the report unless all was compared and passed."""
    report = check(keras, torch, inputs, **options)
    if report.verdict != PASS:
        raise AssertionError(report.text())
    return report


def _side(framework: str, given: Any, method: str) -> Side:
    if isinstance(given, str):
        return Process(framework, given, method)
    return Live(framework, given, builds=_is_builder(given), method=method)


def _is_builder(given: Any) -> bool:
    """A function, a class or a name; models can be called too, but are none of these."""
    return isinstance(given, str | type) or (
        isinstance(given, Callable) and hasattr(given, "__code__")  # type: ignore[arg-type]
    )


def _arrays(inputs: Any) -> list[np.ndarray]:
    several = isinstance(inputs, list | tuple) and all(hasattr(each, "shape") for each in inputs)
    return [np.asarray(each) for each in (inputs if several else [inputs])]
