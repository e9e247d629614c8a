"""Voxels of zarr v2, v3 and N5 arrays through tensorstore, opened at the first read or write.

Imports errors and numpy; options and tensorstore inside functions. Tensorstore does not survive `fork`: an
`Array` may be opened before a fork (only JSON is read then) as long as its first voxel is read after.

Decoded chunks are kept for arrays that were opened as unchanging, and for no others. They are looked up without
a look at the disk. What an `Array` of this process writes is seen nevertheless: see `changed`.
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
    unchanging : bool
        Keep decoded chunks: the caller vouches that no other process writes while this is open.
    """

    def __init__(
        self,
        path: str,
        driver: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...],
        is_writeable: bool,
        unchanging: bool = False,
    ) -> None:
        self.path: str | None = path
        self.driver = driver
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape: tuple[int, ...] | None = chunk_shape
        self.is_writeable = is_writeable
        self.unchanging = unchanging and not is_writeable
        self._place = os.path.realpath(path)
        self._handle: Any = None
        self._changes = 0

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
        finally:
            changed(self._place)

    def _open(self) -> Any:
        changes = _changes.get(self._place, 0) if self.unchanging else 0
        if self._handle is None or changes != self._changes:
            import tensorstore

            handle = tensorstore.open(
                {"driver": self.driver, "kvstore": {"driver": "file", "path": self.path}},
                read=True,
                write=self.is_writeable,
                context=_context(self.unchanging),
                # "open": a chunk that was kept since before the array was opened is compared with its file once.
                recheck_cached_data="open" if self.unchanging else True,
            ).result()
            self._handle, self._changes = (handle.T if self.driver == "n5" else handle), changes
        return self._handle


_changes: dict[str, int] = {}
"""How often this process wrote each array."""


def changed(place: str) -> None:
    """Note that this process wrote the array whose real path is `place`: its readers open it again, then read on."""
    _changes[place] = _changes.get(place, 0) + 1


@lru_cache(maxsize=2)
def _context(keeps: bool) -> Any:
    """Shared by all arrays of this process that keep chunks, or do not; no more threads than there are cores."""
    import tensorstore

    from dacapo.options import Options

    cores = os.cpu_count() or 1
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": Options.instance().chunk_cache_bytes if keeps else 0},
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
