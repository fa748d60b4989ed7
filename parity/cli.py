"""What all commands share: the experiment's flags, and how a command ends."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.experiment import PROFILES, VARIANTS, Experiment
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.engines import Engine

EXIT_PASS, EXIT_FAIL, EXIT_REFUSED, EXIT_UNDECIDED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
EXIT_UNREAD = 141  # as a shell reports SIGPIPE


def add_experiment_flags(parser: argparse.ArgumentParser, without: Iterable[str] = ()) -> None:
    """`--profile`, and one flag per field of `Experiment`; a flag overrides the profile.

    `without` names fields that the command decides itself.
    """
    group = parser.add_argument_group("experiment (a flag overrides the profile)")
    group.add_argument(
        "--profile",
        default="quick",
        metavar="NAME",
        help=f"{', '.join(PROFILES)} (default quick)",
    )
    for item in fields(Experiment):
        if not item.metadata.get("flag", True) or item.name in ("padding", *without):
            continue
        text = item.metadata["help"]
        if item.name == "variant":
            text += ": " + ", ".join(VARIANTS)
        kinds: dict[str, Any] = {"int": int, "float": float}
        group.add_argument(
            "--" + item.name.replace("_", "-"),
            dest=item.name,
            type=kinds.get(str(item.type).removesuffix(" | None"), str),
            choices=item.metadata.get("choices"),
            default=argparse.SUPPRESS,
            metavar=None if item.metadata.get("choices") else item.name.split("_")[-1].upper(),
            help=text,
        )
    if "padding" not in without:
        group.add_argument(
            "--padding",
            default="both",
            choices=("0", "1", "both"),
            help="padding of the 3x3 convolutions (default both)",
        )


def experiments(options: argparse.Namespace, **fixed: Any) -> list[Experiment]:
    """The experiments that the flags ask for, one per padding, with `fixed` fields."""
    paddings = (0, 1) if options.padding == "both" else (int(options.padding),)
    return [experiment(options, padding=padding, **fixed) for padding in paddings]


def experiment(options: argparse.Namespace, **fixed: Any) -> Experiment:
    """The experiment that the flags ask for, with `fixed` fields."""
    names = {item.name for item in fields(Experiment)} - {"padding"}
    given = {name: value for name, value in vars(options).items() if name in names} | fixed
    return Experiment.of(given.pop("variant", "baseline"), options.profile, **given)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """`--engine`, `--address` and `--jobs`, which `engine` reads."""
    group = parser.add_argument_group("where the arms run (docs/cluster.md)")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes of this machine; ray: the nodes of a Ray cluster (default local)",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="with --engine ray: of the cluster (default: the one this machine belongs to, else "
        "one of its own)",
    )
    group.add_argument(
        "--jobs",
        type=int,
        help="with --engine local: arms at a time (default: as many as cores and memory hold, one "
        "on a GPU)",
    )


def engine(options: argparse.Namespace, experiments: Iterable[Experiment]) -> Engine:
    """The engine that the flags ask for, with room for any of the `experiments`.

    Raises `InputError` where the flags do not go together, or the engine cannot be had.
    """
    from parity.engines import sizing  # NumPy: not for --help

    if options.engine == "ray":
        if options.jobs is not None:
            raise InputError("--jobs: with --engine ray the cluster says how many arms it holds")
        from parity.engines.ray import Ray

        return Ray(options.address, max(experiments, key=sizing.memory))
    if options.address is not None:
        raise InputError("--address goes with --engine ray alone")
    from parity.engines.local import Local

    return Local(jobs(options.jobs, experiments))


def jobs(asked: int | None, experiments: Iterable[Experiment]) -> int:
    """How many arms to run at a time here: by default as many as there is room for of each."""
    if asked is not None and asked < 1:
        raise InputError(f"--jobs: expected at least 1, got {asked}")
    from parity.engines import sizing

    return asked or min(map(sizing.jobs, experiments))


def prepare(experiment: Experiment, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Fill the cache once, before the workers, and refuse bad data before any of them starts.

    Returns the data's summary.
    """
    from parity.feed import load_data  # after the flags: --help stays quick

    return load_data(experiment, on_progress=on_progress).summary()


def shape(text: str) -> tuple[int, ...]:
    """A flag's value such as `224,224,3`."""
    try:
        sizes = tuple(int(each) for each in text.split(","))
        if min(sizes) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected sizes such as 224,224,3, got {text!r}"
        ) from None
    return sizes


def writable(folder: Path) -> Path:
    """Make `folder`; raise `InputError` now, not after an hour, if nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}. Give another folder with --out."
        ) from None


def run(command: Callable[[], int]) -> int:
    """The exit status of a command. What is wrong with a request is a message, not a traceback;
    what goes wrong in the tool itself says so."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        print("ended: nobody reads the output any more", file=sys.stderr)
        return EXIT_UNREAD
    except KeyboardInterrupt:
        print("interrupted: all workers ended", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # never the status of a difference
        traceback.print_exc()
        at = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"error: {type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno}, "
            f"in {at.name}). This is a fault of the tool's own, not of what it was given: please "
            "report it, with the command.",
            file=sys.stderr,
        )
        return EXIT_REFUSED
