"""Label images: thresholds, components, renumbering, sizes. Imports checks; cc3d and fastremap where they are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError, GeometryError
from dacapo.ops.checks import check_labels, unsigned

_CONNECTIVITIES = {2: {1: 4, 2: 8}, 3: {1: 6, 2: 18, 3: 26}}
"""By number of axes, then by along how many axes at once two neighbours may differ."""


def threshold(prediction: np.ndarray, threshold: float, first_channel: int = 0) -> NDArray[np.uint8]:
    """1 where the prediction exceeds the threshold, else (also for NaN) 0; any shape, less the channels before the first."""
    return (prediction[first_channel:] > threshold).view(np.uint8)


def argmax(prediction: np.ndarray) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The channel with the highest value, the first of several: (C, *spatial) to (*spatial), uint16 beyond 256 channels."""
    return np.argmax(prediction, axis=0).astype(class_dtype(len(prediction)))


def class_dtype(num_classes: int) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    """The smallest type that holds the ids of so many classes."""
    return np.dtype(np.uint8) if num_classes <= 256 else np.dtype(np.uint16)


def detect(prediction: np.ndarray, threshold: float, min_size: int) -> NDArray[np.uint64]:
    """Connected objects of at least `min_size` voxels where any channel exceeds the threshold: (C, *spatial) to (*spatial)."""
    return filter_small(connected_components((prediction > threshold).any(0)), min_size).astype(np.uint64)


def class_ids(
    labels: NDArray[np.integer], valid: NDArray[np.bool_], classes: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The class of each voxel, of classes that exclude each other.

    Parameters
    ----------
    labels : (C, *spatial) whole numbers
        C = 1: ids of classes, 0 is the first. C = number of classes: not 0 in the channel of the voxel's class.
    valid : (M, *spatial) bool
        Where the labels say something; M is 1 or C.
    classes : sequence of str
        Their names.

    Returns
    -------
    ids : (*spatial)
        0 where no class is known.
    known : (*spatial) bool
        Where the labels are valid and name a class.

    Raises
    ------
    DataError
        If a valid voxel has an id that no class has, or several classes.
    """
    if len(labels) == 1:
        known = valid.any(0)
        ids = labels[0]
        wrong = known & ((ids < 0) | (ids >= len(classes)))
        if wrong.any():
            found = np.unique(ids[wrong])
            shown = ", ".join(str(i) for i in found[:8]) + (", ..." if len(found) > 8 else "")
            raise DataError(
                f"ids {shown} are none of the {len(classes)} classes (0 = {classes[0]} to {len(classes) - 1} = "
                f"{classes[-1]}): name more classes, relabel them, or say which id is unlabelled"
            )
        return np.where(known, ids, 0).astype(np.intp), known
    given = (labels != 0) & valid
    count = given.sum(0)
    if (count > 1).any():
        place = np.unravel_index(int(np.argmax(count > 1)), count.shape)
        both = " and ".join(name for name, one in zip(classes, given[(slice(None), *place)], strict=True) if one)
        raise DataError(
            f"a voxel is {both} at once: classes of a one-hot task exclude each other; use a distance or hot distance "
            f"task for classes that overlap"
        )
    return given.argmax(0), count == 1


def relabel_sequential(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], dict[int, int]]:
    """Number the objects 1..n in the order in which they first appear; 0 stays 0.

    Returns
    -------
    labels : of the shape and dtype given
    mapping : dict
        Old id -> new id, with 0 -> 0 where there is background.

    Raises
    ------
    DataError
        If labels are no whole numbers, or negative.
    """
    import fastremap

    labels = check_labels(labels)
    _refuse_negative(labels)
    bits = np.ascontiguousarray(unsigned(labels))
    renumbered, mapping = fastremap.renumber(bits, preserve_zero=True, in_place=False)
    return renumbered.astype(labels.dtype, copy=False), {int(old): int(new) for old, new in mapping.items()}


def connected_components(labels: NDArray[np.integer] | NDArray[np.bool_], connectivity: int = 1) -> NDArray[np.uint64]:
    """Give each connected piece of each object a number of its own, 1..n; 0 stays 0.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) bool or whole numbers
        A mask, or objects; voxels of different objects are never connected.
    connectivity : int
        Neighbours are the voxels that differ by at most one step along at most so many axes:
        1 through faces, 2 through edges too, 3 through corners too.

    Raises
    ------
    DataError, GeometryError
        If labels are no whole numbers, or the connectivity is not between 1 and their number of axes.
    """
    import cc3d

    labels = check_labels(labels)
    known = _CONNECTIVITIES[labels.ndim]
    if connectivity not in known:
        raise GeometryError(f"connectivity is {connectivity}, expected one of {list(known)} for {labels.ndim} axes")
    components = cc3d.connected_components(
        np.ascontiguousarray(unsigned(labels)), connectivity=known[connectivity], out_dtype=np.uint64
    )
    return np.asarray(components, np.uint64)


def filter_small(labels: NDArray[np.integer], min_size: int) -> NDArray[np.integer]:
    """A copy without the objects of fewer than `min_size` voxels; the other ids stay."""
    import fastremap

    labels = check_labels(labels)
    if min_size <= 1:
        return labels.copy()
    bits = np.ascontiguousarray(unsigned(labels))
    ids, counts = fastremap.unique(bits, return_counts=True)
    small = ids[(counts < min_size) & (ids != 0)]
    if not len(small):
        return labels.copy()
    return fastremap.mask(bits, small.tolist(), in_place=False).view(labels.dtype)


def unique_counts(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The ids that occur, ascending and with background, and the number of voxels of each."""
    import fastremap

    labels = check_labels(labels)
    _refuse_negative(labels)
    ids, counts = fastremap.unique(np.ascontiguousarray(unsigned(labels)), return_counts=True)
    return ids.astype(labels.dtype, copy=False), counts.astype(np.int64, copy=False)


def _refuse_negative(labels: np.ndarray) -> None:
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise DataError(f"labels hold {labels.min()}, expected 0 for background and positive ids for objects")
