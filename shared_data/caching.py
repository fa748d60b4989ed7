"""Where built data is kept, and how a folder appears there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from shared_data.errors import InputError
from shared_data.leftovers import claimed, sweep


def cache_root() -> Path:
    """Return the cache folder: `PARITY_CACHE` if set, else the user's cache of this system."""
    chosen = os.environ.get("PARITY_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("parity-bench")


def publish(target: Path, build: Callable[[Path], None], valid: Callable[[Path], bool]) -> bool:
    """Fill a temporary folder with `build` and rename it to `target` in one step.

    Returns whether `target` is that folder, not one that another process built.

    Several processes may do this at once: each builds its own folder, the first rename wins and
    the others throw theirs away. A `target` that is there but not `valid` is moved out first, and
    what killed processes left half-built is removed.

    Raises:
        InputError: the cache cannot be written (permission, full disk).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, ".*")
        with claimed(lambda: _temporary(target)) as temporary:
            try:
                return _publish(target, temporary, build, valid)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise _unwritable(target, error) from error


def _temporary(target: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent))


def _publish(
    target: Path, temporary: Path, build: Callable[[Path], None], valid: Callable[[Path], bool]
) -> bool:
    built = temporary / "built"
    built.mkdir()
    build(built)
    if target.exists() and not valid(target):
        os.replace(target, temporary / "damaged")
    try:
        os.rename(built, target)
    except OSError:
        if not target.exists():  # the rename itself failed, nobody else was first
            raise
        return False
    return True


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write the cache folder {target.parent}: {error.strerror or error}. "
        "Free some space there, or set PARITY_CACHE to a folder that can be written."
    )
