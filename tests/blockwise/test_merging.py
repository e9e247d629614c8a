"""Which labels of neighbouring blocks are one object."""

from __future__ import annotations

import numpy as np

from dacapo.blockwise.blocks import BlockGrid
from dacapo.blockwise.merging import core_first, final_numbers, same_objects, slab_around_face
from dacapo.geometry import Coordinate, Roi


def test_equal_pieces_are_one_object_even_in_crossing_labels():
    """A label that is one object here and two there joins both, through each piece."""
    here = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 1]])
    there = np.array([[5, 0, 6], [5, 0, 6], [5, 0, 6]])
    assert same_objects(here, there).tolist() == [[1, 5], [1, 6]]


def test_touching_or_a_sliver_in_common_is_not_enough():
    """Two cells whose common border lies one voxel apart stay two cells."""
    here = np.array([[1, 1, 1, 1, 2, 2, 2, 2]] * 4)
    there = np.array([[3, 3, 3, 3, 3, 4, 4, 4]] * 4)
    assert same_objects(here, there).tolist() == [[1, 3], [2, 4]]


def test_a_chance_match_of_slivers_joins_nothing():
    """Where the blocks differ, equal slivers are no evidence; where they agree everywhere, a voxel is."""
    here, there = np.zeros((3, 40), int), np.zeros((3, 40), int)
    here[:, :18], here[:, 20:38], here[1, 39] = 1, 2, 1
    there[:, :18], there[:, 20:38], there[1, 39] = 3, 4, 4
    assert same_objects(here, there).tolist() == [[1, 3], [1, 4], [2, 4]]
    there[0, 17] = 0
    assert same_objects(here, there).tolist() == [[1, 3], [2, 4]]


def test_the_rule_is_symmetric():
    """Which block is asked first changes nothing."""
    rng = np.random.default_rng(0)
    here = np.kron(rng.integers(0, 4, (3, 4, 4)), np.ones((2, 3, 3), int))
    there = np.roll(here, 1, axis=1)
    assert same_objects(here, there).tolist() == sorted(same_objects(there, here)[:, ::-1].tolist())
    assert same_objects(here, np.zeros_like(here)).shape == (0, 2)


def test_a_slab_is_seen_by_both_blocks():
    """The slab lies in the region that either block reads, at every face and for any context."""
    total = Roi((0, 2), (11, 9))
    grid = BlockGrid(total, Coordinate((4, 5)), (Coordinate((1, 9)), Coordinate((2, 1))))
    slabs = 0
    for i in range(len(grid)):
        for axis in range(2):
            slab = slab_around_face(grid, i, axis)
            above = grid.next_along(i, axis)
            assert (slab is None) == (above is None)
            if slab is not None:
                slabs += 1
                assert slab.begin[axis] < grid[i].write_roi.end[axis] < slab.end[axis]
                assert total.contains(slab)
                assert grid[i].read_roi.contains(slab)
                assert grid[above].read_roi.contains(slab)
    assert slabs == 2 * 2 + 3 * 1


def test_labels_of_the_core_come_first():
    """Labels are numbered 1..n, those with a voxel in the core before the others."""
    labels = np.array([[9, 9, 0, 4], [7, 0, 5, 5]], np.uint64)
    numbered, num_core, num = core_first(labels, (slice(0, 2), slice(2, 4)))
    assert numbered.tolist() == [[4, 4, 0, 1], [3, 0, 2, 2]]
    assert (num_core, num) == (2, 4)


def test_numbers_follow_the_blocks():
    """Objects are numbered by the first block that shows them; what no core shows has no number."""
    # Block 0 has labels 1 and (outside its core) 2, block 1 has 1 and 2, block 2 has 1 and (outside) 2.
    numbers, count = final_numbers([1, 2, 1], [2, 2, 2], np.array([[1, 4], [0, 3]]))
    assert numbers.tolist() == [1, 3, 2, 1, 3, 0]
    assert count == 3
    assert final_numbers([0], [0], np.zeros((0, 2), np.int64))[1] == 0
