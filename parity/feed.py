"""What an arm is fed: batches in the experiment's order and precision, the same on both sides."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from parity.experiment import Experiment
from shared_data.augment import apply, draw
from shared_data.batches import FaceData, Subset, batches, epoch_order, load

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # R, G, B; torchvision's documentation of its models
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
OTHER_SEED = 1_000_003  # added to the seed for an order of one's own
AHEAD = 2  # augmented batches ready or in the making: 64 of 256x256 in float32 are 101 MB
Batch = tuple[np.ndarray, np.ndarray]  # images NHWC, labels int64 (batch,)
Item = TypeVar("Item")


class Feed:
    """Hands out an experiment's batches. Epochs count from 1; each can be repeated by itself.

    `through` makes augmented batches `ahead` of the step that takes them, which costs their memory;
    0 makes each when it is asked for. The bytes are the same.
    """

    def __init__(self, experiment: Experiment, data: FaceData, *, ahead: int = AHEAD) -> None:
        self.experiment, self.data, self.ahead = experiment, data, ahead

    @property
    def steps(self) -> int:
        """Batches of one epoch, the short last one included."""
        return math.ceil(len(self.data.train) / self.experiment.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Positions of the training images in the order of one epoch, int64 (images,)."""
        seed, own = self.experiment.seed, self.experiment.batch_order == "own"
        return epoch_order(len(self.data.train), seed + OTHER_SEED * own, epoch)

    def through(self, epochs: Iterable[int]) -> Iterator[Batch]:
        """The batches of these epochs on end, `steps` of each, augmented ones made ahead.

        One epoch's first batches are made while the epoch before it is validated.
        """
        made = chain.from_iterable(self.training(epoch) for epoch in epochs)
        # Others are ready in some hundredths of a second: no thread is worth that.
        return run_ahead(made, self.ahead) if self.experiment.augment and self.ahead else made

    def training(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, augmented and normalised if the experiment says so."""
        experiment = self.experiment
        drawn = 1 if experiment.augmentation == "once" else epoch

        def augment(positions: np.ndarray, images: np.ndarray) -> np.ndarray:
            for position, image in zip(positions, images, strict=True):
                image[:] = apply(image, draw(experiment.seed, drawn, int(position)))
            return images

        for images, labels in batches(
            self.data.train,
            self.order(epoch),
            experiment.batch_size,
            experiment.precision,
            augment if experiment.augment else None,
            divisor=experiment.divisor,
        ):
            if experiment.normalise == "imagenet":
                images -= np.array(IMAGENET_MEAN, images.dtype)
                images /= np.array(IMAGENET_DEVIATION, images.dtype)
            yield images, labels

    def evaluation(self, subset: Subset) -> Iterator[Batch]:
        """All of a subset in its own order."""
        order = np.arange(len(subset))
        return batches(subset, order, self.experiment.batch_size, self.experiment.precision)


def run_ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Hand out `items` in their order, `count` of them (at least 1) made ahead by one thread.

    None of the items may be None. The thread starts with the first item asked for and is gone when
    the items end, when one raises (what it raised comes in that item's place) and when this
    iterator is closed or dropped: that waits for the one item in the making, and makes no other.
    """
    # One thread suffices: Pillow gives up the GIL for most of its work, and a step on CPU takes
    # ten times as long as its batch (on a GPU it may not, and would wait). It alone touches
    # `items`, so their order stays.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
    try:
        waiting = deque(thread.submit(next, items, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def load_data(experiment: Experiment, **options: Any) -> FaceData:
    """The experiment's images, cleaned and split. `options` go to `shared_data.batches.load`."""
    return load(**experiment.data_set, **options)
