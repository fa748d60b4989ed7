"""`python -m benchmarks.seeds`: does the verdict of the quick profile hang on luck?

Runs the comparison once per seed and keeps the largest difference of each `port` pair, to be put
beside the tolerance. The last column shows by how much the metrics themselves move with the seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parity.cli import run, writable
from parity.recording import METRICS, write_atomically

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--variant", default="additional_layers")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return run(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    writable(options.out)
    rows = []
    for seed in options.seeds:
        print(f"seed {seed}", file=sys.stderr, flush=True)
        rows.append(_one(options.variant, seed))
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    name = f"seeds_{options.variant}"
    text = json.dumps({"variant": options.variant, "runs": rows}, indent=1) + "\n"
    write_atomically(options.out / f"{name}.json", text.encode())
    write_atomically(options.out / f"{name}.md", markdown(rows).encode())
    print(markdown(rows))
    return 0 if all(row["verdict"] == "pass" for row in rows) else 1


def _one(variant: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        command = [sys.executable, "-m", "parity.compare", "--variant", variant, "--json"]
        done = subprocess.run(
            [*command, "--seed", str(seed), "--out", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        seconds = time.monotonic() - begun
    report = json.loads(done.stdout)
    return {
        "seed": seed,
        "verdict": report["verdict"],
        "seconds": round(seconds, 1),
        "environment": report["environment"],
        "data": report["data"]["digest"],
        "largest_difference": {
            f"{pair['left']} {pair['right']}": max(
                pair["criterion"][metric]["difference"] for metric in METRICS
            )
            for pair in report["pairs"]
            if pair["role"] == "port"
        },
        "val_accuracy": {arm["id"]: arm["history"]["val_accuracy"][-1] for arm in report["arms"]},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per seed."""
    pairs = list(rows[0]["largest_difference"])
    lines = [
        "| seed | verdict | " + " | ".join(pairs) + " | validation accuracy | seconds |",
        "|---|---|" + "---|" * (len(pairs) + 2),
    ]
    for row in rows:
        differences = " | ".join(f"{row['largest_difference'][pair]:.1e}" for pair in pairs)
        accuracies = sorted(set(row["val_accuracy"].values()))
        spread = " to ".join(f"{value:.2f}" for value in (accuracies[0], accuracies[-1]))
        lines.append(
            f"| {row['seed']} | {row['verdict']} | {differences} | {spread} | {row['seconds']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
