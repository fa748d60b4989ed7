"""`python -m tests.zoo [NAME…] [--published] --out results/zoo`: check pairs, keep what came out.

The small pairs run in this process, so that each framework is loaded once; the published ones,
which are large, by `python -m parity.check`. `--planted` plants faults in each faithful small pair,
as `python -m parity.selftest --pair` does. `--random 100` checks that many random twins, and each
with one random mistake. `--libraries` checks pairs of maintained libraries, and each with mistakes.
`--readme README.md` checks nothing and writes what is known of the published ones into it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from parity.check import pairs
from parity.check.planted import Fault
from parity.recording import write_atomically
from parity.study.grid import markdown_table
from parity.study.pages import placed
from tests import zoo

# Options of published pairs that cannot run as they are.
LIMITS = {
    "vgg": ("--batch", "1", "--level", "gradient"),  # 138 million parameters
    # Adam makes whole steps of gradients that are rounding alone: of biases before a batch norm.
    "resnet50": ("--optimizer", "sgd"),
    "densenet121": ("--optimizer", "sgd"),
    "convnext": ("--level", "forward"),  # TensorFlow has no gradient of grouped convolutions on CPU
}
README_HEADING = "### Published models"
SECTION = """\
`keras.applications` against `torchvision.models`, random weights; VGG at 224x224, ResNet at 64x64,
the rest at 32x32 (`python -m tests.zoo --published --out results/zoo`). `_aligned` and
`_without_dropout` are twins written here, without what the table says of the pair above them:"""
LIMITED = """\
VGG runs with a batch of 1 up to the level gradient; ConvNeXt up to forward, since TensorFlow has no
gradient of grouped convolutions on CPU; ResNet and DenseNet with SGD, since Adam makes whole steps
of gradients that are rounding alone. Gigabytes are those of the largest process."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--published", action="store_true", help="those instead of the small ones")
    parser.add_argument("--random", type=int, metavar="N", help="random twins instead")
    parser.add_argument("--libraries", action="store_true", help="pairs of libraries instead")
    parser.add_argument("--planted", action="store_true", help="faults in faithful pairs instead")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    if options.readme:
        rows = json.loads((options.out / "published.json").read_text())["pairs"]
        text = placed(options.readme.read_text(), README_HEADING, _section(rows))
        write_atomically(options.readme, text.encode())
        return 0
    if options.planted:
        return _planted(options.names, options.out)
    if options.libraries:
        from tests.zoo import libraries

        options.out.mkdir(parents=True, exist_ok=True)
        return libraries.check_all(options.names, options.out)
    chosen = zoo.PUBLISHED if options.published else (*zoo.FAITHFUL, *zoo.MISTAKEN)
    known = {pair.name: pair for pair in chosen}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such pair {unknown[0]!r}: there are {', '.join(known)}")
    # Nothing here needs triton, whose LLVM ends a process that has TensorFlow loaded.
    sys.modules["triton"] = None  # type: ignore[assignment]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.random:
        return _random(options.random, options.out)
    check = _published if options.published else _small
    path = options.out / ("published.json" if options.published else "zoo.json")
    rows = (
        {row["pair"]: row for row in json.loads(path.read_text())["pairs"]} if path.exists() else {}
    )
    for name in options.names or known:
        rows[name] = check(known[name])
        kept = [rows[each] for each in known if each in rows]
        text = json.dumps({"schema": 1, "pairs": kept}, indent=1)
        write_atomically(path, text.encode() + b"\n")  # a pair takes minutes: none is lost
        write_atomically(path.with_suffix(".md"), _page(kept).encode())
    right = [row["verdict"] == row["expected"] and row["placed"] for row in rows.values()]
    return 0 if all(right) else 1


def _small(pair: zoo.Pair) -> dict[str, Any]:
    from tests.zoo import keras_models, torch_models

    builders = getattr(keras_models, pair.keras), getattr(torch_models, pair.torch)
    return _row(pair, pairs.check(*builders, inputs(pair), level="trajectory").to_dict())


