"""The report as text that a person can read at a glance, on a terminal or in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.criterion import decides
from parity.experiment import VARIANTS
from parity.recording import METRICS
from shared_data.errors import printable

ROLES = {
    "port": "port",
    "backend": "backend",
    "device": "device",
    "as_published": "as published",
}
COLOURS = {
    "pass": "bold green",
    "fail": "bold red",
    "abstain": "yellow",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}
PROVEN = ("forward", "loss", "gradient", "update", "trajectory")  # in float64: a proof
REASONS = 4  # of a pair, written out
CLASSES_WIDTH, DIGITS = 48, 6  # columns for all class names side by side, and least for one
FILE_WIDTH = 100  # columns where the output is no terminal; tables fit into 80 by smaller gaps


def render(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the report; to standard output, unless a console is given."""
    show(_parts(report), console)


def show(parts: Iterable[Text | Table], console: Console | None = None) -> None:
    """Print the parts; what is no terminal gets 100 columns."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    tight = console.width < FILE_WIDTH
    for part in parts:
        if isinstance(part, Table):
            part.padding = (0, 0) if tight else (0, 1, 0, 0)
        console.print(part)


def sentence(report: Mapping[str, Any]) -> str:
    """The verdict in plain words."""
    tolerance = report["tolerance"]
    port = [pair for pair in report["pairs"] if decides(pair)]
    if report["verdict"] == "pass":
        largest = max(pair["criterion"][m]["difference"] for pair in port for m in METRICS)
        return (
            f"PASS: {_agreeing(port)}: no final metric differs by "
            f"more than {tolerance:g} (largest difference {difference(largest)}).{proof(port)}"
        )
    if report["verdict"] == "fail":
        failures = "; ".join(_failure(pair) for pair in port if pair["verdict"] == "fail")
        return f"FAIL: {failures}. The tolerance of final metrics is {tolerance:g}."
    if report["verdict"] == "abstain":
        lacking = [p for p in port if p["verdict"] == "abstain"]
        names = "; ".join(f"{p['left']} and {p['right']}" for p in lacking)
        return f"ABSTAIN: this machine cannot train both sides of {names}, see above."
    undecided = [f"{p['left']} and {p['right']}" for p in port if p["verdict"] == "error"]
    if undecided:
        return f"ERROR: no verdict: {'; '.join(undecided)} could not be compared, see above."
    return "ERROR: no verdict: there is no pair of arms to compare."


def _agreeing(pairs: Sequence[Mapping[str, Any]]) -> str:
    roles = {pair["role"] for pair in pairs}
    if roles == {"port"}:
        return "with the same padding PyTorch replicates Keras"
    kinds = {"port": "frameworks", "backend": "backends", "device": "devices"}
    return f"with the same padding all {' and '.join(kinds[r] for r in kinds if r in roles)} agree"


def number(value: float | None) -> str:
    """A loss or a fraction to 4 decimals; large ones to 4 digits; `-` where nothing was measured.

    >>> number(0.99224), number(284.194304), number(None)
    ('0.9922', '284.2', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def difference(value: float | None) -> str:
    """As `number`, but what 4 decimals would hide keeps its order of magnitude.

    >>> difference(0.0198), difference(5.2e-14), difference(0.0)
    ('0.0198', '5e-14', '0')
    """
    if value is None or abs(value) >= 0.00005:
        return number(value)
    return f"{value:.0e}" if value else "0"


def signed(value: float | None) -> str:
    """As `difference`, with its sign.

    >>> signed(0.0198), signed(-5.2e-14), signed(0.0)
    ('+0.0198', '-5e-14', '0')
    """
    if not value:
        return difference(value)
    return ("-" if value < 0 else "+") + difference(abs(value))


def _parts(report: Mapping[str, Any]) -> Iterator[Text | Table]:
    blank = Text()
    yield from (header(report), blank)
    if report["data"]["splits"]:
        yield from (split_table(report["data"]), blank)
    yield from (_arms(report), blank)
    yield from reasons(report)
    if report["pairs"]:
        yield from (_pairs(report), _legend(report["tolerance"]), blank)
    yield from ladders(report["pairs"])
    yield Text(sentence(report), style=COLOURS[report["verdict"]])


def header(report: Mapping[str, Any]) -> Text:
    experiment, data = report["experiment"], report["data"]
    left_out = len(data.get("duplicates", ()))
    lines = [
        f": {VARIANTS[experiment['variant']].summary}",
        settings(experiment, report.get("seeds", ())),
        f"data {printable(str(data['source']))}, digest {(data['digest'] or 'unknown')[:12]}, "
        f"{left_out} {'duplicate' if left_out == 1 else 'duplicates'} left out",
    ]
    return Text(experiment["variant"], style="bold").append("\n".join(lines), style="not bold")


def settings(experiment: Mapping[str, Any], seeds: Sequence[int] = ()) -> str:
    """What was trained, in a line; from several `seeds` if they are given."""
    side, seeds = experiment["image_size"], seeds or [experiment["seed"]]
    return (
        f"images {side}x{side}, filters x {experiment['width']:g}, {experiment['epochs']} epochs "
        f"of batches of {experiment['batch_size']}, learning rate {experiment['learning_rate']:g}, "
        f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}, {experiment['precision']}, "
        f"{experiment['device']}"
    )


