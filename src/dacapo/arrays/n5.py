"""N5 arrays and pyramids: `open_n5`, with the metadata of COSEM, OME, neuroglancer, Paintera and funlib.

N5 lists the fastest axis first (x, y, z); here it is turned round, so that an `Array` has z, y, x.
Metadata are JSON read here, voxels go through tensorstore.
Imports the rest of arrays (not formats), errors, geometry and numpy.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dacapo.arrays.array import Array
from dacapo.arrays.layout import SPATIAL_NAMES, arranged
from dacapo.arrays.ome_metadata import placement
from dacapo.arrays.ome_zarr import fitting_level
from dacapo.arrays.paths import found_below, missing, some
from dacapo.arrays.tensorstores import TensorStoreSource
from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError
from dacapo.geometry import Grid, unit_in_nanometres

_COMPRESSIONS = ("raw", "gzip", "bzip2", "xz", "blosc", "zstd")
_LEVEL = re.compile(r"s\d+$")
_NO_LENGTH = ("", "pixel", "pixels", "px", "voxel", "voxels")


def is_n5(folder: Path) -> bool:
    """Whether `folder` is an N5 array or group, or a folder inside an N5 container, and not zarr."""
    zarr = any((folder / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
    if zarr or not folder.is_dir():
        return False
    return (folder / "attributes.json").is_file() or any(p.suffix.lower() == ".n5" for p in (folder, *folder.parents))


def open_n5(
    path: Path, *, voxel_size: Sequence[float] | None = None, mode: str = "r", unchanging: bool = False
) -> Array:
    """Open the N5 array, level or pyramid in folder `path`; see `open_array`.

    The place of an array is what it says itself, else what its group says of it: ``transform`` (COSEM;
    centre of voxel 0), ``pixelResolution`` (times ``downsamplingFactors``), ``resolution`` and ``offset``
    (corner of voxel 0).
    """
    if not path.exists():
        raise _missing_in_n5(path)
    attributes = n5_attributes(path)
    if _is_array(attributes):
        return _open_array(path, attributes, mode, unchanging)
    levels = n5_levels(path)
    if levels:
        level = path / fitting_level(levels, voxel_size, str(path))
        return _open_array(level, n5_attributes(level), mode, unchanging)
    inside = n5_arrays_below(path)
    raise ArrayNotFoundError(f"{path} is a group, expected an array. Arrays in it: {some(inside, 20)}.")


def n5_levels(path: Path) -> list[tuple[str, Grid]]:
    """Path and grid of each level of the pyramid in folder `path`, in its order; none if it is no pyramid."""
    levels = []
    for name in _level_names(path, n5_attributes(path)):
        attributes = n5_attributes(path / name)
        if not _is_array(attributes):
            raise ArrayNotFoundError(f"{path} names its level {name!r}, but there is no N5 array in {path / name}.")
        levels.append((name, _open_array(path / name, attributes, "r").grid))
    return levels


def n5_attributes(folder: Path) -> dict[str, Any]:
    """What attributes.json says; {} without one."""
    path = folder / "attributes.json"
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ArrayError(f"{path} is damaged or half written: {error}.") from None
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise ArrayError(f"{path} is damaged: expected a JSON object.")
    return content


def n5_arrays_below(path: Path, limit: int = 200) -> list[str]:
    """Paths below `path` that can be opened: arrays, and pyramids without their levels."""

    def opens(folder: Path) -> bool:
        attributes = n5_attributes(folder)
        return _is_array(attributes) or bool(_level_names(folder, attributes))

    return found_below(path, opens, limit, hidden=True)


def _is_array(attributes: Mapping[str, Any]) -> bool:
    return all(key in attributes for key in ("dimensions", "blockSize", "dataType"))


def _level_names(path: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Paths of the levels of a pyramid below a group; none if the group is no pyramid."""
    image = _image(attributes)
    if image is not None:
        return [str(dataset["path"]).strip("/") for dataset in image["datasets"]]
    try:
        children = sorted((e.name for e in os.scandir(path) if _LEVEL.match(e.name)), key=lambda name: int(name[1:]))
    except NotADirectoryError:
        return []
    return [name for name in children if _is_array(n5_attributes(path / name))]


