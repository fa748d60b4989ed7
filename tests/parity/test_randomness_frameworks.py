"""Pairs in training with randomness on: faithful ones agree to rounding, others do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.check.randomness import Draws

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
recording = pytest.importorskip("keras_impl.randomness")
replaying = pytest.importorskip("torch_impl.randomness")
exact = pytest.importorskip("keras_impl.exact")
tf = pytest.importorskip("tensorflow")
L, nn, F = keras.layers, torch.nn, torch.nn.functional
Function = Callable[[Any], Any]

VECTOR, SEQUENCE, IMAGE = (6, 8), (4, 8, 6), (2, 5, 5, 3)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


class Pair:
    """Outputs and input gradients of both sides, and what was recorded and replayed."""

    def __init__(
        self,
        folder: Path,
        left: Function,
        right: Function,
        x: np.ndarray,
        earlier: Any = None,
        **more: Any,
    ) -> None:
        with exact.precision("float64"), recording.recorded(3) as self.draws:
            given = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(given)
                y = left(given)
                loss = tf.reduce_sum(tf.sin(y))
            gradient = tape.gradient(loss, given).numpy()
        self.draws.write(folder)
        given = torch.tensor(x, requires_grad=True)
        with replaying.replayed(Draws.read(folder), earlier=earlier, **more) as self.played:
            z = right(given)
            torch.sin(z).sum().backward()
        pairs = (y.numpy(), z.detach().numpy()), (gradient, given.grad.numpy())
        self.apart = max(float(np.abs(one - other).max()) for one, other in pairs)


def trained(layer: Any) -> Function:
    if isinstance(layer, nn.Module):
        return layer.double().train()
    return lambda x: layer(x, training=True)


def channels_first(module: Any) -> Function:
    module = trained(module)
    return lambda x: module(x.movedim(-1, 1)).movedim(1, -1)


def by_floor(x: Any) -> Any:
    noise = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype)
    return x.div(0.7) * (0.7 + noise).floor()


def by_bernoulli(x: Any) -> Any:
    return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.7).div_(0.7)


def own_dropout(x: Any) -> Any:
    return keras.random.dropout(keras.ops.sin(x), 0.3)


def noisy_relu(x: Any) -> Any:
    y = keras.ops.relu(x)
    return y + 0.5 * keras.random.normal(keras.ops.shape(y))


def sampling(x: Any) -> Any:
    mean, scale = x[:, :4], keras.ops.exp(x[:, 4:])
    return mean + scale * keras.random.normal(keras.ops.shape(mean))


def recurrent_mask(x: Any) -> Any:
    """Keras' `dropout=` of a recurrent layer: one mask for all steps."""
    return x * keras.random.dropout(keras.ops.ones_like(x[:, 0]), 0.3)[:, None]


def gumbel(x: Any) -> Any:
    return keras.ops.softmax(x - keras.ops.log(-keras.ops.log(keras.random.uniform(x.shape))))


def both(x: Any) -> Any:
    """The same shape and rate twice, at another tensor each."""
    return keras.random.dropout(keras.ops.sin(x), 0.3) + 2 * keras.random.dropout(x * x, 0.3)


def exchanged(x: Any) -> Any:
    second = F.dropout(x * x, 0.3)
    return F.dropout(torch.sin(x), 0.3) + 2 * second


