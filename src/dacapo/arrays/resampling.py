"""Arrays in larger or smaller voxels, read region by region. Imports array, views, errors and numpy.

What a voxel becomes never depends on the region that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from dacapo.arrays.array import Array, Slices, Source
from dacapo.arrays.views import ReadOnly
from dacapo.errors import ArrayError, GeometryError


def resampled(array: Array, upsample: Sequence[int], downsample: Sequence[int], *, smooth: bool) -> Array:
    """The array in voxels of `downsample / upsample` times the size, with the same lower corner.

    First each voxel becomes `upsample` voxels, then `downsample` voxels become one; voxels at the end that
    fill no window are left out. Channels are kept apart. The type stays: means are rounded.

    Parameters
    ----------
    array : Array
    upsample, downsample : sequence of int
        One factor per spatial axis, from 1.
    smooth : bool
        Intensities: linear between voxel centres (the border goes on), and the mean. Labels (False): the voxel
        itself, and the most frequent id, of equally frequent ones the smallest.

    Raises
    ------
    GeometryError
        If a factor is missing or less than 1, or nothing would be left.
    ArrayError
        If ids of 64 bits, or bool, are asked to be smooth.
    """
    for name, factors in (("upsample", upsample), ("downsample", downsample)):
        if len(factors) != array.spatial_dims or min(factors) < 1:
            raise GeometryError(
                f"{name} is {list(factors)}, expected {array.spatial_dims} whole numbers from 1, one per axis "
                f"{', '.join(array.grid.axes)}."
            )
    if smooth and (array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize == 8)):
        raise ArrayError(
            f"interp_order is 1 (mean), but the voxels are {array.dtype}, so labels: a mean of ids is no id. "
            f"Give interp_order: 0."
        )
    if all(u == d == 1 for u, d in zip(upsample, downsample, strict=True)):
        return array
    sizes = [n * u // d for n, u, d in zip(array.spatial_shape, upsample, downsample, strict=True)]
    if min(sizes) < 1:
        raise GeometryError(f"downsample {list(downsample)} leaves nothing of {tuple(array.spatial_shape)} voxels.")
    source: Source = array._source
    if any(factor > 1 for factor in upsample):
        source = _Upsampled(source, tuple(upsample), smooth)
    if any(factor > 1 for factor in downsample):
        source = _Downsampled(source, tuple(downsample), smooth)
    grid = array.grid.scaled([Fraction(d, u) for u, d in zip(upsample, downsample, strict=True)])
    return Array(source, grid, array.axis_names)


class _Upsampled(ReadOnly):
    def __init__(self, inner: Source, factors: tuple[int, ...], smooth: bool) -> None:
        self._channels = len(inner.shape) - len(factors)
        channels = tuple(inner.shape[: self._channels])
        sizes = tuple(n * f for n, f in zip(inner.shape[self._channels :], factors, strict=True))
        super().__init__(inner, channels + sizes, inner.dtype)
        self.chunk_shape = None
        self._factors = factors
        self._smooth = smooth

    def read(self, slices: Slices) -> np.ndarray:
        spatial = slices[self._channels :]
        if any(part.stop <= part.start for part in slices):
            return np.empty(tuple(part.stop - part.start for part in slices), self.dtype)
        stencils = [
            _stencil(part, factor, size, self._smooth)
            for part, factor, size in zip(spatial, self._factors, self._inner.shape[self._channels :], strict=True)
        ]
        inside = tuple(slice(int(low.min()), int(high.max()) + 1) for low, high, _ in stencils)
        block = self._inner.read(slices[: self._channels] + inside)
        if self._smooth:
            block = block.astype(_exact_float(self.dtype))
        for axis, ((low, high, weight), part) in enumerate(zip(stencils, inside, strict=True), self._channels):
            if self._factors[axis - self._channels] == 1:
                continue
            lower = block.take(low - part.start, axis)
            if self._smooth:
                upper = block.take(high - part.start, axis)
                shape = [-1 if a == axis else 1 for a in range(block.ndim)]
                lower += (upper - lower) * weight.astype(block.dtype).reshape(shape)
            block = lower
        return _as_dtype(block, self.dtype)


class _Downsampled(ReadOnly):
    def __init__(self, inner: Source, factors: tuple[int, ...], smooth: bool) -> None:
        self._channels = len(inner.shape) - len(factors)
        channels = tuple(inner.shape[: self._channels])
        sizes = tuple(n // f for n, f in zip(inner.shape[self._channels :], factors, strict=True))
        super().__init__(inner, channels + sizes, inner.dtype)
        self.chunk_shape = None
        self._factors = factors
        self._smooth = smooth

    def read(self, slices: Slices) -> np.ndarray:
        spatial = slices[self._channels :]
        inside = tuple(slice(p.start * f, p.stop * f) for p, f in zip(spatial, self._factors, strict=True))
        block = self._inner.read(slices[: self._channels] + inside)
        windows = _windows(block, self._factors, self._channels)
        if not windows.size:
            return np.empty(windows.shape[:-1], self.dtype)
        if self._smooth:
            return _as_dtype(windows.mean(-1, dtype=np.float64), self.dtype)
        return most_frequent(windows)


def most_frequent(windows: np.ndarray) -> np.ndarray:
    """The most frequent value along the last axis; of equally frequent ones the smallest."""
    shape, length = windows.shape[:-1], windows.shape[-1]
    flat = windows.reshape(-1, length)
    out = flat[:, 0].copy()
    mixed = np.flatnonzero((flat != out[:, None]).any(1))  # inside objects there is nothing to count
    ordered = np.sort(flat[mixed], axis=1)
    run, best = np.ones(len(mixed), np.int64), np.ones(len(mixed), np.int64)
    winner = ordered[:, 0].copy()
    for i in range(1, length):
        run = np.where(ordered[:, i] == ordered[:, i - 1], run + 1, 1)
        longer = run > best
        best[longer] = run[longer]
        winner[longer] = ordered[longer, i]
    out[mixed] = winner
    return out.reshape(shape)


def _stencil(part: slice, factor: int, size: int, smooth: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each fine voxel the coarse voxels on both sides of its centre, and the weight of the upper one."""
    index = np.arange(part.start, part.stop)
    if not smooth or factor == 1:
        return index // factor, index // factor, np.zeros(len(index))
    twice = 2 * index + 1 - factor  # centre in half steps of fine voxels from the centre of coarse voxel 0
    low = twice // (2 * factor)
    weight = (twice - 2 * factor * low) / (2 * factor)
    return low.clip(0, size - 1), (low + 1).clip(0, size - 1), weight


def _windows(block: np.ndarray, factors: Sequence[int], channels: int) -> np.ndarray:
    """(*channels, *spatial) to (*channels, *coarse, voxels of a window)."""
    split = list(block.shape[:channels])
    for size, factor in zip(block.shape[channels:], factors, strict=True):
        split += [size // factor, factor]
    dims = len(factors)
    order = [*range(channels), *(channels + 2 * i for i in range(dims)), *(channels + 2 * i + 1 for i in range(dims))]
    ordered = block.reshape(split).transpose(order)
    return ordered.reshape(*ordered.shape[: channels + dims], int(np.prod(factors)))


def _exact_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64)


def _as_dtype(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    return (np.rint(values) if dtype.kind in "biu" else values).astype(dtype, copy=False)
