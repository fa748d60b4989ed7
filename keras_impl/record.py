"""Train and record one arm in Keras: `python -m keras_impl.record EXPERIMENT.json OUT`."""

import importlib
import sys
from types import ModuleType

from parity import arm


def side() -> ModuleType:
    """Imported only now: the environment must be right before the framework loads."""
    return importlib.import_module("keras_impl.training")


if __name__ == "__main__":
    sys.exit(arm.main("keras", side))
