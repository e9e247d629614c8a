"""affinities and balance_weights against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.errors import DataError, GeometryError
from dacapo.ops.affinities import affinities, affinity_target, balance_weights


def brute(labels, neighborhood, background_as_object, mask):
    affs = np.zeros((len(neighborhood), *labels.shape), np.uint8)
    known = np.zeros(affs.shape, bool)
    for i, offset in enumerate(neighborhood):
        for p in itertools.product(*map(range, labels.shape)):
            q = tuple(a + o for a, o in zip(p, offset, strict=True))
            if all(0 <= a < n for a, n in zip(q, labels.shape, strict=True)):
                both_objects = background_as_object or (labels[p] > 0 and labels[q] > 0)
                affs[(i, *p)] = labels[p] == labels[q] and both_objects
                known[(i, *p)] = mask[p] and mask[q]
    return affs, known


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("background_as_object", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, bool])
def test_equals_the_definition(dims, background_as_object, dtype):
    """Each pair is looked at as written, for any sign of offset, also those that leave the array."""
    rng = np.random.default_rng(dims)
    labels = rng.integers(0, 2 if dtype is bool else 3, (4, 5, 6)[:dims]).astype(dtype)
    mask = rng.random(labels.shape) < 0.8
    offsets = [(1, 0, 0), (0, -1, 0), (-2, 1, 0), (0, 5, 0), (9, 0, 0), (1, 2, -3)]
    offsets = [o[:dims] for o in offsets]
    found = affinities(labels, offsets, background_as_object=background_as_object, mask=mask)
    for a, b in zip(found, brute(labels, offsets, background_as_object, mask), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_ids_beyond_float_precision_are_told_apart():
    """Ids that differ in the last of 64 bits are different objects."""
    labels = np.array([[2**63, 2**63 + 1, 2**63 + 1]], np.uint64)
    np.testing.assert_array_equal(affinities(labels, [(0, 1)])[0][0], [[0, 1, 0]])


@settings(deadline=None, max_examples=25)
@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 99))
def test_an_offset_and_its_negative_say_the_same(y, x, seed):
    """The affinity of p to p + n is that of p + n to p."""
    if (y, x) == (0, 0):
        return
    labels = np.random.default_rng(seed).integers(0, 3, (6, 7))
    affs, known = affinities(labels, [(y, x), (-y, -x)])
    back = np.roll(affs[1], (-y, -x), (0, 1))
    np.testing.assert_array_equal(affs[0][known[0]], back[known[0]])


def test_says_what_does_not_fit():
    """Float labels, offsets of another dimension, zero offsets and masks of another shape are refused."""
    with pytest.raises(DataError, match="float64"):
        affinities(np.zeros((3, 3)), [(0, 1)])
    for offsets in ([(0, 0, 1)], [(0, 0)], []):
        with pytest.raises(GeometryError, match="neighborhood"):
            affinities(np.zeros((3, 3), int), offsets)
    with pytest.raises(GeometryError, match="mask"):
        affinities(np.zeros((3, 3), int), [(0, 1)], mask=np.ones((3, 4), bool))
    with pytest.raises(GeometryError, match="spatial axes"):
        affinities(np.zeros(3, int), [(1,)])


def test_balanced_classes_weigh_the_same():
    """Both classes have the same total weight; what is not valid has none."""
    rng = np.random.default_rng(0)
    target, valid = rng.random((2, 20, 30)) < 0.2, rng.random((2, 20, 30)) < 0.7
    weights = balance_weights(target, valid)
    assert weights.dtype == np.float32
    for w, t, v in zip(weights, target, valid, strict=True):
        assert not w[~v].any()
        assert w[v & t].sum() == pytest.approx(v.sum() / 2, rel=1e-5)
        assert w[v & ~t].sum() == pytest.approx(v.sum() / 2, rel=1e-5)
    np.testing.assert_array_equal(weights, balance_weights(target.astype(np.uint8) * 7, valid))


def test_fractions_are_clipped():
    """A rare class does not get unbounded weight, an absent one does no harm, nothing valid weighs nothing."""
    target = np.zeros((1, 10, 10), bool)
    target[0, 0, 0] = True
    weights = balance_weights(target, np.ones_like(target))
    assert weights[0, 0, 0] == pytest.approx(1 / (2 * 0.05))
    assert weights[0, 1, 1] == pytest.approx(1 / (2 * 0.95))
    assert not balance_weights(target, np.zeros_like(target)).any()
    with pytest.raises(GeometryError, match="clipmin"):
        balance_weights(target, target, clipmin=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("clips", [None, (0.05, 0.95), (0.3, 0.4)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_target_is_affinities_and_their_weights_cut(dims, clips, masked):
    """To the last bit: affinities as float32 and the weights of all pairs, of the part that is asked for."""
    rng = np.random.default_rng(dims)
    labels = rng.integers(0, 3, (9, 8, 10)[:dims])
    mask = rng.random(labels.shape) < 0.8 if masked else None
    offsets = [o[:dims] for o in [(1, 0, 0), (0, -3, 0), (-2, 1, 0), (0, 8, 0), (9, 1, 1)]]
    inner = (slice(2, 7), slice(3, 6), slice(1, 9))[:dims]
    affs, known = affinities(labels, offsets, mask=mask)
    one = known.astype(np.float32) if clips is None else plain_weights(affs, known, *clips)
    target, weight = affinity_target(labels, offsets, mask=mask, clips=clips, inner=inner)
    assert target.dtype == weight.dtype == np.float32
    np.testing.assert_array_equal(target, affs[(slice(None), *inner)])
    np.testing.assert_array_equal(weight, one[(slice(None), *inner)])
    np.testing.assert_array_equal(affinity_target(labels, offsets, mask=mask, clips=clips)[1], one)
    if clips is not None:
        np.testing.assert_array_equal(balance_weights(affs, known, clipmin=clips[0], clipmax=clips[1]), one)


def plain_weights(affs, known, low, high):
    """Balanced weights as numpy has them, in the order in which they have always been rounded."""
    out = np.empty(affs.shape, np.float32)
    for ones, counted, weights in zip(affs > 0, known, out, strict=True):
        share = (ones & counted).sum() / max(counted.sum(), 1)
        of_ones, of_zeros = (np.float32(0.5 / min(max(f, low), high)) for f in (share, 1 - share))
        weights[:] = (ones * (of_ones - of_zeros) + of_zeros) * counted
    return out