def _published(pair: zoo.Pair) -> dict[str, Any]:
    """As a user would, with the seconds and the memory of the largest of its processes."""
    options = next((more for name, more in LIMITS.items() if pair.torch.startswith(name)), ())
    shapes = [f"--input-shape={','.join(map(str, shape))}" for shape in pair.shapes]
    command = [sys.executable, "-m", "parity.check", pair.keras_spec, pair.torch_spec]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "said"
        with out.open("wb") as file:
            process = subprocess.Popen([*command, *shapes, *options, "--json"], stdout=file)
            _, _, used = os.wait4(process.pid, 0)
        said = out.read_text()
    if not said:
        raise SystemExit(f"{pair.name} could not be checked: parity.check says why above")
    row = _row(pair, json.loads(said))
    return {
        **row,
        "seconds": time.monotonic() - begun,
        "peak_bytes": used.ru_maxrss * 1024,
        "load_average": os.getloadavg()[0],
    }


def _named(report: dict[str, Any]) -> set[str]:
    """All that a report blames on the PyTorch side."""
    blamed = [*report["origins"], *report["semantics"]]
    names = "; ".join(each["torch"] for each in blamed).split("; ")
    parameters = {name.rpartition(".")[0] for name in names}
    return {*names, *parameters, *(name.partition("/")[0] for name in names)}


def _row(pair: zoo.Pair, report: dict[str, Any]) -> dict[str, Any]:
    first = next((each for each in report["levels"] if each["verdict"] == "fail"), None)
    origin = report["first_origin"]
    row = {
        "pair": pair.name,
        "verdict": report["verdict"],
        "expected": pair.verdict,
        "level": first["level"] if first else "",
        "levels": {each["level"]: each["verdict"] for each in report["levels"]},
        "placed": not pair.named or bool(set(pair.named) & _named(report)),
        "origin": " / ".join(filter(None, (origin["keras"], origin["torch"]))) if origin else "",
        "apart": first["measured"] if first else None,
        "differs": "; ".join(pair.differs),
        "declared": [each["text"] for each in report["semantics"]],
        "coverage": report["coverage"],
        "environment": report["environment"],
    }
    print(f"{pair.name}: {row['verdict']} {row['level']} {row['origin']}", file=sys.stderr)
    return row


def _random(count: int, out: Path) -> int:
    """Each row is kept at once, and one that is kept is not done again: it takes hours."""
    from tests.zoo import randoms

    path = out / "random.json"
    kept = json.loads(path.read_text()) if path.exists() else {"twins": []}
    known = {row.get("key"): row for row in kept["twins"]}
    rows: list[dict[str, Any]] = []
    for drawn in randoms.drawn(count):
        row = known.get(randoms.key(*drawn)) or randoms.row(*drawn)
        environment = row.pop("environment", None) or kept["environment"]
        kept["environment"] = environment
        rows.append(row)
        _write_random(rows, environment, path)
    right = [r for r in rows if (r["twin"], r["verdict"], r["placed"]) == ("pass", "fail", True)]
    return 0 if len(right) == len(rows) else 1


def _write_random(rows: list[dict[str, Any]], environment: dict[str, Any], path: Path) -> None:
    held = Counter(name for row in rows for name in row["features"])
    made = Counter(row["fault"] for row in rows)
    totals = {
        "twins": len(rows),
        "twins passing every level": sum(row["twin"] == "pass" for row in rows),
        "mistakes caught": sum(row["verdict"] == "fail" for row in rows),
        "mistakes placed": sum(row["placed"] for row in rows),
        "mistakes placed first": sum(row["first"] for row in rows),
    }
    values = {
        **{"schema": 2, "environment": environment, "totals": totals},
        **{"features": dict(sorted(held.items())), "mistakes": dict(sorted(made.items()))},
        "twins": rows,
    }
    write_atomically(path, json.dumps(values, indent=1).encode() + b"\n")
    keys = ["number", "twin", "fault", "verdict", "level", "placed", "first"]
    lines = markdown_table(keys, [[str(row[key]) for key in keys] for row in rows], left=7)
    summary = "".join(f"- {name}: {value}\n" for name, value in totals.items())
    counts = "".join(f"- {name}: {number}\n" for name, number in sorted(held.items()))
    table = "\n".join(lines)
    page = f"{summary}\nTwins that have\n\n{counts}\n{table}\n"
    write_atomically(path.with_suffix(".md"), page.encode())


