"""Objects from affinities by the mutex watershed. Imports checks, affinities; the rest where it is used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError, GeometryError
from dacapo.ops.affinities import pair_slices
from dacapo.ops.checks import check_dims, check_mask, check_neighborhood


def segment_affinities(
    affinities: NDArray[np.floating],
    neighborhood: Sequence[Sequence[int]],
    bias: float,
    bias_long: float | None = None,
    min_size: int = 0,
    long_stride: int = 2,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint64]:
    """Objects from predicted affinities: a mutex watershed with one bias for short and one for long offsets.

    What long offsets say is redundant, and most of the work: they are looked at in every
    `long_stride`-th voxel of each axis only.

    Parameters
    ----------
    affinities : (C, Z, Y, X) or (C, Y, X) floating point in [0, 1]
        C at least the number N of offsets; channels beyond N are left alone.
    bias, bias_long : float
        Pairs attract each other above it and repel each other below; `bias_long` is `bias` by default.
    min_size, mask
        As for `mutex_watershed`.

    Returns
    -------
    (Z, Y, X) or (Y, X) uint64
    """
    offsets = [tuple(int(v) for v in n) for n in neighborhood]
    strides = [(1 if is_short(n) else long_stride,) * len(n) for n in offsets]
    biases = short_long_bias(offsets, bias, bias if bias_long is None else bias_long)
    return mutex_watershed(affinities, offsets, bias=biases, strides=strides, min_size=min_size, mask=mask)


def is_short(offset: Sequence[int]) -> bool:
    """Whether the offset leads to one of the voxels around."""
    return max(abs(v) for v in offset) <= 1


def short_long_bias(neighborhood: Sequence[Sequence[int]], short: float, long: float) -> list[float]:
    """A bias for each offset: `short` for the voxels around, `long` for those farther away."""
    return [short if is_short(n) else long for n in neighborhood]


def mutex_watershed(
    affinities: NDArray[np.floating],
    neighborhood: Sequence[Sequence[int]],
    *,
    bias: float | Sequence[float],
    strides: Sequence[Sequence[int]] | None = None,
    min_size: int = 0,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint64]:
    """Partition voxels by attractive and repulsive pairs, the most certain first (Wolf et al., ECCV 2018).

    The same input gives the same result. Memory: one float64 copy of the affinities, and the pairs.

    Parameters
    ----------
    affinities : (C, Z, Y, X) or (C, Y, X) floating point in [0, 1]
        Of each voxel with the one at each offset; C at least the number of offsets.
    neighborhood : sequence of N offsets
        Voxels.
    bias : float, or one per offset
        The affinity at which a pair is neutral.
    strides : sequence of N strides, optional
        For each offset, per axis: a pair counts only if the lower index of the two is a multiple of it.
        Every pair counts by default.
    min_size : int
        Objects of fewer voxels join the neighbour with which they have the highest mean affinity of
        direct neighbours, most certain first, as long as it exceeds the bias; those that stay too
        small become 0.
    mask : bool, optional
        Where it is False the result is 0 and affinities count for nothing.

    Returns
    -------
    (Z, Y, X) or (Y, X) uint64
        Objects 1..n; 0 outside the mask, where nothing attracts a voxel, and for small objects.

    Raises
    ------
    DataError, GeometryError
        If affinities are no floating point numbers or NaN, or neighborhood, bias, strides or mask do not fit.
    """
    import fastremap
    import mwatershed

    affinities = np.asarray(affinities)
    if affinities.dtype.kind != "f":
        raise DataError(f"affinities are {affinities.dtype}, expected floating point in [0, 1]: divide them by 255")
    shape = affinities.shape[1:]
    check_dims(len(shape), "affinities without their channel axis", shape)
    offsets = check_neighborhood(neighborhood, len(shape))
    if len(affinities) < len(offsets):
        raise GeometryError(f"{len(affinities)} channels of affinities for {len(offsets)} offsets, expected one each")
    evidence = _evidence(affinities[: len(offsets)], offsets, bias, check_mask(mask, shape))
    if 0 in shape:
        return np.zeros(shape, np.uint64)
    labels = mwatershed.agglom(evidence, offsets, strides=_checked_strides(strides, offsets))
    labels = fastremap.renumber(labels, in_place=True)[0]
    if min_size > 1:
        labels = _absorb_small(labels, evidence, offsets, min_size)
    return labels.astype(np.uint64, copy=False)


def _checked_strides(
    strides: Sequence[Sequence[int]] | None, offsets: Sequence[tuple[int, ...]]
) -> list[list[int]] | None:
    if strides is None:
        return None
    checked = [[int(v) for v in stride] for stride in strides]
    if [len(s) for s in checked] != [len(o) for o in offsets] or any(v < 1 for s in checked for v in s):
        wanted = f"{len(offsets)} of {len(offsets[0])} positive whole numbers"
        raise GeometryError(f"strides are {checked}, expected {wanted}")
    return checked


def _evidence(
    affinities: np.ndarray,
    offsets: Sequence[tuple[int, ...]],
    bias: float | Sequence[float],
    mask: np.ndarray | None,
) -> NDArray[np.float64]:
    """How strongly each pair attracts (positive) or repels; 0 where a voxel is masked out."""
    biases = np.broadcast_to(np.asarray(bias, np.float64), (len(offsets),)) if np.ndim(bias) == 0 else np.asarray(bias)
    if biases.shape != (len(offsets),):
        raise GeometryError(f"{len(biases)} biases for {len(offsets)} offsets: expected one, or one for each")
    evidence = np.array(affinities, np.float64, order="C")
    for channel, offset, neutral in zip(evidence, offsets, biases, strict=True):
        channel -= neutral
        if not np.isfinite(channel.sum()):
            raise DataError(f"affinities of offset {offset} are not all finite: the prediction holds NaN or infinity")
        if mask is not None:
            here, there = pair_slices(mask.shape, offset)
            channel *= mask
            channel[here] *= mask[there]
    return evidence


def _absorb_small(
    labels: np.ndarray, evidence: np.ndarray, offsets: Sequence[tuple[int, ...]], min_size: int
) -> np.ndarray:
    import fastremap

    sizes = np.bincount(labels.ravel())
    small = sizes < min_size
    small[0] = False
    if not small.any():
        return labels
    low, high, mean = _borders(labels, evidence, offsets, small[labels])
    target = np.arange(len(sizes))
    attractive = np.flatnonzero(mean > 0)
    order = attractive[np.argsort(-mean[attractive], kind="stable")]
    merged = _merge_small(list(zip(low[order].tolist(), high[order].tolist(), strict=True)), sizes.tolist(), min_size)
    for old, new in merged.items():
        target[old] = new
    kept = np.bincount(target, sizes, len(sizes)) >= min_size
    kept[0] = False
    target = np.where(kept[target], target, 0).astype(labels.dtype)
    return np.asarray(fastremap.renumber(target[labels], in_place=True)[0])


def _borders(
    labels: np.ndarray, evidence: np.ndarray, offsets: Sequence[tuple[int, ...]], in_small: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of touching objects of which one is small, and the mean evidence of their direct neighbours."""
    keys, values = [], []
    base = int(labels.max()) + 1
    direct = [i for i, offset in enumerate(offsets) if is_short(offset)] or range(len(offsets))
    for i in direct:
        here, there = pair_slices(labels.shape, offsets[i])
        a, b = labels[here], labels[there]
        border = (in_small[here] | in_small[there]) & (a != b) & (a != 0) & (b != 0)
        a, b = a[border].astype(np.int64), b[border].astype(np.int64)
        keys.append(np.minimum(a, b) * base + np.maximum(a, b))
        values.append(evidence[i][here][border])
    pairs, which = np.unique(np.concatenate(keys), return_inverse=True)
    mean = np.bincount(which, np.concatenate(values), len(pairs)) / np.bincount(which, minlength=len(pairs))
    return pairs // base, pairs % base, mean


def _merge_small(pairs: list[tuple[int, int]], sizes: list[int], min_size: int) -> dict[int, int]:
    """Old id -> new id for what joins another object: a pair is joined if one side is still too small."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while (up := parent.get(i, i)) != i:
            parent[i] = i = parent.get(up, up)
        return i

    for a, b in pairs:
        a, b = root(a), root(b)
        if a != b and min(sizes[a], sizes[b]) < min_size:
            small, large = sorted((a, b), key=lambda i: (sizes[i], -i))
            parent[small] = large
            sizes[large] += sizes[small]
    return {i: root(i) for i in parent}
