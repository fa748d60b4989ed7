"""The PyTorch side: the network (`builders`), a step of it (`training`), a run of it (`record`)."""

import importlib
from typing import Any

__all__ = ["build", "build_cnn"]


def __getattr__(name: str) -> Any:
    """`build` and `build_cnn`, on first use: a worker sets its environment before PyTorch loads."""
    if name in __all__:
        return getattr(importlib.import_module("torch_impl.builders"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
