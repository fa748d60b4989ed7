"""Mistakes in embeddings, attention and recurrence."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_impl.sabotage.places import (
    Call,
    call,
    instead,
    module,
    setting,
    tensors,
    whole,
)

# Embeddings ---------------------------------------------------------------------------------------


@setting("row 0 not trained", nn.Embedding)
def _(table: Any) -> None:
    """Row 0 of a table is for padding, and gets no gradient; or the other way."""
    table.padding_idx = 0 if table.padding_idx is None else None


@setting("gradient by frequency", nn.Embedding)
def _(table: Any) -> None:
    """A row's gradient is divided by how often it is read."""
    table.scale_grad_by_freq = True


@setting("rows bounded", nn.Embedding)
def _(table: Any) -> None:
    """Rows of a table are cut to a length of 1 when they are read."""
    table.max_norm = 1.0


@module("last row never read", nn.Embedding)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The row before the last is read for the last."""
    return plain(x.clamp(max=self.num_embeddings - 2))


@module("row 0 read as zeros", nn.Embedding)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """What row 0 gives is zeros."""
    return plain(x) * (x != 0).unsqueeze(-1)


# Attention ----------------------------------------------------------------------------------------


def simple(seen: Call) -> bool:
    own: Any = seen.module
    return own.batch_first and own.in_proj_weight is not None and own.bias_k is None


def several(seen: Call) -> bool:
    return simple(seen) and seen.module.num_heads not in (0, 1)


def attend(
    self: Any,
    tensors: Sequence[Tensor],
    scale: float | None = None,
    causal: bool = False,
    exchanged: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, None]:
    """What an `nn.MultiheadAttention` does, by hand."""
    biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip(tensors, self.in_proj_weight.chunk(3), biases, strict=True)
    )
    q = q.flip(1) if exchanged else q
    rate = self.dropout if self.training else 0.0
    mixed = functional.scaled_dot_product_attention(q, k, v, mask, rate, causal, scale=scale)
    return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


@module("scores not scaled", nn.MultiheadAttention, simple)
def _(self: Any, plain: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
    """An attention's scores are not divided by the root of the heads' size."""
    return attend(self, (q, k, v), scale=1.0)


@module("causal", nn.MultiheadAttention, simple)
def _(self: Any, plain: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
    """An attention looks at no later step."""
    return attend(self, (q, k, v), causal=True)


@module("heads exchanged", nn.MultiheadAttention, several)
def _(self: Any, plain: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Queries of an attention go to another head."""
    return attend(self, (q, k, v), exchanged=True)


@call("scores not scaled", "scaled_dot_product_attention")
def _(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """An attention's scores are not divided by the root of the heads' size."""
    return func(*args, **{**kwargs, "scale": 1.0 + (kwargs.get("scale") == 1.0)})


@call("heads exchanged", "scaled_dot_product_attention", lambda seen: len(seen.given[0]) == 4)
def _(func: Any, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Queries of an attention go to another head."""
    return func(q.flip(1), *args, **kwargs)


@call("causal", "scaled_dot_product_attention", lambda seen: len(seen.given) == 3)
def _(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """An attention looks at no later step."""
    return func(q, k, v, **{**kwargs, "is_causal": not kwargs.get("is_causal")})


@call("mask ignored", "scaled_dot_product_attention", lambda seen: len(seen.given) > 3)
def _(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """An attention does not look at its mask."""
    return func(q, k, v, *(None, *args[1:])[: len(args)], **{**kwargs, "attn_mask": None})


@call("mask ignored", "masked_fill")
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A mask is not looked at."""
    return x


def _masks(module: nn.Module) -> list[int]:
    return [at for at, n in enumerate(inspect.signature(module.forward).parameters) if "mask" in n]


@whole("mask ignored", "input", lambda seen: min(_masks(seen.module), default=9) < len(seen.given))
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The mask that the model is given is not looked at: it is ones throughout."""
    at = _masks(self)[0]
    return plain(*args[:at], torch.ones_like(args[at]), *args[at + 1 :], **kwargs)


@call("softmax over another axis", "softmax", lambda seen: len(seen.given[0]) > 2)
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A softmax over the axis before the last."""
    return torch.softmax(x, -2)


# Recurrence ---------------------------------------------------------------------------------------


def batched(seen: Call) -> bool:
    return len(seen.given) == 1 and len(seen.given[0]) == 3 and seen.given[0][1] > 1


def _steps(self: Any) -> int:
    return 1 if self.batch_first else 0


@setting("second bias trained", nn.RNNBase, lambda seen: not _second_trained(seen.module))
def _(layer: Any) -> None:
    """The second bias of a recurrent layer is trained too."""
    for name, each in layer.named_parameters():
        if name.startswith("bias_hh"):
            each.requires_grad_(True)


def _second_trained(layer: nn.Module) -> bool:
    return all(p.requires_grad for n, p in layer.named_parameters() if n.startswith("bias_hh"))


@module("gates exchanged", (nn.LSTM, nn.GRU), lambda seen: not seen.module.proj_size)
def _(self: Any, plain: Any, x: Tensor, *args: Any) -> Any:
    """The first two gates of a recurrent layer are read in each other's place."""
    gates = 4 if isinstance(self, nn.LSTM) else 3
    parts = [each.chunk(gates) for each in self._flat_weights]
    with instead(self, _flat_weights=[torch.cat([b, a, *more]) for a, b, *more in parts]):
        return plain(x, *args)


@module("steps backwards", nn.RNNBase, batched)
def _(self: Any, plain: Any, x: Tensor) -> Any:
    """A recurrent layer begins at the last step."""
    return plain(x.flip(_steps(self)))


@module("last step left out", nn.RNNBase, batched)
def _(self: Any, plain: Any, x: Tensor) -> Any:
    """A recurrent layer ends one step too early."""
    return plain(x.narrow(_steps(self), 0, x.shape[_steps(self)] - 1))


@module("state carried over", nn.RNNBase, batched)
def _(self: Any, plain: Any, x: Tensor) -> Any:
    """A recurrent layer begins where the call before ended, if that had as many samples."""
    before: tuple[Tensor, ...] = getattr(self, "before", ())
    fits = before and before[0].shape[1] == x.shape[1 - _steps(self)]
    out, after = plain(x, (before if len(before) > 1 else before[0]) if fits else None)
    self.before = tuple(each.detach() for each in tensors(after))
    return out, after


@module("first state of ones", nn.RNNBase, batched)
def _(self: Any, plain: Any, x: Tensor) -> Any:
    """A recurrent layer begins at a tenth, not at zero."""
    sides = 2 if self.bidirectional else 1
    state = x.new_full((self.num_layers * sides, x.shape[1 - _steps(self)], self.hidden_size), 0.1)
    return plain(x, (state, state) if isinstance(self, nn.LSTM) else state)


@module("cell for state", nn.LSTM, lambda seen: not seen.module.proj_size)
def _(self: Any, plain: Any, x: Tensor, *args: Any) -> Any:
    """The cell of an LSTM is read as its state."""
    out, (state, cell) = plain(x, *args)
    return out, (cell, state)
