from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared_data.errors import InputError

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

loading = pytest.importorskip("torch_impl.loading")

SOURCE = """
from dataclasses import dataclass
import torch
from torch import nn
from beside import SIZE


@dataclass
class Options:
    size: int = SIZE


class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, 2)
        self.norm = nn.BatchNorm1d(2)
        self.tied = self.fc

    def forward(self, x):
        return self.norm(self.fc(x))


class Small(Net):
    def __init__(self):
        super().__init__(3)


def build(options=Options()):
    return Net(options.size)


def broken():
    size = "3"
    return Net(size + 1)


def pair():
    return Net(3), None


def kind():
    return Small


model = Small()
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "beside.py").write_text("SIZE = 3\n")
    (tmp_path / "models" / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["build", "Small", "model"])
def test_functions_classes_and_modules_of_a_file(folder: Path, name: str) -> None:
    model = loading.load(f"models/nets.py:{name}")
    assert model.fc.weight.shape == (2, 3)


def test_a_function_of_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder / "models"))
    assert loading.load("nets:build").fc.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("models/nets.py", "expected module:function or path/to/file.py:function"),
        ("models/nets.py:", "expected module:function"),
        ("models/net.py:build", r"there is no file models/net\.py"),
        ("no_such_package.nets:build", "there is no module 'no_such_package'"),
        ("models/nets.py:biuld", "has no 'biuld': did you mean 'build'"),
        ("models/nets.py:broken", r"TypeError: .*nets\.py, line \d+, in broken: return Net\(size"),
        ("models/nets.py:Net", r"needs arguments \(size\).*\n.*\n.*Net\(size=\.\.\.\)"),
        ("models/nets.py:pair", "returned a builtins.tuple.*Return the model alone"),
        ("models/nets.py:kind", r"Return Small\(\), not the class"),
        ("models/nets.py:number", "is a int, not a function"),
    ],
)
def test_a_bad_name_says_what_is_wrong(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loading.load(spec)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build(:", r"SyntaxError.*bad\.py, line 1"),
        ("import no_such_thing_at_all", "No module named 'no_such_thing_at_all'.*line 1"),
        ("x = 1\nraise ValueError('of all things')", "ValueError: of all things.*line 2"),
        ("from . import other", "package.module:function"),
    ],
)
def test_a_file_that_cannot_be_imported(folder: Path, source: str, message: str) -> None:
    (folder / "bad.py").write_text(source)
    with pytest.raises(InputError, match=message):
        loading.load("bad.py:build")


def changed(folder: Path) -> dict[str, Any]:
    model = loading.load("models/nets.py:build")
    return {name: value + 1 for name, value in model.state_dict().items()}


def test_weights_from_either_kind_of_file(folder: Path) -> None:
    state = changed(folder)
    save_file(state, "w.safetensors")
    torch.save(state, "w.pt")
    for path in ("w.safetensors", "w.pt"):
        model = loading.load("models/nets.py:build", path)
        assert torch.equal(model.fc.weight, state["fc.weight"])
        assert torch.equal(model.norm.running_mean, state["norm.running_mean"])


def test_one_name_of_tied_weights_is_enough_and_no_counter(folder: Path) -> None:
    state = changed(folder)
    for name in ("tied.weight", "tied.bias", "norm.num_batches_tracked"):
        del state[name]
    save_file(state, "w.safetensors")
    model = loading.load("models/nets.py:build", "w.safetensors")
    assert torch.equal(model.tied.weight, state["fc.weight"])


def test_all_that_does_not_fit_is_listed(folder: Path) -> None:
    state = changed(folder)
    state["norm.weights"] = state.pop("norm.weight")
    state["fc.bias"] = torch.zeros(5)
    save_file(state, "w.safetensors")
    with pytest.raises(InputError) as error:
        loading.load("models/nets.py:build", "w.safetensors")
    message = str(error.value)
    assert "norm.weight: missing in the file; the model has it, [2]" in message
    assert "norm.weights: not in the model: did you mean 'norm.weight'?" in message
    assert "fc.bias: [5] in the file, [2] in the model" in message


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (Harm(), "holds more than tensors, and code in a file is not run"),
        ([1, 2], "holds a list: expected a state dict"),
        ({"state_dict": {}, "epoch": 3}, r"no tensors:\n  state_dict\n  epoch"),
        ({"module.fc.weight": torch.zeros(2, 3)}, "as DataParallel writes them"),
    ],
)
def test_what_is_no_state_dict_is_refused_and_never_run(
    folder: Path, saved: Any, message: str
) -> None:
    torch.save(saved, "w.pt")
    with pytest.raises(InputError, match=message):
        loading.load("models/nets.py:build", "w.pt")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", "there is no file of weights none.safetensors"),
        ("w.h5", r"expected one of \.safetensors, \.pt, \.pth"),
        ("broken.pt", "is no file of torch.save"),
        ("broken.safetensors", "is no safetensors file"),
    ],
)
def test_a_file_that_is_none_is_refused(folder: Path, name: str, message: str) -> None:
    for each in ("w.h5", "broken.pt", "broken.safetensors"):
        Path(each).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=message):
        loading.load("models/nets.py:build", name)
