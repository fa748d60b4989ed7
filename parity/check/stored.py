"""Tensors in files, read when asked for: all of a large model's do not fit in memory at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from parity.recording import write_atomically

INDEX = "tensors.json"


class Stored(Mapping[str, np.ndarray]):
    """The tensors of a folder by name. They are mapped into memory, not copied: read-only.

    One `.npy` each, which NumPy writes and maps without a copy; `tensors.json` has their names.
    Raises `OSError` or `ValueError` where that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = json.loads((folder / INDEX).read_text())
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> np.ndarray:
        return np.load(_file(self.folder, self._numbers[name]), mmap_mode="r", allow_pickle=False)

    def __contains__(self, name: object) -> bool:  # without reading it
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Growing(Stored):
    """A folder that takes tensors in. What it held before is void."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / INDEX, b"[]\n")
        super().__init__(folder)

    def update(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Their names are new."""
        for name, value in tensors.items():
            np.save(_file(self.folder, len(self.names)), value, allow_pickle=False)
            self._numbers[name] = len(self.names)
            self.names.append(name)

    def close(self) -> None:
        write_atomically(self.folder / INDEX, json.dumps(self.names).encode() + b"\n")


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.npy"


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A `.safetensors`, whole or not there; bytes in C order, as the format has them."""
    temporary = path.with_name(f".{path.name}")
    save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, temporary)
    temporary.replace(path)
