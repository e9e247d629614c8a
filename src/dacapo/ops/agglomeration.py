"""Agglomeration of fragments by their mean affinity. Imports affinities, checks; fastremap where it is used."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError
from dacapo.ops.affinities import pair_slices
from dacapo.ops.checks import check_labels, check_neighborhood


def link_objects(
    labels: NDArray[np.integer],
    affinities: NDArray[np.floating],
    neighborhood: Sequence[Sequence[int]],
    threshold: float,
) -> NDArray[np.uint64]:
    """Merge objects whose mean affinity across their border exceeds a threshold, the highest first.

    After a merge the means of its borders are those of all their voxel pairs together, so the order is that of
    hierarchical agglomeration with mean linkage.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) integers
        Fragments; 0 is nothing and stays 0.
    affinities : (C, *labels.shape) floating point in [0, 1]
        C at least the number of offsets; channel i compares voxel p with p + neighborhood[i].
    threshold : float
        Mean affinity, over all offsets, above which two objects become one.

    Returns
    -------
    labels : (Z, Y, X) or (Y, X) uint64, 1..n
    """
    import fastremap

    labels = check_labels(labels)
    offsets = check_neighborhood(neighborhood, labels.ndim)
    if affinities.shape[1:] != labels.shape or len(affinities) < len(offsets):
        raise GeometryError(
            f"affinities of shape {affinities.shape} do not fit labels {labels.shape} and {len(offsets)} offsets"
        )
    compact, _ = fastremap.renumber(labels.astype(np.uint64), preserve_zero=True)
    low, high, total, count = _region_graph(compact, affinities, offsets)
    target = _merged(int(compact.max(initial=0)) + 1, low, high, total, count, threshold)
    return np.asarray(fastremap.renumber(target[compact], preserve_zero=True)[0]).astype(np.uint64)


def _region_graph(
    labels: np.ndarray, affinities: np.ndarray, offsets: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of objects with the sum and number of affinities between them."""
    base = int(labels.max(initial=0)) + 1
    keys, values = [np.zeros(0, np.int64)], [np.zeros(0)]
    for channel, offset in enumerate(offsets):
        here, there = pair_slices(labels.shape, offset)
        a, b = labels[here], labels[there]
        border = (a != b) & (a != 0) & (b != 0)
        a, b = a[border].astype(np.int64), b[border].astype(np.int64)
        keys.append(np.minimum(a, b) * base + np.maximum(a, b))
        values.append(affinities[channel][here][border])
    pairs, which = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(which, np.concatenate(values), len(pairs))
    return pairs // base, pairs % base, total, np.bincount(which, minlength=len(pairs))


def _merged(
    num: int, low: np.ndarray, high: np.ndarray, total: np.ndarray, count: np.ndarray, threshold: float
) -> NDArray[np.uint64]:
    """Representative of each object after all merges above the threshold."""
    edges: list[dict[int, tuple[float, int]]] = [{} for _ in range(num)]
    heap = []
    for a, b, s, n in zip(low.tolist(), high.tolist(), total.tolist(), count.tolist(), strict=True):
        edges[a][b] = edges[b][a] = (s, n)
        if s / n > threshold:
            heap.append((-s / n, a, b))
    heapq.heapify(heap)
    target = np.arange(num, dtype=np.uint64)
    alive = [True] * num
    while heap:
        mean, a, b = heapq.heappop(heap)
        s, n = edges[a].get(b, (0.0, 0)) if alive[a] and alive[b] else (0.0, 0)
        if not n or -s / n != mean:  # stale: one side is gone, or the border has grown since
            continue
        if len(edges[a]) < len(edges[b]):
            a, b = b, a
        alive[b] = False
        target[b] = a
        del edges[a][b]
        for c, (s, n) in edges[b].items():
            if c == a:
                continue
            del edges[c][b]
            s0, n0 = edges[a].get(c, (0.0, 0))
            edges[a][c] = edges[c][a] = (s, n) = (s0 + s, n0 + n)
            if s / n > threshold:
                heapq.heappush(heap, (-s / n, min(a, c), max(a, c)))
        edges[b] = {}
    for i in range(num):  # follow chains to their end, shortening them
        root = i
        while target[root] != root:
            root = int(target[root])
        while target[i] != root:
            target[i], i = root, int(target[i])
    return target
