"""`python -m benchmarks.fuzz`: thousands of malformed images, zips and tables; nothing goes wrong.

Each goes through the loader as a user's data would. Right is that it is accepted, the same twice,
or refused in words. Anything else is wrong: another exception, a crash, a hang, a file outside the
cache, one left behind in it, a change to the data, too much memory, a message that a terminal
obeys or that blames the disk.
Exit status: 0 nothing was wrong, 1 something was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import malformed, wellformed
from parity.cli import run, writable
from parity.recording import write_atomically
from shared_data.batches import load
from shared_data.errors import InputError

RESULTS = Path(__file__).parent / "results"
SECONDS = 60  # for one, on a busy machine; a fresh process starts within them
MEMORY = 2**30  # bytes that one may take: 50 million transparent pixels take 0.8 of it
FRESH = 500  # cases to a process
LONGEST = 4000  # characters of a message
EXAMPLES = """examples:
  python -m benchmarks.fuzz --count 10000
  python -m benchmarks.fuzz --first 4711 --count 1   # one again"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(lambda: _run(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    writable(options.out)
    begun = time.monotonic()
    kinds: dict[str, Counter[str]] = {kind: Counter() for kind in malformed.KINDS}
    wrong: list[dict[str, Any]] = []
    longest, most = 0.0, 0
    for done, found in enumerate(outcomes(options.seed, options.first, options.count), 1):
        kinds[found["kind"]][found["outcome"]] += 1
        longest, most = max(longest, found["seconds"]), max(most, found["memory"])
        if found["outcome"] == "wrong":
            wrong.append(found)
            print(f"wrong: {found}", file=sys.stderr, flush=True)
        if done % 1000 == 0:
            print(f"{done} of {options.count}", file=sys.stderr, flush=True)
    result = {
        "seed": options.seed,
        "first": options.first,
        "count": options.count,
        "kinds": {
            kind: {outcome: counts[outcome] for outcome in ("accepted", "refused", "wrong")}
            for kind, counts in kinds.items()
        },
        "wrong": wrong,
        "most_memory_bytes": most,
        "longest_seconds": round(longest, 3),
        "seconds": round(time.monotonic() - begun, 1),
    }
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(options.out / "fuzz.json", text.encode())
    write_atomically(options.out / "fuzz.md", markdown(result).encode())
    print(markdown(result))
    return 1 if wrong else 0


def outcomes(seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    """What became of each case, in processes that a case may take down with it."""
    spawn = multiprocessing.get_context("spawn")
    number, end = first, first + count
    while number < end:
        receiver, sender = spawn.Pipe(duplex=False)
        until = min(end, number + FRESH)
        process = spawn.Process(target=_examine, args=(seed, number, until, sender))
        process.start()
        sender.close()
        try:
            while number < until:
                ended = receiver.poll(SECONDS)
                yield receiver.recv() if ended else _lost(seed, number, f"no end in {SECONDS} s")
                number += 1
                if not ended:
                    break
        except EOFError:
            process.join()
            yield _lost(seed, number, f"the process ended with {process.exitcode}")
            number += 1
        finally:
            process.kill()
            process.join()


def _lost(seed: int, number: int, why: str) -> dict[str, Any]:
    case = malformed.draw(seed, number)
    about = {"number": number, "kind": case.kind, "spoilt": case.spoilt}
    return {**about, "outcome": "wrong", "why": why, "seconds": 0.0, "memory": 0}


def _examine(seed: int, first: int, until: int, sender: Connection) -> None:
    """Inside a process: one case after the other, each in a folder of its own."""
    warnings.simplefilter("ignore")  # Pillow's, of files that it can read all the same
    with tempfile.TemporaryDirectory() as folder:
        healthy = _placed(Path(folder, "healthy"), malformed.Case("", "", "a.txt", b""))
        load(str(healthy), image_size=16, cache=Path(folder, "healthy-cache"))  # imports all
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 4 * MEMORY,) * 2)
        for number in range(first, until):
            case = malformed.draw(seed, number)
            before, begun = _reset_peak(), time.monotonic()
            with tempfile.TemporaryDirectory(dir=folder, prefix="case-") as place:
                outcome, why = examined(case, Path(place))
            memory = _status("VmHWM") - before
            if memory > MEMORY:
                outcome, why = "wrong", f"took {memory / 2**20:.0f} MiB"
            about = {"number": number, "kind": case.kind, "spoilt": case.spoilt}
            seconds = time.monotonic() - begun
            sender.send(
                about | {"outcome": outcome, "why": why, "seconds": seconds, "memory": memory}
            )


def examined(case: malformed.Case, place: Path) -> tuple[str, str]:
    """`accepted`, `refused` or `wrong`, and why. `place` is an empty folder."""
    data, cache = place / "data", place / "cache"
    given = str(_placed(data, case))
    before = _contents(data)
    try:
        one, other = (load(given, image_size=16, cache=cache) for _ in range(2))
    except InputError as error:
        outcome, why = "refused", str(error)
        good = all(line.isprintable() for line in why.splitlines())
        if not why or len(why) > LONGEST or not good or "cannot write" in why:
            return "wrong", f"a bad message: {why[:LONGEST]!r}"
    except BaseException as error:
        return "wrong", f"{type(error).__name__}: {error}"
    else:
        outcome, why = "accepted", ""
        if one.summary() != other.summary() or (one.train.images != other.train.images).any():
            return "wrong", "other data the second time"
    if _contents(data) != before:
        return "wrong", "the data was changed"
    stray = _stray(place, cache)
    return ("wrong", f"left {stray}") if stray else (outcome, why)


def _placed(data: Path, case: malformed.Case) -> Path:
    """Write a healthy data set with the case in it; a zip stands alone. Returns what to load."""
    files = {case.name: case.content}
    if case.kind != "zip":
        files = {**dict(wellformed.dataset()), **files}
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    return data / case.name if case.kind == "zip" else data


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _stray(place: Path, cache: Path) -> list[str]:
    """What does not belong where it is: outside the cache, hidden in it, or no plain file."""
    outside = [*place.parent.rglob("outside*"), Path("/outside.png")]  # as malformed.NAMES has them
    found = {path for path in outside if path.exists()}
    found |= set(place.iterdir()) - {place / "data", cache}
    for path in cache.rglob("*"):
        kinds = path.relative_to(cache).parts
        plain = not path.is_symlink() and (path.is_file() or path.is_dir())
        if not plain or kinds[0] not in ("zips", "images") or path.name.startswith("."):
            found.add(path)
    return sorted(map(str, found))


def _status(name: str) -> int:
    """Bytes of this process, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _reset_peak() -> int:
    """Let the peak of resident memory start anew. Returns what is resident now."""
    with suppress(OSError):  # where it may not be, the peak of all before counts
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def markdown(result: dict[str, Any]) -> str:
    """A row per kind."""
    lines = [
        f"{result['count']:,} malformed files from number {result['first']}, seed "
        f"{result['seed']}, in {result['seconds']:.0f} s.",
        "",
        "| kind | accepted | refused in words | wrong |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {kind} | {counts['accepted']:,} | {counts['refused']:,} | {counts['wrong']:,} |"
        for kind, counts in result["kinds"].items()
    ]
    lines += [
        "",
        f"At most {result['most_memory_bytes'] / 2**20:.0f} MiB and "
        f"{result['longest_seconds']:.1f} s for one.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
