"""Volumes on disk or in memory, read by integer regions. Imports no library of a file format."""

from __future__ import annotations

from dacapo.arrays.array import Array, Source, dequantised, from_numpy
from dacapo.arrays.formats import convert, open_array, pyramid_levels
from dacapo.arrays.ome_zarr import create_array

__all__ = ["Array", "Source", "convert", "create_array", "dequantised", "from_numpy", "open_array", "pyramid_levels"]
