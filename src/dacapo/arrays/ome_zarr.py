"""OME-Zarr 0.4 and 0.5, and plain zarr arrays: `open_zarr`, `create_array`.

Imports the rest of arrays (not formats), geometry, errors and numpy. Metadata are JSON, read and
written here, so that a float comes back as it went in; voxels go through tensorstore.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dacapo.arrays.array import Array, default_axis_names
from dacapo.arrays.layout import arranged, arrangement, from_attributes
from dacapo.arrays.ome_metadata import multiscales, placement
from dacapo.arrays.paths import missing, some, split_path, write_failure
from dacapo.arrays.tensorstores import TensorStoreSource, changed
from dacapo.arrays.zarr_nodes import (
    Node,
    Storage,
    ancestors,
    arrays_below,
    group_files,
    read_node,
    storage_of,
    write_json,
)
from dacapo.errors import ArrayError, ArrayExistsError, ArrayNotFoundError, StoreError
from dacapo.geometry import RATIO_TOLERANCE, Grid

LEVEL = "s0"
_CHUNK_EDGE = {1: 2**18, 2: 2**9, 3: 2**6}  # per number of spatial axes, for about 64^3 voxels


def open_zarr(
    path: Path, *, voxel_size: Sequence[float] | None = None, mode: str = "r", unchanging: bool = False
) -> Array:
    """Open the zarr array, level or multiscale group in folder `path`; see `open_array`."""
    if not path.exists():
        raise missing_in_zarr(path)
    node = read_node(path)
    if node is not None and node.is_array:
        return _open_node(node, mode, unchanging)
    if node is not None and node.multiscales:
        image = node.multiscales[0]
        level = fitting_level(level_grids(image, str(path)), voxel_size, str(path))
        array = read_node(path / level)
        if array is None or not array.is_array:
            raise ArrayNotFoundError(f"{path} names its level {level!r}, but there is no zarr array in {path / level}.")
        return _open_node(array, mode, unchanging)
    inside = arrays_below(path)
    if node is None and not inside:
        raise ArrayNotFoundError(f"{path} is no zarr array or group: it contains {_listing(path)}.")
    kind = "folder" if node is None else "group"
    raise ArrayNotFoundError(f"{path} is a {kind}, expected an array. Arrays in it: {some(inside, 20)}.")


def missing_in_zarr(path: Path) -> ArrayNotFoundError:
    """The error for a path that does not exist, with the arrays of the group that it should be in."""
    parent = next(p for p in path.absolute().parents if p.exists())
    inside = arrays_below(parent) if parent.is_dir() and read_node(parent) is not None else []
    if not inside:
        return missing(path)
    return ArrayNotFoundError(f"{path} does not exist. {parent} contains the arrays {some(inside, 20)}.")


def create_array(
    path: str | Path,
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    grid: Grid,
    axis_names: Sequence[str] | None = None,
    chunk: Sequence[int] | None = None,
    shard: Sequence[int] | None = None,
    overwrite: bool = False,
    ome: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Array:
    """Make an OME-Zarr multiscale group with one level, `s0`, filled with zeros, and open it for writing.

    The group appears at `path` complete or not at all. If the same array is there already (shape,
    type, grid, axes, chunks and attributes), it is opened with its voxels, so that work goes on
    where it stopped.

    Parameters
    ----------
    path : str or Path
        In a ``.zarr`` folder, which is made if needed, with all groups in between.
    shape : sequence of int
        All axes, channels first.
    dtype : dtype
        bool, integer or float.
    grid : Grid
        Of the spatial axes. Written as scale and centre of voxel 0.
    axis_names : sequence of str, optional
        One per axis, channel axes ending in ``^``; by default ``c^`` before the grid's axes.
    chunk : sequence of int, optional
        Voxels that are read as a whole, per spatial axis or per axis. By default about 64^3 voxels
        of one channel.
    shard : sequence of int, optional
        Voxels that are written as a whole, a multiple of `chunk`; by default there are no shards.
        Given for the spatial axes only, a shard holds all channels.
    overwrite : bool
        Replace what is at `path`, unless other arrays are in it.
    ome : "0.5" or "0.4", optional
        zarr v3 or v2; by default what the container is, and 0.5 in a new one.
    attributes : mapping, optional
        JSON values kept with the voxels (`Array.attributes`).

    Returns
    -------
    array : Array
        Writeable.

    Raises
    ------
    ArrayError
        If the numbers do not fit each other, or `ome` does not fit the container.
    ArrayExistsError
        If something else is at `path` and `overwrite` is False.
    StoreError
        If the disk is full or may not be written.
    """
    container, inner = split_path(path)
    if container.suffix.lower() != ".zarr":
        raise ArrayError(f"{path} is not in a .zarr folder; expected a path such as volume.zarr/{container.stem}.")
    target = (container / inner).absolute()
    version = _format_version(container, ome)
    grid = grid.in_nanometres()
    names = tuple(axis_names) if axis_names is not None else default_axis_names(len(shape), grid)
    storage = _storage(target, shape, dtype, grid, names, chunk, shard)
    if version == 2 and storage.chunk != storage.write_chunk:
        raise ArrayError(f"{target}: shards need OME-Zarr 0.5; leave `shard` out or write ome='0.5'.")
    kept = dict(attributes) if attributes is not None else None

    if _is_taken(target):
        if not overwrite:
            return _resumed(target, storage, grid, names, kept)
        _require_nothing_else(target)

    files = _image_files(target.name, version, storage, grid, names, kept or {})
    _make_groups(container.absolute(), target, version)
    try:
        _put_in_place(target, files, overwrite)
    except StoreError:
        if overwrite or not _is_taken(target):
            raise
        return _resumed(target, storage, grid, names, kept)  # another process was faster
    return open_zarr(target, mode="r+")


def _open_node(node: Node, mode: str, unchanging: bool = False) -> Array:
    storage = storage_of(node)
    driver = "zarr3" if node.version == 3 else "zarr"
    source = TensorStoreSource(
        str(node.path), driver, storage.shape, storage.dtype, storage.write_chunk, mode == "r+", unchanging
    )
    for group in ancestors(node.path):
        level = node.path.relative_to(group.path).as_posix()
        for image in group.multiscales:
            for i, dataset in enumerate(image["datasets"]):
                if str(dataset.get("path", "")).strip("/") == level:
                    names, scale, translation, units = placement(image, i, len(storage.shape), str(node.path))
                    kept = {**group.kept, **node.kept}
                    return arranged(source, names, scale, translation=translation, units=units, attributes=kept)
    return from_attributes(source, node.attributes, str(node.path), storage.names)


def zarr_levels(path: Path) -> list[tuple[str, Grid]]:
    """Path and grid of each level of the OME-Zarr image in folder `path`; none if it is no such group."""
    node = read_node(path)
    return level_grids(node.multiscales[0], str(path)) if node is not None and node.multiscales else []


def level_grids(image: Mapping[str, Any], where: str) -> list[tuple[str, Grid]]:
    """Path and grid of each level of one entry of ``multiscales``, in its order."""
    found = []
    for i, dataset in enumerate(image["datasets"]):
        names, scale, translation, units = placement(image, i, None, where)
        grid = arrangement(names, scale, translation=translation, units=units)[1]
        found.append((str(dataset["path"]).strip("/"), grid))
    return found


def fitting_level(levels: Sequence[tuple[str, Grid]], voxel_size: Sequence[float] | None, where: str) -> str:
    """Path of the level that has `voxel_size` (to 0.1 %), of the finest if None; ArrayError lists the sizes."""
    if voxel_size is None:
        return min(levels, key=lambda level: math.prod(level[1].voxel_size))[0]
    for path, grid in levels:
        if has_voxel_size(grid, voxel_size):
            return path
    sizes = "; ".join(f"{path}: {shown_size(grid)}" for path, grid in levels)
    raise ArrayError(f"{where} has no level with voxel_size {tuple(voxel_size)} nm. Its levels are {sizes}.")


def has_voxel_size(grid: Grid, voxel_size: Sequence[float]) -> bool:
    """Whether the voxels are of that size, to 0.1 %."""
    return len(grid.voxel_size) == len(voxel_size) and all(
        abs(a - b) <= RATIO_TOLERANCE * a for a, b in zip(grid.voxel_size, voxel_size, strict=True)
    )


def shown_size(grid: Grid) -> str:
    """As a message shows a voxel size."""
    return f"({', '.join(f'{size:g}' for size in grid.voxel_size)}) {grid.unit}"


def _listing(path: Path) -> str:
    return some(sorted(entry.name for entry in path.iterdir())) if path.is_dir() else "no folder"


def _format_version(container: Path, ome: str | None) -> int:
    """2 or 3: what is asked for, or what the container is."""
    if ome not in (None, "0.4", "0.5"):
        raise ArrayError(f"ome is {ome!r}, expected '0.4' (zarr v2) or '0.5' (zarr v3).")
    node = read_node(container) if container.is_dir() else None
    asked = {"0.4": 2, "0.5": 3}.get(ome or "")
    if node is not None and asked not in (None, node.version) and not node.is_array and not node.multiscales:
        other = "0.4" if node.version == 2 else "0.5"
        raise ArrayError(f"{container} is zarr v{node.version}, which cannot hold OME-Zarr {ome}. Use ome='{other}'.")
    return asked or (node.version if node is not None else 3)


def _storage(
    target: Path,
    shape: Sequence[int],
    dtype: DTypeLike,
    grid: Grid,
    names: tuple[str, ...],
    chunk: Sequence[int] | None,
    shard: Sequence[int] | None,
) -> Storage:
    """Check what was asked for, and fill in the chunks."""
    shape, kind = tuple(int(size) for size in shape), np.dtype(dtype).newbyteorder("=")
    channels = len(shape) - grid.dims
    if len(names) != len(shape) or names[max(channels, 0) :] != grid.axes or min(shape) < 1:
        raise ArrayError(
            f"{target}: shape {shape}, axis_names {names} and spatial axes {grid.axes} do not fit: expected a positive "
            f"size and a name per axis, channel axes (such as 'c^') first."
        )
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise ArrayError(f"{target}: dtype is {kind}, expected bool, an integer or a float.")
    edge = _CHUNK_EDGE.get(grid.dims, 2**4)
    spatial = tuple(min(edge, size) for size in shape[channels:])
    chunk = _all_axes(chunk, len(shape), (1,) * channels, target, "chunk") or (1,) * channels + spatial
    shard = _all_axes(shard, len(shape), shape[:channels], target, "shard")
    if shard is None:
        return Storage(shape, kind, chunk, chunk, names)
    if any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise ArrayError(f"{target}: shard {shard} must be a multiple of chunk {chunk} on every axis.")
    return Storage(shape, kind, chunk, shard, names)


def _all_axes(
    sizes: Sequence[int] | None, ndim: int, channels: tuple[int, ...], target: Path, what: str
) -> tuple[int, ...] | None:
    """`sizes` with `channels` before them if they are of the spatial axes only."""
    if sizes is None:
        return None
    full = tuple(int(size) for size in sizes)
    if len(full) == ndim - len(channels):
        full = channels + full
    if len(full) != ndim or min(full) < 1:
        raise ArrayError(f"{target}: {what} is {tuple(sizes)}, expected a positive size per spatial axis, or per axis.")
    return full


def _is_taken(target: Path) -> bool:
    try:
        return os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise write_failure(target, error) from error


def _resumed(
    target: Path, storage: Storage, grid: Grid, names: tuple[str, ...], attributes: Mapping[str, Any] | None
) -> Array:
    difference = _difference(target, storage, grid, names, attributes)
    if difference is not None:
        raise ArrayExistsError(f"{target} exists and {difference}. Choose another path, or overwrite it.")
    return open_zarr(target, mode="r+")


def _difference(
    target: Path, storage: Storage, grid: Grid, names: tuple[str, ...], attributes: Mapping[str, Any] | None
) -> str | None:
    """In what the array at `target` is not the one described, as a phrase; None if it is that array."""
    try:
        found = open_zarr(target)
        node = read_node(target / LEVEL)
    except (ArrayError, OSError):
        return "is no complete array"
    if node is None or not node.is_array:
        return f"has no level {LEVEL}"
    there = storage_of(node)
    wanted: list[tuple[str, Any, Any]] = [
        ("shape", there.shape, storage.shape),
        ("dtype", there.dtype, storage.dtype),
        ("chunk", there.chunk, storage.chunk),
        ("chunk that is written as a whole", there.write_chunk, storage.write_chunk),
        ("axis_names", found.axis_names, names),
    ]
    if attributes is not None:
        wanted.append(("attributes", found.attributes, json.loads(json.dumps(attributes))))
    for what, has, asked in wanted:
        if has != asked:
            return f"has {what} {has}, not {asked}"
    if not found.grid.is_close(grid):
        return f"has {found.grid}, not {grid}"
    return None


def _require_nothing_else(target: Path) -> None:
    """Refuse to overwrite what holds more than one image."""
    if not target.is_dir():
        raise ArrayExistsError(f"{target} is a file, not an array. Remove it, or choose another path.")
    node = read_node(target)
    images = node.multiscales if node is not None else []
    levels = {str(dataset.get("path")).strip("/") for image in images for dataset in image["datasets"]}
    others = [] if node is not None and node.is_array else [p for p in arrays_below(target) if p not in levels]
    if others:
        raise ArrayExistsError(f"{target} holds other arrays ({some(others)}), so it is not overwritten.")
    if node is None and any(target.iterdir()):
        raise ArrayExistsError(f"{target} holds other things ({_listing(target)}), so it is not overwritten.")


def _image_files(
    name: str, version: int, storage: Storage, grid: Grid, names: tuple[str, ...], attributes: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Relative path and content of each metadata file of an image with one level."""
    image = multiscales(name, "0.4" if version == 2 else "0.5", [(LEVEL, grid)], names)
    kept = {"dacapo": attributes} if attributes else {}
    if version == 3:
        group = group_files(3, {"ome": {"version": "0.5", "multiscales": [image]}, **kept})
        return {**group, f"{LEVEL}/zarr.json": _array_v3(storage)}
    group = group_files(2, {"multiscales": [image], **kept})
    return {**group, f"{LEVEL}/.zarray": _array_v2(storage)}


