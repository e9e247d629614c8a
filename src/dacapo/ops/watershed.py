"""Objects from affinities by the mutex watershed. Imports checks; agglomeration and kernel where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError, GeometryError
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
    pairs = VoxelPairs(affinities, neighborhood, long_strides(neighborhood, long_stride), mask)
    return pairs.segment(short_long_bias(pairs.offsets, bias, bias if bias_long is None else bias_long), min_size)


def long_strides(neighborhood: Sequence[Sequence[int]], stride: int) -> list[tuple[int, ...]]:
    """Strides for each offset: `stride` along each axis for the long ones, 1 for the voxels around."""
    return [(1 if is_short(n) else stride,) * len(n) for n in neighborhood]


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

    Of pairs that are equally certain those that attract come first, then the first offset, then the first voxel: the
    same input gives the same result, on every machine.

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
    pairs = VoxelPairs(affinities, neighborhood, strides, mask)
    return pairs.segment(bias, min_size)


class VoxelPairs:
    """The pairs of voxels that affinities speak of, ready to be segmented with any biases.

    Affinities of at most 256 levels, as after storage in 8 bits, are sorted by level here, once: a bias only says in which
    order the levels follow each other. Memory: 4 bytes a pair, and the affinities, which are referred to.
    """

    def __init__(
        self,
        affinities: NDArray[np.floating],
        neighborhood: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Arguments and errors are those of `mutex_watershed`."""
        affinities = np.asarray(affinities)
        if affinities.dtype.kind != "f":
            raise DataError(f"affinities are {affinities.dtype}, expected floating point in [0, 1]: divide them by 255")
        if affinities.dtype.itemsize not in (4, 8):
            affinities = affinities.astype(np.float32 if affinities.dtype.itemsize < 4 else np.float64)
        self.shape = affinities.shape[1:]
        check_dims(len(self.shape), "affinities without their channel axis", self.shape)
        self.offsets = check_neighborhood(neighborhood, len(self.shape))
        if len(affinities) < len(self.offsets):
            raise GeometryError(
                f"{len(affinities)} channels of affinities for {len(self.offsets)} offsets, expected one each"
            )
        self.affinities = affinities[: len(self.offsets)]
        for channel, offset in zip(self.affinities, self.offsets, strict=True):
            if not np.isfinite(channel.sum(dtype=np.float64)):
                raise DataError(
                    f"affinities of offset {offset} are not all finite: the prediction holds NaN or infinity"
                )
        known = check_mask(mask, self.shape)
        self._mask = np.zeros(0, bool) if known is None else np.ascontiguousarray(known).ravel()
        size = int(np.prod(self.shape))
        steps = [np.prod(self.shape[a + 1 :], dtype=np.int64) for a in range(len(self.shape))]
        self._ahead = np.array([sum(o * int(s) for o, s in zip(n, steps, strict=True)) for n in self.offsets], np.int64)
        checked = _checked_strides(strides, self.offsets) or [[1] * len(n) for n in self.offsets]
        self._boxes = [_box(self.shape, n, s) for n, s in zip(self.offsets, checked, strict=True)]
        pairs = sum(int(np.prod([len(range(*axis)) for axis in box.tolist()])) for box in self._boxes)
        self._index = np.int32 if max(size, 2 * pairs) < 2**31 else np.int64
        self._levels = self._by_level() if size else None

    def _by_level(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Values of the levels (N, 256), where the pairs of each begin, and voxels; None if there are more levels."""
        from dacapo.ops.watershed_kernel import count_levels, sort_by_level

        levels, counts = np.full((len(self.offsets), 256), np.nan), np.zeros((len(self.offsets), 256), np.int64)
        for i, values in enumerate(self._volumes()):
            if not count_levels(values, self._boxes[i], self._ahead[i], self._mask, levels[i], counts[i]):
                return None
        starts = np.concatenate([[0], np.cumsum(counts)])
        voxels, at = np.empty(starts[-1], self._index), starts[:-1].copy().reshape(counts.shape)
        for i, values in enumerate(self._volumes()):
            sort_by_level(values, self._boxes[i], self._ahead[i], self._mask, at[i], voxels)
        return levels, starts, voxels

    def _volumes(self) -> Iterator[np.ndarray]:
        """Each offset's affinities as a volume."""
        for channel in self.affinities:
            yield np.ascontiguousarray(channel).reshape((1,) * (3 - channel.ndim) + channel.shape)

    def segment(self, bias: float | Sequence[float], min_size: int = 0) -> NDArray[np.uint64]:
        """The mutex watershed with a bias for all offsets, or one for each: (Z, Y, X) or (Y, X) uint64."""
        from dacapo.ops.watershed_kernel import partition

        biases = np.asarray(bias, np.float64)
        if biases.ndim and biases.shape != (len(self.offsets),):
            raise GeometryError(f"{len(biases)} biases for {len(self.offsets)} offsets: expected one, or one for each")
        biases = np.broadcast_to(biases, (len(self.offsets),))
        labels = np.zeros(self.shape, np.uint64)
        if labels.size:
            voxels, kinds, runs = self._one_by_one(biases) if self._levels is None else self._runs(biases)
            partition(voxels, kinds, runs, self._ahead, labels.reshape(-1))
        return _absorb_small(labels, self.affinities, self.offsets, biases, min_size) if min_size > 1 else labels

    def _runs(self, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first arguments of `partition` if there are few levels: a run for each offset and level."""
        assert self._levels is not None
        levels, starts, voxels = self._levels
        evidence = (levels - biases[:, None]).ravel()
        kinds = 2 * np.repeat(np.arange(len(levels)), 256) + (evidence > 0)
        runs = np.stack([starts[:-1], starts[1:], kinds], 1)
        order = np.lexsort((evidence <= 0, -np.abs(evidence)))
        order = order[(np.diff(starts)[order] > 0) & (evidence[order] != 0)]
        return voxels, np.zeros(0, np.uint16), runs[order].astype(np.int64)

    def _one_by_one(self, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first arguments of `partition` for any affinities: each pair has its own kind."""
        indices = np.arange(np.prod(self.shape), dtype=self._index).reshape((1,) * (3 - len(self.shape)) + self.shape)
        known = self._mask.reshape(indices.shape) if len(self._mask) else None
        voxels, evidence = [], []
        for values, box, ahead, neutral in zip(self._volumes(), self._boxes, self._ahead, biases, strict=True):
            pairs = tuple(slice(*axis) for axis in box.tolist())
            first, of_them = indices[pairs].ravel(), values[pairs].ravel().astype(np.float64) - neutral
            if known is not None:
                both = known.ravel()[first] & known.ravel()[first + ahead]
                first, of_them = first[both], of_them[both]
            voxels.append(first)
            evidence.append(of_them)
        kinds = np.repeat(2 * np.arange(len(voxels), dtype=np.uint16), [len(v) for v in voxels])
        weights = np.concatenate(evidence)
        attract = weights > 0
        kinds += attract
        order = np.concatenate([np.flatnonzero(attract), np.flatnonzero(~attract & (weights != 0))])
        order = order[np.argsort(-np.abs(weights[order]), kind="stable")]
        return np.concatenate(voxels)[order], kinds[order], np.array([[0, len(order), -1]], np.int64)


def _box(shape: Sequence[int], offset: Sequence[int], stride: Sequence[int]) -> NDArray[np.int64]:
    """First, last (exclusive) and step, per axis of three, of the voxels that have a partner at the offset."""
    rows = [(0, 1, 1)] * (3 - len(shape))
    for n, o, s in zip(shape, offset, stride, strict=True):
        rows.append((max(0, -o), min(n, n - o), s))
    return np.array(rows, np.int64)


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


def _absorb_small(
    labels: np.ndarray, affinities: np.ndarray, offsets: Sequence[tuple[int, ...]], biases: np.ndarray, min_size: int
) -> np.ndarray:
    from dacapo.ops.agglomeration import border_sums, renumbered

    sizes = np.bincount(labels.ravel())
    small = sizes < min_size
    small[0] = False
    if not small.any():
        return labels
    direct = [i for i, offset in enumerate(offsets) if is_short(offset)] or list(range(len(offsets)))
    low, high, total, count = border_sums(
        labels, [affinities[i] for i in direct], [offsets[i] for i in direct], biases[direct], small
    )
    mean = total / count
    attractive = np.flatnonzero(mean > 0)
    order = attractive[np.argsort(-mean[attractive], kind="stable")]
    merged = _merge_small(list(zip(low[order].tolist(), high[order].tolist(), strict=True)), sizes.tolist(), min_size)
    target = np.arange(len(sizes))
    for old, new in merged.items():
        target[old] = new
    kept = np.bincount(target, sizes, len(sizes)) >= min_size
    kept[0] = False
    return renumbered(labels, np.where(kept[target], target, 0))


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
