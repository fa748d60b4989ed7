"""`python -m parity.check`, as a user runs it.

A run of the command starts a process with a framework for each side, so that few tests are such
runs. The others call the command in this process, and its workers too (`here`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity.check import LEVELS, sides, worker
from parity.check import __main__ as command_line
from parity.check.trace import Request

KERAS = """
import os
import keras
from keras import layers as L

def net(*between):
    image = keras.Input((3,))
    x = L.Dense(4, activation="relu", name="hidden", bias_initializer="uniform")(image)
    for layer in between:
        x = layer(x)
    return keras.Model(image, L.Dense(2, name="head", bias_initializer="uniform")(x))

def build():
    keras.utils.set_random_seed(0)
    return net()

def regular():
    keras.utils.set_random_seed(0)
    return net(L.ActivityRegularization(l2=0.1, name="regular"))

def noisy():
    print("building")
    with open(f"{__file__}.processes", "a") as file:
        print(os.getpid(), file=file)
    return build()

class Curve(L.Layer):
    def build(self, shape):
        self.bend = self.add_weight(shape=(shape[-1], 8), initializer="uniform", name="bend")

    def call(self, x):
        return keras.ops.sin(keras.ops.einsum("bi,ij->bj", x, self.bend))[:, :4] + x

def curved():
    return net(Curve(name="curve"))

def empty():
    image = keras.Input((3,))
    return keras.Model(image, image)

def raises():
    raise RuntimeError("the weights are elsewhere")

def pair():
    return net(), 1
"""
TORCH = """
import os
import torch
from torch import nn

