"""Smooth deformations with rotation: drawn, bounded, and applied to images and labels. Imports warp_kernel,
checks, geometry.

A transform knows no voxels: it maps world units, relative to the centre of a box, to world units relative
to the centre of the array it is read from. So arrays of different voxel sizes are deformed alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError, GeometryError
from dacapo.geometry import Roi
from dacapo.ops.checks import check_dims, check_labels, check_lengths, unsigned
from dacapo.ops.warp_kernel import linear, nearest

_BOUND = 3.0
"""Displacements are cut off at so many standard deviations: a transform reads from a bounded box."""


@dataclass(frozen=True)
class Transform:
    """The point p of the output shows the source at R p + u(p), all in world units from the centres.

    u is smooth lattice noise: each lattice point has its own Gaussian displacement, a hash of `seed` and of
    the lattice index. In between, displacements are blended with the smoothstep 3t² - 2t³ along each axis.
    Hence u is defined everywhere, is the same for boxes of any size, and never exceeds 3 sigma.
    """

    matrix: tuple[tuple[float, ...], ...]
    """R, a rotation; one row per axis."""
    spacing: tuple[float, ...]
    """World units between lattice points, per axis."""
    sigma: tuple[float, ...]
    """Standard deviation of a lattice point's displacement, per axis, in world units."""
    phase: tuple[float, ...]
    """Where the centre of the box lies on the lattice, in spacings."""
    seed: int
    """Chooses the displacements; below 2**63."""

    @property
    def dims(self) -> int:
        return len(self.spacing)


def sample_transform(
    rng: np.random.Generator,
    *,
    control_point_spacing: Sequence[float],
    jitter_sigma: Sequence[float],
    rotation_interval: tuple[float, float] = (0.0, 0.0),
    uniform_3d_rotation: bool = False,
) -> Transform:
    """Draw a deformation.

    Parameters
    ----------
    rng : Generator
        The same state gives the same transform.
    control_point_spacing : one number per axis
        World units between control points.
    jitter_sigma : one number per axis
        Standard deviation of a control point's displacement in world units; cut off at 3 sigma.
    rotation_interval : (float, float)
        Angles in radians, uniform, in the plane of the last two axes; positive angles show the content
        turned from the last axis to the last but one (`numpy.rot90` with k=-1 for pi/2).
    uniform_3d_rotation : bool
        Any rotation in space with the same probability instead; in 2D, any angle.

    Raises
    ------
    GeometryError
        If lengths do not fit or are not positive (sigma: negative).
    """
    dims = len(control_point_spacing)
    check_dims(dims, "control points", tuple(control_point_spacing))
    spacing = check_lengths(control_point_spacing, dims, "control_point_spacing")
    sigma = tuple(float(s) for s in jitter_sigma)
    if len(sigma) != dims or not all(0 <= s < math.inf for s in sigma):
        raise GeometryError(f"jitter_sigma is {sigma}, expected {dims} numbers that are not negative, one per axis")
    seed, phase = int(rng.integers(2**63)), tuple(float(v) for v in rng.random(dims))
    if uniform_3d_rotation and dims == 3:
        matrix = _rotation_in_space(rng.standard_normal(4))
    else:
        matrix = np.eye(dims)
        low, high = (0.0, 2 * math.pi) if uniform_3d_rotation else rotation_interval
        angle = float(rng.uniform(low, high))
        cos, sin = math.cos(angle), math.sin(angle)
        matrix[-2:, -2:] = [[cos, -sin], [sin, cos]]
    rows = tuple(tuple(float(v) for v in row) for row in matrix)
    return Transform(rows, spacing, sigma, phase, seed)


def source_shape(transform: Transform, out_shape: Sequence[int], voxel_size: Sequence[float]) -> tuple[int, ...]:
    """The smallest box, of the same centre, that has all voxels a box of `out_shape` may be made of.

    Along each axis it is as odd or even as `out_shape`; it may be smaller than it where a long box is turned.
    """
    shape, matrix, _ = _in_voxels(transform, out_shape, voxel_size)
    half = (np.array(shape) - 1) / 2
    reach = np.abs(matrix) @ half + _BOUND * np.array(transform.sigma) / np.array(voxel_size, float)
    more = np.ceil(reach - half - 1e-9).astype(int)
    return tuple(int(n + 2 * m) for n, m in zip(shape, more, strict=True))


def apply_linear(
    image: NDArray[np.floating] | NDArray[np.integer],
    transform: Transform,
    out_shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    box: Roi | None = None,
    top: float = 1,
) -> NDArray[np.float32]:
    """Deform an image by linear interpolation; beyond its border it is mirrored (the border voxel once).

    Parameters
    ----------
    image : (C, Z, Y, X) or (C, Y, X)
        uint8, uint16 and float32 are read as they are, other types are converted first.
    transform : Transform
    out_shape : voxels per spatial axis
    voxel_size : world units per spatial axis, of image and output
    box : Roi, optional
        In voxels of the image: its centre is the centre of the output. All of the image by default. It may stick out,
        and nothing but its centre counts: `source_shape` tells how large an image must be for not being left.
    top : float
        What the result is divided by.

    Returns
    -------
    (C, *out_shape) float32

    Raises
    ------
    GeometryError, DataError
        If the numbers of axes differ, or there are no voxels.
    """
    image = np.asarray(image)
    _check_axes(transform, image.shape[1:])
    shape, matrix, per_voxel = _in_voxels(transform, out_shape, voxel_size)
    lead = (1,) * (3 - transform.dims)
    kept = image.dtype if image.dtype in (np.uint8, np.uint16) else np.dtype(np.float32)
    source = np.ascontiguousarray(image, kept).reshape(len(image), *lead, *image.shape[1:])
    out = np.empty((len(image), *lead, *shape), np.float32)
    linear(
        source,
        out,
        *_centred(image.shape[1:], box),
        np.float32(top),
        *_plan(transform, shape, matrix, per_voxel, voxel_size),
    )
    return out.reshape(len(image), *shape)


