"""Arrays as an experiment names them: configs that open a lazy `dacapo.arrays.Array`.

A string stands for the config of whatever lies at that path; see `ArrayConfig.shorthand`.
May import `arrays` and `config`.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from dacapo.config import Config
from dacapo.errors import ConfigError

if TYPE_CHECKING:
    from dacapo.arrays import Array


class ArrayConfig(Config):
    """A volume, opened by `array()`. A string is short for `ZarrArrayConfig` or its siblings by suffix."""

    kind: ClassVar[str] = "array"
    name: str = ""

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        container, dataset = split_path(str(value))
        kind = _BY_SUFFIX.get(Path(container).suffix.lower())
        if kind is None:
            known = ", ".join(sorted(_BY_SUFFIX))
            raise ValueError(f"{value}: no reader for this name; known suffixes are {known}")
        fields: dict[str, Any] = {"type": kind, "file_name": container}
        return fields | ({"dataset": dataset} if dataset or kind != "TiffArrayConfig" else {})

    @abstractmethod
    def array(self, mode: str = "r") -> Array:
        """Open the array; ArrayNotFoundError says what is there instead."""

    @property
    def location(self) -> str:
        """What a message calls this array."""
        return self.name or type(self).__name__

    def like(self, path: str) -> ArrayConfig:
        """The same treatment (intensity range, ...) of the volume at `path`: what a trained network expects."""
        sources = [f for f in type(self).model_fields if isinstance(getattr(self, f), ArrayConfig)]
        if not sources:
            return ArrayConfig.from_dict(path)  # type: ignore[arg-type]
        return self.model_copy(update={f: getattr(self, f).like(path) for f in sources})

    def relative_to(self, folder: Path) -> ArrayConfig:
        """The same config with relative file names resolved against `folder`."""
        update: dict[str, Any] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, ArrayConfig):
                update[field] = value.relative_to(folder)
            elif isinstance(value, Path) and "://" not in str(value) and not value.is_absolute():
                update[field] = folder / value
        return self.model_copy(update=update)


_BY_SUFFIX = {
    ".zarr": "ZarrArrayConfig",
    ".h5": "HDF5ArrayConfig",
    ".hdf": "HDF5ArrayConfig",
    ".hdf5": "HDF5ArrayConfig",
    ".tif": "TiffArrayConfig",
    ".tiff": "TiffArrayConfig",
}


def split_path(path: str) -> tuple[str, str]:
    """`vol.zarr/raw/s0` and `file.h5:volumes/raw` into (container, dataset)."""
    parts = Path(path).parts
    for i, part in enumerate(parts):
        name, colon, inside = part.partition(":")
        if Path(name).suffix.lower() in _BY_SUFFIX:
            rest = [inside] if colon and inside else []
            return str(Path(*parts[:i], name)), "/".join([*rest, *parts[i + 1 :]])
    return path, ""


class ZarrArrayConfig(ArrayConfig):
    """A zarr array, or an OME-Zarr group, whose level is picked by voxel size."""

    file_name: Path
    """The .zarr container."""
    dataset: str = ""
    """Path of the array or multiscale group inside it."""
    snap_to_grid: tuple[float, ...] | None = None
    """Shift the array to the nearest multiple of these world lengths (nm), for volumes whose offset is off-grid."""
    axes: tuple[str, ...] | None = None
    """Names of the axes, where the file does not say; channel axes end in ^."""
    mode: str = "a"
    """Kept for files of upstream; an array config only reads."""
    ome_metadata: bool = False
    """Kept for files of upstream; OME metadata is recognised by itself."""
    voxel_size: tuple[float, ...] | None = None
    """Which level of a pyramid to open (nm per voxel); the finest if left out."""

    @property
    def location(self) -> str:
        return str(self.file_name / self.dataset) if self.dataset else str(self.file_name)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array

        found = open_array(self.location, voxel_size=self.voxel_size, mode=mode)
        if self.axes is not None:
            found = found.with_axis_names(self.axes)
        if self.snap_to_grid is None:
            return found
        return _regrid(found, None, _snapped(found, self.snap_to_grid), None)


class HDF5ArrayConfig(ArrayConfig):
    """A dataset of an HDF5 file, with `resolution` and `offset` attributes where it has them."""

    file_name: Path
    """The .h5 file."""
    dataset: str
    """Path of the dataset inside it."""
    voxel_size: tuple[float, ...] | None = None
    """World size of a voxel (nm), where the file does not say or says it wrong."""
    offset: tuple[float, ...] | None = None
    """World position (nm) of the lower corner of voxel 0, likewise."""

    @property
    def location(self) -> str:
        return f"{self.file_name}:{self.dataset}"

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array

        return _regrid(open_array(self.location, mode=mode), self.voxel_size, self.offset, None)


class TiffArrayConfig(ArrayConfig):
    """A TIFF stack."""

    file_name: Path
    """The .tif file."""
    offset: tuple[float, ...] | None = None
    """World position (nm) of the lower corner of voxel 0."""
    voxel_size: tuple[float, ...] | None = None
    """World size of a voxel (nm), where the file does not say."""
    axis_names: tuple[str, ...] | None = None
    """Names of the axes in the order of the file; channel axes end in ^."""
    units: tuple[str, ...] | None = None
    """Unit per spatial axis; all the same."""

    @property
    def location(self) -> str:
        return str(self.file_name)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array

        return _regrid(open_array(self.location, mode=mode), self.voxel_size, self.offset, self.axis_names)


def _snapped(found: Array, steps: tuple[float, ...]) -> tuple[float, ...]:
    if len(steps) != found.spatial_dims:
        raise ConfigError(f"{found.path}: snap_to_grid needs {found.spatial_dims} lengths, one per spatial axis")
    return tuple(round(o / s) * s for o, s in zip(found.offset, steps, strict=True))


def _regrid(
    found: Array,
    voxel_size: tuple[float, ...] | None,
    offset: tuple[float, ...] | None,
    axis_names: tuple[str, ...] | None,
) -> Array:
    """The same voxels where the config says they are; what it leaves out stays as the file has it."""
    from dacapo.geometry import Grid

    if axis_names is not None:
        found = found.with_axis_names(axis_names)
    if voxel_size is None and offset is None:
        return found
    grid = found.grid
    unit = "nm" if voxel_size is not None else grid.unit
    return found.with_grid(Grid(voxel_size or grid.voxel_size, offset or grid.offset, unit, grid.axes))


class IntensitiesArrayConfig(ArrayConfig):
    """Intensities scaled so that `min` becomes 0 and `max` becomes 1, as float32; nothing is clipped."""

    source_array_config: ArrayConfig
    min: float = 0.0
    """The value that becomes 0."""
    max: float = Field(default=255.0)
    """The value that becomes 1."""

    @model_validator(mode="after")
    def _ordered(self) -> IntensitiesArrayConfig:
        if not self.max > self.min:
            raise ValueError(f"max ({self.max:g}) must be larger than min ({self.min:g})")
        return self

    @property
    def location(self) -> str:
        return self.source_array_config.location

    def array(self, mode: str = "r") -> Array:
        low, width = np.float32(self.min), np.float32(self.max - self.min)
        return self.source_array_config.array(mode).map(lambda x: (x.astype(np.float32) - low) / width, np.float32)


class DummyArrayConfig(ArrayConfig):
    """Zeros of (100, 50, 50) voxels of size 1, for trying things out."""

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import from_numpy

        return from_numpy(np.zeros((100, 50, 50), np.float32), (1.0, 1.0, 1.0))

    def verify(self) -> tuple[bool, str]:
        return False, "This is a DummyArrayConfig and is never valid"
