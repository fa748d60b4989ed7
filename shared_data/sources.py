"""Find the labelled images of a data set: a folder, a zip, a Kaggle data set or synthetic faces.

Nothing is decoded here: a `Source` is an ordered list of files with their labels. The order
decides the split, so it is fixed: the rows of `data.csv`, or without one the classes in
descending name order and inside a class the file stems sorted as strings. On the study's data
both give the same order.
"""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared_data import archives
from shared_data.caching import cache_root
from shared_data.errors import InputError, listed, printable
from shared_data.tables import read_rows

__all__ = ["IMAGE_SUFFIXES", "Sample", "Source", "cache_root", "open_source"]

IMAGE_SUFFIXES = archives.IMAGE_SUFFIXES
_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}
_LAYOUT = (
    "Expected one folder per class, at least two, such as real/ and fake/ "
    f"({', '.join(sorted(IMAGE_SUFFIXES))})."
)


@dataclass(frozen=True)
class Sample:
    """One image file and its label, the index of its class in `Source.classes`."""

    path: Path
    label: int


@dataclass(frozen=True)
class Source:
    """A data set as found: `classes` sorted by name (fake = 0, real = 1), `samples` in row order.

    Every path of `samples` lies below `root`, the folder that holds the class folders.
    """

    spec: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]