def _planted(names: list[str], out: Path) -> int:
    """What the check catches of the faults that the self-test plants; a row for every pair."""
    from parity.check import planted
    from parity.check.run import Asked

    path = out / "pairs.json"
    known = json.loads(path.read_text())["pairs"] if path.exists() else {}
    for pair in (each for each in zoo.FAITHFUL if each.name in names or not names):
        with tempfile.TemporaryDirectory() as folder:
            known[pair.name] = planted.examine(
                *(
                    pair.keras_spec,
                    pair.torch_spec,
                    Asked(shapes=() if pair.words else pair.shapes, threads=1),
                ),
                Path(folder),
                observe=lambda said, name=pair.name: print(f"{name}: {said}", file=sys.stderr),
            )
        known = {each.name: known[each.name] for each in zoo.FAITHFUL if each.name in known}
        values = {"schema": 1, "totals": _summed(known), "pairs": known}
        write_atomically(path, json.dumps(values, indent=1).encode() + b"\n")
        write_atomically(out / "pairs.md", _planted_page(known).encode())
    count = _summed(known)
    return 0 if count["caught"] == count["moving numbers"] else 1


def _summed(reports: dict[str, Any]) -> dict[str, int]:
    totals = [report["totals"] for report in reports.values()]
    keys = ("planted", "moving numbers", "caught", "placed", "undecided", "missed")
    operators = {fault["operator"] for each in reports.values() for fault in each["faults"]}
    return {"operators": len(operators)} | {key: sum(t[key] for t in totals) for key in keys}


def _planted_page(reports: dict[str, Any]) -> str:
    """Totals of every pair, and what was not caught or not placed; what moves no number apart."""
    keys = ["operators", "planted", "moving numbers", "caught", "placed", "undecided", "missed"]
    rows = {name: each["totals"] for name, each in reports.items()} | {"all": _summed(reports)}
    lines = markdown_table(
        ["pair", *keys], [[name, *(str(row[key]) for key in keys)] for name, row in rows.items()]
    )
    faults = [(name, Fault(**fault)) for name, e in reports.items() for fault in e["faults"]]
    open_ = [
        [name, f.operator, f.where, f.outcome, f.level, f.reason or f.origin]
        for name, f in faults
        if f.outcome not in ("nothing", "layout") and not (f.outcome == "caught" and f.placed)
    ]
    still = [
        [name, f.operator, f.where, f.proof, f.verdict]
        for name, f in faults
        if f.outcome in ("nothing", "layout")
    ]
    heading = [
        "pair",
        "not caught or not placed",
        "at",
        "outcome",
        "level",
        "why, or what is named",
    ]
    lines += ["", *markdown_table(heading, open_, left=6)]
    lines += ["", *markdown_table(["pair", "is no fault here", "at", "proof", "verdict"], still, 5)]
    return "\n".join(lines) + "\n"


def inputs(pair: zoo.Pair, batch: int = 4) -> list[np.ndarray]:
    """A batch of each input as Keras takes it, always the same."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, pair.words, (batch, *shape))
        if pair.words
        else rng.standard_normal((batch, *shape))
        for shape in pair.shapes
    ]


def _section(rows: list[dict[str, Any]]) -> str:
    """The README's: the causes in words, and what a check costs."""
    heading = ["pair", "verdict", "first level", "starts at (Keras / PyTorch)", "cause", "s", "GB"]
    table = [
        [
            *(row[key] for key in ("pair", "verdict", "level", "origin")),
            row["differs"] if row["verdict"] == "fail" else _open(row),
            f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.1f}",
        ]
        for row in rows
    ]
    return "\n".join([SECTION, "", *markdown_table(heading, table, left=5), "", LIMITED])


def _open(row: dict[str, Any]) -> str:
    undecided = [level for level, verdict in row["levels"].items() if verdict == "abstain"]
    return f"undecided: {', '.join(undecided)}; all other levels pass" if undecided else ""


def _page(rows: list[dict[str, Any]]) -> str:
    heading = ["pair", "verdict", "first level", "starts at (Keras / PyTorch)", "what differs"]
    keys = ("pair", "verdict", "level", "origin", "differs")
    lines = markdown_table(heading, [[row[key] for key in keys] for row in rows], left=5)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
