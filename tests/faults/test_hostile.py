"""Names that a terminal or a page would obey, and files of models that carry code.

Names with control characters are refused (tests/shared_data/test_sources.py); the others go their
way, from the folder to the page. tests/parity/test_report_page.py looks at the page more closely.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import recording, report_of
from rich.console import Console

from benchmarks import wellformed
from parity.criterion import evaluate
from parity.recording import Recording
from parity.report import figures, page, table, to_json
from shared_data.batches import load
from shared_data.errors import InputError, printable

NAMES = (
    *("<script>alert(1)<", '"><img src=x onerror=alert(1)>', "<table><td>", "&amp;", "'--"),
    *("[red]", "[", "[bold", "]]", "\\[", "{{ 7 * 7 }}", "{0}", "%s%n", "$\\frac{", "$$", "a|b"),
    *(
        "-rf",
        "--help",
        "=1+1",
        "~",
        "*",
        "`id`",
        "$(id)",
        " ",
        "  a",
        "nul",
        "😀",
        "ä" * 127,
        "e\u0301",
    ),
)
OBEYED = (
    "a\nb",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\r",
    "\u202egnp",
    "\u2066a",
    "\x9b2J",
    "\udcff",
)


def dataset(root: Path, names: tuple[str, ...]) -> Path:
    """Eight images of each class."""
    for at, name in enumerate(names):
        for number in range(8):
            path = root / name / f"{number}{name[:20]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            wellformed.picture(8 * at + number).save(path)
    return root


class Elements(HTMLParser):
    """Names of the elements and attributes of a page, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def results(root: Path, names: tuple[str, ...], out: Path) -> tuple[dict[str, Any], str]:
    """Report and printed text of arms whose data have these classes; the page lies in `out`."""
    data = load(str(dataset(root, names)), image_size=8, cache=out.parent / "cache").summary()
    arms = []
    right = evaluate(np.eye(len(names)), np.arange(len(names)))
    evaluation = dict.fromkeys(("train", "validation", "test"), right)
    for arm in ("keras-p0", "torch-p0"):
        recording(arm, data=data, evaluation=evaluation).write(out / arm)
        arms.append(Recording.read(out / arm))
    report: dict[str, Any] = report_of(*arms)
    (out / "report.json").write_text(to_json(report))
    figures.curves(report, out)
    printed = io.StringIO()
    table.render(report, Console(file=printed, width=2000, force_terminal=False))
    page.write(out)
    return report, printed.getvalue()


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Elements]:
    folder = tmp_path_factory.mktemp("harmless")
    _, printed = results(folder / "set", ("fake", "real"), folder / "out")
    return printed, Elements((folder / "out" / "report.html").read_text())


@pytest.mark.parametrize(
    "names", [NAMES, ("[red]", "<script>alert(1)<"), ("$\\frac{", "--help"), ("[", "{{ 7 * 7 }}")]
)
def test_classes_of_any_printable_name(
    tmp_path: Path, harmless: tuple[str, Elements], names: tuple[str, ...]
) -> None:
    """All at once they are rows of a table, two are columns."""
    report, printed = results(tmp_path / "set", names, tmp_path / "out")
    assert set(report["data"]["splits"]["train"]) == set(names)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["data"] == report["data"]
    found = Elements((tmp_path / "out" / "report.html").read_text())
    assert found.names == harmless[1].names
    for name in names:
        assert name in printed
        assert any(name.strip() in text for text in found.texts)
    assert all(line.isprintable() for line in printed.split("\n"))
    more = len(names) - 2 if len(names) > 2 else 0  # rows
    assert printed.count("\n") == harmless[0].count("\n") + more


