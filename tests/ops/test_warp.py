"""Deformations against a slow definition in plain Python, sampled by scipy."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from dacapo.arrays import from_numpy
from dacapo.errors import DataError, GeometryError
from dacapo.geometry import Roi
from dacapo.ops.warp import Transform, apply_linear, apply_nearest, sample_transform, source_shape

WRAP = 2**64


def mixed(state):
    """SplitMix64 on Python integers."""
    state = (state + 0x9E3779B97F4A7C15) % WRAP
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WRAP
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % WRAP
    return state ^ (state >> 31)


@functools.cache
def noise(seed, axis, index):
    """One control point's displacement along one axis, in standard deviations."""
    state = mixed(seed + axis)
    for i in index:
        state = mixed(state ^ (i % WRAP))
    first, second = ((state >> 11) + 1) / 2**53, (mixed(state) >> 11) / 2**53
    return max(-3.0, min(3.0, math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)))


def source_points(transform, out_shape, voxel_size):
    """World position, relative to the source's centre, that each output voxel shows: (dims, *out_shape)."""
    dims = len(out_shape)
    points = np.empty((dims, *out_shape))
    for voxel in itertools.product(*map(range, out_shape)):
        p = [(v - (n - 1) / 2) * s for v, n, s in zip(voxel, out_shape, voxel_size, strict=True)]
        place = [x / s + f for x, s, f in zip(p, transform.spacing, transform.phase, strict=True)]
        cell = [math.floor(x) for x in place]
        blend = [3 * t**2 - 2 * t**3 for t in (x - c for x, c in zip(place, cell, strict=True))]
        for axis in range(dims):
            u = 0.0
            for corner in itertools.product((0, 1), repeat=dims):
                weight = math.prod(b if k else 1 - b for b, k in zip(blend, corner, strict=True))
                index = tuple(c + k for c, k in zip(cell, corner, strict=True))
                u += weight * noise(transform.seed, axis, index) * transform.sigma[axis]
            points[(axis, *voxel)] = sum(r * x for r, x in zip(transform.matrix[axis], p, strict=True)) + u
    return points


def coordinates(transform, in_shape, out_shape, voxel_size):
    """The same as indices into a source array of `in_shape`."""
    like = (-1,) + (1,) * len(out_shape)
    centre = (np.array(in_shape).reshape(like) - 1) / 2
    return source_points(transform, out_shape, voxel_size) / np.array(voxel_size).reshape(like) + centre


def draw(seed, dims, *, sigma=5.0, **rotation):
    rng = np.random.default_rng(seed)
    spacing, jitter = (40.0, 25.0, 30.0)[-dims:], (2 * sigma, sigma, sigma)[-dims:]
    return sample_transform(rng, control_point_spacing=spacing, jitter_sigma=jitter, **rotation)


def turn(dims, quarters):
    matrix = np.eye(dims)
    cos, sin = math.cos(quarters * math.pi / 2), math.sin(quarters * math.pi / 2)
    matrix[-2:, -2:] = [[cos, -sin], [sin, cos]]
    return Transform(tuple(map(tuple, matrix.tolist())), (10.0,) * dims, (0.0,) * dims, (0.3,) * dims, 1)


CASES = [
    ((7, 10, 9), (20.0, 4.0, 4.0), {"rotation_interval": (0.3, 0.9)}),
    ((8, 9, 6), (10.0, 6.0, 4.0), {"uniform_3d_rotation": True}),
    ((12, 15), (8.0, 4.0), {"rotation_interval": (-2.0, 2.0)}),
    ((9, 8), (4.0, 4.0), {"uniform_3d_rotation": True}),
    ((6, 7, 8), (4.0, 4.0, 4.0), {}),
]


@pytest.mark.parametrize(("out_shape", "voxel_size", "rotation"), CASES)
@pytest.mark.parametrize("smaller", [False, True])
def test_linear_equals_scipy_at_the_same_coordinates(out_shape, voxel_size, rotation, smaller):
    """Every channel is interpolated at R p + u(p), mirrored where that is beyond the border."""
    transform = draw(3, len(out_shape), **rotation)
    in_shape = tuple(n - 3 for n in out_shape) if smaller else source_shape(transform, out_shape, voxel_size)
    image = np.random.default_rng(0).random((2, *in_shape), np.float32)
    where = coordinates(transform, in_shape, out_shape, voxel_size)
    expected = [map_coordinates(c.astype(float), where, order=1, mode="mirror") for c in image]
    found = apply_linear(image, transform, out_shape, voxel_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("out_shape", "voxel_size", "rotation"), CASES)
