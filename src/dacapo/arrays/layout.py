"""From what a file says about its axes to an `Array`: channels first, z y x, nanometres.

Imports array, geometry, errors and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from dacapo.arrays.array import Array, Source
from dacapo.arrays.views import Transposed
from dacapo.errors import ArrayError
from dacapo.geometry import Grid, exact, unit_in_nanometres

SPATIAL_NAMES = ("z", "y", "x")
SIZE_KEYS = ("voxel_size", "resolution", "element_size_um")


def arranged(
    source: Source,
    axis_names: Sequence[str],
    voxel_size: Sequence[float],
    *,
    offset: Sequence[float] | None = None,
    translation: Sequence[float] | None = None,
    units: Sequence[str],
    attributes: Mapping[str, Any] | None = None,
) -> Array:
    """An `Array` of voxels whose axes may be in any order and units.

    Parameters
    ----------
    source : Source
    axis_names : sequence of str
        One per axis of `source`, in its order; channel axes end in ``^``.
    voxel_size, offset or translation, units : sequence
        One entry per spatial axis, in the order of the source. `offset` is the lower corner of
        voxel 0, `translation` its centre.
    """
    order, grid = arrangement(axis_names, voxel_size, offset=offset, translation=translation, units=units)
    if order != sorted(order):
        source = Transposed(source, order)
    return Array(source, grid, [axis_names[i] for i in order], attributes)


def arrangement(
    axis_names: Sequence[str],
    voxel_size: Sequence[float],
    *,
    offset: Sequence[float] | None = None,
    translation: Sequence[float] | None = None,
    units: Sequence[str],
) -> tuple[list[int], Grid]:
    """The order that brings channels first and z y x after them, and the grid in that order; see `arranged`."""
    channels = [i for i, name in enumerate(axis_names) if name.endswith("^")]
    spatial = [i for i, name in enumerate(axis_names) if not name.endswith("^")]
    if all(axis_names[i] in SPATIAL_NAMES for i in spatial):
        ranked = sorted(spatial, key=lambda i: SPATIAL_NAMES.index(axis_names[i]))
    else:
        ranked = spatial

    def picked(values: Sequence[Any]) -> list[Any]:
        return [values[spatial.index(i)] for i in ranked]

    grid = _grid(
        [axis_names[i] for i in ranked],
        picked(voxel_size),
        offset=None if offset is None else picked(offset),
        translation=None if translation is None else picked(translation),
        units=picked(units),
    )
    return channels + ranked, grid


def _grid(
    names: Sequence[str],
    voxel_size: Sequence[float],
    *,
    offset: Sequence[float] | None = None,
    translation: Sequence[float] | None = None,
    units: Sequence[str],
) -> Grid:
    """The grid of some spatial axes, in nanometres if all units are lengths."""
    factors = [factor for unit in units if (factor := unit_in_nanometres(unit)) is not None]
    unit = "nm"
    if len(factors) < len(units):
        if len(set(units)) > 1:
            raise ArrayError(f"Axes {tuple(names)} have units {tuple(units)}, which cannot be brought to one unit.")
        factors, unit = [Fraction(1)] * len(units), units[0]

    def in_unit(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(exact(float(v)) * f) for v, f in zip(values, factors, strict=True))

    if translation is not None:
        return Grid.from_translation(in_unit(voxel_size), in_unit(translation), unit, names)
    return Grid(in_unit(voxel_size), () if offset is None else in_unit(offset), unit, tuple(names))


def placed(
    array: Array,
    *,
    axis_names: Sequence[str] | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    units: Sequence[str] | None = None,
) -> Array:
    """The same voxels where the caller says they are; what is left out stays as the file has it.

    Parameters
    ----------
    array : Array
        As it was opened.
    axis_names : sequence of str, optional
        One per axis in the order of the file (of N5 the slowest first); channel axes end in ``^``.
    voxel_size, offset : sequence of float, optional
        In the order of the spatial axes in `axis_names` if that is given, else of `array` (z, y, x).
    units : sequence of str, optional
        Of `voxel_size` and `offset`, one per spatial axis or one for all; nm by default.

    Raises
    ------
    ArrayError
        If they do not fit the array.
    """
    source, order = array._source, list(range(array.ndim))
    if isinstance(source, Transposed):
        source, order = source.inner, list(source.order)
    grid, where = array.grid, array.path or "this array"
    stored = [array.axis_names[order.index(axis)] for axis in range(array.ndim)]
    names = stored if axis_names is None else [str(name) for name in axis_names]
    before, spatial = ([name for name in some if not name.endswith("^")] for some in (stored, names))
    if len(names) != array.ndim or len(set(names)) != len(names) or not spatial:
        raise ArrayError(f"{where}: axis names {names} do not fit {array.ndim} axes: expected one name each.")
    if len(spatial) != len(before) and voxel_size is None and grid.unit != "voxel":
        raise ArrayError(
            f"{where}: axis names {names} have {len(spatial)} spatial axes, but the file states {len(before)} voxel sizes."
        )

    def by_file(given: Sequence[float] | None, found: Sequence[float], name: str, otherwise: float) -> list[float]:
        """Per spatial axis in the order of the file, in nanometres."""
        if given is None:
            kept = [found[grid.axes.index(axis)] for axis in before]
            return kept if len(spatial) == len(before) else [otherwise] * len(spatial)
        if len(given) != len(spatial):
            raise ArrayError(
                f"{where}: {name} is {list(given)}, expected {len(spatial)} numbers, one per spatial axis."
            )
        in_order = spatial if axis_names is not None else grid.axes
        factors = _factors(units, len(spatial), where)
        in_nm = [float(exact(float(v)) * f) for v, f in zip(given, factors, strict=True)]
        return [in_nm[in_order.index(axis)] for axis in spatial]

    unit = grid.unit if voxel_size is None else "nm"
    return arranged(
        source,
        names,
        by_file(voxel_size, grid.voxel_size, "voxel_size", 1.0),
        offset=by_file(offset, grid.offset, "offset", 0.0),
        units=[unit] * len(spatial),
        attributes=array.attributes,
    )


def _factors(units: Sequence[str] | None, count: int, where: str) -> list[Fraction]:
    given = list(units or ["nm"])
    given = given * count if len(given) == 1 else given
    factors = [unit_in_nanometres(unit) for unit in given]
    if len(given) != count or None in factors:
        raise ArrayError(f"{where}: units {given} are not {count} units of length, such as nm or um.")
    return [factor for factor in factors if factor is not None]


def from_attributes(
    source: Source, attributes: Mapping[str, Any], where: str, names: Sequence[str | None] | None = None
) -> Array:
    """An `Array` from attributes in the manner of funlib, CREMI and n5: offset (corner), voxel size, axis names.

    Parameters
    ----------
    source : Source
    attributes : mapping
        ``voxel_size`` or ``resolution`` or ``element_size_um``; ``offset``; ``axis_names`` or
        ``axes``; ``types``; ``units`` or ``unit``. Without a voxel size: 1 "voxel".
    where : str
        Path for messages.
    names : sequence of str, optional
        Names of the axes if the attributes say nothing (zarr v3 ``dimension_names``).
    """
    ndim = len(source.shape)
    size_key = next((key for key in SIZE_KEYS if key in attributes), None)
    sizes = _numbers(attributes[size_key], where, size_key) if size_key else None
    axis_names = _axis_names(attributes, ndim, sizes, names, where)
    spatial = [i for i, name in enumerate(axis_names) if not name.endswith("^")]

    units = attributes.get("units", attributes.get("unit")) or "nm"
    unit_list = [units] if isinstance(units, str) else [str(unit or "nm") for unit in units]
    if size_key is None:
        unit_list = ["voxel"]
    elif size_key == "element_size_um":
        unit_list = ["um"]
    kept = attributes.get("dacapo")
    offset = _numbers(attributes["offset"], where, "offset") if "offset" in attributes else None
    return arranged(
        source,
        axis_names,
        _per_spatial(sizes or [1.0], spatial, ndim, f"{where}: {size_key}"),
        offset=None if offset is None else _per_spatial(offset, spatial, ndim, f"{where}: offset"),
        units=_per_spatial(unit_list, spatial, ndim, f"{where}: units"),
        attributes=kept if isinstance(kept, Mapping) else None,
    )


def _axis_names(
    attributes: Mapping[str, Any],
    ndim: int,
    sizes: list[float] | None,
    fallback: Sequence[str | None] | None,
    where: str,
) -> list[str]:
    given = attributes.get("axis_names", attributes.get("axes"))
    if given is None and fallback and all(fallback):
        given = fallback
    if given is None:
        dims = min(len(sizes), ndim) if sizes and len(sizes) > 1 else ndim
        dims = min(dims, 3)
        if ndim - dims > 1:
            return [f"c{i}^" for i in range(ndim - dims)] + list(SPATIAL_NAMES[-dims:])
        return ["c^"] * (ndim - dims) + list(SPATIAL_NAMES[-dims:])
    names = [str(name) for name in given]
    if len(names) != ndim:
        raise ArrayError(f"{where}: axis names {names} do not fit {ndim} axes.")
    types = [str(kind) for kind in attributes.get("types") or []]
    if len(types) == ndim:
        return [_marked(name, kind == "space") for name, kind in zip(names, types, strict=True)]
    if any(name.endswith("^") for name in names) or not set(names) & set(SPATIAL_NAMES):
        return names
    return [_marked(name, name in SPATIAL_NAMES) for name in names]


def _marked(name: str, is_spatial: bool) -> str:
    return name if is_spatial or name.endswith("^") else f"{name}^"


def _numbers(value: Any, where: str, key: str) -> list[float]:
    try:
        return [float(number) for number in np.atleast_1d(value)]
    except (TypeError, ValueError):
        raise ArrayError(f"{where}: attribute {key} is {value!r}, expected numbers.") from None


def _per_spatial(values: list[Any], spatial: list[int], ndim: int, what: str) -> list[Any]:
    """One entry per spatial axis of a list that has one per spatial axis, one per axis, or one for all."""
    if len(values) == len(spatial):
        return values
    if len(values) == ndim:
        return [values[i] for i in spatial]
    if len(values) == 1:
        return values * len(spatial)
    raise ArrayError(f"{what} has {len(values)} entries, expected {len(spatial)}, one per spatial axis.")
