"""`python -m parity.diff LEFT RIGHT`: compare two recorded sides, wherever they were recorded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from parity import cli
from shared_data.errors import InputError

STATUS = {"pass": cli.EXIT_PASS, "fail": cli.EXIT_FAIL, "abstain": cli.EXIT_UNDECIDED}

EXAMPLES = """examples:
  python -m keras_impl.record experiment.json left
  python -m torch_impl.record experiment.json right --reference left
  python -m parity.diff left right
  python -m parity.diff left right --json > diff.json

LEFT is the reference. Each folder holds a recording, a probe or both. With --reference, layers
are also compared one by one, which says where a difference starts.

exit status: 0 pass, 1 fail, 2 a folder is missing or damaged or the request is wrong, 3 nothing
could be decided"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: diff(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.diff",
        description="Say whether two recorded sides are the same model, level by level.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("left", type=Path, metavar="LEFT", help="folder of the reference")
    parser.add_argument("right", type=Path, metavar="RIGHT", help="folder of the other side")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        help="largest difference of a final metric, level outcome (default %(default)s); the "
        "other levels' tolerances are derived, see docs/ladder.md",
    )
    return parser.parse_args(arguments)


def diff(options: argparse.Namespace) -> int:
    """Compare, print, and return the exit status."""
    if not 0 <= options.tolerance < float("inf"):
        raise InputError(f"--tolerance: expected a finite number from 0, got {options.tolerance}")

    from parity.ladder import run  # after the flags: --help stays quick

    report = run(options.left, options.right, options.tolerance)
    if report.error:
        raise InputError(report.error)
    if options.json:
        print(json.dumps({"schema": 1, **report.to_dict()}, indent=1, allow_nan=False))
    else:
        from parity.ladder.table import render

        render(report)
    return STATUS[report.verdict]


if __name__ == "__main__":
    sys.exit(main())
