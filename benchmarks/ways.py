"""The ways in which a step is taken, each to be run in a process of its own (`measure.Process`).

A function here gets an experiment's fields, sets up a network and data, and returns what answers
`[kind, batch size]`, kind being `train` or `evaluate`, with the seconds of one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from benchmarks.measure import Answer
from parity import weights
from parity.experiment import Experiment
from parity.feed import Batch, Feed, load_data
from shared_data.batches import FaceData
from shared_data.errors import InputError

Fields = dict[str, Any]


class Network(Protocol):
    def train(self, images: np.ndarray, labels: np.ndarray) -> Any: ...
    def evaluate(self, images: np.ndarray) -> Any: ...


def keras_arm(fields: Fields) -> Answer:
    from keras_impl.training import Trainer

    return _arm(fields, Trainer)


def torch_arm(fields: Fields) -> Answer:
    from torch_impl.training import Trainer

    return _arm(fields, Trainer)


def keras_bare(fields: Fields) -> Answer:
    from benchmarks.plain_keras import Plain

    experiment = Experiment.from_dict(fields)
    return _bare(experiment, Plain(experiment))


def torch_bare(fields: Fields) -> Answer:
    from benchmarks.plain_torch import Plain

    experiment = Experiment.from_dict(fields)
    return _bare(experiment, Plain(experiment, best=True))


def keras_published(fields: Fields) -> Answer:
    from benchmarks.plain_keras import Plain

    experiment = Experiment.from_dict(fields)
    return _timed(Plain(experiment), Notebook(experiment).batch)


def torch_published(fields: Fields) -> Answer:
    from benchmarks.plain_torch import Plain

    experiment = Experiment.from_dict(fields)
    return _timed(Plain(experiment, best=False), Notebook(experiment).batch)


def _arm(fields: Fields, make: Callable[[Experiment, int], Any]) -> Answer:
    """What `parity.arm` does for one batch, the making of the batch included."""
    experiment = Experiment.from_dict(fields)
    data = load_data(experiment)
    trainer = make(experiment, len(data.classes))
    trainer.load(weights.draw(experiment, len(data.classes)))
    feeds: dict[tuple[str, int], Iterator[Batch]] = {}

    def answer(request: tuple[str, int]) -> dict[str, float]:
        kind, size = request
        batches = feeds.setdefault((kind, size), _full_batches(experiment, data, kind, size))
        begun = time.perf_counter()
        images, labels = next(batches)
        made = time.perf_counter()
        if kind == "train":
            trainer.train_batch(images, labels)
        else:
            trainer.predict_batch(images)
        return {"seconds": time.perf_counter() - begun, "making_seconds": made - begun}

    return answer


def _bare(experiment: Experiment, network: Network) -> Answer:
    """The network alone: its batches are ready."""
    data = load_data(experiment)
    ready: dict[int, Batch] = {}

    def batch(size: int) -> Batch:
        if size not in ready:
            ready[size] = next(_full_batches(experiment, data, "train", size))
        return ready[size]

    return _timed(network, batch)


class Notebook:
    """The published way to hold data: every image as float64, then a float32 copy of each split."""

    def __init__(self, experiment: Experiment) -> None:
        data = load_data(experiment)
        self.everything = np.array([np.asarray(image) for image in data.train.images]) / 256
        parts = (data.train, data.test, data.validation)
        self.splits = [self.everything[part.rows].astype(np.float32) for part in parts]
        self.labels = data.train.labels

    def batch(self, size: int) -> Batch:
        return self.splits[0][:size], self.labels[:size]


def _timed(network: Network, batch: Callable[[int], Batch]) -> Answer:
    def answer(request: tuple[str, int]) -> dict[str, float]:
        kind, size = request
        images, labels = batch(size)
        begun = time.perf_counter()
        if kind == "train":
            network.train(images, labels)
        else:
            network.evaluate(images)
        return {"seconds": time.perf_counter() - begun}

    return answer


def _full_batches(experiment: Experiment, data: FaceData, kind: str, size: int) -> Iterator[Batch]:
    """Training images without end, in an arm's order; the short last batch is left out."""
    if len(data.train) < size:
        raise InputError(f"data: {len(data.train)} training images, the batch size is {size}")
    feed = Feed(replace(experiment, batch_size=size), data)
    epoch = 0
    while True:
        epoch += 1
        found = feed.training(epoch) if kind == "train" else feed.evaluation(data.train)
        yield from (batch for batch in found if len(batch[1]) == size)
