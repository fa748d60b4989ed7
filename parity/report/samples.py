"""The test images on which the two arms of a pair disagree most.

Their answers are kept in the recordings (`answers/test`); the images are not, and are read from the
data, where it is at hand, only when asked for.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.criterion import decides
from parity.experiment import Experiment
from parity.feed import load_data
from parity.report.blocks import Block, Image, Images, Table
from parity.report.sources import Run
from parity.report.table import difference
from shared_data.batches import Subset
from shared_data.errors import InputError

ANSWERS = "answers/test"
LISTED = 8  # samples of a table
SIDE = 128  # pixels of an image on the page


def disagreements(run: Run, images: int = 0) -> Iterator[Block]:
    """Per deciding pair a table of samples, and `images` of them.

    Raises:
        InputError: images are asked for, but the answers or the data are not at hand.
    """
    report = run.reports[0]
    test = _test_split(report) if images else None
    for pair in report["pairs"]:
        if not decides(pair):
            continue
        sides = pair["left"], pair["right"]
        logits = [_answers(_place(run, arm)) for arm in sides]
        left, right = (None if each is None else probabilities(each) for each in logits)
        if left is None or right is None or left.shape != right.shape:
            if images:
                raise InputError(
                    f"--images: {run.folder} does not hold the answers of {' and '.join(sides)} "
                    f"(tensors.safetensors with {ANSWERS}): run the comparison again"
                )
            continue
        classes = report["data"]["classes"]
        found = most_disagreeing(left, right)
        yield _table(sides, found, left, right, classes)
        if test:
            yield Images([_image(test, at, left, right, classes, sides) for at in found[:images]])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits (samples, classes), float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def most_disagreeing(left: np.ndarray, right: np.ndarray) -> list[int]:
    """Positions in the order of the largest difference of a class's probability; the first of
    equals first. `left`, `right`: (samples, classes); what is no number is furthest apart."""
    apart = np.nan_to_num(np.abs(left - right).max(axis=1), nan=np.inf)
    return [int(at) for at in np.argsort(-apart, kind="stable")]


def _place(run: Run, arm: str) -> Path:
    """The folder of an arm of the first seed."""
    seeds = run.facts.get("seeds")
    return (run.folder / f"s{seeds[0]}" if seeds else run.folder) / arm


def _answers(folder: Path) -> np.ndarray | None:
    try:
        with safe_open(folder / "tensors.safetensors", framework="numpy") as tensors:
            return tensors.get_tensor(ANSWERS) if ANSWERS in tensors.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError):  # a kept result may lack its tensors
        return None


def _table(
    sides: tuple[str, str], found: list[int], left: np.ndarray, right: np.ndarray, classes: Any
) -> Table:
    """Those that are apart at all."""
    apart = [at for at in found if (left[at] != right[at]).any()]
    rows = []
    for at in apart[:LISTED]:
        worst = int(np.abs(left[at] - right[at]).argmax())
        mine, theirs = float(left[at, worst]), float(right[at, worst])
        rows.append(
            [f"{at + 1}", classes[worst], f"{mine:.4f}", f"{theirs:.4f}",
             difference(abs(mine - theirs))]
        )  # fmt: skip
    return Table(
        f"Most disagreeing samples of {sides[0]} and {sides[1]}",
        ("sample of the test split", "probability of", *sides, "apart"),
        rows,
        left=2,
        note=f"The answers to {len(apart):,} of {len(found):,} samples differ.",
    )


def _test_split(report: Mapping[str, Any]) -> Subset:
    """The images that the answers belong to."""
    names = ("data", "ood", "image_size", "synthetic_images", "split_seed")
    asked = {name: report["experiment"][name] for name in names}
    data = load_data(Experiment(**asked, padding=1))  # small images need one
    if data.digest != report["data"]["digest"]:
        raise InputError(
            f"--images: the data in {data.source} is not what this run was trained on: digest "
            f"{data.digest[:12]}, expected {str(report['data']['digest'])[:12]}"
        )
    return data.test


def _image(
    test: Subset, at: int, left: np.ndarray, right: np.ndarray, classes: Any, sides: tuple[str, str]
) -> Image:
    from PIL import Image as Picture

    picture = Picture.fromarray(np.asarray(test.images[test.rows[at]]))
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    label = int(test.labels[at])
    answers = ", ".join(
        f"{side} {float(each[at, label]):.4f}"
        for side, each in zip(sides, (left, right), strict=True)
    )
    words = f"sample {at + 1}, is {classes[label]}; probability of that: {answers}"
    uri = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return Image(uri, words, words)
