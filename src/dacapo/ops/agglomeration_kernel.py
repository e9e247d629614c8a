"""Sums over the borders between objects, and new numbers for objects. Imports numba."""

from __future__ import annotations

import numba
import numpy as np

_FREE = np.uint64(0xFFFFFFFFFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def _slot(keys: np.ndarray, key: np.uint64) -> int:
    """Where the key is in the table, or where it belongs."""
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    last = np.uint64(len(keys) - 1)
    slot = mixed & last
    while keys[slot] != key and keys[slot] != _FREE:
        slot = (slot + np.uint64(1)) & last
    return np.int64(slot)


@numba.njit(cache=True, nogil=True)
def _doubled(keys: np.ndarray, totals: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same pairs in a table of twice the size."""
    more_keys = np.full(2 * len(keys), _FREE, np.uint64)
    more_totals, more_counts = np.zeros(len(more_keys), np.float64), np.zeros(len(more_keys), np.int64)
    for old in range(len(keys)):
        if keys[old] != _FREE:
            slot = _slot(more_keys, keys[old])
            more_keys[slot], more_totals[slot], more_counts[slot] = keys[old], totals[old], counts[old]
    return more_keys, more_totals, more_counts


@numba.njit(cache=True, nogil=True)
def add_borders(
    labels: np.ndarray,
    values: np.ndarray,
    neutral: float,
    box: np.ndarray,
    ahead: int,
    chosen: np.ndarray,
    table: tuple[np.ndarray, np.ndarray, np.ndarray, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Add the values of one offset, less `neutral`, to the sums and numbers of the pairs of objects that it leads across.

    labels, values (Z, Y, X), contiguous; box (3, 2) first and last of the voxels that have a partner `ahead` of them; chosen
    bool for each id: one side must be chosen, of length 0 for all. The table has the keys low << 32 | high, 2^64 - 1 where
    it is free, sums, numbers, and how many pairs it holds.
    """
    keys, totals, counts, filled = table
    flat, flat_values = labels.reshape(-1), values.reshape(-1)
    flat_y, flat_z = labels.shape[2], labels.shape[1] * labels.shape[2]
    before, slot = _FREE, 0
    for z in range(box[0, 0], box[0, 1]):
        for y in range(box[1, 0], box[1, 1]):
            for x in range(box[2, 0], box[2, 1]):
                here = z * flat_z + y * flat_y + x
                a, b = np.int64(flat[here]), np.int64(flat[here + ahead])
                if a == b or a == 0 or b == 0 or (len(chosen) and not (chosen[a] or chosen[b])):
                    continue
                key = (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))
                if key != before:
                    slot, before = _slot(keys, key), key
                    if keys[slot] == _FREE:
                        if 2 * (filled + 1) > len(keys):
                            keys, totals, counts = _doubled(keys, totals, counts)
                            slot = _slot(keys, key)
                        keys[slot] = key
                        filled += 1
                totals[slot] += np.float64(flat_values[here]) - neutral
                counts[slot] += 1
    return keys, totals, counts, filled


@numba.njit(cache=True, nogil=True)
def renumber(labels: np.ndarray, target: np.ndarray, out: np.ndarray) -> None:
    """out = target[labels], numbered 1..n in the order of their first voxels; 0 stays 0. Flat."""
    numbers = np.zeros(len(target), np.int64)
    number = 0
    for i in range(len(labels)):
        new = target[labels[i]]
        if new == 0:
            out[i] = 0
            continue
        if numbers[new] == 0:
            number += 1
            numbers[new] = number
        out[i] = numbers[new]
