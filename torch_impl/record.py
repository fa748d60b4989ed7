"""Train and record one arm in PyTorch: `python -m torch_impl.record EXPERIMENT.json OUT`."""

import sys

from parity import arm
from parity.side import Side


def side() -> Side:
    """Imports PyTorch, which reads its environment when it is imported: not before it is called."""
    from torch_impl.probing import Prober
    from torch_impl.training import Trainer, environment

    return Side(Trainer, Prober, environment)


if __name__ == "__main__":
    sys.exit(arm.main("torch", side))
