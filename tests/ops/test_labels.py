"""Label images against scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dacapo.errors import DataError, GeometryError
from dacapo.ops.labels import connected_components, filter_small, relabel_sequential, threshold, unique_counts

HUGE = 2**63


@pytest.mark.parametrize("shape", [(9, 10), (6, 7, 8)])
def test_components_agree_with_scipy(shape):
    """The same partition of a mask as scipy's, for each connectivity."""
    mask = np.random.default_rng(0).random(shape) < 0.4
    for connectivity in range(1, len(shape) + 1):
        found = connected_components(mask, connectivity)
        expected, n = ndimage.label(mask, ndimage.generate_binary_structure(len(shape), connectivity))
        assert found.dtype == np.uint64
        assert len(np.unique(found[mask])) == found.max() == n
        assert len(np.unique(np.stack([found[mask], expected[mask]]), axis=1).T) == n
        assert not found[~mask].any()


def test_touching_objects_stay_apart():
    """Pieces of different objects are different components; ids of 64 bits and gaps are fine."""
    labels = np.array([[5, 5, HUGE], [0, 5, HUGE + 1], [5, 0, HUGE + 1]], np.uint64)
    np.testing.assert_array_equal(connected_components(labels), [[1, 1, 2], [0, 1, 3], [4, 0, 3]])
    assert connected_components(labels, 2)[2, 0] == 1
    with pytest.raises(GeometryError, match="connectivity is 3"):
        connected_components(labels, 3)


@pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_relabelling_keeps_the_partition(dtype, order):
    """Ids become 1..n in order of appearance, whatever the memory layout; 0 stays, the mapping says how."""
    labels = np.asarray(np.random.default_rng(0).integers(0, 50, (5, 6, 7)) * 2, dtype, order=order)
    found, mapping = relabel_sequential(labels)
    assert found.dtype == dtype
    assert mapping[0] == 0
    np.testing.assert_array_equal(found, np.vectorize(mapping.get)(labels))
    assert sorted(mapping.values()) == list(range(len(np.unique(labels))))
    first = [int(np.flatnonzero(found.ravel() == i)[0]) for i in range(1, int(found.max()) + 1)]
    assert first == sorted(first)


def test_sizes_and_small_objects():
    """Sizes are counted by id; small objects vanish, background is no object, others keep their id."""
    labels = np.array([[0, 7, 7, HUGE], [HUGE, HUGE, 9, 9]], np.uint64)
    ids, counts = unique_counts(labels)
    np.testing.assert_array_equal(ids, np.array([0, 7, 9, HUGE], np.uint64))
    np.testing.assert_array_equal(counts, [1, 2, 2, 3])
    np.testing.assert_array_equal(filter_small(labels, 3), np.where(labels == HUGE, labels, 0))
    np.testing.assert_array_equal(filter_small(labels, 2), labels)
    assert filter_small(labels.astype(bool), 9).dtype == bool
    assert filter_small(labels, 1) is not labels


def test_threshold():
    """Strictly above is 1; NaN is not above."""
    found = threshold(np.array([0.1, 0.5, 0.6, np.nan]), 0.5)
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 0, 1, 0]


def test_negative_ids_are_refused():
    """What is neither background nor an object is no label."""
    for function in (relabel_sequential, unique_counts):
        with pytest.raises(DataError, match="-3"):
            function(np.array([[1, -3]]))
