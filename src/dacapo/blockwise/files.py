"""Small files that are there complete or not at all. Imports numpy."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays as a compressed ``.npz``, moved to `path` when it is complete."""
    _save(path, lambda file: np.savez_compressed(file, **arrays))


def save_array(path: Path, array: np.ndarray) -> None:
    """One array as a ``.npy`` that can be memory-mapped, moved to `path` when it is complete."""
    _save(path, lambda file: np.save(file, array))


def save_text(path: Path, text: str) -> None:
    """A text file, moved to `path` when it is complete."""
    _save(path, lambda file: file.write(text.encode()))


def _save(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            write(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
