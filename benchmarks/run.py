"""`python -m benchmarks.run`: all that is measured of this project, as one JSON and one table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType

from parity.cli import run, writable
from parity.recording import write_atomically
from shared_data.errors import InputError

RESULTS = Path(__file__).parent / "results"
OTHERS = Path("runs/benchmarks")
README_HEADING = "### Measured"
PARTS = ("training_step", "evaluation", "data", "ladder", "startup")

EXAMPLES = """examples:
  python -m benchmarks.run
  python -m benchmarks.run --data faces/ --out runs/today
  python -m benchmarks.run --quick --only data,startup
  python -m benchmarks.run --readme README.md
  python -m benchmarks.compare benchmarks/results/run.json runs/today/run.json

A whole run takes some 20 minutes on two quiet cores, a quick one two: that one shows that all runs,
and measures a network too small to say anything else.

exit status: 0 measured, whatever was reached; 2 the request or the data is wrong or a process
ended; 130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Measure the arms' steps, data preparation, the ladder and start-up, each "
        "beside what it is to be compared with.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="PARTS", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    parser.add_argument("--data", default="synthetic", help="as parity.compare takes it")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder for run.json and run.md (default benchmarks/{RESULTS.name} for all of a "
        f"whole run, else {OTHERS})",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="measure nothing: write what --out has of a whole run below the heading "
        f"{README_HEADING!r} of this document",
    )
    options = parser.parse_args(arguments)
    return run(lambda: _place(options) if options.readme else _run(options))


def _place(options: argparse.Namespace) -> int:
    """Write the section of a document."""
    from benchmarks import report
    from benchmarks.compare import read
    from parity.study.pages import placed

    path = (options.out or RESULTS) / "run.json"
    result = read(path)
    try:
        text = options.readme.read_text()
    except OSError as error:
        raise InputError(f"cannot read {options.readme}: {error.strerror}") from None
    if set(result["parts"]) != set(PARTS):
        raise InputError(f"{path} is of some parts alone: measure all of them.")
    section = report.section(result)
    write_atomically(options.readme, placed(text, README_HEADING, section).encode())
    return 0


def _run(options: argparse.Namespace) -> int:
    from benchmarks import measure, report
    from benchmarks.shape import FULL, QUICK

    wanted = _wanted(options.only)
    whole = not options.quick and len(wanted) == len(PARTS)
    out = writable(options.out or (RESULTS if whole else OTHERS))
    shape = QUICK if options.quick else FULL
    experiment = shape.experiment(options.data)
    found = {
        "benchmark": "run",
        "shape": shape.to_dict(),
        "experiment": experiment.to_dict(),
        "environment": measure.describe(experiment),
    }
    _fill_cache(options.data, experiment.synthetic_images, experiment.image_size)
    begun = time.monotonic()
    parts: dict[str, measure.Part] = {}
    for module in _modules():
        chosen = [part for part in module.PARTS if part in wanted]
        if chosen:
            measure.progress(f"{', '.join(chosen)} ({time.monotonic() - begun:.0f} s so far)")
            parts |= module.run(shape, options.data, chosen)
    titles = {name: text for module in _modules() for name, text in module.TITLES.items()}
    result = {
        **found,
        "seconds": time.monotonic() - begun,
        "parts": {name: parts[name].to_dict() for name in PARTS if name in parts},
    }
    text = report.markdown(result, titles)
    write_atomically(out / "run.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(out / "run.md", text.encode())
    print(text)
    measure.progress(f"written: {out}/run.json, {out}/run.md")
    return 0


def _modules() -> list[ModuleType]:
    from benchmarks import data, ladder, startup, training_step

    return [training_step, data, ladder, startup]


def _wanted(only: str | None) -> list[str]:
    names = PARTS if only is None else tuple(name.strip() for name in only.split(","))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise InputError(
            f"--only: there is no part {unknown[0]!r}, expected some of {', '.join(PARTS)}, with "
            "commas between."
        )
    return [name for name in PARTS if name in names]


def _fill_cache(data: str, synthetic_images: int, image_size: int) -> None:
    """Synthetic faces are drawn, and bad data is refused, before anything is timed."""
    from shared_data.batches import load

    load(data, synthetic_images=synthetic_images, image_size=image_size)


if __name__ == "__main__":
    sys.exit(main())
