"""Train and record one arm in PyTorch: `python -m torch_impl.record EXPERIMENT.json OUT`."""

import sys

from parity import arm


def side() -> arm.Side:
    from torch_impl import training  # only now: PyTorch reads its environment when it is imported

    return training


if __name__ == "__main__":
    sys.exit(arm.main("torch", side))
