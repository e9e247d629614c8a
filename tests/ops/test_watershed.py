"""The mutex watershed against a plain implementation of its definition."""

from __future__ import annotations

import itertools

import fastremap
import mwatershed
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dacapo.errors import DataError, GeometryError
from dacapo.ops.affinities import affinities, pair_slices
from dacapo.ops.agglomeration import border_sums
from dacapo.ops.metrics import contingency
from dacapo.ops.watershed import VoxelPairs, mutex_watershed, segment_affinities, short_long_bias

NEAR = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
FAR = [(2, 0, 0), (0, 3, 0), (0, 0, -3)]


def plain(affs, offsets, bias, strides):
    """Kruskal's algorithm with mutual exclusions, on sets of voxels."""
    shape = affs.shape[1:]
    edges = []
    for i, offset in enumerate(offsets):
        for p in itertools.product(*map(range, shape)):
            q = tuple(a + b for a, b in zip(p, offset, strict=True))
            lower = map(min, p, q)
            if any(a % s for a, s in zip(lower, strides[i], strict=True)):
                continue
            if all(0 <= a < n for a, n in zip(q, shape, strict=True)):
                edges.append((affs[(i, *p)] - bias[i], p, q))
    cluster = {p: frozenset([p]) for p in np.ndindex(shape)}
    apart = set()
    for weight, p, q in sorted(edges, key=lambda e: -abs(e[0])):
        if cluster[p] is cluster[q]:
            continue
        if weight < 0:
            apart.add(frozenset([p, q]))
        elif not any(frozenset(pair) in apart for pair in itertools.product(cluster[p], cluster[q])):
            both = cluster[p] | cluster[q]
            cluster.update(dict.fromkeys(both, both))
    numbers = {c: i for i, c in enumerate(dict.fromkeys(cluster.values()), 1)}
    return np.array([numbers[cluster[p]] for p in np.ndindex(shape)]).reshape(shape)


