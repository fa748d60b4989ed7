"""Extract a zip of images into the cache, once, trusting nothing that its entries say."""

import errno
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
# What the system says of a name: too long, there already, a file where another entry has a folder.
_OF_THE_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ}


def extract(archive: Path, cache: Path) -> Path:
    """Extract the images and tables of `archive` to `cache/zips/SHA256` and return that folder.

    Other entries are left out. A later call finds the folder and extracts nothing; if files are
    missing or damaged there (by their CRC) it is extracted again.

    Raises:
        InputError: not a zip, damaged, encrypted, too large, or an entry points outside, has a
            name that cannot be a file's, or one that another entry has.
    """
    try:
        with open(archive, "rb") as file, zipfile.ZipFile(file) as opened:
            wanted = _checked(archive, opened)
            file.seek(0)
            target = cache / "zips" / hashlib.file_digest(file, "sha256").hexdigest()

            def complete(folder: Path) -> bool:
                return all(_holds(folder / info.filename, info) for info in wanted)

            def build(folder: Path) -> None:
                for info in wanted:
                    try:
                        _copy(opened, info, folder / info.filename)
                    except OSError as error:
                        if error.errno in _OF_THE_NAME:
                            why = f"has a name that no file can have here ({error.strerror})"
                            raise _refused(archive, info, why) from error
                        if error.errno == errno.EINVAL:  # a seek to before its start
                            raise zipfile.BadZipFile("an entry lies outside of it") from error
                        raise

            if not complete(target) or not target.is_dir():
                publish(target, build, complete)
            return target
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise InputError(  # which may quote a name of 65,535 bytes
            f"data: {archive} is not a zip that can be read: {str(error)[:200]}. "
            "Give a folder or a .zip, and download a damaged zip again."
        ) from error
    except PermissionError as error:
        raise InputError(f"data: {error.filename} cannot be read: {error.strerror}.") from error


def _copy(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # zipfile never gives more than the declared size, which was checked; x: no entry over another
    with opened.open(info) as entry, open(path, "xb") as copy:
        shutil.copyfileobj(entry, copy)


def _holds(path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a file is what an entry says."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    found = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found = zlib.crc32(part, found)
    return found == info.CRC


def _checked(archive: Path, opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries to extract; one bad entry, wanted or not, refuses the whole zip."""
    entries = opened.infolist()
    for info in entries:
        reason = _refusal(info)
        if reason:
            raise _refused(archive, info, reason)
    total = sum(info.file_size for info in entries)
    bound = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    if total > bound:
        raise InputError(
            f"data: {archive} is refused, it would expand to {total / 2**20:.0f} MiB, more than "
            f"{bound / 2**20:.0f} MiB for a zip of {archive.stat().st_size / 2**20:.1f} MiB. "
            "Unpack it yourself if you trust it, and give the folder."
        )
    return [info for info in entries if _wanted(PurePosixPath(info.filename))]


def _refused(archive: Path, info: zipfile.ZipInfo, reason: str) -> InputError:
    return InputError(
        f"data: {archive} is refused, its entry {printable(info.orig_filename)[:200]!r} "
        f"{reason}. Make the zip again from a plain folder of images."
    )


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
