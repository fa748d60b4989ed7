"""`python -m parity.transfer MODEL --to OTHER --out FILE`: weights from one side to the other."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import cli
from shared_data.errors import InputError

if TYPE_CHECKING:
    from parity.transfer.mapping import Mapping
    from parity.transfer.sides import Pair

RUNS = 32  # to settle doubts; each starts a process
SIDES = ("keras", "torch")
CASTS = ("model", "float16", "float32", "float64")
EXAMPLES = """examples:
  python -m parity.transfer model.keras --to port.py:build --out port.safetensors
  python -m parity.transfer net.py:build --to port.py:Net --input-shape 8,8,3 --out w.safetensors
  python -m parity.transfer port.py:build --weights w.safetensors --to model.keras --out new.keras
  python -m parity.transfer port.py:build --from torch --to net.py:build --out keras.safetensors
  python -m parity.transfer model.keras --to port.py:build --write-map map.toml   # then correct it
  python -m parity.transfer model.keras --to port.py:build --map map.toml --out port.safetensors

MODEL and OTHER are module:function or path/file.py:function, one of which returns a keras.Model and
the other an nn.Module, or a .keras file. Each is built in a process of its own. What goes into a
.safetensors has the names of OTHER: in PyTorch those of its state_dict.

exit status: 0 done, 2 the request is wrong, a model cannot be built, or weights do not fit"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return cli.run(lambda: transfer(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.transfer",
        description="Carry weights from a Keras model to a PyTorch model, or back.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="whose weights to take")
    parser.add_argument("--to", required=True, metavar="OTHER", help="what they are for")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=".safetensors, or for Keras .keras"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=SIDES,
        help="the framework of MODEL (default: as a .keras file says, otherwise keras)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="for MODEL, instead of those that its builder gives"
    )
    parser.add_argument("--map", type=Path, metavar="FILE", help="which layer is which")
    parser.add_argument("--write-map", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument(
        "--input-shape",
        action="append",
        type=cli.shape,
        metavar="224,224,3",
        help="as Keras sees it, without the batch; once per input (default: the Keras model's own)",
    )
    parser.add_argument(
        "--torch-input-shape",
        action="append",
        type=cli.shape,
        metavar="3,224,224",
        help="as PyTorch sees it, where that is not Keras' with the channels first",
    )
    parser.add_argument("--cast", choices=CASTS, help="a type, or that of OTHER (default: keep)")
    parser.add_argument(
        "--rules", type=Path, metavar="FILE.py", help="rules of your own (@register_rule)"
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    return parser.parse_args(arguments)


def transfer(options: argparse.Namespace) -> int:
    """Describe, map, carry, write and say so; returns the exit status."""
    source, target = direction(options)
    _check(options, target)
    # Here, so that --help stays quick.
    from parity.transfer import Ambiguous, mapping, settle, to_keras, to_torch
    from parity.transfer.rules import load_rules
    from parity.transfer.sides import Pair

    if options.rules:
        load_rules(options.rules)
    shapes = {"keras": options.input_shape, "torch": options.torch_input_shape}
    with (
        tempfile.TemporaryDirectory(prefix="parity-transfer-") as folder,
        Pair(
            Path(folder),
            {source: options.model, target: options.to},
            {source: options.weights} if options.weights else {},
            {side: tuple(given) for side, given in shapes.items() if given},
        ) as pair,
    ):
        pair.describe()
        graphs = pair.graphs["keras"], pair.graphs["torch"]
        given = mapping.Mapping.read(options.map) if options.map else None
        try:
            found = mapping.find(*graphs, given)
            if found.ambiguous or not found.by_graph:
                found = settle(found, lambda each: pair.reached(each, source), RUNS)
            if found.undecided:
                raise Ambiguous(
                    "layers cannot be told apart, by names, graphs or numbers. Give a map.toml "
                    f"with --map; the likeliest is:\n\n{found.text}",
                    found,
                )
        except Ambiguous as error:
            if options.write_map:
                error.mapping.write(options.write_map)
                raise InputError(f"{error}\n\nwritten so far: {options.write_map}") from None
            raise
        if options.write_map:
            found.write(options.write_map)
        carry = to_torch if target == "torch" else to_keras
        made = carry(
            pair.tensors[source], found, *graphs, cast=options.cast, start=pair.tensors[target]
        )
        if options.out:
            _write(options.out, made, pair, target)
        _say(options, found, made, source, target)
    return cli.EXIT_PASS


def direction(options: argparse.Namespace) -> tuple[str, str]:
    """Source and target. Raises `InputError` where names and flags contradict each other."""
    ours, theirs = (name.endswith(".keras") for name in (options.model, options.to))
    said = "keras" if ours else "torch" if theirs else None
    if ours and theirs:
        raise InputError(
            f"{options.model} and {options.to} are both Keras models: one side must be PyTorch's"
        )
    if said and options.source and said != options.source:
        raise InputError(
            f"--from {options.source}, but {options.model if ours else options.to} is a Keras model"
        )
    source = said or options.source or "keras"
    return source, SIDES[source == "keras"]


def _check(options: argparse.Namespace, target: str) -> None:
    if not options.out and not options.write_map:
        raise InputError("nothing to do: give --out FILE or --write-map FILE")
    allowed = (".safetensors", ".keras") if target == "keras" else (".safetensors",)
    if options.out and options.out.suffix not in allowed:
        raise InputError(f"--out: expected {' or '.join(allowed)}, got {options.out}")
    for path in (options.out, options.write_map):
        if path and not path.resolve().parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.resolve().parent}")


def _write(path: Path, made: dict[str, Any], pair: Pair, target: str) -> None:
    from safetensors.numpy import save

    from parity.recording import write_atomically

    if path.suffix == ".safetensors":
        write_atomically(path, save(made))
        return
    weights = pair.folder / "carried.safetensors"
    write_atomically(weights, save(made))
    pair.save(path, weights)


def _say(
    options: argparse.Namespace, found: Mapping, made: dict[str, Any], source: str, target: str
) -> None:
    from parity.transfer.rules import FRAMEWORKS
    from parity.transfer.sides import names_of

    if options.json:
        report = {
            "schema": 1,
            "from": source,
            "to": target,
            "layers": [
                {"keras": list(e.keras), "torch": list(e.torch), "rule": e.rule}
                for e in found.entries
            ],
            "notes": list(found.notes),
            "tensors": {name: list(value.shape) for name, value in made.items()},
            "out": str(options.out) if options.out else None,
            "map": str(options.write_map) if options.write_map else None,
        }
        print(json.dumps(report, indent=1))
        return
    print(
        f"{FRAMEWORKS[source]} {options.model} to {FRAMEWORKS[target]} {options.to}: "
        f"{len(found.entries)} layers, {names_of(made)}"
    )
    for note in found.notes:
        print(f"note: {note}")
    for path in filter(None, (options.write_map, options.out)):
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
