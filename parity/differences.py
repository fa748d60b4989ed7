"""What the two published implementations did differently though nobody set out to study it.

Each difference is a named switch (PROTOCOL.md of the study, "Differences between the two published
implementations"): fields of the experiment that one side, or both, had another way than the aligned
study. Any subset can be on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from parity.experiment import Experiment, unknown
from shared_data.errors import InputError

ALIGNED, TOGETHER = "aligned", "all together"  # none of them on, or every one


@dataclass(frozen=True)
class Difference:
    """One switch.

    Attributes:
        text: what Keras' notebooks / PyTorch's notebooks did.
        keras, torch: fields of each side's experiment.
        variants: where it exists; everywhere if empty.
    """

    text: str
    keras: dict[str, Any] = field(default_factory=dict)
    torch: dict[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()


DIFFERENCES: dict[str, Difference] = {
    "padding": Difference("no padding / 1", {"padding": 0}, {"padding": 1}),
    "initialisation": Difference(
        "Glorot uniform, zero bias / Kaiming uniform, uniform bias",
        {"init": "native"},
        {"init": "native"},
    ),
    "optimizer": Difference(
        "Adam's epsilon 1e-7, uncorrected / 1e-8, corrected",
        {"optimizer": "native"},
        {"optimizer": "native"},
    ),
    "epoch_loss": Difference(
        "mean over samples / mean of batch means", torch={"epoch_loss": "batches"}
    ),
    "batch_order": Difference("each framework's own shuffle", torch={"batch_order": "own"}),
    "head": Difference(
        "1024 hidden units / 512", torch={"head_units": 512}, variants=("additional_layers",)
    ),
    "normalise": Difference(
        "none / ImageNet mean and deviation, on the training images alone",
        torch={"normalise": "imagenet"},
        variants=("image_transforms",),
    ),
    "augmentation": Difference(
        "drawn anew each epoch / once",
        torch={"augmentation": "once"},
        variants=("image_transforms",),
    ),
    "divisor": Difference(
        "training pixels / 255, all others / 256, on both sides",
        {"divisor": 255},
        {"divisor": 255},
        variants=("image_transforms",),
    ),
}

# Every field of `Experiment` that one of them changes.
CHANGED = {name for each in DIFFERENCES.values() for name in (*each.keras, *each.torch)}


def switched_on(
    experiment: Experiment, framework: str, names: Iterable[str] = tuple(DIFFERENCES)
) -> Experiment:
    """A side's experiment with the named differences, those that its variant has.

    Raises:
        InputError: a name is unknown, or the framework is neither keras nor torch.
    """
    if framework not in ("keras", "torch"):
        raise InputError(f"framework: expected keras or torch, got {framework!r}")
    changes: dict[str, Any] = {}
    for name in names:
        if name not in DIFFERENCES:
            raise InputError(unknown("difference", name, DIFFERENCES))
        difference = DIFFERENCES[name]
        if not difference.variants or experiment.variant in difference.variants:
            changes |= getattr(difference, framework)
    return replace(experiment, **changes)
