"""`python -m parity.reproduce`: the whole study, beside what was published.

`aligned` is the study as it was meant: both frameworks with the same padding, weights, batches and
optimizer. `as_published` has every difference of the two notebooks (`parity.differences`). Every
arm is kept and none is run twice, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from parity import cli, published, worker
from parity.differences import switched_on
from parity.experiment import PROFILES, Experiment, unknown
from parity.recording import Recording
from parity.worker import FRAMEWORKS, Arm, Failure
from shared_data.errors import InputError

MODES = ("aligned", "as_published")
EXAMPLES = """examples:
  python -m parity.reproduce --data faces/ --ood other-faces/ --out results/paper
  python -m parity.reproduce --data faces/ --only baseline,lr_10x
  python -m parity.reproduce --mode as_published --data faces/ --out results/as-published
  python -m parity.reproduce --profile quick --out runs/quick-study
  python -m parity.reproduce --readme README.md --out results/paper

The paper's ten models take hours on a small machine. Interrupted, start the same command again:
it goes on at the last epoch of what was begun, and runs nothing that is finished.

exit status: 0 all arms finished, 2 the request or the data is wrong or an arm could not finish,
130 interrupted"""
README_HEADING = "## The study, reproduced"


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
    parser.add_argument("--seed", type=int, default=8, help="default %(default)s, the study's")
    parser.add_argument("--jobs", type=int, help="arms at a time")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="train nothing: put the results in --out under the file's heading "
        f'"{README_HEADING.removeprefix("## ")}"',
    )
    return parser.parse_args(arguments)


def reproduce(options: argparse.Namespace) -> int:
    """Run what is not finished, then write all tables, figures and judgements."""
    experiments = {variant: _experiment(variant, options) for variant in _variants(options.only)}
    out = cli.writable(options.out)
    from parity.report.live import Progress

    first = next(iter(experiments.values()))
    jobs = cli.jobs(options.jobs, first)
    names = [f"{variant} {side}" for variant in experiments for side in FRAMEWORKS]
    study: dict[str, dict[str, Recording]] = {}
    failures: dict[str, str] = {}
    at_a_time = min(jobs, len(FRAMEWORKS))  # one variant's arms: variants run one by one
    with Progress(names, first.epochs, jobs=at_a_time) as progress:
        for variant, experiment in experiments.items():
            data = cli.prepare(experiment, progress.preparing)
            arms = [Arm(side, _own(experiment, side, options.mode)) for side in FRAMEWORKS]
            shown = {arm.id: f"{variant} {arm.framework}" for arm in arms}

            def observe(arm: str, event: dict[str, Any], shown: dict[str, str] = shown) -> None:
                progress.event(shown[arm], event)

            folder = out / "arms" / variant
            results = worker.run(arms, folder, jobs=jobs, observe=observe, data=data)
            study[variant] = {}
            for result in results.values():
                if isinstance(result, Failure):
                    failures[shown[result.arm]] = result.message
                else:
                    study[variant][result.framework] = result
    from parity.study import render

    render.write(study, out, options.mode)
    print(f"tables, figures and judgements: {out}/")
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
    section = render.section(options.out, str(options.out))
    write_atomically(options.readme, pages.placed(text, README_HEADING, section).encode())
    return cli.EXIT_PASS


def _variants(only: str | None) -> list[str]:
    known = list(published.variants())
    chosen = known if only is None else [name.strip() for name in only.split(",")]
    for name in chosen:
        if name not in known:
            raise InputError(unknown("variant", name, known))
    return [name for name in known if name in chosen]


def _experiment(variant: str, options: argparse.Namespace) -> Experiment:
    more = {} if options.epochs is None else {"epochs": options.epochs}
    given = {"data": options.data, "ood": options.ood, "seed": options.seed, **more}
    return Experiment.of(variant, options.profile, padding=0, **given)


def _own(experiment: Experiment, framework: str, mode: str) -> Experiment:
    return experiment if mode == MODES[0] else switched_on(experiment, framework)


if __name__ == "__main__":
    sys.exit(main())
