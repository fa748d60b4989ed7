"""Each rule: exact to the bit there and back, and the same function on both sides.

What a layer computes is written out in NumPy in each framework's convention, as its documentation
says; `test_transfer_frameworks.py` asks the frameworks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.transfer.candidates import convert
from parity.transfer.layouts import Order
from parity.transfer.recurrent import RESET_AFTER
from parity.transfer.rules import RULES, Context, Pair, Paired, Tensors, Unfit, register_rule
from parity.transfer.units import Unit

Shapes = dict[str, tuple[int, ...]]
sizes = st.integers(1, 4)


def unit(framework: str, shapes: Shapes, at: int = 0, **settings: Any) -> Unit:
    return Unit(f"layer{at}", framework, "some", at, shapes=dict(shapes), settings=settings)


def context(keras: Shapes | list[Shapes], torch: Shapes | list[Shapes], **known: Any) -> Context:
    layers = [
        tuple(unit(side, each, at) for at, each in enumerate(s if isinstance(s, list) else [s]))
        for side, s in (("keras", keras), ("torch", torch))
    ]
    return Context(layers[0], layers[1], **known)


def drawn(shapes: Shapes, seed: int = 0, special: bool = True) -> Tensors:
    """Normal numbers, and among them what bits tend to be lost of."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        if special and value.size:
            value.flat[0] = rng.choice([-0.0, np.nan, np.inf, 1e-42])
        tensors[name] = value
    return tensors


def exact(rule: str, known: Context, *, start: str = "keras", seed: int = 0) -> None:
    """There and back from `start`, to the bit."""
    other = "torch" if start == "keras" else "keras"
    tensors = drawn(known.wanted(start), seed)
    there = convert(RULES[rule], other, tensors, known)
    back = convert(RULES[rule], start, there, known)
    assert list(back) == list(tensors) or set(back) == set(tensors)
    for name, value in tensors.items():
        assert np.array(back[name], order="C").tobytes() == value.tobytes(), name
        assert back[name].dtype == value.dtype


def both(rule: str, known: Context, seed: int = 0) -> None:
    exact(rule, known, start="keras", seed=seed)
    exact(rule, known, start="torch", seed=seed)


# Convolutions -------------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn, rank: int) -> tuple[tuple[int, ...], int, int, int]:
    """Window, groups, channels in a group, and outputs of a group."""
    return tuple(draw(sizes) for _ in range(rank)), draw(sizes), draw(sizes), draw(sizes)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_exact(rank: int, bias: bool) -> None:
    @settings(max_examples=20, deadline=None)
    @given(windows(rank), st.integers(0, 99))
    def check(case: tuple[tuple[int, ...], int, int, int], seed: int) -> None:
        window, groups, ins, outs = case
        outs *= groups
        extra: Shapes = {"bias": (outs,)} if bias else {}
        known = context(
            {"kernel": (*window, ins, outs), **extra}, {"weight": (outs, ins, *window), **extra}
        )
        both(f"conv{rank}d", known, seed)
        known = context(
            {"kernel": (*window, outs, ins), **extra}, {"weight": (ins, outs, *window), **extra}
        )
        both(f"conv_transpose{rank}d", known, seed)

    check()


@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_and_separable_convolutions_are_exact(rank: int) -> None:
    @settings(max_examples=20, deadline=None)
    @given(windows(rank), st.integers(0, 99))
    def check(case: tuple[tuple[int, ...], int, int, int], seed: int) -> None:
        window, _, channels, each = case
        total = channels * each
        known = context(
            {"kernel": (*window, channels, each), "bias": (total,)},
            {"weight": (total, 1, *window), "bias": (total,)},
        )
        both(f"depthwise_conv{rank}d", known, seed)
        ones = (1,) * rank
        known = context(
            {
                "depthwise_kernel": (*window, channels, each),
                "pointwise_kernel": (*ones, total, 3),
                "bias": (3,),
            },
            [{"weight": (total, 1, *window)}, {"weight": (3, total, *ones), "bias": (3,)}],
        )
        both(f"separable_conv{rank}d", known, seed)

    check()


def places(*shape: int) -> Iterator[tuple[int, ...]]:
    return product(*map(range, shape))


