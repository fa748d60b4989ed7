"""`python -m parity.transfer`, as a user runs it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from parity.transfer import __main__ as command_line
from parity.transfer.sides import draw

KERAS = """
import keras
from keras import layers as L

def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    a = L.Conv2D(4, 3, bias_initializer="uniform")(image)
    b = L.Conv2D(4, 3, bias_initializer="uniform")(image)
    x = L.Concatenate()([a, b])
    x = L.BatchNormalization(gamma_initializer="uniform")(x)
    x = L.Flatten()(x)
    return keras.Model(image, L.Dense(3, bias_initializer="uniform")(x))
"""
# Which branch is which, neither names nor shapes say: the first reads into the second half.
TORCH = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
        self.bn = nn.BatchNorm2d(8, eps=1e-3)
        self.head = nn.Linear(128, 3)

    def forward(self, x):
        first = self.paths[0](x)
        x = torch.cat([self.paths[1](x), first], 1)
        return self.head(self.bn(x).flatten(1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "ours.py").write_text(KERAS)
    (folder / "theirs.py").write_text(TORCH)
    return folder


@pytest.mark.workers
def test_there_and_back(folder: Path, command: Callable[..., Any]) -> None:
    """With a doubt that numbers settle, a map, and a .keras file as the end."""
    ours, theirs = f"{folder}/ours.py:build", f"{folder}/theirs.py:Net"
    there, chart = folder / "w.safetensors", folder / "map.toml"
    done = command("parity.transfer", ours, "--to", theirs, "--out", there, "--write-map", chart)
    assert done.code == 0, done.err
    assert "4 layers, 11 tensors" in done.out
    weights = load_file(there)
    assert weights["bn.num_batches_tracked"].shape == ()
    assert 'keras = "conv2d"\ntorch = "paths.1"' in chart.read_text()
    assert "flattened = [4, 4, 8]" in chart.read_text()

    keras = pytest.importorskip("keras")
    back = folder / "back.keras"
    done = command(
        *("parity.transfer", theirs, "--from", "torch", "--weights", there, "--to", ours),
        *("--map", chart, "--out", back, "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["from"] == "torch" and len(done.json["layers"]) == 4

    saved = keras.saving.load_model(back).weights
    first = runpy.run_path(str(folder / "ours.py"))["build"]().weights
    assert len(saved) == len(first) == 10
    for one, other in zip(saved, first, strict=True):
        a, b = (keras.ops.convert_to_numpy(each) for each in (one, other))
        assert a.tobytes() == b.tobytes(), other.path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.keras", "--to", "b.keras", "--out", "x.safetensors"], "both Keras models"),
        (
            ["a.keras", "--to", "b.py:f", "--from", "torch", "--out", "x.safetensors"],
            "--from torch",
        ),
        (["a.py:f", "--to", "b.py:f"], "nothing to do"),
        (["a.py:f", "--to", "b.py:f", "--out", "x.keras"], "expected .safetensors, got x.keras"),
        (["b.py:f", "--to", "a.keras", "--out", "x.pt"], "expected .safetensors or .keras"),
        (["a.py:f", "--to", "b.py:f", "--out", "none/x.safetensors"], "there is no folder"),
        (["a.py:f", "--to", "b.py:f", "--out", "x.safetensors", "--rules", "no.py"], "no Python"),
    ],
)
def test_a_wrong_request(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_direction_is_that_of_the_files() -> None:
    for arguments, wanted in (
        (["m.keras", "--to", "b.py:f"], ("keras", "torch")),
        (["b.py:f", "--to", "m.keras"], ("torch", "keras")),
        (["a.py:f", "--to", "b.py:f"], ("keras", "torch")),
        (["a.py:f", "--to", "b.py:f", "--from", "torch"], ("torch", "keras")),
    ):
        assert command_line.direction(command_line.parse(arguments)) == wanted


def test_help_has_examples_and_loads_no_framework() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['x', '--help']\n"
        "try:\n runpy.run_module('parity.transfer', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({m.split('.')[0] for m in sys.modules} & {'keras', 'tensorflow', 'torch', 'jax'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_words_are_drawn_below_the_embeddings_rows() -> None:
    from parity.check.graph import Graph, Node, Parameter

    nodes = (
        Node("reshape", "reshape", ("input:0",), (4,)),
        Node("embed", "embedding", ("reshape",), (4, 2), "embed"),
        Node("dense", "dense", ("input:1",), (2,), "dense"),
    )
    parameters = (Parameter("embed.weight", "embed", "weight", (3, 2), "float32"),)
    drawn = draw(Graph("torch", nodes, parameters, ((2, 2), (5,)), ("embed",)))
    assert drawn["input:0"].dtype.kind == "i" and drawn["input:0"].max() < 3
    assert drawn["input:1"].dtype.kind == "f"
