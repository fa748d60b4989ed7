"""`python -m parity.compare`: train both frameworks on the same faces, say whether they agree."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import cli, worker
from parity.criterion import TOLERANCE, pairs
from parity.experiment import Experiment
from parity.probe import Probe
from parity.recording import Recording, write_atomically
from parity.worker import Arm, Failure
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.ladder import LadderReport

EXAMPLES = """examples:
  python -m parity.compare --variant additional_layers
  python -m parity.compare --variant lr_10x --padding 0 --seed 9
  python -m parity.compare --profile paper --data faces/ --ood other-faces/ --out runs/paper
  python -m parity.compare --profile paper --precision float64 --ladder
  python -m parity.compare --json > report.json

exit status: 0 every port pair agrees, 1 one does not, 2 the request or the data is wrong or an
arm could not finish, 130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: compare(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.compare",
        description="Train the network in Keras and in PyTorch from matched seeds and compare.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest absolute difference of a final metric (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="folder for all results (default runs/<id>)")
    parser.add_argument(
        "--jobs", type=int, help="arms at a time (default: as many as the cores have threads for)"
    )
    parser.add_argument(
        "--ladder",
        action=argparse.BooleanOptionalAction,
        help="compare every layer, gradient and step as well, which proves a port faithful or says "
        "where it departs (default: in the quick profile, unless --init or --optimizer is native)",
    )
    parser.add_argument(
        "--keep-tensors", action="store_true", help="keep every tensor that the ladder compares"
    )
    parser.add_argument("--json", action="store_true", help="print report.json to standard output")
    cli.add_experiment_flags(parser)
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> int:
    """Prepare the data, run the arms, judge them, write and print the report."""
    if not 0 <= options.tolerance < float("inf"):
        raise InputError(f"--tolerance: expected a finite number from 0, got {options.tolerance}")
    experiments = cli.experiments(options)
    arms = [Arm(side, each) for side in worker.FRAMEWORKS for each in experiments]
    out = cli.writable(options.out or Path("runs") / comparison_id(experiments))

    from parity.report.live import Progress

    jobs = cli.jobs(options.jobs, experiments[0])
    with Progress([arm.id for arm in arms], experiments[0].epochs, jobs=jobs) as progress:
        data = cli.prepare(experiments[0], progress.preparing)
        started = time.monotonic()
        results = worker.run(arms, out, jobs=jobs, observe=progress.event, data=data)
        trained = time.monotonic()
        finished = [arm for arm in arms if _finished(results[arm.id])]
        climbing = _wants_ladder(options, experiments[0])
        ladders = _climb(finished, out, jobs, options, progress) if climbing else {}
    report = _report(results, experiments, options, ladders)
    report["seconds"] = {"training": trained - started, "ladder": time.monotonic() - trained}
    _publish(report, out, as_json=options.json)
    return {"pass": cli.EXIT_PASS, "fail": cli.EXIT_FAIL}.get(report["verdict"], cli.EXIT_REFUSED)


def _finished(result: Recording | Failure) -> bool:
    return isinstance(result, Recording) and not result.error


def _wants_ladder(options: argparse.Namespace, experiment: Experiment) -> bool:
    """Sides that are built to differ cannot pass it: there it is run on request only."""
    if options.ladder is not None:
        return bool(options.ladder)
    aligned = experiment.init == "shared" and experiment.optimizer == "aligned"
    return options.profile == "quick" and aligned


def _climb(
    arms: list[Arm], out: Path, jobs: int, options: argparse.Namespace, progress: Any
) -> dict[tuple[str, str], LadderReport]:
    """Probe the trained arms and compare every pair, level by level."""
    from parity import ladder

    keep = options.keep_tensors
    keras = {arm.experiment: arm for arm in arms if arm.framework == worker.FRAMEWORKS[0]}
    references = {
        arm: keras[arm.experiment]
        for arm in arms
        if arm.framework != worker.FRAMEWORKS[0] and arm.experiment in keras
    }
    failed = worker.probe(
        arms,
        out,
        references=references,
        jobs=jobs,
        observe=progress.event,
        keep_tensors=keep,
    )
    ladders = {}
    for pair in pairs(arm.id for arm in arms):
        sides = (pair["left"], pair["right"])
        why = "; ".join(failed[side].message for side in sides if side in failed)
        ladders[sides] = (
            ladder.LadderReport.unusable(*sides, why)
            if why
            else ladder.run(out / pair["left"], out / pair["right"], options.tolerance)
        )
    for arm in arms:
        # Whole tensors have fed the other side's layers: samples are enough from here on.
        if arm.framework == worker.FRAMEWORKS[0] and arm.id not in failed and not keep:
            Probe.read(out / arm.id).thinned().write(out / arm.id)
    return ladders


def comparison_id(experiments: list[Experiment]) -> str:
    """Names a comparison by its experiments: the same request has the same id everywhere."""
    digest = hashlib.sha256(" ".join(each.id for each in experiments).encode()).hexdigest()[:10]
    return f"{experiments[0].variant}-s{experiments[0].seed}-{digest}"


def _report(
    results: dict[str, Recording | Failure],
    experiments: list[Experiment],
    options: argparse.Namespace,
    ladders: dict[tuple[str, str], LadderReport],
) -> dict[str, Any]:
    from parity.report import build_report

    recordings = [result for result in results.values() if isinstance(result, Recording)]
    failures = {r.arm: r.message for r in results.values() if isinstance(r, Failure)}
    asked = {**experiments[0].to_dict(), "padding": options.padding}
    return build_report(recordings, asked, failures, options.tolerance, ladders)


def _publish(report: dict[str, Any], out: Path, *, as_json: bool) -> None:
    from parity.report import to_json
    from parity.report.figures import curves
    from parity.report.table import render

    text = to_json(report)
    write_atomically(out / "report.json", text.encode())
    if any(arm["history"]["loss"] for arm in report["arms"]):
        curves(report, out)
    if as_json:
        print(text, end="")
        for arm in report["arms"]:
            if arm["error"]:
                print(f"error: {arm['id']}: {arm['error']}", file=sys.stderr)
    else:
        render(report)
        print(f"report, curves and recordings: {out}/")


if __name__ == "__main__":
    sys.exit(main())
