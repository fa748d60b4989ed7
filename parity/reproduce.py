"""`python -m parity.reproduce`: the whole study, beside what was published.

`aligned` is the study as it was meant: both frameworks with the same padding, weights, batches and
optimizer. `as_published` has every difference of the two notebooks (`parity.differences`). Every
arm is kept and none is run twice, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from parity import cli, published, worker
from parity.differences import switched_on
from parity.engines import Failure
from parity.experiment import PROFILES, Experiment, unknown
from parity.recording import Recording, arm_id
from parity.worker import FRAMEWORKS, Arm
from shared_data.errors import InputError

MODES = ("aligned", "as_published")
SEED = 8
EXAMPLES = """examples:
  python -m parity.reproduce --data faces/ --ood other-faces/ --out results/paper
  python -m parity.reproduce --data faces/ --only baseline,lr_10x
  python -m parity.reproduce --data faces/ --only baseline --seeds 8 9
  python -m parity.reproduce --mode as_published --data faces/ --out results/as-published
  python -m parity.reproduce --profile quick --out runs/quick-study
  python -m parity.reproduce --readme README.md --out results/paper

The paper's ten models take hours on a small machine. Interrupted, start the same command again:
it goes on at the last epoch of what was begun, and runs nothing that is finished.

exit status: 0 all arms finished, 2 the request or the data is wrong or an arm could not finish,
130 interrupted"""
README_HEADINGS = {
    "aligned": "## The study, reproduced",
    "as_published": "## The study, as published",
}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: place(options) if options.readme else reproduce(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.reproduce",
        description="Train the study's ten models, write its tables, figures and judgements.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", default="synthetic", help="synthetic, a folder, a zip, or kaggle:owner/name"
    )
    parser.add_argument("--ood", help="a second data set, to test only (out of distribution)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="default %(default)s")
    parser.add_argument(
        "--profile", default="paper", help=f"{', '.join(PROFILES)} (default %(default)s)"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="aligned: same everything; as_published: with all differences of the notebooks",
    )
    parser.add_argument("--only", metavar="NAMES", help="variants, e.g. baseline,lr_10x")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[SEED],
        metavar="SEED",
        help="the first gives tables and figures; with more, a test over all of them says whether "
        f"each model replicates its twin (default {SEED}, the study's)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads of an arm; 0 = all cores (default: the profile's)"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="train nothing: put the results in --out under the file's heading for their mode",
    )
    cli.add_engine_flags(parser)
    return parser.parse_args(arguments)


def reproduce(options: argparse.Namespace) -> int:
    """Run what is not finished, then write all tables, figures and judgements."""
    variants = _variants(options.only)
    first, *more = dict.fromkeys(options.seeds)
    out = cli.writable(options.out)
    from parity.report.live import Progress

    arms = []
    for seed in (first, *more):
        for variant in variants:
            experiment = _experiment(variant, seed, options)
            folder = variant if seed == first else f"{variant}/s{seed}"
            for side in FRAMEWORKS:
                own = _own(experiment, side, options.mode)
                arms.append(Arm(side, own, f"{folder}/{arm_id(side, own)}"))
    results: dict[str, Recording | Failure] = {}
    with (
        closing(cli.engine(options, [arm.experiment for arm in arms])) as engine,
        Progress([arm.id for arm in arms], arms[0].experiment.epochs, jobs=engine.jobs) as progress,
    ):
        for group in worker.by_data(arms):
            data = cli.prepare(group[0].experiment, progress.preparing)
            results |= worker.run(
                group, out / "arms", engine=engine, observe=progress.event, data=data
            )
    studies: dict[int, dict[str, dict[str, Recording]]] = {
        seed: {variant: {} for variant in variants} for seed in (first, *more)
    }
    failures: dict[str, str] = {}
    for arm in arms:
        result = results[arm.id]
        if isinstance(result, Failure):
            failures[arm.id] = result.message
        else:
            studies[arm.experiment.seed][arm.experiment.variant][arm.framework] = result
    from parity.report import page
    from parity.study import render

    render.write(studies[first], out, options.mode, studies)
    page.write(out)
    print(f"tables, figures, judgements and report.html: {out}/")
    for name, why in failures.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    return cli.EXIT_REFUSED if failures else cli.EXIT_PASS


def place(options: argparse.Namespace) -> int:
    """Write the study's section of a README from what `--out` holds."""
    from parity.recording import write_atomically
    from parity.study import pages, render

    try:
        text = options.readme.read_text()
    except OSError as error:
        raise InputError(f"cannot read {options.readme}: {error.strerror}") from None
    heading = README_HEADINGS[render.read_summary(options.out)["mode"]]
    section = render.section(options.out, str(options.out))
    write_atomically(options.readme, pages.placed(text, heading, section).encode())
    return cli.EXIT_PASS


def _variants(only: str | None) -> list[str]:
    known = list(published.variants())
    chosen = known if only is None else [name.strip() for name in only.split(",")]
    for name in chosen:
        if name not in known:
            raise InputError(unknown("variant", name, known))
    return [name for name in known if name in chosen]


def _experiment(variant: str, seed: int, options: argparse.Namespace) -> Experiment:
    asked = {"epochs": options.epochs, "threads": options.threads}
    more = {name: value for name, value in asked.items() if value is not None}
    given = {"data": options.data, "ood": options.ood, "seed": seed, **more}
    return Experiment.of(variant, options.profile, padding=0, **given)


def _own(experiment: Experiment, framework: str, mode: str) -> Experiment:
    return experiment if mode == MODES[0] else switched_on(experiment, framework)


if __name__ == "__main__":
    sys.exit(main())
