import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FACES
from PIL import Image

from shared_data.errors import InputError
from shared_data.sources import Source, cache_root, open_source

MakeSet = Callable[..., Path]
Draw = Callable[..., Image.Image]


def names(source: Source) -> list[str]:
    return [sample.path.relative_to(source.root).as_posix() for sample in source.samples]


def write_csv(root: Path, *rows: str, header: str = "images_id,label") -> None:
    (root / "data.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_labels_follow_sorted_names_and_rows_the_study(make_set: MakeSet) -> None:
    source = open_source(str(make_set(real=11, fake=2)))
    assert source.classes == ("fake", "real")
    assert names(source)[:4] == [f"real/real_{n}.png" for n in (1, 10, 11, 2)]
    assert names(source)[-2:] == ["fake/fake_1.png", "fake/fake_2.png"]
    assert [s.label for s in source.samples] == [1] * 11 + [0] * 2


@pytest.mark.real_data
@pytest.mark.skipif(not FACES.exists(), reason="the study's images are not here")
def test_without_its_table_the_study_has_the_same_order(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for path in (FACES / name).iterdir():
            (tmp_path / "faces" / name / path.name).symlink_to("../same.jpg")
    (tmp_path / "faces" / "same.jpg").write_bytes(b"")
    with_table, without = open_source(str(FACES)), open_source(str(tmp_path / "faces"))
    assert len(with_table.samples) == 1289
    assert names(with_table) == names(without)
    assert [s.label for s in with_table.samples] == [s.label for s in without.samples]


def test_table_decides_order_and_membership(make_set: MakeSet) -> None:
    root = make_set(real=3, fake=3)
    write_csv(root, "fake_2,fake", "real_3,real", "fake_1,fake")
    source = open_source(str(root))
    assert names(source) == ["fake/fake_2.png", "real/real_3.png", "fake/fake_1.png"]
    assert [s.label for s in source.samples] == [0, 1, 0]


def test_table_may_have_a_byte_order_mark_more_columns_and_windows_lines(make_set: MakeSet) -> None:
    root = make_set(real=1, fake=1)
    text = "\ufeffid,images_id,label\r\n7,real_1,real\r\n8, fake_1 ,fake\r\n"
    (root / "data.csv").write_bytes(text.encode())
    assert names(open_source(str(root))) == ["real/real_1.png", "fake/fake_1.png"]


def test_all_bad_rows_are_listed(make_set: MakeSet) -> None:
    root = make_set(real=2, fake=2)
    write_csv(root, "real_1,real", "real_9,real", "fake_1,robot", "real_1,real", "fake_1,fake")
    with pytest.raises(InputError) as caught:
        open_source(str(root))
    message = str(caught.value)
    assert "3 rows of" in message
    assert "line 3: there is no image real/real_9" in message
    assert "line 4: label 'robot' is not one of fake, real" in message
    assert "line 5: real/real_1 again, first in line 2" in message


def test_long_lists_of_bad_rows_are_cut(make_set: MakeSet) -> None:
    root = make_set(real=1, fake=1)
    write_csv(root, *(f"lost_{n},real" for n in range(25)))
    with pytest.raises(InputError, match="lost_19\n  and 5 more"):
        open_source(str(root))


def test_an_id_with_two_files_is_ambiguous(make_set: MakeSet, noise_image: Draw) -> None:
    root = make_set(real=1, fake=1)
    noise_image(9).save(root / "real" / "real_1.jpg")
    write_csv(root, "real_1,real", "fake_1,fake")
    with pytest.raises(InputError, match=r"real/real_1 may be real_1\.jpg or real_1\.png"):
        open_source(str(root))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name,label\nreal_1,real\n", "lacks the column images_id"),
        (b"", "lacks the column images_id and label"),
        (b"images_id,label\n\xff\xfe,real\n", "not a UTF-8 CSV table"),
        (b"images_id,label\n", "0 rows .* fewer than two classes"),
        (b"images_id,label\nreal_1,real\n", "1 rows .* fewer than two classes"),
        (b"images_id,label\n../real/real_1,real\n", r"no image real/\.\./real/real_1"),
        (b"images_id,label\nreal_1\n", "label '' is not one of"),
    ],
)
def test_bad_tables_are_refused(make_set: MakeSet, content: bytes, expected: str) -> None:
    root = make_set(real=1, fake=1)
    (root / "data.csv").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        open_source(str(root))


def test_any_number_of_classes_nested_to_any_depth(make_set: MakeSet, noise_image: Draw) -> None:
    root = make_set(real=2, deepfake=2, synthetic=2)
    deep = root / "deepfake" / "set a" / "b"
    deep.mkdir(parents=True)
    noise_image(50).save(deep / "x.JPG")
    source = open_source(str(root))
    assert source.classes == ("deepfake", "real", "synthetic")
    assert names(source)[-3:] == [
        "deepfake/deepfake_1.png",
        "deepfake/deepfake_2.png",
        "deepfake/set a/b/x.JPG",
    ]


