"""Voxel grids in physical space. Imports errors and funlib.geometry.

`Coordinate` and `Roi` are integer voxels, always. Physical space is a `Grid`: float voxel size,
float offset and a unit. Lengths are added and multiplied as the decimal numbers they are written
as (5.24 is 524/100), so that 3 * 5.24 is 15.72 and stays so through any number of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from funlib.geometry.coordinate import Coordinate
from funlib.geometry.roi import Roi

from dacapo.errors import GeometryError

__all__ = ["Coordinate", "Grid", "Roi", "exact", "parse_roi", "unit_in_nanometres"]

RATIO_TOLERANCE = 1e-3  # relative; metadata is often rounded to three or four digits
VOXEL_TOLERANCE = Fraction(1, 1000)  # of a voxel; below it two corners are the same corner

_NANOMETRES: dict[str, Fraction] = {
    name: Fraction(factor)
    for factor, names in {
        "1/1000": "pm picometer picometre",
        "1/10": "a å angstrom ångström",
        "1": "nm nanometer nanometre nanometers nanometres",
        "1000": "um µm μm micron microns micrometer micrometre micrometers micrometres",
        "1000000": "mm millimeter millimetre millimeters millimetres",
        "10000000": "cm centimeter centimetre",
        "1000000000": "m meter metre",
    }.items()
    for name in names.split()
}


def unit_in_nanometres(unit: str) -> Fraction | None:
    """How many nanometres one `unit` is ("um" -> 1000), None if it is no known unit of length."""
    return _NANOMETRES.get(unit.strip().casefold())


@lru_cache(maxsize=4096)
def exact(value: float | int | Fraction) -> Fraction:
    """The number that `value` is written as: 5.24 -> 131/25, not the binary 5.2400000000000002."""
    return Fraction(value) if isinstance(value, (int, Fraction)) else Fraction(repr(float(value)))


@dataclass(frozen=True)
class Grid:
    """A voxel grid in physical space. Voxel (0, .., 0) has its lower corner at `offset`.

    Parameters
    ----------
    voxel_size : sequence of float, one per spatial axis
        Size of a voxel in `unit`; positive.
    offset : sequence of float, one per spatial axis, optional
        Lower corner of voxel 0 in `unit`; zeros by default.
    unit : str
        "nm" unless nothing is known of the physical size: then "voxel".
    axes : sequence of str, optional
        Names of the spatial axes; the last of ("z", "y", "x") by default.

    Raises
    ------
    GeometryError
        If the lengths differ, or a number is not finite, or a voxel size not positive.

    Examples
    --------
    >>> fine = Grid((5.24, 4.0, 4.0))
    >>> fine.scaled(3).voxel_size
    (15.72, 12.0, 12.0)
    >>> fine.translation
    (2.62, 2.0, 2.0)
    >>> fine.convert(Roi((3, 3, 3), (3, 3, 4)), fine.scaled(3))
    [1:2, 1:2, 1:3] (1, 1, 2)
    """

    voxel_size: tuple[float, ...]
    offset: tuple[float, ...] = ()
    unit: str = "nm"
    axes: tuple[str, ...] = ()
    # The translation as it was given: an offset of t - s/2 does not always give t back (t = 1e-20).
    _translation: tuple[float, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        voxel_size = _floats(self.voxel_size, "voxel_size")
        dims = len(voxel_size)
        offset = _floats(self.offset, "offset") if len(self.offset) else (0.0,) * dims
        axes = tuple(str(axis) for axis in self.axes) or ("z", "y", "x")[-dims:]
        if not dims or min(voxel_size) <= 0:
            raise GeometryError(f"voxel_size is {voxel_size}, expected a positive number per axis.")
        if len(offset) != dims or len(axes) != dims or len(set(axes)) != dims:
            raise GeometryError(
                f"voxel_size {voxel_size}, offset {offset} and axes {axes} must agree: one entry per spatial axis."
            )
        unit = "nm" if unit_in_nanometres(self.unit) == 1 else self.unit
        for name, value in (("voxel_size", voxel_size), ("offset", offset), ("unit", unit), ("axes", axes)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_translation(
        cls, voxel_size: Sequence[float], translation: Sequence[float], unit: str = "nm", axes: Sequence[str] = ()
    ) -> Grid:
        """The grid whose voxel 0 has its centre at `translation`, as OME-Zarr says it.

        `translation` comes back bit for bit from the property of that name.
        """
        sizes, centres = _floats(voxel_size, "voxel_size"), _floats(translation, "translation")
        if len(sizes) != len(centres):
            raise GeometryError(f"voxel_size {sizes} and translation {centres} must have one entry per spatial axis.")
        corner = tuple(float(exact(t) - exact(s) / 2) for t, s in zip(centres, sizes, strict=True))
        grid = cls(sizes, corner, unit, tuple(axes))
        object.__setattr__(grid, "_translation", centres)
        return grid

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.voxel_size)

    @property
    def translation(self) -> tuple[float, ...]:
        """Centre of voxel 0 in `unit`: what OME-Zarr stores."""
        if self._translation is not None:
            return self._translation
        return tuple(float(exact(o) + exact(s) / 2) for o, s in zip(self.offset, self.voxel_size, strict=True))

    def at(self, voxels: Iterable[int]) -> Grid:
        """The same voxels, counted from voxel `voxels` (integers, may be negative) of this grid."""
        steps = self._per_axis(voxels, "voxels")
        if any(int(step) != step for step in steps):
            raise GeometryError(f"voxels is {tuple(voxels)}, expected whole voxels.")
        if not any(steps):
            return self
        moved = [exact(s) * int(n) for s, n in zip(self.voxel_size, steps, strict=True)]
        if self._translation is not None:
            centre = tuple(float(exact(t) + m) for t, m in zip(self._translation, moved, strict=True))
            return Grid.from_translation(self.voxel_size, centre, self.unit, self.axes)
        corner = tuple(float(exact(o) + m) for o, m in zip(self.offset, moved, strict=True))
        return Grid(self.voxel_size, corner, self.unit, self.axes)

    def scaled(self, factor: float | Fraction | Iterable[float | Fraction]) -> Grid:
        """The grid of `factor` times larger voxels (one factor, or one per axis), same lower corner."""
        factors = self._per_axis(factor, "factor")
        if all(f == 1 for f in factors):
            return self
        sizes = tuple(float(exact(s) * _exactly(f)) for s, f in zip(self.voxel_size, factors, strict=True))
        return Grid(sizes, self.offset, self.unit, self.axes)

    def in_nanometres(self) -> Grid:
        """The same grid in "nm" if its unit is a known length, else itself."""
        factor = unit_in_nanometres(self.unit)
        if factor is None or self.unit == "nm":
            return self
        size, centre = ([float(exact(v) * factor) for v in values] for values in (self.voxel_size, self.translation))
        if self._translation is not None:
            return Grid.from_translation(size, centre, "nm", self.axes)
        return Grid(tuple(size), tuple(float(exact(o) * factor) for o in self.offset), "nm", self.axes)

    def is_close(self, other: Grid) -> bool:
        """Whether voxel 0 and voxel 1000 of both grids are the same, to a thousandth of a voxel."""
        if self.dims != other.dims or self.unit != other.unit:
            return False
        return all(
            abs(exact(a) - exact(b)) <= VOXEL_TOLERANCE * exact(s)
            and abs(exact(s) - exact(r)) * 1000 <= VOXEL_TOLERANCE * exact(s)
            for a, b, s, r in zip(self.offset, other.offset, self.voxel_size, other.voxel_size, strict=True)
        )

    def ratio(self, other: Grid) -> tuple[Fraction, ...]:
        """How many voxels of this grid one voxel of `other` is long, per axis: n or 1/n, n whole.

        Raises
        ------
        GeometryError
            If an axis is farther than 0.1 % from every n and 1/n, or the units or dims differ.
        """
        self._require_same_space(other)
        ratios = [_whole_ratio(a, b) for a, b in zip(self.voxel_size, other.voxel_size, strict=True)]
        if any(r is None for r in ratios):
            raise GeometryError(
                f"Voxel sizes {self.voxel_size} and {other.voxel_size} {self.unit} do not fit: expected "
                f"whole multiples of each other on every axis. Resample one of them."
            )
        return tuple(r for r in ratios if r is not None)

    def shift(self, other: Grid) -> Coordinate:
        """Index in this grid of the lower corner of `other`'s voxel 0, in whole voxels; ties go toward zero."""
        self._require_same_space(other)
        return Coordinate(  # type: ignore[no-untyped-call]
            _round_toward_zero((exact(b) - exact(a)) / exact(s))
            for a, b, s in zip(self.offset, other.offset, self.voxel_size, strict=True)
        )

    def convert(self, roi: Roi, other: Grid) -> Roi:
        """The smallest Roi of `other`'s voxels that covers `roi`, given in voxels of this grid.

        Voxel sizes within 0.1 % of n or 1/n count as that ratio; a voxel of `other` of which less
        than a thousandth is covered is left out.
        """
        self._require_same_space(other)
        begin, end = [], []
        for d in range(self.dims):
            size = exact(other.voxel_size[d])
            step = _whole_ratio(other.voxel_size[d], self.voxel_size[d]) or exact(self.voxel_size[d]) / size
            origin = (exact(self.offset[d]) - exact(other.offset[d])) / size
            begin.append(math.floor(origin + int(roi.begin[d]) * step + VOXEL_TOLERANCE))
            end.append(math.ceil(origin + int(roi.end[d]) * step - VOXEL_TOLERANCE))
        return Roi(begin, [max(0, hi - lo) for lo, hi in zip(begin, end, strict=True)])

    def _per_axis(self, value: float | Fraction | Iterable[float | Fraction], name: str) -> list[float | Fraction]:
        values = list(value) if isinstance(value, Iterable) else [value] * self.dims
        if len(values) != self.dims:
            raise GeometryError(f"{name} has {len(values)} entries, expected {self.dims}, one per axis {self.axes}.")
        return values

    def _require_same_space(self, other: Grid) -> None:
        if self.dims != other.dims or self.unit != other.unit:
            raise GeometryError(
                f"Grids differ in kind: {self.dims} axes in {self.unit!r} against {other.dims} axes in {other.unit!r}. "
                f"State the voxel size of the one that has none."
            )


