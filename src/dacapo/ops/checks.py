"""What kernels demand of their arguments, and how they say so. Imports errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dacapo.errors import DataError, GeometryError


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as an array; DataError unless they are 2D or 3D whole numbers."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "uib":
        raise DataError(f"labels are {labels.dtype}, expected whole numbers: convert them with .astype(np.uint64)")
    check_dims(labels.ndim, "labels", labels.shape)
    return labels


def check_dims(dims: int, what: str, shape: Sequence[int]) -> None:
    """GeometryError unless there are two or three spatial axes."""
    if dims not in (2, 3):
        raise GeometryError(f"{what} of shape {tuple(shape)} have {dims} spatial axes, expected 2 or 3")


def check_same_shape(shape: Sequence[int], expected: Sequence[int], what: str) -> None:
    """GeometryError unless both shapes are equal."""
    if tuple(shape) != tuple(expected):
        raise GeometryError(f"{what} has shape {tuple(shape)}, expected {tuple(expected)}")


def check_mask(mask: np.ndarray | None, shape: Sequence[int]) -> np.ndarray | None:
    """The mask as booleans, or None; GeometryError unless it has `shape`."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    check_same_shape(mask.shape, shape, "the mask")
    return mask if mask.dtype == bool else mask != 0


def check_lengths(values: Sequence[float], dims: int, what: str) -> tuple[float, ...]:
    """Finite positive lengths, one per spatial axis; GeometryError otherwise."""
    lengths = tuple(float(v) for v in values)
    if len(lengths) != dims or not all(0 < v < float("inf") for v in lengths):
        raise GeometryError(f"{what} is {lengths}, expected {dims} positive numbers, one per spatial axis")
    return lengths


def check_neighborhood(neighborhood: Sequence[Sequence[int]], dims: int) -> list[tuple[int, ...]]:
    """Offsets as tuples of whole numbers; GeometryError unless each has `dims` entries and is not zero."""
    offsets = [tuple(int(v) for v in offset) for offset in neighborhood]
    wrong = [offset for offset in offsets if len(offset) != dims or not any(offset)]
    if wrong or not offsets:
        found = f"offset {wrong[0]}" if wrong else "no offset"
        raise GeometryError(f"the neighborhood has {found}, expected offsets of {dims} whole numbers, not all zero")
    return offsets


def unsigned(labels: np.ndarray) -> np.ndarray:
    """The same bits as unsigned whole numbers: kernels are then compiled for four types, not nine."""
    if labels.dtype.kind == "u":
        return labels
    return labels.view(np.dtype(f"u{labels.dtype.itemsize}"))
