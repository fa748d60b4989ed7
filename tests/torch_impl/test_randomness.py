from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.check.randomness import NORMAL, UNIFORM, Draw, Draws, Numbers

torch = pytest.importorskip("torch")
randomness = pytest.importorskip("torch_impl.randomness")
watching = pytest.importorskip("torch_impl.watching")
nn, F = torch.nn, torch.nn.functional

X = np.random.default_rng(0).standard_normal((4, 6))


def given(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape or (4, 6)))


def draw(kind: str, *shape: int, rate: float | None = None, meant: Any = None) -> Draw:
    return Draw(
        kind, Numbers(0).drawn(kind, shape), "theirs", rate, [] if meant is None else [meant]
    )


@pytest.mark.parametrize(
    ("asked", "kind", "expected"),
    [
        (lambda x: F.dropout(x, 0.3), UNIFORM, lambda x, u: np.where(u >= 0.3, x / 0.7, 0)),
        (lambda x: F.dropout(x, 0.3, inplace=True), UNIFORM, lambda x, u: x * (u >= 0.3) / 0.7),
        (lambda x: torch.dropout(x, 0.3, True), UNIFORM, lambda x, u: x * (u >= 0.3) / 0.7),
        (
            lambda x: torch.native_dropout(x, 0.3, True)[1],
            UNIFORM,
            lambda x, u: u >= 0.3,
        ),
        (lambda x: torch.bernoulli(torch.full_like(x, 0.7)), UNIFORM, lambda x, u: u >= 0.3),
        (lambda x: torch.empty_like(x).bernoulli_(0.7), UNIFORM, lambda x, u: u >= 0.3),
        (lambda x: torch.full_like(x, 0.7).bernoulli(), UNIFORM, lambda x, u: u >= 0.3),
        (lambda x: torch.rand(4, 6), UNIFORM, lambda x, u: u),
        (torch.rand_like, UNIFORM, lambda x, u: u),
        (lambda x: x.uniform_(2, 5), UNIFORM, lambda x, u: 2 + 3 * u),
        (lambda x: torch.randint(2, 5, (4, 6)), UNIFORM, lambda x, u: 2 + (3 * u).astype(int)),
        (lambda x: torch.randint_like(x, 5), UNIFORM, lambda x, u: (5 * u).astype(int)),
        (lambda x: x.random_(2, 5), UNIFORM, lambda x, u: 2 + (3 * u).astype(int)),
        (lambda x: x.exponential_(2), UNIFORM, lambda x, u: -np.log(u) / 2),
        (lambda x: torch.randn(4, 6), NORMAL, lambda x, z: z),
        (torch.randn_like, NORMAL, lambda x, z: z),
        (lambda x: x.normal_(1, 3), NORMAL, lambda x, z: 1 + 3 * z),
        (lambda x: torch.normal(1.0, 3.0, (4, 6)), NORMAL, lambda x, z: 1 + 3 * z),
        (lambda x: torch.normal(x, 3.0), NORMAL, lambda x, z: x + 3 * z),
        (lambda x: torch.normal(x, x.abs()), NORMAL, lambda x, z: x + abs(x) * z),
        (
            lambda x: torch.distributions.Normal(x, 2.0).rsample(),
            NORMAL,
            lambda x, z: x + 2 * z,
        ),
    ],
)
def test_whatever_is_asked_gets_the_recorded_numbers(asked: Any, kind: str, expected: Any) -> None:
    recorded = draw(kind, 4, 6)
    with randomness.replayed(Draws([recorded])) as played:
        result = asked(given())
    assert not (played.unmatched or played.unused or played.uncaught)
    wanted = np.broadcast_to(expected(X, recorded.numbers), (4, 6))
    np.testing.assert_allclose(result, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        lambda x: torch.multinomial(x.abs(), 2),
        lambda x: torch.poisson(x.abs()),
        lambda x: F.rrelu(x, training=True),
        lambda x: x.geometric_(0.5),
        lambda x: vars(np.random)["rand"](),
    ],
)
def test_what_cannot_be_caught_is_named(asked: Any) -> None:
    with randomness.replayed(Draws()) as played:
        asked(given())
    assert len(played.uncaught) == 1


@pytest.mark.parametrize("how", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_draw_is_found_in_every_mode(how: Any) -> None:
    recorded = draw(UNIFORM, 4, 6, rate=0.3, meant=X)
    with how(), randomness.replayed(Draws([recorded])) as played:
        result = F.dropout(given(), 0.3)
    np.testing.assert_allclose(result, X * (recorded.numbers >= 0.3) / 0.7)
    assert not (played.unmatched or played.unused)


def test_a_module_in_inference_asks_for_nothing() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.LSTM(6, 3, 2, dropout=0.5)).double().eval()
    with randomness.replayed(Draws()) as played:
        model(given())
    assert not (played.unmatched or played.uncaught)


def test_what_drops_nothing_asks_for_nothing() -> None:
    x = given(1, 2, 4, 6).float()
    with randomness.replayed(Draws()) as played:
        F.scaled_dot_product_attention(x, x, x, dropout_p=0.0)
        F.dropout(x, 0.0)
        torch.native_dropout(x, 0.0, True)
        x.new_empty(4).bernoulli_(1.0)
    assert not (played.unmatched or played.uncaught)


def test_places_are_the_modules_paths() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Dropout(0.5))).double()
    with randomness.replayed(Draws(), model=model) as played:
        model(given())
    assert played.unmatched == ["1.0: uniform (4, 6), rate 0.5"]


def test_numbers_without_a_partner_repeat_and_pytorchs_generator_stays_where_it_was() -> None:
    state, results = torch.get_rng_state(), []
    for _ in range(2):
        with randomness.replayed(Draws()):
            results.append(F.dropout(given(), 0.5))
    assert torch.equal(*results)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_watched_run_is_fed_as_well() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 2)).double()
    before = model[:2](given()).detach().numpy()
    recorded = draw(UNIFORM, 4, 5, rate=0.3, meant=before)
    with randomness.replayed(Draws([recorded]), model=model) as played:
        watch = watching.Watch(model)
        (result,) = watch.run([given()])
    kept = torch.from_numpy(before * (recorded.numbers >= 0.3) / 0.7)
    torch.testing.assert_close(result, model[3](kept))
    assert [node.kind for node in watch.nodes][2] == "dropout"
    assert not (played.unmatched or played.unused or played.mismatches)


def test_a_quiet_run_asks_for_nothing() -> None:
    with randomness.replayed(Draws()) as played:
        watching.Watch(nn.Dropout(0.3).double(), quiet=True).run([given()])
    assert not played.unmatched


def test_packed_sequences_are_fed_between_layers() -> None:
    """Each stacked layer but the last asks once, for all steps that there are."""
    stack = nn.LSTM(6, 3, 3, dropout=0.4).double()
    packed = nn.utils.rnn.pack_padded_sequence(given(5, 2, 6), [5, 3])
    with randomness.replayed(Draws()) as played:
        stack(packed)
    assert played.unmatched == ["LSTM: uniform (8, 3), rate 0.4"] * 2


def test_bfloat16_and_float32_are_fed() -> None:
    recorded = draw(UNIFORM, 4, 6, rate=0.5, meant=X.astype(np.float32))
    with randomness.replayed(Draws([recorded])) as played:
        result = F.dropout(given().bfloat16(), 0.5)
    assert not played.unmatched
    np.testing.assert_array_equal(result.float() != 0, recorded.numbers >= 0.5)