@pytest.mark.parametrize("smaller", [False, True])
def test_nearest_copies_the_voxel_at_the_same_coordinates(out_shape, voxel_size, rotation, smaller):
    """Ids beyond 2**53 are copied bit by bit from the nearest voxel, and 0 is beyond the border."""
    transform = draw(4, len(out_shape), **rotation)
    in_shape = tuple(n - 3 for n in out_shape) if smaller else source_shape(transform, out_shape, voxel_size)
    labels = np.random.default_rng(0).integers(2**63, 2**64, in_shape, dtype=np.uint64)
    where = np.floor(coordinates(transform, in_shape, out_shape, voxel_size) + 0.5).astype(int)
    inside = np.all([(w >= 0) & (w < n) for w, n in zip(where, in_shape, strict=True)], axis=0)
    kept = tuple(np.clip(w, 0, n - 1) for w, n in zip(where, in_shape, strict=True))
    found = apply_nearest(labels, transform, out_shape, voxel_size)
    np.testing.assert_array_equal(found, np.where(inside, labels[kept], np.uint64(0)))
    assert inside.all() != smaller


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("grow", [0, 4])
def test_without_rotation_and_jitter_nothing_changes(dims, grow):
    """The centre of the source comes out bit for bit, at voxel sizes that floats cannot represent."""
    transform = draw(0, dims, sigma=0.0)
    out_shape, voxel_size = (5, 8, 7)[:dims], (1 / 3, 0.1, 0.7)[:dims]
    assert source_shape(transform, out_shape, voxel_size) == out_shape
    in_shape = tuple(n + grow for n in out_shape)
    middle = tuple(slice(grow // 2, grow // 2 + n) for n in out_shape)
    rng = np.random.default_rng(1)
    image = rng.random((2, *in_shape), np.float32)
    labels = rng.integers(-(2**31), 2**31, in_shape, dtype=np.int32)
    found = apply_nearest(labels, transform, out_shape, voxel_size)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, labels[middle])
    np.testing.assert_array_equal(apply_linear(image, transform, out_shape, voxel_size), image[(slice(None), *middle)])


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6, 8), (3, 7, 5)])
def test_quarter_turns_are_those_of_numpy(quarters, shape):
    """A positive angle turns the last two axes as numpy.rot90 with negative k does, oblong boxes included."""
    transform, dims = turn(len(shape), quarters), len(shape)
    labels = np.random.default_rng(2).integers(1, 2**32, shape, dtype=np.uint64)
    expected = np.rot90(labels, -quarters, axes=(dims - 2, dims - 1))
    voxel_size = (30.0, 4.0, 4.0)[-dims:]
    assert source_shape(transform, expected.shape, voxel_size) == shape
    np.testing.assert_array_equal(apply_nearest(labels, transform, expected.shape, voxel_size), expected)
    small = (labels % 100).astype(np.float32)[None]
    found = apply_linear(small, transform, expected.shape, voxel_size)
    np.testing.assert_allclose(found[0], expected % 100, atol=1e-4)


def test_a_quarter_turn_keeps_world_lengths():
    """A bar along the coarse axis is as long in world units after it was turned onto the fine axis."""
    labels = np.zeros((11, 41), np.uint8)
    labels[3:8, 18:23] = 1  # 5 x 8 by 5 x 2 world units
    found = apply_nearest(labels, turn(2, 1), (11, 41), (8.0, 2.0))
    rows, columns = np.nonzero(found)
    assert abs(np.ptp(columns) + 1 - 20) <= 1
    assert np.ptp(rows) + 1 == 1


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    sizes=st.tuples(*[st.floats(0.5, 50)] * 3),
    sigma=st.floats(0, 30),
    anywhere=st.booleans(),
)
def test_source_shape_suffices_and_is_tight(seed, shape, sizes, sigma, anywhere):
    """A source of that shape is never left, has the parity of the output, and is no larger than the bound."""
    dims = len(shape)
    transform, size = draw(seed, dims, sigma=sigma, uniform_3d_rotation=anywhere), np.array(sizes[:dims])
    found = np.array(source_shape(transform, shape, size))
    where = coordinates(transform, found, shape, size).reshape(dims, -1)
    assert (found > 0).all()
    assert ((found - shape) % 2 == 0).all()
    assert (where.min(axis=1) > -1e-6).all()
    assert (where.max(axis=1) < found - 1 + 1e-6).all()
    extent = np.abs(transform.matrix) @ ((np.array(shape) - 1) * size) + 6 * np.array(transform.sigma)
    assert (found <= extent / size + 3).all()


