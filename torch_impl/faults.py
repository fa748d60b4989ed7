"""Mistakes that ports are made with, one at a time: `python -m torch_impl.faults NAME …`.

Each builds the PyTorch twin with one fault in it and records it as `torch_impl.record` does.
`parity.selftest` runs them all, and says what is expected of each.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from parity import arm, weights
from parity.experiment import Experiment
from parity.feed import Batch, Feed
from parity.side import Side
from shared_data.batches import FaceData, Subset
from shared_data.cleaning import open_image
from shared_data.sources import open_source
from torch_impl.builders import Block
from torch_impl.probing import Prober, canonical_layers
from torch_impl.training import KerasAdam, Trainer, environment

Build = Callable[[Trainer], None]


class Faulty(Trainer):
    """A trainer whose network, loss or optimizer `build` spoils once they are made."""

    def __init__(self, experiment: Experiment, classes: int) -> None:
        super().__init__(experiment, classes)
        self.build()
        self.optimizer = self.make_optimizer()

    def build(self) -> None:
        """The fault, where it is one of the network or the loss."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        return KerasAdam(self.model.parameters(), lr=self.experiment.learning_rate)

    def restart(self, values: Mapping[str, np.ndarray]) -> None:
        self.load(values)
        self.model.zero_grad(set_to_none=True)
        self.optimizer = self.make_optimizer()


def built(build: Build, base: type[Faulty] = Faulty) -> type[Trainer]:
    return type("Built", (base,), {"build": build})


# --- layers


def layer(name: str, make: Callable[[nn.Module], nn.Module]) -> type[Trainer]:
    """One layer is another, `name` as the network has it: `block3.relu`, `dense1_relu`."""

    def build(trainer: Trainer) -> None:
        owner, _, part = name.rpartition(".")
        parent = trainer.model.get_submodule(owner)
        setattr(parent, part, make(getattr(parent, part)))

    return built(build)


class Reshaped(Faulty):
    """Its maps have another size, and so has the first dense layer, which then draws its own."""

    def __init__(self, experiment: Experiment, classes: int) -> None:
        super().__init__(experiment, classes)
        side = experiment.image_size
        dtype = getattr(torch, experiment.precision)
        maps = torch.zeros(1, 3, side, side, dtype=dtype)
        for name, step in canonical_layers(self.model).items():
            if name == "flatten":
                break
            maps = step(maps)
        _, channels, height, width = maps.shape
        size = channels * height * width
        self.model.dense1 = nn.Linear(size, experiment.hidden_units, dtype=dtype)
        self.specs = tuple(
            weights.TensorSpec(spec.name, (size, spec.shape[1]), (height, width, channels))
            if spec.flattened
            else spec
            for spec in self.specs
        )
        self.optimizer = self.make_optimizer()

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        own = self.weights()
        fitting = {n: v if v.shape == own[n].shape else own[n] for n, v in values.items()}
        super().load(fitting)


def other_padding(trainer: Trainer) -> None:
    for block in trainer.model:
        if isinstance(block, Block):
            block.conv.padding = (1 - trainer.experiment.padding,) * 2


def stride_2(trainer: Trainer) -> None:
    block = trainer.model.get_submodule("block6")
    assert isinstance(block, Block)
    block.conv.stride = (2, 2)


def reordered(trainer: Trainer, names: Sequence[str], **new: nn.Module) -> None:
    """The network's parts, and `new` ones, in another order: those not named first."""
    parts = {**dict(trainer.model.named_children()), **new}
    order = [name for name in parts if name not in names] + list(names)
    trainer.model = nn.Sequential(OrderedDict((name, parts[name]) for name in order))


def swapped(trainer: Trainer) -> None:
    reordered(trainer, ["dense2", "dense1_relu"])


def softmax_twice(trainer: Trainer) -> None:
    reordered(trainer, ["softmax"], softmax=nn.Softmax(dim=1))


def dropout(trainer: Trainer) -> None:
    reordered(trainer, ["dropout", "dense2"], dropout=nn.Dropout(0.5))


