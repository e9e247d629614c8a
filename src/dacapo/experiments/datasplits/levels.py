"""Pyramids: which level fits an asked voxel size, and what it takes to get there. May import `datasets`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from dacapo.errors import ArrayError, GeometryError
from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig, ResampledArrayConfig, ZarrArrayConfig
from dacapo.geometry import RATIO_TOLERANCE

if TYPE_CHECKING:
    from dacapo.arrays import Array

_LEVEL = re.compile(r"(s|scale)?\d+")


@dataclass(frozen=True)
class Level:
    """One array of a pyramid, or an array that stands alone."""

    path: str
    config: ArrayConfig
    array: Array

    @property
    def voxel_size(self) -> tuple[float, ...]:
        return self.array.voxel_size


@dataclass(frozen=True)
class Fit:
    """A level and the whole factors per axis that bring it to the asked voxel size: up first, then down."""

    level: Level
    upsample: tuple[int, ...]
    downsample: tuple[int, ...]

    @property
    def is_exact(self) -> bool:
        return all(u == d == 1 for u, d in zip(self.upsample, self.downsample, strict=True))

    def config(self, *, smooth: bool) -> ArrayConfig:
        """The array in the asked voxel size; `smooth` for intensities, not for labels."""
        if self.is_exact:
            return self.level.config
        return ResampledArrayConfig(
            source_array_config=self.level.config,
            upsample=self.upsample,
            downsample=self.downsample,
            interp_order=smooth,
        )

    def __str__(self) -> str:
        steps = [
            f" {verb} {_times(factors)}"
            for verb, factors in (("upsampled", self.upsample), ("downsampled", self.downsample))
            if max(factors) > 1
        ]
        return f"{self.level.path} ({nm(self.level.voxel_size)}){' and'.join(steps)}"


class DoesNotFitError(GeometryError):
    """No level can be brought to the asked voxel size within the limits."""


def levels(container: Path, dataset: str) -> list[Level]:
    """The arrays of a pyramid, finest first; one if there is no pyramid.

    A pyramid is an OME-Zarr image, or a group of arrays s0, s1, ...

    Raises
    ------
    ArrayNotFoundError, ArrayError
        If nothing is there, or it does not say its voxel size.
    """
    from dacapo.arrays.formats import pyramid_levels
    from dacapo.arrays.zarr_nodes import read_node

    folder = container / dataset
    names = [name for name, _ in pyramid_levels(container, dataset)] if folder.is_dir() else []
    node = read_node(folder) if folder.is_dir() else None
    if not names and node is not None and not node.is_array:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and _LEVEL.fullmatch(p.name))
    found = [_level(container, "/".join(part for part in (dataset, name) if part), name) for name in names or [""]]
    return sorted(found, key=lambda level: math.prod(level.voxel_size))


def _level(container: Path, dataset: str, name: str) -> Level:
    location = f"{container}/{dataset}" if dataset else str(container)
    try:
        config = ArrayConfig.from_dict(location)  # type: ignore[arg-type]
    except ValueError:  # a zarr whose folder is not called so
        config = ZarrArrayConfig(file_name=container, dataset=dataset)
    array = config.array()
    if array.units != "nm":
        raise ArrayError(f"{location} does not say how large its voxels are in nm: write its voxel size into the file")
    return Level(name or dataset or container.name, config, array)


def fit(pyramid: Sequence[Level], voxel_size: Sequence[float], *, upsample: int, downsample: int) -> Fit:
    """The coarsest level that is as fine as `voxel_size` (nm), else the finest; with the factors that remain.

    Parameters
    ----------
    pyramid : sequence of Level
    voxel_size : sequence of float
        One per spatial axis.
    upsample, downsample : int
        The largest factors that are allowed along any axis.

    Raises
    ------
    DoesNotFitError
        If larger factors were needed, or none would do.
    GeometryError
        If the array has other axes.
    """
    wanted = tuple(voxel_size)
    if len(pyramid[0].voxel_size) != len(wanted):
        raise GeometryError(
            f"{pyramid[0].array.path} has {len(pyramid[0].voxel_size)} spatial axes, the resolution {list(wanted)} "
            f"is of {len(wanted)}"
        )
    fine = [
        lv for lv in pyramid if all(v <= w * (1 + RATIO_TOLERANCE) for v, w in zip(lv.voxel_size, wanted, strict=True))
    ]
    chosen = fine[-1] if fine else pyramid[0]
    ratios = [_fraction(w / v, upsample, downsample) for v, w in zip(chosen.voxel_size, wanted, strict=True)]
    if any(r is None for r in ratios):
        there = ", ".join(f"{level.path} of {nm(level.voxel_size)}" for level in pyramid)
        raise DoesNotFitError(
            f"{nm(wanted)} cannot be made of {there} by upsampling up to {upsample} and downsampling up to {downsample} "
            f"times"
        )
    factors = [r for r in ratios if r is not None]
    return Fit(chosen, tuple(r.denominator for r in factors), tuple(r.numerator for r in factors))


def _fraction(ratio: float, upsample: int, downsample: int) -> Fraction | None:
    """`ratio` as downsample / upsample with the smallest factors that are within the tolerance and the limits."""
    for up in range(1, upsample + 1):
        down = round(ratio * up)
        if 1 <= down <= downsample and abs(down / up / ratio - 1) <= RATIO_TOLERANCE:
            return Fraction(down, up)
    return None


def nm(sizes: Sequence[float]) -> str:
    """`5.24 x 4 x 4 nm`."""
    return f"{' x '.join(f'{size:g}' for size in sizes)} nm"


def _times(factors: Sequence[int]) -> str:
    return f"{factors[0]} times" if len(set(factors)) == 1 else f"{' x '.join(map(str, factors))} times"