def keras_conv(x: np.ndarray, kernel: np.ndarray, groups: int = 1) -> np.ndarray:
    """(H, W, C) and (h, w, C / groups, O), valid, by loops."""
    h, w, ins, outs = kernel.shape
    result = np.zeros((x.shape[0] - h + 1, x.shape[1] - w + 1, outs))
    for i, j, o in places(*result.shape):
        first = o // (outs // groups) * ins
        for a, b, c in places(h, w, ins):
            result[i, j, o] += x[i + a, j + b, first + c] * kernel[a, b, c, o]
    return result


def torch_conv(x: np.ndarray, weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """(C, H, W) and (O, C / groups, h, w), valid, by loops."""
    outs, ins, h, w = weight.shape
    result = np.zeros((outs, x.shape[1] - h + 1, x.shape[2] - w + 1))
    for o, i, j in places(*result.shape):
        first = o // (outs // groups) * ins
        patch = x[first : first + ins, i : i + h, j : j + w]
        result[o, i, j] = (patch * weight[o]).sum()
    return result


def moved(rule: str, known: Context, tensors: Tensors) -> Tensors:
    return convert(RULES[rule], "torch", tensors, known)


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 0)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_the_same_on_both_sides(groups: int) -> None:
    known = context({"kernel": (3, 2, 2, 6)}, {"weight": (6, 2, 3, 2)})
    tensors = drawn(known.wanted("keras"), special=False)
    x = np.random.default_rng(1).normal(size=(5, 4, 2 * groups))
    weight = moved("conv2d", known, tensors)["weight"]
    theirs = torch_conv(first(x), weight, groups)
    np.testing.assert_allclose(theirs, first(keras_conv(x, tensors["kernel"], groups)), rtol=1e-6)


def test_a_depthwise_convolution_is_the_same_on_both_sides() -> None:
    known = context({"kernel": (3, 2, 3, 2)}, {"weight": (6, 1, 3, 2)})
    tensors = drawn(known.wanted("keras"), special=False)
    kernel, x = tensors["kernel"], np.random.default_rng(1).normal(size=(5, 4, 3))
    ours = np.zeros((3, 3, 6))
    for i, j, c, m, a, b in places(3, 3, 3, 2, 3, 2):  # output channel c x M + m
        ours[i, j, c * 2 + m] += x[i + a, j + b, c] * kernel[a, b, c, m]
    weight = moved("depthwise_conv2d", known, tensors)["weight"]
    np.testing.assert_allclose(torch_conv(first(x), weight, groups=3), first(ours), rtol=1e-6)


def test_a_separable_convolution_is_its_two_halves() -> None:
    shapes: Shapes = {"depthwise_kernel": (3, 3, 3, 2), "pointwise_kernel": (1, 1, 6, 4)}
    known = context(
        {**shapes, "bias": (4,)},
        [{"weight": (6, 1, 3, 3), "bias": (6,)}, {"weight": (4, 6, 1, 1), "bias": (4,)}],
    )
    tensors = drawn(known.wanted("keras"), special=False)
    x = np.random.default_rng(1).normal(size=(5, 5, 3))
    depth = np.zeros((3, 3, 6))
    for i, j, c, m, a, b in places(3, 3, 3, 2, 3, 3):
        value = x[i + a, j + b, c] * tensors["depthwise_kernel"][a, b, c, m]
        depth[i, j, c * 2 + m] += value
    ours = keras_conv(depth, tensors["pointwise_kernel"]) + tensors["bias"]
    made = moved(f"separable_conv{2}d", known, tensors)
    assert not made["0/bias"].any()
    middle = torch_conv(first(x), made["0/weight"], groups=3) + made["0/bias"][:, None, None]
    theirs = torch_conv(middle, made["1/weight"]) + made["1/bias"][:, None, None]
    np.testing.assert_allclose(theirs, first(ours), rtol=1e-5)
    with pytest.raises(Unfit, match="0/bias is not 0 everywhere"):
        convert(RULES["separable_conv2d"], "keras", {**made, "0/bias": np.ones(6)}, known)


