"""Windowed moments of a volume along one axis. Imports numba.

One thread, so that data workers do not fight over cores. Indices are unsigned: signed ones could
count from the end, and a loop that has to ask is not turned into vector instructions.
"""

from __future__ import annotations

import numba
import numpy as np

_CHUNK = 128  # lines at a time: what a window covers of them stays in the fastest cache
_FAST = {"contract", "nsz"}


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def moments_along(source: np.ndarray, weights: np.ndarray, orders: int, out: np.ndarray) -> None:
    """out[m, i] = sum over d of weights[m, |d|] * sign(d)^m * source[i + d], zero outside, for m < orders.

    source (size, lines), weights (3, radius + 1), out (orders, size, lines); float32, contiguous.
    """
    size, lines = source.shape
    flat, into = source.reshape(-1), out.reshape(orders, -1)
    into[:] = 0
    for first in range(0, lines, _CHUNK):
        width = min(_CHUNK, lines - first)
        for i in range(size):
            to = i * lines + first
            _add(flat, to, width, weights, 0, into, orders, to)
            for step in range(1, min(weights.shape[1], max(i + 1, size - i))):
                below, above = to - step * lines, to + step * lines
                if step > i:
                    _add(flat, above, width, weights, step, into, orders, to)
                elif step >= size - i:
                    _add(flat, below, width, weights, -step, into, orders, to)
                else:
                    _add_both(flat, below, above, width, weights, step, into, orders, to)


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _add(flat, of, length, weights, step, into, orders, to):  # type: ignore[no-untyped-def]
    """Add one source stretch to the moments of another."""
    of, to = np.uint64(of), np.uint64(to)
    for m in range(orders):
        weight, moment = weights[m, abs(step)], into[m]
        if m == 1 and step < 0:
            weight = -weight
        for i in range(np.uint64(length)):
            moment[to + i] += weight * flat[of + i]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _add_both(flat, below, above, length, weights, step, into, orders, to):  # type: ignore[no-untyped-def]
    """Add the two source stretches at equal distance: moments of even order want their sum, odd ones the difference."""
    below, above, to = np.uint64(below), np.uint64(above), np.uint64(to)
    even, odd, square = into[0], into[min(1, orders - 1)], into[orders - 1]
    w0, w1, w2 = weights[0, step], weights[1, step], weights[2, step]
    if orders == 3:
        for i in range(np.uint64(length)):
            total = flat[above + i] + flat[below + i]
            even[to + i] += w0 * total
            odd[to + i] += w1 * (flat[above + i] - flat[below + i])
            square[to + i] += w2 * total
    elif orders == 2:
        for i in range(np.uint64(length)):
            even[to + i] += w0 * (flat[above + i] + flat[below + i])
            odd[to + i] += w1 * (flat[above + i] - flat[below + i])
    else:
        for i in range(np.uint64(length)):
            even[to + i] += w0 * (flat[above + i] + flat[below + i])
