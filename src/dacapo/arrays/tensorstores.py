"""Voxels of zarr v2, v3 and N5 arrays through tensorstore, opened at the first read or write.

Imports errors and numpy; tensorstore inside functions. Tensorstore does not survive `fork`: an
`Array` may be opened before a fork (only JSON is read then) as long as its first voxel is read after.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np

from dacapo.arrays.array import Slices
from dacapo.errors import StoreError


class TensorStoreSource:
    """One zarr or N5 array on a file system.

    Parameters
    ----------
    path : str
        Folder of the array.
    driver : "zarr", "zarr3" or "n5"
    shape, dtype, chunk_shape
        As the array's metadata say; `chunk_shape` is the shard if there are shards. Of N5, whose metadata
        list the fastest axis first, the slowest first.
    is_writeable : bool
    """

    def __init__(
        self,
        path: str,
        driver: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...],
        is_writeable: bool,
    ) -> None:
        self.path: str | None = path
        self.driver = driver
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape: tuple[int, ...] | None = chunk_shape
        self.is_writeable = is_writeable
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def read(self, slices: Slices) -> np.ndarray:
        try:
            voxels: np.ndarray = self._open()[slices].read().result()
        except (ValueError, OSError) as error:
            raise StoreError(f"Cannot read {self.path}: {_reason(error)}") from error
        return voxels

    def write(self, slices: Slices, data: np.ndarray) -> None:
        try:
            self._open()[slices].write(data).result()
        except (ValueError, OSError) as error:
            raise StoreError(f"Cannot write {self.path}: {_reason(error)}") from error

    def _open(self) -> Any:
        if self._handle is None:
            import tensorstore

            handle = tensorstore.open(
                {"driver": self.driver, "kvstore": {"driver": "file", "path": self.path}},
                read=True,
                write=self.is_writeable,
                context=_context(),
            ).result()
            self._handle = handle.T if self.driver == "n5" else handle
        return self._handle


@lru_cache(maxsize=1)
def _context() -> Any:
    """Shared by all arrays of this process: no cache, and no more threads than there are cores."""
    import tensorstore

    cores = os.cpu_count() or 1
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": min(cores, 8)},
            "file_io_concurrency": {"limit": 16},
        }
    )


def _reason(error: Exception) -> str:
    """Tensorstore's message without its spec and source lines, with what to do where that is known."""
    text = str(error).split(" [")[0].strip().rstrip(".")
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text or "quota" in text.lower():
        return f"the disk is full ({text}). Free some space, then run the same command again."
    if "PERMISSION_DENIED" in text or "Read-only file system" in text:
        return f"permission denied ({text})."
    return f"{text}."