@pytest.mark.parametrize("name", ["[red]<script>alert(1)< $\\frac{", "".join(OBEYED)])
def test_a_data_set_whose_own_name_is_hostile(
    tmp_path: Path, harmless: tuple[str, Elements], name: str
) -> None:
    root = named(tmp_path, name)
    report, printed = results(root, ("fake", "real"), tmp_path / "out")
    assert report["data"]["source"] == str(root)
    assert printable(str(root)) in printed
    assert all(line.isprintable() for line in printed.split("\n"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert Elements(page).names == harmless[1].names
    assert all(line.isprintable() for line in page.split("\n"))


@pytest.mark.parametrize("name", OBEYED)
def test_what_a_terminal_obeys_is_escaped_in_every_refusal(tmp_path: Path, name: str) -> None:
    """As the name of a class, an image, and a folder around what is no data set."""
    hostile = named(tmp_path / "class", name)
    root = dataset(hostile.parent, ("fake", "real"))
    wellformed.picture(99).save(hostile / "a.png")
    image = dataset(tmp_path / "image", ("fake", "real"))
    wellformed.picture(99).save(image / "real" / f"{name}.png")
    around = dataset(named(tmp_path / "around", name), ("alone",)).parent
    for spec in (root, image, around):
        with pytest.raises(InputError) as caught:
            load(str(spec), image_size=8, cache=tmp_path / "cache")
        lines = str(caught.value).split("\n")
        assert all(line.isprintable() for line in lines)
        assert printable(name) in str(caught.value) or name in str(caught.value)


def named(folder: Path, name: str) -> Path:
    """A new folder of that name below `folder`."""
    try:
        (folder / name).mkdir(parents=True)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    return folder / name


class Harm:
    """Unpickled, it makes the folder `harm`."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def _scripted(path: Path) -> None:
    import torch

    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), str(path))


def _of_torch(saved: Any, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import torch

        torch.save(saved, path, **options)

    return write


CODE: dict[str, Callable[[Path], object]] = {
    "within a state dict": _of_torch({"weight": Harm()}),
    "before zip archives": _of_torch({"weight": Harm()}, _use_new_zipfile_serialization=False),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps({"weight": Harm()})),
    "TorchScript": _scripted,
}


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_weights_of_torch_that_carry_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, suffix: str
) -> None:
    from torch_impl import loading

    monkeypatch.chdir(tmp_path)
    CODE[case](Path(f"w{suffix}"))
    Path("net.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(2, 3)\n")
    with pytest.raises(InputError, match=f"w{suffix} (holds more than tensors|is no file of)"):
        loading.load("net.py:build", f"w{suffix}")
    assert not Path("harm").exists()


def _layer(module: str, kind: str, /, **config: Any) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        made = {"module": module, "class_name": kind, "config": config, "registered_name": None}
        model["config"]["layers"][1] = made

    return change


def _whole(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda model: model.update(values)


MODELS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a command": _whole(module="os", class_name="function", config="system", registered_name="s"),
    "a process": _layer("subprocess", "Popen", args=["touch", "harm"]),
    "a module of PyTorch": _layer("keras.layers", "TorchModuleWrapper", module="gASVAA=="),
    "a saved function": _layer("keras.layers", "TFSMLayer", filepath="harm"),
    "a file of the machine": _layer("keras.layers", "StringLookup", vocabulary="/etc/passwd"),
}


@pytest.mark.parametrize("case", [*MODELS, "outside"])
def test_a_model_of_keras_that_carries_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    import keras

    from keras_impl import loading

    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save("good.keras")
    with zipfile.ZipFile("good.keras") as good, zipfile.ZipFile("bad.keras", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "config.json" and case in MODELS:
                model = json.loads(content)
                MODELS[case](model)
                content = json.dumps(model).encode()
            bad.writestr(name, content)
        if case == "outside":
            bad.writestr("../" * len(tmp_path.parts) + str(tmp_path / "harm")[1:], "written")
            bad.writestr(str(tmp_path / "harm"), "written")
    if case == "outside":  # what is in it besides the model is left where it is
        loading.load("bad.keras")
    else:
        with pytest.raises(InputError, match=r"bad\.keras"):
            loading.load("bad.keras")
    assert sorted(os.listdir()) == ["bad.keras", "good.keras"]
