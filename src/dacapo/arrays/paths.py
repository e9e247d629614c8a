"""What a path to an array means, and what to say when nothing is there. Imports errors only."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError

HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5")
TIFF_SUFFIXES = (".tif", ".tiff")
_CONTAINER = re.compile(r"\.(zarr|n5|h5|hdf5?|tiff?)(?=[:/\\]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class LocalArrayIdentifier:
    """Where an array is: a container and a path inside it."""

    container: Path
    dataset: str

    @property
    def path(self) -> str:
        return str(self.container / self.dataset)


def located(array: Any) -> str:
    """The path of an array that is given by path or by an identifier (`container` and `dataset`)."""
    return str(Path(array.container) / array.dataset) if hasattr(array, "container") else str(array)


def split_path(path: str | Path, dataset: str | None = None) -> tuple[Path, str]:
    """The file or outermost container, and the path inside it.

    ``vol.zarr/raw/s1``, ``vol.zarr:raw/s1`` and ``vol.zarr`` with ``dataset="raw/s1"`` all give
    ``(Path("vol.zarr"), "raw/s1")``; a path without a known suffix is all container.

    Raises
    ------
    ArrayError
        If the path is of a bucket or the web.
    """
    text = os.path.expanduser(os.fspath(path))
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        raise ArrayError(f"{text} is not on a file system; remote volumes cannot be opened yet. Copy it.")
    end = next((match.end() for match in _CONTAINER.finditer(text) if _is_container(text[: match.end()])), len(text))
    parts = (text[end:].lstrip(":"), dataset or "")
    inner = "/".join(part.strip("/\\").replace("\\", "/") for part in parts if part.strip("/\\"))
    if any(part in ("..", ".") for part in inner.split("/")):
        raise ArrayError(f"{text}: the path inside {text[:end]} may not contain '.' or '..'.")
    return Path(text[:end]), inner


def _is_container(path: str) -> bool:
    """Not a plain folder that is merely called so (``stacks.tif/a.tif``)."""
    return os.path.splitext(path)[1].lower() in (".zarr", ".n5") or not os.path.isdir(path)


def missing(path: Path) -> ArrayNotFoundError:
    """The error for a path that does not exist: its nearest existing parent and what is in it."""
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        names = sorted(entry.name for entry in os.scandir(parent)) if parent.is_dir() else []
    except OSError as error:
        return ArrayNotFoundError(f"{path} cannot be looked up: {error.strerror} ({parent}).")
    return ArrayNotFoundError(f"{path} does not exist. {parent} contains {some(names)}.")


def some(names: Iterable[str], limit: int = 10) -> str:
    """The first `limit` names as a phrase."""
    names = list(names)
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def write_failure(path: str | Path, error: OSError) -> StoreError:
    """The one-line error for a write that the operating system refused."""
    return StoreError(f"Cannot write {path}: {error.strerror or error}.{_advice(error.errno)}")


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return " Free some space, then run the same command again."
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return " Choose a path that you may write to."
    return ""


def found_below(path: Path, opens: Callable[[Path], bool], limit: int, *, hidden: bool = False) -> list[str]:
    """Folders below `path`, relative to it, that can be opened; not what lies in those. No more than `limit` are looked at,
    six levels down, and those whose name begins with a dot only if `hidden`."""
    budget = [limit]

    def walk(folder: Path, depth: int) -> Iterator[Path]:
        try:
            entries = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        except OSError:
            return
        for name in sorted(name for name in entries if hidden or not name.startswith(".")):
            budget[0] -= 1
            if budget[0] < 0:
                return
            child = folder / name
            try:
                found = opens(child)
            except (ArrayError, StoreError, OSError):
                continue
            if found:
                yield child
            elif depth:
                yield from walk(child, depth - 1)

    return [found.relative_to(path).as_posix() for found in walk(path, 6)]
