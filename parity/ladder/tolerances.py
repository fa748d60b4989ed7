"""Every tolerance of the ladder in one table, each with its reason.

`eps` is the distance from 1 to the next number: 2^-52 in float64, 2^-23 in float32. The `scale`
of a tensor is its largest absolute value on the reference's side, the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity.criterion import TOLERANCE

EPS = {"float64": 2.0**-52, "float32": 2.0**-23}
TRAJECTORY_LOSS = 1e-10  # nats
TRAJECTORY_WEIGHT = 1e-8
FLOOR_FACTOR = 8.0


@dataclass(frozen=True)
class Row:
    """One kind of tolerance: what it judges, its size, where that comes from."""

    judges: str
    size: str
    reason: str


TABLE: dict[str, Row] = {
    "bits": Row(
        "transfer",
        "0, bit for bit",
        "weights are copied and permuted on their way, which rounds nothing",
    ),
    "rounding": Row(
        "forward, loss, gradient in float64; each layer alone in any precision",
        "n x eps x magnitude",
        "an inner product of n terms is off by at most n x eps/2 x the sum of its terms' absolute "
        "values (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), in "
        "all likelihood by the root of n instead of n (Higham and Mary 2019), and two sides are "
        "twice that apart. The sum of absolute values is taken as n x rms x rms of the factors, "
        "so root n x eps x that is n x eps x (root n x rms x rms); the bracket, or the scale where "
        "that is larger, is the magnitude. In the net, n adds up over the layers that a number "
        "has passed",
    ),
    "adam step": Row(
        "update in float64",
        "slope x the gradient's tolerance + rate x eps / (1 - beta_2) + 4 x eps x scale",
        "Adam's first step as a function of the gradient is nowhere steeper than "
        "rate x sqrt(1 - beta_2) / epsilon (rate / epsilon where epsilon stands beside the "
        "corrected root); 1 - beta_2 loses digits to cancellation; then a sum is rounded",
    ),
    "trajectory": Row(
        "trajectory in float64",
        f"{TRAJECTORY_LOSS:g} per loss and every other number of a recording, "
        f"{TRAJECTORY_WEIGHT:g} per final weight and answer",
        "the project's claim, not an estimate: over 170 steps on real faces, losses were at most "
        "5e-14 apart",
    ),
    "floor": Row(
        "forward, loss, gradient, update, trajectory in float32",
        f"{FLOOR_FACTOR:g} x the noise floor, the floor at least eps x magnitude; for weights "
        "after Adam's steps also rate x eps / (1 - beta_2), as above",
        "the floor is the largest difference of each side against itself: run again, its images "
        "nudged by one unit in the last place, its initial weights nudged likewise. A nudge "
        "disturbs every number once, a sum in another order up to the root of its length times: "
        "measured between frameworks and between implementations within PyTorch, up to 3.2 floors, "
        "Adam's bias correction apart",
    ),
    "jumps": Row(
        "gradients by a layer's output and by the images; what depends on them in float32",
        "as above, and undecided rather than failed beyond it, up to what the tensor can move",
        "where two values in a pooling window, or a value and ReLU's zero, are equal but for "
        "rounding, the gradient takes another way: one element of it moves whole. Seen at 1e-4 of "
        "the scale in float64 and at a fifth of it in float32, between one framework and itself. "
        "Such jumps hit one tensor or another by chance, so all parameters of a kind share the "
        "largest floor. Layers alone, fed the same bits, do not jump and decide",
    ),
    "outcome": Row(
        "outcome",
        f"{TOLERANCE:g}, absolute",
        "the study's criterion (parity.criterion)",
    ),
}


def reason(row: str, specifics: str = "") -> str:
    """The text that a result carries: the table's row, and its numbers in this case."""
    return f"{row}: {specifics or TABLE[row].size}"


def adam_slope(optimizer: dict[str, Any]) -> float | None:
    """Largest derivative of Adam's first step by the gradient; None for another optimizer.

    First step, epsilon beside the uncorrected root (Keras): rate g / (|g| + eps / sqrt(1 - b2));
    beside the corrected root (PyTorch): rate g / (|g| + eps). Both are steepest at g = 0.
    """
    try:
        rate, epsilon = optimizer["learning_rate"], optimizer["epsilon"]
        correction = (1 - optimizer["beta_2"]) ** 0.5
        if optimizer["kind"] not in ("adam", "adamw") or not epsilon > 0:
            return None
        uncorrected = optimizer["epsilon_position"] == "beside the uncorrected root"
        return float(rate / epsilon * (correction if uncorrected else 1.0))
    except (KeyError, TypeError):
        return None
