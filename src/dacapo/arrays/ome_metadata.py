"""The ``multiscales`` of OME-Zarr 0.1 to 0.5: where a level lies, and what to write. No files.

Imports errors and geometry. The translation of OME-Zarr is the centre of voxel 0; `Grid.offset` is
its lower corner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from dacapo.arrays.layout import SPATIAL_NAMES
from dacapo.errors import ArrayError
from dacapo.geometry import Grid, exact

_UNSTATED = ("voxel", "pixel", "")

Placement = tuple[list[str], list[float], list[float], list[str]]


def placement(image: Mapping[str, Any], level: int, ndim: int | None, where: str) -> Placement:
    """Axis names, and per spatial axis the scale, translation and unit of one level, in the stored order.

    Parameters
    ----------
    image : mapping
        One entry of ``multiscales``.
    level : int
        Index into its datasets.
    ndim : int or None
        Number of axes of the level's array, if it is known.
    where : str
        Path for messages.

    Raises
    ------
    ArrayError
        If the axes or transformations do not fit each other or the array.
    """
    axes = _axes(image, ndim, where)
    names = [name if is_space else f"{name}^" for name, is_space, _ in axes]
    spatial = [i for i, axis in enumerate(axes) if axis[1]]
    if (ndim is not None and len(axes) != ndim) or not spatial:
        raise ArrayError(f"{where}: the OME metadata have axes {names}, but the array has {ndim} axes.")
    scale, translation = _composed(image, level, len(axes), where)
    finest, _ = _composed(image, 0, len(axes), where)
    unstated = "voxel" if all(finest[i] == 1 for i in spatial) else "nm"
    return (
        names,
        [float(scale[i]) for i in spatial],
        [float(translation[i]) for i in spatial],
        [axes[i][2] or unstated for i in spatial],
    )


def multiscales(
    name: str, version: str, levels: Sequence[tuple[str, Grid]], axis_names: Sequence[str]
) -> dict[str, Any]:
    """One entry of ``multiscales`` for levels (path, grid), finest first; for OME-Zarr "0.4" or "0.5"."""
    unit = levels[0][1].unit
    axes: list[dict[str, str]] = []
    for axis in axis_names:
        if not axis.endswith("^"):
            stated = {} if unit in _UNSTATED else {"unit": "nanometer" if unit == "nm" else unit}
            axes.append({"name": axis, "type": "space", **stated})
        else:
            plain = axis.rstrip("^")
            axes.append({"name": plain, "type": "time" if plain == "t" else "channel"})
    extra = len(axis_names) - levels[0][1].dims
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0] * extra + list(grid.voxel_size)},
                {"type": "translation", "translation": [0.0] * extra + list(grid.translation)},
            ],
        }
        for path, grid in levels
    ]
    stated_version = {"version": version} if version == "0.4" else {}
    return {**stated_version, "name": name, "axes": axes, "datasets": datasets}


def _axes(image: Mapping[str, Any], ndim: int | None, where: str) -> list[tuple[str, bool, str]]:
    """Name, whether spatial, and unit ("" if not stated) of each axis."""
    given = image.get("axes")
    if not given:  # before 0.3 all images were five-dimensional
        given = ["t", "c", "z", "y", "x"][-(ndim or 5) :]
    axes = []
    for axis in given:
        if isinstance(axis, str):
            axes.append((axis, axis in SPATIAL_NAMES, ""))
        elif isinstance(axis, dict) and "name" in axis:
            name = str(axis["name"])
            is_space = axis["type"] == "space" if axis.get("type") else name in SPATIAL_NAMES
            axes.append((name, is_space, str(axis.get("unit") or "")))
        else:
            raise ArrayError(f"{where}: an axis of the OME metadata is {axis!r}, expected a name, type and unit.")
    return axes


def _composed(image: Mapping[str, Any], level: int, ndim: int, where: str) -> tuple[list[Fraction], list[Fraction]]:
    """Scale and translation of all axes: the level's transformations, then the image's."""
    scale, translation = [Fraction(1)] * ndim, [Fraction(0)] * ndim
    steps = list(image["datasets"][level].get("coordinateTransformations") or [])
    for step in steps + list(image.get("coordinateTransformations") or []):
        kind = step.get("type")
        if kind == "identity":
            continue
        values = step.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, list) or len(values) != ndim:
            raise ArrayError(f"{where}: the OME transformation {step} is not a scale or translation of {ndim} numbers.")
        factors = [exact(float(value)) for value in values]
        if kind == "scale":
            scale = [s * f for s, f in zip(scale, factors, strict=True)]
            translation = [t * f for t, f in zip(translation, factors, strict=True)]
        else:
            translation = [t + f for t, f in zip(translation, factors, strict=True)]
    return scale, translation
