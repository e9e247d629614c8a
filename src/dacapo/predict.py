"""Predict: a trained network applied to a volume of any size, block by block.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ArrayExistsError, ConfigError
from dacapo.upstream_calls import also_called_as
from dacapo.upstream_calls import predict as upstream_predict

if TYPE_CHECKING:
    import numpy as np

    from dacapo.arrays import Array
    from dacapo.blockwise import BlockReport
    from dacapo.experiments.run_config import RunConfig
    from dacapo.geometry import Coordinate, Grid, Roi
    from dacapo.store import Stores


def prediction_attributes(run: RunConfig, iteration: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """What a stored prediction says of itself."""
    assert run.task is not None
    said: dict[str, Any] = {"run": run.name, "iteration": iteration, "channels": run.task.channels}
    return said | ({"value_range": list(run.task.predictor.value_range)} if dtype == "uint8" else {})


@also_called_as(upstream_predict)
def predict(
    run: RunConfig | str,
    raw: str | Path,
    output: str | Path,
    *,
    iteration: int | None = None,
    criterion: str | None = None,
    roi: Roi | None = None,
    workers: int = 1,
    dtype: str = "uint8",
    block_shape: Coordinate | None = None,
    chunk: Coordinate | None = None,
    overwrite: bool = False,
    stores: Stores | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BlockReport:
    """Predict a volume of any size, block by block; the same call goes on where one was stopped.

    Parameters
    ----------
    run : RunConfig or str
        A trained run, or its name.
    raw : str
        The volume: `vol.zarr/raw`, `file.h5:volumes/raw`, `stack.tif`. It is treated as raw of the run's
        first training dataset is (intensity range, ...).
    output : str
        Where the OME-Zarr prediction goes, such as `out.zarr/prediction`.
    iteration, criterion : optional
        Whose weights: those of an iteration, or of the best by a criterion (the evaluator's main one).
    roi : Roi, optional
        Region to predict, in voxels of the output grid, grown to whole chunks; everything by default.
    workers : int
        Processes; 0 predicts in this one.
    dtype : "uint8" or "float32"
        uint8 stands for the value range of the task (0 to 1 for affinities), which is stored beside it.
    block_shape : Coordinate, optional
        Voxels that are predicted and written at once: whole chunks. By default as many as make the network run over the
        least context, in the memory at hand; a call that goes on takes the blocks it began with.
    chunk : Coordinate, optional
        Voxels of a chunk of the output; by default the largest up to 64 that divides the block.
    overwrite : bool
        Replace what another run or iteration wrote there.

    Raises
    ------
    ConfigError, ArrayNotFoundError, ArrayExistsError, BlockwiseError
    """
    import numpy as np

    from dacapo.blockwise import check_blocks, made, run_blocks
    from dacapo.geometry import Roi
    from dacapo.network import check_input, output_grid
    from dacapo.store import Stores
    from dacapo.train import load

    if dtype not in ("uint8", "float32"):
        raise ConfigError(f"dtype is {dtype!r}, expected 'uint8' or 'float32'")
    stores = stores or Stores.from_options()
    run = load(run, stores)
    iteration = chosen_iteration(run, stores, iteration, criterion)
    weights = stores.weights.path_of(run.name, iteration).resolve()
    raw_config = treated_like_training(run, str(raw)).relative_to(Path.cwd())
    source = raw_config.array()
    check_input(run, source)
    scale = run.architecture_config.scale_factor
    whole = Roi((0,) * len(scale), tuple(int(n * f) for n, f in zip(source.spatial_shape, scale, strict=True)))
    total = whole if roi is None else roi.intersect(whole)
    if total.empty:
        raise ConfigError(f"roi {roi} does not touch the volume, which has {tuple(whole.shape)} voxels")
    if block_shape is None:
        block_shape = None if overwrite else begun_with(output)
        block_shape = block_shape or cheapest_block(run, whole.shape, total, chunk, workers)
    block, chunk = blocks_and_chunks(whole.shape, total, block_shape, chunk)
    # A chunk is written as a whole: what is asked for, and the rest of its chunks.
    total = total.snap_to_grid(chunk, mode="grow").intersect(whole)
    key = {"weights": digest(weights), "raw": raw_config.to_dict(), "shape": list(source.shape), "run": run.to_dict()}
    target = output_array(
        output,
        digest_of(key | {"dtype": dtype}),
        overwrite,
        shape=(run.model.num_out_channels, *whole.shape),
        dtype=np.dtype(dtype),
        grid=output_grid(run, source),
        chunk=(1, *chunk),
        attributes=prediction_attributes(run, iteration, np.dtype(dtype)) | {"block": list(block)},
    )
    check_blocks(block, target, total)
    return run_blocks(
        "predict",
        "dacapo.predict:block_worker",
        {
            "run": run.to_dict(),
            "weights": str(weights),
            "raw": raw_config.to_dict(),
            "output": str(Path(output).resolve()),
            "region": list(block),
            "processes": workers,
        },
        total=total,
        block=block,
        workers=workers,
        folder=blocks_folder(output),
        key=key | {"dtype": dtype, "output": made(target)},
        progress=progress,
    )


def output_array(path: str | Path, key: str, overwrite: bool, *, grid: Grid, **how: Any) -> Array:
    """Create the output, or open the one that the same call began; never write over anything else."""
    from dacapo.arrays import create_array, open_array

    if Path(path).exists() and not overwrite and open_array(str(path)).attributes.get("key") != key:
        raise ArrayExistsError(
            f"{path} was made from something else (other run, iteration, input or parameters): "
            f"give another output, or overwrite"
        )
    names = ("c^",) * (len(how["shape"]) - grid.dims) + grid.axes
    how["attributes"] = how["attributes"] | {"key": key}
    return create_array(str(path), grid=grid, axis_names=names, overwrite=overwrite, **how)


def block_worker(
    run: dict[str, Any], weights: str, raw: dict[str, Any], output: str, region: list[int], processes: int
) -> Any:
    """What a worker process does: open everything once, then predict block after block."""
    from dacapo.arrays import open_array
    from dacapo.compute_context import create_compute_context, keep_freed_memory
    from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig
    from dacapo.experiments.run_config import RunConfig
    from dacapo.geometry import Coordinate
    from dacapo.network import Network
    from dacapo.store.weights_store import read_weights

    context = create_compute_context()
    context.prepare()
    keep_freed_memory(True)  # tile after tile takes the same
    config = RunConfig.from_dict(run)
    config.load_weights(read_weights(Path(weights)), with_optimizer=False)
    target = open_array(output, mode="r+")
    network = Network(
        config, ArrayConfig.from_dict(raw).array(), context.device, Coordinate(region), processes=processes
    )
    assert config.task is not None
    value_range = config.task.predictor.value_range if target.dtype == "uint8" else None

    def process(block: Any) -> None:
        target.write(block.write_roi, network.predict(block.write_roi, value_range))

    return process


def treated_like_training(run: RunConfig, path: str) -> Any:
    """The config of the volume at `path`, with the intensity range that the network was trained on."""
    from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig

    trained_on = getattr(run.datasplit_config, "train_configs", ())
    if not trained_on:
        return ArrayConfig.from_dict(path)  # type: ignore[arg-type]
    return trained_on[0].raw_config.like(path)


def chosen_iteration(run: RunConfig, stores: Stores, iteration: int | None, criterion: str | None) -> int:
    """The iteration that is asked for, or the best by a criterion, or the last if nothing was validated."""
    if iteration is not None:
        return iteration
    stores.recall_scores(run)
    if criterion is None and not run.validation_scores.scores:
        latest = stores.weights.latest_iteration(run.name)
        if latest is None:
            raise ConfigError(f"{run}: not trained yet: run `dacapo train {run}` first")
        return latest
    return run.best(criterion).iteration


LARGEST_BLOCK = 2**29
"""Bytes of a block of the prediction."""
WORTH_IT = 1.1
"""How much less a larger block has to be run through the network: many small ones go on better after a stop."""


def begun_with(output: str | Path) -> Coordinate | None:
    """The blocks that a prediction, which is there already, was begun with."""
    from dacapo.arrays import open_array
    from dacapo.errors import DacapoError
    from dacapo.geometry import Coordinate

    try:
        block = open_array(str(output)).attributes.get("block")
    except DacapoError:
        return None
    return Coordinate(block) if block else None


def cheapest_block(run: RunConfig, whole: Coordinate, total: Roi, chunk: Coordinate | None, workers: int) -> Coordinate:
    """Blocks of which the least is context: from two chunks a side on, with enough of them for all workers."""
    import math

    from dacapo.compute_context import create_compute_context
    from dacapo.network import fitting_tiles

    device = create_compute_context().device
    chunk = chunk or _default_chunk(whole)
    chosen, best = None, 0.0
    for side in range(2, 9):
        block = _chunks_a_side(chunk, total, side)
        count = math.prod(-(-t // b) for t, b in zip(total.shape, block, strict=True))
        large = math.prod(block) * run.model.num_out_channels > LARGEST_BLOCK
        if chosen is not None and (large or count < 4 * max(1, workers)):
            break
        efficiency = fitting_tiles(run, block, device, processes=workers).efficiency
        if efficiency > WORTH_IT * best:
            chosen, best = block, efficiency
    assert chosen is not None
    return chosen


def blocks_and_chunks(
    whole: Coordinate, total: Roi, block: Coordinate | None, chunk: Coordinate | None = None
) -> tuple[Coordinate, Coordinate]:
    """Blocks of two chunks a side by default, so that the context around a block does not cost most; and their chunks."""
    from dacapo.blockwise import chunk_of
    from dacapo.geometry import Coordinate

    if block is None:
        chunk = chunk or _default_chunk(whole)
        return _chunks_a_side(chunk, total, 2), chunk
    return Coordinate(block), chunk or Coordinate(chunk_of(b, n) for b, n in zip(block, whole, strict=True))


def _default_chunk(whole: Coordinate) -> Coordinate:
    from dacapo.geometry import Coordinate

    return Coordinate(min(64, n) for n in whole)


def _chunks_a_side(chunk: Coordinate, total: Roi, number: int) -> Coordinate:
    """A block of so many chunks along each axis, or as many as the region has."""
    from dacapo.geometry import Coordinate

    return Coordinate(c * max(1, min(number, -(-t // c))) for c, t in zip(chunk, total.shape, strict=True))


def blocks_folder(output: str | Path) -> Path:
    """Where logs and markers of the blocks of an output lie: hidden beside it."""
    path = Path(output).absolute()
    return path.with_name(f".{path.name}.blocks")


def digest(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of(data: Any) -> str:
    """Of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
