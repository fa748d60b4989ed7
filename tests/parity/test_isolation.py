"""Who may import whom, proved in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"tensorflow", "keras", "torch", "torchvision", "jax"}


def imported_by(code: str) -> set[str]:
    """Top-level names in `sys.modules` after `code` ran in a fresh process."""
    script = f"{code}\nimport sys\nprint('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("package", ["parity", "shared_data"])
def test_harness_and_data_import_no_framework(package: str) -> None:
    everything = "\n".join(f"import {name}" for name in modules(package))
    loaded = imported_by(everything)
    assert package in loaded
    assert not loaded & FRAMEWORKS


def test_shared_data_does_not_know_the_harness() -> None:
    loaded = imported_by("\n".join(f"import {name}" for name in modules("shared_data")))
    assert not loaded & {"parity", "keras_impl", "torch_impl"}


@pytest.mark.parametrize(
    ("wing", "other"), [("keras_impl", {"torch_impl"}), ("torch_impl", {"keras_impl", "keras"})]
)
def test_a_wing_does_not_know_the_other(wing: str, other: set[str]) -> None:
    loaded = imported_by("\n".join(f"import {name}" for name in modules(wing)))
    assert wing in loaded
    assert not loaded & other


@pytest.mark.parametrize("package", ["keras_impl", "torch_impl"])
def test_a_wing_loads_its_framework_only_when_used(package: str) -> None:
    assert not imported_by(f"import {package}.record") & FRAMEWORKS


@pytest.mark.parametrize("module", ["parity.compare", "parity.report", "shared_data.synthetic"])
def test_help_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, runpy\nsys.argv = ['x', '--help']\ntry:\n runpy.run_module('{module}',\
 run_name='__main__')\nexcept SystemExit: pass"
    assert not imported_by(code) & (
        FRAMEWORKS | {"matplotlib", "rich", "sklearn", "scipy", "jinja2", "tensorboardX"}
    )
