"""Distances against the doubled grid and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dacapo.errors import DataError, GeometryError
from dacapo.ops.distances import border_distance, signed_distance


def doubled(labels, voxel_size, mask=None):
    """The definition: a grid with a node for each voxel and each face, and scipy's transform to the faces."""
    mask = np.ones(labels.shape, bool) if mask is None else mask
    boundary = np.zeros([2 * n - 1 for n in labels.shape], bool)
    for axis in range(labels.ndim):
        here, there = ((slice(None),) * axis + (s,) for s in (slice(None, -1), slice(1, None)))
        face = tuple(slice(1 if a == axis else 0, None, 2) for a in range(labels.ndim))
        boundary[face] = (labels[here] != labels[there]) & mask[here] & mask[there]
    if boundary.any():
        distance = ndimage.distance_transform_edt(~boundary, sampling=np.divide(voxel_size, 2))
        distance = distance[(slice(None, None, 2),) * labels.ndim]
    else:
        distance = np.full(labels.shape, min(np.multiply(labels.shape, voxel_size)) / 2)
    return np.where(labels > 0, distance, -distance)


def blobs(rng, shape, count):
    points = rng.random((count, len(shape))) * shape
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return ((where[..., None, :] - points) ** 2).sum(-1).argmin(-1) // 2


@pytest.mark.parametrize("voxel_size", [(1, 1), (4, 8), (4, 4, 4), (40, 4, 5.24), (3, 30, 30)])
@pytest.mark.parametrize("kind", ["blobs", "noise", "slab"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_doubled_grid(voxel_size, kind, masked):
    """The exact distance to face centres, for smooth and wild labels, boxes of any aspect, with and without mask."""
    rng = np.random.default_rng(3)
    for size in ((19, 23, 31), (1, 9, 33), (7, 1, 40)):
        shape = size[-len(voxel_size) :]
        if kind == "blobs":
            labels = blobs(rng, shape, 9)
        elif kind == "noise":
            labels = (rng.random(shape) < 0.02) * rng.integers(1, 3, shape)
        else:
            labels = np.zeros(shape, int)
            labels[..., 2:5] = 1
        mask = ndimage.uniform_filter(rng.random(shape), 5) > 0.48 if masked else None
        found = signed_distance(labels, voxel_size, mask=mask)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, doubled(labels, voxel_size, mask), rtol=2e-6, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.floats(0.3, 50)] * 3))
def test_equals_the_doubled_grid_for_any_grid(seed, shape, voxel_size):
    """The same for small volumes of any shape and voxel size."""
    labels = np.random.default_rng(seed).integers(0, 2, shape)
    np.testing.assert_allclose(signed_distance(labels, voxel_size), doubled(labels, voxel_size), rtol=1e-5)


def test_touching_objects_have_a_boundary():
    """Half a voxel on both sides, positive in both; background is negative."""
    labels = np.array([[0, 0, 2**63, 2**63, 5, 5]], np.uint64)
    np.testing.assert_allclose(signed_distance(labels, (4, 10)), [[-15, -5, 5, 5, 5, 15]])


def test_without_a_boundary_distances_are_half_the_shortest_side():
    """The sign still says whether it is inside; an empty array is no error; bool is fine."""
    assert (signed_distance(np.ones((4, 10, 10), bool), (10, 8, 8)) == 20).all()
    assert (signed_distance(np.zeros((4, 10, 5), np.uint8), (40, 8, 8)) == -20).all()
    assert signed_distance(np.zeros((0, 4), int), (1, 1)).shape == (0, 4)


def test_clipping():
    """Distances beyond max_distance are clipped on both sides."""
    labels = np.repeat([[0, 1]], 10, axis=1)
    full = signed_distance(labels, (1, 1))
    np.testing.assert_array_equal(signed_distance(labels, (1, 1), max_distance=3), full.clip(-3, 3))
    with pytest.raises(DataError, match="max_distance"):
        signed_distance(labels, (1, 1), max_distance=0)
    with pytest.raises(GeometryError, match="voxel_size"):
        signed_distance(labels, (1, 1, 1))


@pytest.mark.parametrize("voxel_size", [(1, 2), (40, 4, 5.24)])
def test_border_distance_sees_outside_as_masked(voxel_size):
    """The same as scipy's transform of the mask in a frame of zeros: whole voxels, not halves."""
    mask = np.random.default_rng(0).random((9, 10, 11)[-len(voxel_size) :]) < 0.97
    framed = np.pad(mask, 1)
    expected = ndimage.distance_transform_edt(framed, sampling=voxel_size)[(slice(1, -1),) * mask.ndim]
    np.testing.assert_allclose(border_distance(mask, voxel_size), expected, rtol=1e-6)
    assert not border_distance(mask, voxel_size)[~mask].any()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 13), min_size=2, max_size=3), st.sampled_from([0.003, 0.05, 0.4]), st.integers(0, 2**32 - 1),
    st.sampled_from([0, 3, 24]),
)  # fmt: skip
def test_distances_to_a_mask_are_those_of_scipy(shape: list[int], share: float, seed: int, far: int) -> None:
    """Near and far, in 2D and 3D, with voxels of any shape: to 1e-6 of scipy's, whichever algorithm takes over."""
    from unittest.mock import patch

    from scipy.ndimage import distance_transform_edt

    from dacapo.ops import distances

    mask = np.random.default_rng(seed).random(shape) < share
    size = (8.0, 5.24, 4.0)[-len(shape) :]
    with patch.object(distances, "FAR", far):
        found = distances.distance_to(mask, size)
    assert found.dtype == np.float32
    expected = distance_transform_edt(~mask, sampling=size) if mask.any() else np.full(shape, np.inf)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_single_voxel_far_away_does_not_take_long() -> None:
    """Where distances are large, the algorithm that does not mind is taken."""
    from unittest.mock import patch

    from dacapo.ops import distances

    mask = np.zeros((40, 150, 150), bool)
    mask[0, 0, 0] = True
    with patch.object(distances, "_distance_far_away", wraps=distances._distance_far_away) as far:
        found = distances.distance_to(mask, (1.0, 1.0, 1.0))
    assert far.called
    assert found[39, 149, 149] == pytest.approx(np.sqrt(39**2 + 2 * 149**2))