def apply_nearest(
    labels: NDArray[np.integer] | NDArray[np.bool_],
    transform: Transform,
    out_shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    box: Roi | None = None,
    within: NDArray[np.bool_] | None = None,
) -> NDArray[np.integer] | NDArray[np.bool_]:
    """Deform labels or a mask: each voxel is copied from the nearest one, or is 0 beyond the border.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) whole numbers or bool
        Any type; ids are copied bit by bit.
    transform, out_shape, voxel_size, box
        As for `apply_linear`; the voxel size is that of the labels.
    within : bool (out_shape), contiguous, optional
        Is filled with where there is a nearest voxel.

    Returns
    -------
    out_shape, same dtype

    Raises
    ------
    GeometryError, DataError
        If the numbers of axes differ, there are no voxels, or labels are no whole numbers.
    """
    labels = check_labels(labels)
    _check_axes(transform, labels.shape)
    shape, matrix, per_voxel = _in_voxels(transform, out_shape, voxel_size)
    lead = (1,) * (3 - transform.dims)
    native = np.ascontiguousarray(labels, labels.dtype.newbyteorder("="))
    out = np.empty((*lead, *shape), native.dtype)
    source = unsigned(native).reshape(*lead, *labels.shape)
    known = np.empty((0, 0, 0), bool) if within is None else within.reshape(out.shape)
    nearest(
        source,
        unsigned(out),
        known,
        *_centred(labels.shape, box),
        *_plan(transform, shape, matrix, per_voxel, voxel_size),
    )
    return out.reshape(shape)


def _centred(shape: tuple[int, ...], box: Roi | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Begin and shape of the box whose centre is that of the output, with a leading axis of one voxel in 2D."""
    missing = 3 - len(shape)
    begin, size = ((0,) * len(shape), shape) if box is None else (tuple(box.begin), tuple(box.shape))
    return (0,) * missing + tuple(int(b) for b in begin), (1,) * missing + tuple(int(n) for n in size)


def _rotation_in_space(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation of a quaternion of any length; uniform over all rotations if its entries are normal."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _check_axes(transform: Transform, shape: tuple[int, ...]) -> None:
    if len(shape) != transform.dims:
        raise GeometryError(f"a volume of shape {shape} has {len(shape)} spatial axes, the transform {transform.dims}")
    if 0 in shape:
        raise DataError(f"a volume of shape {shape} has no voxels to deform")


def _in_voxels(
    transform: Transform, out_shape: Sequence[int], voxel_size: Sequence[float]
) -> tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
    """The shape, checked; the rotation as a map of voxel offsets; voxels per world unit."""
    size = np.array(check_lengths(voxel_size, transform.dims, "voxel_size"))
    shape = tuple(int(n) for n in out_shape)
    if len(shape) != transform.dims or min(shape) < 1:
        raise GeometryError(f"out_shape is {shape}, expected {transform.dims} positive numbers of voxels")
    # Ratios first: they are exactly 1 on the diagonal, so that no rotation leaves voxels where they are.
    return shape, np.array(transform.matrix) * (size[None, :] / size[:, None]), 1 / size


_Plan = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def _plan(
    transform: Transform,
    shape: tuple[int, ...],
    matrix: NDArray[np.float64],
    per_voxel: NDArray[np.float64],
    voxel_size: Sequence[float],
) -> _Plan:
    """What the kernels need, with a leading axis of one voxel in 2D.

    The rotation (3, 3) in voxels; the lattice's displacements (3, *lattice) in voxels; then, for the voxels
    of all three axes one after another, the lattice cell and the blending weight; and where axes start.
    """
    missing = 3 - transform.dims
    cells, weights, lattice = [np.zeros(1, np.int64)] * missing, [np.zeros(1)] * missing, []
    for n, size, spacing, phase in zip(shape, voxel_size, transform.spacing, transform.phase, strict=True):
        place = (np.arange(n) - (n - 1) / 2) * (float(size) / spacing) + phase
        cell = np.floor(place)
        t = place - cell
        lattice.append(np.arange(int(cell[0]), int(cell[-1]) + 2))
        cells.append((cell - cell[0]).astype(np.int64))
        weights.append(t * t * (3 - 2 * t))
    rotation = np.eye(3)
    rotation[missing:, missing:] = matrix
    displacements = np.zeros((3, *(2,) * missing, *map(len, lattice)))
    for axis, (sigma, scale) in enumerate(zip(transform.sigma, per_voxel, strict=True)):
        if sigma:
            displacements[missing + axis] = _noise(transform.seed, axis, lattice) * (sigma * scale)
    starts = np.cumsum([0, *map(len, cells)])[:3]
    return rotation, displacements, np.concatenate(cells), np.concatenate(weights), starts


def _noise(seed: int, axis: int, lattice: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Standard normal numbers, cut off, that depend on nothing but seed, axis, and lattice index."""
    state = _mixed(np.array([seed], np.uint64) + np.uint64(axis))
    for indices in np.meshgrid(*lattice, indexing="ij", sparse=True):
        state = _mixed(state ^ indices.astype(np.uint64))
    # Box and Muller 1958, with the first uniform number in (0, 1].
    first = ((state >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
    second = (_mixed(state) >> np.uint64(11)) * 2.0**-53
    return np.clip(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second), -_BOUND, _BOUND)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea and Flood 2014), modulo 2**64."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
