"""Targets and weights of every predictor against slow and obvious ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dacapo.errors import DataError
from dacapo.experiments.tasks.predictors import (
    AffinitiesPredictor,
    DistancePredictor,
    DummyPredictor,
    HotDistancePredictor,
    InnerDistancePredictor,
    OneHotPredictor,
)
from dacapo.geometry import Coordinate, Grid


def sample(seed: int, dims: int, channels: int, masks: int) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Boxy labels ([C,] *spatial), validity (M, *spatial) and an anisotropic grid."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(5, 10, dims))
    coarse = rng.integers(0, 3, (channels, *(-(-n // 3) for n in shape)))
    labels = np.kron(coarse, np.ones((1,) + (3,) * dims, int))[(slice(None), *map(slice, shape))]
    valid = ndimage.uniform_filter(rng.random((masks, *shape)), (0,) + (3,) * dims) > 0.4
    return labels[0] if channels == 1 else labels, valid, Grid((5.24, 4.0, 3.0)[-dims:])


def slow_distance(labels: np.ndarray, known: np.ndarray, grid: Grid) -> np.ndarray:
    """To the faces between known voxels of different labels, on a grid twice as fine, with scipy."""
    boundary = np.zeros([2 * n - 1 for n in labels.shape], bool)
    for axis in range(labels.ndim):
        here, there = ((slice(None),) * axis + (s,) for s in (slice(None, -1), slice(1, None)))
        face = tuple(slice(1 if a == axis else 0, None, 2) for a in range(labels.ndim))
        boundary[face] = (labels[here] != labels[there]) & known[here] & known[there]
    if boundary.any():
        distance = ndimage.distance_transform_edt(~boundary, sampling=np.divide(grid.voxel_size, 2))
        distance = distance[(slice(None, None, 2),) * labels.ndim]
    else:
        distance = np.full(labels.shape, min(np.multiply(labels.shape, grid.voxel_size)) / 2)
    return np.where(labels > 0, distance, -distance)


def slow_trust(squashed: np.ndarray, known: np.ndarray, grid: Grid, scale: float) -> np.ndarray:
    """Upstream's rule with whole voxels: nearer to the target than to what is unknown."""
    padded = np.pad(known, 1)
    border = ndimage.distance_transform_edt(padded, sampling=grid.voxel_size)[(slice(1, -1),) * known.ndim]
    return known & (np.clip(np.abs(squashed) + 0.05, 0, 0.8) < np.tanh(border / scale))


def slow_balance(ids: np.ndarray, known: np.ndarray, num: int, low: float, high: float) -> np.ndarray:
    """1 / (number of classes * clipped share of the known voxels), voxel by voxel."""
    weights = np.zeros(ids.shape)
    for place in itertools.product(*map(range, ids.shape)):
        if known[place]:
            share = (ids[known] == ids[place]).sum() / known.sum()
            weights[place] = 1 / (num * min(max(share, low), high))
    return weights


cases = given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.sampled_from([(1, 1), (2, 1), (2, 2)]), st.booleans())


@settings(deadline=None, max_examples=12)
@cases
def test_distances_equal_the_slow_ones(seed: int, dims: int, shape: tuple[int, int], masked: bool) -> None:
    """Distance, inner and hot distance: tanh of scipy's distance to faces; weights balanced where that is trusted."""
    gt, valid, grid = sample(seed, dims, *shape)
    scale, names, low, high = 7.0, ["a", "b"], 0.1, 0.8
    labels = np.broadcast_to(gt, (2, *valid.shape[1:]))
    known = np.broadcast_to(valid, labels.shape)
    signed = np.tanh(np.stack([slow_distance(x, k, grid) for x, k in zip(labels, known, strict=True)]) / scale)
    inner = np.maximum(signed, 0)

    def weights(of: np.ndarray, only_trusted: bool) -> np.ndarray:
        trust = [slow_trust(t, k, grid, scale) if only_trusted else k for t, k in zip(of, known, strict=True)]
        return np.stack([slow_balance(x > 0, k, 2, low, high) for x, k in zip(labels, trust, strict=True)])

    how = {"mask_distances": masked, "clipmin": low, "clipmax": high}
    for predictor, target, weight in (
        (DistancePredictor(names, scale, **how), signed, weights(signed, masked)),
        (InnerDistancePredictor(names, scale, **how), inner, weights(inner, masked)),
        (
            HotDistancePredictor(names, scale, **how),
            np.concatenate([labels > 0, signed]),
            np.concatenate([weights(signed, False), weights(signed, masked)]),
        ),
    ):
        found = predictor.make_target(gt, valid, grid)
        assert [x.dtype for x in found] == [np.float32] * 2
        assert len(found[0]) == len(predictor.channels)
        np.testing.assert_allclose(found[0], target, atol=1e-5)
        np.testing.assert_allclose(found[1], weight, rtol=1e-5)
        low_end, high_end = predictor.value_range
        assert found[0].min() >= low_end
        assert found[0].max() <= high_end


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.booleans())
def test_classes_equal_the_slow_ones(seed: int, dims: int, as_channels: bool) -> None:
    """One channel per class that is 1 where the voxel is of it, and weights that balance all classes."""
    ids, valid, grid = sample(seed, dims, 1, 1)
    gt = np.stack([ids == i for i in range(3)]).astype(np.uint8) if as_channels else ids
    known = valid[0].copy()
    if as_channels:  # a voxel without a class says nothing
        gt[:, 0, 0] = 0
        known[0, 0] = False
    target, weight = OneHotPredictor(["x", "y", "z"], clipmin=0.1, clipmax=0.6).make_target(gt, valid, grid)
    for i in range(3):
        np.testing.assert_array_equal(target[i], (ids == i) & known)
        np.testing.assert_allclose(weight[i], slow_balance(ids, known, 3, 0.1, 0.6), rtol=1e-6)


