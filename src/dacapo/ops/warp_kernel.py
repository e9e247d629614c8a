"""Kernels of warp.py: a line of output voxels at a time, whose places are worked out together. Imports numba."""

from __future__ import annotations

import math

import numba
import numpy as np

# Indices are made unsigned before they are used: numba would otherwise ask of each whether it is negative. Loops over a line
# hold nothing but arithmetic, so that the compiler can do several voxels at once.


@numba.njit(cache=True, nogil=True)
def _blend_row(z, y, displacements, cells, weights, starts, row):  # type: ignore[no-untyped-def]
    """Displacements (3, lattice points along x) on the line of voxels at z, y."""
    a, b = cells[starts[0] + z], cells[starts[1] + y]
    wz, wy = weights[starts[0] + z], weights[starts[1] + y]
    for axis in range(3):
        for k in range(row.shape[1]):
            upper = displacements[axis, a, b, k] * (1 - wy) + displacements[axis, a, b + 1, k] * wy
            lower = displacements[axis, a + 1, b, k] * (1 - wy) + displacements[axis, a + 1, b + 1, k] * wy
            row[axis, k] = upper * (1 - wz) + lower * wz


@numba.njit(cache=True, nogil=True)
def _cell_ends(cells, ends):  # type: ignore[no-untyped-def]
    """How many voxels lie below the end of each lattice cell; cells of the voxels ascend."""
    ends[:] = 0
    for k in cells:
        ends[k] += 1
    for k in range(1, len(ends)):
        ends[k] += ends[k - 1]


@numba.njit(cache=True, nogil=True)
def _place_row(z, y, size, out, rotation, row, ends, weights, places):  # type: ignore[no-untyped-def]
    """Indices (3, voxels along x), in a box of `size`, of the line of output voxels at z, y; shape of the output given."""
    dz, dy, middle = z - (out[0] - 1) / 2, y - (out[1] - 1) / 2, (out[2] - 1) / 2
    for axis in range(3):
        start = (size[axis] - 1) / 2 + rotation[axis, 0] * dz + rotation[axis, 1] * dy
        step = rotation[axis, 2]
        begin = 0
        for k in range(len(ends)):
            left, right = row[axis, k], row[axis, k + 1]
            for x in range(begin, ends[k]):
                w = weights[x]
                places[axis, x] = start + step * (x - middle) + (left * (1 - w) + right * w)
            begin = ends[k]


@numba.njit(cache=True, nogil=True)
def _inside(index, lowest, highest):  # type: ignore[no-untyped-def]
    """Whether all of a line's indices are from `lowest` to `highest`."""
    low, high = index[0], index[0]
    for x in range(len(index)):
        low, high = min(low, index[x]), max(high, index[x])
    return low >= lowest and high <= highest


