"""`python -m parity.report RUN…`: results as a page to look at, and as tables for other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parity import cli
from shared_data.errors import InputError

EXAMPLES = """examples:
  python -m parity.report runs/baseline
  python -m parity.report results/paper
  python -m parity.report runs/seed-8 runs/seed-9 --out comparison.html
  python -m parity.report check.json --out check.html
  python -m parity.report runs/baseline --images 12
  python -m parity.report runs/baseline --csv tables/ --tensorboard events/

RUN is the folder of parity.compare, reproduce, explain, check (--out) or selftest, or the file of
a --json. The page needs no network and no script. Images of the data are on it only with --images.

exit status: 0 written, 2 the request is wrong or there are no results"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: report(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.report",
        description="Write results as one HTML page; several of them beside each other.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder or a JSON file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in RUN; of several, in the current folder)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=0,
        metavar="N",
        help="put the N most disagreeing test images of each pair of a run on the page (default 0)",
    )
    parser.add_argument("--csv", type=Path, metavar="DIR", help="write every number as CSV as well")
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write event files as well (an extra)"
    )
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> int:
    """Write the page and what else is asked for."""
    if options.images < 0:
        raise InputError(f"--images: expected at least 0, got {options.images}")
    runs = options.runs
    if len({each.resolve() for each in runs}) < len(runs):
        raise InputError(f"the same results twice: {' '.join(map(str, runs))}. Give each once.")

    from parity.report import exports, page  # after the flags: --help stays quick

    out = options.out or (Path(page.NAME) if len(runs) > 1 else None)
    if options.tensorboard:
        exports.require_tensorboard()
    print(f"page: {page.write(*runs, out=out, images=options.images)}")
    for folder, write in ((options.csv, exports.to_csv), (options.tensorboard, exports.to_events)):
        if folder:
            for path in write(runs, cli.writable(folder)):
                print(f"written: {path}")
    return cli.EXIT_PASS


if __name__ == "__main__":
    sys.exit(main())