def test_a_transposed_convolution_is_not_flipped() -> None:
    """Both are the gradient of a convolution by its input: each input is spread by the kernel."""
    known = context({"kernel": (3, 2, 4, 5)}, {"weight": (5, 4, 3, 2)})
    tensors = drawn(known.wanted("keras"), special=False)
    kernel, x = tensors["kernel"], np.random.default_rng(1).normal(size=(3, 3, 5))
    weight = moved("conv_transpose2d", known, tensors)["weight"]
    ours, theirs = np.zeros((7, 6, 4)), np.zeros((4, 7, 6))
    for i, j, c, o, a, b in places(3, 3, 5, 4, 3, 2):  # stride 2
        ours[2 * i + a, 2 * j + b, o] += x[i, j, c] * kernel[a, b, o, c]
        theirs[o, 2 * i + a, 2 * j + b] += first(x)[c, i, j] * weight[c, o, a, b]
    np.testing.assert_allclose(theirs, first(ours), rtol=1e-6)


# Dense layers -------------------------------------------------------------------------------------

MAP = Order((2, 3, 4), (2, 0, 1))


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 99), st.booleans(), st.booleans())
def test_dense_layers_are_exact(
    h: int, w: int, c: int, n: int, seed: int, rows: bool, columns: bool
) -> None:
    order = (Order((h, w, c), (2, 0, 1)),)
    ins, outs = h * w * c, h * w * c if columns else n
    known = context(
        {"kernel": (ins, outs), "bias": (outs,)},
        {"weight": (outs, ins), "bias": (outs,)},
        flattened=order if rows else (),
        unflattened=order if columns else (),
    )
    both("dense", known, seed)


def test_a_dense_layer_behind_a_flatten_batch_norm_and_concatenate() -> None:
    """Rows of a flattened map and, behind them, of a vector that is not reordered."""
    known = context({"kernel": (29, 3)}, {"weight": (3, 29)}, flattened=(MAP, Order((5,), (0,))))
    tensors = drawn(known.wanted("keras"), special=False)
    rng = np.random.default_rng(1)
    image, vector = rng.normal(size=(2, 3, 4)), rng.normal(size=5)
    ours = np.concatenate([image.reshape(-1), vector]) @ tensors["kernel"]
    read = np.concatenate([image.transpose(2, 0, 1).reshape(-1), vector])
    theirs = moved("dense", known, tensors)["weight"] @ read
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    both("dense", known)