@numba.njit(cache=True, nogil=True)
def _mirrored(index, size):  # type: ignore[no-untyped-def]
    """The index inside of 0 .. size - 1 that an index shows if the border voxels are mirrors."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index = index % period
    return min(index, period - index)


@numba.njit(cache=True, nogil=True)
def _corner(flat, corner, to_y, to_z, to_x, fx, fy, fz):  # type: ignore[no-untyped-def]
    """The value between the eight voxels of a flat image that are `corner` and those beside it."""
    a0, a1 = np.float32(flat[corner]), np.float32(flat[corner + to_x])
    corner_y = corner + to_y
    b0, b1 = np.float32(flat[corner_y]), np.float32(flat[corner_y + to_x])
    corner_z = corner + to_z
    d0, d1 = np.float32(flat[corner_z]), np.float32(flat[corner_z + to_x])
    corner_z += to_y
    e0, e1 = np.float32(flat[corner_z]), np.float32(flat[corner_z + to_x])
    a, b = a0 + (a1 - a0) * fx, b0 + (b1 - b0) * fx
    d, e = d0 + (d1 - d0) * fx, e0 + (e1 - e0) * fx
    a += (b - a) * fy
    d += (e - d) * fy
    return a + (d - a) * fz


@numba.njit(cache=True, nogil=True)
def _border_row(flat, shape, index, fraction, line):  # type: ignore[no-untyped-def]
    """A line of output voxels some of which lie outside of the image."""
    sz, sy, sx = shape
    for x in range(len(line)):
        z0, z1 = _mirrored(index[0, x], sz), _mirrored(index[0, x] + 1, sz)
        y0, y1 = _mirrored(index[1, x], sy), _mirrored(index[1, x] + 1, sy)
        x0, x1 = _mirrored(index[2, x], sx), _mirrored(index[2, x] + 1, sx)
        line[x] = _corner(
            flat, (z0 * sy + y0) * sx + x0, (y1 - y0) * sx, (z1 - z0) * sy * sx, x1 - x0,
            fraction[2, x], fraction[1, x], fraction[0, x],
        )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def linear(  # type: ignore[no-untyped-def]
    image, out, begin, size, top, rotation, displacements, cells, weights, starts
):
    """Fill out (C, Z, Y, X) float32 from image (C, Z, Y, X), divided by top, about the centre of the box at `begin`."""
    channels, sz, sy, sx = image.shape
    _, nz, ny, nx = out.shape
    shape = (sz, sy, sx)
    flat = image.reshape(channels, sz * sy * sx)
    row, places = np.empty((3, displacements.shape[3])), np.empty((3, nx))
    index, fraction = np.empty((3, nx), np.int32), np.empty((3, nx), np.float32)
    ends = np.empty(displacements.shape[3] - 1, np.int64)
    last_weights = weights[starts[2] :]
    _cell_ends(cells[starts[2] :], ends)
    # An axis of one voxel shows nothing else.
    to_z, to_y, to_x = np.uintp(sy * sx if sz > 1 else 0), np.uintp(sx if sy > 1 else 0), np.uintp(1 if sx > 1 else 0)
    for z in range(nz):
        for y in range(ny):
            _blend_row(z, y, displacements, cells, weights, starts, row)
            _place_row(z, y, size, (nz, ny, nx), rotation, row, ends, last_weights, places)
            inside = True
            for axis in range(3):
                first = np.int32(begin[axis])
                for x in range(nx):
                    below = math.floor(places[axis, x])
                    fraction[axis, x] = np.float32(places[axis, x] - below)
                    index[axis, x] = np.int32(below) + first
                if shape[axis] == 1:
                    index[axis] = 0
                else:
                    inside &= _inside(index[axis], 0, shape[axis] - 2)
            for c in range(channels):
                line = out[c, z, y]
                if inside:
                    for x in range(nx):
                        corner = np.uintp((np.int64(index[0, x]) * sy + index[1, x]) * sx + index[2, x])
                        line[x] = _corner(
                            flat[c], corner, to_y, to_z, to_x, fraction[2, x], fraction[1, x], fraction[0, x]
                        )
                else:
                    _border_row(flat[c], shape, index, fraction, line)
                if top != 1:
                    for x in range(nx):
                        line[x] /= top


@numba.njit(cache=True, nogil=True)
def nearest(  # type: ignore[no-untyped-def]
    labels, out, within, begin, size, rotation, displacements, cells, weights, starts
):
    """Fill out (Z, Y, X) from labels (Z, Y, X) of the same unsigned type, about the centre of the box at `begin`.

    `within` (bool, of the same shape, or without any voxel) is told where the nearest voxel is one of the labels'.
    """
    asked = within.size > 0
    sz, sy, sx = labels.shape
    nz, ny, nx = out.shape
    flat = labels.reshape(sz * sy * sx)
    row, places = np.empty((3, displacements.shape[3])), np.empty((3, nx))
    index = np.empty((3, nx), np.int32)
    ends = np.empty(displacements.shape[3] - 1, np.int64)
    last_weights = weights[starts[2] :]
    _cell_ends(cells[starts[2] :], ends)
    for z in range(nz):
        for y in range(ny):
            _blend_row(z, y, displacements, cells, weights, starts, row)
            _place_row(z, y, size, (nz, ny, nx), rotation, row, ends, last_weights, places)
            inside = True
            for axis in range(3):
                first = np.int32(begin[axis])
                for x in range(nx):
                    index[axis, x] = np.int32(math.floor(places[axis, x] + 0.5)) + first
                inside &= _inside(index[axis], 0, labels.shape[axis] - 1)
            line = out[z, y]
            if asked:
                within[z, y] = inside
            if inside:
                for x in range(nx):
                    line[x] = flat[np.uintp((np.int64(index[0, x]) * sy + index[1, x]) * sx + index[2, x])]
            else:
                for x in range(nx):
                    a, b, c = index[0, x], index[1, x], index[2, x]
                    # No conditional expression: numba would make a float of uint64 and 0.
                    if 0 <= a < sz and 0 <= b < sy and 0 <= c < sx:
                        line[x] = flat[np.uintp((np.int64(a) * sy + b) * sx + c)]
                        if asked:
                            within[z, y, x] = True
                    else:
                        line[x] = 0
