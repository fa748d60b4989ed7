"""What a killed process left half-made, told by a lock from what a living one is making.

The system lets go of a lock when its process ends, however that ends: no clock and no process
number has to be trusted, and two commands may work in one folder at once.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def claimed(make: Callable[[], Path]) -> Iterator[Path]:
    """The file or folder that `make` creates; until the block ends, `sweep` leaves it alone."""
    while True:
        path = make()
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # swept before it could be locked
            continue
        with suppress(OSError):  # a file system without locks: `sweep` gets none there either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            break
        os.close(handle)
    try:
        yield path
    finally:
        os.close(handle)


def sweep(folder: Path, pattern: str) -> None:
    """Remove what matches the glob `pattern` in `folder` and is claimed by no living process."""
    for path in folder.glob(pattern):
        with suppress(OSError):  # in use, or removed by another process meanwhile
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(handle)