def _image(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    found = attributes.get("multiscales") or []
    images = [image for image in found if isinstance(image, dict) and image.get("datasets")]
    return images[0] if images else None


def _open_array(path: Path, attributes: Mapping[str, Any], mode: str, unchanging: bool = False) -> Array:
    if attributes.get("isLabelMultiset") or str(attributes["dataType"]) not in _DTYPES:
        kind = "a label multiset" if attributes.get("isLabelMultiset") else attributes["dataType"]
        raise ArrayError(f"{path} holds {kind}, which cannot be read, expected one of {', '.join(_DTYPES)}.")
    compression = attributes.get("compression", attributes.get("compressionType", "raw"))
    compression = compression.get("type") if isinstance(compression, Mapping) else compression
    if compression not in _COMPRESSIONS:
        raise ArrayError(
            f"{path} is compressed with {compression}, which cannot be read: known are {', '.join(_COMPRESSIONS)}."
        )
    shape, block = (tuple(int(n) for n in reversed(attributes[key])) for key in ("dimensions", "blockSize"))
    source = TensorStoreSource(
        str(path), "n5", shape, np.dtype(attributes["dataType"]), block, mode == "r+", unchanging
    )
    names, size, place, units = _placement(path, attributes, len(shape))
    kept = attributes.get("dacapo")
    return arranged(source, names, size, **place, units=units, attributes=kept if isinstance(kept, Mapping) else None)


_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")

_Placement = tuple[list[str], list[float], dict[str, list[float]], list[str]]


def _placement(path: Path, own: Mapping[str, Any], ndim: int) -> _Placement:
    """Axis names, voxel size, offset or translation, and units; the slowest axis first."""
    where = str(path)
    group = n5_attributes(path.parent)
    if isinstance(own.get("transform"), Mapping):
        return _from_transform(own["transform"], ndim, where)
    names = _names(own.get("axes") or group.get("axes"), ndim, where)
    spatial = [i for i, name in enumerate(names) if not name.endswith("^")]

    def numbers(value: Any, key: str) -> list[float]:
        return _spatial_numbers(value, spatial, ndim, f"{where}: {key}")

    if "pixelResolution" in own:
        size, unit = _pixel_resolution(own["pixelResolution"])
        factors = own.get("downsamplingFactors")
        return _scaled(names, numbers(size, "pixelResolution"), factors, numbers, None, [unit] * len(spatial))
    for key in ("resolution", "voxel_size"):
        if key in own:
            offset = numbers(own["offset"], "offset") if "offset" in own else None
            return _scaled(names, numbers(own[key], key), None, numbers, offset, _units(own, spatial, ndim, where))
    image = _image(group)
    level = path.name
    for i, dataset in enumerate(image["datasets"] if image else []):
        if str(dataset.get("path")).strip("/") == level:
            return _from_image(image or {}, i, ndim, where)
    if not _LEVEL.match(level) or not ({"pixelResolution", "resolution"} & set(group)):
        return names, [1.0] * len(spatial), {}, ["voxel"] * len(spatial)
    return _from_group(group, own, level, names, spatial, numbers, where)


def _from_group(
    group: Mapping[str, Any],
    own: Mapping[str, Any],
    level: str,
    names: list[str],
    spatial: list[int],
    numbers: Any,
    where: str,
) -> _Placement:
    """The group states the finest voxel size, and how much coarser each level is."""
    units = _units(group, spatial, len(names), where)
    if "pixelResolution" in group:
        size, unit = _pixel_resolution(group["pixelResolution"])
        units = units if "units" in group else [unit] * len(spatial)
    else:
        size = group["resolution"]
    all_factors = group.get("scales") or group.get("downsamplingFactors") or []
    factors = own.get("downsamplingFactors")
    if factors is None and int(level[1:]) < len(all_factors):
        factors = all_factors[int(level[1:])]
    if factors is None and level != "s0":
        raise ArrayError(f"{where}: neither this level nor its group says how much coarser it is than s0.")
    offset = numbers(group["offset"], "offset") if "offset" in group else None
    return _scaled(names, numbers(size, "resolution"), factors, numbers, offset, units)


def _scaled(
    names: list[str], size: list[float], factors: Any, numbers: Any, offset: list[float] | None, units: list[str]
) -> _Placement:
    if factors is not None:
        size = [s * f for s, f in zip(size, numbers(factors, "downsamplingFactors"), strict=True)]
    return names, size, {} if offset is None else {"offset": offset}, units


def _from_transform(transform: Mapping[str, Any], ndim: int, where: str) -> _Placement:
    """COSEM: axes, scale and translate of the centre of voxel 0, in the order that the axes are listed in."""
    try:
        scale = [float(value) for value in transform["scale"]]
        translate = [float(value) for value in transform.get("translate") or [0.0] * len(scale)]
        listed = [str(axis) for axis in transform.get("axes") or ()]
    except (KeyError, TypeError, ValueError):
        raise ArrayError(f"{where}: transform is {dict(transform)}, expected axes, scale, translate, units.") from None
    units = transform.get("units") or ["nm"] * len(scale)
    units = [units] * len(scale) if isinstance(units, str) else [str(unit) for unit in units]
    if not len(scale) == len(translate) == len(units) <= ndim or len(listed) not in (0, len(scale)):
        raise ArrayError(f"{where}: transform {dict(transform)} does not fit {ndim} axes.")
    ordering = transform.get("ordering", transform.get("order"))
    if not listed:
        listed = list(SPATIAL_NAMES[-len(scale) :])
        listed = listed if ordering != "F" else listed[::-1]
    step = 1 if _is_slowest_first(listed, ordering) else -1
    names = _channels_first([_marked(name) for name in listed[::step]], ndim)
    spatial = [i for i, name in enumerate(listed[::step]) if name in SPATIAL_NAMES]
    return (
        names,
        [scale[::step][i] for i in spatial],
        {"translation": [translate[::step][i] for i in spatial]},
        [_unit(units[::step][i]) for i in spatial],
    )


def _from_image(image: Mapping[str, Any], index: int, ndim: int, where: str) -> _Placement:
    dataset = image["datasets"][index]
    if isinstance(dataset.get("transform"), Mapping):
        return _from_transform(dataset["transform"], ndim, where)
    names, scale, translation, units = placement(image, index, ndim, where)
    step = 1 if _is_slowest_first([name.rstrip("^") for name in names], None) else -1
    return names[::step], scale[::step], {"translation": translation[::step]}, units[::step]


def _names(listed: Any, ndim: int, where: str) -> list[str]:
    if not listed:
        return _channels_first(list(SPATIAL_NAMES[-min(ndim, 3) :]), ndim)
    names = [str(axis["name"] if isinstance(axis, Mapping) else axis) for axis in listed]
    names = names if _is_slowest_first(names, None) else names[::-1]
    if len(names) > ndim:
        raise ArrayError(f"{where}: axes {listed} do not fit {ndim} axes.")
    return _channels_first([_marked(name) for name in names], ndim)


def _is_slowest_first(names: Sequence[str], ordering: Any) -> bool:
    """Whether axes are listed as numpy has them: by `ordering` ("C" or "F"), else if x does not come before y and z."""
    if ordering in ("C", "F"):
        return bool(ordering == "C")
    spatial = [name for name in names if name in SPATIAL_NAMES]
    return spatial == [name for name in SPATIAL_NAMES if name in spatial]


def _channels_first(names: list[str], ndim: int) -> list[str]:
    extra = ndim - len(names)
    return (["c^"] if extra == 1 else [f"c{i}^" for i in range(extra)]) + names


def _marked(name: str) -> str:
    return name if name in SPATIAL_NAMES or name.endswith("^") else f"{name}^"


def _pixel_resolution(value: Any) -> tuple[Any, str]:
    if isinstance(value, Mapping):
        return value.get("dimensions"), _unit(str(value.get("unit") or "nm"))
    return value, "nm"


def _spatial_numbers(value: Any, spatial: list[int], ndim: int, what: str) -> list[float]:
    """Per spatial axis, slowest first, of a list that N5 has fastest first."""
    try:
        numbers = [float(number) for number in np.atleast_1d(value)][::-1]
    except (TypeError, ValueError):
        raise ArrayError(f"{what} is {value!r}, expected numbers.") from None
    if len(numbers) == 1:
        numbers = numbers * len(spatial)
    if len(numbers) == ndim:
        return [numbers[i] for i in spatial]
    if len(numbers) != len(spatial):
        raise ArrayError(f"{what} is {value!r}, expected {len(spatial)} numbers, one per spatial axis.")
    return numbers


def _units(attributes: Mapping[str, Any], spatial: list[int], ndim: int, where: str) -> list[str]:
    given = attributes.get("units", attributes.get("unit")) or "nm"
    units = [given] * len(spatial) if isinstance(given, str) else [str(unit) for unit in given][::-1]
    units = [units[i] for i in spatial] if len(units) == ndim else units
    if len(units) != len(spatial):
        raise ArrayError(f"{where}: units are {given}, expected {len(spatial)}, one per spatial axis.")
    return [_unit(unit) for unit in units]


def _unit(unit: str) -> str:
    return "voxel" if unit.strip().lower() in _NO_LENGTH and unit_in_nanometres(unit) is None else unit


def _missing_in_n5(path: Path) -> ArrayNotFoundError:
    parent = next(p for p in path.absolute().parents if p.exists())
    inside = n5_arrays_below(parent) if is_n5(parent) else []
    if not inside:
        return missing(path)
    return ArrayNotFoundError(f"{path} does not exist. {parent} contains the arrays {some(inside, 20)}.")
