"""The volume that everything reads and writes: `Array`, and the sources that need no file.

Imports geometry, errors and numpy. Sources of files are in tensorstores.py and formats.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dacapo.arrays.views import Mapped, Selected, Window
from dacapo.errors import ArrayError, GeometryError
from dacapo.geometry import Coordinate, Grid, Roi

Slices = tuple[slice, ...]


class Source(Protocol):
    """Voxels that can be read by slices: one per axis, step 1, inside the shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def chunk_shape(self) -> tuple[int, ...] | None: ...

    @property
    def is_writeable(self) -> bool: ...

    @property
    def path(self) -> str | None: ...

    def read(self, slices: Slices) -> np.ndarray:
        """A new array of the voxels in `slices`, which the caller may change."""
        ...

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Put `data`, of the shape and dtype of the slices, on disk before returning."""
        ...


class Array:
    """A volume that is read when asked for: a source of voxels, a grid, axis names.

    Parameters
    ----------
    source : Source
        Voxels; channel axes first, then the spatial axes of `grid` in its order.
    grid : Grid
        Where the spatial axes lie.
    axis_names : sequence of str, optional
        One per axis of the source; names of channel axes end in ``^``. By default the grid's axes,
        with ``c^`` before them if the source has one axis more.
    attributes : mapping, optional
        JSON values that are kept with the voxels on disk.

    Raises
    ------
    ArrayError
        If the names do not fit the source or the grid.

    Examples
    --------
    >>> array = from_numpy(np.arange(6).reshape(1, 2, 3), axis_names=("c^", "y", "x"))
    >>> array.read(Roi((0, 1), (2, 3)), pad="reflect")
    array([[[1, 2, 1],
            [4, 5, 4]]])
    """

    def __init__(
        self,
        source: Source,
        grid: Grid,
        axis_names: Sequence[str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        names = tuple(axis_names) if axis_names is not None else default_axis_names(len(source.shape), grid)
        num_channel_axes = sum(name.endswith("^") for name in names)
        if len(names) != len(source.shape) or names[num_channel_axes:] != grid.axes:
            raise ArrayError(
                f"axis_names {names} do not fit shape {tuple(source.shape)} and spatial axes {grid.axes}: expected "
                f"channel axes (such as 'c^') first, then the spatial axes."
            )
        self._source = source
        self._grid = grid
        self._axis_names = names
        self._attributes = dict(attributes or {})
        self._channel_slices = tuple(slice(0, size) for size in source.shape[:num_channel_axes])
        self._spatial_shape = Coordinate(source.shape[num_channel_axes:])  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        where = f", path={self.path!r}" if self.path else ""
        sizes = " x ".join(f"{size:g}" for size in self.voxel_size)
        axes = dict(zip(self.axis_names, self.shape, strict=True))
        return f"Array({self.dtype}, {axes}, voxels {sizes} {self.units}{where})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of all axes, channels included."""
        return tuple(self._source.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels that `read` returns."""
        return self._source.dtype

    @property
    def ndim(self) -> int:
        """Number of all axes."""
        return len(self._source.shape)

    @property
    def dims(self) -> int:
        """Number of all axes."""
        return self.ndim

    @property
    def channel_dims(self) -> int:
        """Number of channel axes."""
        return len(self._channel_slices)

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return self._grid.dims

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of all axes; those of channel axes end in ``^``."""
        return self._axis_names

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return self._grid

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Size of a voxel in `units`, per spatial axis."""
        return self._grid.voxel_size

    @property
    def offset(self) -> tuple[float, ...]:
        """Lower corner of voxel 0 in `units`, per spatial axis."""
        return self._grid.offset

    @property
    def units(self) -> str:
        """Unit of `voxel_size` and `offset`."""
        return self._grid.unit

    @property
    def spatial_shape(self) -> Coordinate:
        """Size of the spatial axes, in voxels."""
        return self._spatial_shape

    @property
    def roi(self) -> Roi:
        """All voxels: from 0 to `spatial_shape`."""
        return Roi((0,) * self.spatial_dims, self._spatial_shape)

    @property
    def chunk_shape(self) -> tuple[int, ...] | None:
        """What is written as a whole, over all axes: the shard if there are shards, else the chunk; None in memory."""
        return self._source.chunk_shape

    @property
    def is_writeable(self) -> bool:
        """Whether `write` may be called."""
        return self._source.is_writeable

    @property
    def path(self) -> str | None:
        """Where the voxels are, for `open_array`; None in memory and for views."""
        return self._source.path

    @property
    def attributes(self) -> dict[str, Any]:
        """JSON values kept with the voxels on disk (a copy)."""
        return dict(self._attributes)

    def read(self, roi: Roi | None = None, pad: str | None = None) -> np.ndarray:
        """Voxels of a region, with all channels, as a new array.

        Parameters
        ----------
        roi : Roi, optional
            In voxels of this array; everything by default. May stick out if `pad` says how to go on.
        pad : "zero", "reflect" or None
            What lies outside: an error (None), zeros, or the array mirrored without repeating its
            border voxel (`numpy.pad` "reflect"), as often as needed.

        Returns
        -------
        voxels : (*channels, *roi.shape) ndarray of `dtype`

        Raises
        ------
        GeometryError
            If `roi` sticks out and `pad` is None, or has another number of axes, or no bounds.
        """
        begin, end = self._bounds(roi)
        if all(lo >= 0 and hi <= size for lo, hi, size in zip(begin, end, self._spatial_shape, strict=True)):
            return self._source.read(self._channel_slices + tuple(map(slice, begin, end)))
        if pad == "zero":
            return self._read_filled(begin, end, 0)
        if pad == "reflect":
            return self._read_reflected(begin, end)
        if pad is not None:
            raise GeometryError(f"pad is {pad!r}, expected None, 'zero' or 'reflect'.")
        raise GeometryError(
            f"Roi {_span(begin, end)} sticks out of {self._name()}, which has {tuple(self._spatial_shape)} voxels. "
            f"Give a Roi inside, or pad='zero' or 'reflect'."
        )

    def to_ndarray(self, roi: Roi | None = None, fill_value: float = 0) -> np.ndarray:
        """`read`, with `fill_value` where `roi` (voxels) sticks out of the array."""
        return self._read_filled(*self._bounds(roi), fill_value)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Voxels of a Roi (voxels), or of integers and slices over all axes as numpy has them."""
        if isinstance(key, Roi):
            return self.read(key)
        slices, remaining = _slices_of(key, self.shape)
        voxels: np.ndarray = self._source.read(slices)[remaining]
        return voxels

    def __setitem__(self, roi: Roi, data: np.ndarray | float) -> None:
        """`array[roi] = data` is `array.write(roi, data)`."""
        self.write(roi, data)

    def write(self, roi: Roi, data: np.ndarray | float) -> None:
        """Write all channels of a region; on disk when this returns.

        Parameters
        ----------
        roi : Roi
            In voxels, inside the array. It covers whole chunks (`chunk_shape`), except where the
            array ends: two processes that write parts of one chunk would undo each other.
        data : (*channels, *roi.shape) ndarray, or one number
            Of a type that fits `dtype` without loss.

        Raises
        ------
        ArrayError
            If the array is read-only, `data` has another shape or type, or chunks are cut.
        GeometryError
            If `roi` sticks out.
        StoreError
            If the disk is full or may not be written.
        """
        if not self.is_writeable:
            raise ArrayError(f"{self._name()} is read-only. Open it with mode='r+' if it is a zarr array.")
        begin, end = self._bounds(roi)
        if not all(lo >= 0 and hi <= size for lo, hi, size in zip(begin, end, self._spatial_shape, strict=True)):
            raise GeometryError(
                f"Roi {_span(begin, end)} sticks out of {self._name()}, which has {tuple(self._spatial_shape)} voxels."
            )
        self._require_whole_chunks(begin, end)
        slices = self._channel_slices + tuple(map(slice, begin, end))
        self._source.write(slices, self._fitting(data, tuple(s.stop - s.start for s in slices)))

    def map(self, function: Callable[[np.ndarray], np.ndarray], dtype: DTypeLike) -> Array:
        """This array with `function` applied to what is read; elementwise, result of type `dtype`. Read-only."""
        return Array(Mapped(self._source, function, np.dtype(dtype)), self._grid, self._axis_names, self._attributes)

    def crop(self, roi: Roi) -> Array:
        """The part of this array in `roi` (voxels, inside), with its voxel 0 at the roi's begin. Read-only."""
        begin, end = self._bounds(roi)
        if not all(0 <= lo < hi <= size for lo, hi, size in zip(begin, end, self._spatial_shape, strict=True)):
            raise GeometryError(
                f"Roi {_span(begin, end)} is empty or sticks out of {self._name()}, which has "
                f"{tuple(self._spatial_shape)} voxels: nothing to crop."
            )
        window = self._channel_slices + tuple(map(slice, begin, end))
        return Array(Window(self._source, window), self._grid.at(begin), self._axis_names, self._attributes)

    def select_channels(self, channels: Sequence[int]) -> Array:
        """This array with only `channels` (indices) of its first channel axis, in that order. Read-only."""
        if not self.channel_dims:
            raise ArrayError(f"{self._name()} has no channel axis to select channels {list(channels)} from.")
        if not channels or not all(0 <= c < self.shape[0] for c in channels):
            raise ArrayError(f"channels is {list(channels)}, expected indices from 0 to {self.shape[0] - 1}.")
        return Array(Selected(self._source, tuple(channels)), self._grid, self._axis_names, self._attributes)

    def with_grid(self, grid: Grid) -> Array:
        """The same voxels on another grid: for files that do not say, or say wrongly, how large a voxel is."""
        names = self._axis_names[: self.channel_dims] + grid.axes
        return Array(self._source, grid, names, self._attributes)

    def _name(self) -> str:
        return self.path or "this array"

    def _bounds(self, roi: Roi | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if roi is None:
            return (0,) * self.spatial_dims, tuple(self._spatial_shape)
        begin, size = tuple(roi.offset), tuple(roi.shape)
        if len(begin) != self.spatial_dims or None in begin or None in size:
            raise GeometryError(f"Roi {roi} does not fit {self._name()}: expected bounds on {self.spatial_dims} axes.")
        return begin, tuple(lo + length for lo, length in zip(begin, size, strict=True))

    def _read_filled(self, begin: tuple[int, ...], end: tuple[int, ...], fill_value: float) -> np.ndarray:
        size = self._spatial_shape
        low = [min(max(lo, 0), n) for lo, n in zip(begin, size, strict=True)]
        high = [max(min(hi, n), lo) for hi, n, lo in zip(end, size, low, strict=True)]
        inside = self._channel_slices + tuple(map(slice, low, high))
        if low == list(begin) and high == list(end):
            return self._source.read(inside)
        lengths = [hi - lo for lo, hi in zip(begin, end, strict=True)]
        out = np.full((*self.shape[: self.channel_dims], *lengths), fill_value, dtype=self.dtype)
        if all(hi > lo for lo, hi in zip(low, high, strict=True)):
            at = tuple(slice(lo - b, hi - b) for lo, hi, b in zip(low, high, begin, strict=True))
            out[(slice(None),) * self.channel_dims + at] = self._source.read(inside)
        return out

    def _read_reflected(self, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
        mirrored = [_reflect(lo, hi, n) for lo, hi, n in zip(begin, end, self._spatial_shape, strict=True)]
        if not all(index.size for index in mirrored):
            return self._read_filled(begin, end, 0)
        low = [int(index.min()) for index in mirrored]
        inside = tuple(slice(lo, int(index.max()) + 1) for lo, index in zip(low, mirrored, strict=True))
        block = self._source.read(self._channel_slices + inside)
        for d, index in enumerate(mirrored):
            if begin[d] < 0 or end[d] > self._spatial_shape[d]:
                block = block.take(index - low[d], axis=self.channel_dims + d)
        return block

    def _require_whole_chunks(self, begin: tuple[int, ...], end: tuple[int, ...]) -> None:
        if self.chunk_shape is None:
            return
        chunk = self.chunk_shape[self.channel_dims :]
        for lo, hi, n, c in zip(begin, end, self._spatial_shape, chunk, strict=True):
            if lo % c or (hi % c and hi != n):
                raise ArrayError(
                    f"Roi {_span(begin, end)} cuts chunks of {tuple(chunk)} voxels of {self._name()}: begin and end "
                    f"must be multiples of the chunk or the array's end {tuple(self._spatial_shape)}, or parallel "
                    f"writers lose voxels."
                )

    def _fitting(self, data: np.ndarray | float, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(data, (bool, int, float)):
            return np.full(shape, data, dtype=self.dtype)
        data = np.asarray(data)
        if data.shape != shape:
            raise ArrayError(f"data has shape {data.shape}, expected {shape} (channels, roi) for {self._name()}.")
        if not np.can_cast(data.dtype, self.dtype, "safe"):
            raise ArrayError(f"data is {data.dtype}, but {self._name()} holds {self.dtype}: convert it with `.astype`.")
        return data.astype(self.dtype, copy=False)


def from_numpy(
    data: np.ndarray,
    grid_or_voxel_size: Grid | Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    axis_names: Sequence[str] | None = None,
) -> Array:
    """A numpy array as an `Array`, not copied; writing it changes `data`.

    Parameters
    ----------
    data : (*channels, *spatial) ndarray
    grid_or_voxel_size : Grid or sequence of float, optional
        Its length is the number of spatial axes. By default voxels of 1 "voxel", all axes spatial
        up to three (fewer if `axis_names` says so).
    offset : sequence of float, optional
        Lower corner of voxel 0, with a voxel size; zeros by default.
    axis_names : sequence of str, optional
        One per axis, channel axes ending in ``^``.
    """
    data = np.asarray(data)
    spatial = tuple(name for name in axis_names or () if not name.endswith("^"))
    if isinstance(grid_or_voxel_size, Grid):
        grid = grid_or_voxel_size
    elif grid_or_voxel_size is not None:
        grid = Grid(tuple(grid_or_voxel_size), tuple(offset or ()), axes=spatial)
    else:
        dims = len(spatial) or min(data.ndim, 3)
        grid = Grid((1.0,) * dims, tuple(offset or ()), "voxel", spatial)
    return Array(_InMemory(data), grid, axis_names)


def dequantised(array: Array) -> Array:
    """Predictions in their real range: uint8 becomes float32 by the attribute `value_range`.

    Value 0 is ``value_range[0]`` and 255 is ``value_range[1]``. Arrays of another type, or without
    the attribute, are returned as they are.
    """
    if array.dtype != np.uint8 or "value_range" not in array.attributes:
        return array
    value_range = array.attributes["value_range"]
    return array.map(lambda values: real_values(values, value_range), np.float32)


def real_values(stored: NDArray[np.uint8], value_range: Sequence[float]) -> NDArray[np.float32]:
    """What stored predictions stand for: 0 is the low end of the range, 255 the high one."""
    low, high = (float(bound) for bound in value_range)
    return np.linspace(low, high, 256, dtype=np.float64).astype(np.float32)[stored]


def default_axis_names(ndim: int, grid: Grid) -> tuple[str, ...]:
    """The grid's axes, with "c^" before them for one axis more, "c0^", "c1^", ... for several."""
    extra = ndim - grid.dims
    if extra < 0:
        raise ArrayError(f"An array of {ndim} axes has no room for the {grid.dims} spatial axes {grid.axes}.")
    return (("c^",) if extra == 1 else tuple(f"c{i}^" for i in range(extra))) + grid.axes


class _InMemory:
    path = None
    chunk_shape = None

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self.shape = data.shape
        self.dtype = data.dtype
        self.is_writeable = data.flags.writeable

    def read(self, slices: Slices) -> np.ndarray:
        return self._data[slices].copy()

    def write(self, slices: Slices, data: np.ndarray) -> None:
        self._data[slices] = data


def _reflect(begin: int, end: int, size: int) -> np.ndarray:
    """For each index of [begin, end) the index in [0, size) that it mirrors to."""
    if size == 1:
        return np.zeros(end - begin, dtype=np.intp)
    folded = np.arange(begin, end) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def _slices_of(key: Any, shape: tuple[int, ...]) -> tuple[Slices, tuple[Any, ...]]:
    """The step-1 slices that hold what numpy's basic index `key` asks for, and the index within them."""
    key = key if isinstance(key, tuple) else (key,)
    if sum(part is Ellipsis for part in key) > 1 or len([part for part in key if part is not Ellipsis]) > len(shape):
        raise ArrayError(f"Index {key} has too many parts for shape {shape}.")
    gap = next((i for i, part in enumerate(key) if part is Ellipsis), len(key))
    after = key[gap + 1 :]
    key = key[:gap] + (slice(None),) * (len(shape) - gap - len(after)) + after
    slices: list[slice] = []
    remaining: list[Any] = []
    for part, size in zip(key, shape, strict=True):
        if isinstance(part, slice):
            wanted = range(*part.indices(size))
            low, high = (min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1) if wanted else (0, 0)
            slices.append(slice(low, high))
            remaining.append(slice(None, None, wanted.step))
        elif isinstance(part, (int, np.integer)) and -size <= part < size:
            slices.append(slice(int(part) % size, int(part) % size + 1))
            remaining.append(0)
        else:
            raise ArrayError(f"Index {part!r} does not fit an axis of {size} voxels: expected an integer or a slice.")
    return tuple(slices), tuple(remaining)


def _span(begin: Sequence[int], end: Sequence[int]) -> str:
    return f"[{', '.join(f'{lo}:{hi}' for lo, hi in zip(begin, end, strict=True))}]"