def parse_roi(text: str) -> Roi:
    """`[0:10,0:20,5:30]` in voxels as a Roi; GeometryError for anything else."""
    try:
        pairs = [[int(v) for v in part.split(":")] for part in text.strip("[]() ").split(",")]
        begin, end = [b for b, _ in pairs], [e for _, e in pairs]
    except ValueError:
        raise GeometryError(f"roi {text}: expected begin:end per axis, such as [0:64,0:128,0:128]") from None
    if any(b >= e for b, e in zip(begin, end, strict=True)):
        raise GeometryError(f"roi {text}: each end must be larger than its begin")
    return Roi(begin, [e - b for b, e in zip(begin, end, strict=True)])


def _floats(values: Iterable[float], name: str) -> tuple[float, ...]:
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise GeometryError(f"{name} is {values!r}, expected one number per spatial axis.") from None
    if not all(math.isfinite(value) for value in floats):
        raise GeometryError(f"{name} is {floats}, expected finite numbers.")
    return floats


def _exactly(factor: float | Fraction) -> Fraction:
    return factor if isinstance(factor, Fraction) else exact(float(factor))


def _whole_ratio(unit: float, length: float) -> Fraction | None:
    """`length / unit` as n or 1/n if it is one within the tolerance."""
    quotient = length / unit
    whole = round(max(quotient, 1 / quotient))
    snapped = Fraction(whole) if quotient >= 1 else Fraction(1, whole)
    return snapped if abs(quotient / float(snapped) - 1) <= RATIO_TOLERANCE else None


def _round_toward_zero(value: Fraction) -> int:
    magnitude = math.ceil(abs(value) - Fraction(1, 2) - VOXEL_TOLERANCE)
    return -magnitude if value < 0 else magnitude
