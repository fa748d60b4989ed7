"""The ladder's report as text."""

from __future__ import annotations

import dataclasses
import io

import ladder_twins as twins
import numpy as np
import pytest
from ladder_twins import Twin
from rich.console import Console

from parity.ladder import LadderReport, run
from parity.ladder.mismatches import mismatch
from parity.ladder.results import LevelResult, Origin
from parity.ladder.table import render, sentence


def rendered(report, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    render(report, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def left():
    return twins.probe(Twin()), twins.recording(Twin())


@pytest.fixture(scope="module")
def faithful(left):
    twin = Twin(backwards=True)
    return run(left, (twins.probe(twin, "torch", left[0]), twins.recording(twin, "torch")))


@pytest.fixture(scope="module")
def broken(left):
    """Epsilon elsewhere, and one layer wrong."""

    def wrong(layer, stage, value):
        return value * 1.01 if (layer, stage) == ("block3.conv", "output") else value

    position = "beside the corrected root"
    twin = Twin(backwards=True, change=wrong, adam={"epsilon_position": position})
    return run(left, (twins.probe(twin, "torch", left[0]), twins.recording(twin, "torch")))


@pytest.mark.parametrize("width", [80, 100, 140])
def test_fits_with_nothing_cut(faithful, broken, width):
    for report in (faithful, broken):
        text = rendered(report, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text


def test_agreement_is_one_sentence_and_one_table(faithful):
    text = rendered(faithful)
    assert text.startswith("PASS: keras-p1 and torch-p1 agree at structure")
    assert "origin" not in text
    assert "remedy" not in text
    for level in ("structure", "transfer", "forward", "trajectory", "outcome"):
        assert level in text
    assert len(text.splitlines()) < 30


def test_origins_come_first_then_the_levels(broken):
    text = rendered(broken)
    assert text.startswith("FAIL: keras-p1 and torch-p1 part at structure.")
    assert text.index("block3.conv: output") < text.index("carried") < text.index("headroom")
    assert "while its input agrees to" in text


def test_remedies_are_said_once(broken):
    text = " ".join(rendered(broken).split())
    assert text.count("(divergence 8: Adam)") == 1


def test_what_is_undecided_says_what_would_decide(left):
    text = " ".join(rendered(run(left[0], twins.recording(Twin()))).split())
    assert text.startswith("ABSTAIN: nothing could be decided of keras-p1 and keras-p1")
    assert "record it without --no-probe" in text


def test_an_unusable_side_is_one_sentence():
    text = rendered(run("no/such/folder", "other"))
    assert text.startswith("ERROR: no/such/folder and other cannot be compared")
    assert "headroom" not in text


def test_origins_of_one_cause_stand_together():
    def origin(number):
        text = f"output 0.{number} apart"
        return Origin(
            "origin", f"block{number}.conv", "forward", "float64", text, causes=("padding 1",)
        )

    report = LadderReport(
        "a", "b", (LevelResult("forward", "fail"),), tuple(map(origin, range(1, 4)))
    )
    text = " ".join(rendered(report).split())
    assert "block1.conv: output 0.1 apart; padding 1; likewise block2.conv, block3.conv" in text


def test_many_places_are_counted_not_listed():
    origins = tuple(
        Origin("origin", f"layer{number}", "forward", None, "differs") for number in range(30)
    )
    differing = tuple(mismatch("data", f"key{number}", 1, 2) for number in range(30))
    report = LadderReport("a", "b", (LevelResult("forward", "fail"),), origins, differing)
    text = rendered(report)
    assert "and 20 more" in text
    assert "and 24 more" in text
    assert len(text.splitlines()) < 40


def test_names_from_files_cannot_write_to_the_terminal():
    result = LevelResult("forward", "fail", where="\x1b[2J[red]x", detail="\x1b[2J[red]y")
    origin = Origin("origin", "\x1b[2Jz", "forward", None, "\x1b[2J")
    differing = mismatch("data", "digest", "\x1b[2J", "[bold]")
    text = rendered(LadderReport("\x1b[2J", "b", (result,), (origin,), (differing,)))
    assert "\x1b" not in text
    assert "[red]x" in text


def test_goes_to_standard_output(faithful, capsys):
    render(faithful)
    assert "PASS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        (
            ["pass", "abstain"],
            "ABSTAIN: a and b agree at forward float64. A pass needs transfer float64, loss "
            "float64, gradient float64, update float64 and 1 more as well.",
        ),
        (["fail", "pass"], "FAIL: a and b part at forward float64."),
        (["abstain", "abstain"], "ABSTAIN: nothing could be decided of a and b."),
    ],
)
def test_sentences(verdicts, text):
    levels = (LevelResult("forward", verdicts[0], "float64"), LevelResult("loss", verdicts[1]))
    assert sentence(LadderReport("a", "b", levels)) == text


def test_a_report_of_not_finite_numbers_renders(left):
    probe = dataclasses.replace(left[0], tensors=dict(left[0].tensors))
    probe.tensors["float64/free/loss/loss"] = np.array(np.inf)
    assert "not finite" in " ".join(rendered(run(left[0], probe)).split())
