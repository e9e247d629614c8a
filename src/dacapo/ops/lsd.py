"""Local shape descriptors (Sheridan et al., Nature Methods 2022). Imports checks.

`lsd_kernel`, scipy and fastremap are imported where they are used.

A Gaussian window around each voxel is looked at through the voxel's own object: how much of it the
object fills, where the object's centre of mass lies, and how it is spread around that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError
from dacapo.ops.checks import check_labels, check_lengths, unsigned

TRUNCATE = 3.0
"""Standard deviations after which the window ends."""
_LEAST_VARIANCE = 1e-3
"""Of a spread that a correlation is divided by, in squared world units."""


def local_shape_descriptors(
    labels: NDArray[np.integer],
    sigma: Sequence[float] | float,
    voxel_size: Sequence[float],
    *,
    downsample: int = 1,
) -> NDArray[np.float32]:
    """Statistics of each voxel's object in a Gaussian window around the voxel.

    In D = 3 (2) dimensions the channels are, each scaled to [0, 1] and clipped:

    - D: offset to the centre of mass / sigma * 0.5 + 0.5, by axis;
    - D: variance / sigma^2, by axis;
    - 3 (1): Pearson's correlation * 0.5 + 0.5, of the axes (0, 1), (0, 2), (1, 2);
    - 1: share of the window that the object fills.

    Parameters
    ----------
    labels : (Z, Y, X) or (Y, X) whole numbers
        Objects; 0 is background.
    sigma : float, one or one per axis
        Standard deviation of the window in world units; it ends after three of them.
    voxel_size : sequence of float
        In world units.
    downsample : int
        Compute on every so-manieth voxel of each axis, and repeat: faster and coarser.

    Returns
    -------
    (10, Z, Y, X) or (6, Y, X) float32
        0 in background.

    Raises
    ------
    DataError, GeometryError
        If labels are no whole numbers, or sigma or voxel size do not fit them.
    """
    labels = check_labels(labels)
    dims = labels.ndim
    voxel_size = check_lengths(voxel_size, dims, "voxel_size")
    sigma = check_lengths((sigma,) * dims if isinstance(sigma, (int, float)) else sigma, dims, "sigma")
    if downsample < 1:
        raise GeometryError(f"downsample is {downsample}, expected 1 or more")
    step = (downsample,) * dims
    descriptors = np.zeros((2 * dims + len(_pairs(dims)) + 1, *labels.shape), np.float32)
    windows = [_window(s, v * downsample) for s, v in zip(sigma, voxel_size, strict=True)]
    for number, box, labels_in_box in _objects(labels):
        inside = labels_in_box == number
        # Samples are the voxels of the whole volume whose indices are multiples of the step.
        first = [-(-b.start // n) for b, n in zip(box, step, strict=True)]
        sampled = inside[tuple(slice(f * n - b.start, None, n) for f, b, n in zip(first, box, step, strict=True))]
        if downsample == 1:
            where = np.flatnonzero(inside)
        else:
            # Samples below the box, so that each voxel of it has one.
            sampled = np.pad(sampled, [(f - b.start // n, 0) for f, b, n in zip(first, box, step, strict=True)])
            at = [(i + b.start) // n - b.start // n for i, b, n in zip(np.nonzero(inside), box, step, strict=True)]
            where = np.ravel_multi_index(at, sampled.shape)
        described = _scaled(_moments(sampled, windows), where, sigma)
        for channel, values in zip(descriptors, described, strict=True):
            channel[box][inside] = values
    return descriptors


def _pairs(dims: int) -> list[tuple[int, int]]:
    return list(combinations(range(dims), 2))


def _objects(labels: np.ndarray) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """A number for each object, its bounding box, and the numbers in that."""
    import fastremap
    from scipy.ndimage import find_objects

    numbers = fastremap.renumber(np.ascontiguousarray(unsigned(labels)), in_place=False)[0].astype(np.int32, copy=False)
    for number, box in enumerate(find_objects(numbers), 1):
        yield number, box, numbers[box]


def _window(sigma: float, voxel_size: float) -> NDArray[np.float32]:
    """(3, radius + 1): a normalised Gaussian by distance, its product with the distance, and with its square."""
    radius = int(TRUNCATE * sigma / voxel_size + 0.5)
    distance = np.arange(radius + 1) * voxel_size
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights /= 2 * weights.sum() - 1
    return np.stack([weights, weights * distance, weights * distance**2]).astype(np.float32)


def _moments(
    mask: NDArray[np.bool_], windows: Sequence[NDArray[np.float32]]
) -> dict[tuple[int, ...], NDArray[np.float32]]:
    """Moments of the mask around each voxel, by their order along each axis; in all at most 2."""
    from dacapo.ops.lsd_kernel import moments_along

    moments: dict[tuple[int, ...], NDArray[np.float32]] = {(): mask.astype(np.float32)}
    for window in reversed(windows):
        further = {}
        for known, moment in moments.items():
            # The axis at hand comes first: then whole planes are added up. After all axes the order is the old one.
            moment = np.ascontiguousarray(np.moveaxis(moment, -1, 0))
            out = np.empty((3 - sum(known), *moment.shape), np.float32)
            moments_along(moment.reshape(len(moment), -1), window, len(out), out.reshape(len(out), len(moment), -1))
            further |= {(order, *known): found for order, found in enumerate(out)}
        moments = further
    return moments


def _scaled(
    moments: dict[tuple[int, ...], NDArray[np.float32]], where: NDArray[np.intp], sigma: Sequence[float]
) -> Iterator[NDArray[np.float32]]:
    """The channels, each at the voxels with the flat indices `where`."""
    dims = len(sigma)

    def moment(*axes: int) -> NDArray[np.float32]:
        return moments[tuple(axes.count(a) for a in range(dims))].ravel()[where]

    mass = moment()
    share = np.divide(1, mass, where=mass > 0, out=np.zeros_like(mass))
    mean = [moment(a) * share for a in range(dims)]
    variance = [np.maximum(moment(a, a) * share - mean[a] ** 2, _LEAST_VARIANCE) for a in range(dims)]
    for a in range(dims):
        yield _unit(mean[a] / np.float32(2 * sigma[a]) + np.float32(0.5))
    for a in range(dims):
        yield _unit(variance[a] / np.float32(sigma[a] ** 2))
    for a, b in _pairs(dims):
        covariance = moment(a, b) * share - mean[a] * mean[b]
        yield _unit(covariance / np.sqrt(variance[a] * variance[b]) * np.float32(0.5) + np.float32(0.5))
    yield _unit(mass)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(values, 0, 1, out=values)