def test_ids_of_no_class_are_named_unless_they_are_unknown() -> None:
    """Ids beyond the classes, and voxels of two classes, are errors that name them; not where validity is False."""
    predictor, grid = OneHotPredictor(["x", "y"]), Grid((1.0, 1.0))
    ids, valid = np.array([[0, 1], [7, 9]]), np.ones((1, 2, 2), bool)
    with pytest.raises(DataError, match=r"ids 7, 9 are none of the 2 classes \(0 = x to 1 = y\)"):
        predictor.make_target(ids, valid, grid)
    with pytest.raises(DataError, match="ids -1 "):
        predictor.make_target(-ids % 3 - 1, valid, grid)
    valid[0, 1] = False
    assert not predictor.make_target(ids, valid, grid)[1][:, 1].any()
    both = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(DataError, match="a voxel is x and y at once"):
        predictor.make_target(both, valid, grid)
    only_x = np.stack([np.ones((2, 2), bool), np.zeros((2, 2), bool)])
    target, weight = predictor.make_target(both, only_x, grid)  # y is not annotated, so x is all that is known
    assert target[0].all()
    assert weight.all()


def test_the_unknown_is_no_boundary() -> None:
    """Next to voxels that are not annotated, distances are those to the boundaries that are."""
    labels = np.zeros((1, 12), np.uint8)
    labels[0, 3:] = 1
    labels[0, 9:] = 255
    valid = np.arange(12)[None, None] < 9
    target, weight = DistancePredictor(["a"], 10, mask_distances=False).make_target(labels, valid, Grid((4.0, 4.0)))
    np.testing.assert_allclose(target[0, 0, 8], np.tanh(22 / 10), rtol=1e-5)
    assert not weight[0, 0, 9:].any()


def test_dummies_want_zeros_where_something_is_known() -> None:
    """Any ground truth, a target of zeros, weight 1 where it is valid."""
    gt, valid, grid = sample(1, 3, 2, 2)
    target, weight = DummyPredictor(4).make_target(gt, valid, grid)
    assert not target.any()
    np.testing.assert_array_equal(weight, np.broadcast_to(valid.any(0), weight.shape))
    assert DummyPredictor(4).channels == ["e0", "e1", "e2", "e3"]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_an_inner_target_is_the_target_cut(dims: int, masked: bool) -> None:
    """What is made of a part alone is, to the last bit, that part of the whole."""
    rng = np.random.default_rng(dims)
    shape, inner = (14, 15, 16)[:dims], (slice(3, 9), slice(2, 13), slice(4, 12))[:dims]
    gt = rng.integers(0, 2, (1, *shape)).astype(np.uint16)
    valid = rng.random((1, *shape)) < 0.8 if masked else np.ones((1, *shape), bool)
    offsets = [Coordinate(o[:dims]) for o in ((1, 0, 0), (0, -2, 1), (3, 3, 3))]
    for predictor in (
        AffinitiesPredictor(offsets),
        AffinitiesPredictor(offsets, balance=False, background_as_object=True),
        AffinitiesPredictor(offsets, lsds=True, num_voxels=1),
        DistancePredictor(["a"], 10),
        HotDistancePredictor(["a"], 10),
        OneHotPredictor(["a", "b"]),
        DummyPredictor(2),
    ):
        whole = predictor.make_target(gt, valid, Grid((4.0,) * dims))
        part = predictor.make_inner_target(gt, valid, Grid((4.0,) * dims), inner)
        for a, b in zip(part, whole, strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b[(slice(None), *inner)])
