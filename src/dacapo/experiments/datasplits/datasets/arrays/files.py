"""Configs of arrays that are somewhere: zarr and N5, HDF5, TIFF, a DVID server; and none at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, field_validator

from dacapo.errors import ConfigError, DacapoError
from dacapo.experiments.datasplits.datasets.arrays.array_config import ArrayConfig

if TYPE_CHECKING:
    from dacapo.arrays import Array


def _positive(value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if value is not None and not (value and all(0 < v < float("inf") for v in value)):
        raise ValueError(f"expected a positive length per axis, got {list(value)}")
    return value


def _axis_names(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if value is not None and (len(set(value)) != len(value) or all(name.endswith("^") for name in value)):
        raise ValueError(f"expected a name of its own per axis, one of them spatial (without ^), got {list(value)}")
    return value


Lengths = Annotated[tuple[float, ...] | None, AfterValidator(_positive)]
AxisNames = Annotated[tuple[str, ...] | None, AfterValidator(_axis_names)]


class ZarrArrayConfig(ArrayConfig):
    """A zarr or N5 array, or a pyramid of them (OME-Zarr, COSEM N5, ...), whose level is picked by voxel size.

    Opened to read, it is taken not to change: what was decoded of it is kept, see `open_array`.
    """

    file_name: Path
    """The .zarr or .n5 container."""
    dataset: str = ""
    """Path of the array or multiscale group inside it."""
    snap_to_grid: Lengths = None
    """Shift the array to the nearest multiple of these world lengths (nm), for volumes whose offset is off-grid."""
    axes: AxisNames = None
    """Names of the axes in the order of the file (of N5 the slowest first); channel axes end in ^."""
    mode: str = "a"
    """Kept for files of upstream: nothing is written unless `array(mode="r+")` is asked for."""
    ome_metadata: bool = False
    """Kept for files of upstream: OME metadata is recognised by itself."""
    voxel_size: Lengths = None
    """Which level of a pyramid to open (nm per voxel); the finest if left out. An error if nothing there has it."""

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        if value not in ("r", "r+", "a", "w", "w-", "x"):
            raise ValueError(f"{value!r} is no mode of zarr: r, r+, a, w, w-")
        return value

    @property
    def location(self) -> str:
        return str(self.file_name / self.dataset) if self.dataset else str(self.file_name)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array

        found = open_array(
            self.file_name, voxel_size=self.voxel_size, mode=mode, dataset=self.dataset, unchanging=mode == "r"
        )
        if self.axes is not None:
            from dacapo.arrays.layout import placed

            found = placed(found, axis_names=self.axes)
        if self.snap_to_grid is None:
            return found
        return _snapped(found, self.snap_to_grid, self.location)

    def like(self, path: str) -> ArrayConfig:
        """What is at `path`, at the level of `voxel_size` if that was chosen, with the same snapping."""
        new = ArrayConfig.from_dict(path)  # type: ignore[arg-type]
        if not isinstance(new, ZarrArrayConfig):
            return new
        return new.model_copy(update={"voxel_size": self.voxel_size, "snap_to_grid": self.snap_to_grid})


class HDF5ArrayConfig(ArrayConfig):
    """A dataset of an HDF5 file, with `resolution` and `offset` attributes where it has them."""

    file_name: Path
    """The .h5 file."""
    dataset: str
    """Path of the dataset inside it."""
    voxel_size: Lengths = None
    """World size of a voxel (nm), where the file does not say or says it wrong."""
    offset: tuple[float, ...] | None = None
    """World position (nm) of the lower corner of voxel 0, likewise."""
    axis_names: AxisNames = None
    """Names of the axes in the order of the file; channel axes end in ^."""

    @property
    def location(self) -> str:
        return f"{self.file_name}:{self.dataset}"

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array
        from dacapo.arrays.layout import placed

        found = open_array(self.file_name, dataset=self.dataset)
        return placed(found, axis_names=self.axis_names, voxel_size=self.voxel_size, offset=self.offset)

    def like(self, path: str) -> ArrayConfig:
        """What is at `path`, in the same voxels and axes if its file does not say its own."""
        return _like_file(self, path)


class TiffArrayConfig(ArrayConfig):
    """A TIFF stack."""

    file_name: Path
    """The .tif file."""
    offset: tuple[float, ...] | None = None
    """World position of the lower corner of voxel 0, in `units`."""
    voxel_size: Lengths = None
    """World size of a voxel in `units`, where the file does not say; in the order of `axis_names`, else z, y, x."""
    axis_names: AxisNames = None
    """Names of the axes in the order of the file; channel axes end in ^."""
    units: tuple[str, ...] | None = None
    """Unit of `offset` and `voxel_size`, per spatial axis or one for all; nm if left out."""

    @field_validator("units", mode="before")
    @classmethod
    def _known_units(cls, value: Any) -> Any:
        from dacapo.geometry import unit_in_nanometres

        given = (value,) if isinstance(value, str) else value
        for unit in given or ():
            if unit_in_nanometres(str(unit)) is None:
                raise ValueError(f"{unit!r} is no unit of length, such as nm or um")
        return given

    @property
    def location(self) -> str:
        return str(self.file_name)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import open_array
        from dacapo.arrays.layout import placed

        return placed(
            open_array(self.file_name),
            axis_names=self.axis_names,
            voxel_size=self.voxel_size,
            offset=self.offset,
            units=self.units,
        )

    def like(self, path: str) -> ArrayConfig:
        """What is at `path`, in the same voxels and axes if its file does not say its own."""
        return _like_file(self, path)


class DVIDArrayConfig(ArrayConfig):
    """A data instance of a DVID server, read through its HTTP API: grayscale (uint8blk) or labels (labelmap, ...)."""

    source: tuple[str, str, str]
    """Address of the server, UUID of the version, name of the data instance."""

    @field_validator("source")
    @classmethod
    def _complete(cls, value: tuple[str, str, str]) -> tuple[str, str, str]:
        if not all(part.strip() for part in value):
            raise ValueError(f"expected the server's address, a UUID and an instance, got {list(value)}")
        return value

    @property
    def location(self) -> str:
        return "/".join(self.source)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.dvid import open_dvid

        return open_dvid(*self.source)


class DummyArrayConfig(ArrayConfig):
    """Zeros of (100, 50, 50) voxels of size 1, for trying things out."""

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays import from_numpy

        return from_numpy(np.zeros((100, 50, 50), np.float32), (1.0, 1.0, 1.0))

    def verify(self) -> tuple[bool, str]:
        return False, "This is a DummyArrayConfig and is never valid"


def _like_file(config: HDF5ArrayConfig | TiffArrayConfig, path: str) -> ArrayConfig:
    """A config of the same kind takes over what only the config can say: the file has no place of its own."""
    new = ArrayConfig.from_dict(path)  # type: ignore[arg-type]
    if type(new) is not type(config):
        return new
    try:
        unknown = new.array().units == "voxel"
    except DacapoError:  # said when it is opened to be read
        return new
    kept = {f: getattr(config, f) for f in ("voxel_size", "axis_names", "units") if f in type(config).model_fields}
    return new.model_copy(update=kept) if unknown else new


def _snapped(found: Array, steps: tuple[float, ...], where: str) -> Array:
    from dacapo.geometry import Grid, exact

    if len(steps) != found.spatial_dims:
        raise ConfigError(f"{where}: snap_to_grid needs {found.spatial_dims} lengths, one per spatial axis")
    offset = [float(round(exact(o) / exact(s)) * exact(s)) for o, s in zip(found.offset, steps, strict=True)]
    return found.with_grid(Grid(found.voxel_size, tuple(offset), found.units, found.grid.axes))
