"""Groups and arrays of zarr v2 and v3 as the JSON files say, without opening a voxel. Imports errors and numpy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dacapo.arrays.paths import found_below, write_failure
from dacapo.errors import ArrayError, StoreError


@dataclass(frozen=True)
class Node:
    """A zarr group or array: its folder, format (2 or 3), attributes and, of an array, metadata."""

    path: Path
    version: int
    attributes: dict[str, Any]
    metadata: dict[str, Any] | None

    @property
    def is_array(self) -> bool:
        return self.metadata is not None

    @property
    def multiscales(self) -> list[dict[str, Any]]:
        """The OME-Zarr images in this group; none if it is no such group."""
        found = self.attributes.get("ome", {}).get("multiscales") or self.attributes.get("multiscales") or []
        return [image for image in found if isinstance(image, dict) and image.get("datasets")]

    @property
    def kept(self) -> dict[str, Any]:
        """What dacapo keeps with the voxels."""
        found = self.attributes.get("dacapo", {})
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Storage:
    """How an array lies on disk; chunks are what is read as a whole, `write_chunk` what is written as a whole."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    write_chunk: tuple[int, ...]
    names: tuple[str | None, ...] | None


def read_node(path: Path) -> Node | None:
    """The node in folder `path`; None if there is no zarr metadata in it."""
    v3 = _read_json(path / "zarr.json")
    if v3 is not None:
        return Node(path, 3, v3.get("attributes") or {}, v3 if v3.get("node_type") == "array" else None)
    array = _read_json(path / ".zarray")
    attributes = _read_json(path / ".zattrs")
    if array is None and attributes is None and not (path / ".zgroup").is_file():
        return None
    return Node(path, 2, attributes or {}, array)


def storage_of(node: Node) -> Storage:
    """Shape, type and chunks of an array node."""
    meta = node.metadata or {}
    try:
        if node.version == 2:
            dtype = np.dtype(meta["dtype"]).newbyteorder("=")
            chunk = tuple(meta["chunks"])
            return Storage(tuple(meta["shape"]), dtype, chunk, chunk, None)
        write_chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        shards = [codec for codec in meta["codecs"] if codec["name"] == "sharding_indexed"]
        chunk = tuple(shards[0]["configuration"]["chunk_shape"]) if shards else write_chunk
        names = meta.get("dimension_names")
        return Storage(
            tuple(meta["shape"]),
            np.dtype(meta["data_type"]),
            chunk,
            write_chunk,
            None if names is None else tuple(names),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArrayError(f"{node.path} is of a kind of zarr v{node.version} that cannot be read: {error!r}.") from None


def arrays_below(path: Path, limit: int = 200) -> list[str]:
    """Paths below `path` that can be opened: arrays, and multiscale groups without their levels."""

    def opens(folder: Path) -> bool:
        node = read_node(folder)
        return node is not None and (node.is_array or bool(node.multiscales))

    return found_below(path, opens, limit)


def ancestors(path: Path) -> Iterator[Node]:
    """The zarr groups around `path`, from the nearest outwards, until a folder is none."""
    for parent in path.parents:
        node = read_node(parent)
        if node is None:
            return
        yield node


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a metadata file as a whole: a reader sees the old one or the new one."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArrayError(f"Attributes of {path.parent} cannot be written as JSON: {error}.") from None
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_failure(path, error) from error


def group_files(version: int, attributes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name and content of the metadata files of a group."""
    if version == 3:
        return {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": attributes}}
    return {".zattrs": attributes, ".zgroup": {"zarr_format": 2}}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ArrayError(f"{path} is damaged or half written: {error}.") from None
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise ArrayError(f"{path} is damaged: expected a JSON object.")
    return content
