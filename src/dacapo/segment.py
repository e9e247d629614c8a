"""Segment: a stored prediction into objects, blockwise, stitched to one volume with global ids.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError

if TYPE_CHECKING:
    from dacapo.arrays import Array
    from dacapo.blockwise import Block, BlockReport, SegmentReport
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters
    from dacapo.geometry import Coordinate, Roi
    from dacapo.store import Stores


def segment(
    run: RunConfig | str,
    prediction: str | Path,
    output: str | Path,
    *,
    parameters: PostProcessorParameters | None = None,
    criterion: str | None = None,
    roi: Roi | None = None,
    workers: int = 1,
    block_shape: Coordinate | None = None,
    overwrite: bool = False,
    stores: Stores | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> SegmentReport | BlockReport:
    """Segment a prediction of any size; the same call goes on where one was stopped.

    Parameters
    ----------
    run : RunConfig or str
        Whose task says how to segment.
    prediction : str
        An array that `predict` wrote.
    output : str
        Where the OME-Zarr segmentation goes: uint64 instances with ids 1..n, uint8 class ids, or uint8 0/1 per class.
    parameters : PostProcessorParameters, optional
        The best by `criterion` (the evaluator's main one) if left out.
    roi : Roi, optional
        Region to segment, in voxels; everything by default.
    workers : int
        Processes; 0 segments in this one.
    overwrite : bool
        Replace what other parameters or another prediction wrote there.

    Raises
    ------
    ConfigError, ArrayNotFoundError, ArrayExistsError, BlockwiseError
    """
    from dacapo.arrays import open_array
    from dacapo.blockwise import segment_blocks
    from dacapo.geometry import Coordinate
    from dacapo.predict import blocks_and_chunks, blocks_folder
    from dacapo.store import Stores
    from dacapo.train import load

    stores = stores or Stores.from_options()
    run = load(run, stores)
    if run.task is None:
        raise ConfigError(f"{run}: no task is given that says how to segment")
    if parameters is None:
        stores.recall_scores(run)
        parameters = run.best(criterion).parameters
    source = open_array(str(prediction))
    if source.channel_dims != 1 or source.shape[0] < len(run.task.channels):
        raise ConfigError(
            f"{prediction}: expected a prediction of {len(run.task.channels)} channels, got shape {source.shape}"
        )
    function, settings = run.task.post_processor.block_function(parameters)
    total = source.roi if roi is None else roi.intersect(source.roi)
    block, _ = blocks_and_chunks(source.spatial_shape, total, block_shape)
    context = run.task.post_processor.block_context
    said = {"run": run.name, "parameters": str(parameters)}
    if context is None:
        return _segment_alone(
            function, settings, source, output, said, total=total, block=block, workers=workers,
            made_of=run.task.post_processor.output(source.shape[0]), overwrite=overwrite, progress=_stage(progress),
        )  # fmt: skip
    around = Coordinate(min(context, b) for b in block)
    return segment_blocks(
        function, settings, str(prediction), str(output),
        block=block, context=(around, around), workers=workers, folder=blocks_folder(output), roi=total,
        key={"prediction": source.attributes}, overwrite=overwrite, attributes=said, progress=_stage(progress),
    )  # fmt: skip


def _stage(progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress("segment", done, total)) if progress else None


def _segment_alone(
    function: str, settings: dict[str, Any], source: Array, output: str | Path, said: dict[str, str], *,
    total: Roi, block: Coordinate, workers: int, made_of: tuple[int | None, str], overwrite: bool,
    progress: Callable[[int, int], None] | None,
) -> BlockReport:  # fmt: skip
    """Blocks that need no neighbours: each voxel's class follows from its prediction."""
    from dacapo.blockwise import check_blocks, chunk_of, made, run_blocks
    from dacapo.predict import blocks_folder, digest_of, output_array

    region = {"begin": list(total.begin), "shape": list(total.shape)}
    key = {"function": function, "parameters": settings, "prediction": source.attributes, "made": made(source)}
    channels, dtype = made_of
    leading = () if channels is None else (channels,)
    grid = source.crop(total).grid
    target = output_array(
        output, digest_of(key | {"region": region}), overwrite, shape=(*leading, *total.shape), dtype=dtype, grid=grid,
        chunk=(*(1 for _ in leading), *(chunk_of(b, n) for b, n in zip(block, total.shape, strict=True))),
        attributes=said,
    )  # fmt: skip
    check_blocks(block, target)
    return run_blocks(
        "segment",
        "dacapo.segment:block_worker",
        {"function": function, "parameters": settings, "source": source.path, "region": region,
         "output": str(Path(output).absolute())},
        total=target.roi, block=block, workers=workers, folder=blocks_folder(output),
        key=key | {"region": region, "output": made(target)}, progress=progress,
    )  # fmt: skip


def block_worker(
    function: str, parameters: dict[str, Any], source: str, region: dict[str, list[int]], output: str
) -> Callable[[Block], None]:
    """What a worker process does: apply a plain function to block after block of a region."""
    from dacapo.arrays import dequantised, open_array
    from dacapo.blockwise.process import find_function
    from dacapo.geometry import Roi

    segment_block = find_function(function)
    prediction = dequantised(open_array(source)).crop(Roi(region["begin"], region["shape"]))
    target = open_array(output, mode="r+")

    def process(block: Block) -> None:
        target.write(block.write_roi, segment_block(prediction.read(block.write_roi), **parameters))

    return process
