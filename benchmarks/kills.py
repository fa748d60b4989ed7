"""`python -m benchmarks.kills`: does the quick study, killed at random moments, end the same?

Runs it once undisturbed, then kills the command and its workers (SIGKILL) again and again, each
after a random share of the undisturbed run's seconds, and lets it end. Every file of the second
run is then compared with the first's, byte by byte; recordings, which tell of time and memory too,
by the digest of what was computed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from parity.cli import run, writable
from parity.recording import Recording, write_atomically

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=8, help="of the moments")
    parser.add_argument("--only", metavar="NAMES", help="as parity.reproduce takes it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(lambda: _run(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    writable(options.out)
    only = ["--only", options.only] if options.only else []
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        begun = time.monotonic()
        _start(whole, only).wait()
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.0f} s", file=sys.stderr, flush=True)
        # On average the kills together live as long as the undisturbed run.
        lives = np.random.default_rng(options.seed).uniform(0, 2 / options.kills, options.kills)
        kills = [_killed(killed, only, share * seconds) for share in lives]
        code = _start(killed, only).wait()
        files, differ = _compared(whole, killed)
    result = {
        "study": "quick",
        "only": options.only,
        "undisturbed_seconds": seconds,
        "kills": kills,
        "exit": code,
        "files": files,
        "differ": differ,
    }
    name = f"kills_{len(kills)}"
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / f"{name}.json", text.encode())
    write_atomically(options.out / f"{name}.md", markdown(result).encode())
    print(markdown(result))
    return 0 if code == 0 and files and not differ else 1


def _start(out: Path, only: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parity.reproduce", "--profile", "quick", "--out", str(out)]
    nothing = subprocess.DEVNULL
    return subprocess.Popen([*command, *only], stdout=nothing, stderr=nothing)


def _killed(out: Path, only: list[str], seconds: float) -> dict[str, Any]:
    """Start the study, kill it and its workers; what was finished and what was going on then."""
    process = _start(out, only)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        for worker in _workers(out):
            os.kill(worker, signal.SIGKILL)
    found = {
        "after_seconds": seconds,
        "finished": sorted(path.parent.parent.name for path in out.glob("arms/*/*/recording.json")),
        "checkpoints": sorted(
            str(path.parent.relative_to(out / "arms"))
            for path in out.glob("arms/*/*/checkpoints/epoch-*/recording.json")
        ),
    }
    print(f"killed after {seconds:.0f} s: {found}", file=sys.stderr, flush=True)
    return found


def _workers(out: Path) -> list[int]:
    """The processes that were told to write below `out`."""
    lines = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for number, path in lines.items():
        with suppress(OSError):  # it has ended meanwhile
            if str(out).encode() in path.read_bytes():
                found.append(number)
    return found


def _compared(whole: Path, killed: Path) -> tuple[list[str], list[str]]:
    """All files of two runs, and those that only one has or that differ."""
    names = sorted({str(path.relative_to(of)) for of in (whole, killed) for path in _files(of)})
    return names, [name for name in names if not _same(whole / name, killed / name)]


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"]


def _same(one: Path, other: Path) -> bool:
    if not (one.exists() and other.exists()):
        return False
    if one.name == "recording.json":  # holds seconds and memory besides what was computed
        return Recording.read(one.parent).digest == Recording.read(other.parent).digest
    return one.read_bytes() == other.read_bytes()


def markdown(result: dict[str, Any]) -> str:
    """One line per kill, then the comparison."""
    lines = [
        f"The quick study, {result['undisturbed_seconds']:.0f} s undisturbed, killed "
        f"{len(result['kills'])} times.",
        "",
        "| killed after, s | arms finished | going on in |",
        "|---:|---:|---|",
    ]
    lines += [
        f"| {kill['after_seconds']:.0f} | {len(kill['finished'])} "
        f"| {', '.join(kill['checkpoints']) or 'an arm with no checkpoint yet'} |"
        for kill in result["kills"]
    ]
    differ = ", ".join(result["differ"]) or "none"
    lines += ["", f"Of {len(result['files'])} files {differ} differ; exit status {result['exit']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
