"""Train and record one arm in Keras: `python -m keras_impl.record EXPERIMENT.json OUT`."""

import sys

from parity import arm
from parity.side import Side


def side() -> Side:
    """Imports Keras, which reads its environment when it is imported: not before it is called."""
    from keras_impl.probing import Prober
    from keras_impl.training import Trainer, environment

    return Side(Trainer, Prober, environment)


if __name__ == "__main__":
    sys.exit(arm.main("keras", side))
