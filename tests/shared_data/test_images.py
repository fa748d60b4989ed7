from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FACES, ROOT
from PIL import Image

from shared_data.cleaning import average_hash, find_duplicates
from shared_data.errors import InputError
from shared_data.images import ImageSet, prepare
from shared_data.sources import open_source

MakeSet = Callable[..., Path]
Draw = Callable[..., Image.Image]


def prepared(folder: Path, size: int = 16, **options: object) -> ImageSet:
    cache = folder.parent / "cache"
    return prepare(open_source(str(folder)), size, cache=cache, **options)  # type: ignore[arg-type]


def folders(root: Path) -> list[Path]:
    return list((root.parent / "cache" / "images").iterdir())


def test_rows_files_labels_pixels_and_hashes_belong_together(make_set: MakeSet) -> None:
    root = make_set(real=3, fake=2)
    images = prepared(root)
    assert images.images.shape == (5, 16, 16, 3) and images.images.dtype == np.uint8
    assert images.labels.tolist() == [1, 1, 1, 0, 0]
    for row, file in enumerate(images.files):
        picture = Image.open(root / file)
        resized = picture.resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(images.images[row], np.asarray(resized))
        assert images.hashes[row] == average_hash(picture)


def test_bicubic_is_what_pillow_and_so_the_study_does_by_default(noise_image: Draw) -> None:
    image = noise_image(1, (300, 300))
    default, bicubic = image.resize((256, 256)), image.resize((256, 256), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(default), np.asarray(bicubic))


def test_a_second_start_decodes_nothing(make_set: MakeSet) -> None:
    root = make_set(real=3, fake=2)
    calls: list[tuple[int, int]] = []
    first = prepared(root, on_progress=lambda *at: calls.append(at))
    assert calls == [(n, 5) for n in range(1, 6)]
    second = prepared(root, on_progress=lambda *at: calls.append(at))
    assert len(calls) == 5
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.digest, first.hashes) == (second.digest, second.hashes)


def test_the_digest_follows_content_name_label_and_order(
    make_set: MakeSet, noise_image: Draw, tmp_path: Path
) -> None:
    root = make_set(real=2, fake=2)
    digests = [prepared(root).digest]
    (root / "data.csv").write_text(
        "images_id,label\nfake_1,fake\nfake_2,fake\nreal_1,real\nreal_2,real\n"
    )
    digests.append(prepared(root).digest)
    (root / "data.csv").unlink()
    (root / "real" / "real_2.png").rename(root / "real" / "real_3.png")
    digests.append(prepared(root).digest)
    noise_image(99).save(root / "real" / "real_3.png")
    digests.append(prepared(root).digest)
    assert len(set(digests)) == 4
    root.rename(tmp_path / "moved")
    assert prepared(tmp_path / "moved").digest == digests[-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images.npy").write_bytes(
            (folder / "images.npy").read_bytes()[:-7]
        ),
        lambda folder: (folder / "images.npy").write_bytes(
            (folder / "images.npy").read_bytes()[:-1] + b"x"
        ),
        lambda folder: (folder / "images.npy").write_bytes(b""),
        lambda folder: (folder / "images.npy").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: (folder / "index.json").write_text(
            json.dumps(json.loads((folder / "index.json").read_text()) | {"hashes": []})
        ),
    ],
    ids=["cut", "changed", "emptied", "gone", "index gone", "no json", "list", "hashes gone"],
)
def test_a_damaged_cache_is_rebuilt(make_set: MakeSet, damage: Callable[[Path], None]) -> None:
    root = make_set(real=3, fake=2)
    first = prepared(root)
    expected = np.array(first.images)
    (folder,) = folders(root)
    damage(folder)
    second = prepared(root)
    np.testing.assert_array_equal(second.images, expected)
    assert second.hashes == first.hashes
    assert folders(root) == [folder]


def test_two_processes_may_prepare_at_once(make_set: MakeSet, tmp_path: Path) -> None:
    root = make_set(real=20, fake=20)
    script = (
        "import sys; from pathlib import Path\n"
        "from shared_data.batches import open_source, prepare\n"
        "print(prepare(open_source(sys.argv[1]), 64, cache=Path(sys.argv[2])).images.sum())"
    )
    command = [sys.executable, "-c", script, str(root), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sums[0] == sums[1] == prepared(root, 64).images.sum()
    assert len(folders(root)) == 1


def test_all_bad_files_are_listed_with_their_reasons(make_set: MakeSet) -> None:
    root = make_set(real=3, fake=3)
    (root / "real" / "empty.png").write_bytes(b"")
    (root / "fake" / "text.jpg").write_text("not an image")
    whole = (root / "fake" / "fake_1.png").read_bytes()
    (root / "fake" / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        prepared(root)
    message = str(caught.value)
    assert "3 of 9 images of" in message
    assert "real/empty.png: the file is empty" in message
    assert "fake/text.jpg: not an image" in message
    assert "fake/half.png: cannot be decoded" in message
    assert not folders(root)


def test_long_lists_of_bad_files_are_cut(make_set: MakeSet) -> None:
    root = make_set(real=1, fake=1)
    for number in range(25):
        (root / "real" / f"bad_{number:02}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"bad_19\.png: the file is empty\n  and 5 more"):
        prepared(root)


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_impossible_sizes_are_refused(make_set: MakeSet, size: int) -> None:
    with pytest.raises(InputError, match=f"image size: got {size}, expected 1 to 4096"):
        prepared(make_set(real=1, fake=1), size)


def test_an_unwritable_cache_is_explained(make_set: MakeSet, tmp_path: Path) -> None:
    root = make_set(real=1, fake=1)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write the cache folder .*PARITY_CACHE"):
        prepared(root)


def test_memory_does_not_grow_with_the_number_of_images(make_set: MakeSet) -> None:
    root = make_set(real=300, fake=100)
    tracemalloc.start()
    try:  # a slow disk lets the decoding threads run ahead, as far as they may
        images = prepared(root, 192, on_progress=lambda *_: time.sleep(0.004))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert images.images.nbytes > 44e6
    assert peak < 22e6


@pytest.mark.real_data
@pytest.mark.skipif(not FACES.exists(), reason="the study's images are not here")
def test_a_second_start_on_the_study_takes_less_than_a_second(tmp_path: Path) -> None:
    source = open_source(str(FACES))
    prepare(source, 64, cache=tmp_path)
    # In a process of its own: in this one, threads of the frameworks would count as well.
    second = f"""
import time
from pathlib import Path
from shared_data.images import prepare
from shared_data.sources import open_source
source, started = open_source({str(FACES)!r}), time.process_time()
prepare(source, 64, cache=Path({str(tmp_path)!r}))
print(time.process_time() - started)
"""
    done = subprocess.run(
        [sys.executable, "-c", second], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(done.stdout) < 1
    images = prepare(source, 64, cache=tmp_path)
    assert images.images.shape == (1289, 64, 64, 3)
    assert find_duplicates(images.hashes, images.labels) == {}
