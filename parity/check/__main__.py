"""`python -m parity.check KERAS TORCH`: is this PyTorch model the same as that Keras model?"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from parity import cli
from parity.check import ALLOWED, EXAMINATIONS, LEVELS, OPTIMIZERS
from shared_data.errors import InputError

if TYPE_CHECKING:
    import numpy as np

STATUS = {"pass": cli.EXIT_PASS, "fail": cli.EXIT_FAIL, "abstain": cli.EXIT_UNDECIDED}
COME_WITH_OTHERS = ("structure", "randomness", "buffers")
FRAMEWORKS = ("keras", "torch")
LAST = [level for level in LEVELS if level not in COME_WITH_OTHERS]
DIRECTIONS = ("keras-to-torch", "torch-to-keras")

EXAMPLES = """examples:
  python -m parity.check model.keras port.py:build
  python -m parity.check models.keras_net:build models.torch_net:Net --input-shape 224,224,3
  python -m parity.check model.keras port.py:build --torch-weights port.safetensors --no-transfer
  python -m parity.check a.py:build b.py:build --level forward --json > check.json
  python -m parity.check a.py:build b.py:build --write-map map.toml     # then correct it
  python -m parity.check a.py:build b.py:build --map map.toml
  python -m parity.check a.py:build b.py:build --reference torch --method encode
  python -m parity.check a.py:build b.py:build --alias tokens=input_ids --input-axes 0,3,1,2

KERAS is module:function, path/file.py:function (returns a keras.Model) or a .keras file; TORCH is
module:function or path/file.py:function (returns an nn.Module). Each is built in a process of its
own. Weights go from Keras to PyTorch, unless --direction or --no-transfer says otherwise.