def same_partition(a, b):
    return contingency(a, b).voi(ignore_truth=()) == (0, 0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_is_the_mutex_watershed(dims, stride):
    """The same partition as the plain algorithm, per-offset biases, negative offsets and strides included."""
    shape = (3, 5, 6) if dims == 3 else (7, 8)
    offsets = [n[-dims:] for n in (NEAR + FAR) if any(n[-dims:])]
    affs = np.random.default_rng(dims).random((len(offsets), *shape)).astype(np.float32)
    bias = short_long_bias(offsets, 0.3, 0.6)
    strides = [(1,) * dims if max(map(abs, n)) == 1 else (stride,) * dims for n in offsets]
    found = mutex_watershed(affs, offsets, bias=bias, strides=strides)
    expected = plain(affs.astype(float), offsets, bias, strides)
    alone = found == 0  # nothing attracts these
    assert all(np.count_nonzero(expected == i) == 1 for i in expected[alone])
    assert same_partition(found[~alone][None], expected[~alone][None])
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(np.unique(found[~alone]), np.arange(1, found.max() + 1))


def cells(seed=0, shape=(12, 14, 16), count=6):
    rng = np.random.default_rng(seed)
    points = rng.random((count, 3)) * shape
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return ((where[..., None, :] - points) ** 2).sum(-1).argmin(-1).astype(np.uint64) + 1


def test_true_affinities_give_the_truth_back():
    """Objects, also with noise below the bias, other channels behind, and repeatedly the same."""
    truth = cells()
    offsets = NEAR + FAR
    affs = affinities(truth, offsets)[0].astype(np.float32)
    affs = affs * 0.6 + 0.4 * np.random.default_rng(0).random(affs.shape, np.float32)
    extended = np.concatenate([affs, np.full((10, *truth.shape), np.nan, np.float32)])
    before = extended.copy()
    found = segment_affinities(extended, offsets, bias=0.5, bias_long=0.5, min_size=5)
    assert same_partition(found, truth)
    np.testing.assert_array_equal(before, extended)
    np.testing.assert_array_equal(found, segment_affinities(extended, offsets, 0.5, 0.5, 5))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_equals_mwatershed_where_nothing_is_tied(seed, dtype, smooth):
    """The labels are those of mwatershed, numbered from 1, for affinities that all differ: of noise, and of objects."""
    rng = np.random.default_rng(seed)
    shape = (9, 20, 22)
    affs = rng.permutation(6 * np.prod(shape)).reshape(6, *shape) / (6 * np.prod(shape))
    if smooth:
        affs = 0.5 * affs + 0.5 * affinities(cells(seed, shape), NEAR + FAR)[0]
    affs = affs.astype(dtype)
    biases, strides = short_long_bias(NEAR + FAR, 0.35, 0.55), [(1, 1, 1)] * 3 + [(1, 2, 2)] * 3
    evidence = affs.astype(np.float64) - np.reshape(biases, (6, 1, 1, 1))
    theirs = mwatershed.agglom(evidence, NEAR + FAR, strides=strides)
    assume(theirs.flat[0])  # they take the object that voxel 0 represents for nothing
    found = mutex_watershed(affs, NEAR + FAR, bias=biases, strides=strides)
    np.testing.assert_array_equal(found, fastremap.renumber(theirs)[0])


def by_the_rule(affs, offsets, biases, mask):
    """Clusters of voxels by walking the pairs in the order that is promised; voxels without an attractive pair are 0."""
    pairs = []
    for i, offset in enumerate(offsets):
        for p in np.ndindex(affs.shape[1:]):
            q = tuple(a + b for a, b in zip(p, offset, strict=True))
            if all(0 <= a < n for a, n in zip(q, mask.shape, strict=True)) and mask[p] and mask[q]:
                weight = float(affs[(i, *p)]) - biases[i]
                pairs.append((-abs(weight), weight <= 0, i, p, q))
    cluster = {p: frozenset([p]) for p in np.ndindex(mask.shape)}
    apart, attracted = set(), set()
    for _, repels, _, p, q in sorted(pairs):
        if not repels:
            attracted |= {p, q}
        if cluster[p] is cluster[q]:
            continue
        if repels:
            apart.add(frozenset([p, q]))
        elif not any(frozenset(pair) in apart for pair in itertools.product(cluster[p], cluster[q])):
            both = cluster[p] | cluster[q]
            cluster.update(dict.fromkeys(both, both))
    numbers: dict = {}
    labels = [numbers.setdefault(cluster[p], len(numbers) + 1) if p in attracted else 0 for p in np.ndindex(mask.shape)]
    return np.reshape(labels, mask.shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 255]), st.sampled_from([(6, 7), (3, 4, 5)]))
