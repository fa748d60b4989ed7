"""Write synthetic faces as a data set in the study's layout: real/, fake/ and data.csv.

`python -m shared_data.synthetic --help` does it from the command line.
"""

import argparse
import csv
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from shared_data.caching import publish
from shared_data.errors import InputError
from shared_data.faces import SEED, VERSION, draw_face

STUDY_REAL, STUDY_FAKE = 589, 700
_QUALITY = 92  # JPEG
_MOST = 1_000_000
_SEAL = "sha256.txt"  # beside the class folders, of all files

_EXAMPLES = """examples:
  python -m shared_data.synthetic --out faces
  python -m shared_data.synthetic --out small --real 40 --fake 40 --seed 1
"""


def study_ratio(total: int) -> tuple[int, int]:
    """Divide `total` images into (real, fake) as 589 : 700, at least one of each.

    Raises:
        InputError: `total` is less than 2 or more than a million.
    """
    if not 2 <= total <= _MOST:
        raise InputError(f"synthetic images: got {total}, expected 2 to {_MOST:,}.")
    real = max(1, round(total * STUDY_REAL / (STUDY_REAL + STUDY_FAKE)))
    return real, total - real


def write(
    folder: Path,
    count_real: int,
    count_fake: int,
    *,
    seed: int = SEED,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `real/real_N.jpg` and `fake/fake_N.jpg` (N from 1, 300x300 RGB) and `data.csv`.

    The rows of `data.csv` are in the study's order: real, then fake, the names sorted as strings.
    Image N is the same whatever the counts. `on_progress` is called with (done, total).
    """
    numbers = {"real": range(1, count_real + 1), "fake": range(1, count_fake + 1)}
    rows = [(name, number) for name in numbers for number in numbers[name]]
    for name in numbers:
        (folder / name).mkdir(parents=True, exist_ok=True)

    def draw(row: tuple[str, int]) -> None:
        name, number = row
        image = Image.fromarray(draw_face(name == "fake", number, seed))
        image.save(folder / name / f"{name}_{number}.jpg", quality=_QUALITY)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(draw, rows), 1):
            if on_progress:
                on_progress(done, len(rows))
    with open(folder / "data.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["images_id", "label"])
        for name, of_class in numbers.items():
            table.writerows(sorted([f"{name}_{number}", name] for number in of_class))


def ensure(
    count_real: int,
    count_fake: int,
    cache: Path,
    *,
    seed: int = SEED,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of these faces in `cache`, drawing them unless they are there, undamaged.

    Raises:
        InputError: the cache cannot be written.
    """
    folder = cache / "synthetic" / f"v{VERSION}-real{count_real}-fake{count_fake}-seed{seed}"

    def complete(built: Path) -> bool:
        seal = built / _SEAL
        return seal.is_file() and seal.read_bytes() == _sealed(built)

    def build(temporary: Path) -> None:
        write(temporary, count_real, count_fake, seed=seed, on_progress=on_progress)
        (temporary / _SEAL).write_bytes(_sealed(temporary))

    if not complete(folder):
        publish(folder, build, complete)
    return folder


def _sealed(folder: Path) -> bytes:
    """The sha256 of the names and contents of all files, in hexadecimal."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.*") if path.name != _SEAL):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest().encode()


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        expected = f"expected an integer from {lowest} to {highest}"
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}, {expected}") from None
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"got {number}, {expected}")
        return number

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 2 a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m shared_data.synthetic",
        description="Write synthetic faces as a data set: real/, fake/ and data.csv. The same "
        "seed gives the same images.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    count, default = _integer(1, _MOST), "(default: %(default)s)"
    parser.add_argument(
        "--real", type=count, default=STUDY_REAL, help=f"faces without faults {default}"
    )
    parser.add_argument("--fake", type=count, default=STUDY_FAKE, help=f"faces with them {default}")
    parser.add_argument(
        "--seed", type=_integer(0, 2**63 - 1), default=SEED, help=f"seed of all faces {default}"
    )
    options = parser.parse_args(arguments)
    try:
        _write_with_progress(options.out, options.real, options.fake, options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {options.out} is incomplete", file=sys.stderr)
        return 130
    print(f"{options.real} real and {options.fake} fake faces in {options.out}")
    return 0


def _write_with_progress(out: Path, count_real: int, count_fake: int, seed: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"--out: {out} is not empty. Nothing was written; give a new folder.")
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("drawing faces", total=count_real + count_fake)
            write(
                out,
                count_real,
                count_fake,
                seed=seed,
                on_progress=lambda done, _: progress.update(task, completed=done),
            )
    except OSError as error:
        raise InputError(f"--out: cannot write to {out}: {error.strerror or error}.") from error


if __name__ == "__main__":
    sys.exit(main())
