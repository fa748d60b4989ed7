"""What ends a command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from parity import cli
from parity.check.graph import written
from parity.check.trace import nudged_single


def test_a_fault_of_the_tools_own_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> int:
        nothing: dict[str, int] = {}
        return nothing["missing"]

    assert cli.run(broken) == cli.EXIT_REFUSED
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: KeyError: 'missing' (test_cli.py, line ")
    assert "a fault of the tool's own" in said


def test_settings_that_no_file_can_hold_are_left_out() -> None:
    found = written({"size": (2, 3), "epsilon": np.float32(0.5), "padding": object(), "rate": {1}})
    assert found == json.loads(json.dumps(found)) == {"size": [2, 3], "epsilon": 0.5}


def test_only_what_was_rounded_to_float32_is_moved_by_its_unit() -> None:
    value = np.array([0.1, -0.1, 3.0, 0.375, np.inf, 0.0, 1e300, 1e9], "float64")
    value[:2] = value[:2].astype("float32")
    moved = nudged_single(value, value)
    unit = np.spacing(np.float32(0.1))
    np.testing.assert_allclose(moved[:2] - value[:2], [unit, -unit], rtol=1e-12)
    np.testing.assert_array_equal(moved[2:], value[2:])
