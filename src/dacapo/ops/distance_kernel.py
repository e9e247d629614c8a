"""Squared distances to voxel faces, axis by axis. Imports numba.

All arrays are flat views of one contiguous (Z, Y, X) volume. Whole rows along X are worked on at
once, which compilers turn into vector instructions: that beats cleverer algorithms on volumes of
the size that networks see. Indices are unsigned, because signed ones could count from the end, and
a loop that has to ask is not turned into vector instructions.
"""

from __future__ import annotations

import numba
import numpy as np

# No "ninf": infinite means that there is no face.
_FAST = {"nnan", "nsz", "reassoc"}


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def distance_along_axis(
    faces: np.ndarray, shape: tuple[int, int, int], axis: int, spacing: float, out: np.ndarray
) -> None:
    """Squared distance from each voxel centre to the nearest face on the line through it along the axis.

    `faces` says whether there is a boundary between a voxel and the next one along the axis.
    """
    length, stride = np.uint64(shape[axis]), np.uint64(1)
    for a in range(axis + 1, 3):
        stride *= np.uint64(shape[a])
    half, one, width = np.float32(0.5), np.float32(1), np.float32(spacing)
    steps = np.empty(stride, np.float32)
    for start in range(np.uint64(0), np.uint64(len(out)), length * stride):
        steps[:] = np.inf
        for k in range(length):
            row = start + k * stride
            for i in range(stride):
                out[row + i] = steps[i]
                steps[i] = half if faces[row + i] else steps[i] + one
        steps[:] = np.inf
        for k in range(length):
            row = start + (length - np.uint64(1) - k) * stride
            for i in range(stride):
                steps[i] = half if faces[row + i] else steps[i] + one
                nearest = width * (out[row + i] if out[row + i] < steps[i] else steps[i])
                out[row + i] = nearest * nearest


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def voxels_along_first_axis(mask: np.ndarray, shape: tuple[int, int, int], spacing: float, out: np.ndarray) -> None:
    """Squared distance from each voxel centre to that of the nearest voxel of the mask on its line along the first axis."""
    length, stride = np.uint64(shape[0]), np.uint64(shape[1] * shape[2])
    nothing, one, width = np.float32(0), np.float32(1), np.float32(spacing)
    steps = np.full(stride, np.inf, np.float32)
    for k in range(length):
        row = k * stride
        for i in range(stride):
            steps[i] = nothing if mask[row + i] else steps[i] + one
            out[row + i] = steps[i]
    steps[:] = np.inf
    for k in range(length):
        row = (length - np.uint64(1) - k) * stride
        for i in range(stride):
            steps[i] = nothing if mask[row + i] else steps[i] + one
            nearest = width * (out[row + i] if out[row + i] < steps[i] else steps[i])
            out[row + i] = nearest * nearest


@numba.njit(cache=True, nogil=True, error_model="numpy")
def spread_along_axis(
    source: np.ndarray, shape: tuple[int, int, int], axis: int, spacing: float, nearest: np.ndarray, most: int
) -> bool:
    """nearest[p] becomes the least of itself and of source[q] + |p - q|^2 over all q on its line along the axis.

    Farther and farther q are looked at until none can be nearer than what each voxel of a row has. Gives up, and says
    False, when more than `most` of them a row would be looked at.
    """
    looked = 0
    length, stride, columns = shape[axis], 1, shape[2]
    for a in range(axis + 1, 3):
        stride *= shape[a]
    squares = ((np.arange(length) * spacing) ** 2).astype(np.float32)
    # What is not negative is ordered like its bits, and only whole numbers get a fast maximum.
    bits, square_bits = nearest.view(np.int32), squares.view(np.int32)
    for number, row in enumerate(range(0, len(nearest), columns)):
        if looked > most * (number + 1) + 64 * most:
            return False
        position = (row // stride) % length
        farthest = np.int32(0)
        for k in range(1, length):
            if k % 4 == 1:
                farthest = _largest(bits, row, columns)
            if square_bits[k] >= farthest:
                break
            looked += 1
            if axis == 2:
                _lower(nearest, row + k, source, row, columns - k, squares[k])
                _lower(nearest, row, source, row + k, columns - k, squares[k])
                continue
            if k <= position:
                _lower(nearest, row, source, row - k * stride, columns, squares[k])
            if k < length - position:
                _lower(nearest, row, source, row + k * stride, columns, squares[k])
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _lower(nearest: np.ndarray, row: int, source: np.ndarray, other: int, columns: int, more: np.float32) -> None:
    row, other = np.uint64(row), np.uint64(other)
    for i in range(np.uint64(columns)):
        candidate = source[other + i] + more
        nearest[row + i] = candidate if candidate < nearest[row + i] else nearest[row + i]


@numba.njit(cache=True, nogil=True)
def _largest(bits: np.ndarray, row: int, columns: int) -> np.int32:
    row = np.uint64(row)
    largest = np.int32(0)
    for i in range(np.uint64(columns)):
        largest = max(largest, bits[row + i])
    return largest
