"""TIFF images and stacks, with the voxel size that ImageJ or OME wrote.

Imports the rest of arrays (not formats), errors, geometry and numpy; tifffile when a file is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dacapo.arrays.array import Array, Slices
from dacapo.arrays.layout import SPATIAL_NAMES, arranged
from dacapo.errors import ArrayError, StoreError
from dacapo.geometry import unit_in_nanometres


def open_tiff(path: Path, inner: str = "") -> Array:
    """The first series of a TIFF file. Read-only; memory-mapped if it is not compressed, else read at the first use.

    Raises
    ------
    ArrayError
        If it is no TIFF file, or its images differ in shape.
    """
    if inner:
        raise ArrayError(f"{path} is a TIFF file, which holds no dataset {inner!r}; leave it out.")
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            source = _TiffSource(path, tuple(series.shape), series.dtype)
            names = _axis_names(series.axes)
            sizes = _sizes(file)
    except (tifffile.TiffFileError, OSError, IndexError) as error:
        raise ArrayError(f"{path} cannot be read as TIFF: {error}.") from error
    spatial = [name for name in names if not name.endswith("^")]
    units = [unit for name in spatial if unit_in_nanometres(unit := sizes.get(name, (1.0, ""))[1]) is not None]
    if not units:
        return arranged(source, names, [1.0] * len(spatial), units=["voxel"] * len(spatial))
    # A stack often states x and y only: z is 1 of the unit then, as ImageJ takes it.
    stated = [sizes.get(name, (1.0, units[-1])) for name in spatial]
    return arranged(source, names, [size for size, _ in stated], units=[unit for _, unit in stated])


class _TiffSource:
    is_writeable = False
    chunk_shape = None

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.path: str | None = str(path.absolute())
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
        self._voxels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_voxels": None}

    def read(self, slices: Slices) -> np.ndarray:
        if self._voxels is None:
            self._voxels = self._load()
        voxels: np.ndarray = self._voxels[slices].astype(self.dtype)
        return voxels

    def write(self, slices: Slices, data: np.ndarray) -> None:
        raise ArrayError(f"{self.path} can only be read. Convert it to OME-Zarr to write.")

    def _load(self) -> np.ndarray:
        import tifffile

        assert self.path is not None
        try:
            try:
                voxels: np.ndarray = tifffile.memmap(self.path, mode="r")
            except ValueError:  # compressed, or in pieces
                voxels = tifffile.imread(self.path)
            return voxels.reshape(self.shape)
        except Exception as error:  # decoders of damaged files raise anything
            raise StoreError(f"Cannot read {self.path}: {error}.") from error


def _axis_names(axes: str) -> list[str]:
    """Our names for tifffile's letters; a sequence of unknown kind is z if there is no z."""
    names = list(axes.lower())
    if "z" not in names:
        unknown = [i for i, name in enumerate(names) if name in "qi"]
        if len(unknown) == 1:
            names[unknown[0]] = "z"
    return [name if name in SPATIAL_NAMES else f"{name}^" for name in names]


def _sizes(file: Any) -> dict[str, tuple[float, str]]:
    """Length and unit of a voxel along the axes for which the file states it."""
    if file.ome_metadata:
        return _ome_sizes(file.ome_metadata)
    if not file.imagej_metadata:  # the resolution of other files is of printers
        return {}
    unit = str(file.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ")
    sizes: dict[str, tuple[float, str]] = {}
    if "spacing" in file.imagej_metadata:
        sizes["z"] = (float(file.imagej_metadata["spacing"]), unit)
    tags = file.pages[0].tags
    for name, tag in (("y", "YResolution"), ("x", "XResolution")):
        if tag in tags and all(tags[tag].value):
            per_unit, denominator = tags[tag].value
            # A fraction of 32-bit integers holds about nine digits: 5.24 must not become 5.240000001.
            sizes[name] = (float(f"{denominator / per_unit:.7g}"), unit)
    return sizes


def _ome_sizes(text: str) -> dict[str, tuple[float, str]]:
    from xml.etree import ElementTree

    for element in ElementTree.fromstring(text).iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            return {
                axis.lower(): (float(element.attrib[key]), element.attrib.get(f"{key}Unit", "µm"))
                for axis in "ZYX"
                if (key := f"PhysicalSize{axis}") in element.attrib
            }
    return {}
