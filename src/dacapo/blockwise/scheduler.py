"""Upstream's way to work block by block: a worker file, or a file with a segmentation function, and three regions.

A worker file has ``spawn_worker(*args, **kwargs)``, which returns a function of one `Block`. It may have
``check_function(block)`` (True: nothing to do), ``init_callback_fn(context)`` (called once before the first block) and
``read_write_conflict = True`` (neighbours never run at the same time). A segmentation file has
``segment_function(input_array, block, **parameters)``, which returns labels over ``block.read_roi``, and may have
``default_parameters``. Instead of a file: ``module:function``, or the name of one that is here (`files.BUILT_IN`).

All regions are voxels. `total_roi` is what is written, all of it; blocks at its end are smaller. Imports blocks, engine,
stitching, user_code.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dacapo.arrays.paths import located
from dacapo.blockwise.blocks import BlockGrid, check_blocks
from dacapo.blockwise.engine import BlockReport, BlocksFailedError, run_blocks
from dacapo.blockwise.stitching import SegmentReport, made, segment_blocks
from dacapo.blockwise.user_code import encoded, identifiers_in, load_worker, source_of
from dacapo.errors import BlockwiseError, GeometryError
from dacapo.geometry import Coordinate, Roi

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None] | bool | None


class DaCapoBlockwiseTask:
    """A worker over all blocks of a region.

    Parameters
    ----------
    worker_file : str or Path
        Worker file, ``module:function``, or "threshold", "argmax".
    total_roi : Roi
        Voxels that are written.
    read_roi, write_roi : Roi
        What one block reads and writes; only their sizes and how far one sticks out of the other count.
    num_workers : int
        Processes; 0 works in this one.
    max_retries : int
        How often a failed block is tried again.
    timeout : float, optional
        Seconds after which a block counts as stuck.
    upstream_tasks : sequence of DaCapoBlockwiseTask, optional
        Run first, in this order.
    *args, **kwargs
        For ``spawn_worker``: JSON values, paths, coordinates and array identifiers.

    Raises
    ------
    BlockwiseError, GeometryError
        If the file is no worker, or the numbers do not fit each other.
    """

    def __init__(
        self, worker_file: str | Path, total_roi: Roi, read_roi: Roi, write_roi: Roi, num_workers: int = 16,
        max_retries: int = 2, timeout: float | None = None, upstream_tasks: Sequence[DaCapoBlockwiseTask] | None = None,
        *args: Any, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.source = source_of(worker_file)
        self.worker = load_worker(self.source)
        self.name = self.source.name
        self.grid = BlockGrid(total_roi, Coordinate(write_roi.shape), _context(read_roi, write_roi))
        self.num_workers, self.max_retries, self.timeout = num_workers, max_retries, timeout
        self.upstream_tasks = list(upstream_tasks or ())
        self.args, self.kwargs = args, kwargs
        self._refuse_cut_chunks()

    def run(self, progress: Progress = None) -> BlockReport:
        """Work off all blocks. Stopped or failed, the same task tries only what is missing; done, it starts anew.

        What was done is known by the arrays among the arguments: without any, everything is done again.

        Raises
        ------
        BlocksFailedError
            If blocks failed every time; all others were done.
        """
        for task in self.upstream_tasks:
            task.run(progress)
        places = identifiers_in([*self.args, *self.kwargs.values()])
        folder = Path(places[-1]).absolute() if places else Path(tempfile.mkdtemp(prefix="dacapo-blocks-"))
        folder = folder.with_name(f".{folder.name}.{self.name}-blocks") if places else folder
        if self.worker.init_callback_fn is not None:
            self.worker.init_callback_fn({"task": self.name, "num_workers": self.num_workers})
        report = self._passes(folder, {"made": [made(a) for a in _existing(places)]}, progress)
        shutil.rmtree(folder, ignore_errors=True)
        return report

    def _passes(self, folder: Path, key: dict[str, Any], progress: Progress) -> BlockReport:
        """One pass; with conflicts between neighbours one for each of a checkerboard's colours."""
        colours = [1] * len(self.grid.block)
        if self.worker.read_write_conflict:
            reach = zip(*self.grid.context, self.grid.block, self.grid.shape, strict=True)
            colours = [min(1 + -(-max(low, high) // size), number) for low, high, size, number in reach]
        reports = []
        for number in range(math.prod(colours)):
            parameters = {
                "source": self.source.to_json(), "args": encoded(self.args), "kwargs": encoded(self.kwargs),
                "colours": colours, "colour": number, "blocks": list(self.grid.shape),
            }  # fmt: skip
            reports.append(
                run_blocks(
                    self.name,
                    "dacapo.blockwise.user_code:worker",
                    parameters,
                    total=self.grid.total,
                    block=self.grid.block,
                    context=self.grid.context,
                    workers=self.num_workers,
                    folder=folder,
                    key=key,
                    retries=self.max_retries,
                    timeout=self.timeout,
                    progress=progress,
                )
            )
        last = reports[-1]
        seconds, skipped = sum(r.seconds for r in reports), min(r.skipped for r in reports)
        return BlockReport(last.total, last.done, skipped, last.failed, seconds, last.first_error)

    def _refuse_cut_chunks(self) -> None:
        """Blocks may not share a chunk of what is written: arguments that are called output."""
        outputs = [value for name, value in self.kwargs.items() if name.startswith("output")]
        for array in _existing(identifiers_in(outputs)):
            if array.spatial_dims == len(self.grid.block) and array.roi.contains(self.grid.total):
                check_blocks(self.grid.block, array, self.grid.total)


def run_blockwise(
    worker_file: str | Path, total_roi: Roi, read_roi: Roi, write_roi: Roi, num_workers: int = 16, max_retries: int = 1,
    timeout: float | None = None, upstream_tasks: Sequence[DaCapoBlockwiseTask] | None = None, *args: Any, **kwargs: Any,
) -> bool:  # fmt: skip
    """Run a worker over all blocks of a region: see `DaCapoBlockwiseTask`.

    Returns
    -------
    done : bool
        Whether every block was done; the log says which were not and why.
    """
    task = DaCapoBlockwiseTask(
        worker_file, total_roi, read_roi, write_roi, num_workers, max_retries, timeout, upstream_tasks, *args, **kwargs
    )
    try:
        task.run()
    except BlocksFailedError as error:
        logger.error("%s", error)
        return False
    return True


def segment_blockwise(
    segment_function_file: str | Path, context: Coordinate, total_roi: Roi | None, read_roi: Roi | None, write_roi: Roi,
    num_workers: int = 16, max_retries: int = 2, timeout: float | None = None,
    upstream_tasks: Sequence[DaCapoBlockwiseTask] | None = None, keep_tmpdir: bool = False, *,
    input_array_identifier: Any, output_array_identifier: Any, parameters: dict[str, Any] | None = None,
    mask: str | Path | None = None, overwrite: bool = True, progress: Progress = None,
) -> SegmentReport:  # fmt: skip
    """Segment a volume block by block into one consistent segmentation with global ids 1..n.

    Parameters
    ----------
    segment_function_file : str or Path
        Segmentation file, ``module:segment_function``, or "watershed", "threshold", "argmax".
    context : Coordinate
        Voxels around a block that are segmented with it; None takes how far `read_roi` sticks out of `write_roi`.
    total_roi : Roi, optional
        Voxels that are segmented; everything by default.
    read_roi, write_roi : Roi
        As in `run_blockwise`.
    keep_tmpdir : bool
        Keep fragments and markers, which lie hidden beside the output.
    input_array_identifier, output_array_identifier
        Path or identifier of the volume, and of the uint64 output that is made, over `total_roi`.
    parameters : mapping, optional
        For the segmentation function, over its ``default_parameters``.
    overwrite : bool
        Replace what something else wrote there; what the same call began is continued.

    Raises
    ------
    BlocksFailedError
        A RuntimeError: some blocks failed every time.
    """
    for task in upstream_tasks or ():
        task.run(progress)
    source = source_of(segment_function_file, segments=True)
    around = _context(read_roi, write_roi) if context is None else (Coordinate(context), Coordinate(context))  # type: ignore[arg-type]
    output = Path(located(output_array_identifier)).absolute()
    folder = output.with_name(f".{output.name}.blocks")
    report = segment_blocks(
        "dacapo.blockwise.user_code:segment", {"source": source.to_json(), "parameters": encoded(dict(parameters or {}))},
        located(input_array_identifier), output,
        block=Coordinate(write_roi.shape), context=around, roi=total_roi, mask=mask, workers=num_workers, folder=folder,
        retries=max_retries, timeout=timeout, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    if not keep_tmpdir:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _context(read_roi: Roi | None, write_roi: Roi) -> tuple[Coordinate, Coordinate]:
    """Voxels below and above a block."""
    if read_roi is None:
        raise GeometryError("neither a context nor a read_roi is given")
    below, above = write_roi.begin - read_roi.begin, read_roi.end - write_roi.end
    if min(*below, *above) < 0:
        raise GeometryError(f"read_roi {read_roi} does not contain write_roi {write_roi}")
    return Coordinate(below), Coordinate(above)


def _existing(places: Sequence[str]) -> list[Any]:
    from dacapo.arrays import open_array
    from dacapo.errors import ArrayNotFoundError

    found = []
    for place in places:
        try:
            found.append(open_array(place))
        except ArrayNotFoundError:
            continue
    return found


def block_sizes(text: str, dims: int, what: str, least: int = 1) -> Coordinate:
    """`[64,64,64]` or `64` as voxels per axis."""
    try:
        sizes = [int(part) for part in text.strip("[]() ").split(",")]
    except ValueError:
        sizes = []
    sizes = sizes * dims if len(sizes) == 1 else sizes
    if len(sizes) != dims or min(sizes) < least:
        raise BlockwiseError(f"{what} {text}: expected {dims} sizes in voxels, such as [{','.join(['64'] * dims)}]")
    return Coordinate(sizes)