def _level(dtype: np.dtype[Any]) -> int:
    """Of zstd, measured: of images and predictions (bytes, floats) 1 makes the same size as 3 in half to a third of the
    time; labels are 1/7 of the size with 3, in less time.
    """
    return 1 if dtype.kind == "f" or (dtype.kind in "ui" and dtype.itemsize == 1) else 3


def _array_v3(storage: Storage) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": _level(storage.dtype), "checksum": False}},
    ]
    if storage.chunk != storage.write_chunk:
        index = [codecs[0], {"name": "crc32c"}]
        inner = {"chunk_shape": storage.chunk, "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": storage.shape,
        "data_type": storage.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": storage.write_chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": storage.dtype.type(0).item(),
        "codecs": codecs,
        "dimension_names": [name.rstrip("^") for name in storage.names or () if name],
        "attributes": {},
    }


def _array_v2(storage: Storage) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": storage.shape,
        "chunks": storage.chunk,
        "dtype": storage.dtype.newbyteorder("<").str,
        "compressor": {"id": "blosc", "cname": "zstd", "clevel": _level(storage.dtype), "shuffle": 1, "blocksize": 0},
        "fill_value": storage.dtype.type(0).item(),
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _make_groups(container: Path, target: Path, version: int) -> None:
    """Make the groups from the container down to the target's parent, where there are none."""
    groups = [parent for parent in reversed(target.parents) if parent == container or container in parent.parents]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(target.parent, error) from error
    for group in groups:
        node = read_node(group)
        if node is not None and (node.is_array or node.multiscales):
            raise ArrayError(f"{target} would lie inside the array {group}. Choose another path.")
        if node is None:
            for name, content in group_files(version, {}).items():
                write_json(group / name, content)


def _put_in_place(target: Path, files: Mapping[str, Mapping[str, Any]], overwrite: bool) -> None:
    """Write the files to a hidden folder next to `target` and rename it, so that no half array is ever seen."""
    token = os.urandom(4).hex()
    new, old = (target.with_name(f".{target.name}.{token}.{kind}") for kind in ("new", "old"))
    try:
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(new / name, dict(content))
        if overwrite and target.exists():
            os.replace(target, old)
        os.replace(new, target)  # refused by the system if `target` has come to be a folder with files
        changed(os.path.realpath(target / LEVEL))
    except OSError as error:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise write_failure(target, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