def test_hidden_and_other_files_are_ignored(make_set: MakeSet) -> None:
    root = make_set(real=1, fake=1)
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        (root / "real" / name).write_bytes(b"x")
    for folder in (root / ".cache", root / "real" / ".trash", root / "__MACOSX"):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"x")
    (root / "docs").mkdir()
    (root / "loose.png").write_bytes(b"x")
    assert names(open_source(str(root))) == ["real/real_1.png", "fake/fake_1.png"]


def test_wrapping_folders_are_opened(make_set: MakeSet, tmp_path: Path) -> None:
    inner = make_set("outer/v1/faces", real=1, fake=1)
    (tmp_path / "outer" / "README.md").write_text("about")
    assert open_source(str(tmp_path / "outer")).root == inner.resolve()


def test_missing_path_suggests_its_neighbours(make_set: MakeSet) -> None:
    root = make_set("hardfakes", real=1, fake=1)
    with pytest.raises(
        InputError, match=r"no folder or zip .*hardfaks.*Did you mean .*hardfakes\?"
    ):
        open_source(str(root.parent / "hardfaks"))
    with pytest.raises(InputError, match=r"Did you mean synthetic\?"):
        open_source("sinthetic")


@pytest.mark.parametrize("spec", ["", "x" * 5000, "no/such/place"])
def test_impossible_paths_are_no_crash(spec: str) -> None:
    with pytest.raises(InputError, match="Give synthetic, a folder"):
        open_source(spec)


def test_folders_without_classes(tmp_path: Path, noise_image: Draw) -> None:
    with pytest.raises(InputError, match=r"no images.*Expected one folder per class"):
        open_source(str(tmp_path))
    noise_image(1).save(tmp_path / "loose.png")
    with pytest.raises(InputError, match="has images, but not in class folders"):
        open_source(str(tmp_path))


def test_one_class_is_not_enough(make_set: MakeSet) -> None:
    root = make_set(real=2)
    with pytest.raises(InputError, match=r"one class only, real\. Expected"):
        open_source(str(root))
    (root / "fake").mkdir()
    with pytest.raises(InputError, match="one class only, real; no images in fake"):
        open_source(str(root))


def test_splits_are_not_taken_for_classes(make_set: MakeSet) -> None:
    with pytest.raises(InputError, match=r"are splits, not classes \(Test, Train\)"):
        open_source(str(make_set(Train=1, Test=1)))


def test_links_must_stay_inside(make_set: MakeSet, tmp_path: Path, noise_image: Draw) -> None:
    root = make_set(real=2, fake=1)
    outside = tmp_path / "secret.png"
    noise_image(3).save(outside)
    inside = root / "real" / "again.png"
    inside.symlink_to(root / "real" / "real_1.png")
    assert len(open_source(str(root)).samples) == 4
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(InputError, match=r"again\.png is a symbolic link to .*secret\.png"):
        open_source(str(root))


@pytest.mark.parametrize("place", ["real/loop", "third"])
def test_linked_folders_are_refused(make_set: MakeSet, place: str) -> None:
    root = make_set(real=1, fake=1)
    (root / place).symlink_to(root / "fake", target_is_directory=True)
    with pytest.raises(InputError, match="is a symbolic link"):
        open_source(str(root))


@pytest.mark.parametrize(
    "name", ["re\x1b[2Jal", "re\nal", b"re\xffal".decode(errors="surrogateescape")]
)
def test_hostile_names_are_refused_and_escaped(
    make_set: MakeSet, name: str, noise_image: Draw
) -> None:
    root = make_set(real=1, fake=1)
    try:
        (root / name).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    noise_image(5).save(root / name / "a.png")
    with pytest.raises(InputError, match="control characters") as caught:
        open_source(str(root))
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_kaggle_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match=r"pip install 'parity-bench\[kaggle\]'"):
        open_source("kaggle:owner/name")


@pytest.mark.parametrize("spec", ["kaggle:", "kaggle:name", "kaggle:../x", "kaggle:a/b/c"])
def test_kaggle_names_have_two_parts(spec: str) -> None:
    with pytest.raises(InputError, match="Expected kaggle:owner/name"):
        open_source(spec)


def fake_kagglehub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> None:
    def dataset_download(handle: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        assert handle == "owner/name"
        return str(answer)

    module = types.ModuleType("kagglehub")
    module.dataset_download = dataset_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)


def test_kaggle_data_is_a_folder_like_any_other(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kagglehub(monkeypatch, make_set("versions/1", real=1, fake=1))
    source = open_source("kaggle:owner/name")
    assert source.spec == "kaggle:owner/name"
    assert len(source.samples) == 2


def test_kaggle_without_network_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kagglehub(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(InputError, match=r"ConnectionError: no route to host.*credentials"):
        open_source("kaggle:owner/name")


def test_cache_root_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("PARITY_CACHE")
    assert cache_root().name == "parity-bench"
