"""How a region is cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.arrays import create_array
from dacapo.blockwise import BlockGrid, check_blocks
from dacapo.errors import BlockwiseError, GeometryError
from dacapo.geometry import Coordinate, Grid, Roi

ZERO = (Coordinate((0, 0)), Coordinate((0, 0)))


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_blocks_tile_the_region(begin, shape, block):
    """Every voxel of the region is written by exactly one block, wherever the region begins."""
    total = Roi(begin, shape)
    grid = BlockGrid(total, Coordinate(block), (Coordinate((1, 2)), Coordinate((3, 0))))
    count = np.zeros(shape, int)
    for i in range(len(grid)):
        b = grid[i]
        assert b.block_id == i
        assert b.read_roi == Roi(b.write_roi.begin - Coordinate(1, 2), b.write_roi.shape + Coordinate(4, 2))
        count[
            tuple(slice(lo - o, hi - o) for lo, hi, o in zip(b.write_roi.begin, b.write_roi.end, begin, strict=True))
        ] += 1
        for axis in range(2):
            above = grid.next_along(i, axis)
            if above is not None:
                assert grid[above].write_roi.begin[axis] == b.write_roi.end[axis]
                assert grid[above].write_roi.begin[1 - axis] == b.write_roi.begin[1 - axis]
    assert (count == 1).all()


@pytest.mark.parametrize(
    ("total", "block", "context"),
    [
        (Roi((0, 0), (0, 4)), (2, 2), ZERO),
        (Roi((0, 0), (4, 4)), (2, 0), ZERO),
        (Roi((0, 0), (4, 4)), (2, 2, 2), ZERO),
        (Roi((0, 0), (4, 4)), (2, 2), (Coordinate((0, -1)), Coordinate((0, 0)))),
    ],
)
def test_impossible_grids_are_refused(total, block, context):
    """An empty region, an empty block, another number of axes or a negative context is an error at once."""
    with pytest.raises(GeometryError):
        BlockGrid(total, Coordinate(block), context)


def test_blocks_that_share_a_chunk_are_refused(tmp_path):
    """Two blocks never write into one chunk, and neither does the border of a region inside the volume."""
    array = create_array(tmp_path / "a.zarr/x", shape=(10, 10), dtype="uint8", grid=Grid((1.0, 1.0)), chunk=(4, 4))
    check_blocks(Coordinate((4, 8)), array)
    check_blocks(Coordinate((100, 4)), array)
    check_blocks(Coordinate((4, 4)), array, Roi((4, 0), (6, 8)))
    with pytest.raises(BlockwiseError, match=r"\(8, 4\)"):
        check_blocks(Coordinate((6, 4)), array)
    with pytest.raises(BlockwiseError, match="lose voxels"):
        check_blocks(Coordinate((4, 4)), array, Roi((0, 0), (6, 8)))
    with pytest.raises(BlockwiseError, match="lose voxels"):
        check_blocks(Coordinate((4, 4)), array, Roi((2, 0), (8, 8)))
