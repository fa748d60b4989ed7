"""What the self-test tries: faults of a port (`torch_impl.faults` plants them), faithful twins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity.experiment import VARIANTS


@dataclass(frozen=True)
class Fault:
    """One mistake of a port, planted by `torch_impl.faults`, and where it must be found.

    Attributes:
        name: as `torch_impl.faults` knows it.
        mistake: what was done, in words.
        level: the first level that must fail.
        where: what the ladder must name as an origin.
    """

    name: str
    mistake: str
    level: str
    where: str


FAULTS = (
    Fault("padding", "padding of all convolutions 0 for 1", "structure", "block1.conv"),
    Fault("stride", "stride 2 in a convolution", "structure", "block6.conv"),
    Fault("swapped layers", "the last two layers swapped", "structure", "dense1.relu"),
    Fault("transposed kernel", "kernel height and width swapped", "forward", "block3.conv"),
    Fault("flatten order", "dense rows left in H, W, C order", "forward", "dense1"),
    Fault("missing bias", "a convolution without its bias", "gradient", "block2.conv"),
    Fault("doubled bias", "a convolution adds its bias twice", "gradient", "block2.conv"),
    Fault("wrong activation", "leaky ReLU for ReLU", "structure", "dense1.relu"),
    Fault("missing ReLU", "a block without its ReLU", "structure", "block4.relu"),
    Fault("average pool", "average for max pooling", "structure", "block2.pool"),
    Fault("softmax twice", "softmax in the net and in the loss", "structure", "softmax"),
    Fault("dropout", "dropout left on", "structure", "dropout"),
    Fault("frozen layer", "one block does not train", "gradient", "block1.conv"),
    Fault("float16 layer", "one layer computes in float16", "forward", "block5.conv"),
    Fault("NaN weight", "one weight is NaN", "transfer", "block4.conv"),
    Fault("own initialisation", "weights not transferred", "transfer", "block1.conv"),
    Fault("Adam epsilon", "1e-8 for 1e-7", "structure", "optimizer"),
    Fault("Adam betas", "beta 2 0.99 for 0.999", "structure", "optimizer"),
    Fault("epsilon position", "PyTorch's own place for it", "structure", "optimizer"),
    Fault("learning rate", "off by 1 %", "structure", "optimizer"),
    Fault("weight decay", "1e-4 for none", "structure", "optimizer"),
    Fault("summed loss", "sum over the batch for its mean", "structure", "loss"),
    Fault("gradient not zeroed", "gradients add up over steps", "trajectory", "training"),
    Fault("last batch dropped", "the short batch left out", "structure", "training"),
    Fault("stale order", "every epoch in the first one's order", "structure", "training"),
    Fault("flipped labels", "one class under the other's label", "structure", "loss"),
    Fault("divisor 255", "pixels divided by 255 for 256", "structure", "input"),
    Fault("BGR", "channels in the order B, G, R", "structure", "input"),
    Fault("resize filter", "bilinear for bicubic", "structure", "input"),
)

# Faithful twins: what is changed against a small experiment. None may fail.
CONTROLS: dict[str, dict[str, Any]] = {
    **{f"seed {seed}": {"seed": seed} for seed in (9, 10, 11)},
    **{f"padding {padding}": {"padding": padding} for padding in (0, 1)},
    **{name: {"variant": name} for name in VARIANTS if name != "baseline"},
    **{f"batch size {size}": {"batch_size": size} for size in (1, 5, 16)},
}
SMALL = {"padding": 1, "width": 0.07, "epochs": 2, "batch_size": 6, "synthetic_images": 40}
