"""Descriptors against sums over all pairs of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dacapo.errors import DataError, GeometryError
from dacapo.ops.lsd import TRUNCATE, local_shape_descriptors


def cells(seed, shape, count):
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
    return cdist(where, rng.random((count, len(shape))) * shape).argmin(1).reshape(shape)


def weights_1d(apart, sigma, voxel_size):
    """A sampled Gaussian, normalised over its window, for voxels `apart`."""
    radius = int(TRUNCATE * sigma / voxel_size + 0.5)
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) * voxel_size / sigma) ** 2)
    return np.where(abs(apart) <= radius, np.exp(-0.5 * (apart * voxel_size / sigma) ** 2), 0) / window.sum()


def brute(labels, sigma, voxel_size):
    """For each voxel, the weighted mean and covariance of the positions of all voxels of its object."""
    dims = labels.ndim
    pairs = list(itertools.combinations(range(dims), 2))
    result = np.zeros((2 * dims + len(pairs) + 1, *labels.shape))
    for p in map(tuple, np.argwhere(labels != 0)):
        voxels = np.argwhere(labels == labels[p])
        weight = np.prod([weights_1d(voxels[:, d] - p[d], sigma[d], voxel_size[d]) for d in range(dims)], axis=0)
        positions = (voxels - p) * np.asarray(voxel_size)
        mean = weight @ positions / weight.sum()
        centred = positions - mean
        covariance = (weight[:, None] * centred).T @ centred / weight.sum()
        variance = np.maximum(np.diag(covariance), 1e-3)
        result[(slice(None), *p)] = [
            *(mean / sigma / 2 + 0.5),
            *(variance / np.square(sigma)),
            *(covariance[a, b] / np.sqrt(variance[a] * variance[b]) / 2 + 0.5 for a, b in pairs),
            weight.sum(),
        ]
    return result.clip(0, 1)


@pytest.mark.parametrize(
    ("shape", "voxel_size", "sigma"),
    [((17, 20), (4, 4), (10, 10)), ((15, 20), (8, 4.1), (12, 20)), ((9, 10, 11), (4, 4, 4), (8, 8, 8)),
     ((7, 12, 13), (30, 4, 4), (45, 16, 12))],
)  # fmt: skip
def test_equals_the_definition(shape, voxel_size, sigma):
    """The same as brute force over pairs of voxels, isotropic and not, 0 in background."""
    labels = cells(0, shape, 5)
    labels[labels == 1] = 2  # an object of two parts
    found = local_shape_descriptors(labels.astype(np.uint64) * 2**60, sigma, voxel_size)
    expected = brute(labels, sigma, voxel_size)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found - expected).mean() < 2e-6
    assert not found[:, labels == 0].any()


def test_lines_longer_than_the_window_and_the_tiles():
    """What is skipped outside the band is zero."""
    labels = np.ones((3, 200), np.uint8)
    labels[1, 60:] = 2
    np.testing.assert_allclose(local_shape_descriptors(labels, 5.0, (1, 1)), brute(labels, (5, 5), (1, 1)), atol=2e-4)


def test_a_ball_points_to_its_middle():
    """Left of the centre of mass the offset is positive, and in the middle there is none."""
    z, y, x = np.mgrid[-8:9, -8:9, -8:9]
    described = local_shape_descriptors(z**2 + y**2 + x**2 < 50, 6, (1, 1, 1))
    np.testing.assert_allclose(described[:3, 8, 8, 8], 0.5, atol=1e-5)
    np.testing.assert_allclose(described[6:9, 8, 8, 8], 0.5, atol=1e-5)
    assert described[2, 8, 8, 3] > 0.55
    assert described[2, 8, 8, 13] < 0.45


@pytest.mark.parametrize("shape", [(20, 23), (12, 13, 14)])
def test_downsampling_is_close(shape):
    """Every second voxel tells nearly the same, for any extent, also for objects that begin at odd voxels."""
    labels = cells(1, shape, 3) + 1
    options = {"sigma": 8.0, "voxel_size": (1.0,) * len(shape)}
    full = local_shape_descriptors(labels, **options)
    half = local_shape_descriptors(labels, **options, downsample=2)
    assert half.shape == full.shape
    assert np.abs(full - half).mean() < 0.05
    thin = np.zeros(shape, int)
    thin[1] = 1  # no voxel of it is sampled
    assert np.isfinite(local_shape_descriptors(thin, **options, downsample=4)).all()
    sampled = local_shape_descriptors(labels[(slice(None, None, 2),) * labels.ndim], 8.0, [2.0] * labels.ndim)
    np.testing.assert_allclose(half[(slice(None),) + (slice(None, None, 2),) * labels.ndim], sampled, atol=1e-5)


def test_says_what_does_not_fit():
    """Float labels, wrong numbers of lengths and impossible steps are refused; nothing is no error."""
    with pytest.raises(DataError, match="float"):
        local_shape_descriptors(np.zeros((3, 3)), 1.0, (1, 1))
    with pytest.raises(GeometryError, match="sigma"):
        local_shape_descriptors(np.zeros((3, 3), int), (1.0, 1.0, 1.0), (1, 1))
    with pytest.raises(GeometryError, match="downsample"):
        local_shape_descriptors(np.zeros((3, 3), int), 1.0, (1, 1), downsample=0)
    assert not local_shape_descriptors(np.zeros((3, 3), int), 1.0, (1, 1)).any()
