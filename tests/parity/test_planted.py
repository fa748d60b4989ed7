"""Faults in a pair of the user's: what is caught, what moves no number, what is refused.

Workers run in this process, where each framework is imported once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import selftest
from parity.check import planted, sides, worker
from parity.check.planted import Fault
from parity.check.trace import Request

pytest.importorskip("keras")
pytest.importorskip("torch")

KERAS = """
import keras
from keras import layers as L

def build():
    keras.utils.set_random_seed(0)
    x = image = keras.Input((6, 6, 2))
    x = L.ReLU()(L.Conv2D(3, 3, padding="same", name="conv")(x))
    x = L.Dropout(0.5, name="drop")(L.MaxPooling2D(2, name="pool")(x))
    return keras.Model(image, L.Dense(2, name="head")(L.Flatten()(x)))
"""
TORCH = """
import torch
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(27, 2),
    )

def leaky():
    model = build()
    model[1] = nn.LeakyReLU(0.1)
    return model
"""
SelfTest = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> SelfTest:
    (tmp_path / "ours.py").write_text(KERAS)
    (tmp_path / "theirs.py").write_text(TORCH)
    workers: dict[sides.Process, worker.Worker] = {}

    def ask(side: sides.Process, what: str, request: Request, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        request.write(folder / f"request-{what}.json")
        workers.setdefault(side, worker.Worker(side.framework)).do(what, request, folder)

    monkeypatch.setattr(sides.Process, "start", lambda *_: None)
    monkeypatch.setattr(sides.Process, "ask", ask)
    monkeypatch.chdir(tmp_path)

    def run(*options: str, torch: str = "build") -> tuple[int, Any, str]:
        pair = ("--pair", "ours.py:build", f"theirs.py:{torch}", "--out", str(tmp_path / "out"))
        code = selftest.main([*pair, *options])
        return code, tmp_path / "out", capsys.readouterr().err

    return run


def test_faults_are_caught_and_placed_and_what_is_none_is_listed_apart(run: SelfTest) -> None:
    tried = ("bias left out", "bias frozen", "padding shifted", "no dropout", "pool rounds up")
    code, out, _ = run("--only", *tried)
    report = json.loads((out / "pair.json").read_text())
    faults = {each["operator"]: each for each in report["faults"]}
    assert code == 0 and sorted(faults) == sorted(tried)
    still = faults.pop("pool rounds up")  # of an even size nothing is left over
    assert still["outcome"] == "nothing" and still["verdict"] == "pass"
    assert "bit for bit" in still["moves"]
    for each in faults.values():
        assert each["outcome"] == "caught" and each["placed"], each
    assert report["totals"] == {
        **{"operators": 5, "planted": 5, "moving numbers": 4, "caught": 4, "placed": 4},
        **{"undecided": 0, "missed": 0},
    }
    assert "| pool rounds up | 2 |" in (out / "pair.md").read_text()


def test_a_fault_that_passes_is_missed_and_said_so(
    run: SelfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An examination that looks at nothing."""
    found = planted.run.check

    def blind(*arguments: Any) -> Any:
        report = found(*arguments)
        return replace(report, levels=tuple(replace(e, verdict="pass") for e in report.levels))

    monkeypatch.setattr(planted.run, "check", blind)
    code, out, _ = run("--only", "bias left out")
    (fault,) = json.loads((out / "pair.json").read_text())["faults"]
    assert code == 1 and fault["outcome"] == "missed" and fault["reason"]


def test_a_pair_that_does_not_pass_as_it_is_is_no_ground_for_faults(run: SelfTest) -> None:
    code, out, err = run(torch="leaky")
    assert code == 3 and "without a fault the pair does not pass. FAIL" in err
    assert not (out / "pair.json").exists()


def test_a_fault_that_does_not_exist_is_refused(run: SelfTest) -> None:
    code, _, err = run("--only", "bias left ouch")
    assert code == 2 and "Did you mean 'bias left out'?" in err
    code, _, err = run("--only", "epsilon")
    assert code == 2 and "none of these faults fits this model" in err


def test_what_moves_is_told_of_all_numbers() -> None:
    one = {"0/training/outputs/1/0": np.ones(3), "0/training/held/mean": np.zeros(2)}
    assert planted._moved(one, dict(one))[0] == 0
    other = {**one, "0/training/held/mean": np.array([0, 0.5])}
    assert planted._moved(one, other) == (
        0.5,
        "0/training/held/mean by 0.5 of the largest",
    )
    assert planted._moved(one, {"0/training/outputs/1/0": np.ones(3)})[0] == np.inf
    wild = {**one, "0/training/outputs/1/0": np.array([1, np.nan, 1])}
    assert planted._moved(one, wild)[0] == np.inf
    assert planted._moved(wild, dict(wild))[0] == 0


def test_a_call_beside_the_fault_counts_and_one_elsewhere_does_not() -> None:
    assert planted._below("layer1.0/relu#2", "layer1")
    assert planted._below("layer1", "layer1")
    assert not planted._below("layer10", "layer1")


def test_places_are_chosen_by_the_seed() -> None:
    places = list(range(50))
    assert planted._chosen(places, "epsilon", 0, every=True) == places
    one = planted._chosen(places, "epsilon", 0, every=False)
    assert one == planted._chosen(places, "epsilon", 0, every=False) and len(one) == 1
    assert len({planted._chosen(places, "epsilon", n, every=False)[0] for n in range(9)}) > 1
    assert planted._chosen([], "epsilon", 0, every=False) == []


def test_a_place_is_named_as_the_graph_names_it() -> None:
    place = {"module": "layer1.0", "call": "add", "at": 1, "end": "", "size": 0}
    assert Fault("x", "y", place, "", "missed").where == "layer1.0/add#2"
    assert Fault("x", "y", {**place, "end": "input"}, "", "missed").where == "the model's input"
