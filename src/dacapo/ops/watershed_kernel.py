"""The mutex watershed on pairs of voxels that are sorted already. Imports numba.

Voxels are flat indices. Clusters are trees of voxels: `parent` holds the voxel above, or of a root minus the size of its
cluster. A cluster that repels others has a group: its number is at the root, and it owns a list of the groups that it must
not be merged with. Which groups exclude each other is also in a hash table of pairs, so that asking takes one look. When
two clusters merge, the shorter list is entered anew under the longer one's number.
"""

from __future__ import annotations

import numba
import numpy as np

_FREE = np.uint64(0xFFFFFFFFFFFFFFFF)
_FIRST_SLOTS = 1 << 12


@numba.njit(cache=True, nogil=True)
def count_levels(
    values: np.ndarray, box: np.ndarray, ahead: int, mask: np.ndarray, levels: np.ndarray, counts: np.ndarray
) -> bool:
    """Count the pairs of each level, a multiple of 1/255 however it was rounded; False if there are other values.

    values (Z, Y, X) floating point; box (3, 3) first, last, step of the voxels that have a partner `ahead` of them in the
    flat volume; mask flat bool, or of length 0 for none. `levels` (256) is filled with the value of each, NaN for none.
    """
    flat_y, flat_z = values.shape[2], values.shape[1] * values.shape[2]
    for z in range(box[0, 0], box[0, 1], box[0, 2]):
        for y in range(box[1, 0], box[1, 1], box[1, 2]):
            for x in range(box[2, 0], box[2, 1], box[2, 2]):
                here = z * flat_z + y * flat_y + x
                if len(mask) and not (mask[here] and mask[here + ahead]):
                    continue
                value = values[z, y, x]
                if not (value >= 0 and value <= 1):
                    return False
                level = int(value * 255 + 0.5)
                if levels[level] != value:
                    if not np.isnan(levels[level]):
                        return False
                    levels[level] = value
                counts[level] += 1
    return True


@numba.njit(cache=True, nogil=True)
def sort_by_level(
    values: np.ndarray, box: np.ndarray, ahead: int, mask: np.ndarray, starts: np.ndarray, voxels: np.ndarray
) -> None:
    """Write the first voxels of the pairs of each level to `voxels` from `starts` on, in their order in the volume."""
    flat_y, flat_z = values.shape[2], values.shape[1] * values.shape[2]
    for z in range(box[0, 0], box[0, 1], box[0, 2]):
        for y in range(box[1, 0], box[1, 1], box[1, 2]):
            for x in range(box[2, 0], box[2, 1], box[2, 2]):
                here = z * flat_z + y * flat_y + x
                if len(mask) and not (mask[here] and mask[here + ahead]):
                    continue
                level = int(values[z, y, x] * 255 + 0.5)
                voxels[starts[level]] = here
                starts[level] += 1


@numba.njit(cache=True, nogil=True)
def _root(parent: np.ndarray, i: int) -> int:
    """The root of a voxel's cluster; the way there is halved."""
    while True:
        up = parent[i]
        if up < 0:
            return i
        above = parent[up]
        if above < 0:
            return up
        parent[i] = above
        i = above


@numba.njit(cache=True, nogil=True)
def _slot(keys: np.ndarray, a: int, b: int) -> int:
    """Where the pair of groups is in the table, or where it belongs."""
    low, high = np.uint64(min(a, b)), np.uint64(max(a, b))
    key = (low << np.uint64(32)) | high
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    last = np.uint64(len(keys) - 1)
    slot = mixed & last
    while keys[slot] != key and keys[slot] != _FREE:
        slot = (slot + np.uint64(1)) & last
    return np.int64(slot)


@numba.njit(cache=True, nogil=True)
def _key(a: int, b: int) -> np.uint64:
    return (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))


@numba.njit(cache=True, nogil=True)
def _roomier(keys: np.ndarray, joined: np.ndarray, more: int) -> tuple[np.ndarray, int]:
    """A table with room for `more` pairs, without those of groups that are in another by now; and how many it holds."""
    held = 0
    for key in keys:
        if key != _FREE and joined[key >> np.uint64(32)] < 0 and joined[key & np.uint64(0xFFFFFFFF)] < 0:
            held += 1
    size = _FIRST_SLOTS
    while size < 3 * (held + more):
        size *= 2
    roomy = np.full(size, _FREE, np.uint64)
    for key in keys:
        if key != _FREE:
            a, b = np.int64(key >> np.uint64(32)), np.int64(key & np.uint64(0xFFFFFFFF))
            if joined[a] < 0 and joined[b] < 0:
                roomy[_slot(roomy, a, b)] = key
    return roomy, held


@numba.njit(cache=True, nogil=True)
def _enter_anew(old: int, new: int, keys: np.ndarray, joined: np.ndarray, lists: np.ndarray, nodes: np.ndarray) -> int:
    """Group `old` becomes part of `new`: whom it excludes is excluded by `new`; the number of pairs that are new."""
    joined[new] += joined[old]
    joined[old] = new
    node, entered = lists[old, 0], 0
    while node >= 0:
        following = nodes[node, 0]
        other = _root(joined, nodes[node, 1])
        slot = _slot(keys, new, other)
        if keys[slot] == _FREE:
            keys[slot] = _key(new, other)
            nodes[node, 0], nodes[node, 1] = lists[new, 0], other
            lists[new, 0] = node
            lists[new, 1] += 1
            entered += 1
        node = following
    return entered