def test_batch_norm_of_a_flattened_map_is_reordered_too() -> None:
    shapes: Shapes = {name: (24,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    theirs: Shapes = {name: (24,) for name in ("weight", "bias", "running_mean", "running_var")}
    known = context(shapes, theirs, flattened=(MAP,))
    tensors = drawn(shapes, special=False)
    made = moved("batch_norm", known, tensors)
    for a, b in zip(shapes, theirs, strict=True):
        image = tensors[a].reshape(2, 3, 4)
        np.testing.assert_array_equal(made[b].reshape(4, 2, 3), image.transpose(2, 0, 1))
    both("batch_norm", known)


def test_a_dense_layer_whose_outputs_become_a_map() -> None:
    known = context(
        {"kernel": (5, 24), "bias": (24,)}, {"weight": (24, 5), "bias": (24,)}, unflattened=(MAP,)
    )
    tensors = drawn(known.wanted("keras"), special=False)
    x = np.random.default_rng(1).normal(size=5)
    made = moved("dense", known, tensors)
    ours = (x @ tensors["kernel"] + tensors["bias"]).reshape(2, 3, 4)
    theirs = (made["weight"] @ x + made["bias"]).reshape(4, 2, 3)
    np.testing.assert_allclose(theirs, ours.transpose(2, 0, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("abc,cde->abde", (6, 2, 4)), ("abde,dec->abc", (2, 3, 8)), ("", (6, 8))],
)
def test_einsum_dense_used_as_dense(equation: str, shape: tuple[int, ...]) -> None:
    keras = unit("keras", {"kernel": shape, "bias": (8,)}, equation=equation)
    known = Context((keras,), (unit("torch", {"weight": (8, 6), "bias": (8,)}),))
    tensors = drawn(known.wanted("keras"), special=False)
    made = moved("dense", known, tensors)
    x = np.random.default_rng(0).normal(size=6)
    if equation == "abc,cde->abde":
        ours = np.einsum("c,cde->de", x, tensors["kernel"]).reshape(-1)
    else:
        ours = x @ tensors["kernel"].reshape(6, 8)
    np.testing.assert_allclose(made["weight"] @ x, ours, rtol=1e-5)
    both("dense", known)


def test_einsum_dense_that_sums_over_the_kernels_last_axis() -> None:
    keras = unit("keras", {"kernel": (8, 6)}, equation="abc,dc->abd")
    known = Context((keras,), (unit("torch", {"weight": (8, 6)}),))
    tensors = drawn(known.wanted("keras"), special=False)
    np.testing.assert_array_equal(moved("dense", known, tensors)["weight"], tensors["kernel"])
    both("dense", known)


def test_a_dense_layer_and_a_convolution_of_one_pixel() -> None:
    known = context({"kernel": (3, 5), "bias": (5,)}, {"weight": (5, 3, 1, 1), "bias": (5,)})
    both("pointwise", known)
    tensors = drawn(known.wanted("keras"), special=False)
    made = moved("pointwise", known, tensors)["weight"]
    np.testing.assert_array_equal(made[:, :, 0, 0], tensors["kernel"].T)
    both("pointwise_conv", context({"kernel": (1, 1, 3, 5)}, {"weight": (5, 3)}))


# Norms and single tensors -------------------------------------------------------------------------

VECTORS: list[tuple[str, Shapes, Shapes]] = [
    (
        "batch_norm",
        {"gamma": (4,), "beta": (4,), "moving_mean": (4,), "moving_variance": (4,)},
        {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,)},
    ),
    ("layer_norm", {"gamma": (4,), "beta": (4,)}, {"weight": (4,), "bias": (4,)}),
    (
        "layer_norm",
        {"gamma": (2, 3, 4), "beta": (2, 3, 4)},
        {"weight": (4, 2, 3), "bias": (4, 2, 3)},
    ),
    ("group_norm", {"gamma": (4,), "beta": (4,)}, {"weight": (4,), "bias": (4,)}),
    ("rms_norm", {"scale": (4,)}, {"weight": (4,)}),
    ("embedding", {"embeddings": (7, 4)}, {"weight": (7, 4)}),
    ("prelu", {"alpha": (1, 1, 4)}, {"weight": (4,)}),
    ("prelu", {"alpha": (1, 1, 1)}, {"weight": (1,)}),
    ("normalization", {"mean": (3,), "variance": (3,)}, {"mean": (3, 1, 1), "variance": (3, 1, 1)}),
    ("same", {"gamma": (4,)}, {"gamma": (1, 4, 1, 1)}),
    ("same", {"gamma": (4,)}, {"layer_scale": (4, 1, 1)}),
    ("same", {"table": (1, 7, 4)}, {"pos_embed": (7, 4)}),
    ("same", {"map": (2, 3, 4)}, {"map": (1, 4, 2, 3)}),
    ("same", {"gamma": (4,), "beta": (4,)}, {"weight": (4,), "bias": (4,)}),
]


@pytest.mark.parametrize(("rule", "keras", "torch"), VECTORS)
def test_norms_and_single_tensors_are_exact(rule: str, keras: Shapes, torch: Shapes) -> None:
    both(rule, context(keras, torch))


def test_layer_norm_over_a_whole_map_scales_the_same_numbers() -> None:
    """Also where all sides are alike, so that only the graphs tell."""
    for shape, axes in (((2, 3, 4), ()), ((3, 3, 3), (2, 0, 1))):
        theirs = (shape[2], shape[0], shape[1])
        known = context({"gamma": shape}, {"weight": theirs, "bias": theirs}, axes=axes)
        gamma = drawn({"gamma": shape}, special=False)["gamma"]
        x = np.random.default_rng(1).normal(size=shape)
        made = moved("layer_norm", known, {"gamma": gamma})
        np.testing.assert_array_equal(first(x) * made["weight"], first(x * gamma))
        assert not made["bias"].any()
        exact("layer_norm", known)


@pytest.mark.parametrize(
    ("rule", "keras", "torch", "neutral"),
    [
        (
            "batch_norm",
            {"moving_mean": (3,), "moving_variance": (3,)},
            {},
            {"weight": 1, "bias": 0},
        ),
        ("layer_norm", {}, {}, {"weight": 1, "bias": 0}),
        ("group_norm", {"gamma": (3,)}, {}, {"weight": 0, "bias": 0}),
        ("rms_norm", {}, {}, {"weight": 1}),
    ],
)
def test_a_scale_or_shift_that_one_side_lacks_is_one_or_zero(
    rule: str, keras: Shapes, torch: Shapes, neutral: dict[str, int]
) -> None:
    theirs: Shapes = {name: (3,) for name in neutral}
    if rule == "batch_norm":
        theirs |= {"running_mean": (3,), "running_var": (3,)}
    known = context(keras, theirs)
    made = moved(rule, known, {name: np.zeros(shape) for name, shape in keras.items()})
    for name, value in neutral.items():
        assert (made[name] == value).all()
    assert set(convert(RULES[rule], "keras", made, known)) == set(keras)
    other = "bias" if "bias" in made else "weight"
    with pytest.raises(Unfit, match=f"{other} is not {neutral[other]} everywhere, and Keras"):
        convert(RULES[rule], "keras", {**made, other: np.full(3, 0.5)}, known)


def test_a_variance_for_a_deviation() -> None:
    known = context({"mean": (3,), "variance": (3,)}, {"mean": (3,), "std": (3,)})
    tensors = {"mean": np.zeros(3), "variance": np.array([4.0, 9.0, 0.25])}
    made = moved("normalization", known, tensors)
    np.testing.assert_array_equal(made["std"], [2, 3, 0.5])
    back = convert(RULES["normalization"], "keras", made, known)
    np.testing.assert_array_equal(back["variance"], tensors["variance"])


def test_a_slope_for_each_pixel_is_none_of_pytorchs() -> None:
    with pytest.raises(Unfit, match=r"it would become weight \(2, 3, 4\) for \(4,\)"):
        moved("prelu", context({"alpha": (2, 3, 4)}, {"weight": (4,)}), drawn({"alpha": (2, 3, 4)}))


# Recurrent layers ---------------------------------------------------------------------------------

GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}


