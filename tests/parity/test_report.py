"""From recordings to report.json, table, curves and the live display."""

import io
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from reports import ARMS, four, recording, report_of, strictly
from rich.console import Console

from parity import published
from parity.experiment import Experiment
from parity.ladder.results import LadderReport, LevelResult
from parity.recording import METRICS
from parity.report import to_json
from parity.report.figures import curves
from parity.report.live import Progress
from parity.report.table import render, sentence


def pair_of(report, left, right):
    (pair,) = (p for p in report["pairs"] if (p["left"], p["right"]) == (left, right))
    return pair


class TestBuild:
    def test_has_what_the_schema_promises(self):
        report = strictly(to_json(report_of(*four(ood=True))))
        assert report["schema"] == 1
        assert report["verdict"] == "pass"
        assert report["experiment"]["padding"] == "both"
        assert report["data"]["digest"] == "ab12"
        assert report["data"]["splits"]["train"] == {"fake": 561, "real": 470}
        assert [arm["id"] for arm in report["arms"]] == list(ARMS)
        arm = report["arms"][0]
        assert (arm["framework"], arm["backend"], arm["padding"]) == ("keras", "tensorflow", 0)
        assert arm["parameters"] == 3_208_770
        assert arm["history"] == published.history("baseline", "keras")
        assert arm["steps"]["loss"] == [0.7, 0.6]
        for split in ("train", "validation", "test", "ood"):
            assert set(arm[split]) == {"loss", "accuracy", "confusion", "roc_auc"}
        assert arm["seconds_per_step"] == 2.25
        assert arm["peak_memory_bytes"] == 2_500_000_000
        assert arm["digest"] == four(ood=True)[0].digest
        assert arm["error"] is None
        pair = pair_of(report, "keras-p0", "torch-p0")
        assert (pair["role"], pair["verdict"]) == ("port", "pass")
        assert set(pair["criterion"]) == set(METRICS)
        assert pair["criterion"]["val_loss"] == {
            "left": 0.020474,
            "right": 0.003434,
            "difference": 0.01704,
            "within": True,
        }

    def test_a_ladder_that_fails_fails_the_pair_and_one_that_passes_saves_none(self):
        failed = LevelResult("forward", "fail", "float64", 0.31, 1e-15, where="block3.conv[0]")
        passed = LevelResult("forward", "pass", "float64", 0.0, 1e-15)
        for variant, level, verdict in (
            ("baseline", passed, "pass"),
            ("baseline", failed, "fail"),
            ("lr_100x", passed, "fail"),
        ):
            ladders = {
                (f"keras-p{padding}", f"torch-p{padding}"): LadderReport("", "", (level,))
                for padding in (0, 1)
            }
            report = strictly(to_json(report_of(*four(variant), ladders=ladders)))
            assert report["verdict"] == verdict
            assert [pair["verdict"] for pair in report["pairs"][:2]] == [verdict] * 2
            assert report["pairs"][0]["ladder"] == [level.to_dict()]
            assert report["pairs"][2]["ladder"] == []

    def test_a_ladder_without_a_side_is_an_error(self):
        ladders = {("keras-p0", "torch-p0"): LadderReport.unusable("keras-p0", "torch-p0", "gone")}
        report = report_of(*four(), ladders=ladders)
        pair = pair_of(report, "keras-p0", "torch-p0")
        assert (report["verdict"], pair["verdict"], pair["error"]) == ("error", "error", "gone")
        assert len(pair["ladder"]) == 8

    def test_no_ood_set_is_null(self):
        assert report_of(recording())["arms"][0]["ood"] is None

    def test_arms_stand_in_the_order_given(self):
        report = report_of(recording("torch-p1"), recording("keras-p0"))
        assert [arm["id"] for arm in report["arms"]] == ["torch-p1", "keras-p0"]

    def test_environment_is_what_all_share_and_each_has_its_own_rest(self):
        report = report_of(recording("keras-p0"), recording("torch-p0"))
        assert report["environment"] == {"numpy": "2.4"}
        assert [arm["environment"] for arm in report["arms"]] == [
            {"keras": "1.0"},
            {"torch": "1.0"},
        ]

    def test_a_port_that_differs_fails_and_the_tolerance_counts(self):
        recordings = four("lr_10x")
        assert report_of(*recordings)["verdict"] == "fail"
        assert report_of(*recordings, tolerance=0.13)["verdict"] == "pass"

    def test_as_published_does_not_decide(self):
        arms = [recording(arm, "lr_10x", like="keras") for arm in ARMS[:3]]
        arms.append(recording("torch-p1", "lr_10x", like="torch"))
        arms[1].history = arms[3].history
        report = report_of(*arms)
        assert pair_of(report, "keras-p0", "torch-p1")["verdict"] == "fail"
        assert report["verdict"] == "pass"

    def test_an_arm_that_died_is_listed_and_its_pairs_are_errors(self):
        alive = [each for each in four() if each.arm != "torch-p0"]
        report = strictly(to_json(report_of(*alive, errors={"torch-p0": "killed by SIGKILL"})))
        lost = report["arms"][-1]
        assert lost.keys() == report["arms"][0].keys()
        assert (lost["id"], lost["framework"], lost["padding"]) == ("torch-p0", "torch", 0)
        assert lost["error"] == "killed by SIGKILL"
        pair = pair_of(report, "keras-p0", "torch-p0")
        assert (pair["verdict"], pair["criterion"]) == ("error", {})
        assert pair_of(report, "keras-p1", "torch-p1")["verdict"] == "pass"
        assert report["verdict"] == "error"

    def test_an_arm_that_diverged_is_an_error_and_its_numbers_are_null(self):
        history = {**published.history("baseline", "torch"), "loss": [0.7, math.inf, math.nan]}
        error = "the loss became nan in epoch 3, step 4"
        diverged = recording("torch-p0", history=history, error=error)
        report = strictly(to_json(report_of(recording("keras-p0"), diverged)))
        assert report["arms"][1]["history"]["loss"] == [0.7, None, None]
        assert report["arms"][1]["error"] == error
        assert report["verdict"] == "error"
        assert error in pair_of(report, "keras-p0", "torch-p0")["error"]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"experiment": Experiment.of("baseline", "paper", seed=9)}, "seed 8 against 9"),
            ({"data": {"source": "faces", "digest": "other", "splits": {}}}, "digest of the data"),
            ({"history": {metric: [0.5] for metric in METRICS}}, "torch-p0 recorded 1 of 10"),
        ],
    )
    def test_what_must_not_be_compared_is_an_error(self, changes, reason):
        report = report_of(recording("keras-p0"), recording("torch-p0", **changes))
        assert report["verdict"] == "error"
        assert reason in report["pairs"][0]["error"]

    def test_arms_equally_cut_short_do_not_pass(self):
        short = {metric: [0.5] for metric in METRICS}
        report = report_of(recording(history=short), recording("torch-p0", history=short))
        assert report["verdict"] == "error"

    def test_no_recording_at_all_is_an_error(self):
        report = strictly(to_json(report_of(errors={arm: "died" for arm in ARMS})))
        assert report["verdict"] == "error"
        assert report["data"] == {"source": "synthetic", "digest": None, "splits": {}}

    def test_two_recordings_of_an_arm_raise(self):
        with pytest.raises(ValueError, match="more than one recording"):
            report_of(recording(), recording())

    def test_json_has_no_word_for_nan(self):
        with pytest.raises(ValueError, match="JSON"):
            to_json({"loss": math.nan})

    def test_importing_loads_neither_rich_nor_matplotlib(self):
        code = (
            "import sys, parity.report;"
            "sys.exit(bool({'rich', 'matplotlib', 'sklearn'} & sys.modules.keys()))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rendered(report, width=100):
    text = io.StringIO()
    render(report, Console(file=text, width=width, highlight=False))
    return text.getvalue()


class TestTable:
    def test_plain_text_says_it_all(self):
        text = rendered(report_of(*four(ood=True)))
        assert "\x1b" not in text
        assert "baseline: the reference network" in text
        assert "data faces, digest ab12, 1 duplicate left out" in text
        assert ["train", "561", "470", "1031"] in [line.split() for line in text.splitlines()]
        assert "3,208,770" in text
        assert "0.0205" in text  # Keras' validation loss
        assert "as published" in text
        assert "PASS: with the same padding PyTorch replicates Keras" in text

    @pytest.mark.parametrize("width", [80, 100])
    @pytest.mark.parametrize("variant", ["baseline", "lr_100x"])
    def test_fits_with_nothing_cut(self, width, variant):
        text = rendered(report_of(*four(variant, ood=True)), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text

    def test_goes_to_standard_output(self, capsys):
        render(report_of(*four()))
        assert "PASS" in capsys.readouterr().out

    def test_no_ood_set_no_column(self):
        assert "ood" not in rendered(report_of(*four()))
        assert "ood" in rendered(report_of(*four(ood=True)))

    def test_what_is_outside_is_marked_and_named(self):
        text = rendered(report_of(*four("lr_10x")))
        assert "0.1254 !" in text
        assert "FAIL: torch-p0 does not replicate keras-p0 in val loss (0.1254)" in text

    def test_an_error_is_shown_once_with_markup_and_control_characters_harmless(self):
        reason = "died. Its last lines:\n  [bold]loss[/] \x1b[2J"
        alive = [each for each in four() if each.arm != "torch-p0"]
        text = rendered(report_of(*alive, errors={"torch-p0": reason}))
        assert text.count("[bold]loss[/]") == 1
        assert "\x1b" not in text
        assert "ERROR: no verdict: keras-p0 and torch-p0 could not be compared" in text

    def test_a_pair_that_must_not_be_compared_says_why(self):
        other = Experiment.of("baseline", "paper", seed=9)
        text = rendered(report_of(recording(), recording("torch-p0", experiment=other)))
        assert "seed 8 against 9" in text

    def test_ladders_stand_side_by_side_whatever_rows_they_have(self):
        where, detail = "block1.conv", "block1.conv: padding; dense1.kernel: shape"
        level = LevelResult("structure", "fail", None, 7, 0, where=where, detail=detail)
        ladders = {
            ("keras-p0", "torch-p0"): LadderReport("", "", (level,)),
            ("keras-p1", "torch-p1"): LadderReport.unusable("keras-p1", "torch-p1", "gone"),
        }
        text = rendered(report_of(*four(), ladders=ladders), 80)
        rows = [line.split() for line in text.splitlines()]
        assert ["structure", "fail", "7", "error"] in rows
        assert ["outcome", "-", "error"] in rows
        said = "keras-p0 and torch-p0 part at structure:\n  block1.conv: padding\n  dense1.kernel:"
        assert said in text

    def test_nothing_recorded_still_renders(self):
        assert "ERROR" in rendered(report_of(errors={arm: "died" for arm in ARMS}))

    def test_arms_without_a_twin_say_so(self):
        assert "no pair" in sentence(report_of(recording("keras-p0"), recording("torch-p1")))


class TestCurves:
    def drawn(self, folder, report):
        folder.mkdir()
        png, svg = curves(report, folder)
        assert (png.name, svg.name) == ("curves.png", "curves.svg")
        return np.asarray(Image.open(png).convert("RGB")), svg.read_bytes()

    def test_both_files_show_both_paddings(self, tmp_path):
        pixels, svg = self.drawn(tmp_path / "a", report_of(*four()))
        assert pixels.shape[1] == 1500
        ElementTree.fromstring(svg)
        for comment in (b"padding 0", b"padding 1", b"Keras, validation", b"PyTorch, training"):
            assert b"<!-- " + comment + b" -->" in svg

    def test_both_frameworks_are_visible_where_they_coincide(self, tmp_path):
        same = [recording(arm, like="keras") for arm in ("keras-p0", "torch-p0")]
        pixels, _ = self.drawn(tmp_path / "a", report_of(*same))
        plot = pixels[: pixels.shape[0] * 4 // 5]  # without the legend
        for colour in ("9ecae9", "fdc57f", "08457e", "a63c00"):
            painted = (plot == list(bytes.fromhex(colour))).all(axis=2).sum()
            assert painted > 300, colour

    def test_equal_reports_give_equal_files(self, tmp_path):
        first, first_svg = self.drawn(tmp_path / "a", report_of(*four()))
        second, second_svg = self.drawn(tmp_path / "b", report_of(*four()))
        assert first_svg == second_svg
        assert np.array_equal(first, second)

    @pytest.mark.parametrize(
        "values",
        [[0.6], [0.6] * 30, [284.0, None], [0.0], [None]],
        ids=["one epoch", "many epochs", "exploding", "zero", "not finite"],
    )
    def test_any_history_can_be_drawn(self, tmp_path, values):
        report = report_of(recording(), recording("torch-p0"))
        for arm in report["arms"]:
            arm["history"] = {metric: values for metric in METRICS}
        self.drawn(tmp_path / "a", report)

    def test_an_arm_that_died_leaves_the_others_drawn(self, tmp_path):
        _, svg = self.drawn(tmp_path / "a", report_of(recording(), errors={"torch-p0": "died"}))
        assert b"<!-- did not finish: torch-p0 -->" in svg

    def test_nothing_to_draw_draws_nothing(self, tmp_path):
        assert curves(report_of(errors={arm: "died" for arm in ARMS}), tmp_path) == []
        assert list(tmp_path.iterdir()) == []


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def train(progress, clock, arm="keras-p0", epochs=2, steps=3):
    """The events of a whole run, two seconds a step."""
    progress.event(arm, {"event": "start", "epochs": epochs, "steps": steps})
    for epoch in range(1, epochs + 1):
        for step in range(1, steps + 1):
            clock.now += 2
            progress.event(arm, {"event": "step", "epoch": epoch, "step": step, "loss": 0.5})
        metrics = dict.fromkeys(METRICS, 0.25)
        progress.event(arm, {"event": "epoch", "epoch": epoch, **metrics})
    progress.event(arm, {"event": "evaluate", "split": "test"})
    progress.event(arm, {"event": "done", "error": None})


class TestProgress:
    def console(self, terminal):
        return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)

    def test_plain_lines_where_there_is_no_terminal(self):
        console, clock = self.console(False), Clock()
        with Progress(["keras-p0", "torch-p0"], 2, console=console, clock=clock) as progress:
            for done in range(1, 4):
                progress.preparing(done, 3)
            train(progress, clock)
        assert console.file.getvalue().splitlines() == [
            "preparing 3 images",
            "keras-p0  start: 2 epochs of 3 steps",
            "keras-p0  epoch 1/2: loss 0.2500, accuracy 0.2500, val loss 0.2500, "
            "val accuracy 0.2500, 2.000 s/step, 0:06 left",
            "keras-p0  epoch 2/2: loss 0.2500, accuracy 0.2500, val loss 0.2500, "
            "val accuracy 0.2500, 2.000 s/step",
            "keras-p0  done (0:12)",
            "1 of 2 arms done, 1 waiting · about 0:12 left",
        ]

    def test_the_summary_counts_what_is_done_running_failed_and_left(self):
        console, clock = self.console(False), Clock()
        arms = ["keras-p0", "torch-p0", "keras-p1", "torch-p1", "more"]
        with Progress(arms, 2, console=console, clock=clock, jobs=2) as progress:
            progress.event("keras-p0", {"event": "done", "error": None})  # found finished
            progress.event("keras-p1", {"event": "start", "steps": 3})
            progress.event("keras-p1", {"event": "resume", "epoch": 1})
            train(progress, clock, "torch-p0")
            progress.event("torch-p1", {"event": "start", "steps": 3})
            progress.event("torch-p1", {"event": "failed", "error": "killed"})
            progress.event("keras-p1", {"event": "step", "epoch": 2, "step": 1, "loss": 0.5})
            clock.now += 4
            progress.event("keras-p1", {"event": "step", "epoch": 2, "step": 2, "loss": 0.5})
            progress.event("keras-p1", {"event": "done", "error": None})
            progress.event("keras-p0", {"event": "probe"})
            progress.event("keras-p0", {"event": "done", "error": None})  # says nothing new
            train(progress, clock, "more")
        said = [line for line in console.file.getvalue().splitlines() if " arms done" in line]
        assert said == [
            "1 of 5 arms done, 4 waiting",
            # 3 steps of the resumed arm and 2 x 6 of those that wait, 2 s each, two at a time.
            "2 of 5 arms done, 1 running, 2 waiting · about 0:15 left",
            "2 of 5 arms done, 1 failed, 1 running, 1 waiting · about 0:09 left",
            # 6 steps at the mean of 2 and 4 s; one arm cannot run two at a time.
            "3 of 5 arms done, 1 failed, 1 waiting · about 0:18 left",
            "4 of 5 arms done, 1 failed",
        ]

    def test_one_arm_has_no_summary(self):
        for terminal in (True, False):
            console, clock = self.console(terminal), Clock()
            with Progress(["keras-p0"], 2, console=console, clock=clock) as progress:
                train(progress, clock)
            assert "arms done" not in console.file.getvalue()

    def test_a_terminal_shows_the_summary_above_the_arms(self):
        console, clock = self.console(True), Clock()
        with Progress(["keras-p0", "torch-p0"], 2, console=console, clock=clock) as progress:
            train(progress, clock)
            progress.event("keras-p0", {"event": "probe"})
        last = console.file.getvalue().rsplit("1 of 2 arms done", 1)[1]
        assert last.startswith(", 1 probing, 1 waiting · about 0:12 left")
        assert last.index("keras-p0") < last.index("torch-p0")

    @pytest.mark.parametrize(("arms", "shown"), [(12, 12), (13, 2)])
    def test_of_many_arms_a_terminal_shows_the_running_and_failed(self, arms, shown):
        console, clock = self.console(True), Clock()
        names = [f"arm-{number:02}" for number in range(arms)]
        with Progress(names, 2, console=console, clock=clock) as progress:
            train(progress, clock, names[0])
            progress.event(names[1], {"event": "failed", "error": "killed"})
            progress.event(names[2], {"event": "start", "steps": 3})
        last = console.file.getvalue().rsplit("1 of", 1)[1]
        assert last.startswith(f" {arms} arms done, 1 failed, 1 running, {arms - 3} waiting")
        assert len(re.findall(r"arm-\d\d", last)) == shown
        assert names[1] in last and names[2] in last

    def test_each_data_set_is_announced_once(self):
        console = self.console(False)
        with Progress([], 1, console=console) as progress:
            for done in (1, 2, 1, 2):
                progress.preparing(done, 2)
        assert console.file.getvalue().splitlines() == ["preparing 2 images"] * 2

    @pytest.mark.parametrize("kind", ["done", "failed"])
    def test_a_failure_is_said_in_one_line(self, kind):
        console = self.console(False)
        with Progress(["torch-p0"], 2, console=console) as progress:
            progress.event("torch-p0", {"event": kind, "error": "killed \x1b[2J\n  its log"})
        assert console.file.getvalue() == "torch-p0  failed: killed \\x1b[2J\n"

    def test_a_terminal_shows_where_each_arm_stands(self):
        console, clock = self.console(True), Clock()
        with Progress(["keras-p0", "torch-p0"], 2, 3, console, clock) as progress:
            progress.preparing(1, 3)
            train(progress, clock, "torch-p0")
            progress.event("keras-p0", {"event": "start", "steps": 3})
            for step in (1, 2):
                clock.now += 4
                progress.event(
                    "keras-p0", {"event": "step", "epoch": 1, "step": step, "loss": 0.75}
                )
        last = console.file.getvalue().rsplit("keras-p0", 1)[1]
        for text in ("epoch 1/2 step 2/3", "loss 0.7500", "4.000 s/step", "0:16 left", "torch-p0"):
            assert text in last
        assert "done" in last

    def test_standard_output_stays_free(self, capsys):
        clock = Clock()
        with Progress(["keras-p0"], 2, clock=clock) as progress:
            progress.preparing(1, 1)
            train(progress, clock)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "done" in captured.err
