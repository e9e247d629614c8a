"""Distances to the boundaries of objects. Imports checks and distance_kernel; edt where it is used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError
from dacapo.ops.checks import check_dims, check_labels, check_lengths, check_mask


def signed_distance(
    labels: NDArray[np.integer] | NDArray[np.bool_],
    voxel_size: Sequence[float],
    *,
    max_distance: float | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Distance from each voxel's centre to the nearest boundary, positive in objects and negative outside.

    The boundary is made of the centres of the faces between two neighbouring voxels whose labels
    differ: the first voxel on either side of a flat boundary has half a voxel. Where two objects touch there is
    a boundary between them. If there is none at all, distances are half the shortest side of the block.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) bool or whole numbers
        Objects; 0 and below is background.
    voxel_size : sequence of float
        In world units, in the order of the axes.
    max_distance : float, optional
        In world units: distances are clipped to ± this.
    mask : bool, optional
        True where labels are known: faces of other voxels are no boundary. Everywhere by default.

    Returns
    -------
    float32 of the shape of `labels`, in world units

    Raises
    ------
    DataError, GeometryError
        If labels are no whole numbers, or voxel size or mask do not fit them.
    """
    labels = check_labels(labels)
    voxel_size = check_lengths(voxel_size, labels.ndim, "voxel_size")
    if max_distance is not None and not max_distance > 0:
        raise DataError(f"max_distance is {max_distance}, expected a positive length or None")
    mask = check_mask(mask, labels.shape)
    squared = _squared_face_distance(labels, voxel_size, mask)
    if squared is None:
        half = min((n * v / 2 for n, v in zip(labels.shape, voxel_size, strict=True)), default=0.0)
        distance = np.full(labels.shape, half, np.float32)
    else:
        distance = np.sqrt(squared, out=squared)
    if max_distance is not None:
        np.minimum(distance, np.float32(max_distance), out=distance)
    return np.negative(distance, out=distance, where=labels <= 0)


def _squared_face_distance(
    labels: np.ndarray, voxel_size: tuple[float, ...], mask: np.ndarray | None
) -> NDArray[np.float32] | None:
    """To the nearest face centre; None if no faces part any labels.

    The faces across one axis are a lattice of their own, half a voxel off along that axis: along
    it a scan gives the distance, which is then spread along the other two. What is spread may hold
    more than that, where it makes voxels stop looking earlier and is itself a distance to a face
    that is only ever spread across it.
    """
    from dacapo.ops.distance_kernel import distance_along_axis
    from dacapo.ops.distance_kernel import spread_along_axis as spread

    shape = (1,) * (3 - labels.ndim) + labels.shape
    spacing = (1.0,) * (3 - labels.ndim) + voxel_size
    known = None if mask is None else mask.reshape(shape)
    across = []
    for axis in range(3):
        faces = _faces(labels.reshape(shape), axis, known)
        across.append(np.full(labels.size, np.inf, np.float32))
        if faces.any():
            distance_along_axis(faces, shape, axis, spacing[axis], across[axis])
    z, y, x = across
    in_plane = np.minimum(y, x)
    most = max(shape)  # to the end
    spread(x, shape, 1, spacing[1], in_plane, most)
    spread(y, shape, 2, spacing[2], in_plane, most)
    nearest = np.minimum(in_plane, z)
    if shape[0] > 1:
        spread(in_plane, shape, 0, spacing[0], nearest, most)
        along_x = np.minimum(z, x)
        spread(z, shape, 2, spacing[2], along_x, most)
        np.minimum(nearest, along_x, out=nearest)
        spread(along_x, shape, 1, spacing[1], nearest, most)
    if nearest.size == 0 or np.isinf(nearest[0]):
        return None
    return nearest.reshape(labels.shape)


def _faces(labels: np.ndarray, axis: int, mask: np.ndarray | None) -> NDArray[np.bool_]:
    """Whether there is a boundary between each voxel and the next along the axis, flat."""
    faces = np.zeros(labels.shape, bool)
    here, there = ((slice(None),) * axis + (s,) for s in (slice(None, -1), slice(1, None)))
    np.not_equal(labels[here], labels[there], out=faces[here])
    if mask is not None:
        faces[here] &= mask[here] & mask[there]
    return faces.ravel()


def border_distance(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> NDArray[np.float32]:
    """Distance from each voxel's centre to the nearest centre of a voxel outside the mask or the array.

    Parameters
    ----------
    mask : (Z, Y, X) or (Y, X) bool
        True where something is known.
    voxel_size : sequence of float
        In world units, in the order of the axes.

    Returns
    -------
    float32 of the shape of `mask`, in world units; 0 outside the mask
    """
    from edt import edt

    mask = np.asarray(mask, bool)
    check_dims(mask.ndim, "the mask", mask.shape)
    voxel_size = check_lengths(voxel_size, mask.ndim, "voxel_size")
    distance = edt(np.ascontiguousarray(mask), anisotropy=voxel_size, black_border=True, parallel=1)
    return np.asarray(distance, np.float32)


FAR = 24
"""Voxels that a row may look at to each side, on average, before the algorithm that does not mind distance takes over."""


def distance_to(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> NDArray[np.float32]:
    """From each voxel's centre to that of the nearest voxel of the mask, in world units; infinite if it has none.

    Parameters
    ----------
    mask : (Z, Y, X) or (Y, X) bool
    voxel_size : sequence of float
        In world units, in the order of the axes.
    """
    from dacapo.ops.distance_kernel import spread_along_axis, voxels_along_first_axis

    mask = np.ascontiguousarray(mask, bool)
    check_dims(mask.ndim, "the mask", mask.shape)
    voxel_size = check_lengths(voxel_size, mask.ndim, "voxel_size")
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    shape, spacing = (1,) * (3 - mask.ndim) + mask.shape, (1.0,) * (3 - mask.ndim) + voxel_size
    along = np.empty(mask.size, np.float32)
    voxels_along_first_axis(mask.ravel(), shape, spacing[0], along)
    for axis in (1, 2):
        nearest = along.copy()
        if not spread_along_axis(along, shape, axis, spacing[axis], nearest, FAR):
            return _distance_far_away(mask, voxel_size)
        along = nearest
    return np.sqrt(along, out=along).reshape(mask.shape)


def _distance_far_away(mask: NDArray[np.bool_], voxel_size: tuple[float, ...]) -> NDArray[np.float32]:
    from edt import edt

    return np.asarray(edt(~mask, anisotropy=voxel_size, black_border=False, parallel=1), np.float32)
