"""The report over several seeds as text, in the manner of `parity.report.table`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.criterion import decides
from parity.report.table import (
    COLOURS,
    difference,
    header,
    ladders,
    plain_table,
    proof,
    reasons,
    show,
    signed,
    split_table,
)


def render(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the report; to standard output, unless a console is given."""
    show(_parts(report), console)


def sentence(report: Mapping[str, Any]) -> str:
    """The verdict in plain words."""
    port = [pair for pair in report["equivalence"] if decides(pair)]
    metrics = [(pair, name, each) for pair in port for name, each in pair["metrics"].items()]
    seeds, tolerance = len(report["seeds"]), report["tolerance"]
    if report["verdict"] == "pass":
        widest = max(abs(bound) for _, _, each in metrics for bound in each["interval"])
        reach = f"no seed's final metrics are further apart than {difference(widest)}"
        if any(pair.get("by") == "ladder" for pair in port):
            return (
                f"PASS by the ladder: {seeds} seeds alone do not decide it, though {reach}."
                f"{_proof(report)}"
            )
        return (
            f"PASS: over {seeds} seeds PyTorch is equivalent to Keras: fewer than one seed in ten "
            f"ends {tolerance:g} or more apart in a final metric, at 5 % ({reach}).{_proof(report)}"
        )
    if report["verdict"] == "fail":
        failures = "; ".join(filter(None, map(_failure, port)))
        return f"FAIL: {failures}. Over {seeds} seeds at most {tolerance:g} is allowed, at 5 %."
    if report["verdict"] == "inconclusive":
        undecided = [
            each for each in metrics if each[0]["verdict"] == each[2]["verdict"] == "inconclusive"
        ]
        by_pair: dict[str, list[str]] = {}
        for pair, name, _ in undecided:
            both = f"{pair['left']} and {pair['right']}"
            by_pair.setdefault(both, []).append(name.replace("_", " "))
        names = "; ".join(f"{', '.join(of)} of {pair}" for pair, of in by_pair.items())
        return (
            f"INCONCLUSIVE: {seeds} seeds do not decide {names}. "
            f"{_needed(undecided)}{_proof(report)}"
        )
    if report["verdict"] == "abstain":
        return "ABSTAIN: this machine cannot train every arm, see above."
    return "ERROR: no verdict: not every seed has a finished pair of arms, see above."


def _parts(report: Mapping[str, Any]) -> Iterator[Text | Table]:
    first, blank = report["runs"][0], Text()
    yield from (header(report), blank)
    if report["data"]["splits"]:
        yield from (split_table(report["data"]), blank)
    for run in report["runs"]:
        yield from reasons(run)
    if any(pair["metrics"] for pair in report["equivalence"]):
        yield from (_metrics(report["equivalence"]), _legend(report), blank)
    yield from (_single(report), blank)
    yield from ladders(first["pairs"])
    yield Text(sentence(report), style=COLOURS[report["verdict"]])


def _metrics(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """A row per pair and metric."""
    table = plain_table(
        *("pair", "metric", "mean\ndifference", "range", "p", "noise\nleft"),
        *("noise\nright", "verdict"),
    )
    table.columns[1].justify = "left"
    for pair in pairs:
        names = iter((pair["left"], pair["right"]))  # one below the other
        quiet = None if decides(pair) else "dim"
        for metric, each in pair["metrics"].items():
            low, high = each["interval"]
            cells = [signed(each["mean"]), f"{signed(low)} to {signed(high)}"]
            cells += ["-" if each["p_value"] is None else f"{each['p_value']:.3f}"]
            cells += [difference(each["noise"][side]) for side in ("left", "right")]
            verdict = Text(each["verdict"], style=COLOURS[each["verdict"]])
            name = next(names, "")
            table.add_row(name, metric.replace("_", " "), *cells, verdict, style=quiet)
    return table


def _legend(report: Mapping[str, Any]) -> Text:
    text = (
        "difference: right less left, after the last epoch; noise: a side's own standard deviation "
        f"over seeds;\npass: fewer than one seed in ten ends {report['tolerance']:g} or more "
        'apart, at 5 %; "as published" never decides'
    )
    return Text(text, style="dim")


def _single(report: Mapping[str, Any]) -> Text:
    """The criterion of the study, which looks at one seed at a time."""
    lines = []
    for pair in report["equivalence"]:
        sides = (pair["left"], pair["right"])
        verdicts = [
            each["criterion"] and all(judged["within"] for judged in each["criterion"].values())
            for run in report["runs"]
            for each in run["pairs"]
            if (each["left"], each["right"]) == sides
        ]
        lines.append(
            f"{' and '.join(sides)}: {sum(map(bool, verdicts))} of {len(verdicts)} seeds pass the "
            "study's one-seed criterion"
        )
    return Text("\n".join(lines))


def _failure(pair: Mapping[str, Any]) -> str:
    outside = [
        f"{name.replace('_', ' ')} (mean difference {signed(each['mean'])})"
        for name, each in pair["metrics"].items()
        if each["verdict"] == "fail"
    ]
    if outside:
        return f"{pair['right']} differs from {pair['left']} in {', '.join(outside)}"
    if pair["ladder_verdict"] == "fail":
        return f"the ladder of {pair['left']} and {pair['right']} fails"
    return ""


def _needed(undecided: Sequence[tuple[Any, str, Mapping[str, Any]]]) -> str:
    """How many seeds could decide all of it."""
    needed = max(each["seeds_needed"] or 0 for _, _, each in undecided)
    return (
        f"At the earliest {needed} do, if no further seed is odd: give more to --seeds; those that "
        "are finished are not run again."
    )


def _proof(report: Mapping[str, Any]) -> str:
    said = proof([pair for pair in report["runs"][0]["pairs"] if decides(pair)])
    return f"{said[:-1]}, for seed {report['seeds'][0]}." if said else ""
