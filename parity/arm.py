"""Inside a worker: train one arm from an experiment alone and record it.

The loop, the order of samples, the batches and the metrics stand here once, for both frameworks.
A framework supplies a `Trainer`, which knows one step and nothing of epochs.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from parity import checkpoint, environment, weights
from parity.criterion import evaluate
from parity.experiment import Experiment
from parity.feed import Batch, Feed, load_data
from parity.probe import Probe
from parity.probing import probe
from parity.recording import Recording, with_prefix
from parity.side import Side, Trainer
from shared_data.batches import FaceData, Subset
from shared_data.errors import InputError, Unavailable

Report = Callable[[dict[str, Any]], None]


def record(
    framework: str,
    side: Side,
    experiment: Experiment,
    report: Report = lambda event: None,
    folder: Path | None = None,
) -> Recording:
    """Train one arm from start to end, or from its last checkpoint in `folder` if there is one.

    `report` is called with an event per start, step, epoch and evaluation. A loss that is no
    longer finite ends the run early: `error` of the recording then names the epoch and step.
    """
    started = time.monotonic()
    data = load_data(experiment)
    feed = side.Feed(experiment, data)
    trainer = side.Trainer(experiment, len(data.classes))
    if experiment.init == "shared":
        trainer.load(weights.draw(experiment, len(data.classes)))
    own = side.environment()
    recording = Recording(
        framework=framework,
        experiment=experiment,
        backend=own["backend"],
        parameters=trainer.parameters(),
        data=data.summary(),
        environment={**environment.describe(experiment), **own},
        tensors=with_prefix("initial", trainer.weights()),
    )
    report({"event": "start", "epochs": experiment.epochs, "steps": feed.steps})
    recording.timings["prepare_seconds"] = time.monotonic() - started

    done = checkpoint.resume(folder, recording, trainer) if folder else 0
    if done:
        report({"event": "resume", "epoch": done})
    durations: list[float] = []
    batches = feed.through(range(done + 1, experiment.epochs + 1))
    for epoch in range(done + 1, experiment.epochs + 1):
        these = islice(batches, feed.steps)
        recording.error = _train_epoch(trainer, these, epoch, recording, durations, report)
        if recording.error:
            break
        validation = evaluate_split(trainer, feed, data.validation)
        if experiment.epoch_loss == "batches":
            validation["loss"] = _mean_of_batches(trainer, feed, data.validation)
        if not math.isfinite(validation["loss"]):
            recording.error = f"the validation loss became {validation['loss']} in epoch {epoch}"
            break
        recording.history["val_loss"].append(validation["loss"])
        recording.history["val_accuracy"].append(validation["accuracy"])
        report({"event": "epoch", "epoch": epoch, **_last(recording.history)})
        if folder and epoch < experiment.epochs:
            checkpoint.save(folder, recording, trainer)
    else:
        for name, subset in _splits(data):
            report({"event": "evaluate", "split": name})
            logits, labels = _answers(trainer, feed, subset)
            recording.evaluation[name] = evaluate(logits, labels)
            if name == "test":
                recording.tensors["answers/test"] = logits

    recording.tensors.update(with_prefix("final", trainer.weights()))
    if durations:  # the first step also compiles
        recording.timings["first_step_seconds"] = durations[0]
        recording.timings["seconds_per_step"] = statistics.median(durations[1:] or durations)
    recording.timings["total_seconds"] = time.monotonic() - started
    recording.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return recording


def _train_epoch(
    trainer: Trainer,
    batches: Iterator[Batch],
    epoch: int,
    recording: Recording,
    durations: list[float],
    report: Report,
) -> str | None:
    """One pass over the training images. Returns why it ended early, if it did."""
    losses, accuracies, sizes = [], [], []
    ended = time.monotonic()
    for step, (images, labels) in enumerate(batches, 1):
        loss, accuracy = trainer.train_batch(images, labels)
        begun, ended = ended, time.monotonic()
        durations.append(ended - begun)  # the making of the batch included
        if not math.isfinite(loss):
            return f"the loss became {loss} in epoch {epoch}, step {step}"
        losses.append(loss)
        accuracies.append(accuracy)
        sizes.append(len(labels))
        report({"event": "step", "epoch": epoch, "step": step, "loss": loss})
    recording.steps["loss"] += losses
    recording.steps["accuracy"] += accuracies
    # Means over samples: the short last batch counts by its size. The published PyTorch loop
    # averaged batches.
    counts = None if recording.experiment.epoch_loss == "batches" else sizes
    recording.history["loss"].append(float(np.average(losses, weights=counts)))
    recording.history["accuracy"].append(float(np.average(accuracies, weights=sizes)))
    return None


def evaluate_split(trainer: Trainer, feed: Feed, subset: Subset) -> dict[str, Any]:
    """Loss, accuracy, confusion matrix and ROC AUC in evaluation mode, in the subset's order."""
    return evaluate(*_answers(trainer, feed, subset))


