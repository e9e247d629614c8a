"""How a region is cut into blocks: `Block`, `BlockGrid`, `check_blocks`. Imports geometry and errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dacapo.errors import BlockwiseError, GeometryError
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from dacapo.arrays import Array


@dataclass(frozen=True)
class Block:
    """One unit of work, in voxels.

    `write_roi` is clipped to the region that is worked on, and the blocks of a region tile it. `read_roi` is
    `write_roi` grown by the context: it may stick out of the region and of the volume. `block_id` is the block's
    place in the grid in C order, from 0.
    """

    block_id: int
    write_roi: Roi
    read_roi: Roi


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of a region: the first begins where `total` begins, the last of each axis may be smaller.

    Parameters
    ----------
    total : Roi
        The region, in voxels.
    block : Coordinate
        Voxels of a block per axis; positive.
    context : (Coordinate, Coordinate)
        Voxels read below and above the block per axis; not negative.

    Raises
    ------
    GeometryError
        If the numbers of axes differ, the region is empty or unbounded, or a size is impossible.
    """

    total: Roi
    block: Coordinate
    context: tuple[Coordinate, Coordinate]

    def __post_init__(self) -> None:
        below, above = self.context
        if not len(self.total.shape) == len(self.block) == len(below) == len(above):
            raise GeometryError(
                f"total {self.total}, block {tuple(self.block)} and context {tuple(below)}, {tuple(above)} must have the "
                f"same number of axes."
            )
        if None in (*self.total.begin, *self.total.shape) or min(self.total.shape) < 1:
            raise GeometryError(f"total is {self.total}, expected a bounded region with at least one voxel.")
        if min(self.block) < 1 or min(*below, *above) < 0:
            raise GeometryError(
                f"block is {tuple(self.block)} and context {tuple(below)}, {tuple(above)}: expected a positive block and "
                f"a context that is not negative."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of blocks per axis."""
        return tuple(-(-n // b) for n, b in zip(self.total.shape, self.block, strict=True))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, block_id: int) -> Block:
        begin = self.total.begin + Coordinate(i * b for i, b in zip(self.index(block_id), self.block, strict=True))
        write_roi = Roi(begin, self.block).intersect(self.total)
        return Block(block_id, write_roi, write_roi.grow(*self.context))

    def index(self, block_id: int) -> tuple[int, ...]:
        """Place of a block along each axis."""
        if not 0 <= block_id < len(self):
            raise IndexError(f"block {block_id} of {len(self)}")
        index = []
        for size in reversed(self.shape):
            block_id, place = divmod(block_id, size)
            index.append(place)
        return tuple(reversed(index))

    def next_along(self, block_id: int, axis: int) -> int | None:
        """Id of the block above along `axis`, None at the end of the region."""
        if self.index(block_id)[axis] + 1 == self.shape[axis]:
            return None
        return block_id + math.prod(self.shape[axis + 1 :])


def check_blocks(block: Coordinate, array: Array, total: Roi | None = None) -> None:
    """Refuse blocks that would share a chunk of the array they are written to.

    Parameters
    ----------
    block : Coordinate
        Voxels of a block per spatial axis.
    array : Array
        What the blocks are written to.
    total : Roi, optional
        The region that is cut into blocks, in voxels of `array`; all of it by default.

    Raises
    ------
    BlockwiseError
        If a border between blocks, or of `total` inside the array, lies inside a chunk (or shard).
    """
    if array.chunk_shape is None:
        return
    chunk = array.chunk_shape[array.channel_dims :]
    total = array.roi if total is None else total
    grid = BlockGrid(total, Coordinate(block), (Coordinate((0,) * len(block)),) * 2)
    for axis, c in enumerate(chunk):
        begin, end, size = total.begin[axis], total.end[axis], array.spatial_shape[axis]
        if (grid.shape[axis] > 1 and block[axis] % c) or begin % c or (end % c and end != size):
            fitting = tuple(-(-b // k) * k for b, k in zip(block, chunk, strict=True))
            raise BlockwiseError(
                f"Blocks of {tuple(block)} voxels over {total} cut the chunks of {tuple(chunk)} voxels of {array.path}, so "
                f"parallel writers would lose voxels. Use blocks of {fitting}, and a region that begins and ends on chunks."
            )
