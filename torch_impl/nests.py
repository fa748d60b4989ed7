"""Tensors in nested tuples, lists, dicts and dataclasses, as models take and return them."""

from __future__ import annotations

import copy
import dataclasses
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
    elif dataclasses.is_dataclass(values) and not isinstance(values, type):
        yield from tensors([getattr(values, each.name) for each in dataclasses.fields(values)])


def names(values: Any) -> list[str]:
    """Of the tensors in a dict or a dataclass, one each; empty where they have none, or share."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type | dict):
        values = {each.name: getattr(values, each.name) for each in dataclasses.fields(values)}
    if not isinstance(values, dict):
        return []
    held = {key: list(tensors(value)) for key, value in values.items()}
    found = [str(key) for key, each in held.items() if len(each) == 1]
    return found if len(found) == sum(map(len, held.values())) else []


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
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        fields = [each.name for each in dataclasses.fields(values)]
        changed = {name: mapped(getattr(values, name), change) for name in fields}
        if all(changed[name] is getattr(values, name) for name in fields):
            return values
        made = copy.copy(values)
        for name, value in changed.items():
            object.__setattr__(made, name, value)
        return made
    return values
