"""What a function called in a `forward` is, by the rules of `torch_impl.kinds`.

A function is known by its name, which `torch.relu`, `Tensor.relu`, `F.relu` and `relu_` share.
`FUNCTIONS` says how its arguments are called in the order they are passed, under the names that the
module of the same meaning has for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from parity.check.graph import written
from torch_impl import kinds
from torch_impl.kinds import Kind, Rule

_words = str.split

# Their output is their input: no call of its own.
TRANSPARENT = frozenset(
    _words(
        "contiguous clone to float double half bfloat16 type type_as cpu cuda detach alias data "
        "requires_grad_ resolve_conj resolve_neg"
    )
)
# Only a shape or a type is taken from their argument.
CONSTANT = frozenset(
    _words(
        "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_tensor"
    )
)
# Uses of a tensor as a part: the calls that give out several of them.
PIECES = frozenset(_words("chunk split tensor_split unbind split_with_sizes unsafe_chunk"))
_OPERATIONS = {
    "add": "add",
    "sub": "subtract",
    "subtract": "subtract",
    "rsub": "subtract",
    "mul": "multiply",
    "multiply": "multiply",
    "div": "divide",
    "divide": "divide",
    "true_divide": "divide",
}
# The place of the operand that stands on the right.
_MATRICES = {"matmul": 1, "mm": 1, "bmm": 1, "dot": 1, "mv": 1, "rmatmul": 0}
_MATRICES |= {"addmm": 2, "addbmm": 2, "baddbmm": 2}
# What they give is their argument in another form.
_FORMS = frozenset(
    _words(
        "t T mT H transpose permute view reshape view_as unsqueeze squeeze expand expand_as chunk "
        "split unbind flatten unflatten movedim swapaxes repeat size shape dim"
    )
)
REVERSED = ("rsub", "rdiv")  # 1 - x and 1 / x


def name_of(function: Callable[..., Any]) -> str:
    """`relu` for F.relu, Tensor.relu_, …; `add` for Tensor.__iadd__; `T` for the property."""
    name: str = getattr(function, "__name__", None) or str(function)
    if name == "__get__":
        return str(getattr(function, "__self__", function).__name__)
    if name.startswith("__") and name.endswith("__"):
        return name.strip("_")
    return name if name in TRANSPARENT else name.removesuffix("_")


def in_place(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether it writes its result over its first argument."""
    name: str = getattr(function, "__name__", "")
    if name == "__setitem__" or arguments.get("inplace") is True:
        return True
    return name.endswith("_") and not name.endswith("__") and name not in TRANSPARENT


def describe(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    x: Tensor,
    y: Tensor,
) -> Kind:
    """Kind and settings of a call. `x` is the first tensor it got, `y` the first it gave."""
    name = name_of(function)
    known = FUNCTIONS.get(name)
    try:
        if name in _OPERATIONS:
            return _arithmetic(name, args, kwargs)
        if known is None:
            return f"other:{name}", {}
        arguments, rule = known
        kind, settings = rule(bind(arguments, args, kwargs), x, y)
        return kind, written(settings)
    except Exception:  # called in a way that the table does not know
        return f"other:{name}", {}


