"""The stages of `segment_blocks` as worker functions: fragments, faces, relabel. Imports arrays, blocks, merging, files.

Files of block b lie under ``<folder>/fragments/`` (its labels of the slabs) and ``<folder>/faces/`` (pairs of labels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dacapo.arrays import Array, dequantised, open_array
from dacapo.blockwise.blocks import Block, BlockGrid
from dacapo.blockwise.files import save_arrays
from dacapo.blockwise.merging import core_first, same_objects, slab_around_face
from dacapo.blockwise.process import find_function
from dacapo.errors import BlockwiseError
from dacapo.geometry import Coordinate, Roi

Process = Callable[[Block], None]


def grid_to_json(grid: BlockGrid) -> list[list[int]]:
    """A grid as lists of numbers, for parameters."""
    rows = (grid.total.begin, grid.total.shape, grid.block, *grid.context)
    return [[int(v) for v in row] for row in rows]


def grid_from_json(rows: Sequence[Sequence[int]]) -> BlockGrid:
    """What `grid_to_json` was given."""
    begin, shape, block, below, above = (Coordinate(row) for row in rows)
    return BlockGrid(Roi(begin, shape), block, (below, above))


def ids_per_block(grid: BlockGrid) -> int:
    """Global ids that each block may use: label k of block b is ``b * ids_per_block + k``, k from 1."""
    sizes = (b + lo + hi for b, lo, hi in zip(grid.block, *grid.context, strict=True))
    return int(np.prod([int(size) for size in sizes], dtype=object)) + 1


def file_of(folder: str | Path, stage: str, block_id: int) -> Path:
    """Where a stage keeps what it found in a block; not more than 1000 files in a folder."""
    return Path(folder, stage, str(block_id // 1000), f"{block_id}.npz")


def fragments(
    function: str,
    parameters: dict[str, Any],
    source: str,
    mask: str | None,
    output: str,
    folder: str,
    grid: list[list[int]],
) -> Process:
    """Segment each block with its context; keep its core with global ids, and its labels of the slabs at its faces."""
    blocks, segment = grid_from_json(grid), find_function(function)
    takes_array = getattr(segment, "takes_array", False)
    volume, target = dequantised(open_array(source)), open_array(output, mode="r+")
    mask_volume = open_array(mask) if mask is not None else None

    def process(block: Block) -> None:
        seen = block.read_roi.intersect(blocks.total)
        valid = None if mask_volume is None else mask_on(mask_volume, volume, seen)
        if valid is not None and not valid.any():
            labels = np.zeros(seen.shape, np.uint64)
        else:
            given = (volume, Block(block.block_id, block.write_roi, seen)) if takes_array else (volume.read(seen),)
            labels = checked(segment(*given, **parameters), seen, function)
        if valid is not None:
            labels = np.where(valid, labels, 0)
        labels, num_core, num = core_first(labels, inside(block.write_roi, seen))
        core = labels[inside(block.write_roi, seen)].astype(np.uint64)
        core[core > 0] += np.uint64(block.block_id * ids_per_block(blocks))
        target.write(block.write_roi - blocks.total.begin, core)
        slabs = {name: labels[inside(slab, seen)].astype(np.uint32) for name, slab in slabs_of(blocks, block.block_id)}
        save_arrays(file_of(folder, "fragments", block.block_id), {"counts": [num_core, num], **slabs})

    return process


def faces(folder: str, grid: list[list[int]]) -> Process:
    """Compare each block with its upper neighbours: which labels are one object."""
    blocks = grid_from_json(grid)

    def process(block: Block) -> None:
        found: dict[str, Any] = {}
        with np.load(file_of(folder, "fragments", block.block_id)) as own:
            found["counts"] = own["counts"]
            for axis in range(len(blocks.block)):
                above = blocks.next_along(block.block_id, axis)
                if above is not None:
                    with np.load(file_of(folder, "fragments", above)) as other:
                        found[f"{axis}"] = same_objects(own[f"{axis} above"], other[f"{axis} below"])
        save_arrays(file_of(folder, "faces", block.block_id), found)

    return process


def relabel(fragments: str, output: str, numbers: str, starts: str, grid: list[list[int]]) -> Process:
    """Replace the global ids of each block by the numbers of their objects, which it reads from a slice of a file."""
    blocks = grid_from_json(grid)
    source, target = open_array(fragments), open_array(output, mode="r+")
    table, begins = np.load(numbers, mmap_mode="r"), np.load(starts, mmap_mode="r")

    def process(block: Block) -> None:
        roi = block.write_roi - blocks.total.begin
        local = source.read(roi)
        local[local > 0] -= np.uint64(block.block_id * ids_per_block(blocks))
        own = np.zeros(int(local.max()) + 1, np.uint64)
        own[1:] = table[begins[block.block_id] : begins[block.block_id] + len(own) - 1]
        target.write(roi, own[local])

    return process


def slabs_of(grid: BlockGrid, block_id: int) -> list[tuple[str, Roi]]:
    """Names and regions of the slabs at the faces of a block that it has in common with a neighbour."""
    slabs = []
    for axis in range(len(grid.block)):
        above = slab_around_face(grid, block_id, axis)
        if above is not None:
            slabs.append((f"{axis} above", above))
        if grid.index(block_id)[axis] > 0:
            stride = int(np.prod(grid.shape[axis + 1 :], dtype=np.int64))
            below = slab_around_face(grid, block_id - stride, axis)
            assert below is not None
            slabs.append((f"{axis} below", below))
    return slabs


def inside(roi: Roi, around: Roi) -> tuple[slice, ...]:
    """`roi` as slices of an array of the voxels in `around`."""
    return tuple(slice(int(lo - o), int(hi - o)) for lo, hi, o in zip(roi.begin, roi.end, around.begin, strict=True))


def checked(labels: Any, roi: Roi, function: str) -> np.ndarray:
    """The labels that a function returned, if they are labels of the region."""
    labels = np.asarray(labels)
    if labels.shape != tuple(roi.shape) or labels.dtype.kind not in "ui":
        raise BlockwiseError(
            f"{function} returned {labels.dtype} of shape {labels.shape}, expected integers of shape {tuple(roi.shape)}."
        )
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise BlockwiseError(f"{function} returned the label {labels.min()}, expected labels from 0 (background).")
    return labels


def mask_on(mask: Array, volume: Array, roi: Roi) -> np.ndarray:
    """Where `mask` is not 0 in a region of `volume`'s voxels; its own voxels may be n times as large. 0 outside it."""
    factors = [int(f) for f in volume.grid.ratio(mask.grid)]
    if mask.channel_dims or min(factors) < 1:
        raise BlockwiseError(
            f"mask {mask.path} must have no channels, and voxels as large as the volume's, or n times."
        )
    covering = volume.grid.convert(roi, mask.grid)
    values = mask.read(covering, pad="zero") != 0
    for axis, factor in enumerate(factors):
        values = values.repeat(factor, axis)
    begin = Coordinate(b * f + s for b, f, s in zip(covering.begin, factors, volume.grid.shift(mask.grid), strict=True))
    return values[inside(roi, Roi(begin, values.shape))]
