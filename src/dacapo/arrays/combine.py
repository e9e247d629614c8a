"""Arrays made of arrays, lazily: constant, stacked, summed, merged, spread over channels. Read-only.

Imports array, views, errors, geometry and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dacapo.arrays.array import Array, Source
from dacapo.arrays.views import Combined, Filled, Reduced, Single, Spread, Stacked
from dacapo.errors import ArrayError, DataError, GeometryError

CHANNEL = "c^"


def constant_like(array: Array, value: float, dtype: DTypeLike) -> Array:
    """The shape, grid and axes of `array` with `value` everywhere."""
    return Array(Filled(array.shape, value, np.dtype(dtype)), array.grid, array.axis_names)


def stacked(arrays: Sequence[Array], names: Sequence[str]) -> Array:
    """Arrays of one grid as the channels of one array: (c^, *spatial), in the order given.

    Parameters
    ----------
    arrays : sequence of Array
        Without channel axes, or with a single channel each.
    names : sequence of str
        What messages call them.

    Raises
    ------
    GeometryError
        If grids or shapes differ.
    ArrayError
        If one has several channels, or their types have no common one (uint64 and int8).
    """
    flat = [_one_channel(array, name) for array, name in zip(arrays, names, strict=True)]
    require_same_grid(flat, names)
    dtype = common_dtype(flat)
    return Array(Stacked([_source(a) for a in flat], dtype), flat[0].grid, (CHANNEL, *flat[0].grid.axes))


def spread(array: Array, functions: Sequence[Callable[[np.ndarray], np.ndarray]], dtype: DTypeLike) -> Array:
    """Channel i is `functions[i]` of an array without channel axes; elementwise."""
    if array.channel_dims:
        raise ArrayError(f"{describe(array)} has the channel axes {_channels(array)}, expected spatial axes only.")
    return Array(Spread(_source(array), functions, np.dtype(dtype)), array.grid, (CHANNEL, *array.grid.axes))


def any_channel(array: Array) -> Array:
    """Whether any channel is not 0: bool, without channel axes."""
    source = Reduced(_source(array), array.channel_dims, lambda values: (values != 0).any(0), np.dtype(bool))
    return Array(source, array.grid, array.grid.axes)


def summed(arrays: Sequence[Array], names: Sequence[str]) -> Array:
    """The sum, voxel by voxel, in the smallest type that holds every possible sum.

    64-bit sums that do not fit are a DataError when they are read.
    """
    require_same_grid(arrays, names)
    dtype = _sum_dtype([array.dtype for array in arrays])
    return Array(
        Combined([_source(a) for a in arrays], lambda values: _sum(values, dtype), dtype),
        arrays[0].grid,
        arrays[0].axis_names,
    )


def merged_instances(arrays: Sequence[Array], names: Sequence[str]) -> Array:
    """Objects of several arrays as one uint64 array in which no two sources share an id.

    Id k > 0 of source i of n becomes ``(k - 1) * n + i + 1``, whatever region is read. Where objects
    of several sources overlap, the first source that has one wins. An id too large for uint64
    is a DataError when it is read, as is a negative one.
    """
    require_same_grid(arrays, names)
    for array, name in zip(arrays, names, strict=True):
        require_labels(array, name)
    names = tuple(names)
    return Array(
        Combined([_source(a) for a in arrays], lambda values: _interleaved(values, names), np.dtype(np.uint64)),
        arrays[0].grid,
        arrays[0].axis_names,
    )


def require_same_grid(arrays: Sequence[Array], names: Sequence[str]) -> None:
    """GeometryError unless all have the grid and shape of the first."""
    first = arrays[0]
    for other, name in zip(arrays[1:], names[1:], strict=True):
        if other.grid.axes != first.grid.axes or not other.grid.is_close(first.grid):
            raise GeometryError(
                f"{name} has {_place(other)}, but {names[0]} has {_place(first)}: crop or resample them to one grid."
            )
        if other.shape != first.shape:
            raise GeometryError(
                f"{name} has shape {other.shape}, but {names[0]} has {first.shape}: crop them to the same region."
            )


def require_labels(array: Array, name: str) -> None:
    """ArrayError unless the voxels are whole numbers or bool."""
    if array.dtype.kind not in "biu":
        raise ArrayError(f"{name} is {array.dtype}, expected labels: whole numbers.")


def common_dtype(arrays: Sequence[Array]) -> np.dtype[Any]:
    """The type that holds the values of all arrays exactly."""
    dtypes = [array.dtype for array in arrays]
    dtype = np.result_type(*dtypes)
    if dtype.kind == "f" and all(d.kind in "biu" for d in dtypes):
        raise ArrayError(f"Types {', '.join(map(str, dtypes))} have no common type without loss: convert one of them.")
    return dtype


def describe(array: Array) -> str:
    """What a message calls an array."""
    return array.path or "the array"


def _source(array: Array) -> Source:
    return array._source


def _channels(array: Array) -> str:
    return ", ".join(f"{n} ({s})" for n, s in zip(array.axis_names, array.shape[: array.channel_dims], strict=False))


def _place(array: Array) -> str:
    grid = array.grid
    return f"voxels {grid.voxel_size} {grid.unit} from {grid.offset} along {', '.join(grid.axes)}"


def _one_channel(array: Array, name: str) -> Array:
    if not array.channel_dims:
        return array
    if any(size != 1 for size in array.shape[: array.channel_dims]):
        raise ArrayError(f"{name} has the channel axes {_channels(array)}, expected one channel.")
    return Array(Single(_source(array), array.channel_dims), array.grid, array.grid.axes)


def _sum_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    if any(dtype.kind == "f" for dtype in dtypes):
        return np.result_type(np.float32, *dtypes)
    bounds = [(0, 1) if d.kind == "b" else (int(np.iinfo(d).min), int(np.iinfo(d).max)) for d in dtypes]
    low, high = sum(b[0] for b in bounds), sum(b[1] for b in bounds)
    for name in ("uint8", "uint16", "uint32", "uint64") if low == 0 else ("int8", "int16", "int32", "int64"):
        info = np.iinfo(name)
        if int(info.min) <= low and high <= int(info.max):
            return np.dtype(name)
    return np.dtype(np.uint64 if low == 0 else np.int64)


def _sum(values: Sequence[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.itemsize < 8 or dtype.kind == "f":
        return np.add.reduce([v.astype(dtype, copy=False) for v in values])
    out = np.zeros(values[0].shape, dtype)
    for value in values:
        if dtype.kind == "i" and value.dtype.kind == "u" and value.size and int(value.max()) > np.iinfo(dtype).max:
            raise DataError(f"The sum does not fit {dtype}: {int(value.max())} is too large.")
        term = value.astype(dtype, copy=False)
        total = out + term
        wrapped = total < out if dtype.kind == "u" else (term >= 0) != (total >= out)
        if wrapped.any():
            raise DataError(f"The sum does not fit {dtype}: {int(out[wrapped][0])} + {int(term[wrapped][0])}.")
        out = total
    return out


def _interleaved(values: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    n = len(values)
    largest = (2**64 - 1 - n) // n
    out = np.zeros(values[0].shape, np.uint64)
    for i, value in enumerate(values):
        if value.size and value.dtype.kind == "i" and int(value.min()) < 0:
            raise DataError(f"{names[i]} has the negative id {int(value.min())}, expected ids from 0.")
        if value.size and int(value.max()) > largest:
            raise DataError(
                f"{names[i]} has the id {int(value.max())}: merged with {n - 1} others, ids may go up to {largest}. "
                f"Renumber it."
            )
        free = (out == 0) & (value != 0)
        out[free] = (value[free].astype(np.uint64) - np.uint64(1)) * np.uint64(n) + np.uint64(i + 1)
    return out
