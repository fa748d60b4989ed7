"""`python -m tests.zoo [NAME…] --out results/zoo`: check the small pairs, keep what came out.

All in this process, so that each framework is loaded once; the published pairs, which are large,
are for `python -m parity.check`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from parity.check import pairs
from parity.recording import write_atomically
from parity.study.grid import markdown_table
from tests import zoo


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    small = {pair.name: pair for pair in (*zoo.FAITHFUL, *zoo.MISTAKEN)}
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all small pairs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in small]
    if unknown:
        parser.error(f"no small pair {unknown[0]!r}: there are {', '.join(small)}")
    # Nothing here needs triton, whose LLVM ends a process that has TensorFlow loaded.
    sys.modules["triton"] = None  # type: ignore[assignment]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [_row(small[name]) for name in options.names or small]
    environments = [row.pop("environment") for row in rows]
    text = json.dumps({"schema": 1, "environment": environments[0], "pairs": rows}, indent=1)
    write_atomically(options.out / "zoo.json", text.encode() + b"\n")
    write_atomically(options.out / "zoo.md", _page(rows).encode())
    return 0 if all(row["verdict"] == row["expected"] for row in rows) else 1


def _row(pair: zoo.Pair) -> dict[str, Any]:
    from tests.zoo import keras_models, torch_models

    builders = getattr(keras_models, pair.keras), getattr(torch_models, pair.torch)
    report = pairs.check(*builders, inputs(pair), level="trajectory")
    first, origin = report.first_failure, next(iter(report.origins), None)
    print(f"{pair.name}: {report.verdict}", file=sys.stderr)
    return {
        "pair": pair.name,
        "verdict": report.verdict,
        "expected": pair.verdict,
        "level": first.level if first else "",
        "origin": f"{origin.keras} / {origin.torch}" if origin else "",
        "apart": first.measured if first else None,
        "differs": "; ".join(pair.differs),
        "environment": report.environment,
    }


def inputs(pair: zoo.Pair, batch: int = 4) -> list[np.ndarray]:
    """A batch of each input as Keras takes it, always the same."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, pair.words, (batch, *shape))
        if pair.words
        else rng.standard_normal((batch, *shape))
        for shape in pair.shapes
    ]


def _page(rows: list[dict[str, Any]]) -> str:
    heading = ["pair", "verdict", "first level", "starts at (Keras / PyTorch)", "what differs"]
    keys = ("pair", "verdict", "level", "origin", "differs")
    lines = markdown_table(heading, [[row[key] for key in keys] for row in rows], left=5)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
