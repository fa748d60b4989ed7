"""Read the rows of a `data.csv`: which images belong to a data set, in which order."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shared_data.errors import InputError, listed, printable

_LONGEST = 100  # characters of a cell in a message


def read_rows(
    table: Path, images: Mapping[str, Sequence[Path]], key: Callable[[Path], str]
) -> list[tuple[Path, str]]:
    """Return (file, class name) for each row of `table`, in its order.

    Args:
        table: a UTF-8 CSV file with the columns `images_id` and `label`; others are ignored.
        images: the images found, by class name.
        key: gives the `images_id` of an image.

    Raises:
        InputError: not such a table, or rows that name no image, an unknown label, an ambiguous
            image or one that was named before; all of them are listed.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for name, paths in images.items():
        for path in paths:
            files.setdefault((name, key(path)), []).append(path)
    rows, bad = [], []
    seen: dict[tuple[str, str], int] = {}
    for line, image, name in _cells(table):
        matches = files.get((name, image), [])
        if name not in images:
            bad.append(
                f"line {line}: label '{_shown(name)}' is not one of {', '.join(sorted(images))}"
            )
        elif not matches:
            bad.append(f"line {line}: there is no image {name}/{_shown(image)}")
        elif len(matches) > 1:
            both = " or ".join(path.name for path in sorted(matches))
            bad.append(f"line {line}: {name}/{image} may be {both}")
        elif (name, image) in seen:
            bad.append(f"line {line}: {name}/{image} again, first in line {seen[name, image]}")
        else:
            rows.append((matches[0], name))
            seen[name, image] = line
    if bad:
        raise InputError(
            f"data: {len(bad)} rows of {table} are wrong:\n{listed(bad)}\n"
            "images_id is the file name without suffix, in the folder of its label."
        )
    return rows


def _shown(cell: str) -> str:
    """A cell as a message can hold it: a file in which a quote is missing may be one cell."""
    return printable(cell if len(cell) <= _LONGEST else f"{cell[:_LONGEST]}…")


def _cells(table: Path) -> list[tuple[int, str, str]]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"images_id", "label"} - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"data: {table} lacks the column {' and '.join(sorted(missing))}. Its first "
                    "line must be images_id,label."
                )
            return [
                (reader.line_num, (row["images_id"] or "").strip(), (row["label"] or "").strip())
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"data: {table} is not a UTF-8 CSV table: {error}.") from error
