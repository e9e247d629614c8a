"""Functions that the tests of the engine hand to workers; each leaves one file per block."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from dacapo.blockwise import Block


def touch(folder: str, seconds: float = 0.0) -> Callable[[Block], None]:
    """Write the block's number and region to a file of its own, as a block that is run twice would again."""
    Path(folder, f"setup-{os.getpid()}").touch()

    def process(block: Block) -> None:
        with Path(folder, "started").open("a") as started:
            started.write(f"{block.block_id} {os.getpid()}\n")
        time.sleep(seconds)
        Path(folder, f"block-{block.block_id}").write_text(f"{block.write_roi.begin} {block.write_roi.shape}")

    return process


def bad(folder: str, bad_blocks: list[int], times: int) -> Callable[[Block], None]:
    """Raise in some blocks, the first `times` times."""
    inner = touch(folder)

    def process(block: Block) -> None:
        if block.block_id in bad_blocks and _count(folder, block) < times:
            raise ValueError(f"no luck with block {block.block_id}")
        inner(block)

    return process


def suicidal(folder: str, bad_blocks: list[int], times: int) -> Callable[[Block], None]:
    """SIGKILL the worker in some blocks, the first `times` times."""
    inner = touch(folder)

    def process(block: Block) -> None:
        if block.block_id in bad_blocks and _count(folder, block) < times:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(block)

    return process


def no_setup(folder: str) -> Callable[[Block], None]:
    """A function that cannot even begin."""
    raise FileNotFoundError(f"no model in {folder}")


def _count(folder: str, block: Block) -> int:
    """How often this was asked before."""
    path = Path(folder, f"tries-{block.block_id}")
    with path.open("a") as tries:
        tries.write("x")
    return len(path.read_text()) - 1