def _answers(trainer: Trainer, feed: Feed, subset: Subset) -> tuple[np.ndarray, np.ndarray]:
    """Logits (samples, classes) and labels (samples,), in the subset's order."""
    parts = [(trainer.predict_batch(images), labels) for images, labels in feed.evaluation(subset)]
    logits, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    return logits, labels


def _mean_of_batches(trainer: Trainer, feed: Feed, subset: Subset) -> float:
    """The loss as the mean of its batches' means."""
    batches = feed.evaluation(subset)
    means = [evaluate(trainer.predict_batch(images), labels)["loss"] for images, labels in batches]
    return float(np.mean(means))


def main(
    framework: str,
    side: Callable[[], Side],
    arguments: list[str] | None = None,
    module: tuple[str, ...] = (),
) -> int:
    """The command of a wing: `python -m keras_impl.record EXPERIMENT.json OUT`.

    `side` imports the framework; it is called only once the environment is right. `module` is what
    `python -m` was given up to `arguments`, if it is another.
    """
    module = module or (f"{framework}_impl.record",)
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(framework, module).parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no half-written file stays

    def report(event: dict[str, Any]) -> None:
        if options.events:
            print(json.dumps(event), flush=True)

    try:
        experiment = _read_experiment(options.experiment)
        reference = Probe.read(options.reference) if options.reference else None
        environment.enter(experiment, [*module, *arguments])
        wing = side()
        error = None
        if not options.probe_only:
            recording = record(framework, wing, experiment, report, options.out)
            recording.write(options.out)
            checkpoint.clear(options.out)
            error = recording.error
        if not options.no_probe:
            report({"event": "probe"})
            keep = options.keep_tensors
            data = load_data(experiment)
            probe(framework, wing, experiment, data, reference=reference, keep_tensors=keep).write(
                options.out
            )
    except InputError as refusal:
        lacking = isinstance(refusal, Unavailable)
        report({"event": "refused", "error": str(refusal), "unavailable": lacking})
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    report({"event": "done", "error": error})
    print(f"{framework}: {error or 'recorded'} ({options.out})", file=sys.stderr)
    return 1 if error else 0


def _parser(framework: str, module: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {' '.join(module)}",
        description=f"Train one experiment with {framework}; write its recording and its probe.",
        epilog=f"example: python -m {' '.join(module)} experiment.json recordings/{framework}",
    )
    parser.add_argument("experiment", type=Path, help="JSON file of the experiment")
    parser.add_argument("out", type=Path, help="folder for the recording and the probe")
    parser.add_argument(
        "--reference", type=Path, help="the other side's folder: feed its tensors to each layer"
    )
    parser.add_argument(
        "--keep-tensors", action="store_true", help="keep every tensor of the probe whole"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--no-probe", action="store_true", help="train only")
    only.add_argument("--probe-only", action="store_true", help="take the probe only")
    parser.add_argument(
        "--events", action="store_true", help="report progress on stdout, one JSON object a line"
    )
    return parser


def _read_experiment(path: Path) -> Experiment:
    try:
        return Experiment.from_json(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the experiment {path}: {error.strerror}") from None


def _splits(data: FaceData) -> list[tuple[str, Subset]]:
    splits = [("train", data.train), ("validation", data.validation), ("test", data.test)]
    return splits + ([("ood", data.ood)] if data.ood is not None else [])


def _last(history: dict[str, list[float]]) -> dict[str, float]:
    return {metric: values[-1] for metric, values in history.items()}
