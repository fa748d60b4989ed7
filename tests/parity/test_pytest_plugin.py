"""The pytest plugin, as a project that uses it sees it: pytest in a process of its own.

Not pytest's `pytester`: frameworks cannot be loaded a second time in one process. So a few runs are
shared by many tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

from parity.check import LEVELS
from parity.pytest_plugin import Pair, parametrize_with_parity_checks

INSTALLED = any(each.value == "parity.pytest_plugin" for each in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "parity.pytest_plugin")

KERAS = """
import keras
from keras import layers as L

def build_keras():
    image = keras.Input((3,))
    x = L.Dense(4, activation="relu", name="hidden", bias_initializer="uniform")(image)
    return keras.Model(image, L.Dense(2, name="head", bias_initializer="uniform")(x))

def raises():
    with open("calls.txt", "a") as file:
        file.write("called ")
    raise RuntimeError("the weights are elsewhere")
"""
TORCH = """
from torch import nn

def _net(activation):
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))

def build_torch():
    return _net(nn.ReLU())

def build_wrong():
    return _net(nn.Tanh())
"""
TESTS = """
import parity
import pytest
from nets import build_keras, raises
from ports import build_torch, build_wrong

@parity.parametrize_with_parity_checks([(build_keras, build_torch)])
def test_faithful(check):
    check()

@parity.parametrize_with_parity_checks(
    [(build_keras, build_wrong)],
    level="gradient",
    expected_failed_checks={"forward": "tanh for now", "build_keras-build_wrong:loss": "too"},
)
def test_wrong(check):
    check()

@parity.parametrize_with_parity_checks(
    [(build_keras, build_torch)], level="transfer", expected_failed_checks={"transfer": "once"}
)
def test_stale(check):
    check()

@parity.parametrize_with_parity_checks([(raises, build_torch)], level="transfer")
def test_raises(check):
    check()

@pytest.mark.parity(level="forward")
def test_fixture(parity):
    assert parity(build_keras, build_torch).levels[-1].level == "forward"

def test_fixture_of_a_wrong_twin(parity):
    parity(build_keras, build_wrong)
"""
# Builders by name: collecting loads no framework.
COLLECTED = """
import parity

@parity.parametrize_with_parity_checks([("nets.py:build_keras", "ports.py:build_torch")])
def test_port(check):
    check()
