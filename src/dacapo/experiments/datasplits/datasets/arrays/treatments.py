"""Configs of arrays that treat others: intensities, a crop, other voxels, constants, channels, a sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from dacapo.errors import ArrayError, ConfigError, DacapoError, GeometryError
from dacapo.experiments.datasplits.datasets.arrays.array_config import ArrayConfig, like_all

if TYPE_CHECKING:
    from dacapo.arrays import Array
    from dacapo.geometry import Grid


class IntensitiesArrayConfig(ArrayConfig):
    """Intensities scaled so that `min` becomes 0 and `max` becomes 1, as float32; nothing is clipped."""

    source_array_config: ArrayConfig
    """Raw."""
    min: float = 0.0
    """The value that becomes 0."""
    max: float = Field(default=255.0)
    """The value that becomes 1."""

    @model_validator(mode="after")
    def _ordered(self) -> IntensitiesArrayConfig:
        if not -math.inf < self.min < self.max < math.inf:
            raise ValueError(f"max ({self.max:g}) must be larger than min ({self.min:g})")
        return self

    def array(self, mode: str = "r") -> Array:
        low, width = np.float32(self.min), np.float32(self.max - self.min)
        return self.source_array_config.array().map(lambda x: (x.astype(np.float32) - low) / width, np.float32)


class ConstantArrayConfig(ArrayConfig):
    """One value everywhere, on the grid and in the shape of the source, whose voxels are never read.

    In the type of the source if that holds the value, else in the smallest that does (a fraction: float32).
    """

    source_array_config: ArrayConfig
    """Where, and of which shape."""
    constant: int | float = 1
    """The value."""

    @field_validator("constant")
    @classmethod
    def _finite(cls, value: int | float) -> int | float:
        if not math.isfinite(value) or (isinstance(value, int) and not -(2**63) <= value < 2**64):
            raise ValueError(f"expected a finite number of at most 64 bits, got {value}")
        return value

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import constant_like

        source = self.source_array_config.array()
        return constant_like(source, self.constant, _dtype_for(self.constant, source.dtype))


class OnesArrayConfig(ArrayConfig):
    """Ones of the type, grid and shape of the source, whose voxels are never read: a mask that hides nothing."""

    source_array_config: ArrayConfig
    """Where, and of which shape."""

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import constant_like

        source = self.source_array_config.array()
        return constant_like(source, 1, source.dtype)


class WorldRoi(NamedTuple):
    """A region of the world: lower corner and size per spatial axis, in the unit of the array (nm)."""

    offset: tuple[float, ...]
    shape: tuple[float, ...]


def _to_world_roi(value: Any) -> Any:
    if hasattr(value, "offset") and hasattr(value, "shape"):
        value = (value.offset, value.shape)
    elif isinstance(value, Mapping) and set(value) == {"offset", "shape"}:
        value = (value["offset"], value["shape"])
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"expected [offset, shape], two lists of lengths (nm), got {value!r}")
    offset, shape = value
    if any(isinstance(part, str) or not isinstance(part, Sequence) for part in (offset, shape)):
        raise ValueError(f"expected [offset, shape], two lists of lengths (nm), got {list(value)}")
    if None in (*offset, *shape):
        raise ValueError("the region has no bounds on an axis")
    return tuple(offset), tuple(shape)


class CropArrayConfig(ArrayConfig):
    """The part of the source in `roi`, as far as the source reaches.

    Begin and end of `roi` are each moved to the nearest face between voxels (a tie to the farther one), so that
    regions that touch stay neighbours. `like` leaves the crop out: it says where this volume is good, no other.
    """

    source_array_config: ArrayConfig
    """What is cropped."""
    roi: Annotated[WorldRoi, BeforeValidator(_to_world_roi)]
    """[offset, shape] in world units (nm), floats, one entry per spatial axis; a Roi of whole numbers is taken too."""

    @field_validator("roi")
    @classmethod
    def _possible(cls, value: WorldRoi) -> WorldRoi:
        if not value.shape or len(value.offset) != len(value.shape):
            raise ValueError(f"offset {list(value.offset)} and shape {list(value.shape)} need one entry per axis each")
        if not all(map(math.isfinite, (*value.offset, *value.shape))) or min(value.shape) <= 0:
            raise ValueError(f"shape is {list(value.shape)}, expected positive lengths (nm)")
        return value

    def array(self, mode: str = "r") -> Array:
        from dacapo.geometry import Roi

        source = self.source_array_config.array()
        begin, end = _faces(self.roi, source.grid, self.location)
        low = [max(lo, 0) for lo in begin]
        high = [min(hi, n) for hi, n in zip(end, source.spatial_shape, strict=True)]
        if any(hi <= lo for lo, hi in zip(low, high, strict=True)):
            raise GeometryError(
                f"{self.location}: roi at {list(self.roi.offset)} of size {list(self.roi.shape)} {source.units} has no "
                f"voxel of the source, which has {tuple(source.spatial_shape)} voxels of {source.voxel_size} from "
                f"{source.offset}."
            )
        return source.crop(Roi(low, [hi - lo for lo, hi in zip(low, high, strict=True)]))

    def like(self, path: str) -> ArrayConfig:
        """The source's treatment of the whole volume at `path`."""
        return self.source_array_config.like(path)


