"""What a list of runs says of each beside its state: remembered in a file, so that not all configs and scores are
read each time. Imports files and errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from dacapo.errors import StoreError
from dacapo.store.files import write_text

if TYPE_CHECKING:
    from dacapo.store.stores import Stores

FILE = ".listing.json"
FORMAT = 1
"""Raised when the same config and scores come to be listed otherwise."""
SETTLED = 2.0
"""Seconds after which a second write of a file has another time: file systems count in steps."""


class Facts(NamedTuple):
    """What follows from a run's config and scores alone."""

    num_iterations: int
    best: str


class Listing:
    """Facts of runs, believed as long as the files that they were read from are the same, and `version`.

    A file is the same if its inode, size and both of its times are. Stores that are no files remember nothing, nor
    does a folder that may not be written: facts are made anew then.
    """

    def __init__(self, stores: Stores, version: str) -> None:
        self._stores = stores
        self._file = stores.base / FILE
        self._version = [FORMAT, version]
        self._before = self._read()
        self._now: dict[str, Any] = {}

    def facts(self, run: str, make: Callable[[], Facts]) -> Facts:
        """Of a run: remembered, or made. What `make` raises is raised, and not remembered."""
        marks = self._stores.marks(run)  # before the files are read: if they change meanwhile, that is seen next time
        known = self._before.get(run)
        if known is not None and marks is not None and known["marks"] == marks:
            self._now[run] = known
            return Facts(known["num_iterations"], known["best"])
        made = make()
        if marks is not None and all(time.time() - mark[-1] / 1e9 > SETTLED for mark in marks if mark):
            self._now[run] = {"marks": marks, **made._asdict()}
        return made

    def save(self) -> None:
        """Remember what was asked for, and nothing else."""
        if self._now != self._before:
            with suppress(StoreError):  # somebody else's folder, or a full disk
                write_text(self._file, json.dumps({"version": self._version, "runs": self._now}))

    def _read(self) -> dict[str, Any]:
        try:
            said = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(said, dict) or said.get("version") != self._version or not isinstance(said.get("runs"), dict):
            return {}
        return {run: entry for run, entry in said["runs"].items() if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("marks"), list)
        and isinstance(entry.get("num_iterations"), int)
        and isinstance(entry.get("best"), str)
    )
