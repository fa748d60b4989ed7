"""Every fault of the self-test moves numbers on a model that it fits; on none that it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sabotage = pytest.importorskip("torch_impl.sabotage")
nn, F = torch.nn, torch.nn.functional
WORDS = 9


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.act6 = nn.ReLU(), nn.ReLU6()
        self.low = nn.MaxPool2d(3, 2, padding=1)
        self.second, self.gelu, self.silu = nn.Conv2d(4, 4, 3, padding=1), nn.GELU(), nn.SiLU()
        self.mean, self.elu, self.drop = nn.AvgPool2d(3, 2, padding=1), nn.ELU(), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = self.low(self.act(self.norm(self.first(x))) - 0.5)
        new = self.silu(self.gelu(self.act6(9 * self.second(x))))
        x = self.mean(self.elu(torch.cat([x, new], 1)[:, 2:6] + x))
        x = self.hidden(self.drop(torch.flatten(x, 1)))
        return self.head(x), x.amax(1)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.lstm.bias_hh_l0.requires_grad_(False)
        self.shared, self.softmax = nn.Linear(8, 8), nn.Softmax(-1)

    def forward(self, words: Any, mask: Any) -> Any:
        x = self.embed(words)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        steps, (state, _) = self.lstm(x)
        x = self.gru(steps + state[0][:, None])[0]
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        seen = mask.bool()[:, None, None]
        x = x + F.scaled_dot_product_attention(heads, heads, heads, seen).transpose(1, 2).flatten(2)
        x = self.softmax(self.shared(torch.relu(self.shared(x))))
        return F.dropout(x.masked_fill(mask[..., None] == 0, 0), 0.3, self.training).mean(1)


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(300, 3)

    def forward(self, x: Any) -> Any:
        scores = torch.softmax(x @ x.transpose(2, 3) / 10, -1)
        x = F.scaled_dot_product_attention(x, x, scores @ x)
        return self.head(self.flat(torch.sigmoid(F.relu6(9 * x))))


def awake(model: Any) -> Any:
    torch.manual_seed(0)
    for each in (*model.parameters(), *model.buffers()):
        if each.is_floating_point():
            each.data.add_(torch.rand_like(each), alpha=0.3)
    return model.double()


def images(batch: int, scale: float = 1.0) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(batch)
    return (scale * torch.randn(batch, 3, 10, 10, generator=generator).double(),)


def texts(batch: int, steps: float = 1.0) -> tuple[Any, ...]:
    many = 5 if steps == 1 else 8
    generator = torch.Generator().manual_seed(batch)
    mask = (torch.arange(many) < 3).long().expand(batch, -1)
    return torch.randint(0, WORDS, (batch, many), generator=generator), mask


CASES: dict[str, tuple[Callable[[], Any], Callable[..., tuple[Any, ...]]]] = {
    "image": (Image, images),
    "text": (Text, texts),
    "functions": (Functions, images),
}
MADE = {name: awake(build()) for name, (build, _) in CASES.items()}
SEEN = {
    name: sabotage.seen(
        copy.deepcopy(MADE[name]), lambda model, batch=batch: model(*batch(4)), longest=8
    )
    for name, (_, batch) in CASES.items()
}
FITTING = [(name, kind) for name, operator in sabotage.OPERATORS.items() for kind in operator.ways]


def numbers(model: Any, batch: Any) -> list[Any]:
    """Outputs, twice in inference and once in training, gradients and what the model holds; or
    that it does not run."""
    torch.manual_seed(0)
    found: list[Any] = []
    try:
        with torch.no_grad():
            found += flat(model.eval()(*batch))
        found += flat(model(*batch))
        outputs = flat(model.train()(*batch))
        sum((i + 1) * (each**2 * weights(each)).sum() for i, each in enumerate(outputs)).backward()
    except (RuntimeError, IndexError, ValueError):
        return [torch.zeros(())]
    return [
        *(each.detach() for each in (*found, *outputs)),
        *(p.grad if p.grad is not None else torch.zeros(2) for p in model.parameters()),
        *model.state_dict().values(),
    ]


def weights(like: Any) -> Any:
    return torch.arange(1, like.numel() + 1).double().reshape(like.shape) / like.numel()


def flat(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def moves(case: str, name: str, place: Any) -> bool:
    def build() -> Any:
        return copy.deepcopy(MADE[case])

    batch = CASES[case][1]
    return any(
        not same(numbers(build(), each), numbers(sabotage.planted(build, name, place), each))
        for each in (batch(4), batch(1), batch(3, 1e3))
    )


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_it_moves_a_number(name: str, kind: str) -> None:
    places = [
        (case, place)
        for case, calls in SEEN.items()
        for place in sabotage.OPERATORS[name].places(calls)
        if place.kind == kind
    ]
    assert any(moves(case, name, place) for case, place in places), places


def test_there_are_enough_to_tell_what_a_pass_is_worth() -> None:
    assert len(sabotage.OPERATORS) >= 30
    assert all(each.mistake for each in sabotage.OPERATORS.values())


def test_attention_by_hand_is_what_the_module_does() -> None:
    from torch_impl.sabotage.sequences import attend

    layer = awake(nn.MultiheadAttention(8, 2, batch_first=True)).eval()
    x = torch.randn(3, 5, 8).double()
    expected = layer(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(attend(layer, (x, x, x))[0], expected)


def test_a_faithful_model_is_bit_for_bit_itself() -> None:
    for name, (_, batch) in CASES.items():
        one, other = (numbers(copy.deepcopy(MADE[name]), batch(4)) for _ in range(2))
        assert same(one, other)


def test_the_proof_tells_a_model_from_its_likes() -> None:
    """Numbers on batches of its own: the same again, others with a bias left out."""
    build = lambda: copy.deepcopy(MADE["image"])  # noqa: E731
    batches = list(sabotage.drawn([list(images(4))], 3, seed=0))
    run = lambda model, given: model(*given)  # noqa: E731
    place = sabotage.Place("head")
    faulty = lambda: sabotage.planted(build, "bias left out", place)  # noqa: E731
    one, again, other = (
        dict(sabotage.numbers(each, batches, run, 0)) for each in (build, build, faulty)
    )
    assert one.keys() == again.keys()
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one if "outputs" in name)
