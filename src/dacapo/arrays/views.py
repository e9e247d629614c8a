"""Sources made of other sources: in another order, a part, mapped, several as one. Nothing is read until asked for.

Imports errors and numpy. `Array` and combine.py wrap them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.errors import ArrayError

if TYPE_CHECKING:
    from dacapo.arrays.array import Slices, Source


class Transposed:
    """A source with its axes in another order: axis i is the inner source's axis `order[i]`."""

    def __init__(self, inner: Source, order: Sequence[int]) -> None:
        self.inner = inner
        self.order = tuple(order)
        self._back = tuple(int(axis) for axis in np.argsort(self.order))
        self.shape = tuple(inner.shape[axis] for axis in self.order)
        self.dtype = inner.dtype
        self.chunk_shape = None if inner.chunk_shape is None else tuple(inner.chunk_shape[axis] for axis in self.order)
        self.is_writeable = inner.is_writeable
        self.path = inner.path

    def read(self, slices: Slices) -> np.ndarray:
        return self.inner.read(tuple(slices[axis] for axis in self._back)).transpose(self.order)

    def write(self, slices: Slices, data: np.ndarray) -> None:
        self.inner.write(tuple(slices[axis] for axis in self._back), data.transpose(self._back))


class ReadOnly:
    """A view of another source; without a path, because opening that would not give the view."""

    is_writeable = False
    path = None

    def __init__(self, inner: Source, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._inner = inner
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape = inner.chunk_shape

    def write(self, slices: Slices, data: np.ndarray) -> None:
        raise ArrayError("A view of an array is read-only.")


class Mapped(ReadOnly):
    def __init__(self, inner: Source, function: Callable[[np.ndarray], np.ndarray], dtype: np.dtype[Any]) -> None:
        super().__init__(inner, tuple(inner.shape), dtype)
        self._function = function

    def read(self, slices: Slices) -> np.ndarray:
        values = self._inner.read(slices)
        mapped = self._function(values)
        if mapped.shape != values.shape:
            raise ArrayError(f"A mapped function made {mapped.shape} of {values.shape}; it must work elementwise.")
        return mapped.astype(self.dtype, copy=False)


class Window(ReadOnly):
    def __init__(self, inner: Source, window: Slices) -> None:
        super().__init__(inner, tuple(part.stop - part.start for part in window), inner.dtype)
        self._start = tuple(part.start for part in window)

    def read(self, slices: Slices) -> np.ndarray:
        moved = (slice(part.start + lo, part.stop + lo) for part, lo in zip(slices, self._start, strict=True))
        return self._inner.read(tuple(moved))


class Selected(ReadOnly):
    def __init__(self, inner: Source, channels: tuple[int, ...]) -> None:
        super().__init__(inner, (len(channels), *inner.shape[1:]), inner.dtype)
        self._channels = channels

    def read(self, slices: Slices) -> np.ndarray:
        wanted = self._channels[slices[0]]
        if not wanted:
            return self._inner.read((slice(0, 0), *slices[1:]))
        low, high = min(wanted), max(wanted) + 1
        if wanted == tuple(range(low, high)):
            return self._inner.read((slice(low, high), *slices[1:]))
        if high - low <= 2 * len(wanted):
            return self._inner.read((slice(low, high), *slices[1:]))[[c - low for c in wanted]]
        return np.concatenate([self._inner.read((slice(c, c + 1), *slices[1:])) for c in wanted])


class Filled:
    """One value everywhere; no voxel is stored."""

    is_writeable = False
    path = None
    chunk_shape = None

    def __init__(self, shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._value = value

    def read(self, slices: Slices) -> np.ndarray:
        return np.full(tuple(part.stop - part.start for part in slices), self._value, self.dtype)

    def write(self, slices: Slices, data: np.ndarray) -> None:
        raise ArrayError("A constant array is read-only.")


class Stacked(ReadOnly):
    """Sources of one shape, one after the other along a new first axis; only those that are asked for are read."""

    def __init__(self, inner: Sequence[Source], dtype: np.dtype[Any]) -> None:
        super().__init__(inner[0], (len(inner), *inner[0].shape), dtype)
        self.chunk_shape = None if self.chunk_shape is None else (1, *self.chunk_shape)
        self._members = tuple(inner)

    def read(self, slices: Slices) -> np.ndarray:
        out = np.empty(tuple(part.stop - part.start for part in slices), self.dtype)
        for i, member in enumerate(self._members[slices[0]]):
            out[i] = member.read(slices[1:])
        return out


class Combined(ReadOnly):
    """Sources of one shape, brought together voxel by voxel by `function` of their values in order."""

    def __init__(
        self, inner: Sequence[Source], function: Callable[[Sequence[np.ndarray]], np.ndarray], dtype: np.dtype[Any]
    ) -> None:
        super().__init__(inner[0], tuple(inner[0].shape), dtype)
        self._members = tuple(inner)
        self._function = function

    def read(self, slices: Slices) -> np.ndarray:
        return self._function([member.read(slices) for member in self._members]).astype(self.dtype, copy=False)


class Spread(ReadOnly):
    """Channels made of one source: `functions[i]` of its values is channel i of a new first axis."""

    def __init__(
        self, inner: Source, functions: Sequence[Callable[[np.ndarray], np.ndarray]], dtype: np.dtype[Any]
    ) -> None:
        super().__init__(inner, (len(functions), *inner.shape), dtype)
        self.chunk_shape = None if self.chunk_shape is None else (1, *self.chunk_shape)
        self._functions = tuple(functions)

    def read(self, slices: Slices) -> np.ndarray:
        wanted = self._functions[slices[0]]
        out = np.empty(tuple(part.stop - part.start for part in slices), self.dtype)
        values = self._inner.read(slices[1:]) if wanted else None
        for i, function in enumerate(wanted):
            out[i] = function(values)
        return out


class Reduced(ReadOnly):
    """All channels of a source as one: `function` of its values (channels, *spatial)."""

    def __init__(
        self, inner: Source, num_channel_axes: int, function: Callable[[np.ndarray], np.ndarray], dtype: np.dtype[Any]
    ) -> None:
        super().__init__(inner, tuple(inner.shape[num_channel_axes:]), dtype)
        self.chunk_shape = None if self.chunk_shape is None else tuple(self.chunk_shape[num_channel_axes:])
        self._all_channels = tuple(slice(0, size) for size in inner.shape[:num_channel_axes])
        self._function = function

    def read(self, slices: Slices) -> np.ndarray:
        values = self._inner.read(self._all_channels + slices)
        channels = math.prod(values.shape[: len(self._all_channels)])
        return self._function(values.reshape(channels, *values.shape[len(self._all_channels) :]))


class Single(ReadOnly):
    """A source without its channel axes, which have one channel."""

    def __init__(self, inner: Source, num_channel_axes: int) -> None:
        super().__init__(inner, tuple(inner.shape[num_channel_axes:]), inner.dtype)
        self.chunk_shape = None if self.chunk_shape is None else tuple(self.chunk_shape[num_channel_axes:])
        self._channels = (slice(0, 1),) * num_channel_axes

    def read(self, slices: Slices) -> np.ndarray:
        voxels = self._inner.read(self._channels + slices)
        return voxels.reshape(voxels.shape[len(self._channels) :])
