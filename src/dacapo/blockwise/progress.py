"""How far the blocks are: a callable of (done, total), a bar on a terminal, or lines in the log. Imports nothing."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]

SECONDS_BETWEEN_LINES = 30


class Progress:
    """Tells `report` how many blocks are done, if that has changed."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report = report
        self._total = total
        self._said = -1
        self.done = 0

    def __call__(self, done: int) -> None:
        self.done = done
        if self._report is not None and done != self._said:
            self._said = done
            self._report(done, self._total)

    def finish(self, done: int) -> None:
        """The last word; closes a bar."""
        self(done)
        if isinstance(self._report, _Bar):
            self._report.close()


def progress_to(wanted: Report | bool | None, name: str) -> Report | None:
    """`wanted` itself, or for True a bar or lines in the log."""
    if wanted is None or wanted is False:
        return None
    if wanted is not True:
        return wanted
    return _Bar(name) if sys.stderr.isatty() else _Lines(name)


class _Bar:
    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, desc=self._name, unit="block")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        rate = done / max(now - self._began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        logger.info("%s: %d of %d blocks, %.3g/s%s", self._name, done, total, rate, left)
