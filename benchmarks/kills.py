"""`python -m benchmarks.kills`: does a study, killed at random moments, end the same?

Runs it once undisturbed, then kills (SIGKILL) the command with its workers, the command alone or
one worker again and again, each after a random share of the undisturbed run's seconds, and lets it
end; should it end before it was killed often enough, it begins anew in another folder. Every file
of every killed run is then compared with the first's, byte by byte; recordings, which tell of time
and memory too, by the digest of what was computed.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from parity.cli import run, writable
from parity.recording import Recording, write_atomically

RESULTS = Path(__file__).parent / "results"
VICTIMS = ("all", "command", "worker")
# One network of a few thousand weights in place of the quick profile's: seconds, not minutes.
TINY = """
import sys
from parity import experiment, reproduce
small = {"image_size": 190, "width": 0.07, "epochs": 10, "batch_size": 8, "synthetic_images": 60}
experiment.PROFILES["quick"].update(small)
sys.exit(reproduce.main(sys.argv[1:]))
"""
EXAMPLES = """examples:
  python -m benchmarks.kills                                          # half an hour
  python -m benchmarks.kills --tiny --only baseline --life 0.7 --kills 100"""
Start = Callable[[Path], "subprocess.Popen[bytes]"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=8, help="of the moments and victims")
    parser.add_argument("--only", metavar="NAMES", help="as parity.reproduce takes it")
    parser.add_argument("--tiny", action="store_true", help="a network that trains in seconds")
    parser.add_argument(
        "--life",
        type=float,
        metavar="SHARE",
        help="longest time to a kill, as a share of the undisturbed run's (default: such that "
        "all of them together take about as long as it)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(lambda: _run(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    writable(options.out)
    random = np.random.default_rng(options.seed)
    life = options.life or 2 / options.kills
    kills: list[dict[str, Any]] = []
    files: list[str] = []
    codes, differ = [], []

    def start(out: Path) -> subprocess.Popen[bytes]:
        return _start(out, tiny=options.tiny, only=options.only)

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole", "study")  # pages bear the folder's name
        begun = time.monotonic()
        codes.append(start(whole).wait())
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.0f} s", file=sys.stderr, flush=True)
        while len(kills) < options.kills and not any(codes):
            out = Path(folder, f"killed-{len(codes)}", "study")
            of_run, code = _killed(out, start, options.kills - len(kills), life * seconds, random)
            kills += of_run
            codes.append(code)
            files, other = _compared(whole, out)
            differ += [f"{out.parent.name}/{name}" for name in other]
    result = {
        "study": "tiny" if options.tiny else "quick",
        "only": options.only,
        "undisturbed_seconds": seconds,
        "kills": kills,
        "runs": len(codes) - 1,
        "exit": max(codes, key=abs),
        "files": files,
        "differ": differ,
    }
    name = f"kills_{len(kills)}"
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / f"{name}.json", text.encode())
    write_atomically(options.out / f"{name}.md", markdown(result).encode())
    print(markdown(result))
    return 0 if not any(codes) and files and not differ else 1


def _start(out: Path, *, tiny: bool, only: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, *(["-c", TINY] if tiny else ["-m", "parity.reproduce"])]
    chosen = ["--only", only] if only else []
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        [*command, "--profile", "quick", "--out", str(out), *chosen], stdout=nothing, stderr=nothing
    )


def _killed(
    out: Path, start: Start, most: int, longest: float, random: np.random.Generator
) -> tuple[list[dict[str, Any]], int]:
    """Kill a study, `most` times or until it ends before that. Returns kills and exit code."""
    kills: list[dict[str, Any]] = []
    process = start(out)
    while len(kills) < most:
        seconds = random.uniform(0, longest)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
            if process.returncode == 0 or not kills:
                return kills, process.returncode
            process = start(out)  # it gave an arm up that lost its worker too often
            continue
        workers = _workers(out)
        victim = str(random.choice(VICTIMS)) if workers else "command"
        if victim != "worker":  # first, since it would start a worker again
            process.kill()
        for worker in {"all": workers, "command": [], "worker": workers[:1]}[victim]:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(worker, signal.SIGKILL)
        if victim != "worker":
            process.wait()
            process = start(out)
        kills.append({"after_seconds": seconds, "victim": victim, **_state(out)})
        print(f"{len(kills)}: {kills[-1]}", file=sys.stderr, flush=True)
    code = process.wait()
    return kills, start(out).wait() if code else code


def _state(out: Path) -> dict[str, Any]:
    """What is finished, and what was going on."""
    checkpoints = out.glob("arms/*/*/checkpoints/epoch-*/recording.json")
    return {
        "finished": sorted(path.parent.parent.name for path in out.glob("arms/*/*/recording.json")),
        "checkpoints": sorted(str(path.parent.relative_to(out / "arms")) for path in checkpoints),
    }


def _workers(out: Path) -> list[int]:
    """The worker processes that write below `out`."""
    lines = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for number, path in lines.items():
        with suppress(OSError):  # it has ended meanwhile
            line = path.read_bytes()
            if str(out).encode() in line and b"_impl.record" in line:
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
    kills = result["kills"]
    counts = {victim: sum(kill["victim"] == victim for kill in kills) for victim in VICTIMS}
    lines = [
        f"The {result['study']} study, {result['undisturbed_seconds']:.0f} s undisturbed, killed "
        f"{len(kills)} times in {result['runs']} runs: {counts['all']} times the command and its "
        f"workers, {counts['command']} times the command alone, {counts['worker']} times a worker.",
        "",
        "| killed after, s | what | arms finished | going on in |",
        "|---:|---|---:|---|",
    ]
    arms = sum(Path(name).match("arms/*/*/recording.json") for name in result["files"])
    for kill in kills:
        finished = len(kill["finished"])
        without = "tables and figures" if finished == arms else "an arm with no checkpoint yet"
        lines.append(
            f"| {kill['after_seconds']:.0f} | {kill['victim']} | {finished} "
            f"| {', '.join(kill['checkpoints']) or without} |"
        )
    differ = ", ".join(result["differ"]) or "none"
    lines += [
        "",
        f"Of {len(result['files'])} files of each run {differ} differ; exit status "
        f"{result['exit']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
