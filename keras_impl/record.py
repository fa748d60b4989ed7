"""Train and record one arm in Keras: `python -m keras_impl.record EXPERIMENT.json OUT`."""

import sys

from parity import arm


def side() -> arm.Side:
    from keras_impl import training  # only now: Keras reads its environment when it is imported

    return training


if __name__ == "__main__":
    sys.exit(arm.main("keras", side))
