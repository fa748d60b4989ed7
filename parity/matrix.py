"""`python -m parity.matrix`: record every arm of a matrix, on this machine or on many.

The matrix is variant x padding x seed x framework, and for Keras x backend. Each arm has a folder
of its own, `<experiment id>/<framework>`, where its recording appears whole or not at all: the same
command again, on a shared folder from any machine, runs what is not there. Comparing is left to
`parity.compare` and `parity.diff`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

from parity import cli, worker
from parity.engines import Failure
from parity.recording import METRICS, Recording, write_atomically
from parity.worker import FRAMEWORKS, Arm

BACKENDS = ("tensorflow", "jax", "torch")
EXAMPLES = """examples:
  python -m parity.matrix --variants baseline,lr_10x --paddings 0 1 --seeds 8 9
  python -m parity.matrix --frameworks keras --keras-backends tensorflow torch --precision float32
  python -m parity.matrix --profile paper --threads 2 --data /share/faces --out /share/matrix \\
      --engine ray --address 10.0.0.1:6379
  python -m parity.diff runs/matrix/ID/keras runs/matrix/ID/torch

Interrupted, start the same command again: finished arms are not run again.

exit status: 0 all arms finished, 2 the request or the data is wrong or an arm could not finish,
130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: matrix(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.matrix",
        description="Train every arm of variant x padding x seed x framework (x Keras backend).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--variants", default="baseline", metavar="NAMES", help="e.g. baseline,lr_10x"
    )
    parser.add_argument("--paddings", type=int, nargs="+", default=[0, 1], choices=(0, 1))
    parser.add_argument("--seeds", type=int, nargs="+", default=[8], metavar="SEED")
    parser.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS), choices=FRAMEWORKS)
    parser.add_argument(
        "--keras-backends", nargs="+", default=["tensorflow"], choices=BACKENDS, help="Keras' arms"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"), help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print matrix.json")
    cli.add_engine_flags(parser)
    cli.add_experiment_flags(parser, without=("variant", "padding", "seed", "keras_backend"))
    return parser.parse_args(arguments)


def matrix(options: argparse.Namespace) -> int:
    """Run what is not there yet, then write and print what is."""
    planned = arms(options)
    out = cli.writable(options.out)

    from parity.report.live import Progress

    results: dict[str, Recording | Failure] = {}
    with (
        closing(cli.engine(options, [arm.experiment for arm in planned])) as engine,
        Progress(
            [arm.id for arm in planned], planned[0].experiment.epochs, jobs=engine.jobs
        ) as progress,
    ):
        for group in worker.by_data(planned):
            data = cli.prepare(group[0].experiment, progress.preparing)
            results |= worker.run(group, out, engine=engine, observe=progress.event, data=data)
    rows = [_row(arm, results[arm.id]) for arm in planned]
    text = json.dumps({"schema": 1, "arms": rows}, indent=1) + "\n"
    write_atomically(out / "matrix.json", text.encode())
    if options.json:
        print(text, end="")
    else:
        _render(rows)
        print(f"recordings and matrix.json: {out}/")
    for row in rows:
        if row["error"]:
            print(f"error: {row['arm']}: {row['error']}", file=sys.stderr)
    return cli.EXIT_REFUSED if any(row["error"] for row in rows) else cli.EXIT_PASS


def arms(options: argparse.Namespace) -> list[Arm]:
    """Every arm once. PyTorch's have no Keras backend: one stands for all, under the first's id.

    Raises `InputError` where a name is unknown, or a combination is none (float64 elsewhere than on
    TensorFlow).
    """
    names = [name.strip() for name in options.variants.split(",")]
    found: dict[str, Arm] = {}
    for variant, padding, seed in product(names, options.paddings, options.seeds):
        for side, backend in product(options.frameworks, options.keras_backends):
            of = backend if side == "keras" else options.keras_backends[0]
            fixed = {"padding": padding, "seed": seed, "keras_backend": of}
            own = cli.experiment(options, variant=variant, **fixed)
            found[f"{own.id}/{side}"] = Arm(side, own, f"{own.id}/{side}")
    return list(found.values())


def _row(arm: Arm, result: Recording | Failure) -> dict[str, Any]:
    experiment = arm.experiment.to_dict()
    about = {"arm": arm.id, "framework": arm.framework, "experiment": experiment}
    if isinstance(result, Failure):
        return {**about, "error": result.message}
    return {
        **about,
        "error": result.error,
        "digest": result.digest,
        "backend": result.backend,
        "final": {metric: values[-1] for metric, values in result.history.items() if values},
        "test_accuracy": result.evaluation.get("test", {}).get("accuracy"),
        "seconds": result.timings["total_seconds"],
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _render(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from parity.report.table import number, show

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("arm", overflow="fold")
    table.add_column("on")
    for heading in ("loss", "acc", "val loss", "val acc", "test acc", "s", "GB"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "digest" not in row:
            table.add_row(row["arm"], "", "failed", style="red")
            continue
        metrics = [number(row["final"].get(metric)) for metric in METRICS]
        cost = [f"{row['seconds']:.1f}", f"{row['peak_memory_bytes'] / 1e9:.2f}"]
        style = "red" if row["error"] else ""
        metrics.append(number(row["test_accuracy"]))
        table.add_row(row["arm"], row["backend"], *metrics, *cost, style=style)
    show([table])


if __name__ == "__main__":
    sys.exit(main())
