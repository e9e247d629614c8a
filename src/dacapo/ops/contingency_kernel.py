"""Counting pairs of ids in one pass, in a table of all pairs or a hash table. Imports numba."""

from __future__ import annotations

import numba
import numpy as np

_FIRST_SLOTS = 1 << 12


@numba.njit(cache=True, nogil=True)
def _slot(a: np.uint64, b: np.uint64, keys: np.ndarray, used: np.ndarray) -> int:
    """Where the pair is in the table, or where it belongs."""
    mixed = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    last = np.uint64(len(used) - 1)
    slot = mixed & last
    while used[slot] and (keys[slot, 0] != a or keys[slot, 1] != b):
        slot = (slot + np.uint64(1)) & last
    return np.int64(slot)


@numba.njit(cache=True, nogil=True)
def _doubled(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same pairs in a table of twice the size."""
    more_keys = np.empty((2 * len(keys), 2), np.uint64)
    more_counts = np.zeros(2 * len(counts), np.int64)
    for old in range(len(counts)):
        if counts[old]:
            slot = _slot(keys[old, 0], keys[old, 1], more_keys, more_counts)
            more_keys[slot] = keys[old]
            more_counts[slot] = counts[old]
    return more_keys, more_counts


@numba.njit(cache=True, nogil=True)
def count_pairs(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A hash table of pairs (n, 2) uint64 and how often each occurs (n,) int64; slots of count 0 are free.

    Flat contiguous unsigned integers; bool mask of the same length, or of length 0 for none.
    Neighbours mostly are the same pair, so the table is looked up once per run of equal pairs.
    """
    keys = np.empty((_FIRST_SLOTS, 2), np.uint64)
    counts = np.zeros(_FIRST_SLOTS, np.int64)
    filled = 0
    masked = len(mask) > 0
    i, n = 0, len(first)
    while i < n:
        if masked and not mask[i]:
            i += 1
            continue
        a, b, start = first[i], second[i], i
        if masked:
            while i < n and first[i] == a and second[i] == b and mask[i]:
                i += 1
        else:
            while i < n and first[i] == a and second[i] == b:
                i += 1
        slot = _slot(np.uint64(a), np.uint64(b), keys, counts)
        if counts[slot] == 0:
            if 2 * (filled + 1) > len(counts):
                keys, counts = _doubled(keys, counts)
                slot = _slot(np.uint64(a), np.uint64(b), keys, counts)
            keys[slot, 0], keys[slot, 1] = a, b
            filled += 1
        counts[slot] += i - start
    return keys, counts


@numba.njit(cache=True, nogil=True)
def count_small_pairs(first: np.ndarray, second: np.ndarray, mask: np.ndarray, table: np.ndarray) -> None:
    """Add to `table`, int64 with a row for each id of `first` and a column for each of `second`, how often pairs occur.

    As `count_pairs`, for ids that are small enough for such a table: a tenth of its time, a fortieth on noise.
    """
    if len(mask):
        for i in range(len(first)):
            table[first[i], second[i]] += mask[i]
    else:
        for i in range(len(first)):
            table[first[i], second[i]] += 1