def net(*between, outputs=2):
    layers = {"hidden": nn.Linear(3, 4), "act": nn.ReLU(), **dict(between)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    model.add_module("head", nn.Linear(4, outputs))
    return model

def build():
    return net()

def noisy():
    print("building")
    with open(f"{__file__}.processes", "a") as file:
        print(os.getpid(), file=file)
    return build()

def wrong():
    return net(("act", nn.Tanh()))

def again():
    return net(("again", nn.ReLU()))

def wide():
    return net(outputs=5)

class Curve(nn.Module):
    def __init__(self):
        super().__init__()
        self.bend = nn.Parameter(torch.rand(32))

    def forward(self, x):
        return torch.sin(torch.einsum("bi,ji->bj", x, self.bend.view(8, 4)))[:, :4] + x

def bent():
    return net(("curve", Curve()))

def empty():
    return nn.Sequential()

def sized(outputs):
    return net(outputs=outputs)

def number():
    return 7
"""

RULES = """
from parity.transfer import RULES, register_rule

RULES.pop("curve", None)  # this file is read more than once

@register_rule("curve", keras="other:Curve", torch="other:Curve")
class Curve:
    @staticmethod
    def to_torch(tensors, context):
        return {"bend": tensors["bend"].T.reshape(-1)}

    @staticmethod
    def to_keras(tensors, context):
        return {"bend": tensors["bend"].reshape(8, 4).T}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    (folder / "ours.py").write_text(KERAS)
    (folder / "theirs.py").write_text(TORCH)
    return folder


Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Call the command, the models by the names of their functions; workers run in this process,
    where each framework is imported once."""
    one_at_a_time = threading.Lock()
    workers: dict[sides.Process, worker.Worker] = {}

    def ask(side: sides.Process, what: str, request: Request, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time:
            workers.setdefault(side, worker.Worker(side.framework)).do(what, request, folder)

    monkeypatch.setattr(sides.Process, "start", lambda *_: None)
    monkeypatch.setattr(sides.Process, "ask", ask)
    monkeypatch.chdir(folder)

    def check(keras: str, torch: str, *options: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = (f"ours.py:{keras}", f"theirs.py:{torch}", "--threads", "1", *options)
        code = command_line.main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return check


def refused(finished: tuple[int, str, str]) -> str:
    """The message of a refusal: one, after what was observed, and nothing else."""
    code, out, err = finished
    assert code == 2 and out == "" and "Traceback" not in err, err
    observed, error, message = err.partition("error: ")
    assert error and all(line.endswith(" …") for line in observed.splitlines()), err
    return message


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, which are none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_help_has_examples_and_loads_no_framework() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['x', '--help']\n"
        "try:\n runpy.run_module('parity.check', run_name='__main__')\n"
        "except SystemExit as ended: print(ended.code)\n"
        "print({m.split('.')[0] for m in sys.modules} & {'keras', 'tensorflow', 'torch', 'jax'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout and "exit status: 0 pass" in done.stdout
    assert done.stdout.endswith("0\nset()\n")


@pytest.mark.workers
def test_a_faithful_twin(folder: Path, command: Callable[..., Any]) -> None:
    """All in two processes, every level; the map and the files are kept."""
    out, chart = folder / "out", folder / "found.toml"
    done = command(
        *("parity.check", folder / "ours.py:noisy", folder / "theirs.py:noisy"),
        *("--threads", "1", "--json", "--out", out, "--write-map", chart),
    )
    assert done.code == 0, done.err
    found = strict(done.out)
    assert found["verdict"] == "pass" and found["first_origin"] is None
    assert found["coverage"] == {"parameters": 1.0, "layers": 1.0, "missing": []}
    levels = {each["level"]: each["verdict"] for each in found["levels"]}
    lacking = {"buffers", "randomness"}  # it has none
    assert levels == dict.fromkeys([each for each in LEVELS if each not in lacking], "pass")
    assert found["semantics"] == [] and found["notes"] == []
    assert found["environment"]["keras"]["keras"] and found["environment"]["torch"]["torch"]
    assert strict((out / "report.json").read_text()) == found
    assert chart.read_text() == (out / "map.toml").read_text()
    assert 'keras = "hidden"\ntorch = "hidden"' in chart.read_text()
    said = ("describing both models", "telling layers apart by their numbers")
    assert done.err.startswith(
        "".join(f"{each} …\n" for each in (*said, "running the Keras model"))
    )
    for name, builds in (("ours", 3), ("theirs", 1)):  # as it is and in two precisions; in one
        processes = (folder / f"{name}.py.processes").read_text().split()
        assert len(processes) == builds and len(set(processes)) == 1
        assert not Path(f"/proc/{processes[0]}").exists()


@pytest.mark.workers
def test_what_a_worker_refuses_is_told_in_its_words(
    folder: Path, command: Callable[..., Any]
) -> None:
    done = command("parity.check", folder / "ours.py:raises", folder / "theirs.py:build")
    message = refused((done.code, done.out, done.err))
    assert "ours.py:raises raised RuntimeError: the weights are elsewhere" in message
    assert 'in raises: raise RuntimeError("the weights are elsewhere")' in message


def test_a_wrong_twin_is_told_with_its_layer(here: Check) -> None:
    code, out, _ = here("build", "wrong", "--level", "gradient", "--json")
    found = strict(out)
    assert code == 1 and found["verdict"] == "fail"
    origin = found["first_origin"]
    assert origin["keras"] == "hidden/activation" and origin["torch"] == "act"
    assert origin["level"] == "forward"
    assert found["origins"][0] == origin
    verdicts = {each["level"]: each["verdict"] for each in found["levels"]}
    assert verdicts["transfer"] == "pass" and verdicts["forward"] == "fail"
    (cause,) = found["semantics"]
    assert (cause["key"], cause["left"], cause["right"]) == ("kind", "relu", "tanh")
    assert cause["change"] == "act: use relu"


def test_a_call_without_a_partner_that_changes_no_number_is_a_note(here: Check) -> None:
    """A second ReLU. Coverage says it, and decides nothing."""
    code, out, _ = here("build", "again", "--level", "forward", "--json")
    found = strict(out)
    assert code == 0 and found["verdict"] == "pass" and found["semantics"] == []
    assert found["coverage"]["parameters"] == 1.0 and found["coverage"]["layers"] < 1
    assert found["coverage"]["missing"] == ["again (relu)"]
    assert "calls without a partner, decomposed otherwise: again" in found["notes"]
    code, out, _ = here("build", "again", "--level", "forward")
    assert code == 0 and out.startswith("PASS: ")
    assert "Without a counterpart:\n  again (relu)" in out


def test_what_is_asked_reaches_the_check(here: Check) -> None:
    code, out, _ = here("build", "build", "--quick", "--level", "forward", "--json")
    assert code == 0 and strict(out)["examined"].startswith("quick examination")
    code, out, _ = here("regular", "build", "--quick", "--json")
    assert code == 3 and strict(out)["levels"][0]["verdict"] == "abstain"
    assert here("regular", "build", "--quick", "--allow", "regularisers")[0] == 0
    code, out, _ = here("build", "wrong", "--reference", "torch", "--level", "loss", "--json")
    (cause,) = strict(out)["semantics"]
    assert code == 1 and cause["change"] == "hidden/activation: use tanh"
    assert here("build", "build", "--level", "forward", "--input-axes", "0,1")[0] == 0
    assert "for 2 axes" in refused(here("build", "build", "--input-axes", "1,0"))
    assert "no method 'encode'" in refused(here("build", "build", "--method", "encode"))
    assert "--alias: got 'x'" in refused(here("build", "build", "--alias", "x"))


def test_another_number_of_outputs_is_a_failure_and_no_refusal(here: Check) -> None:
    code, out, _ = here("build", "wide", "--level", "forward", "--json")
    found = strict(out)
    assert code == 1 and found["levels"][0]["verdict"] == "fail"
    assert "head" in (found["first_origin"]["keras"], found["first_origin"]["torch"])


def test_weights_of_an_unknown_layer_need_a_rule(here: Check, tmp_path: Path) -> None:
    """Without one every number behind the layer would differ, and say nothing about the port."""
    code, out, _ = here("curved", "bent", "--level", "forward", "--json")
    found = strict(out)
    assert code == 3 and found["verdict"] == "abstain"
    assert [each["level"] for each in found["levels"]] == ["structure", "transfer"]
    why = found["levels"][0]["detail"]
    assert "curve/bend" in why and "curve.bend" in why and "--map" in why and "--write-map" in why
    assert "curve/bend" in found["coverage"]["missing"] and found["first_origin"] is None
    rules = tmp_path / "rules.py"
    rules.write_text(RULES)
    assert here("curved", "bent", "--rules", rules)[0] == 0


def test_a_map_is_followed(here: Check, tmp_path: Path) -> None:
    chart, other = tmp_path / "map.toml", tmp_path / "other.toml"
    level = ("--level", "transfer")
    assert here("build", "build", *level, "--write-map", chart)[0] == 0
    assert here("build", "build", *level, "--map", chart, "--write-map", other)[0] == 0
    assert other.read_text() == chart.read_text()
    chart.write_text('[[layer]]\nkeras = "hidden"\ntorch = "head"\n')
    assert "hidden" in refused(here("build", "build", *level, "--map", chart))
    chart.write_text("layers: [hidden]")
    message = refused(here("build", "build", *level, "--map", chart))
    assert message.startswith(f"{chart} is no map of layers")


def test_without_a_transfer_the_given_weights_are_compared(here: Check, tmp_path: Path) -> None:
    weights = tmp_path / "port.safetensors"
    out = tmp_path / "out"
    options = ("--no-transfer", "--level", "transfer")
    assert here("build", "build", *options, "--out", out)[0] == 1  # each drew its own
    ours = load_file(out / "keras" / "weights.safetensors")
    theirs = {
        f"{layer}.{name}": np.ascontiguousarray(ours[f"{layer}/{own}"].T)
        for layer in ("hidden", "head")
        for own, name in (("kernel", "weight"), ("bias", "bias"))
    }
    save_file(theirs, weights)
    assert here("build", "build", *options, "--torch-weights", weights)[0] == 0
    theirs["head.bias"][1] = np.nextafter(theirs["head.bias"][1], np.float32(1))
    save_file(theirs, weights)  # one unit in the last place
    code, text, _ = here("build", "build", *options, "--torch-weights", weights, "--json")
    assert code == 1 and strict(text)["levels"][1]["where"] == "head.bias[1]"


@pytest.mark.parametrize(
    ("keras", "torch", "options", "message"),
    [
        ("pair", "build", [], "ours.py:pair returned a builtins.tuple: expected a keras.Model"),
        ("builds", "build", [], "ours.py has no 'builds': did you mean 'build'?"),
        ("build/x.py:f", "build", [], "there is no file ours.py:build/x.py"),
        ("build", "number", [], "theirs.py:number returned a builtins.int: expected a torch.nn"),
        ("build", "sized", [], "theirs.py:sized needs arguments (outputs)"),
        ("build", "nets", [], "theirs.py has no 'nets': did you mean 'net'?"),
        ("build", "empty", [], "Sequential calls no layer and no function"),
        ("build", "build", ["--input-shape", "5"], "got 5, expected 3 (both without the batch)"),
        ("build", "build", ["--inputs", "none.npz"], "--inputs: cannot read none.npz"),
        (
            "build",
            "build",
            ["--no-transfer", "--torch-weights", "none.pt"],
            "there is no file of weights",
        ),
        ("build", "build", ["--batch", "0"], "--batch: expected at least 1, got 0"),
        ("build", "build", ["--threads", "-1"], "--threads: expected at least 0, got -1"),
        ("build", "build", ["--map", "none.toml"], "none.toml is no map of layers"),
        ("build", "build", ["--write-map", "no/map.toml"], "--write-map: there is no folder"),
        ("build", "build", ["--out", "ours.py"], "cannot write to ours.py"),
    ],
)
def test_a_wrong_request_is_refused_in_words(
    here: Check, keras: str, torch: str, options: list[str], message: str
) -> None:
    assert message in refused(here(keras, torch, *options))


def test_weights_that_do_not_fit_are_listed(here: Check, tmp_path: Path) -> None:
    file = tmp_path / "port.safetensors"
    save_file({"hidden.weight": np.zeros((9, 9), np.float32), "haed.bias": np.zeros(2)}, file)
    message = refused(here("build", "build", "--no-transfer", "--torch-weights", file))
    assert "hidden.weight: [9, 9] in the file, [4, 3] in the model" in message
    assert "haed.bias: not in the model: did you mean 'head.bias'?" in message
    assert "head.weight: missing in the file" in message


class Trap:
    """What runs when a pickle is read without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_code_in_a_file_of_weights_is_not_run(here: Check, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file, sprung = tmp_path / "port.pt", tmp_path / "sprung"
    torch.save({"hidden.weight": Trap(sprung)}, file)
    assert "code in a file is not run" in refused(
        here("build", "build", "--no-transfer", "--torch-weights", file)
    )
    assert not sprung.exists()
    torch.load(file, weights_only=False)
    assert sprung.exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"no archive", "cannot read"),
        (b"PK\x03\x04 cut short", "cannot read"),
        (np.zeros((4, 3)), "expected an archive of arrays"),
        ([np.zeros((4, 3)), np.zeros((5, 3))], "holds batches of [4, 5]"),
        ([np.zeros((0, 3))], "holds batches of [0]"),
        ([np.array([object()] * 4)], "cannot read"),
    ],
)
def test_a_batch_that_is_none_is_refused(
    here: Check, tmp_path: Path, content: Any, message: str
) -> None:
    """Before anything is built: the builders would raise."""
    file = tmp_path / "batch.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with file.open("wb") as opened:
            if isinstance(content, list):
                np.savez(opened, *content)
            else:
                np.save(opened, content)
    assert message in refused(here("raises", "build", "--inputs", file))


