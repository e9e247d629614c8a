"""Arrays made of arrays, against numpy on the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.arrays import Array, from_numpy
from dacapo.arrays.combine import any_channel, constant_like, merged_instances, spread, stacked, summed
from dacapo.errors import ArrayError, DataError, GeometryError
from dacapo.geometry import Roi

SETTINGS = settings(deadline=None, max_examples=25, derandomize=True)


def labels(seed: int, shape: tuple[int, ...], dtype: str = "uint16", high: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def at(data: np.ndarray) -> Array:
    return from_numpy(data, (5.24, 4.0, 4.0)[-data.ndim :])


@st.composite
def regions(draw: st.DrawFn) -> tuple[tuple[int, ...], Roi]:
    """A shape of two or three axes and a region inside it."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=3)))
    begin = [draw(st.integers(0, n - 1)) for n in shape]
    return shape, Roi(begin, [draw(st.integers(1, n - b)) for n, b in zip(shape, begin, strict=True)])


def part(roi: Roi) -> tuple[slice, ...]:
    return (..., *(slice(b, e) for b, e in zip(roi.begin, roi.end, strict=True)))


@SETTINGS
@given(regions())
def test_stacked(case: tuple[tuple[int, ...], Roi]) -> None:
    """Channel i is array i, whatever channels are read; a source with one channel gives that one."""
    shape, roi = case
    data = [labels(i, shape) for i in range(3)]
    single = from_numpy(data[2][None], at(data[2]).grid)
    array = stacked([at(data[0]), at(data[1]), single], "abc")
    assert array.axis_names == ("c^", *at(data[0]).axis_names)
    np.testing.assert_array_equal(array.read(roi), np.stack(data)[part(roi)])
    np.testing.assert_array_equal(array.select_channels([2, 0]).read(roi), np.stack([data[2], data[0]])[part(roi)])


@SETTINGS
@given(regions(), st.integers(1, 4))
def test_merged_instances(case: tuple[tuple[int, ...], Roi], n: int) -> None:
    """Two voxels share an id exactly if the same source gave both the same id; the first source wins; parts agree."""
    shape, roi = case
    data = [labels(i, shape, "uint8" if i % 2 else "uint64") for i in range(n)]
    array = merged_instances([at(d) for d in data], "abcd"[:n])
    whole = array.read()
    assert whole.dtype == np.uint64
    np.testing.assert_array_equal(array.read(roi), whole[part(roi)])
    origin = [next(((i, int(d[v])) for i, d in enumerate(data) if d[v]), None) for v in np.ndindex(shape)]
    seen: dict[object, int] = {}
    for where, value in zip(origin, whole.ravel(), strict=True):
        assert seen.setdefault(where, int(value)) == value
    assert len(set(seen.values())) == len(seen)
    assert seen.get(None, 0) == 0


def test_merging_refuses_ids_without_room() -> None:
    """An id that would wrap round, a negative one and a float array are errors that name the source."""
    big = np.full((2, 2), 2**64 - 1, np.uint64)
    half = np.full((2, 2), 2**63 - 2, np.uint64)
    top = merged_instances([at(half), at(half)], ["a", "b"]).read()
    assert (top == (2**63 - 3) * 2 + 1).all()
    with pytest.raises(DataError, match="b has the id 18446744073709551615: merged with 1 others"):
        merged_instances([at(half), at(big)], ["a", "b"]).read()
    with pytest.raises(DataError, match="a has the negative id -1"):
        merged_instances([at(np.full((2, 2), -1, np.int32))], ["a"]).read()
    with pytest.raises(ArrayError, match="a is float32, expected labels"):
        merged_instances([at(np.zeros((2, 2), np.float32))], ["a"])


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("uint8", "uint8"), "uint16"),
        (("bool", "bool", "bool"), "uint8"),
        (("uint8", "int8"), "int16"),
        (("uint32", "uint16"), "uint64"),
        (("uint64", "uint64"), "uint64"),
        (("uint8", "float32"), "float32"),
        (("float64", "uint8"), "float64"),
    ],
)
def test_summed(dtypes: tuple[str, ...], expected: str) -> None:
    """The largest values of each type are added without wrapping round."""
    data = []
    for dtype in map(np.dtype, dtypes):
        top = 1 if dtype.kind == "b" else 3 if dtype.kind == "f" or dtype.itemsize == 8 else np.iinfo(dtype).max
        data.append(np.full((2, 3), top, dtype))
    array = summed([at(d) for d in data], "abc"[: len(data)])
    assert array.dtype == expected
    assert (array.read().astype(object) == sum(int(d[0, 0]) for d in data)).all()


def test_a_sum_that_does_not_fit() -> None:
    """64 bits that overflow are an error, not another number."""
    for top, dtype in ((2**64 - 1, np.uint64), (2**63 - 1, np.int64), (-(2**63), np.int64)):
        full, one = np.full((2, 2), top, dtype), np.full((2, 2), 1 if top > 0 else -1, dtype)
        with pytest.raises(DataError, match="does not fit"):
            summed([at(full), at(one)], "ab").read()
    with pytest.raises(DataError, match="does not fit int64"):
        summed([at(np.full((2, 2), 2**63, np.uint64)), at(np.zeros((2, 2), np.int8))], "ab").read()


@SETTINGS
@given(regions(), st.booleans())
def test_any_channel_and_spread(case: tuple[tuple[int, ...], Roi], with_channels: bool) -> None:
    """Channels to one and one to channels are what numpy says of the whole."""
    shape, roi = case
    data = labels(0, (2, *shape) if with_channels else shape, high=2)
    array = from_numpy(data, at(data[0] if with_channels else data).grid)
    expected = data.any(0) if with_channels else data > 0
    np.testing.assert_array_equal(any_channel(array).read(roi), expected[part(roi)])
    flat = at(expected.astype(np.uint8))
    both = spread(flat, [lambda v: v > 0, lambda v: v == 0], bool)
    np.testing.assert_array_equal(both.read(roi), np.stack([expected, ~expected])[part(roi)])
    np.testing.assert_array_equal(both[1], ~expected)


def test_constant_needs_no_voxels() -> None:
    """The source is not read."""
    source = at(np.zeros((3, 4), np.uint8)).map(lambda v: 1 / 0, np.uint8)
    array = constant_like(source, 3, np.uint8)
    assert array.grid == source.grid
    assert (array.read(Roi((1, 1), (2, 2))) == 3).all()
    assert not array.is_writeable


def test_what_does_not_fit_is_said() -> None:
    """Another grid, shape, several channels, or types without a common one: one line that names the array."""
    data = np.zeros((4, 4), np.uint64)
    moved = from_numpy(data, (4.0, 4.0), (2.0, 0.0))
    for other, message in (
        (moved, "b has voxels .* from .2.0, 0.0.*crop or resample"),
        (from_numpy(data, (5.24, 4.0)), "b has voxels .5.24"),
        (at(data[:3]), r"b has shape \(3, 4\), but a has \(4, 4\)"),
    ):
        for combine in (stacked, summed, merged_instances):
            with pytest.raises(GeometryError, match=message):
                combine([at(data), other], "ab")
    with pytest.raises(ArrayError, match=r"b has the channel axes c\^ \(2\)"):
        stacked([at(data), from_numpy(np.zeros((2, 4, 4), np.uint64), (4.0, 4.0))], "ab")
    with pytest.raises(ArrayError, match="uint64, int8 have no common type"):
        stacked([at(data), at(data.astype(np.int8))], "ab")
