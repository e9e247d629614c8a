"""Which labels of two neighbouring blocks are one object, and the final numbers. Imports blocks, geometry, numpy; cc3d
and scipy inside functions.

Two neighbours segment a slab around their common face, each on its own. Every label falls into pieces there (connected
within the slab). A piece of the one and a piece of the other match if more than half of their union is common: so a
piece has at most one partner, which no order of blocks changes, and touching is not enough. Then

- where both blocks cut the slab into the very same pieces, every match joins two labels. This makes the result exact
  for what does not depend on its surroundings, such as connected components, down to a single voxel;
- elsewhere a match joins two labels only if such matches are a fair share of the larger one. Slivers on which both
  blocks agree by chance would otherwise chain cells together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dacapo.blockwise.blocks import BlockGrid
from dacapo.geometry import Coordinate, Roi

MINIMUM_IOU = 0.5
"""Pieces with more than this in common are one; not below 0.5, or a piece could have two partners."""

MINIMUM_SHARE = 0.1
"""Of a label's voxels in the slab that must lie in matching pieces, where the blocks differ."""

SLAB_VOXELS = 4
"""Voxels of a slab on each side of the face, if the context has as many: farther from it blocks see less in common."""

RULE = [MINIMUM_IOU, MINIMUM_SHARE, SLAB_VOXELS]
"""What the result depends on here: faces that were compared by another rule are compared again."""


def slab_around_face(grid: BlockGrid, block_id: int, axis: int) -> Roi | None:
    """The region around the upper face of a block along `axis` that it and its neighbour compare; None at the end.

    It reaches beyond the face on all sides, also along the face, because objects may cross to a diagonal neighbour.
    """
    if grid.next_along(block_id, axis) is None:
        return None
    write_roi = grid[block_id].write_roi
    begin, shape = list(write_roi.begin), list(write_roi.shape)
    begin[axis], shape[axis] = write_roi.end[axis], 0
    below, above = (Coordinate(min(SLAB_VOXELS, c) for c in side) for side in grid.context)
    return Roi(begin, shape).grow(below, above).intersect(grid.total)


def same_objects(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Pairs of labels that are one object, from two segmentations of the same slab.

    Parameters
    ----------
    here, there : (*slab) integer
        Labels of either block, 0 is background.

    Returns
    -------
    pairs : (n, 2) int64
        Labels of `here` and of `there`, sorted, each pair once.
    """
    first, second = _pieces(here), _pieces(there)
    both = (first > 0) & (second > 0)
    if not both.any():
        return np.zeros((0, 2), np.int64)
    width = int(second.max()) + 1
    keys, common = np.unique(first[both] * width + second[both], return_counts=True)
    i, j = keys // width, keys % width
    union = np.bincount(first.ravel())[i] + np.bincount(second.ravel())[j] - common
    match = common > MINIMUM_IOU * union
    a, b = _label_of_piece(first, here)[i[match]], _label_of_piece(second, there)[j[match]]
    pairs, which = np.unique(np.stack([a, b], axis=1), axis=0, return_inverse=True)
    if (common == union).all() and ((first > 0) == (second > 0)).all():
        return pairs
    matched = np.bincount(which.ravel(), common[match], len(pairs))
    larger = np.maximum(_sizes(here)[pairs[:, 0]], _sizes(there)[pairs[:, 1]])
    return pairs[matched >= MINIMUM_SHARE * larger]


def _sizes(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel().astype(np.int64))


def _pieces(labels: np.ndarray) -> np.ndarray:
    import cc3d

    faces_only = 4 if labels.ndim == 2 else 6
    return cc3d.connected_components(np.ascontiguousarray(labels), connectivity=faces_only).astype(np.int64)


def _label_of_piece(pieces: np.ndarray, labels: np.ndarray) -> np.ndarray:
    table = np.zeros(int(pieces.max()) + 1, np.int64)
    table[pieces.ravel()] = labels.ravel()
    return table


def core_first(labels: np.ndarray, core: tuple[slice, ...]) -> tuple[np.ndarray, int, int]:
    """Renumber labels 1..n, those with a voxel in `core` first.

    Returns
    -------
    labels : (*shape) int64
    num_core, num : int
        How many have a voxel in `core`, and how many there are.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    in_core = np.zeros(len(values), bool)
    in_core[np.unique(inverse[core])] = True
    is_label = values != 0
    order = np.argsort(~in_core[is_label], kind="stable")
    numbers = np.zeros(len(values), np.int64)
    numbers[np.flatnonzero(is_label)[order]] = np.arange(1, len(order) + 1)
    return numbers[inverse], int((in_core & is_label).sum()), len(order)


def final_numbers(num_core: Sequence[int], num: Sequence[int], edges: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the objects 1..n in the order of the blocks that they first have a voxel in.

    Parameters
    ----------
    num_core, num : (blocks,) int
        Labels of each block with a voxel in its core, and all: label k of block b is node ``sum(num[:b]) + k - 1``.
    edges : (m, 2) int64
        Pairs of nodes that are one object.

    Returns
    -------
    numbers : (nodes,) uint64
        Of each node; 0 for an object without any voxel in a core.
    count : int
        How many objects there are.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    num_core, num = np.asarray(num_core, np.int64), np.asarray(num, np.int64)
    size = int(num.sum())
    if not size:
        return np.zeros(0, np.uint64), 0
    ones = np.ones(len(edges), bool)
    graph = coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    starts = np.cumsum(num) - num
    within = np.arange(size) - np.repeat(starts, num)
    visible = np.flatnonzero(within < np.repeat(num_core, num))
    present, first = np.unique(component[visible], return_index=True)
    table = np.zeros(int(component.max()) + 1, np.uint64)
    table[present[np.argsort(first)]] = np.arange(1, len(present) + 1, dtype=np.uint64)
    return table[component], len(present)
