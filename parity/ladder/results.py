"""What the ladder says: a verdict per level and precision, and the report over all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parity.ladder.measure import ABSTAIN, ERROR, FAIL, PASS, Measurement

if TYPE_CHECKING:
    from parity.ladder.mismatches import Mismatch

LEVELS = (
    "structure",
    "transfer",
    "forward",
    "loss",
    "gradient",
    "update",
    "trajectory",
    "outcome",
)
NUMERIC = LEVELS[1:-1]  # what passes in float64, or the report does not
ORIGIN, UNDECIDED, CARRIED = "origin", "undecided", "carried"
NAMED = 4  # how many names a detail lists before it counts the rest


@dataclass(frozen=True)
class LevelResult:
    """The verdict of one level in one precision; its numbers are those of the worst tensor.

    Attributes:
        level: one of `LEVELS`.
        verdict: pass, fail, abstain (the detail says what would decide it) or error.
        precision: float64, float32, or None where numbers have no part in it.
        measured: largest difference, absolute; for structure, how many things differ.
        tolerance, reason: how much may differ there, and why.
        minimum_tolerance: the smallest that would have passed, where one would.
        where: layer or tensor and element.
        detail: how much was compared, and the worst in all its numbers.
        tensors: every comparison behind the verdict; not part of report.json.
        binding: undecided, it keeps the report from passing in any precision; likewise.
    """

    level: str
    verdict: str
    precision: str | None = None
    measured: float | None = None
    tolerance: float | None = None
    reason: str = ""
    minimum_tolerance: float | None = None
    where: str = ""
    detail: str = ""
    tensors: tuple[Measurement, ...] = dataclasses.field(default=(), repr=False)
    binding: bool = dataclasses.field(default=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The entry of report.json's `ladder`, in types that strict JSON knows."""
        hidden = ("tensors", "binding")
        names = [item.name for item in dataclasses.fields(self) if item.name not in hidden]
        return {name: _finite(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Origin:
    """One place, and its part in the difference.

    Attributes:
        status: "origin", "carried" or "undecided".
        where: a layer, `input` (the images), `loss`, `optimizer` or `training`.
        level, precision: where it shows.
        text: what is known, in one line, `where` not repeated.
        measured, tolerance: of the comparison that shows it.
        causes: what the sides declare differently there, both values each.
        remedies: one per cause.
    """

    status: str
    where: str
    level: str
    precision: str | None
    text: str
    measured: float | None = None
    tolerance: float | None = None
    causes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """`block3.conv: output 0.31 apart while its input agrees to 1e-15; padding 1 against 0`."""
        return "; ".join([f"{self.where}: {self.text}", *self.causes])


@dataclass(frozen=True)
class LadderReport:
    """All results of one pair, in the order of the levels.

    `origins` say where a difference starts and who only carries it on; `semantics` what the two
    sides declare differently, the likely causes. `error` says why there are no results.
    """

    left: str
    right: str
    levels: tuple[LevelResult, ...]
    origins: tuple[Origin, ...] = ()
    semantics: tuple[Mismatch, ...] = ()
    error: str | None = None

    @property
    def verdict(self) -> str:
        """error if a side is unusable; else fail if a level fails; else pass if nothing is lacking.

        Numbers have to agree where rounding hides nothing: every level of `NUMERIC` must pass in
        float64. What is declared alike proves nothing alone.
        """
        verdicts = {result.verdict for result in self.levels}
        for verdict in (ERROR, FAIL):
            if verdict in verdicts:
                return verdict
        return ABSTAIN if self.lacking else PASS

    @property
    def lacking(self) -> list[str]:
        """What would have to pass, and did not: `gradient float64`."""
        of_level = {f"{level} float64": self.of(level, "float64") for level in NUMERIC}
        short = [k for k, of in of_level.items() if not of or any(r.verdict != PASS for r in of)]
        binding = [r for r in self.levels if r.binding and r.verdict != PASS]
        return list(dict.fromkeys([*short, *(f"{r.level} {r.precision}" for r in binding)]))

    @property
    def first_failure(self) -> LevelResult | None:
        return next((result for result in self.levels if result.verdict == FAIL), None)

    def of(self, level: str, precision: str | None = None) -> list[LevelResult]:
        """The results of one level, of one precision if given."""
        return [
            result
            for result in self.levels
            if result.level == level and precision in (None, result.precision)
        ]

    def to_list(self) -> list[dict[str, Any]]:
        """The `ladder` of a pair in report.json."""
        return [result.to_dict() for result in self.levels]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for strict JSON: `ladder`, `origins`, `semantics`, and every tensor."""
        return {
            "verdict": self.verdict,
            "left": self.left,
            "right": self.right,
            "error": self.error,
            "ladder": self.to_list(),
            "origins": [_with(each, "sentence") for each in self.origins],
            "semantics": [_with(each, "text") for each in self.semantics],
            "tensors": tensors_to_list(self.levels),
        }

    @classmethod
    def unusable(cls, left: str, right: str, error: str) -> LadderReport:
        """A report of sides that cannot be compared: every level is an error."""
        levels = tuple(LevelResult(level, ERROR, detail=error) for level in LEVELS)
        return cls(left, right, levels, error=error)


def tensors_to_list(levels: Iterable[LevelResult]) -> list[dict[str, Any]]:
    """Every comparison behind the levels' verdicts, for strict JSON."""
    return [
        {
            "level": result.level,
            "precision": result.precision,
            **_with(measurement, "minimum_tolerance", "headroom"),
        }
        for result in levels
        for measurement in result.tensors
    ]


def abstain(level: str, detail: str, precision: str | None = None) -> LevelResult:
    """Undecided; `detail` says what would decide it."""
    return LevelResult(level, ABSTAIN, precision, detail=detail)


def summarise(
    level: str, precision: str | None, measurements: Sequence[Measurement], subject: str = ""
) -> LevelResult:
    """One verdict from many comparisons: all must pass, optional ones must at least not fail.

    `subject` is said first in the detail.
    """
    if not any(each.elements or each.verdict == FAIL for each in measurements):
        why = "; ".join(dict.fromkeys(each.reason for each in measurements if each.reason))
        return abstain(
            level, " ".join(filter(None, (subject, why or "nothing compared"))), precision
        )
    failing = [each for each in measurements if each.verdict == FAIL]
    undecided = [each for each in measurements if each.verdict == ABSTAIN]
    binding = [each for each in undecided if not each.optional]
    passing = [each for each in measurements if each.verdict == PASS]
    verdict = FAIL if failing else PASS if passing and not binding else ABSTAIN
    shown = failing or binding or passing or undecided
    worst = max(shown, key=lambda each: each.pressure)  # the first of equals
    parts = [
        f"{subject}: {_extent(measurements)}" if subject else _extent(measurements),
        f"worst {numbers(worst)}" if worst.absolute != 0 or worst.problem else "nothing differs",
    ]
    if failing:
        parts.append(f"{len(failing)} beyond: {listed(each.name for each in failing)}")
    if undecided:
        names = listed(each.name for each in undecided)
        why = f" ({max(binding, key=lambda each: each.pressure).reason})" if binding else ""
        parts.append(f"{len(undecided)} undecided: {names}{why}")
    if verdict == ABSTAIN and precision == "float32":
        parts.append("decide it with --precision float64")
    return LevelResult(
        level,
        verdict,
        precision,
        worst.absolute,
        worst.tolerance,
        worst.reason,
        worst.minimum_tolerance,
        worst.where if worst.absolute or worst.problem else "",
        "; ".join(parts),
        tuple(measurements),
    )


def numbers(measurement: Measurement) -> str:
    """A comparison's worst element in words."""
    if measurement.absolute is None:
        return f"{measurement.name}: {measurement.problem or measurement.reason}"
    words = [f"{measurement.where}: {measurement.left:.9g} against {measurement.right:.9g}"]
    if measurement.problem:
        words.insert(0, f"{measurement.name}: {measurement.problem}")
    words.append(f"relative {measurement.relative:.1e}")
    words.append(f"{measurement.ulps:,} units in the last place")
    if measurement.headroom is not None:
        words.append(f"headroom {measurement.headroom:.3g}")
    return ", ".join(words)


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _extent(measurements: Sequence[Measurement]) -> str:
    compared = [each for each in measurements if each.elements]
    elements = sum(each.elements for each in compared)
    return f"{len(compared)} of {len(measurements)} tensors, {elements:,} elements compared"


def _with(item: Any, *properties: str) -> dict[str, Any]:
    """A dataclass and some of its properties, for strict JSON."""
    more = {name: getattr(item, name) for name in properties}
    return {name: _finite(value) for name, value in {**dataclasses.asdict(item), **more}.items()}


def _finite(value: Any) -> Any:
    """`value` in JSON's types, with every NaN and infinity inside it replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