def bind(names: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> SimpleNamespace:
    """Arguments under the table's names; `name=default` where one may be left out.

    >>> bind("input p=0.5 training=True", ["x"], {"p": 0.1})
    namespace(p=0.1, training=True, input='x')
    """
    given, order = {}, []
    for word in names.split():
        name, has_default, default = word.partition("=")
        order.append(name)
        if has_default:
            given[name] = _DEFAULTS[default] if default in _DEFAULTS else float(default)
    given.update(zip(order, args, strict=False))
    given.update({_RENAMED.get(name, name): value for name, value in kwargs.items()})
    return SimpleNamespace(**given)


def weight_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The weight among the arguments of a function that has one; None of another."""
    arguments = FUNCTIONS.get(name, ("", None))[0]
    if " weight" not in arguments:
        return None
    return getattr(bind(arguments, args, kwargs), "weight", None)


def use(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], value: Tensor) -> str | None:
    """How a function uses a parameter among its arguments, or a view of one: see
    `parity.check.graph.Graph`. None where it gives out another form of the parameter alone."""
    if name in _FORMS or name in TRANSPARENT or name in CONSTANT:
        return None
    if name == "einsum":
        operands = args[1] if isinstance(args[1], list | tuple) else args[1:]
        place = next((at for at, each in enumerate(operands) if each is value), 0)
        return f"einsum {str(args[0]).replace(' ', '')} {place}"
    place = next((at for at, each in enumerate(args) if each is value), -1)
    if name in _MATRICES and value.ndim > 1:
        last = place == _MATRICES[name]
        return "matrix" if last != _turned(value) else "turned matrix"
    if name == "linear" or name.endswith("_cell"):
        return "term" if value.ndim < 2 else "matrix" if _turned(value) else "turned matrix"
    if value is weight_of(name, args, kwargs):
        return "table" if name == "embedding" else "kernel" if "conv" in name else "factor"
    if name == "getitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return "table" if any(isinstance(each, Tensor) for each in index) else None
    if name == "index_select":
        return "table"
    if _OPERATIONS.get(name) in ("multiply", "divide"):
        return "factor"
    return "term" if name in _OPERATIONS or name.startswith(("conv", "add", "batch_norm")) else ""


def _turned(value: Tensor) -> bool:
    """Whether it is the view of a matrix with its axes exchanged."""
    return value.ndim > 1 and value.stride(-1) != 1 and value.shape[-1] != 1


def without_dropout(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which a function drops nothing; of others, the arguments they have."""
    if function not in _SWITCHES:
        return tuple(args), dict(kwargs)
    place, name, off = _SWITCHES[function]
    if len(args) > place:
        return (*args[:place], off, *args[place + 1 :]), dict(kwargs)
    return tuple(args), {**kwargs, name: off}


def _arithmetic(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    """Of two tensors, or of one and a number: then it is a rescale."""
    operation = _OPERATIONS[name]
    left, right = args[0], args[1] if len(args) > 1 else kwargs.get("other")
    factor = kwargs.get("alpha", 1)
    number = next((each for each in (left, right) if not isinstance(each, Tensor)), None)
    if number is None or not isinstance(number, (int, float)):
        more = {"alpha": factor} if factor != 1 else {}
        return ("other:divide" if operation == "divide" else operation), more
    scale, offset = 1.0, 0.0
    if operation == "add":
        offset = float(number * factor)
    elif operation == "multiply":
        scale = float(number)
    elif operation == "divide":
        scale = 1 / number if number else float("inf")
    elif name == "rsub" or number is left:
        scale, offset = -1.0, float(number)
    else:
        offset = -float(number * factor)
    return "rescale", {"scale": scale, "offset": offset}


def _permute(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "permute", {}


def _mean(given: Any, x: Tensor, y: Tensor) -> Kind:
    dims = _dims(given.dim, x.ndim)
    if x.ndim >= 4 and dims == list(range(2, x.ndim)):
        return "global_average_pool", {}
    return "mean", {"axes": dims}


def _largest(given: Any, x: Tensor, y: Tensor) -> Kind:
    dims = _dims(given.dim, x.ndim)
    spatial = x.ndim >= 4 and dims == list(range(2, x.ndim))
    return ("global_max_pool", {}) if spatial else ("max", {"axes": dims})


def _dims(dim: Any, ndim: int) -> list[int]:
    if dim is None or dim in ((), []):
        return list(range(ndim))
    return sorted(each % ndim for each in ([dim] if isinstance(dim, int) else dim))


def _concatenate(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "concatenate", {"axis": kinds.from_last(int(given.dim), y.ndim)}


def _clamp(given: Any, x: Tensor, y: Tensor) -> Kind:
    kind = {(0, None): "relu", (0, 6): "relu6"}.get((given.min, given.max))
    return (kind, {}) if kind else ("other:clamp", {"bounds": [given.min, given.max]})


def _index(given: Any, x: Tensor, y: Tensor) -> Kind:
    index = given.index if isinstance(given.index, tuple) else (given.index,)
    return "select", {"index": ", ".join(_index_text(each) for each in index)}


def _index_text(each: Any) -> str:
    if isinstance(each, slice):
        ends = ["" if end is None else str(end) for end in (each.start, each.stop, each.step)]
        return ":".join(ends if ends[2] else ends[:2])
    return "..." if each is Ellipsis else "tensor" if isinstance(each, Tensor) else str(each)


def _selected(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "select", {}


def _negated(given: Any, x: Tensor, y: Tensor) -> Kind:
    return "rescale", {"scale": -1.0, "offset": 0.0}


def _spatial(names: str, arguments: str, rule: Rule) -> dict[str, tuple[str, Rule]]:
    return {f"{name}{n}d": (arguments, rule) for name in names.split() for n in (1, 2, 3)}


_DEFAULTS: dict[str, Any] = {"None": None, "True": True, "False": False, "none": "none"}
_DEFAULTS |= {"nearest": "nearest", "constant": "constant"} | {str(n): n for n in range(-1, 2)}
_RENAMED = {"pad": "padding", "axis": "dim", "tensors": "input"}
_ACTIVATION = "input inplace=False"
FUNCTIONS: dict[str, tuple[str, Rule]] = {
    **_spatial("conv", "input weight bias=None stride=1 padding=0 dilation=1 groups=1", kinds.conv),
    **_spatial(
        "conv_transpose",
        "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1",
        kinds.conv_transpose,
    ),
    "linear": ("input weight bias=None", kinds.dense),
    "batch_norm": (
        "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-5",
        kinds.batch_norm,
    ),
    "layer_norm": (
        "input normalized_shape weight=None bias=None eps=1e-5",
        kinds.layer_norm,
    ),
    "rms_norm": ("input normalized_shape weight=None eps=None", kinds.rms_norm),
    "group_norm": ("input num_groups weight=None bias=None eps=1e-5", kinds.group_norm),
    "instance_norm": (
        "input running_mean=None running_var=None weight=None bias=None use_input_stats=True "
        "momentum=0.1 eps=1e-5",
        kinds.instance_norm,
    ),
    "embedding": ("input weight padding_idx=None", kinds.embedding),
    "prelu": ("input weight", kinds.plain("prelu")),
    **{name: (_ACTIVATION, kinds.plain(name)) for name in ("relu", "relu6", "silu", "selu")},
    **{name: (_ACTIVATION, kinds.plain(name)) for name in ("sigmoid", "tanh")},
    "hardswish": (_ACTIVATION, kinds.plain("hard_silu")),
    "hardsigmoid": (_ACTIVATION, kinds.plain("hard_sigmoid")),
    "hardtanh": ("input min_val=-1 max_val=1 inplace=False", kinds.hardtanh),
    "leaky_relu": ("input negative_slope=0.01 inplace=False", kinds.leaky_relu),
    "elu": ("input alpha=1 inplace=False", kinds.elu),
    "celu": ("input alpha=1 inplace=False", kinds.celu),
    "gelu": ("input approximate=none", kinds.gelu),
    "softplus": ("input beta=1 threshold=20", kinds.softplus),
    "softmax": ("input dim=None", kinds.softmax),
    "clamp": ("input min=None max=None", _clamp),
    "clip": ("input min=None max=None", _clamp),
    "clamp_min": ("input min max=None", _clamp),
    **_spatial(
        "max_pool",
        "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False",
        kinds.max_pool,
    ),
    "avg_pool1d": (
        "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True",
        kinds.average_pool,
    ),
    **{
        f"avg_pool{n}d": (
            "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True "
            "divisor_override=None",
            kinds.average_pool,
        )
        for n in (2, 3)
    },
    **_spatial("adaptive_avg_pool", "input output_size", kinds.adaptive("average_pool")),
    **_spatial("adaptive_max_pool", "input output_size", kinds.adaptive("max_pool")),
    "flatten": ("input start_dim=0 end_dim=-1", kinds.flatten),
    **{
        name: ("input", kinds.reshape)
        for name in _words("view reshape view_as reshape_as squeeze unsqueeze unflatten")
    },
    **{
        name: ("input", _permute)
        for name in _words("permute transpose t T mT H movedim moveaxis swapaxes swapdims")
    },
    "mean": ("input dim=None", _mean),
    "amax": ("input dim=None", _largest),
    **{name: ("input dim=0", _concatenate) for name in ("cat", "concat", "concatenate")},
    "getitem": ("input index", _index),
    **{name: ("input", _selected) for name in ("select", "narrow", "index_select")},
    **{name: ("input", _selected) for name in PIECES},
    "interpolate": (
        "input size=None scale_factor=None mode=nearest align_corners=None",
        kinds.upsample,
    ),
    "pad": ("input padding mode=constant value=None", kinds.pad),
    **{
        name: ("input p=0.5 training=True inplace=False", kinds.dropout)
        for name in _words(
            "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
            "feature_dropout"
        )
    },
    "neg": ("input", _negated),
    "negative": ("input", _negated),
}


def _switches() -> Iterator[tuple[Any, tuple[int, str, Any]]]:
    """What switches dropout off: the argument's place, its name, and its value."""
    for name in _words("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"):
        yield getattr(functional, name), (2, "training", False)
    for name in _words("dropout alpha_dropout feature_dropout feature_alpha_dropout"):
        yield getattr(torch, name), (2, "train", False)
        yield getattr(torch, name + "_"), (2, "train", False)
    yield functional.scaled_dot_product_attention, (4, "dropout_p", 0.0)
    whole = functional.multi_head_attention_forward
    place = list(inspect.signature(whole).parameters).index("dropout_p")
    yield whole, (place, "dropout_p", 0.0)
    yield functional.rrelu, (3, "training", False)


_SWITCHES = dict(_switches())
