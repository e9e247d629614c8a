"""The kernel of affinities.py. Imports numba."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def weigh(ones, counted, of_ones, of_zeros, target, weight):  # type: ignore[no-untyped-def]
    """Fill target (unless it has no voxels) and weight (Z, Y, X) float32 from ones and counted (Z, Y, X) bool."""
    nz, ny, nx = ones.shape
    nothing, one, with_target = np.float32(0), np.float32(1), target.size > 0
    for z in range(nz):
        for y in range(ny):
            is_one, counts, weights = ones[z, y], counted[z, y], weight[z, y]
            for x in range(nx):
                weights[x] = (of_ones if is_one[x] else of_zeros) if counts[x] else nothing
            if with_target:
                line = target[z, y]
                for x in range(nx):
                    line[x] = one if is_one[x] else nothing
