"""Which modules are one layer each, and by which rule of `torch_impl.kinds` they are described."""

from __future__ import annotations

from torch import Tensor, nn

from parity.check.graph import written
from torch_impl import kinds
from torch_impl.kinds import Kind, Rule


def of_module(module: nn.Module) -> Rule | None:
    """The rule of a module that is described as one layer; None of one to look into, as is a
    known one whose class computes in a way of its own."""
    parent = parent_of(module)
    if parent is None:
        return kinds.dropout if type(module).__name__ in DROPOUTS else None
    return MODULES[parent] if _computes_as(module, parent) else None


def parent_of(module: nn.Module) -> type[nn.Module] | None:
    """The known class that a module is of; the first in its class's order counts."""
    return next((base for base in type(module).__mro__ if base in MODULES), None)


def drops(module: nn.Module) -> bool:
    """Whether all that it does in training is to drop."""
    parent = parent_of(module)
    rule = of_module(module) if parent is None else MODULES[parent]
    return rule is kinds.dropout


def described(rule: Rule, module: nn.Module, x: Tensor, y: Tensor) -> Kind:
    """Kind and settings. An attribute that the user's class has made its own may say anything:
    what cannot be read so is known by its class alone."""
    try:
        kind, settings = rule(module, x, y)
        return kind, written(settings)
    except Exception:
        return f"other:{type(module).__name__}", {}


def _computes_as(module: nn.Module, parent: type[nn.Module]) -> bool:
    """Whether its `forward`, and what that calls on it, are the known class's own."""
    if "forward" in vars(module):
        return False
    names = ("forward", *parent.forward.__code__.co_names)
    own = type(module)
    return all(getattr(own, name, None) is getattr(parent, name, None) for name in names)


# Modules that are one layer each, subclasses that compute alike included. Others are looked into.
MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), kinds.conv),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), kinds.conv_transpose
    ),
    nn.Linear: kinds.dense,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), kinds.batch_norm),
    nn.LayerNorm: kinds.layer_norm,
    nn.RMSNorm: kinds.rms_norm,
    nn.GroupNorm: kinds.group_norm,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), kinds.instance_norm),
    nn.Embedding: kinds.embedding,
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU), kinds.recurrent),
    nn.MultiheadAttention: kinds.attention,
    nn.PReLU: kinds.plain("prelu"),
    nn.ReLU: kinds.plain("relu"),
    nn.ReLU6: kinds.plain("relu6"),
    nn.Hardtanh: kinds.hardtanh,
    nn.LeakyReLU: kinds.leaky_relu,
    nn.ELU: kinds.elu,
    nn.CELU: kinds.celu,
    nn.SELU: kinds.plain("selu"),
    nn.GELU: kinds.gelu,
    nn.SiLU: kinds.plain("silu"),
    nn.Hardswish: kinds.plain("hard_silu"),
    nn.Hardsigmoid: kinds.plain("hard_sigmoid"),
    nn.Sigmoid: kinds.plain("sigmoid"),
    nn.Tanh: kinds.plain("tanh"),
    nn.Softmax: kinds.softmax,
    nn.Softmax2d: kinds.softmax2d,
    nn.Softplus: kinds.softplus,
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), kinds.max_pool),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), kinds.average_pool),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        kinds.adaptive("average_pool"),
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        kinds.adaptive("max_pool"),
    ),
    nn.Flatten: kinds.flatten,
    nn.Unflatten: kinds.reshape,
    nn.Identity: kinds.plain("identity"),
    **dict.fromkeys(
        (
            *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
            *(nn.AlphaDropout, nn.FeatureAlphaDropout),
        ),
        kinds.dropout,
    ),
    nn.Upsample: kinds.upsample,
    **{
        getattr(nn, f"{mode}Pad{n}d"): kinds.pad
        for mode in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for n in (1, 2, 3)
    },
}
# Libraries' own layers that drop whole paths; they are torchvision's and timm's names for it.
DROPOUTS = ("StochasticDepth", "DropPath")
