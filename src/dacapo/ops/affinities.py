"""Affinities of voxel pairs, and weights that balance classes. Imports checks; affinity_kernel where it is used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError
from dacapo.ops.checks import check_labels, check_mask, check_neighborhood, check_same_shape


def affinities(
    labels: NDArray[np.integer],
    neighborhood: Sequence[Sequence[int]],
    *,
    background_as_object: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Whether each voxel is in the same object as the voxel at an offset, for each offset.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) whole numbers
        Objects; 0 and below is background.
    neighborhood : sequence of N offsets
        Voxels, in the order of the axes of `labels`; negative entries are fine.
    background_as_object : bool
        Count background as one more object.
    mask : (Z, Y, X) or (Y, X) bool, optional
        True where the labels are known; everywhere by default.

    Returns
    -------
    affinities : (N, Z, Y, X) or (N, Y, X) uint8
        At voxel p and offset n: 1 if p and p + n are voxels of the same object, else 0.
    known : (N, Z, Y, X) or (N, Y, X) bool
        Where both p and p + n lie inside the array and inside the mask.

    Raises
    ------
    DataError, GeometryError
        If labels are no whole numbers, or offsets or mask do not fit them.
    """
    labels = check_labels(labels)
    offsets = check_neighborhood(neighborhood, labels.ndim)
    mask = check_mask(mask, labels.shape)
    affs = np.zeros((len(offsets), *labels.shape), np.uint8)
    known = np.zeros(affs.shape, bool)
    foreground = None if background_as_object else labels > 0
    for offset, channel, channel_known in zip(offsets, affs.view(bool), known, strict=True):
        here, there = pair_slices(labels.shape, offset)
        np.equal(labels[here], labels[there], out=channel[here])
        if foreground is not None:
            channel[here] &= foreground[here]
        if mask is None:
            channel_known[here] = True
        else:
            np.logical_and(mask[here], mask[there], out=channel_known[here])
    return affs, known


def pair_slices(shape: Sequence[int], offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where p, and where p + offset, are when both are inside: two boxes of the same shape."""
    here = tuple(slice(min(max(0, -o), n), max(0, n - max(0, o))) for n, o in zip(shape, offset, strict=True))
    there = tuple(slice(min(max(0, o), n), max(0, n - max(0, -o))) for n, o in zip(shape, offset, strict=True))
    return here, there


def balance_weights(
    target: NDArray[np.bool_] | NDArray[np.uint8],
    valid: NDArray[np.bool_],
    *,
    clipmin: float = 0.05,
    clipmax: float = 0.95,
) -> NDArray[np.float32]:
    """Weights with which both classes of a binary target count the same, for each channel.

    A class that fills a fraction f of a channel's valid voxels weighs 1 / (2 f), with f clipped to
    [clipmin, clipmax]; a voxel that is not valid weighs 0. The mean over the valid voxels is 1 where
    nothing is clipped.

    Parameters
    ----------
    target, valid : (C, *spatial)
        Zero or one (bool, or whole numbers of which all but 0 count as one); bool. Read-only views are fine.

    Returns
    -------
    (C, *spatial) float32
    """
    target, valid = np.asarray(target), np.asarray(valid, bool)
    check_same_shape(valid.shape, target.shape, "valid")
    _check_clips(clipmin, clipmax)
    weights = np.empty(target.shape, np.float32)
    for ones, counted, out in zip(target, valid, weights, strict=True):
        ones = ones if ones.dtype == bool else ones != 0
        _weigh(ones, counted, _of_classes(ones, counted, clipmin, clipmax), None, out)
    return weights


def affinity_target(
    labels: NDArray[np.integer],
    neighborhood: Sequence[Sequence[int]],
    *,
    background_as_object: bool = False,
    mask: NDArray[np.bool_] | None = None,
    clips: tuple[float, float] | None = (0.05, 0.95),
    inner: tuple[slice, ...] = (...,),  # type: ignore[assignment]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`affinities` as float32, and their `balance_weights`, cut to a part.

    Parameters
    ----------
    labels, neighborhood, background_as_object, mask
        As for `affinities`.
    clips : (float, float), optional
        As clipmin and clipmax for `balance_weights`; None: all known pairs weigh 1.
    inner : one slice per axis, optional
        What is returned. Classes are balanced over all pairs, in and out of it.

    Returns
    -------
    target, weight : (N, *inner) float32
    """
    labels = check_labels(labels)
    offsets = check_neighborhood(neighborhood, labels.ndim)
    if clips is not None:
        _check_clips(*clips)
    shape = labels[inner].shape
    target, weight = np.empty((len(offsets), *shape), np.float32), np.empty((len(offsets), *shape), np.float32)
    # One at a time: what is in between stays in the processor's cache.
    for offset, of_target, of_weight in zip(offsets, target, weight, strict=True):
        affs, known = affinities(labels, [offset], background_as_object=background_as_object, mask=mask)
        ones, counted = affs[0].view(bool), known[0]
        weights = (np.float32(1),) * 2 if clips is None else _of_classes(ones, counted, *clips)
        _weigh(ones[inner], counted[inner], weights, of_target, of_weight)
    return target, weight


def _of_classes(
    ones: NDArray[np.bool_], counted: NDArray[np.bool_], clipmin: float, clipmax: float
) -> tuple[np.float32, np.float32]:
    """What a one and what a zero weighs."""
    total = np.count_nonzero(counted)
    share = np.count_nonzero(ones & counted) / max(total, 1)
    of_ones, of_zeros = (np.float32(0.5 / min(max(f, clipmin), clipmax)) for f in (share, 1 - share))
    # Rounded as if the difference were added to that of zeros: what the weights have always been, to the last bit.
    return (of_ones - of_zeros) + of_zeros, of_zeros


def _weigh(
    ones: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    weights: tuple[np.float32, ...],
    target: NDArray[np.float32] | None,
    out: NDArray[np.float32],
) -> None:
    from dacapo.ops.affinity_kernel import weigh

    target = np.empty((0,) * out.ndim, np.float32) if target is None else target
    weigh(*(_as_volume(x) for x in (ones, counted)), *weights, *(_as_volume(x) for x in (target, out)))


def _as_volume(data: np.ndarray) -> np.ndarray:
    """A view of three axes."""
    return data.reshape((1,) * (3 - data.ndim) + data.shape) if data.ndim < 3 else data


def balance_classes(
    ids: NDArray[np.integer],
    valid: NDArray[np.bool_],
    num_classes: int,
    *,
    clipmin: float = 0.05,
    clipmax: float = 0.95,
) -> NDArray[np.float32]:
    """Weights with which all of several classes count the same.

    A class that fills a fraction f of the valid voxels weighs 1 / (num_classes * f), with f clipped to
    [clipmin, clipmax]; a voxel that is not valid weighs 0.

    Parameters
    ----------
    ids, valid : (*spatial)
        0 to num_classes - 1; bool.

    Returns
    -------
    (*spatial) float32
    """
    _check_clips(clipmin, clipmax)
    count = np.bincount(ids[valid], minlength=num_classes)
    share = np.clip(count / max(1, count.sum()), clipmin, clipmax)
    return np.where(valid, (1 / (num_classes * share)).astype(np.float32)[ids], np.float32(0))


def _check_clips(clipmin: float, clipmax: float) -> None:
    if not 0 < clipmin <= clipmax < 1:
        raise GeometryError(f"fractions are clipped to [{clipmin}, {clipmax}], expected 0 < clipmin <= clipmax < 1")
