"""Malformed images, zips and tables: small valid ones, spoilt. Each is known by seed and number.

Spoilt are single bytes (flipped, cut, moved, extreme), and what only a repaired file shows: huge
sizes behind a right checksum, a zip's names, sizes, flags and links, a table's cells.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmarks import wellformed
from benchmarks.wellformed import ROWS, encoded, entries, picture, zipped

SIDES = (0, 1, 24, 7071, 7072, 20_000, 65_535, 2**31 - 1, 2**31, 2**32 - 1)  # of an image, pixels
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02")  # of the two headers that a zip's entry has
# In both, from the version needed on: that, flags, method, date, CRC, sizes packed and unpacked,
# lengths of name and extra field. Place and bytes.
FIELDS = ((0, 2), (2, 2), (4, 2), (6, 4), (10, 4), (14, 4), (18, 4), (22, 2), (24, 2))
NAMES = (
    *("../" * up + "outside.png" for up in range(1, 7)),
    *("real/../../../outside.png", "real\\..\\outside.png", "/outside.png"),
    *("//host/outside.png", "C:\\outside.png", "c:outside.png", "real/./a.png", "./real/a.png"),
    *("real//a.png", "real/a.png/b.png", "real/real_1.png", "real/real_1.png/a.png", "real/a.png/"),
    *("real", "real/", "", "/", ".png", "real/.png", "real/..png", "real/...png", "~/a.png"),
    *("real/\x1b[2Ja.png", "real/a\n.png", "real/a\x00.png", "real/\u202egnp.a", "real/\u2028.png"),
    *("real/" + "a" * 252 + ".png", "a/" * 600 + "a.png", "real/" + "ä" * 150 + ".png"),
    *("real/<script>.png", "real/'\".png", "-rf/a.png", "real/-rf.png", "CON/a.png", "data.csv"),
    *("real/data.csv", "__MACOSX/a.png", "\U0001f600/a.png", "re\u0301al/a.png", "real/ .png"),
)
CELLS = (
    *("", " ", "real_1,fake", "../real/real_1,real", "/etc/passwd,real", "real_1,real,more"),
    *("real_1", "real_1,\x00", "\x1b[2J,real", "=1+1,real", '"real_1,real', '"real_1"x,real'),
    *("a" * 140_000 + ",real", "real_1," + "a" * 140_000, "images_id,label", "\u202e,real", ",,,,"),
)
IMAGES = ("png", "jpeg", "webp", "bmp", "gif", "tiff")
Random = np.random.Generator
Option = TypeVar("Option")


@dataclass(frozen=True)
class Case:
    """One malformed file: its kind, how it was spoilt, what it is called, what is in it."""

    kind: str
    spoilt: str
    name: str
    content: bytes


def draw(seed: int, number: int) -> Case:
    """Case `number` (from 0) of a `seed`; it depends on these two alone."""
    random = np.random.default_rng([seed, number])
    kind = _one(list(KINDS), random)
    valid, special, name = KINDS[kind]
    content = valid(random)
    way = special if random.random() < 0.5 else _one(BYTES, random)
    content = way(content, random)
    if way is special and random.random() < 0.25:
        content = _one(BYTES, random)(content, random)
    return Case(kind, way.__name__.strip("_"), name, content)


def _one(options: Sequence[Option], random: Random) -> Option:
    return options[int(random.integers(len(options)))]


def _image(kind: str) -> Callable[[Random], bytes]:
    return lambda random: _one(wellformed.images(kind), random)


def _zip(random: Random) -> bytes:
    return zipped(entries(), _one(METHODS, random))


def _table(random: Random) -> bytes:
    order = random.permutation(len(ROWS))
    return "\n".join(["images_id,label", *(ROWS[at] for at in order), ""]).encode()


# Ways to spoil any file.


def _flipped(content: bytes, random: Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(random.integers(1, 20)):
        spoilt[random.integers(len(spoilt))] ^= 1 << int(random.integers(8))
    return bytes(spoilt)


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.integers(len(content))]


def _spliced(content: bytes, random: Random) -> bytes:
    other = _one(wellformed.images(_one(IMAGES, random)), random)
    return content[: random.integers(len(content))] + other[random.integers(len(other)) :]


def _extreme(content: bytes, random: Random) -> bytes:
    """Whole numbers of 1, 2 or 4 bytes at random places become the least or the largest."""
    spoilt = bytearray(content)
    for _ in range(random.integers(1, 4)):
        size = _one((1, 2, 4), random)
        value = _one(EXTREMES, random) % 256**size
        at = int(random.integers(max(1, len(spoilt) - size)))
        in_bytes = value.to_bytes(size, "little")
        spoilt[at : at + size] = in_bytes if random.random() < 0.5 else in_bytes[::-1]
    return bytes(spoilt)


def _moved(content: bytes, random: Random) -> bytes:
    """A part left out, or there many times, or elsewhere."""
    start, end = sorted(random.integers(0, len(content), 2))
    part = content[start:end]
    at = int(random.integers(len(content)))
    times = _one((0, 1, 2, 50), random)
    return (content[:start] + content[end:])[:at] + part * times + content[at:]


BYTES = (_flipped, _cut, _spliced, _extreme, _moved)

# Ways that know the format, so that a checksum or a signature does not stop the file at the door.


def _resized(content: bytes, random: Random) -> bytes:
    """Another width and height in a PNG's header, or another byte in any chunk, and right CRCs."""
    spoilt, at = bytearray(content), 8
    width, height = _one(SIDES, random), _one(SIDES, random)
    if random.random() < 0.5:
        spoilt[16:24] = struct.pack(">II", width, height)
    else:
        spoilt = bytearray(_flipped(bytes(spoilt), random))
        spoilt[:16] = content[:16]
    while at + 12 <= len(spoilt):
        size = int.from_bytes(spoilt[at : at + 4], "big")
        end = at + 8 + size
        spoilt[end : end + 4] = zlib.crc32(spoilt[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(spoilt[: max(len(content), 33)])


def _declared(content: bytes, random: Random) -> bytes:
    """Another width and height in the header of a JPEG, WebP, BMP, GIF or TIFF."""
    width, height = _one(SIDES, random), _one(SIDES, random)
    spoilt = bytearray(content)
    frame = re.search(rb"\xff[\xc0-\xc2]", content)
    if content[:2] == b"\xff\xd8" and frame:
        at = frame.start() + 5
        spoilt[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif content[:2] == b"BM":
        spoilt[18:26] = struct.pack("<II", width, height)
    elif content[:3] == b"GIF":
        spoilt[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif content[:4] == b"II*\0":
        _declare_in_tiff(spoilt, random)
    else:
        at = int(random.integers(12, 34))  # VP8X, VP8 or VP8L: their sizes stand here
        spoilt[at : at + 3] = (width & 0xFFFFFF).to_bytes(3, "little")
    return bytes(spoilt)


def _declare_in_tiff(spoilt: bytearray, random: Random) -> None:
    """Another type, count or value in one of the entries of the first directory."""
    (start,) = struct.unpack_from("<I", spoilt, 4)
    (entries,) = struct.unpack_from("<H", spoilt, start)
    at = start + 2 + 12 * int(random.integers(entries))
    offset = _one((2, 4, 8), random)
    value = _one((*SIDES, *EXTREMES), random)
    spoilt[at + offset : at + 12] = (value % 2**32).to_bytes(8, "little")[: 12 - offset]


def _entered(content: bytes, random: Random) -> bytes:
    """A zip with one hostile entry more, or a wrong statement about an honest one."""
    info, data = zipfile.ZipInfo("real/more.png"), encoded(picture(99), "png")
    way = int(random.integers(8))
    if way < 4:
        info.filename = _one(NAMES, random)  # ZipInfo itself would cut a name at its first NUL
    elif way == 4:
        kind = _one((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR), random)
        info.external_attr, data = (kind | 0o777) << 16, b"../../../outside.png"
    elif way == 5:
        info.filename, data = _one(("real/more.png", "more.zip", "data.csv"), random), content
    elif way == 6:
        data = bytes(2**26)
    made = zipped([*entries(), (info, data)], _one(METHODS, random) if way != 6 else METHODS[1])
    return _misstated(made, random) if way == 7 else made


def _misstated(content: bytes, random: Random) -> bytes:
    """Another value in one field of an entry's two headers, or in one of them alone."""
    spoilt = bytearray(content)
    of = int(random.integers(len(ROWS)))
    headers = [[at.start() for at in re.finditer(start, content)][of] for start in SIGNATURES]
    field, size = _one(FIELDS, random)
    value = _one((*EXTREMES, 8, 9, 99, 2**20), random) % 256**size
    for header, behind in zip(headers, (4, 6), strict=True):
        if random.random() < 0.75:
            at = header + behind + field
            spoilt[at : at + size] = value.to_bytes(size, "little")
    return bytes(spoilt)


def _cells(content: bytes, random: Random) -> bytes:
    """A table with hostile rows, another header, encoding or end of lines."""
    lines = content.decode().splitlines()
    for _ in range(random.integers(1, 4)):
        lines.insert(int(random.integers(len(lines) + 1)), _one(CELLS, random))
    text = _one(("\n", "\r", "\r\n", "\n\n"), random).join(lines)
    return text.encode(_one(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"), random))


Way = Callable[[bytes, Random], bytes]
KINDS: dict[str, tuple[Callable[[Random], bytes], Way, str]] = {
    "png": (_image("png"), _resized, "real/more.png"),
    "jpeg": (_image("jpeg"), _declared, "real/more.jpg"),
    "webp": (_image("webp"), _declared, "real/more.webp"),
    "bmp": (_image("bmp"), _declared, "real/more.bmp"),
    "gif": (_image("gif"), _declared, "real/more.jpg"),
    "tiff": (_image("tiff"), _declared, "real/more.tiff"),
    "zip": (_zip, _entered, "set.zip"),
    "csv": (_table, _cells, "data.csv"),
}