def open_source(
    spec: str,
    *,
    synthetic_images: int = 1289,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Open `synthetic`, a folder, a `.zip` of such a folder, or `kaggle:owner/name`.

    Args:
        spec: what to open. Zips and synthetic faces are put into the cache, once.
        synthetic_images: how many faces `synthetic` has, in the study's ratio 589 : 700.
        cache: the cache folder; `cache_root()` by default.
        on_progress: called with (done, total) while synthetic faces are drawn.

    Raises:
        InputError: there is no such data set, or it is not one that can be used.
    """
    cache = cache or cache_root()
    if spec == "synthetic":
        from shared_data import synthetic

        count_real, count_fake = synthetic.study_ratio(synthetic_images)
        folder = synthetic.ensure(count_real, count_fake, cache, on_progress=on_progress)
    elif spec.startswith("kaggle:"):
        folder = _download_kaggle(spec)
    else:
        folder = Path(os.path.expanduser(spec))
        if not spec or not os.path.exists(folder):
            raise _not_found(spec, folder)
        if folder.is_file():
            folder = archives.extract(folder, cache)
    return _read_folder(spec, folder)


def _not_found(spec: str, path: Path) -> InputError:
    hint = "Give synthetic, a folder, a .zip or kaggle:owner/name."
    if os.path.isdir(path.parent) and os.access(path.parent, os.R_OK):
        names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
        near = difflib.get_close_matches(path.name, [*names, "synthetic"], n=3, cutoff=0.5)
        if near:
            near = [name if name == "synthetic" else str(path.parent / name) for name in near]
            hint = f"Did you mean {printable(' or '.join(near))}?"
    return InputError(f"data: there is no folder or zip '{printable(spec)}'. {hint}")


def _download_kaggle(spec: str) -> Path:
    handle = spec.removeprefix("kaggle:")
    if not re.fullmatch(r"[\w-]+/[\w-]+(/versions/\d+)?", handle):
        raise InputError(
            f"data: {printable(spec)} is not a Kaggle data set. Expected kaggle:owner/name, the "
            "two names in the address kaggle.com/datasets/owner/name."
        )
    try:
        import kagglehub
    except ImportError as error:
        raise InputError(
            f"data: {spec} needs the package kagglehub, which is not installed. "
            "Run pip install 'parity-bench[kaggle]', or download the data set with a browser "
            "and give the zip."
        ) from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub passes on whatever its HTTP client raises
        raise InputError(
            f"data: Kaggle did not give {spec}: {type(error).__name__}: {error}. "
            "Check the name, the network and your Kaggle credentials (kaggle.com/docs/api), or "
            "download the data set with a browser and give the zip."
        ) from error


def _read_folder(spec: str, folder: Path) -> Source:
    try:
        root = _unwrapped(folder.resolve())
        found = {sub.name: _images_below(sub, root) for sub in _subfolders(root)}
    except OSError as error:
        raise InputError(f"data: {error.filename} cannot be read: {error.strerror}.") from error
    _refuse_unprintable(root, found)
    classes = tuple(sorted(name for name, images in found.items() if images))
    if len(classes) < 2:
        raise _too_few_classes(root, classes, found)
    if {name.lower() for name in classes} <= _SPLIT_NAMES:
        raise InputError(
            f"data: the folders of {root} are splits, not classes ({', '.join(classes)}). "
            f"The split is drawn here from one set: give one of them, such as "
            f"{root / classes[0]}."
        )
    images = {name: found[name] for name in classes}
    if (root / "data.csv").is_file():
        rows = read_rows(root / "data.csv", images, lambda path: _key(path, root))
        if len({name for _, name in rows}) < 2:
            raise InputError(
                f"data: the {len(rows)} rows of {root / 'data.csv'} name fewer than two classes."
            )
    else:
        rows = [
            (path, name)
            for name in reversed(classes)
            for _, path in sorted((_key(path, root), path) for path in images[name])
        ]
    samples = tuple(Sample(path, classes.index(name)) for path, name in rows)
    return Source(spec, root, classes, samples)


def _key(path: Path, root: Path) -> str:
    """Return the path inside its class folder, without suffix; for flat folders, the stem."""
    return Path(*path.relative_to(root).with_suffix("").parts[1:]).as_posix()


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX"
    )


def _unwrapped(folder: Path) -> Path:
    """Go down while a folder holds nothing but one folder of folders, as zips often do."""
    while not (folder / "data.csv").exists():
        inside = _subfolders(folder)
        if len(inside) != 1 or inside[0].is_symlink() or not _subfolders(inside[0]):
            break
        folder = inside[0]
    return folder


def _images_below(folder: Path, root: Path) -> list[Path]:
    """List the images below a class folder; links must stay inside `root`.

    A linked folder is refused even inside: it would count images twice, or run in a circle.
    """
    images = []
    if folder.is_symlink():
        raise _link(folder)
    for here, folders, files in os.walk(folder, onerror=_raise):
        for name in folders:
            if (Path(here) / name).is_symlink():
                raise _link(Path(here) / name)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(here) / name
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise _link(path)
            images.append(path)
    return images


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave out a folder that cannot be read, without a word


def _link(path: Path) -> InputError:
    return InputError(
        f"data: {printable(str(path))} is a symbolic link to {printable(os.readlink(path))}. "
        "Links to folders and links that leave the data set are refused: copy the images, or "
        "give the folder that the link points to."
    )


def _refuse_unprintable(root: Path, found: dict[str, list[Path]]) -> None:
    names = [name for name in found if not name.isprintable()]
    for images in found.values():
        inside = (str(path.relative_to(root)) for path in images)
        names += [name for name in inside if not name.isprintable()]
    if names:
        raise InputError(
            f"data: {len(names)} names in {root} contain control characters or are not valid "
            f"text:\n{listed([printable(name) for name in names])}\nRename them."
        )


def _too_few_classes(
    root: Path, classes: tuple[str, ...], found: dict[str, list[Path]]
) -> InputError:
    if classes:
        empty = sorted(set(found) - set(classes))
        more = f"; no images in {', '.join(empty)}" if empty else ""
        return InputError(f"data: {root} has one class only, {classes[0]}{more}. {_LAYOUT}")
    loose = any(p.suffix.lower() in IMAGE_SUFFIXES for p in root.iterdir())
    where = "but not in class folders" if loose else "nor in any folder below it"
    what = "has images," if loose else "has no images,"
    return InputError(f"data: {root} {what} {where}. {_LAYOUT}")
