"""How much two names say that they mean the same layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

SAME = {  # words that frameworks and people use for one another
    **{"q": "query", "k": "key", "v": "value", "o": "output", "out": "output"},
    **{"fc": "dense", "linear": "dense", "bn": "norm", "ln": "norm", "gn": "norm"},
    **{"batchnorm": "norm", "layernorm": "norm", "normalization": "norm", "batch": "", "layer": ""},
    **{"emb": "embed", "embedding": "embed", "embeddings": "embed", "attn": "attention"},
    **{"downsample": "shortcut", "residual": "shortcut", "proj": "", "projection": "", "to": ""},
}
# What Keras calls a layer that was given no name, without its number.
GIVEN = re.compile(
    r"((separable_|depthwise_)?conv\d?d(_transpose)?|conv\dd_transpose|(einsum_)?dense|"
    r"(batch|layer|group|rms)_normalization|embedding|(simple_)?rnn|lstm|gru|bidirectional|"
    r"multi_head_attention|p_re_lu|normalization|sequential|functional|model)(_\d+)?$"
)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@cache
def words(name: str, numbers: bool) -> Counter[str]:
    """The words of a name, or its numbers, without what a framework gave by itself."""
    pieces = [piece for piece in re.split(r"[/.]", name) if not GIVEN.match(piece)]
    found = (SAME.get(w.lower(), w.lower()) for piece in pieces for w in WORD.findall(piece))
    return Counter(word for word in found if word and word.isdigit() is numbers)


def similarity(keras: str, torch: str) -> tuple[float, float]:
    """How alike two names are by words and by numbers, each from 0 to 1."""
    alike, counted = (
        _overlap(words(keras, numbers), words(torch, numbers)) for numbers in (False, True)
    )
    return alike, counted


def alike(
    keras: Iterable[str], torch: Iterable[str], parts: tuple[str, ...]
) -> tuple[float, float]:
    """`similarity` of a group: `parts` is what the several layers of a side are named after."""
    ours, theirs = list(keras), list(torch)
    if len(ours) == len(theirs):
        pairs = list(zip(ours, theirs, strict=True))
    elif parts and len(theirs) == len(parts):
        pairs = list(zip([f"{ours[0]}/{part}" for part in parts], theirs, strict=True))
    elif parts and len(ours) == len(parts):
        pairs = list(zip(ours, [f"{theirs[0]}.{part}" for part in parts], strict=True))
    else:
        pairs = [(ours[0], theirs[0])]
    found = [similarity(*pair) for pair in pairs]
    return sum(a for a, _ in found) / len(found), sum(b for _, b in found) / len(found)


def namesakes(keras: Iterable[str], torch: Iterable[str]) -> set[str]:
    """What both sides call a layer, the first part of its path. Names that differ by a number alone
    count only where both sides have the same ones: from 0 and from 1 on, none means the other."""
    ours, theirs = ({first(name) for name in side} for side in (keras, torch))
    shared = {name for name in ours & theirs if not GIVEN.match(name)}
    odd = {_stem(name) for name in ours ^ theirs}
    return {name for name in shared if not re.search(r"\d", name) or _stem(name) not in odd}


def parted(keras: str, torch: str, shared: set[str]) -> bool:
    """Whether a layer that both sides call alike, of `shared`, would get another's numbers."""
    ours, theirs = first(keras), first(torch)
    return ours != theirs and (ours in shared or theirs in shared)


def first(name: str) -> str:
    """The first part of a path."""
    return re.split(r"[/.]", name, maxsplit=1)[0]


def _stem(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _overlap(ours: Counter[str], theirs: Counter[str]) -> float:
    either = (ours | theirs).total()
    return (ours & theirs).total() / either if either else 0.0
