"""`python -m parity.selftest`: try the ladder on ports with a fault planted in them, and without.

Every fault must be caught and placed; a faithful twin must never be accused. With `--pair` the same
for `parity.check`, on a pair of the user's (`parity.check.planted`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import cli
from parity.criterion import judge, verdict
from parity.engines import Task
from parity.engines.local import Local
from parity.experiment import Experiment, unknown
from parity.faults import CONTROLS, FAULTS, SMALL, Fault
from parity.recording import Recording, write_atomically
from parity.worker import FRAMEWORKS
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.ladder import LadderReport

EXAMPLES = """examples:
  python -m parity.selftest
  python -m parity.selftest --only padding "NaN weight"
  python -m parity.selftest --json > selftest.json
  python -m parity.selftest --pair model.keras port.py:build --out runs/selftest-mine
  python -m parity.selftest --pair a.py:build b.py:build --only epsilon "bias left out" --every

exit status: 0 every fault caught and placed, no control accused; 1 one slipped through or one was
accused; 2 the request is wrong or a worker could not finish; 130 interrupted. With --pair: 0 every
fault that moves a number is caught; 1 one is not; 2 the request is wrong; 3 the pair does not pass
as it is"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: (selftest_pair if options.pair else selftest)(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.selftest",
        description="Plant faults in the PyTorch twin, one at a time, and see that the ladder "
        "catches and places each, and that it accuses no faithful twin.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these faults and controls only, by name"
    )
    parser.add_argument("--quick", action="store_true", help="plant the faults in a tiny network")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/selftest"), help="default %(default)s"
    )
    parser.add_argument("--jobs", type=int, default=2, help="workers at a time (default 2)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    pair = parser.add_argument_group("a faithful pair of your own")
    pair.add_argument(
        "--pair",
        nargs=2,
        metavar=("KERAS", "TORCH"),
        help="plant faults in TORCH, as python -m parity.check takes it, and see which of them "
        "parity.check catches and places: what its pass is worth on this model",
    )
    pair.add_argument(
        "--every", action="store_true", help="each fault in all places (default: in one of them)"
    )
    given = pair.add_mutually_exclusive_group()
    given.add_argument("--input-shape", action="append", type=cli.shape, metavar="224,224,3")
    given.add_argument("--inputs", type=Path, metavar="FILE.npz", help="as for parity.check")
    pair.add_argument("--seed", type=int, default=0, help="chooses the places (default 0)")
    pair.add_argument("--threads", type=int, default=1, help="of each framework (default 1)")
    return parser.parse_args(arguments)


def selftest(options: argparse.Namespace) -> int:
    """Record every fault and control, judge them, write and print the table."""
    if options.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {options.jobs}")
    faults, controls = _chosen(options.only)
    from parity.report import page

    out = cli.writable(options.out)
    _record(faults, controls, out, options)
    tried = [_judge_fault(fault, out) for fault in faults]
    faithful = [_judge_control(name, out) for name in controls]
    ok = all(each["ok"] for each in (*tried, *faithful))
    report = {
        "schema": 1,
        "verdict": "pass" if ok else "fail",
        "experiment": _experiment(options.quick).to_dict(),
        "faults": tried,
        "controls": faithful,
    }
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_atomically(out / "selftest.json", text.encode())
    write_atomically(out / "selftest.md", markdown(report).encode())
    page.write(out)
    if options.json:
        print(text, end="")
    else:
        _render(report)
        print(f"all recordings, tables and report.html: {out}/")
    return cli.EXIT_PASS if ok else cli.EXIT_FAIL


def selftest_pair(options: argparse.Namespace) -> int:
    """Plant faults in a pair that was given, check each, write and print the table."""
    for name, least in (("seed", 0), ("threads", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    from parity.check import planted, run

    out = cli.writable(options.out)
    asked = run.Asked(
        shapes=tuple(options.input_shape or ()),
        inputs=options.inputs,
        seed=options.seed,
        threads=options.threads,
    )
    said = lambda text: print(f"{text} …", file=sys.stderr)  # noqa: E731
    try:
        with tempfile.TemporaryDirectory(prefix="parity-selftest-") as folder:
            keras, torch = options.pair
            report = planted.examine(
                keras, torch, asked, Path(folder), options.only or (), options.every, said
            )
    except planted.Unfaithful as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.EXIT_UNDECIDED
    text = json.dumps({"schema": 1, **report}, indent=1, allow_nan=False) + "\n"
    write_atomically(out / "pair.json", text.encode())
    table = planted.markdown(report)
    write_atomically(out / "pair.md", table.encode())
    print(text if options.json else table, end="")
    count = report["totals"]
    return cli.EXIT_PASS if count["caught"] == count["moving numbers"] else cli.EXIT_FAIL


def markdown(report: dict[str, Any]) -> str:
    """The table for documents."""
    lines = [
        "| fault | what was done | first fails at | by numbers alone | named | 2 % criterion |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in _rows(report)]
    return "\n".join(lines) + "\n"


def _chosen(only: Sequence[str] | None) -> tuple[list[Fault], list[str]]:
    names = [*(fault.name for fault in FAULTS), *CONTROLS]
    for name in only or ():
        if name not in names:
            raise InputError(unknown("fault or control", name, names))
    wanted = set(only or names)
    return [f for f in FAULTS if f.name in wanted], [name for name in CONTROLS if name in wanted]


def _experiment(quick: bool) -> Experiment:
    """Padded, so that the map before the dense layer is larger than one pixel; batches of 6, so
    that the last is short."""
    return Experiment.of("baseline", **(SMALL if quick else {"padding": 1, "batch_size": 6}))


def _control(name: str) -> Experiment:
    change = {**SMALL, **CONTROLS[name]}
    return Experiment.of(change.pop("variant", "baseline"), **change)


def _record(
    faults: Sequence[Fault], controls: Sequence[str], out: Path, options: argparse.Namespace
) -> None:
    """References first, since they feed the layers of what is compared with them.

    Raises:
        InputError: a worker did not finish.
    """
    experiment = _experiment(options.quick)
    pairs = [(name, _control(name)) for name in controls]
    lefts = [_task(FRAMEWORKS[0], "reference", experiment, out)] if faults else []
    lefts += [_task(FRAMEWORKS[0], name, each, out) for name, each in pairs]
    rights = [_task(FRAMEWORKS[1], fault.name, experiment, out, fault=True) for fault in faults]
    rights += [_task(FRAMEWORKS[1], name, each, out) for name, each in pairs]
    with _Progress(len(lefts) + len(rights)) as progress:
        for tasks in (lefts, rights):
            failed = Local(options.jobs).run(tasks, progress)
            if failed:
                raise InputError("\n".join(each.message for each in failed.values()))


def _task(
    framework: str, name: str, experiment: Experiment, out: Path, *, fault: bool = False
) -> Task:
    folder = _folder(out, framework, name)
    module = (f"{framework}_impl.faults", name) if fault else (f"{framework}_impl.record",)
    reference = _folder(out, FRAMEWORKS[0], "reference" if fault else name)
    flags = () if framework == FRAMEWORKS[0] else ("--reference", str(reference))
    return Task(f"{framework}: {name}", module, experiment, folder, "probe.json", flags)


def _folder(out: Path, framework: str, name: str) -> Path:
    return out / name.replace(" ", "-") / framework


def _judge_fault(fault: Fault, out: Path) -> dict[str, Any]:
    left, right = (
        _folder(out, side, name)
        for side, name in zip(FRAMEWORKS, ("reference", fault.name), strict=True)
    )
    report = _climb(left, right)
    failing = [each for each in report.levels if each.verdict == "fail"]
    caught = failing[0].level if failing else None
    numeric = [each.level for each in failing if each.level != "structure"]
    origins = [each for each in report.origins if each.status == "origin"]
    named = next((each for each in origins if each.where == fault.where), None)
    return {
        **dataclasses.asdict(fault),
        "caught_at": caught,
        "caught_by_numbers_at": numeric[0] if numeric else None,
        "origins": [each.sentence for each in origins],
        "named": named.sentence if named else None,
        "criterion_alone": _criterion(left, right),
        "ok": caught == fault.level and bool(numeric) and named is not None,
    }


def _judge_control(name: str, out: Path) -> dict[str, Any]:
    report = _climb(*(_folder(out, side, name) for side in FRAMEWORKS))
    return {
        "name": name,
        "verdict": report.verdict,
        "failing": [each.to_dict() for each in report.levels if each.verdict == "fail"],
        "ok": report.verdict == "pass",
    }


def _climb(left: Path, right: Path) -> LadderReport:
    from parity import ladder

    report = ladder.run(left, right)
    if report.error:
        raise InputError(report.error)
    return report


def _criterion(left: Path, right: Path) -> str:
    """What the study's criterion says of the final metrics, and nothing else."""
    sides = [Recording.read(folder) for folder in (left, right)]
    if any(side.error for side in sides):
        return "fail"  # a loss that is no number is seen by anyone
    return verdict(judge(sides[0].history, sides[1].history))


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for each in report["faults"]:
        criterion = {"fail": "catches it", "pass": "**misses it**"}[each["criterion_alone"]]
        caught = each["caught_at"] or "**not caught**"
        numbers = each["caught_by_numbers_at"] or "-"
        named = each["where"] if each["named"] else "**not named**"
        yield each["name"], each["mistake"], caught, numbers, named, criterion


def _render(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("fault", "what was done", "fails at", "by numbers", "named", "2 % criterion"):
        table.add_column(heading)
    for row, each in zip(_rows(report), report["faults"], strict=True):
        table.add_row(*(cell.replace("*", "") for cell in row), style="" if each["ok"] else "red")
    if report["faults"]:
        console.print(table)
    for each in report["controls"]:
        style = "green" if each["ok"] else "red"
        console.print(f"control, faithful: {each['name']}: {each['verdict']}", style=style)
    faults, controls = report["faults"], report["controls"]
    missed = sum(each["criterion_alone"] == "pass" for each in faults)
    console.print(
        f"\n{report['verdict'].upper()}: {sum(each['ok'] for each in faults)} of {len(faults)} "
        f"faults caught and placed, {sum(each['ok'] for each in controls)} of {len(controls)} "
        f"faithful twins pass. The 2 % criterion alone misses {missed} of {len(faults)}."
    )


class _Progress:
    """Counts workers that are done, on standard error."""

    def __init__(self, tasks: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True))
        self._task = self._bar.add_task("recording", total=tasks)

    def __call__(self, name: str, event: dict[str, Any]) -> None:
        self._bar.update(self._task, description=name)
        if event["event"] in ("done", "failed"):
            self._bar.advance(self._task)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


if __name__ == "__main__":
    sys.exit(main())
