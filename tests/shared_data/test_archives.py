from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_data import archives
from shared_data.errors import InputError
from shared_data.sources import open_source

MakeSet = Callable[..., Path]


def packed(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as opened:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                opened.write(file, prefix + file.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("prefix", ["", "archive/", "archive/v1/faces/"])
def test_a_zip_is_its_folder(make_set: MakeSet, tmp_path: Path, prefix: str) -> None:
    folder = make_set(real=3, fake=2)
    (folder / "data.csv").write_text("images_id,label\nfake_2,fake\nreal_1,real\n")
    (folder / "notes.txt").write_text("not extracted")
    source = open_source(str(packed(folder, tmp_path / "f.ZIP", prefix)), cache=tmp_path / "cache")
    assert [s.path.name for s in source.samples] == ["fake_2.png", "real_1.png"]
    assert source.samples[0].path.read_bytes() == (folder / "fake" / "fake_2.png").read_bytes()
    assert not list((tmp_path / "cache").rglob("notes.txt"))


def test_a_zip_is_extracted_once_and_mended(make_set: MakeSet, tmp_path: Path) -> None:
    archive = packed(make_set(real=2, fake=2), tmp_path / "f.zip")
    folder = archives.extract(archive, tmp_path)
    image = folder / "real" / "real_1.png"
    before = image.stat().st_mtime_ns
    assert archives.extract(archive, tmp_path) == folder
    assert image.stat().st_mtime_ns == before
    content = image.read_bytes()
    image.write_bytes(content[:10])
    archives.extract(archive, tmp_path)
    assert image.read_bytes() == content
    assert [path.name for path in (tmp_path / "zips").iterdir()] == [folder.name]


def test_two_processes_may_extract_at_once(make_set: MakeSet, tmp_path: Path) -> None:
    archive = packed(make_set(real=20, fake=20), tmp_path / "f.zip")
    script = (
        "import sys; from pathlib import Path; from shared_data.archives import extract\n"
        "print(len(list(extract(Path(sys.argv[1]), Path(sys.argv[2])).rglob('*.png'))))"
    )
    command = [sys.executable, "-c", script, str(archive), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["40", "40"]
    assert len(list((tmp_path / "cache" / "zips").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", "has .. in its path"),
        ("faces/../../evil.png", "has .. in its path"),
        ("faces\\..\\evil.png", "has .. in its path"),
        ("/etc/evil.png", "absolute path or a drive letter"),
        ("\\\\host\\evil.png", "absolute path or a drive letter"),
        ("C:/evil.png", "absolute path or a drive letter"),
        ("c:evil.txt", "absolute path or a drive letter"),
        ("faces/\x1b[2Jevil.png", "control characters"),
    ],
)
def test_one_bad_entry_refuses_the_whole_zip(
    make_set: MakeSet, tmp_path: Path, name: str, reason: str
) -> None:
    archive = packed(make_set(real=1, fake=1), tmp_path / "f.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, b"x")
    with pytest.raises(InputError, match=rf"entry .*evil.*{reason}") as caught:
        open_source(str(archive), cache=tmp_path / "cache")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_a_zip_are_refused(make_set: MakeSet, tmp_path: Path) -> None:
    archive = packed(make_set(real=1, fake=1), tmp_path / "f.zip")
    link = zipfile.ZipInfo("real/passwords.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"real/passwords\.png' is a symbolic link"):
        open_source(str(archive), cache=tmp_path / "cache")


def test_zip_bombs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened,
        opened.open("real/a.bmp", "w") as entry,
    ):
        for _ in range(260):
            entry.write(bytes(2**20))
    with pytest.raises(InputError, match=r"would expand to 260 MiB, more than 256 MiB"):
        open_source(str(archive), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_small_zips_may_compress_well(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(real=1, fake=1)
    (folder / "real" / "black.bmp").write_bytes(bytes(10**6))
    archive = tmp_path / "f.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in folder.rglob("*.*"):
            opened.write(file, file.relative_to(folder))
    assert len(open_source(str(archive), cache=tmp_path / "cache").samples) == 3


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 half a zip"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"f\.zip is not a zip that can be read"):
        open_source(str(tmp_path / "f.zip"), cache=tmp_path / "cache")


def test_damaged_zips_leave_nothing_behind(make_set: MakeSet, tmp_path: Path) -> None:
    archive = packed(make_set(real=2, fake=2), tmp_path / "f.zip")
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 255
    archive.write_bytes(content)
    with pytest.raises(InputError, match="download a damaged zip again"):
        open_source(str(archive), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "zips").iterdir())