def test_a_larger_source_gives_the_same():
    """What is read beyond the needed source is never looked at."""
    transform, shape, size, larger = draw(7, 3, uniform_3d_rotation=True), (8, 8, 8), (4.0, 4.0, 4.0), 2
    needed = source_shape(transform, shape, size)
    whole = np.random.default_rng(3).integers(1, 200, tuple(n + 2 * larger for n in needed)).astype(np.uint8)
    cut = whole[tuple(slice(larger, larger + n) for n in needed)]
    found = [apply_nearest(x, transform, shape, size) for x in (whole, cut)]
    np.testing.assert_array_equal(*found)
    found = [apply_linear(x[None], transform, shape, size) for x in (whole, cut)]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_raw_and_labels_of_other_voxel_sizes_stay_together():
    """Raw with half the voxel size, and labels of a smaller box, show the same places in the world."""
    transform = draw(11, 3, rotation_interval=(0.5, 0.5))
    fine, coarse = (10.0, 2.0, 2.0), (10.0, 4.0, 4.0)
    raw_shape, label_shape = (8, 32, 32), (6, 10, 12)

    def ramp(shape, size):
        """Each voxel's own world position: linear interpolation is exact on it."""
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, size, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    raw = apply_linear(ramp(source_shape(transform, raw_shape, fine), fine), transform, raw_shape, fine)
    middle = raw[:, 1:7, 6:26, 4:28]
    averaged = middle.reshape(3, 6, 10, 2, 12, 2).mean(axis=(3, 5))
    positions = ramp(source_shape(transform, label_shape, coarse), coarse)
    nearest = np.stack([apply_nearest(np.round(p).astype(np.int32), transform, label_shape, coarse) for p in positions])
    off = np.abs(nearest - averaged).max(axis=(1, 2, 3))
    assert (off <= np.array(coarse) / 2 + 0.75).all()
    exact = apply_linear(positions, transform, label_shape, coarse)
    np.testing.assert_allclose(exact, source_points(transform, label_shape, coarse), atol=1e-3)
    np.testing.assert_allclose(exact, averaged, atol=0.3)


def test_the_same_random_state_gives_the_same_transform():
    """A transform is plain data: equal if drawn from equal states, also after a trip to another process."""
    first, second, other = draw(5, 3), draw(5, 3), draw(6, 3)
    assert first == second != other
    assert pickle.loads(pickle.dumps(first)) == first
    labels = np.random.default_rng(0).integers(0, 9, (12, 12, 12)).astype(np.uint8)
    once, again = (apply_nearest(labels, t, (10, 10, 10), (4, 4, 4)) for t in (first, second))
    np.testing.assert_array_equal(once, again)
    assert (once != apply_nearest(labels, other, (10, 10, 10), (4, 4, 4))).any()


