"""What an arm is fed: batches in the experiment's order and precision, the same on both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.experiment import Experiment
from shared_data.augment import apply, draw
from shared_data.batches import FaceData, Subset, batches, epoch_order, load

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # R, G, B; torchvision's documentation of its models
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
OTHER_SEED = 1_000_003  # added to the seed for an order of one's own
Batch = tuple[np.ndarray, np.ndarray]  # images NHWC, labels int64 (batch,)


class Feed:
    """Hands out an experiment's batches. Epochs count from 1; each can be repeated by itself."""

    def __init__(self, experiment: Experiment, data: FaceData) -> None:
        self.experiment, self.data = experiment, data

    @property
    def steps(self) -> int:
        """Batches of one epoch, the short last one included."""
        return math.ceil(len(self.data.train) / self.experiment.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Positions of the training images in the order of one epoch, int64 (images,)."""
        seed, own = self.experiment.seed, self.experiment.batch_order == "own"
        return epoch_order(len(self.data.train), seed + OTHER_SEED * own, epoch)

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


def load_data(experiment: Experiment, **options: Any) -> FaceData:
    """The experiment's images, cleaned and split. `options` go to `shared_data.batches.load`."""
    return load(
        experiment.data,
        ood=experiment.ood,
        image_size=experiment.image_size,
        synthetic_images=experiment.synthetic_images,
        split_seed=experiment.split_seed,
        **options,
    )
