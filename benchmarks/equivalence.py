"""`python -m benchmarks.equivalence`: how often does the test over seeds say what it must not?

Differences of a final metric between the frameworks are drawn at random and judged as a comparison
with `--seeds` judges them. At the margin itself `pass` and `fail` are both wrong, and may each come
up in 5 % of the samples; elsewhere the share of decisions must be the power that was computed.
Who looks again with more seeds, because the first did not decide, has more chances to be wrong: how
many more is simulated as well.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.cli import run, writable
from parity.criterion import TOLERANCE
from parity.equivalence import ALPHA, INCONCLUSIVE, equivalence, power
from parity.recording import write_atomically
from parity.study.grid import markdown_table

RESULTS = Path(__file__).parent / "results"
SEEDS = (2, 3, 5, 10)
SPREAD = 0.2 * TOLERANCE
LOOKS = {  # seeds at each look; the first verdict that is not inconclusive is taken
    "5, then 10": (5, 10),
    "2, then one more at a time to 10": tuple(range(2, 11)),
}
POINTS = (
    (0.0, 0.25),
    (0.0, 0.5),
    (0.25, 0.5),
    (0.5, 0.5),
    (1.5, 0.25),
    (2.0, 0.5),
)  # of the margin

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equivalence", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return run(lambda: _simulate(options))


def _simulate(options: argparse.Namespace) -> int:
    writable(options.out)
    random = np.random.default_rng(options.seed)

    def shares(draw: Draw, looks: Sequence[int], step: float) -> dict[str, float]:
        samples = draw(random, (options.trials, looks[-1]))
        verdicts = [_verdict(sample, looks, step) for sample in samples]
        return {name: verdicts.count(name) / len(verdicts) for name in ("pass", "fail")}

    at_margin = [
        {"differences": name, "seeds": seeds, **shares(draw, [seeds], step)}
        for name, (draw, step) in AT_MARGIN.items()
        for seeds in SEEDS
    ]
    powers = []
    for mean, std in ((TOLERANCE * m, TOLERANCE * s) for m, s in POINTS):
        for seeds in SEEDS:
            found = shares(_normal(mean, std), [seeds], 0.0)
            computed = power(seeds, mean=mean, std=std, margin=TOLERANCE)
            powers.append(
                {"mean": mean, "std": std, "seeds": seeds, "found": found, "computed": computed}
            )
    again = [
        {"looks": name, **shares(_normal(TOLERANCE, SPREAD), looks, 0.0)}
        for name, looks in LOOKS.items()
    ]
    result = {
        "schema": 1,
        "benchmark": "equivalence",
        "margin": TOLERANCE,
        "alpha": ALPHA,
        "trials": options.trials,
        "seed": options.seed,
        "at_margin": at_margin,
        "power": powers,
        "again": again,
    }
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / "equivalence.json", text.encode())
    write_atomically(options.out / "equivalence.md", markdown(result).encode())
    print(markdown(result), end="")
    return 0


def _verdict(sample: np.ndarray, looks: Sequence[int], step: float) -> str:
    """The first verdict that decides, with as many seeds as each look has."""
    for seeds in looks:
        found = equivalence(np.zeros(seeds), sample[:seeds], margin=TOLERANCE, step=step).verdict
        if found != INCONCLUSIVE:
            break
    return found


def _normal(mean: float, std: float) -> Draw:
    return lambda random, shape: random.normal(mean, std, shape)


def _heavy(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Student's t with 3 degrees of freedom: now and then a seed is far off."""
    return TOLERANCE + SPREAD * random.standard_t(3, shape) / math.sqrt(3)


def _images(count: int, *, gained: float) -> Draw:
    """An accuracy of `count` images: some are lost, a share `gained` less the margin is won."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        lost = random.binomial(count, gained + TOLERANCE, shape)
        return (lost - random.binomial(count, gained, shape)) / count

    return draw


AT_MARGIN: dict[str, tuple[Draw, float]] = {
    "normal": (_normal(TOLERANCE, SPREAD), 0.0),
    "heavy tails (t, 3)": (_heavy, 0.0),
    "accuracy of 16 images": (_images(16, gained=0.05), 1 / 16),
    "accuracy of 129 images": (_images(129, gained=0.05), 1 / 129),
    "of 129 images, none ever won": (_images(129, gained=0.0), 1 / 129),
}


def markdown(result: dict[str, Any]) -> str:
    error = math.sqrt(ALPHA * (1 - ALPHA) / result["trials"])
    rows = [
        [each["differences"], str(each["seeds"]), _percent(each["pass"]), _percent(each["fail"])]
        for each in result["at_margin"]
    ]
    again = [
        [each["looks"], _percent(each["pass"]), _percent(each["fail"])] for each in result["again"]
    ]
    lines = [
        f"{result['trials']:,} samples each, seed {result['seed']}; a share of 5 % has a standard "
        f"error of {100 * error:.1f} %.",
        "",
        f"The true mean difference is the tolerance itself, {result['margin']:g}:",
        "",
        *markdown_table(["differences", "seeds", "pass", "fail"], rows, left=1),
        "",
        "Likewise, normal differences, where who is not decided looks again with more seeds:",
        "",
        *markdown_table(["seeds", "pass", "fail"], again, left=1),
        "",
        "Elsewhere, normal differences (mean and standard deviation in units of the tolerance):",
        "",
    ]
    rows = [
        [
            f"{each['mean'] / result['margin']:g}",
            f"{each['std'] / result['margin']:g}",
            str(each["seeds"]),
            *(
                _percent(each[kind][verdict])
                for verdict in ("pass", "fail")
                for kind in ("found", "computed")
            ),
        ]
        for each in result["power"]
    ]
    heads = ["mean", "spread", "seeds", "pass", "computed", "fail", "computed"]
    return "\n".join([*lines, *markdown_table(heads, rows, left=0)]) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
