"""Writing files so that a kill at any moment leaves the old state or the new one, never a half.

Imports `errors` only.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dacapo.errors import StoreError


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}. Nothing was changed.") from error


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write` on a temporary file beside `path`, then put it in place in one step."""
    with _as_store_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except RuntimeError as error:  # torch's archive writer reports a full disk so
            raise OSError(0, str(error).splitlines()[0]) from error
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))


def create_text(path: Path, text: str) -> bool:
    """Write a file that is not there yet, in one step; False, and nothing written, if it is there."""
    with _as_store_error(path):
        if path.exists():
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
        write_text(temporary, text)
        try:
            os.link(temporary, path)  # unlike a rename, never replaces what another process wrote meanwhile
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return True


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines in one write, flushed to disk; a torn last line is what `read_lines` forgives."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if not text:
        return
    with _as_store_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":  # the line that a kill tore: start a new one
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def mark_of(path: Path) -> list[int]:
    """What tells a file from what it was before, its time last; empty if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; none if it is not there. A line that a kill tore is left out."""
    if not path.exists():
        return []
    records = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records
