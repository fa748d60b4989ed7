"""`python -m parity.explain`: which of the published differences matters, where and how much.

It starts from the aligned pair and switches on one published difference at a time, then all
together. For each it says at which level of the ladder the difference first shows, and what it
does to the final metrics, beside what another seed does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import cli, worker
from parity.differences import ALIGNED, CHANGED, DIFFERENCES, TOGETHER, switched_on
from parity.engines import Engine, Failure, Observer
from parity.experiment import Experiment, unknown
from parity.probe import Probe
from parity.recording import Recording
from parity.worker import FRAMEWORKS, Arm
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.ladder import LadderReport

SEEDS = (8, 9, 10)
EXAMPLES = """examples:
  python -m parity.explain --variant baseline
  python -m parity.explain --variant image_transforms --seeds 8 9 10 11 12
  python -m parity.explain --only padding,optimizer
  python -m parity.explain --profile paper --data faces/ --seeds 8 --no-ladder

Interrupted, start the same command again: finished arms are not run again.

exit status: 0 all arms finished, 2 the request or the data is wrong or an arm could not finish,
130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: explain(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.explain",
        description="Switch the published differences on one at a time, and measure what each "
        f"does: {', '.join(DIFFERENCES)}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(SEEDS),
        metavar="SEED",
        help=f"two or more give a noise floor (default {' '.join(map(str, SEEDS))})",
    )
    parser.add_argument("--only", metavar="NAMES", help="differences, e.g. padding,optimizer")
    parser.add_argument(
        "--out", type=Path, help="folder for all results (default runs/explain-<variant>)"
    )
    parser.add_argument(
        "--ladder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="find the level at which each difference first shows (default on)",
    )
    parser.add_argument("--json", action="store_true", help="print explain.json")
    cli.add_engine_flags(parser)
    # What the differences change is no flag: the pair starts aligned.
    cli.add_experiment_flags(parser, without=("padding", "seed", *CHANGED))
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Plan:
    """What is to be trained: every condition, a set of differences, on both sides from each seed.

    Equal experiments of a framework share one arm, named after the first condition that has it.
    """

    base: Experiment
    seeds: tuple[int, ...]
    conditions: dict[str, tuple[str, ...]]

    @cached_property
    def arms(self) -> dict[tuple[str, int, str], Arm]:
        """By condition, seed and framework."""
        known: dict[tuple[str, Experiment], Arm] = {}
        found = {}
        for seed in self.seeds:
            for condition, names in self.conditions.items():
                for side in FRAMEWORKS:
                    own = switched_on(replace(self.base, seed=seed), side, names)
                    name = f"{condition.replace(' ', '-')}-s{seed}-{side}"
                    arm = known.setdefault((side, own), Arm(side, own, name))
                    found[condition, seed, side] = arm
        return found

    @property
    def distinct(self) -> list[Arm]:
        return list(dict.fromkeys(self.arms.values()))

    def pair(self, condition: str) -> tuple[Arm, Arm]:
        """Both sides of a condition, from the first seed: the pair that the ladder compares."""
        keras, torch = (self.arms[condition, self.seeds[0], side] for side in FRAMEWORKS)
        return keras, torch


def explain(options: argparse.Namespace) -> int:
    """Run every arm that is not finished, compare them, write the explanation."""
    planned = plan(options)
    out = cli.writable(options.out or Path("runs") / f"explain-{planned.base.variant}")

    from parity.report.live import Progress

    names = [arm.id for arm in planned.distinct]
    with (
        closing(cli.engine(options, [planned.base])) as engine,
        Progress(names, planned.base.epochs, jobs=engine.jobs) as progress,
    ):
        data = cli.prepare(planned.base, progress.preparing)
        folder, observe = out / "arms", progress.event
        results = worker.run(planned.distinct, folder, engine=engine, observe=observe, data=data)
        failures = {arm: why for arm, why in map(_failure, results.items()) if why}
        ladders: dict[str, LadderReport] = {}
        if options.ladder:
            sound = [
                name
                for name in planned.conditions
                if not failures.keys() & _ids(planned.pair(name))
            ]
            ladders, unprobed = _climb({n: planned.pair(n) for n in sound}, folder, engine, observe)
            failures |= unprobed
    _publish(planned, results, ladders, out, as_json=options.json)
    for name, why in failures.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    return cli.EXIT_REFUSED if failures else cli.EXIT_PASS


