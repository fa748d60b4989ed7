"""What a user's own code raised, in words: what, and in which line of theirs."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from shared_data.errors import InputError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Keras' messages have them


def attempt(action: Callable[[], Any], what: str, advice: str) -> Any:
    """Run `action`. What it raises becomes an `InputError`: "{what}: {…} (line). {advice}"."""
    try:
        return action()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {said(error)}{culprit(error)}. {advice}") from error


def said(error: BaseException) -> str:
    """An exception in one line: its type and the start of its message."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    name = type(error).__name__
    return f"{name}: {text[:500].rstrip('.')}" if text else name


def culprit(error: BaseException) -> str:
    """Where in the user's code an exception was raised; empty where none of it was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    installed = Path(keras.__file__).parents[1]
    ours = (str(Path(__file__).parent), str(installed), "<")
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if not each.filename.startswith(ours) and "importlib" not in each.filename
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name}: {last.line})"
