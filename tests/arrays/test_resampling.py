"""Resampling against scipy and numpy on the whole volume."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.arrays import Array, from_numpy
from dacapo.arrays.resampling import most_frequent, resampled
from dacapo.errors import ArrayError, GeometryError
from dacapo.geometry import Roi

SETTINGS = settings(deadline=None, max_examples=30, derandomize=True)
SIZE = (5.24, 4.0, 4.0)


def array_of(data: np.ndarray, dims: int) -> Array:
    return from_numpy(data, SIZE[-dims:], (1.31, -8.0, 0.0)[-dims:])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, list[int], list[int]]:
    """Voxels with or without channels in two or three axes, and factors that leave something."""
    dims = draw(st.integers(2, 3))
    up = [draw(st.integers(1, 3)) for _ in range(dims)]
    down = [draw(st.integers(1, 3)) for _ in range(dims)]
    shape = [draw(st.integers(3, 7)) for _ in range(dims)]
    channels = draw(st.sampled_from([(), (2,)]))
    seed = draw(st.integers(0, 1000))
    data = np.random.default_rng(seed).integers(0, 200, (*channels, *shape)).astype(np.uint8)
    return data, dims, up, down


def reference(data: np.ndarray, dims: int, up: list[int], down: list[int], smooth: bool) -> np.ndarray:
    """Voxel by voxel: np.interp between centres and the mean, or repeat and scipy's mode."""
    fine = data.astype(np.float64) if smooth else data
    lead = data.ndim - dims
    for axis, factor in enumerate(up, lead):
        if not smooth:
            fine = fine.repeat(factor, axis)
            continue
        n = fine.shape[axis]
        centres = (np.arange(n * factor) + 0.5) / factor - 0.5
        fine = np.apply_along_axis(lambda line, c=centres, n=n: np.interp(c, np.arange(n), line), axis, fine)
    if smooth:
        fine = np.rint(fine).astype(data.dtype)
    shape = [n // d for n, d in zip(fine.shape[lead:], down, strict=True)]
    out = np.empty((*data.shape[:lead], *shape), data.dtype)
    for index in np.ndindex(*out.shape):
        window = fine[index[:lead]][tuple(slice(i * d, i * d + d) for i, d in zip(index[lead:], down, strict=True))]
        out[index] = np.rint(window.mean()) if smooth else scipy.stats.mode(window, axis=None).mode
    return out


@SETTINGS
@given(cases(), st.booleans(), st.data())
def test_against_the_whole(
    case: tuple[np.ndarray, int, list[int], list[int]], smooth: bool, draw: st.DataObject
) -> None:
    """A voxel is what it is in the whole volume, whatever region it is read with; the lower corner stays."""
    data, dims, up, down = case
    if not smooth:
        data = data % 3
    array = resampled(array_of(data, dims), up, down, smooth=smooth)
    expected = reference(data, dims, up, down, smooth)
    whole = array.read()
    assert whole.dtype == data.dtype
    # A mean that lies exactly between two numbers may be rounded either way.
    np.testing.assert_allclose(whole.astype(int), expected.astype(int), atol=1 if smooth else 0)
    begin = [draw.draw(st.integers(0, n - 1)) for n in array.spatial_shape]
    size = [draw.draw(st.integers(1, n - b)) for n, b in zip(array.spatial_shape, begin, strict=True)]
    part = tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))
    np.testing.assert_array_equal(array.read(Roi(begin, size)), whole[(..., *part)])
    assert array.offset == array_of(data, dims).offset
    factors = [Fraction(d, u) for d, u in zip(down, up, strict=True)]
    assert array.grid == array_of(data, dims).grid.scaled(factors)


def test_floats_are_not_rounded() -> None:
    """Means and straight lines of floats are exact: a ramp stays a ramp."""
    ramp = np.arange(8, dtype=np.float32).repeat(4).reshape(8, 4)
    coarse = resampled(array_of(ramp, 2), (1, 1), (2, 2), smooth=True)
    np.testing.assert_array_equal(coarse.read()[:, 0], [0.5, 2.5, 4.5, 6.5])
    fine = resampled(array_of(ramp, 2), (2, 1), (1, 1), smooth=True)
    np.testing.assert_array_equal(fine.read()[:, 0], np.clip(np.arange(16) / 2 - 0.25, 0, 7))


def test_large_ids_survive() -> None:
    """Ids above 2^53 are neither averaged nor rounded."""
    ids = np.array([[2**63 + 1, 2**63 + 1], [2**63 + 1, 7]], np.uint64)
    assert resampled(array_of(ids, 2), (1, 1), (2, 2), smooth=False).read() == 2**63 + 1
    with pytest.raises(ArrayError, match="a mean of ids is no id. Give interp_order: 0"):
        resampled(array_of(ids, 2), (1, 1), (2, 2), smooth=True)


def test_most_frequent() -> None:
    """The most frequent value, of equally frequent ones the smallest, as scipy has it."""
    windows = np.random.default_rng(0).integers(0, 4, (500, 8)).astype(np.uint16)
    np.testing.assert_array_equal(most_frequent(windows), scipy.stats.mode(windows, axis=1).mode)


def test_factors_that_do_not_fit() -> None:
    """A missing factor, zero, and a window larger than the volume are refused by name."""
    array = array_of(np.zeros((4, 4), np.uint8), 2)
    with pytest.raises(GeometryError, match=r"upsample is \[2\], expected 2 whole numbers"):
        resampled(array, (2,), (1, 1), smooth=False)
    with pytest.raises(GeometryError, match=r"downsample is \[1, 0\]"):
        resampled(array, (1, 1), (1, 0), smooth=False)
    with pytest.raises(GeometryError, match="leaves nothing of"):
        resampled(array, (1, 1), (5, 1), smooth=False)
    assert resampled(array, (1, 1), (1, 1), smooth=True) is array