class ResampledArrayConfig(ArrayConfig):
    """The source in voxels of `downsample / upsample` times the size, with the same lower corner and type.

    First each voxel becomes `upsample` voxels, then `downsample` voxels become one.
    """

    source_array_config: ArrayConfig | None = None
    """What is resampled."""
    upsample: tuple[int, ...] | None = None
    """Into how many voxels one is divided, per spatial axis; 1 if left out."""
    downsample: tuple[int, ...] | None = None
    """How many voxels become one, per spatial axis; 1 if left out."""
    interp_order: bool
    """1 for intensities: the mean, and linear between voxel centres. 0 for labels: the most frequent id (of equally
    frequent ones the smallest), and the nearest voxel."""

    @field_validator("upsample", "downsample")
    @classmethod
    def _factors(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"expected whole numbers from 1, one per spatial axis, got {list(value)}")
        return value

    @property
    def source(self) -> ArrayConfig:
        """What is resampled; ConfigError if it was left out."""
        if self.source_array_config is None:
            raise ConfigError(f"{self.name or type(self).__name__}: field 'source_array' is missing")
        return self.source_array_config

    def array(self, mode: str = "r") -> Array:
        return self._resampled(self.source.array())

    def _resampled(self, source: Array) -> Array:
        from dacapo.arrays.resampling import resampled

        ones = (1,) * source.spatial_dims
        try:
            return resampled(source, self.upsample or ones, self.downsample or ones, smooth=self.interp_order)
        except (ArrayError, GeometryError) as error:
            raise type(error)(f"{self.location}: {error}") from None

    def like(self, path: str) -> ArrayConfig:
        """The volume at `path`, brought to the voxel size that the network knows.

        Resampled as the source was if it has the source's voxel size; as it is if it has the wanted one already;
        GeometryError if it has neither. Resampled where that cannot be found out, because a volume cannot be opened.
        """
        new = self.source.like(path)
        same = self.model_copy(update={"source_array_config": new})
        try:
            before, found = self.source.array(), new.array()
            after = self._resampled(before)
        except DacapoError:
            return same
        if _same_voxels(found.grid, before.grid):
            return same
        if _same_voxels(found.grid, after.grid):
            return new
        raise GeometryError(
            f"{path} has voxels of {found.voxel_size} {found.units}; expected {before.voxel_size} {before.units}, which "
            f"are resampled, or {after.voxel_size}. Give the level that matches."
        )


class ConcatArrayConfig(ArrayConfig):
    """Several arrays as the channels of one (c^, *spatial), in the order of `channels`."""

    channels: tuple[str, ...] = Field(min_length=1)
    """Names of the channels, in their order."""
    source_array_configs: dict[str, ArrayConfig] = Field(default_factory=dict)
    """The array of a channel, by its name: without channel axis, or with one channel; all on one grid."""
    default_config: ArrayConfig | None = None
    """The array of channels that have none."""

    @model_validator(mode="after")
    def _complete(self) -> ConcatArrayConfig:
        twice = sorted({name for name in self.channels if self.channels.count(name) > 1})
        if twice:
            raise ValueError(f"channels: {twice[0]!r} is named twice")
        unknown = [name for name in self.source_array_configs if name not in self.channels]
        if unknown:
            raise ValueError(f"source_arrays: {unknown[0]!r} is none of the channels {list(self.channels)}")
        without = [name for name in self.channels if name not in self.source_array_configs]
        if without and self.default_config is None:
            raise ValueError(f"channels: {without[0]!r} has neither an array in source_arrays nor a default")
        return self

    @property
    def location(self) -> str:
        return self.name or " + ".join(config.location for config in self._sources())

    def _sources(self) -> list[ArrayConfig]:
        found = [self.source_array_configs.get(name, self.default_config) for name in self.channels]
        return [config for config in found if config is not None]

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import stacked

        opened = {id(config): config.array() for config in self._sources()}
        arrays = [opened[id(config)] for config in self._sources()]
        return stacked(arrays, [f"channel {name!r}" for name in self.channels])

    def like(self, path: str) -> ArrayConfig:
        """The volume at `path`, which has all channels, treated as the sources were; ConfigError if those differ."""
        return like_all(self, self._sources(), path)


class SumArrayConfig(ArrayConfig):
    """The sum of several arrays, voxel by voxel, in the smallest type that holds every possible sum."""

    source_array_configs: tuple[ArrayConfig, ...] = Field(min_length=1)
    """Arrays of one grid and shape."""

    @property
    def location(self) -> str:
        return self.name or " + ".join(source.location for source in self.source_array_configs)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import summed

        arrays = [source.array() for source in self.source_array_configs]
        names = [f"source_arrays[{i}] ({c.location})" for i, c in enumerate(self.source_array_configs)]
        return summed(arrays, names)

    def like(self, path: str) -> ArrayConfig:
        raise ConfigError(
            f"{self.location} is the sum of {len(self.source_array_configs)} volumes: the path {path} of one cannot "
            f"stand for them. Give the config of the new volume."
        )


def _dtype_for(value: int | float, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return dtype
    if value != int(value):
        return np.dtype(np.float32)
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return dtype if low <= value <= high else np.min_scalar_type(int(value))


def _faces(roi: WorldRoi, grid: Grid, where: str) -> tuple[list[int], list[int]]:
    from dacapo.geometry import exact

    if len(roi.offset) != grid.dims:
        raise GeometryError(f"{where}: roi has {len(roi.offset)} axes, the source {grid.dims}: {', '.join(grid.axes)}.")

    def nearest(length: Fraction, axis: int) -> int:
        return math.floor((length - exact(grid.offset[axis])) / exact(grid.voxel_size[axis]) + Fraction(1, 2))

    begin = [nearest(exact(o), axis) for axis, o in enumerate(roi.offset)]
    ends = [exact(o) + exact(s) for o, s in zip(roi.offset, roi.shape, strict=True)]
    return begin, [nearest(end, axis) for axis, end in enumerate(ends)]


def _same_voxels(a: Grid, b: Grid) -> bool:
    return a.dims == b.dims and a.unit == b.unit and np.allclose(a.voxel_size, b.voxel_size, rtol=1e-3)
