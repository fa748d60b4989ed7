"""Results for other tools: every number as CSV, the curves as TensorBoard's event files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from parity.recording import write_atomically
from parity.report.build import SPLITS
from parity.report.sources import Check, Explanation, Ladder, Run, Selftest, Source, Study, read
from shared_data.errors import InputError

Row = dict[str, Any]
Facts = Mapping[str, Any]


def to_csv(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write a table per kind of number, `arms.csv` to `controls.csv`, into `folder`.

    Floats are written so that reading them gives the same float; what is missing is empty. Tables
    without a row are left out.

    Raises:
        InputError: there is no number to write.
    """
    sources = [read(each) for each in runs]
    written = []
    for name, rows_of in TABLES.items():
        rows = [row for source in sources for row in rows_of(source)]
        if rows:
            text = io.StringIO()
            fields = dict.fromkeys(key for row in rows for key in row)
            writer = csv.DictWriter(text, list(fields), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            path = folder / f"{name}.csv"
            write_atomically(path, text.getvalue().encode())
            written.append(path)
    if not written:
        raise InputError("--csv: there is no number in these results")
    return written


def to_events(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write event files for TensorBoard: a run per arm with its curves, by epoch and by step.

    Raises:
        InputError: tensorboardX is not installed, or there is no curve to write.
    """
    writer_of = require_tensorboard()
    written = []
    for source in (read(each) for each in runs):
        for where, arm in _arms(source):
            place = folder.joinpath(*(str(value) for value in where.values() if value != ""))
            with writer_of(str(place), write_to_disk=True) as writer:
                for row in (*_epochs(arm), *_steps(arm)):
                    if row["value"] is not None:
                        at = row["at"]
                        writer.add_scalar(row["metric"], row["value"], at, walltime=float(at))
            written.append(place)
    if not written:
        raise InputError("--tensorboard: there is no arm in these results")
    return written


def require_tensorboard() -> Any:
    """The class that writes event files. Raises `InputError` where its package is missing."""
    try:
        # Only here: it loads PyTorch wherever that is installed.
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard: tensorboardX is not installed. Install the extra: "
            "pip install 'parity-bench[tensorboard]'"
        ) from None
    return SummaryWriter


def _arms(source: Source) -> Iterator[tuple[Row, Facts]]:
    """Every arm and where it belongs."""
    if isinstance(source, Run):
        for report in source.reports:
            seed = f"seed-{report['experiment']['seed']}"
            for arm in report["arms"]:
                yield {"run": source.name, "part": seed, "arm": arm["id"]}, arm
    if isinstance(source, Study):
        for variant, sides in source.arms.items():
            for arm in sides.values():
                yield {"run": source.name, "part": variant, "arm": arm["id"]}, arm


def _epochs(arm: Facts) -> Iterator[Row]:
    for metric, values in arm["history"].items():
        for epoch, value in enumerate(values, 1):
            yield {"metric": f"epoch/{metric}", "at": epoch, "value": value}


def _steps(arm: Facts) -> Iterator[Row]:
    for metric, values in arm["steps"].items():
        for step, value in enumerate(values, 1):
            yield {"metric": f"step/{metric}", "at": step, "value": value}


def _arm_rows(source: Source) -> Iterator[Row]:
    names = ("framework", "padding", "parameters", "seconds_per_step", "peak_memory_bytes")
    for where, arm in _arms(source):
        row = {**where, **{name: arm[name] for name in names}}
        for split in SPLITS:
            for metric in ("loss", "accuracy", "roc_auc"):
                row[f"{split} {metric}"] = (arm[split] or {}).get(metric)
        yield {**row, "digest": arm["digest"], "error": arm["error"]}


def _history_rows(source: Source) -> Iterator[Row]:
    for where, arm in _arms(source):
        for metric, values in arm["history"].items():
            for epoch, value in enumerate(values, 1):
                yield {**where, "metric": metric, "epoch": epoch, "value": value}


def _step_rows(source: Source) -> Iterator[Row]:
    for where, arm in _arms(source):
        for metric, values in arm["steps"].items():
            for step, value in enumerate(values, 1):
                yield {**where, "metric": metric, "step": step, "value": value}


def _pairs(source: Source) -> Iterator[tuple[Row, Facts]]:
    if isinstance(source, Run):
        for report in source.reports:
            for pair in report["pairs"]:
                seed = f"seed-{report['experiment']['seed']}"
                where = {"run": source.name, "part": seed}
                yield {**where, "left": pair["left"], "right": pair["right"]}, pair


def _pair_rows(source: Source) -> Iterator[Row]:
    for where, pair in _pairs(source):
        row = {**where, "role": pair["role"], "verdict": pair["verdict"], "error": pair["error"]}
        for metric, found in pair["criterion"].items():
            row |= {f"{metric} {name}": value for name, value in found.items()}
        yield row


def _level_rows(source: Source) -> Iterator[Row]:
    if isinstance(source, Check):
        where = {"run": source.name, "left": source.facts["keras"], "right": source.facts["torch"]}
        yield from ({**where, **level} for level in source.facts["levels"])
    if isinstance(source, Ladder):
        where = {"run": source.name, **{side: source.facts[side] for side in ("left", "right")}}
        yield from ({**where, **level} for level in source.facts["ladder"])
    for where, pair in _pairs(source):
        yield from ({**where, **level} for level in pair["ladder"])


def _tensor_rows(source: Source) -> Iterator[Row]:
    ladders: Sequence[Facts] = ()
    if isinstance(source, Ladder):
        ladders = (source.facts,)
    if isinstance(source, Run):
        ladders = source.ladders
    for ladder in ladders:
        where = {"run": source.name, "left arm": ladder["left"], "right arm": ladder["right"]}
        for each in ladder["tensors"]:
            place = " ".join(map(str, each["index"])) if each["index"] is not None else None
            yield {**where, **each, "index": place}


def _metrics(source: Source) -> Iterator[tuple[Row, Facts]]:
    if isinstance(source, Run):
        for pair in source.facts.get("equivalence", ()):
            for metric, found in pair["metrics"].items():
                sides = {"left arm": pair["left"], "right arm": pair["right"]}
                yield {"run": source.name, **sides, "metric": metric}, found


def _seed_rows(source: Source) -> Iterator[Row]:
    for where, found in _metrics(source):
        values = zip(source.facts["seeds"], found["left"], found["right"], strict=True)
        for seed, left, right in values:
            yield {**where, "seed": seed, "left": left, "right": right, "apart": right - left}


def _equivalence_rows(source: Source) -> Iterator[Row]:
    for where, found in _metrics(source):
        low, high = found["interval"]
        plain = {k: v for k, v in found.items() if k not in ("left", "right", "interval", "noise")}
        noise = {f"noise {side}": value for side, value in found["noise"].items()}
        yield {**where, **plain, "interval from": low, "interval to": high, **noise}


def _effect_rows(source: Source) -> Iterator[Row]:
    """Of every difference: PyTorch less Keras, and each framework less its aligned self."""
    if isinstance(source, Explanation):
        for effect in source.facts["effects"]:
            sides = {"torch - keras": effect["gap"], **effect["change"]}
            for side, metrics in sides.items():
                for metric, found in metrics.items():
                    for seed, value in found["by_seed"].items():
                        where = {"run": source.name, "difference": effect["name"], "side": side}
                        yield {**where, "metric": metric, "seed": seed, "value": value}


def _selftest_rows(source: Source, kind: str) -> Iterator[Row]:
    if isinstance(source, Selftest):
        for each in source.facts[kind]:
            texts = {k: "; ".join(v) for k, v in each.items() if isinstance(v, list)}
            yield {"run": source.name, **each, **texts}


TABLES: dict[str, Callable[[Source], Iterator[Row]]] = {
    "arms": _arm_rows,
    "history": _history_rows,
    "steps": _step_rows,
    "pairs": _pair_rows,
    "ladder": _level_rows,
    "tensors": _tensor_rows,
    "seeds": _seed_rows,
    "equivalence": _equivalence_rows,
    "effects": _effect_rows,
    "faults": partial(_selftest_rows, kind="faults"),
    "controls": partial(_selftest_rows, kind="controls"),
}
