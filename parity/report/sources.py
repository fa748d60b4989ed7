"""What a page can be made of: the results that a command has left, read from its folder or file.

One dataclass per kind of result. All of it is JSON: a folder without its tensors is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_data.errors import InputError

SCHEMA = 1
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A result.

    Attributes:
        name: of the folder or file, without where it lies.
        folder: where it lies; what else belongs to it is looked for here.
        facts: the file's content.
    """

    name: str
    folder: Path
    facts: Facts


@dataclass(frozen=True)
class Run(Source):
    """Of `parity.compare`: report.json, and the ladders with every tensor where they were kept."""

    ladders: tuple[Facts, ...] = ()

    @property
    def reports(self) -> Sequence[Facts]:
        """One report per seed, as `parity.report.build_report` makes them."""
        reports: Sequence[Facts] = self.facts.get("runs") or [self.facts]
        return reports

    def ladder(self, left: str, right: str) -> Facts | None:
        found = (each for each in self.ladders if (each["left"], each["right"]) == (left, right))
        return next(found, None)


@dataclass(frozen=True)
class Study(Source):
    """Of `parity.reproduce`: summary.json, and each arm by variant and framework."""

    arms: Mapping[str, Mapping[str, Facts]]


@dataclass(frozen=True)
class Explanation(Source):
    """Of `parity.explain`: explain.json."""


@dataclass(frozen=True)
class Check(Source):
    """Of `parity.check`: its report."""


@dataclass(frozen=True)
class Selftest(Source):
    """Of `parity.selftest`: selftest.json."""


@dataclass(frozen=True)
class Ladder(Source):
    """Of `parity.diff --json`: one pair."""


FILES = ("summary.json", "explain.json", "selftest.json", "report.json", "ladder.json")
KINDS = (  # by a key that says which
    ("effects", Explanation),
    ("faults", Selftest),
    ("coverage", Check),  # before the tensors, which it has as well
    ("tensors", Ladder),
)


def read(path: Path) -> Source:
    """The result in a folder, or in one JSON file.

    Raises:
        InputError: there is none, it is damaged, or of another schema.
    """
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).exists()), None)
        if file is None:
            raise InputError(
                f"{path} holds no results: expected one of {', '.join(FILES)}. Give the folder "
                "that a command of parity has written (--out), or a file of its --json."
            )
        return _read(file, path.resolve().name)
    return _read(path, path.stem)


def arm_of(recording: Facts) -> dict[str, Any]:
    """A recording's facts in the form of report.json's `arms`."""
    return {
        **recording,
        **{split: None for split in ("train", "validation", "test", "ood")},
        **recording["evaluation"],
        "id": recording["arm"],
        "padding": recording["experiment"]["padding"],
        "seconds_per_step": recording["timings"].get("seconds_per_step"),
    }


def _read(file: Path, name: str) -> Source:
    facts, folder = _json(file), file.parent
    if "judgements" in facts:
        arms = {
            place.name: {each["framework"]: arm_of(each) for each in _recordings(place)}
            for place in sorted((folder / "arms").glob("*"))
        }
        return Study(name, folder, facts, arms)
    if "pairs" in facts or "runs" in facts:
        kept = folder / "ladders.json"
        ladders = _json(kept)["ladders"] if kept.exists() else ()
        return Run(name, folder, _with_ladders(facts), tuple(ladders))
    for key, kind in KINDS:
        if key in facts:
            return kind(name, folder, facts)
    raise InputError(
        f"{file} holds no results that a page can be made of: expected those of parity.compare, "
        "reproduce, explain, check, selftest or diff"
    )


def _with_ladders(report: Facts) -> Facts:
    """Reports from before the ladder say nothing of it: their pairs have none."""
    if "runs" in report:
        return {**report, "runs": [_with_ladders(each) for each in report["runs"]]}
    none: dict[str, Any] = {"ladder": [], "ladder_verdict": None, "origins": []}
    return {**report, "pairs": [{**none, **pair} for pair in report["pairs"]]}


def _recordings(folder: Path) -> list[Facts]:
    return [_json(file) for file in sorted(folder.glob("*/recording.json"))]


def _json(file: Path) -> Facts:
    try:
        facts = json.loads(file.read_text())
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}. Give the folder that a command of parity has "
            "written (--out), or a file of its --json."
        ) from None
    except ValueError as error:
        raise InputError(f"cannot read {file}: it is not JSON ({error}): make it again") from None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise InputError(f"{file} is not of schema {SCHEMA}: make it again")
    return facts