def cells(
    kind: str, ins: int, units: int, layers: int = 1, both_ways: bool = False, bias: bool = True
) -> tuple[list[Shapes], Shapes]:
    """Keras' layers and PyTorch's one module."""
    wide, ours, theirs = GATES[kind] * units, [], {}
    for level in range(layers):
        width = ins if level == 0 else units * (1 + both_ways)
        shapes: Shapes = {}
        for prefix, suffix in (("forward/", ""), ("backward/", "_reverse"))[: 1 + both_ways]:
            prefix = prefix if both_ways else ""
            shapes[f"{prefix}kernel"] = (width, wide)
            shapes[f"{prefix}recurrent_kernel"] = (units, wide)
            theirs[f"weight_ih_l{level}{suffix}"] = (wide, width)
            theirs[f"weight_hh_l{level}{suffix}"] = (wide, units)
            if bias:
                shapes[f"{prefix}bias"] = (2, wide) if kind == "gru" else (wide,)
                theirs[f"bias_ih_l{level}{suffix}"] = (wide,)
                theirs[f"bias_hh_l{level}{suffix}"] = (wide,)
        ours.append(shapes)
    return ours, theirs


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    ("layers", "both_ways", "bias"),
    [(1, False, True), (1, True, True), (3, False, True), (2, True, True), (1, False, False)],
)
def test_recurrent_layers_are_exact(kind: str, layers: int, both_ways: bool, bias: bool) -> None:
    @settings(max_examples=10, deadline=None)
    @given(sizes, sizes, st.integers(0, 99))
    def check(ins: int, units: int, seed: int) -> None:
        ours, theirs = cells(kind, ins, units, layers, both_ways, bias)
        known = context(ours if layers > 1 else ours[0], theirs)
        exact(kind, known, seed=seed)
        if kind == "gru" or not bias:  # otherwise PyTorch holds two biases for one
            exact(kind, known, start="torch", seed=seed)

    check()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def keras_lstm(x: np.ndarray, w: Tensors) -> np.ndarray:
    """`keras/src/layers/rnn/lstm.py`: gates i, f, c, o."""
    units = len(w["recurrent_kernel"])
    h, c = np.zeros(units), np.zeros(units)
    for step in x:
        z = step @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        i, f, g, o = np.split(z, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def torch_lstm(x: np.ndarray, w: Tensors, end: str = "l0") -> np.ndarray:
    """Documentation of `torch.nn.LSTM`: gates i, f, g, o, each with two biases."""
    units = w[f"weight_hh_{end}"].shape[1]
    h, c = np.zeros(units), np.zeros(units)
    parts = [np.split(w[f"{name}_{end}"], 4) for name in ("weight_ih", "weight_hh")]
    biases = [np.split(w[f"{name}_{end}"], 4) for name in ("bias_ih", "bias_hh")]
    for step in x:
        i, f, g, o = (
            parts[0][k] @ step + biases[0][k] + parts[1][k] @ h + biases[1][k] for k in range(4)
        )
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def keras_gru(x: np.ndarray, w: Tensors) -> np.ndarray:
    """`keras/src/layers/rnn/gru.py`, reset_after: gates z, r, h; biases of input, of recurrence."""
    units = len(w["recurrent_kernel"])
    h = np.zeros(units)
    for step in x:
        xz, xr, xh = np.split(step @ w["kernel"] + w["bias"][0], 3)
        hz, hr, hh = np.split(h @ w["recurrent_kernel"] + w["bias"][1], 3)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xh + r * hh)
    return h


