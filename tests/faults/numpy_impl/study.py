"""`python -m numpy_impl.study EXPERIMENT.json FOLDER`: two arms by the real engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from parity import cli, worker
from parity.engines.local import Local
from parity.experiment import Experiment
from parity.feed import load_data
from parity.worker import Arm


def main(file: str, folder: str) -> int:
    experiment = Experiment.from_json(Path(file).read_text())
    arms = [
        Arm("numpy", replace(experiment, seed=seed), f"s{seed}/numpy-p{experiment.padding}")
        for seed in (8, 9)
    ]
    data = load_data(experiment).summary()
    results = worker.run(
        arms, Path(folder), engine=Local(jobs=2), observe=lambda *_: None, data=data
    )
    failed = [each.message for each in results.values() if isinstance(each, worker.Failure)]
    print("\n".join(failed), file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(lambda: main(*sys.argv[1:])))
