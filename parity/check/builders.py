"""A user's code by its name: found, imported and called, its failures told with the line.

The same for both wings, each of which says what a builder has to return.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from shared_data.errors import InputError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Keras' messages have them
_OURS = str(Path(__file__).parent)
_run: dict[Path, tuple[bytes, ModuleType]] = {}  # files of users as they were when they were run


def find(spec: str, forms: str, inside: Sequence[str]) -> Any:
    """What `module:function` or `path/file.py:function` names.

    Args:
        forms: what may be given, in words.
        inside: folders of code that is not the user's, which no failure is blamed on.

    Raises `InputError` where there is no such thing, or importing it fails.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(
            f"{spec!r} does not say which function builds the model: expected {forms}, such as "
            "my_models.py:build."
        )
    load = _file if place.endswith(".py") else _module
    module = load(spec, place, forms, inside)
    if not hasattr(module, name):
        names = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        raise InputError(f"{spec}: {place} has no {name!r}{meant(name, names)}")
    return getattr(module, name)


def builder(spec: str, build: Any, expected: str, inside: Sequence[str]) -> Callable[[], Any]:
    """`build`, checked to be callable without arguments; what it raises becomes an `InputError`.

    `expected` is what it has to return, in words: `a keras.Model`.
    """
    if not callable(build):
        raise InputError(
            f"{spec} is a {type(build).__name__}, not a function: expected a function or class "
            f"that returns {expected}."
        )
    needed = _needed(build)
    if needed:
        name = spec.rpartition(":")[2]
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)}): expected a function that takes none. "
            f"Write one that gives them, such as\n  def build():\n"
            f"      return {name}({', '.join(f'{each}=...' for each in needed)})"
        )

    def built() -> Any:
        try:
            return build()
        except Exception as error:
            raise InputError(
                f"{spec} raised {said(error)}{culprit(error, inside)} while it built the model."
            ) from error

    return built


def wrong_type(spec: str, made: Any, expected: str, of: type, hint: str = "") -> InputError:
    """The refusal of what a builder returned; `of` is the class it should be of."""
    if isinstance(made, tuple | list | dict):
        hint = " Return the model alone."
    elif isinstance(made, type) and issubclass(made, of):
        hint = f" Return {made.__name__}(), not the class."
    kind = type(made)
    return InputError(
        f"{spec} returned a {kind.__module__}.{kind.__qualname__}: expected {expected}.{hint}"
    )


def no_method(model: Any, name: str) -> str:
    """The refusal of a method that a model has not."""
    kind = type(model)
    known = [each for each, value in vars(kind).items() if callable(value) and each[0] != "_"]
    return f"--method: {kind.__name__} has no method {name!r}{meant(name, known)}"


def said(error: BaseException) -> str:
    """An exception in one line: its type and the start of its message."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    name = type(error).__name__
    return f"{name}: {text[:500].rstrip('.')}" if text else name


def culprit(error: BaseException, inside: Sequence[str]) -> str:
    """Where in the user's code an exception was raised; empty where none of it was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if not each.filename.startswith((_OURS, "<", *inside)) and "importlib" not in each.filename
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name}: {last.line})"


def line(inside: Sequence[str], until: CodeType) -> str:
    """Where the user's code is running, called by the code `until`; empty where none of it is."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code is not until:
        name = frame.f_code.co_filename
        if not name.startswith((_OURS, "<", *inside)):
            return f"{name}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def meant(name: str, known: Sequence[str], short: bool = False) -> str:
    """`: did you mean 'build'?`, or else what there is; with `short` nothing else."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return "" if short or not known else f". It has: {', '.join(known[:20])}."


def _file(spec: str, place: str, forms: str, inside: Sequence[str]) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise InputError(f"{spec}: there is no file {path} (from {Path.cwd()}): expected {forms}.")
    _importable(path.resolve().parent)
    _importable(Path.cwd())
    name = f"model_in_{path.stem}"
    source, before = path.read_bytes(), _run.get(path.resolve())
    if before and before[0] == source:  # run twice, it may register something twice
        built = getattr(before[1], spec.rpartition(":")[2], None)
        if inspect.isroutine(built) or inspect.isclass(built):  # a model would be the same object
            sys.modules[name] = before[1]
            return before[1]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses, among others, look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        relative = isinstance(error, ImportError) and "relative import" in str(error)
        hint = " A file of a package is given as package.module:function." if relative else ""
        raise InputError(f"{_importing(spec, place, error, inside)}{hint}") from error
    _run[path.resolve()] = source, module
    return module


def _module(spec: str, place: str, forms: str, inside: Sequence[str]) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise InputError(
                f"{spec}: there is no module {error.name!r} (looked in {Path.cwd()} and in the "
                f"installed packages). Expected {forms}; check the name, or install the package."
            ) from None
        raise InputError(_importing(spec, place, error, inside)) from error
    except Exception as error:
        raise InputError(_importing(spec, place, error, inside)) from error


def _importing(spec: str, place: str, error: Exception, inside: Sequence[str]) -> str:
    return f"{spec}: importing {place} raised {said(error)}{culprit(error, inside)}."


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _needed(build: Any) -> list[str]:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # a builtin does not tell
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in skipped]
