"""Is the PyTorch port of this Keras model the same model?

`parity` describes experiments and models, runs them in one process per framework, and judges what
was recorded. It imports no framework: see `keras_impl` and `torch_impl` for the two sides.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Where each public name is; loaded when it is first asked for, so that `import parity` and every
# command's --help stay quick.
_PUBLIC = {
    "assert_parity": "assertions",
    "assert_forward_close": "assertions",
    "assert_gradients_close": "assertions",
    "assert_training_close": "assertions",
    "assert_transfer_exact": "assertions",
    "check_pair": "check.pairs:check",
    "parametrize_with_parity_checks": "pytest_plugin",
    "register_rule": "transfer",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute or name)
