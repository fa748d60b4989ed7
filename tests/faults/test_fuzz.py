"""Some hundred malformed files go through the loader; `python -m benchmarks.fuzz` takes 10,000."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished

from benchmarks import fuzz, malformed, wellformed
from shared_data.errors import InputError

COUNT = 300


def test_nothing_goes_wrong(command: Callable[..., Finished], tmp_path: Path) -> None:
    done = command("benchmarks.fuzz", "--count", str(COUNT), "--seed", "8", "--out", tmp_path)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "fuzz.json").read_text())
    counts = [sum(kind[outcome] for kind in result["kinds"].values()) for outcome in OUTCOMES]
    assert sum(counts) == COUNT and all(counts[:2])
    assert (counts[2], result["wrong"]) == (0, [])


OUTCOMES = ("accepted", "refused", "wrong")


@pytest.mark.parametrize("name", malformed.NAMES)
def test_a_zip_with_an_entry_of_any_name(tmp_path: Path, name: str) -> None:
    info = zipfile.ZipInfo("a.png")
    info.filename = name
    more = (info, wellformed.encoded(wellformed.picture(99), "png"))
    zipped = wellformed.zipped([*wellformed.entries(), more])
    outcome, why = fuzz.examined(malformed.Case("zip", "named", "set.zip", zipped), tmp_path)
    assert outcome != "wrong", why


def test_a_packed_zip_with_any_byte_turned_over(tmp_path: Path) -> None:
    content = wellformed.zipped(wellformed.entries(), zipfile.ZIP_DEFLATED)
    for at in range(0, len(content), 23):
        spoilt = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        case = malformed.Case("zip", "turned over", "set.zip", spoilt)
        assert judged(case, tmp_path / str(at)) != "wrong", at


@pytest.mark.parametrize("cell", malformed.CELLS, ids=lambda cell: cell[:20])
def test_a_table_with_a_row_of_any_content(tmp_path: Path, cell: str) -> None:
    table = "\n".join(["images_id,label", *wellformed.ROWS, cell]).encode()
    outcome, why = fuzz.examined(malformed.Case("csv", "row", "data.csv", table), tmp_path)
    assert outcome != "wrong", why


def test_a_case_is_known_by_its_number() -> None:
    cases = [malformed.draw(8, number) for number in range(60)]
    assert [malformed.draw(8, number) for number in reversed(range(60))] == cases[::-1]
    assert len({case.content for case in cases}) > 55
    assert {case.kind for case in cases} == set(malformed.KINDS)


def test_a_process_that_a_case_takes_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing does; so the process is one that ends at once."""
    monkeypatch.setattr(fuzz, "_examine", exit)
    found = list(fuzz.outcomes(8, first=3, count=2))
    assert [(each["number"], each["outcome"]) for each in found] == [(3, "wrong"), (4, "wrong")]
    assert "the process ended with" in found[0]["why"]


def judged(case: malformed.Case, place: Path) -> str:
    place.mkdir()
    return fuzz.examined(case, place)[0]


def test_what_is_wrong_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the ways in which the loader could go wrong, brought about."""
    case = malformed.Case("png", "nothing", "real/more.png", b"no image")
    assert judged(case, tmp_path / "as it is") == "refused"
    wrong = [
        _raising(KeyError("no key")),
        _raising(InputError("")),
        _raising(InputError("x" * 5000)),
        _raising(InputError("cannot write the cache: no such entry")),
        _writing("stray.png"),
        _writing("cache/images/.half"),
        _writing("data/real/real_1.png"),
        _writing("../outside.png"),
    ]
    for number, loader in enumerate(wrong):
        monkeypatch.setattr(fuzz, "load", loader)
        assert judged(case, tmp_path / str(number)) == "wrong", number


def _raising(error: Exception) -> Callable[..., object]:
    def load(*_: object, **__: object) -> object:
        raise error

    return load


def _writing(name: str) -> Callable[..., object]:
    def load(_: str, cache: Path, **__: object) -> object:
        path = cache.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        raise InputError("refused, and yet")

    return load