def torch_gru(x: np.ndarray, w: Tensors) -> np.ndarray:
    """Documentation of `torch.nn.GRU`: gates r, z, n."""
    h = np.zeros(w["weight_hh_l0"].shape[1])
    for step in x:
        ir, iz, inn = np.split(w["weight_ih_l0"] @ step + w["bias_ih_l0"], 3)
        hr, hz, hn = np.split(w["weight_hh_l0"] @ h + w["bias_hh_l0"], 3)
        r, z = sigmoid(ir + hr), sigmoid(iz + hz)
        h = (1 - z) * np.tanh(inn + r * hn) + z * h
    return h


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [("lstm", keras_lstm, torch_lstm), ("gru", keras_gru, torch_gru)],
)
def test_a_recurrent_layer_is_the_same_step_by_step(
    kind: str, ours: Callable[..., np.ndarray], theirs: Callable[..., np.ndarray]
) -> None:
    known = context(*(s[0] if isinstance(s, list) else s for s in cells(kind, 3, 5)))
    tensors = drawn(known.wanted("keras"), special=False)
    x = np.random.default_rng(1).normal(size=(7, 3))
    made = moved(kind, known, tensors)
    np.testing.assert_allclose(theirs(x, made), ours(x, tensors), rtol=1e-6, atol=1e-7)
    if kind == "lstm":  # PyTorch's two biases become their sum
        made["bias_hh_l0"] = np.random.default_rng(2).normal(size=20)
        back = convert(RULES[kind], "keras", made, known)
        np.testing.assert_allclose(ours(x, back), theirs(x, made), rtol=1e-6, atol=1e-7)


