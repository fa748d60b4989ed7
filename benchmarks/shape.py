"""How large the benchmarks are: the whole, and a small one to see that they run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from parity.experiment import Experiment


@dataclass(frozen=True)
class Shape:
    """Sizes and repetitions. Results of two shapes are not to be compared.

    Attributes:
        fields: of the experiment, beside the paper's profile.
        rounds: fresh processes per way of a step.
        turns: timed steps per process, batch size and kind.
        data_turns: how often a data set is prepared.
        growth: numbers of synthetic images, ascending.
        growth_repeats: fresh processes per number.
        ladder_widths: factors on the network's width, ascending.
        ladder_fields: of the ladder's experiment, beside the quick profile.
        starts: how often a command is started.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = (8, 32, 64)
    rounds: int = 4
    turns: int = 5
    data_turns: int = 5
    growth: tuple[int, ...] = (1_000, 10_000, 100_000)
    growth_repeats: int = 3
    ladder_widths: tuple[float, ...] = (0.125, 0.25, 0.5)
    ladder_fields: dict[str, Any] = field(default_factory=dict)
    starts: int = 9

    def experiment(self, data: str) -> Experiment:
        """The reference network, padding 0, on the images that are to be measured with."""
        return Experiment.of("baseline", "paper", data=data, **self.fields)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


FULL = Shape("full")
QUICK = Shape(
    "quick",
    fields={"image_size": 190, "width": 0.07, "threads": 1, "synthetic_images": 40},
    batch_sizes=(2, 4),
    rounds=1,
    turns=2,
    data_turns=2,
    growth=(50, 100, 200),
    growth_repeats=1,
    ladder_widths=(0.07,),
    ladder_fields={"image_size": 190, "epochs": 1, "synthetic_images": 40},
    starts=1,
)
