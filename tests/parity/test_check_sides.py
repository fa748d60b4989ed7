"""A side that is a process: started once, asked by messages, and what is said of one that dies.

Its worker is the real one; its wing (`fake_impl`) has no framework, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parity.check.sides import Process
from parity.check.trace import Request
from parity.check.worker import Worker
from shared_data.errors import InputError

WING = """
import os, signal, subprocess, sys, time
from parity.check import worker
from shared_data.errors import InputError

IN_PRECISION = True
loads = 0

class Model:
    def __init__(self, weights):
        self.weights, self.calls, self.size = weights, 0, 1

def load(request, in_precision):
    global loads
    loads += 1
    return Model(request.weights or "own")

def reload(model, weights):
    model.weights = weights

def names():
    return None

def settle(request, names):
    pass

def held(model):
    return [{"calls": model.calls}]

def size(model):
    return model.size

def write(model, request, out):
    (out / "found").write_text(f"{os.getpid()} {loads} {model.weights}")

def prints(model, request, out):
    print("{}", flush=True)
    os.write(1, b'{"refused": "no"}')
    try:
        input()
    except EOFError:
        write(model, request, out)

def counts(model, request, out):
    model.calls += 1

def grows(model, request, out):
    model.size = worker.LARGE + 1

def refuses(model, request, out):
    raise InputError("it is\\nnot to be")

def raises(model, request, out):
    raise RuntimeError("lost")

def leaves(model, request, out):
    sys.exit(0)

def killed(model, request, out):
    subprocess.Popen(["sleep", "5"], close_fds=False)
    os.kill(os.getpid(), signal.SIGKILL)

def sleeps(model, request, out):
    (out / "asleep").touch()
    time.sleep(60)

if __name__ == "__main__":
    sys.exit(worker.main("fake"))
"""


@pytest.fixture
def wing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake_impl"
    folder.mkdir()
    for name, text in (("__init__", ""), ("tracing", ""), ("check", WING)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    return tmp_path


@pytest.fixture
def side(wing: Path) -> Iterator[Process]:
    with Process("fake", "m:f") as process:
        yield process


def found(side: Process, folder: Path, **asked: str) -> list[str]:
    """The worker's process, how many models it has built, and the weights of this one."""
    side.ask("write", Request("m:f", **asked), folder)  # type: ignore[arg-type]
    return (folder / "found").read_text().split()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_and_one_model_for_all_that_is_asked(side: Process, tmp_path: Path) -> None:
    first = found(side, tmp_path)
    assert int(first[0]) != os.getpid() and first[1:] == ["1", "own"]
    assert found(side, tmp_path, weights="a") == [first[0], "1", "a"]
    assert found(side, tmp_path, weights="b") == [first[0], "1", "b"]
    assert found(side, tmp_path) == [first[0], "2", "own"]  # which only a new one has
    assert found(side, tmp_path, precision="float32") == [first[0], "3", "own"]


def test_a_model_in_which_a_run_left_a_trace_is_built_anew(side: Process, tmp_path: Path) -> None:
    found(side, tmp_path)
    side.ask("counts", Request("m:f"), tmp_path)
    assert found(side, tmp_path)[1] == "2"
    side.ask("grows", Request("m:f"), tmp_path)  # and a large one is not kept
    assert found(side, tmp_path)[1] == "3"


def test_what_users_code_prints_is_no_answer(side: Process, tmp_path: Path) -> None:
    side.ask("prints", Request("m:f"), tmp_path)
    assert (tmp_path / "found").exists()