def split_table(data: Mapping[str, Any]) -> Table:
    """The study's Table 1: images of each class in each split.

    Classes are columns, as in the study, unless they are so many that they have to be rows.
    """
    splits = data["splits"]
    classes = list(next(iter(splits.values())))
    lines = [["split", *classes, "all"]]
    for split, counts in splits.items():
        numbers = [*(counts[name] for name in classes), sum(counts.values())]
        lines.append([split, *map(str, numbers)])
    if sum(max(len(name), DIGITS) for name in classes) > CLASSES_WIDTH:
        lines = [list(column) for column in zip(*lines, strict=True)]
        lines[0][0] = "class"
    table = plain_table(*lines[0])
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # the name of a class is no markup
    return table


def _arms(report: Mapping[str, Any]) -> Table:
    with_ood = any(arm["ood"] for arm in report["arms"])
    ood_heading = ["ood\nacc"] if with_ood else []
    headings = ("loss", "acc", "val\nloss", "val\nacc", "test\nacc", "test\nAUC", *ood_heading)
    table = plain_table("arm", "weights", *headings, "s per\nstep", "peak\nGB")
    for arm in report["arms"]:
        test, ood = arm["test"] or {}, arm["ood"] or {}
        measured = [arm["history"][metric][-1:] for metric in METRICS]
        cells = [number(last[0] if last else None) for last in measured]
        cells += [number(test.get("accuracy")), number(test.get("roc_auc"))]
        cells += [number(ood.get("accuracy"))] if with_ood else []
        cells += [_seconds(arm["seconds_per_step"]), _gigabytes(arm["peak_memory_bytes"])]
        parameters = "-" if arm["parameters"] is None else f"{arm['parameters']:,}"
        table.add_row(arm["id"], parameters, *cells)
    return table


def reasons(report: Mapping[str, Any]) -> Iterator[Text]:
    """Why an arm or a pair has no result; a pair that merely repeats its arm's reason is silent."""
    failed = {arm["id"]: arm["error"] for arm in report["arms"] if arm["error"]}
    found = dict(failed)
    for pair in report["pairs"]:
        if pair["error"] and not {pair["left"], pair["right"]} & failed.keys():
            found[f"{pair['left']} and {pair['right']}"] = pair["error"]
    for name, reason in found.items():
        lines = [printable(line) for line in reason.splitlines()]
        yield Text(f"{name}: ", style="bold magenta").append("\n  ".join(lines), style="default")
    if found:
        yield Text()


def _pairs(report: Mapping[str, Any]) -> Table:
    table = plain_table(
        "left", "right", "compared as", "loss", "acc", "val loss", "val acc", "verdict"
    )
    table.columns[2].justify = "left"
    for pair in report["pairs"]:
        cells = [_judged(pair["criterion"].get(metric)) for metric in METRICS]
        verdict = Text(pair["verdict"], style=COLOURS[pair["verdict"]])
        left, right = pair["left"], pair["right"]
        quiet = None if decides(pair) else "dim"
        table.add_row(left, right, ROLES[pair["role"]], *cells, verdict, style=quiet)
    return table


def _legend(tolerance: float) -> Text:
    text = (
        f'differences after the last epoch; ! = above {tolerance:g}; "as published" never decides'
    )
    return Text(text, style="dim")


def _judged(judged: Mapping[str, Any] | None) -> Text:
    if judged is None:
        return Text("-  ")
    if judged["within"]:
        return Text(f"{difference(judged['difference'])}  ")
    return Text(f"{difference(judged['difference'])} !", style="red")