def frozen(trainer: Trainer) -> None:
    trainer.model.get_submodule("block1").requires_grad_(False)


class Averaged(Block):
    """A block with another pooling, which does not commute with its ReLU."""

    def __init__(self, like: Block) -> None:
        nn.Module.__init__(self)
        self.conv, self.relu = like.conv, like.relu
        self.pool = nn.AvgPool2d(2)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.conv(x)))


class Conv(nn.Conv2d):
    """A convolution that is given the parameters of another."""

    def __init__(self, like: nn.Conv2d) -> None:
        sizes = (like.in_channels, like.out_channels, 3)
        super().__init__(*sizes, padding=like.padding)  # type: ignore[arg-type]
        self.weight, self.bias = like.weight, like.bias


class NoBias(Conv):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, None, padding=self.padding)


class TwiceBias(Conv):
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return super().forward(x) + self.bias.reshape(-1, 1, 1)


class Half(Conv):
    """Its input and kernel pass through float16."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.half().to(x.dtype)
        return functional.conv2d(x.half().to(x.dtype), kernel, self.bias, padding=self.padding)


# --- weights on their way


class Transposed(Faulty):
    """Height and width of a kernel swapped, there and back."""

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        super().load(_turned(values))

    def canonical(self, tensors: Sequence[Tensor | None]) -> dict[str, np.ndarray]:
        return _turned(super().canonical(tensors))


def _turned(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    name = "block3.conv.kernel"
    return {**values, name: np.ascontiguousarray(values[name].swapaxes(0, 1))}


class FlattenOrder(Faulty):
    """The first dense layer takes Keras' rows as they are: H, W, C for PyTorch's C, H, W."""

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        with self._plain_rows():
            super().load(values)

    def canonical(self, tensors: Sequence[Tensor | None]) -> dict[str, np.ndarray]:
        with self._plain_rows():
            return super().canonical(tensors)

    @contextmanager
    def _plain_rows(self) -> Iterator[None]:
        right = self.specs
        self.specs = tuple(replace(spec, flattened=None) for spec in right)
        yield
        self.specs = right


class OneNaN(Faulty):
    def load(self, values: Mapping[str, np.ndarray]) -> None:
        kernel = values["block4.conv.kernel"].copy()
        kernel[0, 0, 0, 0] = np.nan
        super().load({**values, "block4.conv.kernel": kernel})


class NotLoaded(Faulty):
    """The port starts from PyTorch's own initialisation."""

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        if not hasattr(self, "own"):
            self.own = self.weights()
        super().load(self.own)


# --- optimizer and loss


def optimizer(make: Callable[[Trainer], torch.optim.Optimizer]) -> type[Trainer]:
    class Optimizer(Faulty):
        def make_optimizer(self) -> torch.optim.Optimizer:
            return make(self)

    return Optimizer


def keras_adam(trainer: Trainer, factor: float = 1.0, **settings: Any) -> torch.optim.Optimizer:
    made = KerasAdam(trainer.model.parameters(), lr=trainer.experiment.learning_rate * factor)
    for group in made.param_groups:
        group.update(settings)
    return made


def small_epsilon(trainer: Trainer) -> torch.optim.Optimizer:
    lr = trainer.experiment.learning_rate
    return KerasAdam(trainer.model.parameters(), lr=lr, epsilon=1e-8)


def torch_adam(trainer: Trainer) -> torch.optim.Optimizer:
    lr = trainer.experiment.learning_rate
    return torch.optim.Adam(trainer.model.parameters(), lr=lr, eps=1e-7)


def summed(trainer: Trainer) -> None:
    trainer.loss = nn.CrossEntropyLoss(reduction="sum")


def not_zeroed(trainer: Trainer) -> torch.optim.Optimizer:
    """The gradients of one step are added to those of the next."""
    made = keras_adam(trainer)
    made.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    return made


# --- data