@numba.njit(cache=True, nogil=True)
def _note(group: int, other: int, node: int, lists: np.ndarray, nodes: np.ndarray) -> None:
    """Put another group on the list of a group."""
    nodes[node, 0], nodes[node, 1] = lists[group, 0], other
    lists[group, 0] = node
    lists[group, 1] += 1


@numba.njit(cache=True, nogil=True)
def _mark_attracted(
    voxels: np.ndarray, kinds: np.ndarray, runs: np.ndarray, ahead: np.ndarray, attracted: np.ndarray
) -> int:
    """Mark the voxels of attractive pairs; the number of pairs that repel."""
    repelling = 0
    for start, stop, of_run in runs:
        for i in range(start, stop):
            kind = of_run if of_run >= 0 else np.int64(kinds[i])
            if kind % 2:
                attracted[voxels[i]] = attracted[voxels[i] + ahead[kind // 2]] = True
            else:
                repelling += 1
    return repelling


@numba.njit(cache=True, nogil=True)
def partition(voxels: np.ndarray, kinds: np.ndarray, runs: np.ndarray, ahead: np.ndarray, labels: np.ndarray) -> None:
    """Merge and part voxels, pair by pair, and number the clusters 1..n in their order in `labels`, flat.

    A voxel without an attractive pair gets 0: it repels nobody.

    Parameters
    ----------
    voxels : (P,) int32, or int64 where voxels or twice the pairs are that many
        The first of each pair.
    runs : (R, 3) int64
        First and last (exclusive) of pairs of one kind, the most certain first, and the kind: 2 * offset, and 1 more if
        they attract each other. Kind -1: it is in `kinds`, which has one for each pair.
    ahead : int64
        How far the second voxel of a pair is from the first, for each offset.
    """
    attracted = np.zeros(len(labels), np.bool_)
    repelling = _mark_attracted(voxels, kinds, runs, ahead, attracted)
    parent = np.full(len(labels), -1, voxels.dtype)
    group = np.full(len(labels), -1, voxels.dtype)
    # What is never written to takes no memory: no more groups than voxels, and two nodes for each pair.
    joined, lists = np.empty(len(labels), voxels.dtype), np.empty((len(labels), 2), voxels.dtype)
    nodes = np.empty((2 * repelling, 2), voxels.dtype)
    keys, filled, groups, used = np.full(_FIRST_SLOTS, _FREE, np.uint64), 0, 0, 0
    for start, stop, of_run in runs:
        for i in range(start, stop):
            kind = of_run if of_run >= 0 else np.int64(kinds[i])
            first, second = np.int64(voxels[i]), np.int64(voxels[i]) + ahead[kind // 2]
            if kind % 2 == 0 and not (attracted[first] and attracted[second]):
                continue
            a, b = _root(parent, first), _root(parent, second)
            if a == b:
                continue
            of_a, of_b = group[a], group[b]
            if of_a >= 0 and of_b >= 0 and keys[_slot(keys, of_a, of_b)] != _FREE:
                continue
            if kind % 2:
                if parent[a] > parent[b]:
                    a, b = b, a
                parent[a] += parent[b]
                parent[b] = a
                if of_a < 0 or of_b < 0:
                    group[a] = max(of_a, of_b)
                    continue
                if lists[of_a, 1] < lists[of_b, 1]:
                    of_a, of_b = of_b, of_a
                if 2 * (filled + lists[of_b, 1]) > len(keys):
                    keys, filled = _roomier(keys, joined, lists[of_b, 1])
                group[a] = of_a
                filled += _enter_anew(of_b, of_a, keys, joined, lists, nodes)
                continue
            for root in (a, b):
                if group[root] < 0:
                    group[root] = groups
                    joined[groups], lists[groups, 0], lists[groups, 1] = -1, -1, 0
                    groups += 1
            of_a, of_b = group[a], group[b]
            if 2 * (filled + 1) > len(keys):
                keys, filled = _roomier(keys, joined, 1)
            keys[_slot(keys, of_a, of_b)] = _key(of_a, of_b)
            filled += 1
            _note(of_a, of_b, used, lists, nodes)
            _note(of_b, of_a, used + 1, lists, nodes)
            used += 2
    _number(parent, attracted, labels)


@numba.njit(cache=True, nogil=True)
def _number(parent: np.ndarray, attracted: np.ndarray, labels: np.ndarray) -> None:
    """Number the clusters of the attracted voxels 1..n, in the order of their first voxels."""
    labels[:] = 0
    number = 0
    for i in range(len(labels)):
        if attracted[i]:
            root = _root(parent, np.int64(i))
            if labels[root] == 0:
                number += 1
                labels[root] = number
            labels[i] = labels[root]
