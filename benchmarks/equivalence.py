"""`python -m benchmarks.equivalence`: how often does the test over seeds say what it must not?

Differences of a final metric between the frameworks are drawn at random and judged as a comparison
with `--seeds` judges them. Where the true mean is the margin itself, `pass` and `fail` are both
wrong, and may each come up in 5 % of the samples, however the differences are spread; where who is
not decided looks again, all looks together may. Elsewhere the share of decisions must be the power
that was computed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from parity.cli import run, writable
from parity.criterion import TOLERANCE
from parity.equivalence import ALPHA, INCONCLUSIVE, power, verdicts
from parity.recording import write_atomically
from parity.study.grid import markdown_table

RESULTS = Path(__file__).parent / "results"
SEEDS = (2, 5, 10, 29, 32, 57, 100)
LOOKS = {  # seeds at each look; the first verdict that is not inconclusive is taken
    "10, then 32, then 57": (10, 32, 57),
    "after every seed, to 100": tuple(range(2, 101)),
}
POINTS = (  # mean and standard deviation of normal differences, of the margin
    (0.0, 0.25),
    (0.25, 0.3),
    (0.0, 0.5),
    (0.0, 1.0),
    (1.5, 0.2),
    (2.0, 0.5),
)
POWER_SEEDS = (32, 57, 100, 200)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]  # (samples, seeds)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equivalence", description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return run(lambda: _simulate(options))


def _simulate(options: argparse.Namespace) -> int:
    writable(options.out)
    random = np.random.default_rng(options.seed)

    def shares(draw: Draw, mean: float, looks: Sequence[int]) -> dict[str, float]:
        samples = mean + draw(random, (options.trials, looks[-1]))
        found = np.full(options.trials, INCONCLUSIVE)
        for seeds in looks:
            seen = samples[:, :seeds]
            judged = verdicts(np.zeros_like(seen), seen, margin=TOLERANCE)
            found = np.where(found == INCONCLUSIVE, judged, found)
        return {name: float((found == name).mean()) for name in ("pass", "fail")}

    at_margin = [
        {"differences": name, "seeds": seeds, **shares(draw, TOLERANCE, [seeds])}
        for name, draw in DRAWS.items()
        for seeds in SEEDS
    ]
    again = [
        {"differences": name, "looks": looks, **shares(DRAWS[name], TOLERANCE, LOOKS[looks])}
        for name in ("normal", COLLAPSE, COLLAPSE + TURNED)
        for looks in LOOKS
    ]
    powers = []
    for mean, std in ((TOLERANCE * m, TOLERANCE * s) for m, s in POINTS):
        near, far = stats.norm.cdf([-TOLERANCE, TOLERANCE], mean, std)
        against = {"pass": 1 - (far - near), "fail": far}  # shares of seeds, in truth
        for seeds in POWER_SEEDS:
            found = shares(_normal(std), mean, [seeds])
            computed = {name: power(seeds, share) for name, share in against.items()}
            powers.append(
                {"mean": mean, "std": std, "seeds": seeds, "found": found, "computed": computed}
            )
    result = {
        "schema": 2,
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


def _normal(std: float) -> Draw:
    return lambda random, shape: random.normal(0, std, shape)


def _heavy(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Student's t with 3 degrees of freedom: now and then a seed is far off."""
    return TOLERANCE * random.standard_t(3, shape) / 5


def _skewed(sigma: float) -> Draw:
    """Lognormal: most are a little low, a few are far too high."""
    mean = math.exp(sigma**2 / 2)
    return lambda random, shape: TOLERANCE * (random.lognormal(0, sigma, shape) - mean) / mean


def _collapse(share: float) -> Draw:
    """A share of the seeds is off by so much that their mean is off by the margin."""
    return lambda random, shape: TOLERANCE * ((random.random(shape) < share) / share - 1)


def _images(count: int, *, won: float) -> Draw:
    """An accuracy of `count` images: some are lost, a share `won` less the margin is won."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        lost = random.binomial(count, won + TOLERANCE, shape)
        return (lost - random.binomial(count, won, shape)) / count - TOLERANCE

    return draw


def _turned(draw: Draw) -> Draw:
    return lambda random, shape: -draw(random, shape)


TURNED = ", turned"  # the long side of the differences points to 0, where `fail` is in danger
COLLAPSE = "one seed in ten collapses by 0.2"
OUTSIDE = "against the assumption: one seed in twenty collapses by 0.4"
ONE_SIDED: dict[str, Draw] = {  # of mean 0
    "lognormal, sigma 1": _skewed(1.0),
    "lognormal, sigma 2": _skewed(2.0),
    COLLAPSE: _collapse(0.1),
    "accuracy of 16 images, none ever won": _images(16, won=0.0),
    "accuracy of 36 images, none ever won": _images(36, won=0.0),
    "accuracy of 129 images, none ever won": _images(129, won=0.0),
}
DRAWS: dict[str, Draw] = {
    "normal": _normal(TOLERANCE / 5),
    "normal, spread of 10 margins": _normal(10 * TOLERANCE),
    "heavy tails (t, 3)": _heavy,
    "accuracy of 129 images": _images(129, won=0.05),
    **ONE_SIDED,
    **{name + TURNED: _turned(draw) for name, draw in ONE_SIDED.items()},
    OUTSIDE: _collapse(0.05),
    "no spread at all": lambda random, shape: np.zeros(shape),
}


def markdown(result: dict[str, Any]) -> str:
    error = math.sqrt(ALPHA * (1 - ALPHA) / result["trials"])
    rows = [
        [each["differences"], str(each["seeds"]), _percent(each["pass"]), _percent(each["fail"])]
        for each in result["at_margin"]
    ]
    again = [
        [each["differences"], each["looks"], _percent(each["pass"]), _percent(each["fail"])]
        for each in result["again"]
    ]
    lines = [
        f"{result['trials']:,} samples each, seed {result['seed']}; a share of 5 % has a standard "
        f"error of {100 * error:.1f} %.",
        "",
        f"The true mean difference is the tolerance itself, {result['margin']:g}:",
        "",
        *markdown_table(["differences", "seeds", "pass", "fail"], rows, left=1),
        "",
        "Likewise, where who is not decided looks again with more seeds:",
        "",
        *markdown_table(["differences", "seeds", "pass", "fail"], again, left=2),
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
