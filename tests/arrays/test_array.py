"""`Array` over numpy: reading with padding, indexing, views and writing, against numpy itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.arrays import Array, dequantised, from_numpy
from dacapo.errors import ArrayError, GeometryError
from dacapo.geometry import Coordinate, Grid, Roi

SETTINGS = settings(deadline=None, max_examples=100, derandomize=True)


def volume(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)


def test_properties() -> None:
    """Shape counts channels, spatial_shape and roi do not, floats stay floats."""
    array = from_numpy(volume(2, 3, 4, 5), (5.24, 4, 4), (1.1, 0, 0))
    assert array.shape == (2, 3, 4, 5)
    assert (array.ndim, array.dims, array.channel_dims, array.spatial_dims) == (4, 4, 1, 3)
    assert array.axis_names == ("c^", "z", "y", "x")
    assert array.spatial_shape == Coordinate(3, 4, 5)
    assert isinstance(array.spatial_shape, Coordinate)
    assert array.roi == Roi((0, 0, 0), (3, 4, 5))
    assert (array.voxel_size, array.offset, array.units) == ((5.24, 4.0, 4.0), (1.1, 0.0, 0.0), "nm")
    assert (array.path, array.chunk_shape, array.attributes) == (None, None, {})
    assert "5.24 x 4 x 4 nm" in repr(array)


def test_without_voxel_size_the_unit_is_voxel() -> None:
    """Nothing known is said to be nothing known."""
    assert from_numpy(volume(3, 4)).grid == Grid((1, 1), unit="voxel")
    assert from_numpy(volume(2, 3, 4), axis_names=("c^", "y", "x")).spatial_dims == 2


@SETTINGS
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    st.tuples(st.integers(0, 25), st.integers(0, 25)),
)
def test_reflect_is_numpy_pad(shape: tuple[int, int], begin: tuple[int, int], size: tuple[int, int]) -> None:
    """A region that sticks out anywhere, even wholly, is what a large numpy.pad would hold there."""
    data = volume(2, *shape)
    reach = 60
    padded = np.pad(data, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    expected = padded[(slice(None), *(slice(reach + lo, reach + lo + n) for lo, n in zip(begin, size, strict=True)))]
    array = from_numpy(data, axis_names=("c^", "y", "x"))
    np.testing.assert_array_equal(array.read(Roi(begin, size), pad="reflect"), expected)


@SETTINGS
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    st.tuples(st.integers(0, 25), st.integers(0, 25)),
)
def test_zero_and_fill_are_numpy_pad(shape: tuple[int, int], begin: tuple[int, int], size: tuple[int, int]) -> None:
    """Outside is zero for "zero", and `fill_value` for `to_ndarray`."""
    data = volume(*shape)
    array = from_numpy(data)
    for value, found in ((0, array.read(Roi(begin, size), pad="zero")), (7, array.to_ndarray(Roi(begin, size), 7))):
        padded = np.pad(data, 60, constant_values=value)
        expected = padded[tuple(slice(60 + lo, 60 + lo + n) for lo, n in zip(begin, size, strict=True))]
        np.testing.assert_array_equal(found, expected)


class CountingSource:
    """A source that remembers what was read."""

    chunk_shape = None
    is_writeable = False
    path = None

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.reads: list[tuple[slice, ...]] = []

    def read(self, slices: tuple[slice, ...]) -> np.ndarray:
        self.reads.append(slices)
        return self.data[slices].copy()

    def write(self, slices: tuple[slice, ...], data: np.ndarray) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("pad", ["zero", "reflect"])
def test_padding_costs_one_read_of_the_inside(pad: str) -> None:
    """A region that sticks out by two voxels reads what is inside, once."""
    source = CountingSource(volume(10, 10))
    Array(source, Grid((1, 1))).read(Roi((-2, 4), (8, 4)), pad=pad)
    assert source.reads == [(slice(0, 6), slice(4, 8))]


def test_sticking_out_needs_a_choice() -> None:
    """Without `pad` it is an error that names both extents; so is a pad that is none."""
    array = from_numpy(volume(4, 4))
    with pytest.raises(GeometryError, match=r"\[-1:2, 0:2\] sticks out of this array, which has \(4, 4\) voxels"):
        array.read(Roi((-1, 0), (3, 2)))
    with pytest.raises(GeometryError, match="pad is 'mirror'"):
        array.read(Roi((-1, 0), (3, 2)), pad="mirror")
    with pytest.raises(GeometryError, match="bounds on 2 axes"):
        array.read(Roi((0, 0, 0), (1, 1, 1)))
    with pytest.raises(GeometryError, match="bounds on 2 axes"):
        array.read(Roi((None, 0), (None, 1)))


def test_what_is_read_belongs_to_the_reader() -> None:
    """Changing what was read never changes the array, and it is writeable."""
    data = volume(4, 4)
    array = from_numpy(data)
    for crop in (array.read(), array[1:3], array.crop(array.roi).read(), array.to_ndarray()):
        crop[...] = -1
    assert data.min() == 0


@pytest.mark.parametrize(
    "key",
    [
        np.s_[1],
        np.s_[-1, ..., 2],
        np.s_[:, 1:3],
        np.s_[::2, ::-1, 3:0:-2],
        np.s_[..., 4:],
        np.s_[2:1],
        np.s_[0, 1, 2, 3],
        np.s_[...],
        np.s_[:, -3:-1, 1:100],
    ],
)
def test_indexing_is_numpy_indexing(key: object) -> None:
    """Integers, slices with any step and an ellipsis mean what they mean in numpy."""
    data = volume(2, 3, 4, 5)
    np.testing.assert_array_equal(from_numpy(data)[key], data[key])


def test_indexing_with_a_roi_or_nonsense() -> None:
    """A Roi reads all channels; an index that does not fit is named."""
    data = volume(2, 3, 4, 5)
    array = from_numpy(data)
    np.testing.assert_array_equal(array[Roi((1, 1, 1), (2, 2, 2))], data[:, 1:3, 1:3, 1:3])
    with pytest.raises(ArrayError, match="Index 2 does not fit an axis of 2 voxels"):
        array[2]
    with pytest.raises(ArrayError, match="too many"):
        array[0, 0, 0, 0, 0]
    with pytest.raises(ArrayError, match="does not fit"):
        array[[0, 1]]


def test_views() -> None:
    """Map, crop and channel selection are lazy, keep their place and can be combined."""
    data = volume(4, 6, 8, 10)
    source = CountingSource(data)
    array = Array(source, Grid((5.24, 4, 4), (1, 2, 3)))
    view = array.crop(Roi((1, 2, 3), (4, 4, 4))).select_channels([2, 0]).map(lambda x: x / 2, np.float32)
    assert source.reads == []
    assert (view.shape, view.dtype, view.is_writeable) == ((2, 4, 4, 4), np.float32, False)
    assert view.offset == (6.24, 10.0, 15.0)
    expected = (data[[2, 0], 1:5, 2:6, 3:7] / 2).astype(np.float32)
    np.testing.assert_array_equal(view.read(), expected)
    mirrored = view.read(Roi((-1, 0, 0), (2, 4, 4)), pad="reflect")
    np.testing.assert_array_equal(mirrored, expected[:, [1, 0]])
    assert view.path is None
    with pytest.raises(ArrayError, match="read-only"):
        view.write(view.roi, 0)


@pytest.mark.parametrize("channels", [[0], [1, 2], [3, 0], [2, 2], [0, 1, 3], [3, 2, 1, 0]])
def test_select_channels_is_indexing(channels: list[int]) -> None:
    """Any channels in any order are those channels, and few are read by themselves."""
    data = volume(4, 3, 3)
    array = from_numpy(data, axis_names=("c^", "y", "x"))
    np.testing.assert_array_equal(array.select_channels(channels).read(), data[channels])
    np.testing.assert_array_equal(array.select_channels(channels)[:0], data[channels][:0])


def test_views_that_cannot_be() -> None:
    """Crops outside, channels that are not there and functions that change shape are refused."""
    array = from_numpy(volume(4, 4))
    with pytest.raises(GeometryError, match="nothing to crop"):
        array.crop(Roi((2, 2), (3, 1)))
    with pytest.raises(ArrayError, match="no channel axis"):
        array.select_channels([0])
    with pytest.raises(ArrayError, match="indices from 0 to 1"):
        from_numpy(volume(2, 3, 3), (1, 1)).select_channels([2])
    with pytest.raises(ArrayError, match="elementwise"):
        array.map(lambda x: x.sum(axis=0), np.int32).read()


def test_write() -> None:
    """Numbers and arrays land where the roi says, on all channels; what does not fit is refused."""
    data = np.zeros((2, 4, 4), np.float32)
    array = from_numpy(data, (1, 1))
    array.write(Roi((1, 1), (2, 2)), np.ones((2, 2, 2), np.uint8))
    array.write(Roi((0, 0), (1, 1)), 5)
    assert (data.sum(), data[0, 0, 0]) == (18, 5)
    with pytest.raises(ArrayError, match=r"shape \(2, 2\), expected \(2, 2, 2\)"):
        array.write(Roi((1, 1), (2, 2)), np.ones((2, 2)))
    with pytest.raises(ArrayError, match="data is float64, but this array holds float32"):
        array.write(Roi((1, 1), (2, 2)), np.ones((2, 2, 2)))
    with pytest.raises(GeometryError, match="sticks out"):
        array.write(Roi((3, 3), (2, 2)), 0)


def test_names_must_fit() -> None:
    """Channel axes come first and the spatial names are the grid's."""
    with pytest.raises(ArrayError, match="channel axes"):
        from_numpy(volume(3, 4, 2), Grid((1, 1)), axis_names=("y", "x", "c^"))
    with pytest.raises(ArrayError, match="no room"):
        from_numpy(volume(3), (1, 1))
    assert from_numpy(volume(1, 2, 3, 4), (1, 1)).axis_names == ("c0^", "c1^", "y", "x")


def test_dequantised() -> None:
    """uint8 with a value range is that range in float32; everything else is left alone."""
    plain = from_numpy(np.array([[0, 51, 255]], np.uint8))
    assert dequantised(plain) is plain
    ranged = Array(plain._source, plain.grid, attributes={"value_range": [-1, 1]})
    assert dequantised(ranged).dtype == np.float32
    np.testing.assert_allclose(dequantised(ranged).read(), [[-1, -0.6, 1]], rtol=1e-6)
    floats = Array(from_numpy(np.zeros((2, 2), np.float32))._source, Grid((1, 1)), attributes={"value_range": [-1, 1]})
    assert dequantised(floats) is floats


def test_with_grid() -> None:
    """Voxels without a known size can be given one."""
    array = from_numpy(volume(2, 3, 3), (1, 1)).with_grid(Grid((4, 8), unit="nm"))
    assert (array.voxel_size, array.axis_names) == ((4.0, 8.0), ("c^", "y", "x"))


def test_import_is_light() -> None:
    """Importing arrays loads no library of a file format."""
    heavy = {"torch", "tensorstore", "zarr", "h5py", "tifffile", "scipy", "numba", "dask"}
    code = f"import sys, dacapo.arrays; print(sorted({heavy!r} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