def plan(options: argparse.Namespace) -> Plan:
    """Raises `InputError` where a name is unknown or not of this variant."""
    seeds = tuple(dict.fromkeys(options.seeds))
    base = cli.experiment(options, padding=0, seed=seeds[0])
    names = _differences(base.variant, options.only)
    conditions = {ALIGNED: (), **{name: (name,) for name in names}}
    if len(names) > 1:
        conditions[TOGETHER] = names
    return Plan(base, seeds, conditions)


def _differences(variant: str, only: str | None) -> tuple[str, ...]:
    """Those that the variant has; of them those asked for."""
    here = tuple(
        name for name, each in DIFFERENCES.items() if not each.variants or variant in each.variants
    )
    if only is None:
        return here
    chosen = [name.strip() for name in only.split(",")]
    for name in chosen:
        if name in DIFFERENCES and name not in here:
            variants = " and ".join(DIFFERENCES[name].variants)
            raise InputError(
                f"the difference {name!r} exists in {variants} alone, not in {variant}"
            )
        if name not in here:
            raise InputError(unknown("difference", name, here))
    return tuple(name for name in here if name in chosen)


def _climb(
    pairs: Mapping[str, tuple[Arm, Arm]], folder: Path, engine: Engine, observe: Observer
) -> tuple[dict[str, LadderReport], dict[str, str]]:
    """The ladder of every pair whose probes could be taken; why the others' could not."""
    from parity import ladder

    arms = list(dict.fromkeys(arm for pair in pairs.values() for arm in pair))
    twins = {
        torch: keras for keras, torch in pairs.values() if keras.experiment == torch.experiment
    }
    failed = worker.probe(arms, folder, references=twins, engine=engine, observe=observe)
    for arm in arms:
        if arm.id not in failed and arm not in twins:
            # Whole tensors have fed the other side's layers: samples are enough from here on.
            Probe.read(folder / arm.id).thinned().write(folder / arm.id)
    ladders = {
        name: ladder.run(folder / keras.id, folder / torch.id)
        for name, (keras, torch) in pairs.items()
        if not failed.keys() & _ids((keras, torch))
    }
    return ladders, {arm: each.message for arm, each in failed.items()}


def _publish(
    plan: Plan,
    results: Mapping[str, Recording | Failure],
    ladders: Mapping[str, LadderReport],
    out: Path,
    *,
    as_json: bool,
) -> None:
    from parity.report import page
    from parity.study import effects, explanation

    runs: dict[str, dict[int, dict[str, Recording]]] = {}
    for (condition, seed, side), arm in plan.arms.items():
        of_seed = runs.setdefault(condition, {}).setdefault(seed, {})
        result = results[arm.id]
        if isinstance(result, Recording):
            of_seed[side] = result
    found = effects.explain(plan.base.variant, plan.seeds, runs, ladders)
    explanation.write(found, out, _about(plan.base, results.values()))
    page.write(out)
    if as_json:
        print((out / "explain.json").read_text(), end="")
    else:
        explanation.render(found)
        print(f"explanation, plot, report.html and recordings: {out}/")


def _about(base: Experiment, results: Iterable[Recording | Failure]) -> dict[str, Any]:
    """What was run, for whoever finds the files alone."""
    recordings = [each for each in results if isinstance(each, Recording)]
    sides = {each.framework: each.environment for each in recordings}
    data = recordings[0].data if recordings else None
    images = sum(data["splits"]["train"].values()) if data else 0
    sentence = (
        f"{images} training images of {base.data}, {base.image_size} pixels, width {base.width:g}, "
        f"{base.epochs} epochs, batches of {base.batch_size}, learning rate "
        f"{base.learning_rate:g}, {base.precision}, on {base.device}."
    )
    return {"sentence": sentence, "experiment": base.to_dict(), "data": data, "environments": sides}


def _failure(item: tuple[str, Recording | Failure]) -> tuple[str, str | None]:
    arm, result = item
    return arm, result.message if isinstance(result, Failure) else result.error


def _ids(pair: Iterable[Arm]) -> set[str]:
    return {arm.id for arm in pair}


if __name__ == "__main__":
    sys.exit(main())
