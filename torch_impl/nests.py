"""Tensors in nested tuples, lists and dicts, as models take and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors(values: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order; of packed steps, the steps."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, PackedSequence):
        yield values.data
    elif isinstance(values, dict):
        for each in values.values():
            yield from tensors(each)
    elif isinstance(values, (tuple, list)):
        for each in values:
            yield from tensors(each)


def mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with other tensors in it; the same object where none is another."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, PackedSequence):
        data = change(values.data)
        return values if data is values.data else values._replace(data=data)
    if isinstance(values, dict):
        items = {key: mapped(value, change) for key, value in values.items()}
        if all(items[key] is value for key, value in values.items()):
            return values
        return type(values)(items)
    if isinstance(values, (tuple, list)):
        parts = [mapped(each, change) for each in values]
        if all(part is each for part, each in zip(parts, values, strict=True)):
            return values
        named = hasattr(values, "_fields")
        return type(values)(*parts) if named else type(values)(parts)
    return values
