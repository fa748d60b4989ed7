"""Assertions that a PyTorch port is the same as its Keras model, in the manner of
`torch.testing.assert_close`: keyword-only options, and the whole report where they fail.

    parity.assert_parity(keras_model, torch_model, images)

Models are live ones and are left as they were; or builders, whose weights are carried over. Images
are NHWC, as the Keras model takes them. Without `rtol` and `atol` tolerances are measured
(`parity.check.levels`); with them, a tensor may differ by atol + rtol x its largest value.
"""

from __future__ import annotations

from typing import Any


def assert_parity(
    keras_model: Any,
    torch_model: Any,
    inputs: Any = None,
    *,
    level: str = "gradient",
    rtol: float | None = None,
    atol: float | None = None,
    **options: Any,
) -> None:
    """Assert that two models agree at every level up to `level`.

    Args:
        keras_model: a `keras.Model`, or a builder, as `parity.check_pair` takes them.
        torch_model: an `nn.Module`, or a builder.
        inputs: an array or several, batch included, as Keras takes them; None draws a batch.
        level: structure, transfer, forward, loss, gradient, buffers, update or trajectory.
        rtol, atol: instead of the measured tolerances.
        options: further fields of `parity.check.run.Asked`: `precision`, `optimizer`,
            `direction="keras-to-torch"` to give the PyTorch model Keras' weights first, `map`.

    Raises:
        AssertionError: the report: where they part, the worst element, the smallest tolerance
            that passes, the likely cause. Also where something could not be compared.
        shared_data.errors.InputError: a model cannot be run, or layers cannot be told apart.
    """
    from parity.check import pairs  # loads what a check needs

    __tracebackhide__ = True
    options |= {"level": level, "rtol": rtol, "atol": atol}
    pairs.asserted(keras_model, torch_model, inputs, **options)


def assert_transfer_exact(keras_model: Any, torch_model: Any, inputs: Any = None) -> None:
    """Assert that both models hold the same weights, bit for bit. Otherwise as `assert_parity`."""
    __tracebackhide__ = True
    assert_parity(keras_model, torch_model, inputs, level="transfer")


def assert_forward_close(
    keras_model: Any,
    torch_model: Any,
    inputs: Any = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that every layer gives the same in inference mode. Otherwise as `assert_parity`."""
    __tracebackhide__ = True
    assert_parity(keras_model, torch_model, inputs, level="forward", rtol=rtol, atol=atol)


def assert_gradients_close(
    keras_model: Any,
    torch_model: Any,
    inputs: Any = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that all gradients in training mode are the same. Otherwise as `assert_parity`."""
    __tracebackhide__ = True
    assert_parity(keras_model, torch_model, inputs, level="gradient", rtol=rtol, atol=atol)


def assert_training_close(
    keras_model: Any,
    torch_model: Any,
    inputs: Any = None,
    *,
    optimizer: str = "adam",
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that some steps of training end in the same weights and moving statistics.

    `optimizer` is adam, adamw, sgd or rmsprop, by Keras' definitions on both sides. Otherwise as
    `assert_parity`.
    """
    __tracebackhide__ = True
    level, tolerances = "trajectory", {"rtol": rtol, "atol": atol}
    assert_parity(keras_model, torch_model, inputs, level=level, optimizer=optimizer, **tolerances)
