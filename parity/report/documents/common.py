"""Parts that the documents of several kinds of result have in common."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from parity.experiment import PROFILES, Experiment
from parity.report import charts
from parity.report.blocks import (
    Cell,
    Command,
    Content,
    Figure,
    Figures,
    Section,
    Table,
    Tables,
    Text,
)
from parity.report.figures import MEASURES
from parity.report.table import number

Facts = Mapping[str, Any]
SPLITS = {
    "test": "test",
    "validation": "validation",
    "train": "training",
    "ood": "out of distribution",
}
CONFUSIONS = ("test", "ood")


def name_of(pair: Facts) -> str:
    return f"{pair['left']} / {pair['right']}"


def training(
    figures: Sequence[Figure], sides: tuple[str, str] = ("Keras", "PyTorch")
) -> list[Section]:
    """The section of what `trained` draws of every pair; `sides` names left and right."""
    legend = [
        (f"{part}-{side}", f"{name}, {part}")
        for side, name in zip(("keras", "torch"), sides, strict=True)
        for part in ("training", "validation")
    ]
    return [Section("Training, step by step", [Figures(figures, legend)])] if figures else []


def trained(
    left: Facts, right: Facts, precision: str, ladder: Facts | None = None
) -> Iterator[Figure]:
    """How far apart the losses of two arms are by step; their loss and accuracy by epoch."""
    steps = charts.steps(left, right, precision, ladder)
    if steps:
        yield steps
    if left["history"]["loss"] and right["history"]["loss"]:
        for measure in MEASURES:
            yield charts.curves(left, right, measure)


def confusions(arms: Iterable[tuple[str, Facts]], classes: Sequence[str]) -> Iterator[Tables]:
    """Per split the confusion matrix of every arm, by its name."""
    arms = list(arms)
    for split in CONFUSIONS:
        tables = [
            _confusion(f"{name}, {SPLITS[split]}", arm[split], classes)
            for name, arm in arms
            if arm.get(split)
        ]
        if tables:
            yield Tables(tables)


def environment(shared: Facts, own: Mapping[str, Facts]) -> Section:
    """What all had in common, then what each had besides."""
    shared = dict(shared)
    variables = shared.pop("variables", {})
    tables = [_facts("Common to all", shared)] if shared else []
    names = list(dict.fromkeys(key for facts in own.values() for key in facts))
    rows = [[key, *(_shown(facts.get(key)) for facts in own.values())] for key in names]
    if rows:
        tables.append(Table("Each by itself", ("", *own), rows, left=1 + len(own)))
    if variables:
        tables.append(_facts("Environment variables of the workers", variables))
    return Section("Environment", [Tables(tables)])


def split_environments(environments: Mapping[str, Facts]) -> Section:
    """As `environment`, from whole environments."""
    first = next(iter(environments.values()), {})
    shared = {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in environments.values())
    }
    own = {
        name: {key: value for key, value in facts.items() if key not in shared}
        for name, facts in environments.items()
    }
    return environment(shared, own)


def data(facts: Facts) -> Section:
    """Where the images came from, and how many there are of each class in each split."""
    blocks: list[Text | Table] = [
        Text([f"{facts['source']}, digest {facts['digest'] or 'unknown'}"])
    ]
    if facts["splits"]:
        classes = list(next(iter(facts["splits"].values())))
        rows = [
            [SPLITS.get(split, split), *(f"{counts[c]:,}" for c in classes),
             f"{sum(counts.values()):,}"]
            for split, counts in facts["splits"].items()
        ]  # fmt: skip
        blocks.append(Table("Images", ("split", *classes, "all"), rows))
    other = facts.get("ood")
    if other:
        blocks.append(Text([f"Out of distribution: {other['source']}, digest {other['digest']}"]))
    left_out = len(facts.get("duplicates", ())) + len((other or {}).get("duplicates", ()))
    blocks.append(Text([f"{left_out} {'duplicate' if left_out == 1 else 'duplicates'} left out."]))
    return Section("Data", blocks)


def rerun(command: str) -> Section:
    return Section("Run it again", [Command(command)])


def flags(experiment: Facts, without: Iterable[str] = ()) -> list[str]:
    """The flags that ask for an experiment, with the profile that needs the fewest."""
    known = {item.name: item for item in fields(Experiment) if item.metadata.get("flag", True)}
    variant = experiment["variant"]
    asked = {
        name: experiment[name]
        for name in known
        if name in experiment and name not in ("variant", "padding", *without)
    }

    def needed(profile: str) -> list[str]:
        given = Experiment.of(variant, profile, padding=1).to_dict()
        return [
            word
            for name, value in asked.items()
            if value != given[name] and value is not None
            for word in ("--" + name.replace("_", "-"), _flag(value))
        ]

    profile = min(PROFILES, key=lambda name: len(needed(name)))
    chosen = ["--profile", profile] if profile != next(iter(PROFILES)) else []
    return ["--variant", variant, *chosen, *needed(profile)]


def command(module: str, words: Iterable[str]) -> str:
    return shlex.join(["python", "-m", module, *words])


def _flag(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _confusion(caption: str, split: Facts, classes: Sequence[str]) -> Table:
    rows: list[list[Content]] = [
        [
            f"is {name}",
            *(
                Cell(f"{count:,}", "right" if at == of else "wrong" if count else "")
                for of, count in enumerate(counts)
            ),
        ]
        for at, (name, counts) in enumerate(zip(classes, split["confusion"], strict=True))
    ]
    area = split["roc_auc"]
    note = f"accuracy {number(split['accuracy'])}" + (f", AUC {number(area)}" if area else "")
    return Table(caption, ("", *(f"answered {name}" for name in classes)), rows, note=note)


def _facts(caption: str, facts: Facts) -> Table:
    rows = [[key, _shown(value)] for key, value in facts.items()]
    return Table(caption, ("", "value"), rows, left=2)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