def test_pairs_of_few_levels_are_taken_in_the_order_that_is_promised(seed, levels, shape):
    """Sorted by level, pairs come in the documented order, ties included; and so they do if they are sorted one by one."""
    rng = np.random.default_rng(seed)
    offsets = [n[-len(shape) :] for n in [(0, 1, 0), (0, 0, 1), (0, 2, -1), (0, 0, 3)]]
    affs = (rng.integers(0, levels + 1, (4, *shape)) * (255 // levels) / 255).astype(np.float32)
    mask, biases = rng.random(shape) < 0.9, [0.4, 0.4, 0.6, 0.6] if seed % 2 else [0.5] * 4
    pairs = VoxelPairs(affs, offsets, mask=mask)
    assert pairs._levels is not None
    found = pairs.segment(biases)
    np.testing.assert_array_equal(found, by_the_rule(affs, offsets, biases, mask))
    pairs._levels = None
    np.testing.assert_array_equal(found, pairs.segment(biases))


def test_one_sorting_serves_all_biases():
    """Pairs that were sorted once give for each bias what they give when sorted for it alone."""
    affs = (np.random.default_rng(0).integers(0, 256, (6, 8, 20, 20)) / 255).astype(np.float32)
    pairs = VoxelPairs(affs, NEAR + FAR)
    for bias in (0.3, 0.5, 0.8):
        np.testing.assert_array_equal(
            pairs.segment(bias, min_size=4), mutex_watershed(affs, NEAR + FAR, bias=bias, min_size=4)
        )


def test_masked_voxels_are_0_and_do_not_matter():
    """The result does not depend on what is predicted where the mask is False."""
    rng = np.random.default_rng(0)
    affs, mask = rng.random((6, 5, 9, 9)), rng.random((5, 9, 9)) < 0.8
    other = affs.copy()
    for i, offset in enumerate(NEAR + FAR):
        here, there = pair_slices(mask.shape, offset)
        hidden = ~mask
        hidden[here] |= ~mask[there]
        other[i][hidden] = rng.random(np.count_nonzero(hidden))
    a, b = (mutex_watershed(x, NEAR + FAR, bias=0.4, mask=mask) for x in (affs, other))
    np.testing.assert_array_equal(a, b)
    assert not a[~mask].any()


def test_small_objects_join_the_neighbour_they_are_most_sure_of():
    """Most certain first, as long as the mean exceeds the bias; else they become 0. Large ones are never joined."""
    affs = np.zeros((2, 1, 11))
    affs[0, 0, :10] = [1, 1, 0.6, 1, 0.7, 1, 1, 0.1, 1, 0.0]  # 0-2 | 3-4 | 5-7 | 8-9 | 10, short
    repelled = [2, 4, 7, 9]
    affs[1] = 0.5
    affs[1, 0, [p - 1 for p in repelled]] = 0.0  # a strong repulsion across each of the borders
    options = {"neighborhood": [(0, 1), (0, 2)], "bias": 0.5}
    plain_labels = mutex_watershed(affs, **options)
    np.testing.assert_array_equal(plain_labels, [[1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 0]])
    joined = mutex_watershed(affs, **options, min_size=3)
    np.testing.assert_array_equal(joined, [[1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]])


def test_says_what_does_not_fit():
    """Integers, NaN, too few channels, wrong biases and strides are refused."""
    affs = np.full((3, 4, 4, 4), 0.7)
    with pytest.raises(DataError, match="uint8"):
        mutex_watershed((affs * 255).astype(np.uint8), NEAR, bias=0.5)
    with pytest.raises(DataError, match="finite"):
        mutex_watershed(np.where(np.eye(4), np.nan, affs), NEAR, bias=0.5)
    with pytest.raises(GeometryError, match="3 channels"):
        mutex_watershed(affs, NEAR + FAR, bias=0.5)
    with pytest.raises(GeometryError, match="2 biases"):
        mutex_watershed(affs, NEAR, bias=[0.5, 0.5])
    with pytest.raises(GeometryError, match="strides"):
        mutex_watershed(affs, NEAR, bias=0.5, strides=[[1, 1, 0]] * 3)
    assert mutex_watershed(affs[:, :0], NEAR, bias=0.5).shape == (0, 4, 4)


def test_border_sums_are_those_of_a_loop():
    """Sum and number of each pair of objects, less what is neutral, of pairs with a chosen side; in 2D and with negative
    offsets."""
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 30, (12, 13)).astype(np.uint64), rng.random((2, 12, 13), np.float32)
    chosen = rng.random(30) < 0.6
    expected: dict = {}
    for i, (dy, dx) in enumerate([(1, 0), (2, -3)]):
        for y, x in np.ndindex(12, 13):
            if y + dy < 12 and 0 <= x + dx < 13:
                a, b = sorted([int(labels[y, x]), int(labels[y + dy, x + dx])])
                if a and a != b and (chosen[a] or chosen[b]):
                    total, count = expected.get((a, b), (0.0, 0))
                    expected[a, b] = (total + float(values[i, y, x]) - [0.5, 0.25][i], count + 1)
    low, high, total, count = border_sums(labels, values, [(1, 0), (2, -3)], [0.5, 0.25], chosen)
    assert dict(zip(zip(low, high, strict=True), zip(total, count, strict=True), strict=True)) == expected
    assert list(zip(low, high, strict=True)) == sorted(expected)
