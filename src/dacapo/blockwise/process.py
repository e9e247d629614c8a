"""What runs inside a worker process: find the function, work off blocks, note failures, end with the scheduler.

Imports blocks and errors; daisy inside functions.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dacapo.blockwise.blocks import Block, BlockGrid
from dacapo.errors import BlockwiseError

Process = Callable[[Block], None]

FAILURES_IN_A_ROW = 3
"""After so many, a worker makes room for a fresh process: its state (of a GPU, say) may be the cause."""


@dataclass
class Job:
    """What a worker has to know: which function, which blocks, where to note a failure."""

    function: str
    parameters: dict[str, Any]
    grid: BlockGrid
    failures: Path
    lifeline: Path | None = None
    _process: Process | None = field(default=None, init=False, repr=False)
    _worked: bool = field(default=False, init=False, repr=False)

    @property
    def works(self) -> Path:
        """A file that is there once a block was done in this run."""
        return self.failures.with_name("works")

    def run(self, block_id: int) -> None:
        """Work off one block; an exception is noted in the file of failures and goes on."""
        block = self.grid[block_id]
        try:
            if self._process is None:
                self._process = find_function(self.function)(**self.parameters)
            self._process(block)
        except Exception as error:
            self._note(block, error)
            raise
        if not self._worked:
            self.works.touch()
            self._worked = True

    def _note(self, block: Block, error: Exception) -> None:
        said = str(error).strip()
        record = {
            "block_id": block.block_id,
            "offset": [int(v) for v in block.write_roi.begin],
            "shape": [int(v) for v in block.write_roi.shape],
            "error": f"{type(error).__name__}: {said}" if said else type(error).__name__,
            "traceback": traceback.format_exc(),
        }
        line = (json.dumps(record) + "\n").encode()
        handle = os.open(self.failures, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def find_function(path: str) -> Callable[..., Any]:
    """The function at an import path ``module:function``.

    Raises
    ------
    BlockwiseError
        If there is no such module or function, or the module is ``__main__``, which workers cannot import.
    """
    module_name, _, name = path.partition(":")
    if not name or module_name == "__main__":
        raise BlockwiseError(f"{path!r} is no function that a worker can import: give 'package.module:function'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise BlockwiseError(f"No module {module_name!r} for {path!r}: is its folder on the Python path?") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise BlockwiseError(f"{module_name} has no function {name!r}.")
    return found  # type: ignore[no-any-return]


def work(job: Job) -> None:
    """Take blocks from the scheduler until there are none left."""
    from daisy.v2 import Client

    if job.lifeline is not None:
        die_with(job.lifeline)
    client = Client()
    in_a_row = 0
    while True:
        try:
            with client.acquire_block() as block:
                if block is None:
                    return
                job.run(int(block.write_roi.begin[0]))
            in_a_row = 0
        except Exception:
            # The scheduler has been told; a lost connection shows as a failure to acquire the next block.
            in_a_row += 1
            if in_a_row >= FAILURES_IN_A_ROW:
                raise


def die_with(lifeline: Path) -> None:
    """End this process, whatever it is doing, as soon as the named pipe has no writer any more.

    The kernel closes the writer's end however the scheduler ends, SIGKILL included; so no worker outlives it and
    writes into the blocks of the next run.
    """
    import select

    try:
        handle = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
        if not os.read(handle, 1):
            os._exit(1)  # there is no writer: it ended before this process came
    except FileNotFoundError:
        os._exit(1)
    except BlockingIOError:
        pass  # there is one, and it has nothing to say

    def watch() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLHUP)
        while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
