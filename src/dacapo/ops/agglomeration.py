"""Agglomeration of fragments by their mean affinity. Imports checks; kernel and fastremap where used."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError
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
    return next(link_at(labels, affinities, neighborhood, [threshold]))


def link_at(
    labels: NDArray[np.integer],
    affinities: NDArray[np.floating],
    neighborhood: Sequence[Sequence[int]],
    thresholds: Sequence[float],
) -> Iterator[NDArray[np.uint64]]:
    """`link_objects` for each of several thresholds; the borders are measured once."""
    import fastremap

    labels = check_labels(labels)
    offsets = check_neighborhood(neighborhood, labels.ndim)
    if affinities.shape[1:] != labels.shape or len(affinities) < len(offsets):
        raise GeometryError(
            f"affinities of shape {affinities.shape} do not fit labels {labels.shape} and {len(offsets)} offsets"
        )
    if not thresholds:
        return
    compact, _ = fastremap.renumber(labels.astype(np.uint64), preserve_zero=True)
    graph = border_sums(compact, affinities, offsets)
    for threshold in thresholds:
        yield renumbered(compact, _merged(int(compact.max(initial=0)) + 1, *graph, threshold))


def border_sums(
    labels: NDArray[np.unsignedinteger],
    affinities: Sequence[np.ndarray] | np.ndarray,
    offsets: Sequence[tuple[int, ...]],
    neutral: Sequence[float] | np.ndarray | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Pairs of objects with the sum and the number of the affinities between them, sorted: low, high, sum, number.

    Labels 0..n (below 2^32) unsigned; 0 is no object. `neutral`, one for each offset, is subtracted from its affinities.
    Of `chosen` objects, bool (n + 1), one must be in the pair.
    """
    from dacapo.ops.agglomeration_kernel import add_borders

    volume = (1,) * (3 - labels.ndim) + labels.shape
    steps = (volume[1] * volume[2], volume[2], 1)[-labels.ndim :]
    labels = np.ascontiguousarray(labels).reshape(volume)
    free, slots = np.iinfo(np.uint64).max, 2**10
    table = (np.full(slots, free, np.uint64), np.zeros(slots), np.zeros(slots, np.int64), 0)
    which = np.zeros(0, bool) if chosen is None else chosen
    for i, offset in enumerate(offsets):
        values = np.ascontiguousarray(affinities[i]).reshape(volume)
        ahead = sum(o * s for o, s in zip(offset, steps, strict=True))
        box = [(0, 1)] * (3 - len(offset)) + [
            (max(0, -o), min(n, n - o)) for n, o in zip(volume[-len(offset) :], offset, strict=True)
        ]
        less = 0.0 if neutral is None else float(neutral[i])
        table = add_borders(labels, values, less, np.array(box, np.int64), ahead, which, table)
    keys, total, count, _ = table
    filled = np.flatnonzero(keys != free)
    filled = filled[np.argsort(keys[filled])]
    keys = keys[filled]
    return (
        (keys >> np.uint64(32)).astype(np.int64),
        (keys & np.uint64(2**32 - 1)).astype(np.int64),
        total[filled],
        count[filled],
    )


def renumbered(labels: NDArray[np.unsignedinteger], target: NDArray[np.integer]) -> NDArray[np.uint64]:
    """target[labels], numbered 1..n in the order of their first voxels; 0 stays 0."""
    from dacapo.ops.agglomeration_kernel import renumber

    out = np.empty(labels.shape, np.uint64)
    renumber(np.ascontiguousarray(labels).reshape(-1), target.astype(np.uint64, copy=False), out.reshape(-1))
    return out


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
