"""Pairs of public repositories that hold one net in both frameworks: facts of them, as a page.

No line of theirs is here. The truth of a pair was found without this project: both nets were
imported (with the edits named), weights drawn and moved layer by layer by hand, and outputs and
gradients compared in float64 by the frameworks themselves, in inference and in training, dropout
off, over batches of 2, 3 and 5.

    python -m tests.zoo.repositories results/zoo    # repositories.md out of repositories.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parity.recording import write_atomically
from parity.study.grid import markdown_table

HEADING = ["pair", "Keras", "PyTorch", "edits", "truth", "proved by", "verdict", "CPU s"]


def page(values: dict[str, Any]) -> str:
    """The table, and how many verdicts are right."""
    rows = values["pairs"]
    right = sum(is_right(row) for row in rows)
    sources = {(side(row, "keras"), side(row, "torch")) for row in rows}
    lines = [
        f"- pairs of nets: {len(rows)}, out of {len(sources)} pairs of repositories",
        f"- the same: {sum(row['truth'] == 'same' for row in rows)}, as they are or mended",
        f"- verdicts right: {right}",
        "",
        *markdown_table(HEADING, [_cells(row) for row in rows], left=len(HEADING) - 1),
    ]
    return "\n".join(lines) + "\n"


def is_right(row: dict[str, Any]) -> bool:
    """A pass of the same; where the running variance alone is not, the levels that hold it fail."""
    if row["truth"] == "differs":
        return bool(row["verdict"] == "fail")
    by_variance = row["failed"] and set(row["failed"]) <= {"buffers", "trajectory"}
    return bool(row["verdict"] == "pass" or (by_variance and row["proof"]["running variance"]))


def side(row: dict[str, Any], name: str) -> str:
    return f"{row[name]['repository']}@{row[name]['commit'][:10]}"


def _cells(row: dict[str, Any]) -> list[str]:
    files = {name: ", ".join(row[name]["files"]) for name in ("keras", "torch")}
    edits = "; ".join(text for text in (row["edits"], _mended(row)) if text)
    verdict = f"{row['verdict']} ({', '.join(row['failed'])})" if row["failed"] else row["verdict"]
    return [
        row["pair"],
        *(f"{side(row, name)}: {files[name]}" for name in ("keras", "torch")),
        edits or "none",
        f"differs: {row['differs']}" if row["truth"] == "differs" else "same",
        _proof(row["proof"]),
        verdict,
        f"{row['seconds']:.0f}",
    ]


def _mended(row: dict[str, Any]) -> str:
    return f"mended: {row['mended']}" if row["mended"] else ""


def _proof(proof: dict[str, Any]) -> str:
    """The largest difference, relative to the largest number of its tensor."""
    if proof["inference"] is None:
        return proof["note"] or ""
    parts = [f"inference {proof['inference']:.0e}, training {proof['training']:.0e}"]
    parts += [
        f"{name} {value:.0e}"
        for name in ("running mean", "running variance")
        if (value := proof[name])
    ]
    return ", ".join([*parts, proof["note"]] if proof["note"] else parts)


def main() -> int:
    out = Path(sys.argv[1])
    values = json.loads((out / "repositories.json").read_text())
    write_atomically(out / "repositories.md", page(values).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
