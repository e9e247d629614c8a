"""One way to open a volume of any format, and HDF5 and TIFF. Imports the rest of arrays, errors and numpy.

The libraries of a format are imported when a file of it is opened.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dacapo.arrays.array import Array, Slices
from dacapo.arrays.layout import from_attributes
from dacapo.arrays.n5 import is_n5, n5_attributes, n5_levels, open_n5
from dacapo.arrays.ome_zarr import (
    create_array,
    has_voxel_size,
    missing_in_zarr,
    open_zarr,
    shown_size,
    zarr_levels,
)
from dacapo.arrays.paths import HDF5_SUFFIXES, TIFF_SUFFIXES, missing, some, split_path
from dacapo.arrays.tiff import open_tiff
from dacapo.arrays.zarr_nodes import read_node
from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError
from dacapo.geometry import Grid, Roi

_BLOCK_BYTES = 2**26


def open_array(
    path: str | Path,
    *,
    voxel_size: Sequence[float] | None = None,
    mode: str = "r",
    dataset: str | None = None,
    unchanging: bool = False,
) -> Array:
    """Open a volume; no voxel is read yet.

    Parameters
    ----------
    path : str or Path
        ``volume.zarr/raw`` or ``volume.zarr:raw`` (zarr v2 or v3: an array, an OME-Zarr image, or
        a level of one), ``volume.n5/raw`` (likewise), ``file.h5:volumes/raw`` (HDF5), or ``image.tif``.
    voxel_size : sequence of float, optional
        Which level of a pyramid: the one of this voxel size in nanometres, to 0.1 %. The finest by default.
    mode : "r" or "r+"
        "r+" to write, into zarr and N5 only.
    dataset : str, optional
        Path inside the file, instead of the part after the colon.
    unchanging : bool
        Keep what was decoded of zarr and N5, so that a region that is read again comes from memory: several times
        faster. All arrays of a process together keep `chunk_cache_bytes` of the options at most. For volumes that no
        other program writes while they are open: it would not be seen. What an `Array` of this process writes is seen.

    Returns
    -------
    array : Array
        Channel axes first, spatial axes in the order z, y, x; known units in nanometres; where the
        file does not state a voxel size: 1 "voxel".

    Raises
    ------
    ArrayNotFoundError
        If nothing is there (names the nearest existing parent and what it contains), or a group
        (lists the arrays in it).
    ArrayError
        If the format is not known, the file damaged or not writeable, or nothing there has `voxel_size`.
    """
    if mode not in ("r", "r+", "a"):
        raise ArrayError(f"mode is {mode!r}, expected 'r' to read or 'r+' to write; `create_array` makes new arrays.")
    try:
        array = _open(*split_path(path, dataset), voxel_size, "r" if mode == "r" else "r+", unchanging)
    except PermissionError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
    if voxel_size is not None and not has_voxel_size(array.grid, voxel_size):
        raise ArrayError(
            f"{path} has voxels of {shown_size(array.grid)}, but voxel_size {tuple(voxel_size)} nm is asked for."
        )
    return array


def pyramid_levels(path: str | Path, dataset: str | None = None) -> list[tuple[str, Grid]]:
    """Path (below `path`) and grid of each level of the pyramid at `path`, finest first; none if it is no pyramid."""
    container, inner = split_path(path, dataset)
    folder = (container / inner).absolute()
    levels = n5_levels(folder) if is_n5(folder) else zarr_levels(folder)
    return sorted(levels, key=lambda level: math.prod(level[1].voxel_size))


def stored_attributes(array: Array) -> dict[str, Any]:
    """All attributes that a zarr or N5 file keeps at the array; none of other formats and views."""
    folder = Path(array.path or "")
    if array.path is None or not folder.is_dir():
        return {}
    if is_n5(folder):
        return n5_attributes(folder)
    node = read_node(folder)
    return dict(node.attributes) if node is not None else {}


def convert(source: Array, path: str | Path, **options: Any) -> Array:
    """Copy a volume to OME-Zarr, block by block.

    Parameters
    ----------
    source : Array
    path : str or Path
        Of the new array, in a ``.zarr`` folder.
    **options
        Of `create_array`: chunk, shard, overwrite, ome, attributes.

    Returns
    -------
    array : Array
        The copy, writeable.
    """
    options.setdefault("attributes", source.attributes or None)
    target = create_array(
        path, shape=source.shape, dtype=source.dtype, grid=source.grid, axis_names=source.axis_names, **options
    )
    for roi in _blocks(target):
        target.write(roi, source.read(roi))
    return target


def _open(container: Path, inner: str, voxel_size: Sequence[float] | None, mode: str, unchanging: bool) -> Array:
    suffix = container.suffix.lower()
    if suffix in HDF5_SUFFIXES + TIFF_SUFFIXES and not container.is_dir():
        if not container.exists():
            raise missing(container)
        if mode != "r":
            raise ArrayError(f"{container} can only be read. Convert it to OME-Zarr to write.")
        return open_hdf5(container, inner) if suffix in HDF5_SUFFIXES else open_tiff(container, inner)
    folder = (container / inner).absolute()
    if container.is_file():
        known = ", ".join((".zarr", ".n5", *HDF5_SUFFIXES, *TIFF_SUFFIXES))
        raise ArrayError(f"{container} is a file of an unknown format, expected one of {known}.")
    if is_n5(folder) or (suffix == ".n5" and not folder.exists()):
        return open_n5(folder, voxel_size=voxel_size, mode=mode, unchanging=unchanging)
    if not folder.exists():
        raise missing_in_zarr(folder)
    return open_zarr(folder, voxel_size=voxel_size, mode=mode, unchanging=unchanging)


def open_hdf5(path: Path, inner: str) -> Array:
    """The dataset `inner` of an HDF5 file; its place from resolution, offset (corner) and units. Read-only."""
    source = _Hdf5Source(path, inner)
    return from_attributes(source, source.attributes, str(source.path))


class _Hdf5Source:
    """An HDF5 dataset, opened again in each process."""

    is_writeable = False

    def __init__(self, path: Path, inner: str) -> None:
        self._file_path = str(path.absolute())
        self._inner = inner
        self.path: str | None = f"{self._file_path}:{inner}" if inner else self._file_path
        self._dataset: Any = None
        self._opened_by = 0
        dataset = self._open()
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = dataset.dtype.newbyteorder("=")
        self.chunk_shape: tuple[int, ...] | None = dataset.chunks
        self.attributes = {key: _plain(value) for key, value in dataset.attrs.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}

    def read(self, slices: Slices) -> np.ndarray:
        try:
            return np.asarray(self._open()[slices], dtype=self.dtype)
        except OSError as error:
            raise StoreError(f"Cannot read {self.path}: {error}.") from error

    def write(self, slices: Slices, data: np.ndarray) -> None:
        raise ArrayError(f"{self.path} can only be read. Convert it to OME-Zarr to write.")

    def _open(self) -> Any:
        if self._dataset is None or self._opened_by != os.getpid():
            import h5py

            try:
                # No lock: reading must work on read-only and network file systems.
                file = h5py.File(self._file_path, "r", locking=False)
            except OSError as error:
                raise ArrayError(f"{self._file_path} cannot be opened as HDF5: {error}.") from error
            self._dataset = _dataset(file, self._inner, self._file_path)
            self._opened_by = os.getpid()
        return self._dataset


def _dataset(file: Any, inner: str, path: str) -> Any:
    import h5py

    found = file.get(inner) if inner else file
    if isinstance(found, h5py.Dataset) and found.shape and found.dtype.kind in "biuf":
        return found
    inside: list[str] = []
    file.visititems(lambda name, item: inside.append(name) if isinstance(item, h5py.Dataset) and item.shape else None)
    if found is None:
        raise ArrayNotFoundError(f"{path} has no {inner!r}. Arrays in it: {some(inside, 20)}.")
    if isinstance(found, h5py.Dataset):
        raise ArrayError(f"{path}:{inner} is {found.dtype} of shape {found.shape}, expected an array of numbers.")
    below = [name for name in inside if not inner or name.startswith(f"{inner}/")]
    example = f" Write for example {path}:{below[0]}." if below else ""
    where = f"{path}:{inner} is a group" if inner else f"{path} is a file of several arrays"
    raise ArrayNotFoundError(f"{where}, expected the path of one. Arrays in it: {some(below, 20)}.{example}")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()] if value.ndim else _plain(value.item())
    return value.item() if isinstance(value, np.generic) else value


def _blocks(target: Array) -> list[Roi]:
    """Regions of whole chunks, of about 64 MiB, that cover `target`."""
    assert target.chunk_shape is not None
    block = list(target.chunk_shape[target.channel_dims :])
    size = target.spatial_shape
    per_voxel = target.dtype.itemsize * int(np.prod(target.shape[: target.channel_dims]))
    for axis in reversed(range(len(block))):
        while block[axis] < size[axis] and 2 * int(np.prod(block)) * per_voxel <= _BLOCK_BYTES:
            block[axis] *= 2
    starts = np.ndindex(*(-(-n // b) for n, b in zip(size, block, strict=True)))
    whole = target.roi
    return [Roi([i * b for i, b in zip(start, block, strict=True)], block).intersect(whole) for start in starts]
