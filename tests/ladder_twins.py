"""Two twins of a small network in plain NumPy, to try the parity ladder on, and their faults.

The left twin sums forwards, the right one backwards: equal but for rounding, as two frameworks
are. `change` plants a fault: it is handed every value that a twin computes, by layer and stage,
and returns what the twin goes on with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from parity import weights
from parity.experiment import Experiment
from parity.probe import INPUT, Layer, Probe
from parity.recording import METRICS, Recording, with_prefix

Array = np.ndarray
Tensors = dict[str, Array]
Change = Callable[[str, str, Array], Array]  # (layer, stage, value)

BATCH, STEPS = 2, 3
SMALL = Experiment.of(
    "baseline", "quick", padding=1, image_size=64, width=0.02, epochs=1, batch_size=2
)


def unchanged(layer: str, stage: str, value: Array) -> Array:
    return value


class Twin:
    """A network with its loss and Adam, Keras' way. Images NHWC; canonical weights.

    Stages of `change`: `output`; `by_input`, `by_kernel`, `by_bias` (gradients); `loss` and
    `logits` (its gradient by them) of layer `loss`; `step` of a parameter; `images`; `weights`.
    """

    def __init__(
        self,
        experiment: Experiment = SMALL,
        backwards: bool = False,
        change: Change = unchanged,
        adam: dict[str, Any] | None = None,
    ) -> None:
        self.experiment, self.backwards, self.change = experiment, backwards, change
        self.adam = {
            "kind": "adam",
            "learning_rate": experiment.learning_rate,
            "beta_1": 0.9,
            "beta_2": 0.999,
            "epsilon": 1e-7,
            "epsilon_position": "beside the uncorrected root",
            "weight_decay": 0.0,
            **(adam or {}),
        }
        self.names = [
            f"block{number}.{part}"
            for number in range(1, len(experiment.filters) + 1)
            for part in ("conv", "relu", "pool")
        ] + ["flatten", "dense1", "dense1.relu", "dense2"]
        self.padding = {
            f"block{number}.conv": padding
            for number, padding in enumerate(experiment.block_paddings, start=1)
        }

    def forward(self, name: str, x: Array, values: Tensors) -> Array:
        kind = kind_of(name)
        if kind == "conv":
            windows, kernel = self._windows(name, x), values[name + ".kernel"]
            flat = windows.reshape(-1, kernel[..., 0].size)
            y = self._product(flat, kernel.reshape(flat.shape[1], -1))
            y = y.reshape(*windows.shape[:3], -1) + values[name + ".bias"]
        elif kind == "dense":
            y = self._product(x, values[name + ".kernel"]) + values[name + ".bias"]
        elif kind == "pool":
            y = self._cells(x).max(axis=3)
        else:
            y = np.maximum(x, 0) if kind == "relu" else x.reshape(len(x), -1)
        return self.change(name, "output", y)

    def backward(self, name: str, x: Array, up: Array, values: Tensors) -> tuple[Array, Tensors]:
        """The gradients by a layer's input and by its parameters."""
        kind, found = kind_of(name), {}
        if kind == "conv":
            windows, kernel = self._windows(name, x), values[name + ".kernel"]
            flat, ups = windows.reshape(-1, kernel[..., 0].size), up.reshape(-1, up.shape[-1])
            found = {"kernel": self._product(flat.T, ups), "bias": self._sum(ups)}
            found["kernel"] = found["kernel"].reshape(kernel.shape)
            spread = 2 - self.padding[name]
            padded = np.pad(up, ((0, 0), (spread, spread), (spread, spread), (0, 0)))
            turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
            windows = sliding_window_view(padded, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
            flat = windows.reshape(-1, turned[..., 0].size)
            by_input = self._product(flat, turned.reshape(flat.shape[1], -1)).reshape(x.shape)
        elif kind == "dense":
            found = {"kernel": self._product(x.T, up), "bias": self._sum(up)}
            by_input = self._product(up, values[name + ".kernel"].T)
        elif kind == "pool":
            cells = self._cells(x)
            chosen = np.arange(4)[:, None] == cells.argmax(axis=3)[:, :, :, None]
            by_input = self._whole(chosen * up[:, :, :, None], x)
        else:
            by_input = up * (x > 0) if kind == "relu" else up.reshape(x.shape)
        gradients = {
            f"{name}.{part}": self.change(name, f"by_{part}", value)
            for part, value in found.items()
        }
        return self.change(name, "by_input", by_input), gradients

    def run(self, images: Array, labels: Array, values: Tensors) -> dict[str, Tensors]:
        """`activation`, `loss`, `upstream` and `gradient` of one batch."""
        x = images = self.change(INPUT, "images", images)
        inputs, activation, upstream, gradient = {}, {}, {}, {}
        for name in self.names:
            inputs[name] = x
            activation[name] = x = self.forward(name, x, values)
        exps = np.exp(x - x.max(axis=1, keepdims=True))
        shares = exps / exps.sum(axis=1, keepdims=True)
        picked = shares[np.arange(len(labels)), labels]
        loss = self.change("loss", "loss", np.asarray(-np.log(picked).mean(dtype=x.dtype)))
        target = np.eye(x.shape[1], dtype=x.dtype)[labels]
        up = self.change("loss", "logits", (shares - target) / len(labels))
        for name in reversed(self.names):
            upstream[name] = up
            up, own = self.backward(name, inputs[name], up, values)
            gradient |= own
        gradient = {name: gradient[name] for name in values} | {INPUT: up}
        return {
            "activation": activation,
            "loss": {"loss": loss},
            "upstream": {name: upstream[name] for name in self.names},
            "gradient": gradient,
        }

    def train(self, batches: list[tuple[Array, Array]], values: Tensors) -> dict[str, Any]:
        """Steps of Adam from `values`: `losses`, `weights`, `moment1` and `moment2`."""
        values = dict(values)
        first, second = ({n: np.zeros_like(v) for n, v in values.items()} for _ in range(2))
        losses = []
        b1, b2, rate = (self.adam[key] for key in ("beta_1", "beta_2", "learning_rate"))
        for t, (images, labels) in enumerate(batches, start=1):
            result = self.run(images, labels, values)
            losses.append(float(result["loss"]["loss"]))
            scale = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
            for name in values:
                g = result["gradient"][name]
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g**2
                epsilon = self.adam["epsilon"]
                if self.adam["epsilon_position"] != "beside the uncorrected root":
                    epsilon *= np.sqrt(1 - b2**t)
                step = scale * first[name] / (np.sqrt(second[name]) + epsilon)
                step = step + rate * self.adam["weight_decay"] * values[name]
                step = self.change(name, "step", step)
                values[name] = (values[name] - step).astype(g.dtype)
        return {"losses": losses, "weights": values, "moment1": first, "moment2": second}

    def layers(self) -> tuple[Layer, ...]:
        found, before = [], INPUT
        x = np.zeros((1, *[self.experiment.image_size] * 2, 3))
        start, plain = weights.draw(self.experiment), Twin(self.experiment)
        for name in self.names:
            x = plain.forward(name, x, start)
            own = {n: v.shape for n, v in start.items() if n.rpartition(".")[0] == name}
            settings: dict[str, Any] = {"dtype": "float64"}
            if name in self.padding:
                settings |= {"padding": [self.padding[name]] * 2, "strides": [1, 1]}
            if kind_of(name) == "pool":
                settings |= {"pool": "max", "size": [2, 2], "padding": [0, 0]}
            found.append(Layer(name, kind_of(name), (before,), x.shape[1:], own, settings))
            before = name
        return tuple(found)

    def _product(self, a: Array, b: Array) -> Array:
        """a @ b, summed in the twin's own order."""
        return a[:, ::-1] @ b[::-1] if self.backwards else a @ b

    def _sum(self, rows: Array) -> Array:
        return (rows[::-1] if self.backwards else rows).sum(axis=0)

    def _windows(self, name: str, x: Array) -> Array:
        reach = self.padding[name]
        x = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        return sliding_window_view(x, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)

    def _cells(self, x: Array) -> Array:
        """(N, H/2, W/2, 4, C): what each pooling window sees."""
        side = x.shape[1] // 2
        x = x[:, : 2 * side, : 2 * side].reshape(len(x), side, 2, side, 2, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), side, side, 4, -1)

    def _whole(self, cells: Array, like: Array) -> Array:
        count, side, _, _, channels = cells.shape
        x = cells.reshape(count, side, side, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(count, 2 * side, 2 * side, channels)
        rest = like.shape[1] - 2 * side
        return np.pad(x, ((0, 0), (0, rest), (0, rest), (0, 0))).astype(like.dtype)


def kind_of(name: str) -> str:
    last = name.rpartition(".")[2]
    return last if last in ("conv", "relu", "pool") else name.rstrip("0123456789")


def batches(experiment: Experiment, precision: str) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(experiment.seed)
    side = experiment.image_size
    return [
        (rng.random((BATCH, side, side, 3)).astype(precision), rng.integers(0, 2, BATCH))
        for _ in range(STEPS)
    ]


def probe(
    twin: Twin,
    framework: str = "keras",
    reference: Probe | None = None,
    precisions: tuple[str, ...] = ("float64", "float32"),
) -> Probe:
    """A probe as the wings take it: whole without a reference, else sampled, with layers alone."""
    experiment = twin.experiment
    found = Probe(framework, experiment, {}, twin.layers(), semantics(twin))
    found.reference = reference.digest if reference else None
    for precision in precisions:
        at = dataclasses.replace(experiment, precision=precision)
        given = batches(experiment, precision)
        drawn = weights.draw(at)
        start = {name: twin.change(name, "weights", value) for name, value in drawn.items()}
        found.keep(f"{precision}/transfer", start)
        (images, labels), *_ = given
        runs = {"free": (start, images), "again": (start, images)}
        runs["input"] = (start, nudged(images))
        runs["weights"] = ({name: nudged(value) for name, value in start.items()}, images)
        for run in ("free",) if precision == "float64" else tuple(runs):
            values, pictures = runs[run]
            for kind, tensors in twin.run(pictures, labels, values).items():
                whole = reference is None and run == "free" and kind in ("activation", "upstream")
                found.keep(f"{precision}/{run}/{kind}", tensors, whole=whole)
            one = twin.train([(pictures, labels)], values)
            found.keep(f"{precision}/{run}/update", one["weights"])
            for kind in ("moment1", "moment2"):
                found.keep(f"{precision}/{run}/{kind}", one[kind])
            several = twin.train([(pictures, labels), *given[1:]], values)
            trajectory = {"loss": np.array(several["losses"]), **several["weights"]}
            found.keep(f"{precision}/{run}/trajectory", trajectory)
        if reference:
            for kind, tensors in alone(twin, reference, precision, images, start).items():
                found.keep(f"{precision}/isolated/{kind}", tensors)
    return found


def alone(
    twin: Twin, reference: Probe, precision: str, images: Array, values: Tensors
) -> dict[str, Tensors]:
    """Every layer fed with the reference's input and upstream gradient."""
    x = images
    found: dict[str, Tensors] = {"activation": {}, "upstream": {}, "gradient": {}}
    for name in twin.names:
        found["activation"][name] = twin.forward(name, x, values)
        up = reference.tensors[f"{precision}/free/upstream/{name}"]
        found["upstream"][name], own = twin.backward(name, x, up, values)
        found["gradient"] |= own
        x = reference.tensors[f"{precision}/free/activation/{name}"]
    return found


def nudged(values: Array) -> Array:
    away = np.nextafter(values, np.copysign(np.array(np.inf, values.dtype), values))
    return np.where(values == 0, values, away)


def semantics(twin: Twin) -> dict[str, Any]:
    return {
        "optimizer": dict(twin.adam),
        "loss": {"kind": "cross-entropy", "reduction": "mean", "on": "logits"},
        "initialiser": "shared",
        "data": {"digest": "d" * 64, "divisor": 256, "channel_order": "RGB"},
        "batches": {"size": 2, "schedule": "s" * 64, "probe": "p" * 64},
    }


def recording(twin: Twin, framework: str = "keras", steps: int = 4) -> Recording:
    """A whole training of one epoch."""
    experiment = twin.experiment
    precision = experiment.precision
    drawn = weights.draw(experiment)
    start = {name: twin.change(name, "weights", value) for name, value in drawn.items()}
    given = (batches(experiment, precision) * steps)[:steps]
    trained = twin.train(given, start)
    last = trained["losses"][-1]
    found = Recording(
        framework,
        experiment,
        framework,
        weights.parameter_count(experiment),
        {"digest": "d" * 64, "splits": {"train": {"fake": steps, "real": steps}}},
        {},
        history={metric: [last] for metric in METRICS},
        steps={"loss": trained["losses"], "accuracy": [0.5] * steps},
        evaluation={
            split: {"loss": last, "accuracy": 0.5, "confusion": [], "roc_auc": None}
            for split in ("train", "validation", "test")
        },
    )
    found.tensors = with_prefix("initial", start) | with_prefix("final", trained["weights"])
    return found
