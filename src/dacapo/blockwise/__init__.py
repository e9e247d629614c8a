"""Volumes larger than memory, block by block, on daisy. Imports nothing heavy."""

from __future__ import annotations

from dacapo.blockwise.blocks import Block, BlockGrid, check_blocks
from dacapo.blockwise.engine import BlockReport, BlocksFailedError, FailedBlock, run_blocks
from dacapo.blockwise.scheduler import DaCapoBlockwiseTask, run_blockwise, segment_blockwise
from dacapo.blockwise.stitching import SegmentReport, chunk_of, made, segment_blocks

__all__ = [
    "Block",
    "BlockGrid",
    "BlockReport",
    "BlocksFailedError",
    "DaCapoBlockwiseTask",
    "FailedBlock",
    "SegmentReport",
    "check_blocks",
    "chunk_of",
    "made",
    "run_blocks",
    "run_blockwise",
    "segment_blocks",
    "segment_blockwise",
]