def test_a_simple_rnn_is_the_same_step_by_step() -> None:
    ours, theirs = cells("simple_rnn", 3, 5)
    known = context(ours[0], theirs)
    w = drawn(known.wanted("keras"), special=False)
    made = moved("simple_rnn", known, w)
    h, g = np.zeros(5), np.zeros(5)
    for step in np.random.default_rng(1).normal(size=(7, 3)):
        h = np.tanh(step @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"])
        g = np.tanh(
            made["weight_ih_l0"] @ step
            + made["bias_ih_l0"]
            + made["weight_hh_l0"] @ g
            + made["bias_hh_l0"]
        )
    np.testing.assert_allclose(g, h, rtol=1e-6)


def test_both_directions_and_two_modules_for_two_layers() -> None:
    ours, theirs = cells("lstm", 3, 5, both_ways=True)
    known = context(ours[0], theirs)
    tensors = drawn(known.wanted("keras"), special=False)
    made = moved("lstm", known, tensors)
    x = np.random.default_rng(1).normal(size=(7, 3))
    for half, end, steps in (("forward", "l0", x), ("backward", "l0_reverse", x[::-1])):
        own = {k.removeprefix(f"{half}/"): v for k, v in tensors.items() if k.startswith(half)}
        np.testing.assert_allclose(torch_lstm(steps, made, end), keras_lstm(steps, own), rtol=1e-5)
    cell, module = cells("lstm", 3, 5)
    second, other = cells("lstm", 5, 5)
    exact("lstm", context([cell[0], second[0]], [module, other]))


def test_a_gru_that_resets_before_the_product_cannot_be_said_in_pytorch() -> None:
    ours, theirs = cells("gru", 3, 5)
    ours[0]["bias"] = (15,)
    known = context(ours[0], theirs)
    tensors = drawn(known.wanted("keras"), special=False)
    with pytest.raises(Unfit) as error:
        moved("gru", known, tensors)
    assert str(error.value) == RESET_AFTER
    lenient = context(ours[0], theirs, strict=False)
    made = moved("gru", lenient, tensors)
    assert lenient.lost == [RESET_AFTER] and not made["bias_hh_l0"].any()
    bare = [{k: v for k, v in s.items() if "bias" not in k} for s in (ours[0], theirs)]
    layer = unit("keras", bare[0], reset_after=False)
    known = Context((layer,), (unit("torch", bare[1]),))
    with pytest.raises(Unfit, match="reset_after=True"):
        moved("gru", known, drawn(bare[0]))


def test_an_lstm_that_reads_a_map_column_by_column() -> None:
    """A row (W, H x C) in Keras is (W, C x H) in PyTorch: rows of the kernels run otherwise."""
    ours, theirs = cells("lstm", 6, 2, both_ways=True)
    known = context(ours[0], theirs, flattened=(Order((2, 3), (1, 0)),))
    tensors = drawn(known.wanted("keras"), special=False)
    made = moved("lstm", known, tensors)
    column = np.random.default_rng(0).normal(size=(2, 3))
    for half, end in (("forward", "l0"), ("backward", "l0_reverse")):
        left = column.reshape(-1) @ tensors[f"{half}/kernel"]
        np.testing.assert_allclose(made[f"weight_ih_{end}"] @ column.T.reshape(-1), left, rtol=1e-5)
    exact("lstm", known)


# Attention ----------------------------------------------------------------------------------------


def per_head(width: int, heads: int, size: int, bias: bool = True, kv: int | None = None) -> Shapes:
    shapes: Shapes = {}
    for part, ins in (("query", width), ("key", kv or width), ("value", kv or width)):
        shapes[f"{part}/kernel"] = (ins, heads, size)
        if bias:
            shapes[f"{part}/bias"] = (heads, size)
    shapes["attention_output/kernel"] = (heads, size, width)
    return shapes | ({"attention_output/bias": (width,)} if bias else {})


def stacked(width: int, bias: bool = True, kv: int | None = None) -> Shapes:
    shapes: Shapes = {"in_proj_weight": (3 * width, width)}
    if kv:
        shapes = {"q_proj_weight": (width, width)}
        shapes |= {"k_proj_weight": (width, kv), "v_proj_weight": (width, kv)}
    shapes["out_proj/weight"] = (width, width)
    return shapes | ({"in_proj_bias": (3 * width,), "out_proj/bias": (width,)} if bias else {})


def linear(outs: int, ins: int, bias: bool = True) -> Shapes:
    return {"weight": (outs, ins)} | ({"bias": (outs,)} if bias else {})


def kernels(shapes: Shapes) -> Shapes:
    return {"kernel" if name == "weight" else name: shape[::-1] for name, shape in shapes.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_exact_in_all_forms(bias: bool) -> None:
    @settings(max_examples=10, deadline=None)
    @given(sizes, sizes, st.integers(0, 99))
    def check(heads: int, size: int, seed: int) -> None:
        width = heads * size
        keras, module = per_head(width, heads, size, bias), stacked(width, bias)
        four, two = [linear(width, width, bias)] * 4, [linear(3 * width, width, bias)]
        two = [*two, linear(width, width, bias)]
        both("attention", context(keras, module), seed)
        both("attention_apart", context(keras, four), seed)
        both("attention_fused", context(keras, two), seed)
        both("apart_attention", context(list(map(kernels, four)), module), seed)
        both("fused_attention", context(list(map(kernels, two)), module), seed)
        both("attention", context(per_head(width, heads, size, bias, 5), stacked(width, bias, 5)))

    check()


def test_attention_with_values_of_another_size_written_as_dense_layers() -> None:
    keras: Shapes = {
        "query/kernel": (6, 2, 4),
        "key/kernel": (6, 2, 4),
        "value/kernel": (6, 2, 5),
        "attention_output/kernel": (2, 5, 6),
    }
    four = [linear(8, 6, False), linear(8, 6, False), linear(10, 6, False), linear(6, 10, False)]
    both("attention_apart", context(keras, four))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def keras_attention(x: np.ndarray, w: Tensors) -> np.ndarray:
    """`keras/src/layers/attention/multi_head_attention.py`."""
    q, k, v = (
        np.einsum("td,dhe->the", x, w[f"{part}/kernel"]) + w[f"{part}/bias"]
        for part in ("query", "key", "value")
    )
    weights = softmax(np.einsum("the,she->hts", q, k) / np.sqrt(q.shape[-1]))
    mixed = np.einsum("hts,she->the", weights, v)
    out = np.einsum("the,hed->td", mixed, w["attention_output/kernel"])
    return out + w["attention_output/bias"]


def torch_attention(x: np.ndarray, w: Tensors, heads: int) -> np.ndarray:
    """Documentation of `torch.nn.MultiheadAttention`."""
    stack = x @ w["in_proj_weight"].T + w["in_proj_bias"]
    q, k, v = (
        part.reshape(len(x), heads, -1).transpose(1, 0, 2) for part in np.split(stack, 3, axis=1)
    )
    weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
    mixed = (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)
    return mixed @ w["out_proj/weight"].T + w["out_proj/bias"]


def test_attention_is_the_same_on_both_sides() -> None:
    known = context(per_head(6, 2, 3), stacked(6))
    tensors = drawn(known.wanted("keras"), special=False)
    x = np.random.default_rng(1).normal(size=(5, 6))
    theirs = torch_attention(x, moved("attention", known, tensors), heads=2)
    np.testing.assert_allclose(theirs, keras_attention(x, tensors), rtol=1e-5)


def test_a_bias_for_the_keys_has_nothing_in_keras() -> None:
    known = context(per_head(6, 2, 3), {**stacked(6), "bias_k": (1, 1, 6)})
    with pytest.raises(Unfit, match="nothing in Keras corresponds to \\['bias_k'\\]"):
        convert(RULES["attention"], "keras", drawn(known.wanted("torch")), known)


def test_a_bias_that_one_form_lacks_must_be_zero() -> None:
    known = context(per_head(6, 2, 3), stacked(6, bias=False))
    tensors = drawn(known.wanted("keras"), special=False)
    with pytest.raises(Unfit, match="the bias of query is not 0 everywhere"):
        moved("attention", known, tensors)
    blank = {k: np.zeros_like(v) if "bias" in k else v for k, v in tensors.items()}
    assert set(moved("attention", known, blank)) == {"in_proj_weight", "out_proj/weight"}


# The table ----------------------------------------------------------------------------------------


def test_a_rule_of_ones_own() -> None:
    @register_rule("gated", keras="other:Gated", torch="other:Gate|other:Gated")
    class Gated:
        @staticmethod
        def to_torch(tensors: Tensors, context: Context) -> Tensors:
            return {"w": tensors["kernel"].T}

        @staticmethod
        def to_keras(tensors: Tensors, context: Context) -> Tensors:
            return {"kernel": tensors["w"].T}

    try:
        both("gated", context({"kernel": (2, 3)}, {"w": (3, 2)}))
        with pytest.raises(ValueError, match="already"):
            register_rule("gated", keras="dense", torch="dense")(Paired(Pair("a", "b")))
        with pytest.raises(Unfit, match=r"w \(3, 2\) for \(2, 3\)"):
            moved("gated", context({"kernel": (2, 3)}, {"w": (2, 3)}), drawn({"kernel": (2, 3)}))
    finally:
        del RULES["gated"]


def test_a_rule_that_gives_the_wrong_tensors_is_refused() -> None:
    known = context({"kernel": (2, 3), "odd": (1,)}, {"weight": (3, 2)})
    with pytest.raises(Unfit, match="corresponds to \\['odd'\\]"):
        moved("dense", known, drawn(known.wanted("keras")))
    with pytest.raises(Unfit, match="weight has nothing to come from"):
        moved(
            "dense",
            context({"bias": (3,)}, {"weight": (3, 2), "bias": (3,)}),
            drawn({"bias": (3,)}),
        )