"""
UNKNOWN = COLLECTED.replace(")])", ')], expected_failed_checks={"bufers": "a typing error"})')


@dataclass(frozen=True)
class Session:
    """A pytest run that ended, and what it left in its folder."""

    code: int
    out: str
    folder: Path

    @property
    def cases(self) -> dict[str, ElementTree.Element]:
        root = ElementTree.parse(self.folder / "junit.xml").getroot()
        return {case.get("name", ""): case for case in root.iter("testcase")}

    def reports(self) -> set[str]:
        return {path.name for path in (self.folder / "reports").iterdir()}


def outcome(case: ElementTree.Element) -> str:
    """passed, failure, error or skipped; with the message where it has one."""
    found = [each for each in case if each.tag in ("failure", "error", "skipped")]
    return f"{found[0].tag}: {found[0].get('message')}\n{found[0].text}" if found else "passed"


def run(folder: Path, *arguments: str, code: str = "") -> Session:
    (folder / "nets.py").write_text(KERAS)
    (folder / "ports.py").write_text(TORCH)
    (folder / "pytest.ini").write_text("[pytest]\n")
    start = ["-c", code] if code else ["-m", "pytest"]
    done = subprocess.run(
        [sys.executable, *start, *PLUGIN, "-rA", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout + done.stderr
    return Session(done.returncode, done.stdout + done.stderr, folder)


LACKING = ("randomness", "buffers")  # nothing draws, and there are none
RECORDS = ("--junit-xml", "junit.xml", "--parity-report", "reports")


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A project's own test file; both frameworks in one process."""
    folder = tmp_path_factory.mktemp("tested")
    (folder / "test_ports.py").write_text(TESTS)
    return run(folder, *RECORDS)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Two pairs of the command line; the test file beside them is not asked for."""
    folder = tmp_path_factory.mktemp("paired")
    (folder / "test_never.py").write_text("raise SystemExit('collected')")
    pairs = ("nets.py:build_keras=ports.py:build_torch", "nets.py:raises=ports.py:build_torch")
    options = [each for pair in pairs for each in ("--parity-pair", pair)]
    return run(folder, *options, *RECORDS)


def test_a_faithful_twin_passes_one_readable_test_per_level(tested: Session) -> None:
    for level in LEVELS:
        case = tested.cases[f"test_faithful[build_keras-build_torch-{level}]"]
        if level in LACKING:
            assert outcome(case).startswith("skipped") and "nothing to compare" in outcome(case)
        else:
            assert outcome(case) == "passed"


def test_a_failure_has_the_report_in_its_message(tested: Session) -> None:
    failed = outcome(tested.cases["test_wrong[build_keras-build_wrong-gradient]"])
    assert failed.startswith("failure")
    failed = " ".join(failed.split())  # the report is wrapped
    assert "FAIL at the level forward at hidden/activation / 1" in failed
    assert "hidden/activation / 1: kind relu against tanh" in failed
    passed = tested.cases["test_wrong[build_keras-build_wrong-transfer]"]
    assert outcome(passed) == "passed"  # it is not the weights


@pytest.mark.parametrize(("level", "reason"), [("forward", "tanh for now"), ("loss", "too")])
def test_a_failure_that_was_expected_is_an_xfail(tested: Session, level: str, reason: str) -> None:
    case = tested.cases[f"test_wrong[build_keras-build_wrong-{level}]"]
    assert outcome(case).startswith(f"skipped: {reason}")
    assert case.find("skipped").get("type") == "pytest.xfail"  # type: ignore[union-attr]


def test_an_entry_that_does_not_fail_is_stale(tested: Session) -> None:
    stale = outcome(tested.cases["test_stale[build_keras-build_torch-transfer]"])
    assert stale.startswith("failure") and "but does not fail: remove the stale entry" in stale


def test_an_entry_that_names_no_check_is_refused() -> None:
    for name in ("bufers", "build-Net:forwards", "trajectory"):  # the last: not climbed to
        with pytest.raises(ValueError, match=f"{name}: no such check here. Known: .*forward"):
            parametrize_with_parity_checks(
                [("a.py:build", "b.py:Net")], level="update", expected_failed_checks={name: "?"}
            )


def test_the_fixture_climbs_to_the_level_of_the_mark(tested: Session) -> None:
    assert outcome(tested.cases["test_fixture"]) == "passed"
    wrong = outcome(tested.cases["test_fixture_of_a_wrong_twin"])
    assert wrong.startswith("failure") and "FAIL at the level forward" in wrong
    assert re.search(r"gradient +fail", wrong) and not re.search(r"update +fail", wrong)


@pytest.mark.workers
def test_a_builder_that_raises_is_called_once_and_told(tested: Session, paired: Session) -> None:
    for level in ("structure", "transfer"):
        assert "the weights are elsewhere" in outcome(
            tested.cases[f"test_raises[raises-build_torch-{level}]"]
        )
    assert (tested.folder / "calls.txt").read_text() == "called "
    assert (paired.folder / "calls.txt").read_text() == "called "


def test_every_pair_has_its_line_and_its_files(tested: Session) -> None:
    """Two pairs of the file have the same name: neither hides the other."""
    assert "build_keras-build_torch: pass" in tested.out
    assert "build_keras-build_torch-2: pass" in tested.out
    line = "build_keras-build_wrong: fail (forward at hidden/activation / 1)"
    assert line in tested.out
    names = ("build_keras-build_torch", "build_keras-build_torch-2", "build_keras-build_wrong")
    assert tested.reports() == {f"{name}.{kind}" for name in names for kind in ("json", "txt")}
    found = json.loads((tested.folder / "reports" / f"{names[2]}.json").read_text())
    assert found["verdict"] == "fail" and found["first_origin"]["torch"] == "1"
    assert "FAIL" in (tested.folder / "reports" / f"{names[2]}.txt").read_text()


@pytest.mark.workers
def test_junit_has_a_case_with_its_level_for_each_check(tested: Session, paired: Session) -> None:
    levels = {
        name: [each.get("value") for each in case.iter("property")]
        for session in (tested, paired)
        for name, case in session.cases.items()
        if "[" in name or name in LEVELS
    }
    assert len(levels) == len(LEVELS) + 6 + 2 + 2 + len(LEVELS)
    for name, found in levels.items():
        assert len(found) == 1 and name.removesuffix("]").endswith(str(found[0]))


@pytest.mark.workers
def test_a_pair_of_the_command_line_needs_no_test_file(paired: Session) -> None:
    """Every level is a test; a pair that cannot be built does not stop the other."""
    assert paired.code == 1 and f"collected {2 * len(LEVELS)} items" in paired.out
    for level in LEVELS:
        if level not in LACKING:
            assert f"PASSED nets.py:build_keras=ports.py:build_torch::{level}" in paired.out
        assert f"FAILED nets.py:raises=ports.py:build_torch::{level}" in paired.out
    assert "build_keras-build_torch: pass" in paired.out
    assert paired.reports() == {f"build_keras-build_torch.{kind}" for kind in ("json", "txt")}
    assert "raises raised RuntimeError: the weights are elsewhere" in paired.out
    assert "Traceback" not in paired.out and "pairs.check(" not in paired.out


def test_a_pair_without_an_equals_sign_is_a_usage_error(tmp_path: Path) -> None:
    session = run(tmp_path, "--parity-pair", "model.keras")
    assert session.code == 4
    assert "--parity-pair: expected KERAS=TORCH, got 'model.keras'" in session.out


def test_collecting_loads_no_framework(tmp_path: Path) -> None:
    """A wrong entry ends the collection of its file alone."""
    (tmp_path / "test_port.py").write_text(COLLECTED)
    (tmp_path / "test_unknown.py").write_text(UNKNOWN)
    code = (
        "import sys, pytest\ncode = pytest.main(sys.argv[1:])\n"
        "names = {m.split('.')[0] for m in sys.modules}\n"
        "print('frameworks:', names & {'keras', 'tensorflow', 'torch', 'jax'})\nsys.exit(code)"
    )
    session = run(tmp_path, "--collect-only", "-q", code=code)
    assert session.code == pytest.ExitCode.INTERRUPTED
    for level in LEVELS:
        assert f"test_port.py::test_port[build_keras-build_torch-{level}]" in session.out
    assert "ValueError: expected_failed_checks: bufers: no such check here" in session.out
    assert "frameworks: set()" in session.out


def test_names_are_those_of_the_builders() -> None:
    for keras, torch, name in (
        ("models/vgg16.keras", "port.py:VGG16", "vgg16-VGG16"),
        (run, "nets.torch_net:Net", "run-Net"),
    ):
        assert Pair(keras, torch).name == name


@pytest.mark.parametrize("last", ["loss", "gradient"])
def test_dropout_is_judged_wherever_training_mode_is(last: str) -> None:
    mark = parametrize_with_parity_checks([("a.py:build", "b.py:Net")], level=last)
    levels = [each.values[0].level for each in mark.args[1]]
    assert levels == [*LEVELS[: LEVELS.index(last) + 1], "randomness"]