def test_a_refusal_is_told_in_its_words_and_the_process_lives_on(
    side: Process, tmp_path: Path
) -> None:
    process = found(side, tmp_path)[0]
    with pytest.raises(InputError, match=r"^it is\nnot to be$"):
        side.ask("refuses", Request("m:f"), tmp_path)
    assert found(side, tmp_path)[0] == process


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raises", "the fake side failed. Its last lines:"),
        ("leaves", "the fake side failed. Its last lines:\n    (nothing)"),
        ("killed", "was killed by signal 9. It may have run out of memory: try a smaller batch."),
    ],
)
def test_a_side_that_dies_is_told_and_starts_again(
    side: Process, tmp_path: Path, what: str, said: str
) -> None:
    """At once, even where a process that it started still holds all it had open."""
    process = found(side, tmp_path)[0]
    begun = time.monotonic()
    with pytest.raises(InputError) as refused:
        side.ask(what, Request("m:f"), tmp_path)
    assert time.monotonic() - begun < 4
    assert said in str(refused.value)
    if what == "raises":
        assert "RuntimeError: lost" in str(refused.value)
        assert "This is a fault of the tool's own" in str(refused.value)
    assert found(side, tmp_path)[0] != process


def test_no_process_is_left_behind(wing: Path, tmp_path: Path) -> None:
    side = Process("fake", "m:f")
    closed = int(found(side, tmp_path)[0])
    side.close()
    forgotten = int(found(side, tmp_path)[0])
    assert not alive(closed) and alive(forgotten)
    del side
    assert not alive(forgotten)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_the_process_that_asked_it(wing: Path, how: int) -> None:
    code = (  # a shell's background job ignores SIGINT, and so would what it starts
        "import signal; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from parity.check.sides import Process; from parity.check.trace import Request\n"
        "side = Process('fake', 'm:f'); side.ask('write', Request('m:f'), Path('out'))\n"
        "side.ask('sleeps', Request('m:f'), Path('out'))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=wing, stderr=subprocess.DEVNULL)
    wait_for(lambda: (wing / "out" / "asleep").exists())
    worker = int((wing / "out" / "found").read_text().split()[0])
    assert alive(worker)
    asking.send_signal(how)
    asking.wait(10)
    wait_for(lambda: not alive(worker))


def wait_for(happened) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


KERAS = """
import keras, random
from keras import layers as L

def build():
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3)(image)
    x = L.BatchNormalization()(x)
    x = L.Dropout(0.5)(L.ReLU()(x))
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))

class Counting(L.Layer):
    calls = 0

    def call(self, x):
        self.calls += 1
        return x * self.calls

def counting():
    image = keras.Input((3,))
    return keras.Model(image, L.Dense(2)(Counting()(image)))
"""
TORCH = """
import torch
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(64, 2),
    )

class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls

def counting():
    return nn.Sequential(Counting(), nn.Linear(3, 2))
"""


@pytest.mark.parametrize("builds", ["build", "counting"])
@pytest.mark.parametrize(("framework", "source"), [("keras", KERAS), ("torch", TORCH)])
def test_a_kept_model_runs_as_one_that_is_built_anew(
    tmp_path: Path, framework: str, source: str, builds: str
) -> None:
    """Bit for bit, whatever was asked before."""
    pytest.importorskip(framework)
    (tmp_path / "nets.py").write_text(source)
    image = (6, 6, 3) if framework == "keras" else (3, 6, 6)
    shape = image if builds == "build" else (3,)
    request = Request(
        f"{tmp_path}/nets.py:{builds}",
        input_shapes=(shape,),
        levels=("forward", "loss", "update"),
        optimizer_settings={"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        threads=1,
    )
    out = tmp_path / "one"
    out.mkdir()
    kept = Worker(framework)
    kept.do("describe", request, out)
    traced = Request(**{**vars(request), "weights": str(out / "weights.safetensors")})
    for _ in range(2):
        kept.do("trace", traced, out)
    other = tmp_path / "other"
    other.mkdir()
    for what, asked in (("describe", request), ("trace", traced)):
        Worker(framework).do(what, asked, other)
    for folder in (out, other):
        (folder / "trace.json").write_text(
            json.dumps({**json.loads((folder / "trace.json").read_text()), "environment": {}})
        )
    files = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (out / file).read_bytes() == (other / file).read_bytes(), file