def test_rotations_are_drawn_as_asked():
    """In-plane angles stay within the interval; rotations in space are proper and have no preferred direction."""
    for seed in range(20):
        (_, _, _), (_, cos, _), (_, sin, _) = draw(seed, 3, rotation_interval=(0.1, 0.4)).matrix
        assert 0.1 <= math.atan2(sin, cos) <= 0.4
    matrices = np.array([draw(seed, 3, uniform_3d_rotation=True).matrix for seed in range(400)])
    products = matrices @ matrices.swapaxes(1, 2)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    assert np.abs(matrices.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose((matrices**2).mean(axis=0), 1 / 3, atol=0.08)


def test_control_points_have_the_asked_spread():
    """At control points, displacements are normal with standard deviation sigma, and independent along axes."""
    spacing, dims = 4.0, 2
    still = draw(9, dims, sigma=0.0)
    transform = dataclasses.replace(still, spacing=(spacing,) * dims, sigma=(6.0, 3.0), phase=(0.0, 0.0))
    shape = (61, 61)  # odd, of voxels as large as the spacing: each is a control point
    u = coordinates(transform, shape, shape, (spacing,) * dims) - np.indices(shape)
    np.testing.assert_allclose(u.std(axis=(1, 2)) * spacing, (6, 3), rtol=0.05)
    assert np.abs(np.corrcoef(u.reshape(2, -1))[0, 1]) < 0.06
    neighbours = np.corrcoef(u[0, :-1].ravel(), u[0, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.06


def test_masks_and_odd_memory_layouts():
    """Booleans stay booleans; read-only, strided, and big-endian arrays give what plain copies give."""
    transform, shape, size = draw(13, 2), (9, 9), (4.0, 4.0)
    mask = np.random.default_rng(0).random((24, 22)) < 0.5
    view = mask.T[::2]
    found = apply_nearest(view, transform, shape, size)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, apply_nearest(view.astype(np.uint8), transform, shape, size))
    big = view.astype(">u8") * np.array(2**60 + 1, ">u8")
    expected = found * np.uint64(2**60 + 1)
    np.testing.assert_array_equal(apply_nearest(big, transform, shape, size), expected)
    image = view[None].astype(np.float32)
    expected = apply_linear(image, transform, shape, size)
    image.flags.writeable = False
    np.testing.assert_array_equal(apply_linear(image, transform, shape, size), expected)
    np.testing.assert_array_equal(apply_linear(image.astype(np.uint8), transform, shape, size), expected)


def test_a_single_voxel_is_mirrored_everywhere():
    """An axis of one voxel has nothing else to show."""
    transform = draw(1, 3, uniform_3d_rotation=True)
    found = apply_linear(np.full((1, 1, 1, 1), 0.25, np.float32), transform, (4, 5, 6), (4.0, 4.0, 4.0))
    assert (found == 0.25).all()


def test_mistakes_are_named():
    """Axes that do not fit, empty volumes, and impossible lengths are one-line errors."""
    rng, transform = np.random.default_rng(0), draw(0, 3)
    with pytest.raises(GeometryError, match="2 spatial axes, the transform 3"):
        apply_linear(np.zeros((1, 4, 4), np.float32), transform, (4, 4, 4), (1, 1, 1))
    with pytest.raises(GeometryError, match="out_shape"):
        apply_nearest(np.zeros((4, 4, 4), np.uint8), transform, (4, 4), (1, 1, 1))
    with pytest.raises(GeometryError, match="voxel_size"):
        source_shape(transform, (4, 4, 4), (1, 0, 1))
    with pytest.raises(DataError, match="no voxels"):
        apply_linear(np.zeros((1, 0, 4, 4), np.float32), transform, (4, 4, 4), (1, 1, 1))
    with pytest.raises(DataError, match="whole numbers"):
        apply_nearest(np.zeros((4, 4, 4), np.float32), transform, (4, 4, 4), (1, 1, 1))
    with pytest.raises(GeometryError, match="jitter_sigma"):
        sample_transform(rng, control_point_spacing=(4, 4), jitter_sigma=(1, -1))
    with pytest.raises(GeometryError, match="control_point_spacing"):
        sample_transform(rng, control_point_spacing=(4, 0), jitter_sigma=(1, 1))
    with pytest.raises(GeometryError, match="spatial axes"):
        sample_transform(rng, control_point_spacing=(4,), jitter_sigma=(1,))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
@pytest.mark.parametrize(("out_shape", "voxel_size", "rotation"), CASES)
@pytest.mark.parametrize("begin", [-4, 3, 30])
def test_a_box_of_a_volume_is_what_it_would_be_cut_out(out_shape, voxel_size, rotation, begin, dtype):
    """Read in place, also far beyond the border, a box shows what it shows when it is cut, padded and converted first."""
    dims, top = len(out_shape), 255.0
    transform = draw(8, dims, **rotation)
    size = source_shape(transform, out_shape, voxel_size)
    shape, box = (21, 26, 19)[-dims:], Roi((begin, begin - 2, begin + 1)[:dims], size)
    rng = np.random.default_rng(5)
    image, labels = rng.integers(0, 200, (2, *shape)).astype(dtype), rng.integers(1, 9, shape).astype(np.uint16)
    whole = from_numpy(image, voxel_size, axis_names=("c^", "z", "y", "x")[: 1 + dims])
    cut = whole.read(box, pad="reflect").astype(np.float32) / np.float32(top)
    found = apply_linear(image, transform, out_shape, voxel_size, box=box, top=top)
    np.testing.assert_allclose(found, apply_linear(cut, transform, out_shape, voxel_size), atol=1e-6)
    cut = from_numpy(labels, voxel_size).read(box, pad="zero")
    within = np.empty(out_shape, bool)
    found = apply_nearest(labels, transform, out_shape, voxel_size, box=box, within=within)
    np.testing.assert_array_equal(found, apply_nearest(cut, transform, out_shape, voxel_size))
    np.testing.assert_array_equal(within, found > 0)
