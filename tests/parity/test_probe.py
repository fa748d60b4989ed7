from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Finished

from parity.experiment import Experiment
from parity.probe import LIMIT, Layer, Probe, places
from shared_data.errors import InputError


def make() -> Probe:
    layers = (
        Layer("dense1", "dense", ("input",), (3,), {"dense1.kernel": (2, 3)}, {"bias": True}),
    )
    return Probe("torch", Experiment.of(), {"threads": 1}, layers, {"loss": {"on": "logits"}})


def test_reading_brings_back_what_was_written(tmp_path: Path) -> None:
    probe = make()
    probe.keep("float64/free/activation", {"dense1": np.arange(6.0).reshape(2, 3).T})
    probe.keep("float64/free/loss", {"loss": np.array(np.nan)})
    probe.write(tmp_path)
    again = Probe.read(tmp_path)
    assert (again.layers, again.semantics, again.facts) == (
        probe.layers,
        probe.semantics,
        probe.facts,
    )
    assert list(again.tensors) == list(probe.tensors)
    np.testing.assert_array_equal(
        again.under("float64/free/activation")["dense1"], np.arange(6.0).reshape(2, 3).T
    )
    assert again.facts["float64/free/loss/loss"].nonfinite == 1


def test_large_tensors_are_kept_at_the_same_places_in_every_run() -> None:
    probe, value = make(), np.arange(3.0 * LIMIT).reshape(3, LIMIT)
    for run in ("free", "again"):
        probe.keep(f"float32/{run}/activation", {"a": value})
    probe.keep("float64/free/activation", {"a": value}, whole=True)
    first, second, whole = probe.tensors.values()
    assert first.shape == (LIMIT,)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(whole, value)
    at = places("float64/free/activation/a", value.size)
    np.testing.assert_array_equal(first, value.reshape(-1)[at])
    assert (np.diff(at) > 0).all()


def test_what_is_not_finite_is_counted_even_where_it_is_not_kept() -> None:
    probe, value = make(), np.zeros(4 * LIMIT)
    value[np.setdiff1d(np.arange(value.size), places("x/y/z/a", value.size))[:5]] = np.inf
    probe.keep("x/y/z", {"a": value})
    assert np.isfinite(probe.tensors["x/y/z/a"]).all()
    assert probe.facts["x/y/z/a"].nonfinite == 5


@pytest.mark.parametrize("damage", ["truncate", "schema", "missing"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    probe = make()
    probe.keep("float64/free/loss", {"loss": np.array(1.0)})
    probe.write(tmp_path)
    tensors, facts = tmp_path / "probe.safetensors", tmp_path / "probe.json"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-2])
    elif damage == "schema":
        facts.write_text(facts.read_text().replace('"schema": 3', '"schema": 7'))
    else:
        tensors.unlink()
    with pytest.raises(InputError, match="probe"):
        Probe.read(tmp_path)


@pytest.mark.workers
def test_faithful_twins_agree_layer_by_layer(
    command: Callable[..., Finished], tmp_path: Path
) -> None:
    """Both commands, as on two machines: the right side gets the left one's folder."""
    values = dict(
        zip((flag[2:].replace("-", "_") for flag in SMALL[::2]), SMALL[1::2], strict=True)
    )
    numbers = {name: float(v) if name == "width" else int(v) for name, v in values.items()}
    (tmp_path / "e.json").write_text(Experiment.of(padding=0, **numbers).to_json())
    left, right = tmp_path / "left", tmp_path / "right"
    for module, arguments in (
        ("keras_impl.record", (left, "--probe-only")),
        ("torch_impl.record", (right, "--probe-only", "--reference", left)),
    ):
        done = command(module, tmp_path / "e.json", *arguments)
        assert done.code == 0, done.err
    one, other = Probe.read(left), Probe.read(right)
    assert one.layers == other.layers
    assert one.semantics == other.semantics
    compared = 0
    for name, value in other.tensors.items():
        precision, run, rest = name.split("/", 2)
        if precision != "float64":
            continue
        twin = name if run != "isolated" else f"float64/free/{rest}"
        if twin not in one.tensors or (run, rest.split("/")[0]) == ("isolated", "upstream"):
            continue
        expected = one.tensors[twin]
        if expected.size > LIMIT and value.shape == (LIMIT,):
            expected = expected.reshape(-1)[places(twin, expected.size)]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            value, expected, rtol=0, atol=1e-11 * scale + 1e-18, err_msg=name
        )
        compared += 1
    assert compared > 150
    refused = command("torch_impl.record", tmp_path / "e.json", right, "--reference", right)
    assert refused.code == 2 and "whole" in refused.err and "Traceback" not in refused.err
