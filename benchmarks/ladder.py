"""What the ladder costs beside the training that it judges, and how that grows with the network."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import RATIO, Answer, Figure, Part, exponent
from benchmarks.shape import Shape
from parity.experiment import Experiment
from shared_data.errors import InputError

PARTS = ("ladder",)
TITLES = {"ladder": "Ladder"}
EXPONENT = 1.0  # linear
REPEATS = 5  # of what takes no training


def run(shape: Shape, data: str, wanted: Collection[str]) -> dict[str, Part]:
    """Compare once per width with padding 0, in the quick profile, and climb the ladder."""
    if "ladder" not in wanted:
        return {}
    part = Part()
    parameters: list[int] = []
    costs: dict[str, list[float]] = {"probing and comparing": [], "comparing alone": []}
    for width in shape.ladder_widths:
        fields = {"data": data, **shape.ladder_fields, "width": width}
        experiment = Experiment.of("baseline", "quick", **fields)
        measure.progress(f"  width {width:g}")
        with tempfile.TemporaryDirectory() as folder:
            report = _compare(experiment, Path(folder))
            spec = [str(Path(folder, f"{side}-p0")) for side in ("keras", "torch")]
            ways = {"climb": ("benchmarks.ladder:climbed", spec, dict[str, str]())}
            with measure.processes(ways) as running:
                found = measure.take_turns(running, [None], REPEATS)
        parameters.append(report["arms"][0]["parameters"])
        training, climbing = (report["seconds"][key] for key in ("training", "ladder"))
        alone = measure.seconds(found["climb"][0])
        at = f"width {width:g}, {parameters[-1]:,} parameters"
        part.figures += [
            Figure(
                f"{at}: ladder / training of {experiment.epochs} epochs",
                RATIO,
                (climbing / training,),
            ),
            Figure(f"{at}: training", "s", (training,)),
            Figure(f"{at}: probing and comparing", "s", (climbing,)),
            Figure(f"{at}: comparing alone", "s", alone),
        ]
        costs["probing and comparing"].append(climbing)
        costs["comparing alone"].append(part.figures[-1].median)
    if len(parameters) > 1:
        part.figures += [
            Figure(
                f"growth with the parameters: {name}",
                "exponent",
                (exponent(parameters, seconds),),
                EXPONENT,
            )
            for name, seconds in costs.items()
        ]
    part.notes.append(
        "Both arms of the baseline, padding 0, quick profile: seconds of `parity.compare`, the "
        "start of its workers included. A probe takes a few steps in both precisions, whatever the "
        "number of images and epochs, so its share falls as training gets longer."
    )
    return {"ladder": part}


def _compare(experiment: Experiment, out: Path) -> dict[str, Any]:
    changed = {"data", "synthetic_images", "image_size", "width", "epochs"}
    fields = {name: value for name, value in experiment.to_dict().items() if name in changed}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "parity.compare", "--ladder", "--json", "--padding", "0"]
    done = subprocess.run([*command, "--out", str(out), *flags], capture_output=True, text=True)
    if not done.stdout:
        raise InputError(f"parity.compare ended with status {done.returncode}:\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def climbed(folders: list[str]) -> Answer:
    from parity import ladder

    left, right = map(Path, folders)

    def answer(_: None) -> dict[str, float]:
        begun = time.perf_counter()
        report = ladder.run(left, right)
        if report.error:
            raise InputError(report.error)
        return {"seconds": time.perf_counter() - begun}

    return answer
