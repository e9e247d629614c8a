"""`segment_blocks`: one consistent segmentation of a volume that is segmented block by block.

Imports blocks, engine, errors and geometry; arrays, numpy, merging and worker inside functions. The stages:

    fragments   each block with its context, by the caller's function; its core gets ids of its own      blockwise
    faces       neighbours compare what each of them sees around their common face                       blockwise
    numbers     union of all pairs; the objects are numbered in the order of the blocks                  here
    relabel     ids become numbers                                                                       blockwise
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.blockwise.blocks import BlockGrid, check_blocks
from dacapo.blockwise.engine import BlockReport, run_blocks
from dacapo.errors import BlockwiseError, GeometryError
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    import numpy as np

    from dacapo.arrays import Array

_HERE = "dacapo.blockwise.worker"


@dataclass(frozen=True)
class SegmentReport:
    """What a segmentation came to: `fragments` are labels of single blocks, `objects` are labels of the output."""

    output: str
    blocks: int
    fragments: int
    merges: int
    objects: int
    seconds: float


def segment_blocks(
    function: str,
    parameters: Mapping[str, Any],
    source: str | Path,
    output: str | Path,
    *,
    block: Coordinate,
    context: tuple[Coordinate, Coordinate],
    workers: int = 1,
    folder: str | Path,
    roi: Roi | None = None,
    mask: str | Path | None = None,
    key: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    attributes: Mapping[str, Any] | None = None,
    retries: int = 2,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | bool | None = None,
) -> SegmentReport:
    """Segment a volume of any size; the same call goes on where one was stopped.

    The result does not depend on the number of workers or the order of the blocks. It does not depend on the blocks
    either as far as `function` sees the same objects in a part of the volume as in the whole.

    Parameters
    ----------
    function : str
        ``module:function``, called as ``function(data, **parameters)`` with the voxels of a block and its context, all
        channels, in their real range. Returns integer labels of the spatial shape of `data`, 0 is background. A function
        with the attribute `takes_array` is called as ``function(array, block, **parameters)`` and reads for itself.
    parameters : mapping
        JSON values.
    source : str or Path
        The volume, as `open_array` takes it.
    output : str or Path
        OME-Zarr image that is made, uint64 (*roi.shape), labels 1..n.
    block : Coordinate
        Voxels that are segmented at once, without context.
    context : (Coordinate, Coordinate)
        Voxels below and above a block that are segmented with it; at least 1 where there is more than one block.
    workers : int
        Processes; 0 works in this one.
    folder : str or Path
        Where fragments, logs and markers live. May be removed afterwards.
    roi : Roi, optional
        Region in voxels of `source`; all of it by default. Nothing outside is looked at.
    mask : str or Path, optional
        Volume that is 0 where there shall be no label; its voxels may be n times as large as those of `source`.
    key : mapping, optional
        JSON values that identify the content of `source` and `mask` beyond their paths and times of creation.
    overwrite : bool
        Replace another array at `output`.
    attributes : mapping, optional
        JSON values kept with the output.
    retries, timeout, progress
        As in `run_blocks`; a callable counts the blocks of all stages.

    Returns
    -------
    report : SegmentReport

    Raises
    ------
    BlocksFailedError
        If blocks failed every time.
    BlockwiseError, GeometryError, ArrayError
        If the numbers do not fit each other, or the volume cannot be used, or something else is at `output`.
    """
    from dacapo.arrays import open_array
    from dacapo.blockwise.merging import RULE
    from dacapo.blockwise.worker import grid_to_json

    began = time.monotonic()
    volume = open_array(source)
    grid = _grid(volume, roi, Coordinate(block), context)
    said = {
        "function": function,
        "parameters": dict(parameters),
        "source": [
            str(source),
            list(volume.shape),
            str(volume.dtype),
            volume.attributes.get("value_range"),
            made(volume),
        ],
        "mask": None if mask is None else [str(mask), made(open_array(mask))],
        "grid": grid_to_json(grid),
        "key": dict(key or {}),
        "rule": RULE,
    }
    digest = _digest(said)
    work = Path(folder).absolute() / f"segment-{digest}"
    target = _output(output, volume, grid, overwrite, {**(attributes or {}), "segmentation": digest})
    fragments = _output(work / "fragments.zarr", volume, grid, False, {})
    done = _Stages(grid, workers, work, retries, timeout, progress)

    places = {"folder": str(work), "grid": grid_to_json(grid)}
    task = {"function": function, "parameters": dict(parameters), "source": str(_absolute(source))}
    where = {"mask": None if mask is None else str(_absolute(mask)), "output": fragments.path}
    done.run("fragments", {**task, **where, **places}, {"made": made(fragments)})
    done.run("faces", places, {"made": made(fragments)})
    numbered = _number(work / f"numbers-{_digest(made(fragments))}", work, grid)
    files = {"numbers": numbered["numbers"], "starts": numbered["starts"], "grid": places["grid"]}
    done.run("relabel", {"fragments": fragments.path, "output": target.path, **files}, {"made": made(target)})
    return SegmentReport(
        output=str(output),
        blocks=len(grid),
        fragments=numbered["fragments"],
        merges=numbered["merges"],
        objects=numbered["objects"],
        seconds=time.monotonic() - began,
    )


class _Stages:
    """Runs the stages over the same blocks, and counts their blocks together."""

    def __init__(
        self, grid: BlockGrid, workers: int, folder: Path, retries: int, timeout: float | None, progress: Any
    ) -> None:
        self._grid = grid
        self._progress = progress
        self._before = 0
        self._arguments: dict[str, Any] = {
            "workers": workers,
            "folder": folder,
            "retries": retries,
            "timeout": timeout,
        }

    def run(self, stage: str, parameters: dict[str, Any], key: dict[str, Any]) -> BlockReport:
        grid, before, progress = self._grid, self._before, self._progress
        if callable(progress):

            def count(done: int, total: int) -> None:
                self._progress(before + done, 3 * total)

            progress = count
        self._before += len(grid)
        return run_blocks(
            stage,
            f"{_HERE}:{stage}",
            parameters,
            total=grid.total,
            block=grid.block,
            context=grid.context,
            key=key,
            progress=progress,
            **self._arguments,
        )


def _grid(volume: Array, roi: Roi | None, block: Coordinate, context: tuple[Coordinate, Coordinate]) -> BlockGrid:
    from dacapo.blockwise.worker import ids_per_block

    total = volume.roi if roi is None else roi
    if not volume.roi.contains(total):
        raise GeometryError(f"roi {total} sticks out of {volume.path}, which has {tuple(volume.spatial_shape)} voxels.")
    below, above = (Coordinate(side) for side in context)
    grid = BlockGrid(total, block, (below, above))
    for number, lo, hi in zip(grid.shape, below, above, strict=True):
        if number > 1 and min(lo, hi) < 1:
            raise GeometryError(
                f"context is {tuple(below)}, {tuple(above)}: expected at least 1 voxel on both sides along every axis with "
                f"more than one block, because neighbours are joined by what both of them see."
            )
    if len(grid) * ids_per_block(grid) >= 2**64:
        raise BlockwiseError(
            f"{len(grid)} blocks of {tuple(block)} voxels need more than 2^64 ids: segment a smaller roi."
        )
    return grid


def _output(path: str | Path, volume: Array, grid: BlockGrid, overwrite: bool, attributes: dict[str, Any]) -> Array:
    from dacapo.arrays import create_array, open_array
    from dacapo.errors import ArrayError

    chunk = tuple(chunk_of(b, n) for b, n in zip(grid.block, grid.total.shape, strict=True))
    shape = tuple(int(n) for n in grid.total.shape)
    if overwrite:
        try:
            overwrite = open_array(path).attributes != attributes
        except ArrayError:
            overwrite = True
    array = create_array(
        path,
        shape=shape,
        dtype="uint64",
        grid=volume.grid.at(grid.total.begin),
        chunk=chunk,
        overwrite=overwrite,
        attributes=attributes,
    )
    check_blocks(grid.block, array)
    return array


def chunk_of(block: int, size: int) -> int:
    """The largest edge up to 64 that divides a block, or the block if there is none worth having."""
    if block >= size:
        return min(size, 64)
    fitting = max(edge for edge in range(1, min(block, 64) + 1) if block % edge == 0)
    return int(fitting if fitting >= 16 else block)


def _number(path: Path, work: Path, grid: BlockGrid) -> dict[str, Any]:
    """Unite the pairs that all faces have found; the numbers of all nodes go to files, which are reused."""
    import numpy as np

    from dacapo.blockwise.files import save_array, save_text
    from dacapo.blockwise.merging import final_numbers

    summary = path.with_suffix(".json")
    if summary.exists():
        return json.loads(summary.read_text())  # type: ignore[no-any-return]
    counts, edges = _read_faces(work, grid)
    starts = np.cumsum(counts[:, 1]) - counts[:, 1]
    nodes = np.stack([starts[edges[:, 0]] + edges[:, 1] - 1, starts[edges[:, 2]] + edges[:, 3] - 1], axis=1)
    numbers, objects = final_numbers(counts[:, 0], counts[:, 1], nodes)
    found = {
        "numbers": str(path.with_suffix(".npy")),
        "starts": str(path.with_suffix(".starts.npy")),
        "fragments": int(counts[:, 0].sum()),
        "merges": len(edges),
        "objects": objects,
    }
    save_array(Path(found["numbers"]), numbers)
    save_array(Path(found["starts"]), starts)
    save_text(summary, json.dumps(found))
    return found


def _read_faces(work: Path, grid: BlockGrid) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of labels per block (blocks, 2), and pairs as rows (block, label, block above, label)."""
    import numpy as np

    from dacapo.blockwise.worker import file_of

    counts = np.zeros((len(grid), 2), np.int64)
    edges = [np.zeros((0, 4), np.int64)]
    for block_id in range(len(grid)):
        with np.load(file_of(work, "faces", block_id)) as found:
            counts[block_id] = found["counts"]
            for axis in set(found.files) - {"counts"}:
                pairs = found[axis]
                above = np.full(len(pairs), grid.next_along(block_id, int(axis)))
                edges.append(np.stack([np.full(len(pairs), block_id), pairs[:, 0], above, pairs[:, 1]], axis=1))
    return counts, np.concatenate(edges)


def _absolute(path: str | Path) -> Path:
    return Path(path).absolute()


def made(array: Array) -> int:
    """When the array was made, in nanoseconds: markers of what was removed and made anew are not to be believed."""
    assert array.path is not None
    place = Path(array.path)
    for candidate in (place / "zarr.json", place / ".zarray", place, Path(array.path.rpartition(":")[0])):
        if candidate.is_file():
            return candidate.stat().st_mtime_ns
    return 0


def _digest(said: Any) -> str:
    try:
        text = json.dumps(said, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BlockwiseError(
            f"parameters and key must be JSON values, to be handed to workers and kept: {error}."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]