def batches(change: Callable[[np.ndarray, np.ndarray], Batch]) -> type[Feed]:
    """Every batch, in training and evaluation, passes through `change`."""

    class Changed(Feed):
        def training(self, epoch: int) -> Iterator[Batch]:
            return (change(*batch) for batch in super().training(epoch))

        def evaluation(self, subset: Subset) -> Iterator[Batch]:
            return (change(*batch) for batch in super().evaluation(subset))

    return Changed


class LastDropped(Feed):
    @property
    def steps(self) -> int:
        return super().steps - 1

    def training(self, epoch: int) -> Iterator[Batch]:
        for step, batch in enumerate(super().training(epoch), start=1):
            if step <= self.steps:
                yield batch


class StaleOrder(Feed):
    def order(self, epoch: int) -> np.ndarray:
        return super().order(1)


class Bilinear(Feed):
    """The images resized with another filter than the study's bicubic one."""

    def __init__(self, experiment: Experiment, data: FaceData) -> None:
        source = open_source(experiment.data, synthetic_images=experiment.synthetic_images)
        size = (experiment.image_size,) * 2
        resized = [
            np.asarray(open_image(sample.path).resize(size, Image.Resampling.BILINEAR))
            for sample in source.samples
        ]
        images = np.stack(resized)
        names = ("train", "test", "validation")
        splits: dict[str, Any] = {n: replace(getattr(data, n), images=images) for n in names}
        super().__init__(experiment, replace(data, **splits))


Plant = tuple[type[Trainer], type[Feed]]


def _net(trainer: type[Trainer]) -> Plant:
    return trainer, Feed


def _data(feed: type[Feed]) -> Plant:
    return Trainer, feed


FAULTS: dict[str, Plant] = {
    "padding": _net(built(other_padding, Reshaped)),
    "stride": _net(built(stride_2, Reshaped)),
    "swapped layers": _net(built(swapped)),
    "transposed kernel": _net(Transposed),
    "flatten order": _net(FlattenOrder),
    "missing bias": _net(layer("block2.conv", NoBias)),  # type: ignore[arg-type]
    "doubled bias": _net(layer("block2.conv", TwiceBias)),  # type: ignore[arg-type]
    "wrong activation": _net(layer("dense1_relu", lambda old: nn.LeakyReLU(0.01))),
    "missing ReLU": _net(layer("block4.relu", lambda old: nn.Identity())),
    "average pool": _net(layer("block2", Averaged)),  # type: ignore[arg-type]
    "softmax twice": _net(built(softmax_twice)),
    "dropout": _net(built(dropout)),
    "frozen layer": _net(built(frozen)),
    "float16 layer": _net(layer("block5.conv", Half)),  # type: ignore[arg-type]
    "NaN weight": _net(OneNaN),
    "own initialisation": _net(NotLoaded),
    "Adam epsilon": _net(optimizer(small_epsilon)),
    "Adam betas": _net(optimizer(lambda trainer: keras_adam(trainer, betas=(0.9, 0.99)))),
    "epsilon position": _net(optimizer(torch_adam)),
    "learning rate": _net(optimizer(lambda trainer: keras_adam(trainer, factor=1.01))),
    "weight decay": _net(optimizer(lambda trainer: keras_adam(trainer, weight_decay=1e-4))),
    "summed loss": _net(built(summed)),
    "gradient not zeroed": _net(optimizer(not_zeroed)),
    "last batch dropped": _data(LastDropped),
    "stale order": _data(StaleOrder),
    "flipped labels": _data(batches(lambda x, y: (x, np.where(y == 0, 1, y)))),
    "divisor 255": _data(batches(lambda x, y: (x * (x.dtype.type(256) / 255), y))),
    "BGR": _data(batches(lambda x, y: (np.ascontiguousarray(x[..., ::-1]), y))),
    "resize filter": _data(Bilinear),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in FAULTS:
        print(f"error: name one of {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    name, *rest = arguments
    trainer, feed = FAULTS[name]
    side = Side(trainer, Prober, environment, feed)
    return arm.main("torch", lambda: side, rest, module=("torch_impl.faults", name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
