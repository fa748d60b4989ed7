"""What a user's own code raised, in words: what, and in which line of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from parity.check import builders
from parity.check.builders import said
from shared_data.errors import InputError

NOT_THE_USERS = (str(Path(__file__).parent), str(Path(keras.__file__).parents[1]))
__all__ = ["NOT_THE_USERS", "attempt", "culprit", "said"]


def attempt(action: Callable[[], Any], what: str, advice: str) -> Any:
    """Run `action`. What it raises becomes an `InputError`: "{what}: {…} (line). {advice}"."""
    try:
        return action()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {said(error)}{culprit(error)}. {advice}") from error


def culprit(error: BaseException) -> str:
    """Where in the user's code an exception was raised; empty where none of it was running."""
    return builders.culprit(error, NOT_THE_USERS)
