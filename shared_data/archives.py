"""Extract a zip of images into the cache, once, trusting nothing that its entries say."""

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from shared_data.caching import publish
from shared_data.errors import InputError, printable

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

# Images hardly compress: a zip that grows a hundredfold is no image collection.
MAX_BYTES = 20 * 2**30
MAX_RATIO = 100
FREE_BYTES = 2**28  # small zips of flat test images may compress any amount up to this


def extract(archive: Path, cache: Path) -> Path:
    """Extract the images and tables of `archive` to `cache/zips/SHA256` and return that folder.

    Other entries are left out. A later call finds the folder and extracts nothing; if files are
    missing there it is extracted again.

    Raises:
        InputError: not a zip, damaged, encrypted, too large, or an entry points outside.
    """
    try:
        with open(archive, "rb") as file, zipfile.ZipFile(file) as opened:
            wanted = _checked(archive, opened)
            file.seek(0)
            target = cache / "zips" / hashlib.file_digest(file, "sha256").hexdigest()

            def complete(folder: Path) -> bool:
                return all(_size(folder / info.filename) == info.file_size for info in wanted)

            def build(folder: Path) -> None:
                for info in wanted:
                    path = folder / info.filename
                    path.parent.mkdir(parents=True, exist_ok=True)
                    # zipfile never gives more than the declared size, which was checked
                    with opened.open(info) as entry, open(path, "wb") as copy:
                        shutil.copyfileobj(entry, copy)

            if not complete(target) or not target.is_dir():
                publish(target, build, complete)
            return target
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise InputError(
            f"data: {archive} is not a zip that can be read: {error}. "
            "Give a folder or a .zip, and download a damaged zip again."
        ) from error
    except PermissionError as error:
        raise InputError(f"data: {error.filename} cannot be read: {error.strerror}.") from error


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _checked(archive: Path, opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries to extract; one bad entry, wanted or not, refuses the whole zip."""
    entries = opened.infolist()
    for info in entries:
        reason = _refusal(info)
        if reason:
            raise InputError(
                f"data: {archive} is refused, its entry {printable(info.orig_filename)!r} "
                f"{reason}. Make the zip again from a plain folder of images."
            )
    total = sum(info.file_size for info in entries)
    bound = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    if total > bound:
        raise InputError(
            f"data: {archive} is refused, it would expand to {total / 2**20:.0f} MiB, more than "
            f"{bound / 2**20:.0f} MiB for a zip of {archive.stat().st_size / 2**20:.1f} MiB. "
            "Unpack it yourself if you trust it, and give the folder."
        )
    return [info for info in entries if _wanted(PurePosixPath(info.filename))]


def _refusal(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute path or a drive letter"
    if ".." in re.split(r"[/\\]", name):
        return "has .. in its path"
    if not name.isprintable():
        return "has control characters in its name"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link"
    if info.flag_bits & 0x1:
        return "is encrypted"
    return ""


def _wanted(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and (path.suffix.lower() in IMAGE_SUFFIXES or path.name == "data.csv")
