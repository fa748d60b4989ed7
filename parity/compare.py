"""`python -m parity.compare`: train both frameworks on the same faces, say whether they agree.

From one seed the study's criterion decides; from several, a test for equivalence over all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import cli, worker
from parity.criterion import TOLERANCE, pairs
from parity.engines import Engine, Failure
from parity.experiment import Experiment
from parity.probe import Probe
from parity.recording import Recording, arm_id, write_atomically
from parity.worker import Arm
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.ladder import LadderReport

EXAMPLES = """examples:
  python -m parity.compare --variant additional_layers
  python -m parity.compare --variant lr_10x --padding 0 --seed 9
  python -m parity.compare --seeds 8 9 10 11 12
  python -m parity.compare --keras-backend tensorflow,jax,torch --precision float32
  python -m parity.compare --device cpu,cuda --precision float32
  python -m parity.compare --profile paper --data faces/ --ood other-faces/ --out runs/paper
  python -m parity.compare --profile paper --precision float64 --ladder
  python -m parity.compare --json > report.json

exit status: 0 every port pair agrees, 1 one does not, 2 the request or the data is wrong or an
arm could not finish, 3 the seeds do not decide, or this machine lacks what an arm needs (a GPU),
130 interrupted"""
STATUS = {
    "pass": cli.EXIT_PASS,
    "fail": cli.EXIT_FAIL,
    "inconclusive": cli.EXIT_UNDECIDED,
    "abstain": cli.EXIT_UNDECIDED,
    "error": cli.EXIT_REFUSED,
}
SEVERAL = {  # fields of which each value is an arm of its own
    "keras_backend": "what Keras computes with: tensorflow, jax, torch, or several with commas "
    "between them (default tensorflow)",
    "device": "where both sides train: cpu, cuda, or cpu,cuda (default cpu)",
}
Results = Mapping[str, Recording | Failure]
Ladders = dict[tuple[str, str], "LadderReport"]


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
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="train from each of them, and test for equivalence over all (instead of --seed)",
    )
    parser.add_argument("--out", type=Path, help="folder for all results (default runs/<id>)")
    parser.add_argument(
        "--ladder",
        action=argparse.BooleanOptionalAction,
        help="compare every layer, gradient and step as well, which proves a port faithful or says "
        "where it departs; of several seeds the first alone (default: in the quick profile, unless "
        "--init or --optimizer is native)",
    )
    parser.add_argument(
        "--keep-tensors", action="store_true", help="keep every tensor that the ladder compares"
    )
    parser.add_argument("--json", action="store_true", help="print report.json to standard output")
    cli.add_engine_flags(parser)
    cli.add_experiment_flags(parser, without=SEVERAL)
    for name, text in SEVERAL.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, metavar="NAMES", default=argparse.SUPPRESS, help=text)
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> int:
    """Prepare the data, run the arms, judge them, write and print the report."""
    if not 0 <= options.tolerance < float("inf"):
        raise InputError(f"--tolerance: expected a finite number from 0, got {options.tolerance}")
    runs = _requested(options)
    several = len(runs) > 1
    first = next(iter(runs.values()))
    out = cli.writable(options.out or Path("runs") / comparison_id(first, several=several))
    arms = {
        seed: _arms(experiments, f"s{seed}/" if several else "")
        for seed, experiments in runs.items()
    }

    from parity.report.live import Progress

    every = [arm for of_seed in arms.values() for arm in of_seed]
    with (
        closing(cli.engine(options, first)) as engine,
        Progress([arm.id for arm in every], first[0].epochs, jobs=engine.jobs) as progress,
    ):
        data = cli.prepare(first[0], progress.preparing)
        started = time.monotonic()
        results = worker.run(every, out, engine=engine, observe=progress.event, data=data)
        trained = time.monotonic()
        ladders: Ladders = {}
        if _wants_ladder(options, first[0]):
            climbing = next(iter(arms.values()))
            finished = [arm for arm in climbing if _finished(results[arm.id])]
            ladders = _climb(finished, out, engine, options, progress)
    reports: dict[int, dict[str, Any]] = {}
    for seed, of_seed in arms.items():
        own = ladders if not reports else {}  # of the first seed
        reports[seed] = _report(of_seed, results, options, own)
    seconds = {"training": trained - started, "ladder": time.monotonic() - trained}
    return _publish(reports, ladders, seconds, out, as_json=options.json)


def _requested(options: argparse.Namespace) -> dict[int, list[Experiment]]:
    """By seed one experiment per padding, backend of Keras and device."""

    def experiments(**fixed: Any) -> list[Experiment]:
        named = {name: getattr(options, name).split(",") for name in SEVERAL if name in options}
        combined = (dict(zip(named, values, strict=True)) for values in product(*named.values()))
        return [each for more in combined for each in cli.experiments(options, **more, **fixed)]

    if options.seeds is None:
        plain = experiments()
        return {plain[0].seed: plain}
    if "seed" in options:
        raise InputError("give --seed or --seeds, not both")
    if options.tolerance == 0 and len(set(options.seeds)) > 1:
        raise InputError("--tolerance: several seeds cannot show equivalence within 0; give more")
    return {seed: experiments(seed=seed) for seed in dict.fromkeys(options.seeds)}


def _arms(experiments: Sequence[Experiment], folder: str) -> list[Arm]:
    """Both sides of all experiments; PyTorch has one arm, whatever Keras computes with."""
    found: dict[str, Arm] = {}
    for side in worker.FRAMEWORKS:
        for each in experiments:
            backend = each.keras_backend if side == "keras" else experiments[0].keras_backend
            own = replace(each, keras_backend=backend)
            name = arm_id(side, own)
            found.setdefault(name, Arm(side, own, folder + name))
    return list(found.values())


def _finished(result: Recording | Failure) -> bool:
    return isinstance(result, Recording) and not result.error


def _wants_ladder(options: argparse.Namespace, experiment: Experiment) -> bool:
    """Sides that are built to differ cannot pass it: there it is run on request only."""
    if options.ladder is not None:
        return bool(options.ladder)
    aligned = experiment.init == "shared" and experiment.optimizer == "aligned"
    return options.profile == "quick" and aligned


def _climb(
    arms: list[Arm], out: Path, engine: Engine, options: argparse.Namespace, progress: Any
) -> Ladders:
    """Probe trained arms and compare every pair of theirs, level by level."""
    from parity import ladder

    keep = options.keep_tensors
    # Of Keras' arms those that run PyTorch's very experiment: on the first backend named.
    keras = {arm.experiment: arm for arm in arms if arm.framework == worker.FRAMEWORKS[0]}
    references = {
        arm: keras[arm.experiment]
        for arm in arms
        if arm.framework != worker.FRAMEWORKS[0] and arm.experiment in keras
    }
    arms = [*dict.fromkeys([*references.values(), *references])]
    failed = worker.probe(
        arms,
        out,
        references=references,
        engine=engine,
        observe=progress.event,
        keep_tensors=keep,
    )
    ladders = {}
    named = {arm_id(arm.framework, arm.experiment): arm.id for arm in arms}
    for pair in pairs(named):
        sides = (pair["left"], pair["right"])
        left, right = (named[side] for side in sides)
        why = "; ".join(failed[side].message for side in (left, right) if side in failed)
        ladders[sides] = (
            ladder.LadderReport.unusable(*sides, why)
            if why
            else ladder.run(out / left, out / right, options.tolerance)
        )
    for arm in references.values():
        # Whole tensors have fed the other side's layers: samples are enough from here on.
        if arm.id not in failed and not keep:
            Probe.read(out / arm.id).thinned().write(out / arm.id)
    return ladders


def comparison_id(experiments: list[Experiment], *, several: bool = False) -> str:
    """Names a comparison by its experiments: the same request has the same id everywhere.

    That of `several` seeds is independent of them, so that more of them join those that are there.
    """
    of = [replace(each, seed=0) for each in experiments] if several else experiments
    digest = hashlib.sha256(" ".join(each.id for each in of).encode()).hexdigest()[:10]
    seeds = "seeds" if several else f"s{experiments[0].seed}"
    return f"{experiments[0].variant}-{seeds}-{digest}"


def _report(
    arms: list[Arm], results: Results, options: argparse.Namespace, ladders: Ladders
) -> dict[str, Any]:
    """The report of one seed, whose arms have plain names."""
    from parity.report import build_report

    recordings, failures, unavailable = [], {}, set()
    for arm in arms:
        result, name = results[arm.id], arm_id(arm.framework, arm.experiment)
        if isinstance(result, Recording):
            recordings.append(result)
            continue
        failures[name] = result.message
        if result.unavailable:
            unavailable.add(name)
    given = {name: getattr(options, name) for name in SEVERAL if name in options}
    asked = {**arms[0].experiment.to_dict(), "padding": options.padding, **given}
    return build_report(recordings, asked, failures, options.tolerance, ladders, unavailable)


def _publish(
    reports: dict[int, dict[str, Any]],
    ladders: Ladders,
    seconds: dict[str, float],
    out: Path,
    *,
    as_json: bool,
) -> int:
    from parity.report import figures, page, paired, paired_table, table, to_json
    from parity.report import seeds as seeds_plot

    several = len(reports) > 1
    plain = list(reports.values())
    report = {**(paired.combine(reports) if several else plain[0]), "seconds": seconds}
    text = to_json(report)
    write_atomically(out / "report.json", text.encode())
    if ladders:
        every = {"schema": 1, "ladders": [each.to_dict() for each in ladders.values()]}
        write_atomically(out / "ladders.json", to_json(every).encode())
    if several:
        seeds_plot.seeds(report, out)
    else:
        figures.curves(report, out)
    page.write(out)
    if as_json:
        print(text, end="")
        for arm in (arm for each in plain for arm in each["arms"] if arm["error"]):
            print(f"error: {arm['id']}: {arm['error']}", file=sys.stderr)
    else:
        (paired_table if several else table).render(report)
        print(f"report.html, figures and recordings: {out}/")
    return STATUS[report["verdict"]]


if __name__ == "__main__":
    sys.exit(main())