def test_a_damaged_batch_is_refused(here: Check, tmp_path: Path) -> None:
    """The archive opens; the array in it does not."""
    file = tmp_path / "batch.npz"
    with file.open("wb") as opened:
        np.savez(opened, np.ones((4, 3)))
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    file.write_bytes(bytes(whole))
    assert "cannot read" in refused(here("raises", "build", "--inputs", file))


LIVE = """
import sys
sys.path.insert(0, {folder!r})
import {first}
import {second}
import numpy as np
import torch
import ours, theirs
import parity
keras_model, torch_model = ours.build(), theirs.build()
x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
parity.assert_parity(keras_model, torch_model, x, level="update", direction="keras-to-torch")
torch.optim.Adam(torch_model.parameters())
print("the same")
"""


@pytest.mark.workers
@pytest.mark.parametrize(("first", "second"), [("keras", "torch"), ("torch", "keras")])
def test_both_frameworks_in_one_process_in_either_order(
    folder: Path, first: str, second: str
) -> None:
    """The first optimizer of `torch.optim` loads triton, whose LLVM ends a process that has
    TensorFlow's: a check makes none, and after it the user can. The conftest keeps triton out of
    this process, not of that one."""
    code = LIVE.format(folder=str(folder), first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the same\n"), done.stderr