exit status: 0 pass, 1 fail, 2 the request is wrong or a model cannot be built or run, 3 abstain:
something could not be compared, 130 interrupted"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.command = shlex.join(sys.argv[1:] if arguments is None else arguments)
    return cli.run(lambda: check(options))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity.check",
        description="Compare any Keras model with any PyTorch model, level by level.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("keras", metavar="KERAS", help="the reference")
    parser.add_argument("torch", metavar="TORCH", help="the port")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--input-shape",
        action="append",
        type=cli.shape,
        metavar="224,224,3",
        help="as Keras sees it, without the batch; once per input (default: the Keras model's own)",
    )
    given.add_argument(
        "--inputs", type=Path, metavar="FILE.npz", help="a batch, one array per input, in order"
    )
    parser.add_argument(
        "--labels",
        metavar="CLASSES",
        help="classes of the batch, 3,0,1,2 or a .npz of one array per output: the loss is then "
        "their cross-entropy (default: squared differences from random targets)",
    )
    parser.add_argument(
        "--torch-weights",
        type=Path,
        metavar="FILE",
        help=".safetensors, or a .pt that holds tensors alone",
    )
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="KERAS=TORCH",
        help="an input or output of Keras' and what PyTorch calls it",
    )
    for what in ("input", "output"):
        parser.add_argument(
            f"--{what}-axes",
            action="append",
            default=[],
            type=_axes,
            metavar="0,3,1,2",
            help=f"the order of PyTorch's axes in numbers of Keras', batch included; once per "
            f"{what} (default: settled by trying)",
        )
    parser.add_argument(
        "--method",
        default="",
        metavar="NAME",
        help="compare this method instead of the call; KERAS_NAME:TORCH_NAME where they differ",
    )
    parser.add_argument(
        "--reference",
        choices=FRAMEWORKS,
        default=FRAMEWORKS[0],
        help="which side is right: weights come from it, advice is for the other "
        "(default %(default)s)",
    )
    moving = parser.add_mutually_exclusive_group()
    moving.add_argument(
        "--direction", choices=DIRECTIONS, help="default: from the reference to the port"
    )
    moving.add_argument(
        "--no-transfer", action="store_true", help="compare the weights that each side holds"
    )
    parser.add_argument("--map", type=Path, metavar="FILE", help="which layer is which")
    parser.add_argument("--write-map", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument(
        "--rules", type=Path, metavar="FILE.py", help="rules of your own (@register_rule)"
    )
    parser.add_argument(
        "--level", choices=LAST, default=LAST[-1], help="the last to climb (default: all)"
    )
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adam", help="default %(default)s"
    )
    parser.add_argument(
        "--precision", choices=("float64", "float32"), default="float64", help="default %(default)s"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--quick", action="store_true", help="one batch alone, where a pass is worth less"
    )
    how.add_argument(
        "--thorough", action="store_true", help="every batch of the series drawn four times"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=ALLOWED,
        help="what is declared on one side and known: a pass that names it, not an abstention",
    )
    parser.add_argument("--batch", type=int, default=4, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and targets")
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    parser.add_argument("--out", type=Path, help="keep graphs, weights, traces, report")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> int:
    """Check, print, and return the exit status."""
    for name, least in (("batch", 1), ("seed", 0), ("threads", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    options.direction = options.direction or DIRECTIONS[FRAMEWORKS.index(options.reference)]
    chart = options.write_map  # known now, not after the check
    if chart and not chart.resolve().parent.is_dir():
        raise InputError(f"--write-map: there is no folder {chart.resolve().parent}")
    if options.torch_weights and not options.no_transfer and options.direction == DIRECTIONS[0]:
        raise InputError(
            "--torch-weights: Keras' weights would be written over these. Add --no-transfer to "
            f"compare what each side holds, or --direction {DIRECTIONS[1]}"
        )
    with tempfile.TemporaryDirectory(prefix="parity-check-") as temporary:
        return _check(options, cli.writable(options.out) if options.out else Path(temporary))


def _check(options: argparse.Namespace, folder: Path) -> int:
    from parity.check import report, run  # after the flags: --help stays quick
    from parity.check.sides import Process, methods_of
    from parity.recording import write_atomically
    from parity.report import page
    from parity.transfer import load_rules

    if options.rules:
        load_rules(options.rules)
    labels = _labels(options.labels) if options.labels else ()
    asked = run.Asked(
        level=options.level,
        direction=None if options.no_transfer else options.direction,
        shapes=tuple(options.input_shape or ()),
        inputs=options.inputs,
        labels=labels,
        torch_weights=options.torch_weights,
        map=options.map,
        optimizer=options.optimizer,
        precision=options.precision,
        batch=len(labels[0]) if labels and not options.inputs else options.batch,
        seed=options.seed,
        threads=options.threads,
        examination=next((e for e in EXAMINATIONS if getattr(options, e, False)), "default"),
        allow=tuple(options.allow),
        reference=options.reference,
        aliases=dict(map(_alias, options.alias)),
        input_axes=tuple(options.input_axes),
        output_axes=tuple(options.output_axes),
    )
    methods = methods_of(options.method)
    with (
        Process("keras", options.keras, methods[0]) as keras,
        Process("torch", options.torch, methods[1]) as torch,
    ):
        found = run.check(
            (keras, torch), asked, folder, lambda said: print(f"{said} …", file=sys.stderr)
        )
    facts = {**found.to_dict(), "command": options.command}
    text = json.dumps(facts, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "report.json", text.encode())
    if options.out:
        page.write(folder)
    if options.write_map:
        write_atomically(options.write_map, (folder / "map.toml").read_bytes())
    if options.json:
        print(text, end="")
    else:
        report.render(found)
    return STATUS[found.verdict]


def _alias(given: str) -> tuple[str, str]:
    ours, equals, theirs = given.partition("=")
    if not (ours and equals and theirs):
        raise InputError(f"--alias: got {given!r}, expected KERAS_NAME=TORCH_NAME")
    return ours, theirs


def _axes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected whole numbers such as 0,3,1,2"
        ) from None


def _labels(text: str) -> tuple[np.ndarray, ...]:
    """Of the command line, or of a file."""
    import numpy as np

    try:
        if not text.endswith(".npz"):
            return (np.array([int(each) for each in text.split(",")]),)
        with np.load(text, allow_pickle=False) as found:
            return tuple(np.atleast_1d(found[name]) for name in found.files)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--labels: cannot read {text}: {error}. Expected whole numbers, 3,0,1,2, or a .npz"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
