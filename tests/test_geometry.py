"""Grids: floats survive, conversions cover what they must. Compared with plain arithmetic on fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.errors import GeometryError
from dacapo.geometry import Coordinate, Grid, Roi, exact, unit_in_nanometres

SETTINGS = settings(deadline=None, max_examples=100, derandomize=True)
SIZES = st.sampled_from([5.24, 4.0, 8.0, 0.1, 3.24, 16.48, 1e-3, 12.5])
SHORT_DECIMALS = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)
ANY_FLOAT = st.floats(-1e12, 1e12, allow_nan=False)


@SETTINGS
@given(ANY_FLOAT, st.floats(1e-6, 1e6))
def test_translation_round_trips(translation: float, size: float) -> None:
    """A grid made from any centre of voxel 0 gives that centre back, bit for bit."""
    assert Grid.from_translation((size,), (translation,)).translation == (translation,)


@SETTINGS
@given(SHORT_DECIMALS, SIZES)
def test_offset_round_trips(offset: float, size: float) -> None:
    """A corner of a few digits comes back exactly from the centre that is written for it."""
    grid = Grid((size,), (offset,))
    assert Grid.from_translation((size,), grid.translation).offset == (offset,)


@SETTINGS
@given(SHORT_DECIMALS, SIZES, st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_at_is_additive(offset: float, size: float, first: int, second: int) -> None:
    """Moving twice is moving once by the sum, and moving back gives the same grid."""
    grid = Grid((size,), (offset,))
    assert grid.at((first,)).at((second,)) == grid.at((first + second,))
    assert grid.at((first,)).at((-first,)) == grid


def test_floats_are_the_decimals_they_are_written_as() -> None:
    """Neither multiples nor sums of 5.24 pick up binary dust."""
    grid = Grid((5.24, 4, 4), (0.1, 0, 0))
    assert grid.voxel_size == (5.24, 4.0, 4.0)
    assert grid.scaled(3).voxel_size == (15.72, 12.0, 12.0)
    assert grid.scaled(Fraction(1, 2)).voxel_size == (2.62, 2.0, 2.0)
    assert grid.scaled((2, 1, 1)).offset == grid.offset
    assert grid.at((1000, 0, 0)).offset[0] == 5240.1
    assert grid.translation == (2.72, 2.0, 2.0)


def test_defaults_and_units() -> None:
    """Axes are the last of z y x, the offset is zero, and spellings of nanometre are one unit."""
    grid = Grid((4, 4))
    assert (grid.axes, grid.offset, grid.dims) == (("y", "x"), (0.0, 0.0), 2)
    assert Grid((4,), unit="nanometer") == Grid((4,))
    assert unit_in_nanometres(" \u00b5m ") == unit_in_nanometres("micrometer") == 1000
    assert unit_in_nanometres("voxel") is None
    micro = Grid((0.00524,), (0.1,), "um").in_nanometres()
    assert (micro.voxel_size, micro.offset, micro.unit) == ((5.24,), (100.0,), "nm")
    assert Grid((1,), unit="voxel").in_nanometres().unit == "voxel"


@pytest.mark.parametrize(
    ("size", "offset", "axes"),
    [
        ((0,), (), ()),
        ((-1, 1), (), ()),
        ((1, 1), (0,), ()),
        ((math.nan,), (), ()),
        ((1, 1), (), ("x", "x")),
        ((), (), ()),
    ],
)
def test_impossible_grids(size: tuple[float, ...], offset: tuple[float, ...], axes: tuple[str, ...]) -> None:
    """A grid that cannot be is refused where it is made."""
    with pytest.raises(GeometryError, match="voxel_size"):
        Grid(size, offset, axes=axes)


def test_a_voxel_size_that_is_no_list() -> None:
    """A number in place of a list is named."""
    with pytest.raises(GeometryError, match=r"voxel_size is 4, expected one number per spatial axis"):
        Grid(4)  # type: ignore[arg-type]


def test_ratio() -> None:
    """Whole multiples either way are found to a thousandth, everything else names both sizes."""
    raw, gt = Grid((5.24, 4, 4)), Grid((2.6201, 8, 4))
    assert raw.ratio(gt) == (Fraction(1, 2), Fraction(2), Fraction(1))
    assert gt.ratio(raw) == (Fraction(2), Fraction(1, 2), Fraction(1))
    with pytest.raises(GeometryError, match=r"\(5\.24, 4\.0, 4\.0\).*\(6\.0, 4\.0, 4\.0\)"):
        raw.ratio(Grid((6, 4, 4)))
    with pytest.raises(GeometryError, match="'nm' against 3 axes in 'voxel'"):
        raw.ratio(Grid((1, 1, 1), unit="voxel"))


@pytest.mark.parametrize(
    ("corner", "voxels"),
    [(0.0, 0), (4.0, 1), (2.0, 0), (-2.0, 0), (6.0, 1), (-6.0, -1), (2.1, 1), (-2.1, -1), (1.9, 0), (2.000001, 0)],
)
def test_shift_rounds_ties_toward_zero(corner: float, voxels: int) -> None:
    """Half a voxel, as pyramids of other tools are off, is no voxel."""
    assert Grid((4,)).shift(Grid((4,), (corner,))) == Coordinate(voxels)


def test_shift_of_far_away_float_grids_is_exact() -> None:
    """A million voxels of 5.24 nm away is a million voxels, not 1,048,000."""
    grid = Grid((5.24,), (1.1,))
    assert grid.shift(grid.at((10**6,))) == Coordinate(10**6)


@SETTINGS
@given(SHORT_DECIMALS, SHORT_DECIMALS, SIZES, SIZES, st.integers(-1000, 1000), st.integers(0, 1000))
def test_convert_covers_and_is_smallest(a: float, b: float, size: float, other: float, begin: int, length: int) -> None:
    """The converted region holds the region, and one voxel less on either side would not."""
    mine, theirs = Grid((size,), (a,)), Grid((other,), (b,))
    roi = mine.convert(Roi((begin,), (length,)), theirs)
    low = exact(mine.at((begin,)).offset[0])
    high = exact(mine.at((begin + length,)).offset[0])
    slack = Fraction(2, 1000) * exact(other)
    edges = [exact(theirs.at((int(edge),)).offset[0]) for edge in (roi.begin[0], roi.end[0])]
    assert edges[0] <= low + slack
    assert edges[1] >= high - slack
    assert edges[0] + exact(other) > low - slack
    if length:
        assert edges[1] - exact(other) < high + slack


@SETTINGS
@given(st.integers(-50, 50), st.integers(0, 50), st.integers(1, 5))
def test_convert_to_finer_and_back(begin: int, length: int, factor: int) -> None:
    """To a finer grid with the same corner and back again is the same region."""
    coarse = Grid((15.72,), (3.3,))
    fine = coarse.scaled(Fraction(1, factor))
    roi = Roi((begin,), (length,))
    assert coarse.convert(roi, fine) == Roi((begin * factor,), (length * factor,))
    assert fine.convert(coarse.convert(roi, fine), coarse) == roi


def test_convert_forgives_rounded_metadata() -> None:
    """100,000 voxels stay 100,000 voxels if one file says 5.24 and the other 5.2400001."""
    assert Grid((5.24,)).convert(Roi((0,), (10**5,)), Grid((5.2400001,))) == Roi((0,), (10**5,))


def test_is_close() -> None:
    """Grids are the same if no voxel within a thousand differs by a thousandth."""
    grid = Grid((5.24,), (1e6,))
    assert grid.is_close(Grid((5.24,), (1e6 + 1e-9,)))
    assert not grid.is_close(Grid((5.24,), (1e6 + 0.1,)))
    assert not grid.is_close(Grid((5.25,), (1e6,)))
    assert not grid.is_close(Grid((5.24,), (1e6,), "um"))


def test_wrong_number_of_axes_is_named() -> None:
    """Factors and voxels must be one per axis, and whole where voxels are meant."""
    with pytest.raises(GeometryError, match="factor has 2 entries, expected 3"):
        Grid((1, 1, 1)).scaled((2, 2))
    with pytest.raises(GeometryError, match="expected whole voxels"):
        Grid((1, 1)).at((0.5, 0))  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="translation"):
        Grid.from_translation((1, 1), (0,))