def ladders(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Text | Table]:
    """What the ladders of the pairs that have one say; nothing where none was run."""
    if any(pair["ladder"] for pair in pairs):
        yield from (_ladder(pairs), _ladder_legend(), Text())
        yield from (*_departures(pairs), Text())


def _ladder(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """A row per level and precision, a column per pair: the verdict and the largest difference."""
    climbed = [pair for pair in pairs if pair["ladder"]]
    table = plain_table("ladder", "in", *(f"{pair['left']}\n{pair['right']}" for pair in climbed))
    table.columns[1].justify = "left"
    columns = [_numbered(pair["ladder"]) for pair in climbed]
    for row in dict.fromkeys(row for column in columns for row in column):
        level, precision, _ = row
        table.add_row(level, precision or "", *(_level(column.get(row)) for column in columns))
    return table


def _numbered(ladder: Sequence[Mapping[str, Any]]) -> dict[tuple[str, Any, int], Any]:
    """Results by level, precision and how many of that came before: a level can have several."""
    found: dict[tuple[str, Any, int], Any] = {}
    for result in ladder:
        level, precision = result["level"], result["precision"]
        earlier = sum(row[:2] == (level, precision) for row in found)
        found[level, precision, earlier] = result
    return found


def _level(result: Mapping[str, Any] | None) -> Text:
    if result is None:
        return Text("-")
    text = Text(result["verdict"], style=COLOURS[result["verdict"]])
    measured = result["measured"]
    if measured is None:
        return text
    counted = result["level"] == "structure" or not measured
    return text.append(f"  {measured:g}" if counted else f"  {measured:.0e}", "not bold")


def _ladder_legend() -> Text:
    text = (
        "largest difference of a level (of structure: how many things); `python -m parity.diff LEFT"
        " RIGHT` explains a pair"
    )
    return Text(text, style="dim")


def _departures(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Where the pairs that fail depart from each other."""
    for pair in pairs:
        failed = next((each for each in pair["ladder"] if each["verdict"] == "fail"), None)
        if failed is None:
            continue
        at = f"{failed['level']} {failed['precision'] or ''}".strip()
        yield Text(f"{pair['left']} and {pair['right']} part at {at}:", style="yellow")
        reasons = [each["sentence"] for each in pair["origins"] if each["status"] == "origin"]
        if failed["level"] == "structure" or not reasons:
            reasons = failed["detail"].split("; ")
        for reason in reasons[:REASONS]:
            yield Text(f"  {printable(reason)}")
        if len(reasons) > REASONS:
            yield Text(f"  and {len(reasons) - REASONS} more (report.json)", style="dim")


def proof(pairs: Sequence[Mapping[str, Any]]) -> str:
    """What the ladders of passing pairs prove, and what they leave open."""
    results = [result for pair in pairs for result in pair["ladder"]]
    if not results:
        return ""
    names: dict[str, None] = {}
    for result in results:
        if result["verdict"] != "pass":  # a failed one is the outcome of one seed among several
            names[f"{result['level']} {result['precision'] or ''}".strip()] = None
    passed = {r["level"] for r in results if (r["verdict"], r["precision"]) == ("pass", "float64")}
    if any(level not in passed or f"{level} float64" in names for level in PROVEN):
        return f" The ladder leaves open: {', '.join(names)}."
    more = f" (left open: {', '.join(names)})" if names else ""
    return (
        " The ladder proves the port in float64: the same activations, gradients, updates and "
        f"training to rounding{more}."
    )


def _failure(pair: Mapping[str, Any]) -> str:
    outside = [
        f"{metric.replace('_', ' ')} ({difference(judged['difference'])})"
        for metric, judged in pair["criterion"].items()
        if not judged["within"]
    ]
    failed = next((each for each in pair["ladder"] if each["verdict"] == "fail"), None)
    if not outside and failed:
        at = f"{failed['level']} {failed['precision'] or ''}".strip()
        return f"{pair['right']} and {pair['left']} part at {at} ({failed['where']})"
    return f"{pair['right']} does not replicate {pair['left']} in {', '.join(outside)}"


def plain_table(first: str, *others: str) -> Table:
    """A table whose first column is text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(first), no_wrap=True)
    for heading in others:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _gigabytes(value: int | None) -> str:
    return f"{value / 1e9:.2f}" if value else "-"
