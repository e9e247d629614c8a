"""What `synthetic_em` promises about its cells, its picture and its arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dacapo.errors import GeometryError
from dacapo.synthetic import SyntheticVolume, _absorb_smallest, _refine, _smooth_noise, synthetic_em

VOXEL_SIZE = (5.24, 4.0, 4.0)


@pytest.fixture(scope="module")
def volume() -> SyntheticVolume:
    return synthetic_em((48, 96, 96), VOXEL_SIZE, num_cells=10, seed=7)


def border_distance(volume: SyntheticVolume) -> np.ndarray:
    """Nanometres to the nearest voxel that has a neighbour of another label, by scipy."""
    edge = np.zeros(volume.labels.shape, bool)
    for axis in range(3):
        differs = np.diff(volume.labels.astype(np.int64), axis=axis) != 0
        for side in (slice(None, -1), slice(1, None)):
            edge[(slice(None),) * axis + (side,)] |= differs
    return ndimage.distance_transform_edt(~edge, sampling=volume.voxel_size)


def test_dtypes_and_voxel_size(volume):
    """Raw is uint8, labels are uint64, and 5.24 nm stays 5.24 nm."""
    assert (volume.raw.dtype, volume.labels.dtype) == (np.uint8, np.uint64)
    assert volume.raw.shape == volume.labels.shape == (48, 96, 96)
    assert volume.voxel_size == VOXEL_SIZE


def test_every_voxel_belongs_to_one_of_the_cells(volume):
    """Labels are 1..num_cells without gaps, and none is background."""
    assert np.array_equal(np.unique(volume.labels), np.arange(1, 11))


def test_each_label_is_one_object(volume):
    """Every label is 6-connected, so a perfect segmentation of touching objects exists."""
    for label in np.unique(volume.labels):
        assert ndimage.label(volume.labels == label)[1] == 1


def test_same_seed_same_volume(volume):
    """The same arguments give the same bytes; another seed gives other cells."""
    again = synthetic_em((48, 96, 96), VOXEL_SIZE, num_cells=10, seed=7)
    other = synthetic_em((48, 96, 96), VOXEL_SIZE, num_cells=10, seed=8)
    assert np.array_equal(again.raw, volume.raw)
    assert np.array_equal(again.labels, volume.labels)
    assert np.mean(other.labels == volume.labels) < 0.5


def test_membranes_are_dark_where_labels_meet(volume):
    """A cell border shows: on it the picture is far darker than in the cytoplasm."""
    distance = border_distance(volume)
    assert volume.raw[distance == 0].mean() < 0.6 * volume.raw[distance > 25].mean()


def test_darkness_alone_does_not_find_the_borders(volume):
    """Organelles have membranes too: of the voxels as dark as a border, many are well inside a cell."""
    distance = border_distance(volume)
    smooth = ndimage.gaussian_filter(volume.raw.astype(np.float32), 0.8)
    dark = smooth < smooth[distance == 0].mean() + 10
    assert 0.03 < np.mean(distance[dark] > 15) < 0.5


def test_every_cell_can_be_seen(volume):
    """No cell is all membrane: each has cytoplasm at least 10 nm from its border."""
    deepest = ndimage.maximum(border_distance(volume), volume.labels, np.unique(volume.labels))
    assert deepest.min() > 10


def test_lengths_are_physical():
    """Cells have the same length in nm along a coarse axis as along a fine one."""
    volume = synthetic_em((30, 96, 96), (12.8, 4.0, 4.0), num_cells=25, seed=1)
    nm_per_border = [
        scale / np.mean(np.diff(volume.labels.astype(np.int64), axis=axis) != 0)
        for axis, scale in enumerate(volume.voxel_size)
    ]
    assert max(nm_per_border) < 1.5 * min(nm_per_border)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(4, 24)] * 3),
    voxel_size=st.tuples(*[st.floats(2, 40)] * 3),
    num_cells=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_any_size_works(shape, voxel_size, num_cells, seed):
    """Whatever the shape and voxel size: labels 1..n without gaps, n at most what was asked for."""
    volume = synthetic_em(shape, voxel_size, num_cells=num_cells, seed=seed)
    ids = np.unique(volume.labels)
    assert volume.raw.shape == volume.labels.shape == shape
    assert np.array_equal(ids, np.arange(1, len(ids) + 1))
    assert len(ids) <= num_cells


@pytest.mark.parametrize(
    ("shape", "voxel_size", "num_cells", "says"),
    [
        ((64, 64), (4, 4, 4), 5, "shape"),
        ((64, 64, 3), (4, 4, 4), 5, "at least 4"),
        ((64, 64, 64), (4, 4), 5, "voxel_size"),
        ((64, 64, 64), (4, 4, -4), 5, "positive"),
        ((64, 64, 64), (4, 4, float("nan")), 5, "positive"),
        ((64, 64, 64), (4, 4, 4), 0, "num_cells 0"),
    ],
)
def test_bad_arguments_are_named(shape, voxel_size, num_cells, says):
    """A volume that cannot be made is refused with the argument that is to blame."""
    with pytest.raises(GeometryError, match=says):
        synthetic_em(shape, voxel_size, num_cells=num_cells, seed=0)


def test_refined_power_diagram_is_the_brute_force_one():
    """Choosing among the points of the surrounding lattice sites gives the nearest of all points."""
    rng = np.random.default_rng(0)
    where = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (9, 12, 11)], indexing="ij"))
    points = rng.uniform(0, 11, (6, 3)).astype(np.float32)
    radii = rng.uniform(0, 3, 6).astype(np.float32)
    power = np.square(where[:, None] - points.T[:, :, None, None, None]).sum(0) - radii[:, None, None, None] ** 2
    nearest = power.argmin(0).astype(np.int32)
    fine = _refine(nearest[:, ::2, ::2], (1, 2, 2), where, points, radii)
    assert np.mean(fine == nearest) > 0.99


def test_small_parts_join_the_neighbour_they_touch_most():
    """Absorbing keeps the largest and renames to 1..keep; a chain of small parts ends in a kept one."""
    labels = np.array([[[1, 1, 1, 2, 3, 4, 4, 4], [1, 1, 1, 2, 4, 4, 4, 4]]])
    assert _absorb_smallest(labels, 2)[labels].tolist() == [[[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2, 2, 2]]]


def test_noise_has_unit_variance_and_its_length():
    """Smooth noise has a variance of 1 and, sampled farther apart than its length, no correlation."""
    noise = _smooth_noise(np.random.default_rng(0), (60, 80, 80), (8.0, 4.0, 4.0), 16.0)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert np.mean(noise[:, :, :-1] * noise[:, :, 1:]) > 0.9
    assert abs(np.mean(noise[:-8] * noise[8:])) < 0.05