PLAIN, SPATIAL, PATH = (
    L.Dropout(0.3, dtype="float64"),
    L.SpatialDropout2D(0.3, dtype="float64"),
    L.Dropout(0.3, (None, 1, 1), dtype="float64"),
)
# What Keras does, what PyTorch does, the input's shape, whether they are the same.
PAIRS: dict[str, tuple[Any, Any, tuple[int, ...], bool]] = {
    "dropout": (trained(PLAIN), trained(nn.Dropout(0.3)), SEQUENCE, True),
    "of tensorflow": (lambda x: tf.nn.dropout(x, 0.3), trained(nn.Dropout(0.3)), VECTOR, True),
    "native": (trained(PLAIN), lambda x: torch.native_dropout(x, 0.3, True)[0], VECTOR, True),
    "never": (trained(PLAIN), trained(nn.Identity()), VECTOR, False),
    "another rate": (trained(PLAIN), trained(nn.Dropout(0.4)), VECTOR, False),
    "another branch": (
        lambda x: x + keras.random.dropout(keras.ops.sin(x), 0.3),
        lambda x: F.dropout(x, 0.3) + torch.sin(x),
        VECTOR,
        False,
    ),
    "after a transposition": (trained(PLAIN), channels_first(nn.Dropout(0.3)), SEQUENCE, True),
    "rows merged": (
        trained(PLAIN),
        lambda x: F.dropout(x.flatten(0, 1), 0.3).reshape(x.shape),
        SEQUENCE,
        True,
    ),
    "before the activation": (
        lambda x: keras.random.dropout(keras.ops.relu(x), 0.3),
        lambda x: F.relu(F.dropout(x, 0.3)),
        VECTOR,
        True,
    ),
    "maps": (trained(SPATIAL), channels_first(nn.Dropout2d(0.3)), IMAGE, True),
    "maps, elements": (trained(SPATIAL), channels_first(nn.Dropout(0.3)), IMAGE, False),
    "channels": (
        trained(L.SpatialDropout1D(0.3, dtype="float64")),
        channels_first(nn.Dropout1d(0.3)),
        SEQUENCE,
        True,
    ),
    "steps": (
        trained(L.SpatialDropout1D(0.3, dtype="float64")),
        trained(nn.Dropout1d(0.3)),
        SEQUENCE,
        False,
    ),
    "alpha": (
        trained(L.AlphaDropout(0.3, dtype="float64")),
        trained(nn.AlphaDropout(0.3)),
        VECTOR,
        True,
    ),
    "alpha, plain": (trained(PLAIN), trained(nn.AlphaDropout(0.3)), VECTOR, False),
    "noise": (
        trained(L.GaussianNoise(0.5, dtype="float64")),
        lambda x: x + 0.5 * torch.randn_like(x),
        VECTOR,
        True,
    ),
    "noise twice as large": (
        trained(L.GaussianNoise(0.5, dtype="float64")),
        lambda x: x + torch.randn_like(x),
        VECTOR,
        False,
    ),
    "noise for normal": (
        trained(L.GaussianDropout(0.2, dtype="float64")),
        lambda x: x * torch.normal(torch.ones_like(x), 0.5),
        VECTOR,
        True,
    ),
    "noise on zeros": (
        noisy_relu,
        lambda x: (y := F.relu(x.mT)).add(torch.zeros_like(y).normal_(0, 0.5)).mT,
        SEQUENCE,
        True,
    ),
    "uniform noise": (
        lambda x: x + keras.random.uniform(x.shape, -2.0, 3.0),
        lambda x: x + torch.empty_like(x).uniform_(-2, 3),
        VECTOR,
        True,
    ),
    "path, bernoulli": (trained(PATH), by_bernoulli, SEQUENCE, True),
    "path, floor": (trained(PATH), by_floor, SEQUENCE, True),
    "path without scale": (trained(PATH), lambda x: by_floor(x) * 0.7, SEQUENCE, False),
    "path, elements": (trained(PATH), trained(nn.Dropout(0.3)), SEQUENCE, False),
    "sampling": (
        sampling,
        lambda x: (mean := x[:, :4]) + torch.exp(x[:, 4:]) * torch.randn_like(mean),
        VECTOR,
        True,
    ),
    "sampling by shape": (
        sampling,
        lambda x: x[:, :4] + torch.exp(x[:, 4:]) * torch.randn(6, 4, dtype=x.dtype),
        VECTOR,
        True,
    ),
    "sampling, half the variance": (
        sampling,
        lambda x: (mean := x[:, :4]) + torch.exp(x[:, 4:] / 2) * torch.randn_like(mean),
        VECTOR,
        False,
    ),
    "ones are dropped": (
        trained(PLAIN),
        lambda x: x * (1 - torch.bernoulli(torch.full_like(x, 0.3))) / 0.7,
        VECTOR,
        True,
    ),
    "own dropout": (own_dropout, lambda x: F.dropout(torch.sin(x), 0.3), VECTOR, True),
    "one mask for all steps": (
        recurrent_mask,
        lambda x: F.dropout1d(x.mT, 0.3).mT,
        SEQUENCE,
        True,
    ),
    "a mask for each step": (recurrent_mask, lambda x: F.dropout(x, 0.3), SEQUENCE, False),
    "gumbel": (gumbel, lambda x: F.gumbel_softmax(x, dim=-1), VECTOR, True),
    "shuffled": (
        lambda x: keras.random.shuffle(x) * x,
        lambda x: x[torch.randperm(len(x))] * x,
        VECTOR,
        True,
    ),
    "integers": (
        lambda x: x * keras.ops.cast(keras.random.randint((6, 8), 1, 9), x.dtype),
        lambda x: x * torch.randint(1, 9, (6, 8)),
        VECTOR,
        True,
    ),
    "in another order": (both, exchanged, VECTOR, True),
    "computed again": (
        lambda x: keras.ops.sin(own_dropout(x)),
        lambda x: torch.utils.checkpoint.checkpoint(
            lambda y: torch.sin(F.dropout(torch.sin(y), 0.3)), x, use_reentrant=False
        ),
        VECTOR,
        True,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_training_with_randomness_agrees_where_the_port_is_faithful(
    name: str, tmp_path: Path
) -> None:
    left, right, shape, same = PAIRS[name]
    pair = Pair(tmp_path, left, right, drawn(*shape))
    assert (pair.apart < 1e-12) == same
    if same:
        played = pair.played
        assert not (played.unmatched or played.unused or played.mismatches or played.uncaught)
        assert pair.draws.events


def drawn_anew(layer: Any) -> None:
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(rng.uniform(-0.5, 0.5, variable.shape))


class Twins:
    """A stack of two recurrent layers, or attention, with equal weights."""

    @staticmethod
    def stack(rate: float, port: float, bidirectional: bool = False) -> tuple[Any, Any]:
        def layer() -> Any:
            one = L.LSTM(5, return_sequences=True)
            return L.Bidirectional(one) if bidirectional else one

        with exact.precision("float64"):
            left = keras.Sequential([keras.Input((8, 6)), layer(), L.Dropout(rate), layer()])
        drawn_anew(left)
        right = nn.LSTM(6, 5, 2, batch_first=True, dropout=port, bidirectional=bidirectional)
        right.double()
        weights = iter(map(np.asarray, left.trainable_variables))
        with torch.no_grad():
            for number in range(2):
                for back in ("", "_reverse")[: 1 + bidirectional]:
                    for name in ("weight_ih", "weight_hh", "bias_ih"):
                        target = getattr(right, f"{name}_l{number}{back}")
                        target.copy_(torch.tensor(next(weights).T))
                    getattr(right, f"bias_hh_l{number}{back}").zero_()
        return trained(left), lambda x: right.train()(x)[0]

    @staticmethod
    def attention(rate: float, port: Callable[..., Any]) -> tuple[Any, Any]:
        left = L.MultiHeadAttention(2, 3, dropout=rate, dtype="float64")
        left.build((None, 8, 6), (None, 8, 6))
        drawn_anew(left)
        values = [v.numpy().reshape(-1, 6) for v in left.trainable_variables]
        wq, bq, wk, bk, wv, bv, wo, bo = values
        right = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True).double()
        with torch.no_grad():
            right.in_proj_weight.copy_(torch.tensor(np.concatenate([wq.T, wk.T, wv.T])))
            right.in_proj_bias.copy_(torch.tensor(np.concatenate([bq, bk, bv], 1)[0]))
            right.out_proj.weight.copy_(torch.tensor(wo.T))
            right.out_proj.bias.copy_(torch.tensor(bo[0]))
        return lambda x: left(x, x, training=True), lambda x: port(right.train(), x)


def fused(module: Any, x: Any) -> Any:
    return module(x, x, x, need_weights=False)[0]


def with_weights(module: Any, x: Any) -> Any:
    return module(x, x, x)[0]


def by_hand(module: Any, x: Any) -> Any:
    """Heads in the batch's axis, the other axes in an order of their own."""
    projected = F.linear(x, module.in_proj_weight, module.in_proj_bias)
    q, k, v = (
        each.unflatten(-1, (2, 3)).permute(2, 0, 1, 3).flatten(0, 1)
        for each in projected.chunk(3, -1)
    )
    weights = F.dropout((k @ q.mT / 3**0.5).softmax(1), 0.3).mT
    return module.out_proj((weights @ v).unflatten(0, (2, -1)).permute(1, 2, 0, 3).flatten(2))


def on_values(module: Any, x: Any) -> Any:
    """Drops single numbers of what attention gives, not its weights."""
    return F.dropout(module.eval()(x, x, x, need_weights=False)[0], 0.3)


@pytest.mark.parametrize(("port", "bidirectional"), [(0.4, False), (0.4, True), (0.0, False)])
def test_dropout_between_stacked_recurrent_layers(
    port: float, bidirectional: bool, tmp_path: Path
) -> None:
    left, right = Twins.stack(0.4, port, bidirectional)
    pair = Pair(tmp_path, left, right, drawn(*SEQUENCE))
    assert (pair.apart < 1e-12) == (port == 0.4)
    assert len(pair.played.unused) == (port != 0.4)


@pytest.mark.parametrize(
    ("port", "same"), [(fused, True), (with_weights, True), (by_hand, True), (on_values, False)]
)
def test_dropout_inside_attention(port: Any, same: bool, tmp_path: Path) -> None:
    left, right = Twins.attention(0.3, port)
    pair = Pair(tmp_path, left, right, drawn(*SEQUENCE))
    assert (pair.apart < 1e-12) == same


def test_a_port_that_keeps_where_the_number_is_small_agrees_when_mirrored(tmp_path: Path) -> None:
    def right(x: Any) -> Any:
        return x * (torch.rand_like(x) < 0.7) / 0.7

    plain = Pair(tmp_path, PAIRS["dropout"][0], right, drawn(*VECTOR))
    mirrored = Pair(tmp_path, PAIRS["dropout"][0], right, drawn(*VECTOR), mirrored=True)
    assert plain.apart > 0.1
    assert mirrored.apart < 1e-12


def test_a_draw_that_took_anothers_numbers_gives_them_back(tmp_path: Path) -> None:
    def left(x: Any) -> Any:
        return keras.random.dropout(x * x, 0.3) + keras.random.dropout(keras.ops.relu(x), 0.3)

    def right(x: Any) -> Any:
        before = F.relu(F.dropout(x, 0.3))  # told by its shape alone: Keras drops after the ReLU
        return F.dropout(x * x, 0.3) + before

    first = Pair(tmp_path, left, right, drawn(*VECTOR))
    assert first.apart > 0.1
    assert first.played.again
    second = Pair(tmp_path, left, right, drawn(*VECTOR), earlier=first.played)
    assert second.apart < 1e-12
    assert not second.played.again


def test_a_draw_for_another_tensor_is_told(tmp_path: Path) -> None:
    left, right, shape, _ = PAIRS["another branch"]
    pair = Pair(tmp_path, left, right, drawn(*shape))
    assert len(pair.played.elsewhere) == 1
    assert not Pair(tmp_path, *PAIRS["dropout"][:2], drawn(*shape)).played.elsewhere


def test_what_cannot_be_caught_is_named_on_both_sides(tmp_path: Path) -> None:
    def left(x: Any) -> Any:
        chosen = keras.random.categorical(keras.ops.ones((6, 8)), 1)
        return x * keras.ops.cast(chosen, x.dtype)

    def right(x: Any) -> Any:
        return x * torch.multinomial(torch.ones(6, 8), 1)

    pair = Pair(tmp_path, left, right, drawn(*VECTOR))
    assert pair.draws.uncaught == ["the model: stateless_multinomial"]
    assert pair.played.uncaught == ["the model: multinomial"]
