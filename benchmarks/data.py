"""Preparing images: how fast beside Pillow alone, how it grows with their number.

Three ways take turns on the same files, each in a process of its own: Pillow decoding alone, with
a process per core; the same work in plain Pillow, which is decoding, resizing and hashing; and
`shared_data` with an empty cache and with a filled one. Files are in the system's page cache.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.measure import RATIO, Answer, Figure, Part, exponent, turn_by_turn
from benchmarks.shape import Shape
from parity.environment import cores
from shared_data.batches import load
from shared_data.images import prepare
from shared_data.sources import open_source

PARTS = ("data",)
TITLES = {"data": "Data preparation"}
DECODE_SHARE = 0.8  # of the rate at which Pillow does nothing but decode
EXPONENT = 1.05  # 1 is linear; the rest is a tenth of noise over a decade of sizes
BYTES_PER_IMAGE = 1_500  # a path, a label, a hash and their places in lists; no pixels
GROWTH_SIDE = 32  # pixels: what grows here is the number of images


def run(shape: Shape, data: str, wanted: Collection[str]) -> dict[str, Part]:
    if "data" not in wanted:
        return {}
    part = Part()
    _rates(shape, data, part)
    _growth(shape, part)
    return {"data": part}


def _rates(shape: Shape, data: str, part: Part) -> None:
    experiment = shape.experiment(data)
    measure.progress("  images per second")
    source = open_source(data, synthetic_images=experiment.synthetic_images)
    images, spec = len(source.samples), experiment.to_dict()
    ways = ("decode", "plain", "prepared", "cached")
    targets = {way: (f"benchmarks.data:{way}", spec, dict[str, str]()) for way in ways}
    with measure.processes(targets) as running:
        found = measure.take_turns(running, [None], shape.data_turns)
    rates = {
        way: tuple(images / second for second in measure.seconds(answers))
        for way, (answers,) in found.items()
    }
    decode, plain = (turn_by_turn(rates["prepared"], rates[way]) for way in ("decode", "plain"))
    part.figures += [
        Figure("prepared / Pillow decoding alone", RATIO, decode, DECODE_SHARE, True),
        Figure("prepared / decoding, resizing, hashing in Pillow", RATIO, plain, None, True),
        Figure("Pillow decoding alone", "images/s", rates["decode"], None, True),
        Figure("decoding, resizing, hashing in Pillow", "images/s", rates["plain"], None, True),
        Figure("prepared, empty cache", "images/s", rates["prepared"], None, True),
        Figure("prepared, filled cache", "images/s", rates["cached"], None, True),
    ]
    if part.figures[0].reached is False:
        work = part.figures[2].median / part.figures[3].median
        part.notes.append(
            f"{images} images of {data}, to {experiment.image_size}x{experiment.image_size} "
            f"pixels: Pillow itself takes {work:.1f} times as long to decode, resize and hash as "
            f"to decode, so that nothing that does all three can exceed {1 / work:.2f} of the rate "
            "of decoding alone. Resizing and hashing must give Pillow's and imagehash's bits."
        )


def decode(fields: dict[str, Any]) -> Answer:
    return _in_every_core(fields, _decode)


def plain(fields: dict[str, Any]) -> Answer:
    return _in_every_core(fields, partial(_decode_resize_hash, size=fields["image_size"]))


def _in_every_core(fields: dict[str, Any], work: Callable[[str], None]) -> Answer:
    source = open_source(fields["data"], synthetic_images=fields["synthetic_images"])
    paths = [str(sample.path) for sample in source.samples]
    pool = Pool(cores())

    def answer(_: None) -> dict[str, float]:
        begun = time.perf_counter()
        pool.map(work, paths, chunksize=16)
        return {"seconds": time.perf_counter() - begun}

    return answer


def _decode(path: str) -> None:
    with Image.open(path) as image:
        image.load()


def _decode_resize_hash(path: str, size: int) -> None:
    import imagehash

    with Image.open(path) as image:
        rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies
        rgb.load()
    rgb.resize((size, size), Image.Resampling.BICUBIC)
    imagehash.average_hash(rgb, hash_size=8)


def prepared(fields: dict[str, Any]) -> Answer:
    """`shared_data.prepare` with a cache that is empty each time."""
    source = open_source(fields["data"], synthetic_images=fields["synthetic_images"])

    def answer(_: None) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as cache:
            begun = time.perf_counter()
            prepare(source, fields["image_size"], cache=Path(cache))
            return {"seconds": time.perf_counter() - begun}

    return answer


def cached(fields: dict[str, Any]) -> Answer:
    """`shared_data.prepare` where all is there: both sha256, of the files and of the pixels."""
    source = open_source(fields["data"], synthetic_images=fields["synthetic_images"])

    def answer(_: None) -> dict[str, float]:
        begun = time.perf_counter()
        prepare(source, fields["image_size"])
        return {"seconds": time.perf_counter() - begun}

    return answer


def _growth(shape: Shape, part: Part) -> None:
    """Load ever more synthetic images, with an empty cache, then with a filled one."""
    times: dict[str, list[float]] = {"empty": [], "filled": []}
    peaks: dict[str, list[float]] = {"empty": [], "filled": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in shape.growth:
            measure.progress(f"  growth: {count:,} images")
            images = Path(folder, str(count))
            write_images(images, count)
            answers: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
            for _ in range(shape.growth_repeats):
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    for state, found in answers.items():
                        spec = {"data": str(images), "cache": cache}
                        ways = {state: ("benchmarks.data:loaded", spec, dict[str, str]())}
                        with measure.processes(ways) as running:
                            found.append(running[state].ask())
            for state, found in answers.items():
                each = tuple(1e3 * second / count for second in measure.seconds(found))
                part.figures.append(Figure(f"{count:,} images, {state} cache", "ms/image", each))
                times[state].append(part.figures[-1].median * count)
                peaks[state].append(max(answer["grown_bytes"] for answer in found))
    first, last = shape.growth[0], shape.growth[-1]
    for state in times:
        k = exponent(shape.growth, times[state])
        a_image = (peaks[state][-1] - peaks[state][0]) / (last - first)
        part.figures += [
            Figure(f"growth of time, {state} cache", "exponent", (k,), EXPONENT),
            Figure(f"growth of memory, {state} cache", "bytes/image", (a_image,), BYTES_PER_IMAGE),
        ]
    part.notes.append(
        f"Growth: JPEGs of {GROWTH_SIDE}x{GROWTH_SIDE} pixels from {first:,} to {last:,}, loaded, "
        "searched for duplicates and split. The exponent is k of time = a n^k. Memory is what a "
        "process' peak exceeds that before it loads; it holds paths, labels and hashes, the pixels "
        "stay in a file that is mapped."
    )


def write_images(folder: Path, count: int) -> None:
    """`count` different JPEGs in two classes, and their `data.csv`."""
    rng = np.random.default_rng(0)
    rows = ["images_id,label"]
    for name in ("fake", "real"):
        os.makedirs(folder / name)
    for number in range(count):
        label = ("fake", "real")[number % 2]
        noise = rng.integers(0, 256, (GROWTH_SIDE, GROWTH_SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / label / f"{number}.jpg")
        rows.append(f"{number},{label}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")


def loaded(spec: dict[str, str]) -> Answer:
    import imagehash  # noqa: F401  its memory is none of the images'

    before = measure.peak_memory()

    def answer(_: None) -> dict[str, float]:
        begun = time.perf_counter()
        load(spec["data"], image_size=GROWTH_SIDE, cache=Path(spec["cache"]))
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "grown_bytes": measure.peak_memory() - before}

    return answer
