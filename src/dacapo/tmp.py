"""Upstream's small helpers for arrays: open, make and look at one. Imports arrays inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dacapo.arrays.paths import located
from dacapo.errors import ArrayError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from dacapo.arrays import Array
    from dacapo.geometry import Roi


def num_channels_from_array(array: Array) -> int | None:
    """Size of the channel axis, None without one; ValueError for more than one."""
    if array.channel_dims > 1:
        raise ArrayError(f"{array!r} has {array.channel_dims} channel axes, expected one at most")
    return array.shape[0] if array.channel_dims else None


def np_to_funlib_array(data: np.ndarray, offset: Sequence[float], voxel_size: Sequence[float]) -> Array:
    """A numpy array as an `Array`: its last axes are the spatial ones, channels come before; world units."""
    from dacapo.arrays import from_numpy

    return from_numpy(data, tuple(voxel_size), tuple(offset))


def create_from_identifier(
    identifier: Any, axis_names: Sequence[str], roi: Roi, num_channels: int | None, voxel_size: Sequence[float],
    dtype: DTypeLike, mode: str = "a+", write_size: Sequence[int] | None = None, name: str | None = None,
    overwrite: bool = False, *, offset: Sequence[float] | None = None,
) -> Array:  # fmt: skip
    """Make an OME-Zarr array of the shape of `roi` (voxels), or open the same one that is there.

    Parameters
    ----------
    identifier : LocalArrayIdentifier or str
    axis_names : sequence of str
        Names of channel axes end in ``^``; a missing channel axis is added for `num_channels`.
    write_size : sequence of int, optional
        Voxels of a chunk per spatial axis.
    offset : sequence of float, optional
        World units of the corner of voxel 0; by default `roi.begin` times `voxel_size`.
    """
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    spatial = [axis for axis in axis_names if not axis.endswith("^")]
    corner = tuple(b * s for b, s in zip(roi.begin, voxel_size, strict=True)) if offset is None else tuple(offset)
    channels = () if num_channels is None else (num_channels,)
    return create_array(
        located(identifier), shape=(*channels, *roi.shape), dtype=dtype, grid=Grid(tuple(voxel_size), corner, axes=tuple(spatial)),
        axis_names=(*("c^",) * len(channels), *spatial), chunk=write_size, overwrite=overwrite or mode == "w",
    )  # fmt: skip


def open_from_identifier(identifier: Any, name: str = "", mode: str = "r") -> Array:
    """Open an array by identifier or path."""
    from dacapo.arrays import open_array

    return open_array(located(identifier), mode="r" if mode == "r" else "r+")
