"""Inside a worker: take one side's probe, the numbers of one small batch that the ladder compares.

What is run, and on which bytes, stands here once for both frameworks; a wing's `Prober` looks
into its network.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from parity import environment, weights
from parity.experiment import Experiment
from parity.feed import Batch, Feed
from parity.probe import INPUT, Probe
from parity.side import Side, Tensors, Trainer
from shared_data.batches import FaceData
from shared_data.errors import InputError

IMAGES = 2  # enough to tell a mean over the batch from a sum; activations grow with it
STEPS = 6  # of the short trainings that measure the noise of float32


def probe(
    framework: str,
    side: Side,
    experiment: Experiment,
    data: FaceData,
    *,
    reference: Probe | None = None,
    keep_tensors: bool = False,
) -> Probe:
    """Probe one side in float64 (where its backend has it) and in float32.

    With a `reference`, the other side's probe, every layer is also run alone on what the
    reference's layer got. Without one, this probe can serve as a reference: its activations and
    upstream gradients are kept whole.

    Raises:
        InputError: the reference is of another experiment, or does not hold whole tensors.
    """
    if reference and reference.experiment != experiment:
        raise InputError(
            f"--reference is of experiment {reference.experiment.id}, expected {experiment.id}"
        )
    result: Probe | None = None
    for precision in _precisions(experiment):
        at = dataclasses.replace(experiment, precision=precision)
        feed = side.Feed(at, data)
        batches = list(islice(_batches(feed), STEPS))
        trainer = side.Trainer(at, len(data.classes))
        prober = side.Prober(trainer)
        images, labels = (part[_of_each_class(feed)] for part in batches[0])
        if result is None:
            result = Probe(
                framework,
                experiment,
                {**environment.describe(experiment), **side.environment()},
                prober.layers(),
                {**trainer.semantics(), **_data_semantics(feed, batches)},
                reference=reference.digest if reference else None,
            )
        if not reference:
            result.keep(f"{precision}/free/images", {INPUT: images}, whole=True)
        first = weights.draw(at, len(data.classes))
        result.keep(f"{precision}/transfer", _back_and_forth(trainer, first), whole=keep_tensors)
        for run, (start, given) in _runs(precision, first, images).items():
            trainer.restart(start)
            for kind, tensors in prober.free(given, labels).items():
                feeds = reference is None and run == "free"  # another side's layers, see isolated
                whole = keep_tensors or (feeds and kind in ("activation", "upstream"))
                result.keep(f"{precision}/{run}/{kind}", tensors, whole=whole)
                if feeds and kind == "gradient":
                    by_images = {INPUT: tensors[INPUT]}
                    result.keep(f"{precision}/{run}/{kind}", by_images, whole=True)
            for kind, tensors in _train(trainer, start, (given, labels), batches).items():
                result.keep(f"{precision}/{run}/{kind}", tensors, whole=keep_tensors)
        if reference:
            trainer.restart(first)
            inputs, upstream = _of_reference(reference, precision)
            for kind, tensors in prober.isolated(inputs, upstream).items():
                result.keep(f"{precision}/isolated/{kind}", tensors, whole=keep_tensors)
    assert result is not None
    return result


def _of_each_class(feed: Feed) -> np.ndarray:
    """Places in the first batch: one image of each class as far as there is one, then others."""
    known = feed.data.train.labels[feed.order(1)[: feed.experiment.batch_size]]
    first = np.sort(np.unique(known, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(known)), first)
    return np.concatenate([first, others])[: max(IMAGES, len(first))]


def _precisions(experiment: Experiment) -> tuple[str, ...]:
    """float64 is real on Keras' TensorFlow backend alone (FINDINGS.md, section 2)."""
    return ("float64", "float32") if experiment.keras_backend == "tensorflow" else ("float32",)


def _runs(precision: str, start: Tensors, images: np.ndarray) -> dict[str, tuple[Tensors, Any]]:
    """Initial weights and images per run. The runs beside `free` measure the noise of float32."""
    runs: dict[str, tuple[Tensors, Any]] = {"free": (start, images)}
    if precision == "float32":
        nudged = {name: _nudge(value) for name, value in start.items()}
        runs |= {"again": (start, images), "input": (start, _nudge(images))}
        runs |= {"weights": (nudged, images)}
    return runs


def _nudge(value: np.ndarray) -> np.ndarray:
    """Every element one unit in the last place away from zero; zeros stay."""
    away = np.nextafter(value, np.copysign(np.array(np.inf, value.dtype), value))
    return np.where(value == 0, value, away)


def _back_and_forth(trainer: Trainer, values: Tensors) -> Tensors:
    """Canonical weights after two journeys into the framework and back."""
    for _ in range(2):
        trainer.load(values)
        values = trainer.weights()
    return values


def _train(
    trainer: Trainer, start: Tensors, first: Batch, batches: list[Batch]
) -> dict[str, Tensors]:
    """One step on the probe's batch, then, from the start again, the first steps of training."""
    trainer.restart(start)
    trainer.train_batch(*first)
    moment1, moment2 = trainer.moments()
    result = {"update": trainer.weights(), "moment1": moment1, "moment2": moment2}
    trainer.restart(start)
    losses = [trainer.train_batch(*batch)[0] for batch in batches]
    return {**result, "trajectory": {"loss": np.array(losses), **trainer.weights()}}


def _of_reference(reference: Probe, precision: str) -> tuple[Tensors, Tensors]:
    """What each layer of the reference got: its inputs, and the gradients by its outputs."""
    feeds = [f"{precision}/free/{kind}" for kind in ("images", "activation", "upstream")]
    images, activations, upstream = (reference.under(feed) for feed in feeds)
    if not images or any(reference.samples(feed) for feed in feeds):
        raise InputError(
            "--reference holds samples of its tensors, and a layer needs whole ones: record the "
            "reference again, without --reference and with --keep-tensors"
        )
    given = {**images, **activations}
    return {layer.name: given[layer.inputs[0]] for layer in reference.layers}, upstream


def _batches(feed: Feed) -> Iterator[Batch]:
    for epoch in range(1, STEPS + 1):
        yield from feed.training(epoch)


def _data_semantics(feed: Feed, batches: list[Batch]) -> dict[str, Any]:
    """What the network is fed: as this side sees it, not as the experiment says."""
    experiment, data = feed.experiment, feed.data
    order = hashlib.sha256()
    for epoch in range(1, experiment.epochs + 1):
        order.update(feed.order(epoch).tobytes())
    content = hashlib.sha256()
    for images, labels in batches:
        content.update(images.tobytes())
        content.update(labels.tobytes())
    return {
        "data": {"digest": data.digest, "classes": list(data.classes)},
        "batches": {
            "size": experiment.batch_size,
            "steps": feed.steps,
            "first_sizes": [len(labels) for _, labels in batches],
            "schedule": order.hexdigest(),
            "probe": content.hexdigest(),
        },
        "initialiser": experiment.init,
        "epoch loss": experiment.epoch_loss,
    }
