"""Volumes of a DVID server, through its HTTP API. Read-only.

Imports array, layout, errors and numpy; urllib when a volume is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dacapo.arrays.array import Array, Slices
from dacapo.arrays.layout import arranged
from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError

_REQUEST_BYTES = 2**27  # servers refuse requests that are too large
_LABEL_TYPES = ("labelmap", "labelarray", "labelblk")


def open_dvid(server: str, uuid: str, instance: str, *, timeout: float = 60.0) -> Array:
    """The data `instance` of version `uuid` on a DVID server: its extent (``MinPoint`` to ``MaxPoint``) in z, y, x.

    Parameters
    ----------
    server : str
        Address, such as ``http://emdata.example.org:8000``; http without a scheme.
    uuid : str
        Of the version; as many of its first characters as make it unique.
    instance : str
        Of type uint8blk, uint16blk, ... (intensities), or labelmap, labelarray, labelblk (uint64).
    timeout : float
        Seconds that the server may be silent.

    Raises
    ------
    ArrayNotFoundError
        If the server has no such version or instance.
    ArrayError
        If the instance is of a type without voxels, or empty.
    StoreError
        If the server does not answer.
    """
    address = server.rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise ArrayError(f"DVID server is {server!r}, expected an http or https address.")
    node = f"{address}/api/node/{uuid}/{instance}"
    try:
        info = json.loads(_get(f"{node}/info", timeout))
        kind = str(info["Base"]["TypeName"])
        extended = info["Extended"]
    except (ValueError, KeyError, TypeError):
        raise ArrayError(f"{node}/info is no description of DVID data.") from None
    dtype = _dtype(kind, extended, node)
    low, high = extended.get("MinPoint"), extended.get("MaxPoint")
    if not low or not high:
        raise ArrayError(f"{node} has no extent: nothing was written to it yet.")
    start = tuple(int(v) for v in reversed(low))
    shape = tuple(int(h) - lo + 1 for h, lo in zip(reversed(high), start, strict=True))
    size = [float(v) for v in reversed(extended.get("VoxelSize") or [1.0] * 3)]
    units = [str(unit) for unit in reversed(extended.get("VoxelUnits") or ["voxel"] * 3)]
    source = _DvidSource(node, shape, dtype, start, timeout)
    offset = [lo * s for lo, s in zip(start, size, strict=True)]
    return arranged(source, ("z", "y", "x"), size, offset=offset, units=units)


class _DvidSource:
    is_writeable = False
    chunk_shape = None
    path = None

    def __init__(
        self, node: str, shape: tuple[int, ...], dtype: np.dtype[Any], start: tuple[int, ...], timeout: float
    ) -> None:
        self.shape = shape
        self.dtype = dtype.newbyteorder("=")
        self._node = node
        self._start = start
        self._timeout = timeout

    def read(self, slices: Slices) -> np.ndarray:
        size = tuple(part.stop - part.start for part in slices)
        out = np.empty(size, self.dtype)
        if not out.size:
            return out
        step = max(1, _REQUEST_BYTES // (size[1] * size[2] * self.dtype.itemsize))
        for z in range(0, size[0], step):
            depth = min(step, size[0] - z)
            begin = (slices[0].start + z, slices[1].start, slices[2].start)
            out[z : z + depth] = self._part(begin, (depth, *size[1:]))
        return out

    def write(self, slices: Slices, data: np.ndarray) -> None:
        raise ArrayError(f"{self._node} can only be read.")

    def _part(self, begin: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
        place = "_".join(str(lo + b) for lo, b in reversed(list(zip(self._start, begin, strict=True))))
        extent = "_".join(str(length) for length in reversed(size))
        url = f"{self._node}/raw/0_1_2/{extent}/{place}"
        content = _get(url, self._timeout)
        expected = int(np.prod(size)) * self.dtype.itemsize
        if len(content) != expected:
            raise StoreError(f"Cannot read {url}: the server sent {len(content)} bytes, expected {expected}.")
        return np.frombuffer(content, self.dtype.newbyteorder("<")).reshape(size)


def _dtype(kind: str, extended: Mapping[str, Any], node: str) -> np.dtype[Any]:
    if kind in _LABEL_TYPES:
        return np.dtype(np.uint64)
    values = extended.get("Values") or [{}]
    name = str(values[0].get("DataType") or kind.removesuffix("blk"))
    if len(values) != 1 or name not in ("uint8", "uint16", "uint32", "uint64", "float32"):
        known = ", ".join(("uint8blk", *_LABEL_TYPES))
        raise ArrayError(f"{node} is DVID data of type {kind}, expected voxels of one channel: {known}, ...")
    return np.dtype(name)


def _get(url: str, timeout: float) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            content: bytes = answer.read()
        return content
    except urllib.error.HTTPError as error:
        with error:
            lines = error.read(2000).decode(errors="replace").strip().splitlines()
        reason = f"{error.code} {lines[0] if lines else error.reason}"
        if error.code in (400, 404):
            raise ArrayNotFoundError(f"{url}: the server has no such version or data ({reason}).") from None
        raise StoreError(f"Cannot read {url}: the server answered {reason}.") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise StoreError(f"Cannot reach {url}: {reason}. Check the address and that the server runs.") from None
