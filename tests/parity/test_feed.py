"""The feed runs ahead of training: the same bytes, in a thread that never outlives its use."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.experiment import Experiment
from parity.feed import AHEAD, Batch, Feed, run_ahead
from shared_data.augment import apply, draw
from shared_data.batches import FaceData, Subset, epoch_order

ROOT = Path(__file__).parents[2]
TRANSFORMED = Experiment.of("image_transforms", "paper")


def feed(
    experiment: Experiment = TRANSFORMED, images: int = 12, side: int = 6, ahead: int = AHEAD
) -> Feed:
    """Of images much smaller than the experiment says: a feed hands out what there is."""
    shape = (images, side, side, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    subset = Subset(pixels, np.arange(images), np.arange(images) % 2)
    data = FaceData("made", "d", ("fake", "real"), side, 8, subset, subset, subset, ())
    return Feed(experiment, data, ahead=ahead)


def changed(**changes: object) -> Experiment:
    return dataclasses.replace(TRANSFORMED, **changes)  # type: ignore[arg-type]


def running() -> list[threading.Thread]:
    """The threads that run ahead at this moment."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 14),
    batch_size=st.integers(1, 15),
    epoch=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    ahead=st.integers(0, 4),
    augmentation=st.sampled_from(("anew", "once")),
    precision=st.sampled_from(("float32", "float64")),
)
def test_batches_made_ahead_are_those_of_the_tape_in_the_epochs_order(
    images: int,
    batch_size: int,
    epoch: int,
    seed: int,
    ahead: int,
    augmentation: str,
    precision: str,
) -> None:
    made = feed(
        changed(batch_size=batch_size, seed=seed, augmentation=augmentation, precision=precision),
        images,
        ahead=ahead,
    )
    batches = list(made.through([epoch]))
    train = made.data.train
    order = epoch_order(images, seed, epoch)
    drawn = 1 if augmentation == "once" else epoch
    expected = [apply(train.images[i], draw(seed, drawn, int(i))) / 256 for i in order]
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (made.steps - 1)
    assert {pixels.dtype.name for pixels, _ in batches} == {precision}
    np.testing.assert_array_equal(np.concatenate([pixels for pixels, _ in batches]), expected)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), order % 2)
    assert not running()


def test_an_epoch_can_be_repeated_and_epochs_taken_side_by_side() -> None:
    made = feed(changed(batch_size=2))
    first = [pixels for pixels, _ in made.through([1])]
    pairs = zip(made.through([1]), made.through([2]), strict=True)
    sides = [(one, other) for (one, _), (other, _) in pairs]
    np.testing.assert_array_equal([one for one, _ in sides], first)
    assert any((one != other).any() for one, other in sides)
    assert not running()


def test_the_next_epoch_begins_while_the_last_one_is_validated() -> None:
    begun = threading.Event()

    class Watched(Feed):
        def training(self, epoch: int) -> Iterator[Batch]:
            for batch in super().training(epoch):
                if epoch == 2:
                    begun.set()
                yield batch

    plain = feed(changed(batch_size=5))
    made = Watched(plain.experiment, plain.data)
    batches = made.through([1, 2])
    assert len(list(islice(batches, made.steps))) == made.steps
    assert begun.wait(30)  # no one has asked for it yet
    for (pixels, labels), (wanted, known) in zip(batches, plain.training(2), strict=True):
        np.testing.assert_array_equal(pixels, wanted)
        np.testing.assert_array_equal(labels, known)
    assert not running()


def test_without_augmentation_no_thread_is_started() -> None:
    batches = feed(Experiment.of("baseline", "paper", batch_size=4)).through([1])
    next(batches)
    assert not running()


def counted(count: int, made: Callable[[int], object]) -> Iterator[int]:
    """0, 1, 2 …; `made` is told of each before it is handed out."""
    for number in range(count):
        made(number)
        yield number


@pytest.mark.parametrize("count", [1, 2, 5])
def test_items_are_made_while_the_consumer_works_and_no_more_than_count(count: int) -> None:
    begun = [threading.Event() for _ in range(12)]
    items = run_ahead(counted(12, lambda number: begun[number].set()), count)
    for taken in range(12):
        assert next(items) == taken
        for event in begun[: taken + 1 + count]:
            assert event.wait(30)  # no one asks for the next meanwhile
        assert not any(event.is_set() for event in begun[taken + 1 + count :])
    assert next(items, None) is None
    assert not running()


class Spoiled(Exception):
    pass


def test_what_is_raised_in_the_background_comes_in_its_place() -> None:
    spoiled = Spoiled("item 3")

    def made(number: int) -> None:
        if number == 3:
            raise spoiled

    items, taken = run_ahead(counted(9, made), 2), []
    with pytest.raises(Spoiled) as caught:
        for item in items:
            taken.append(item)
    assert taken == [0, 1, 2]
    assert caught.value is spoiled
    assert caught.traceback[-1].name == "made"  # it says where
    assert not running()


def test_an_image_that_cannot_be_augmented_is_refused_as_without_the_thread() -> None:
    messages = []
    for ahead in (0, AHEAD):
        made = feed()
        train = made.data.train
        floats = dataclasses.replace(train, images=train.images.astype(np.float32))
        made = Feed(made.experiment, dataclasses.replace(made.data, train=floats), ahead=ahead)
        with pytest.raises(ValueError, match="expected uint8") as caught:
            next(made.through([1]))
        messages.append(str(caught.value))
        assert not running()
    assert messages[0] == messages[1]


def test_a_training_that_stops_early_leaves_no_thread() -> None:
    made = feed(changed(batch_size=1))
    batches = made.through([1])
    next(batches)
    assert running()
    batches.close()  # type: ignore[attr-defined]
    assert not running()

    assert len(list(islice(made.through([1]), 3))) == 3
    assert not running()

    def step() -> None:
        for number, _ in enumerate(made.through([1])):
            if number == 4:
                raise Spoiled

    with pytest.raises(Spoiled) as caught:
        step()
    caught.value.__traceback__ = None  # as once it is handled
    del caught
    assert not running()

    made.through([1])  # never begun
    assert not running()


def test_closed_early_only_the_item_in_the_making_is_finished() -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def made(number: int) -> None:
        seen.append(number)
        if number == 1:
            begun.set()
            assert go_on.wait(30)

    items = run_ahead(counted(9, made), 4)
    assert next(items) == 0
    assert begun.wait(30)
    threading.Timer(0.1, go_on.set).start()
    items.close()  # type: ignore[attr-defined]
    assert seen == [0, 1]
    assert not running()


# A training step that takes for ever, on batches made in the background.
STUCK = """
import signal, sys, time
from test_feed import changed, feed
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as parity.arm does
for batch in feed(changed(batch_size=64), images=640, side=64).through([1]):
    print("training", flush=True)
    time.sleep(600)
"""


def start(script: str) -> subprocess.Popen[str]:
    search = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", search + script], stdout=pipe, stderr=pipe, text=True
    )


def test_told_to_end_amid_a_step_a_process_ends_at_once() -> None:
    process = start(STUCK)
    assert process.stdout is not None and process.stdout.readline() == "training\n"
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert time.monotonic() - told < 20  # of the step's ten minutes


def test_an_interpreter_ends_with_batches_left_unasked_for() -> None:
    process = start(
        "from test_feed import changed, feed\n"
        "batches = feed(changed(batch_size=64), images=640, side=64).through([1])\n"
        "next(batches)\n"
    )
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
