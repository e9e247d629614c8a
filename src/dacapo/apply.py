"""Apply: the best weights and parameters of a run on a volume: predict, then segment; and score a segmentation.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, GeometryError

if TYPE_CHECKING:
    import numpy as np

    from dacapo.arrays import Array
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.tasks.evaluators import EvaluationScores, Evaluator
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters
    from dacapo.geometry import Coordinate, Roi
    from dacapo.store import Stores


@dataclass(frozen=True)
class Applied:
    """What `apply` did, and where it is."""

    iteration: int
    parameters: PostProcessorParameters
    prediction: str
    segmentation: str
    voxels: int
    made: bool
    """Whether this call did the work; False where all blocks were there already."""
    predict_seconds: float
    segment_seconds: float


def apply(
    run: RunConfig | str,
    raw: str | Path,
    output: str | Path,
    *,
    criterion: str | None = None,
    dataset: str | None = None,
    iteration: int | None = None,
    parameters: PostProcessorParameters | None = None,
    roi: Roi | None = None,
    workers: int = 1,
    block_shape: Coordinate | None = None,
    dtype: str = "uint8",
    overwrite: bool = False,
    stores: Stores | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Applied:
    """Predict and segment a volume of any size with the best iteration and parameters of a run.

    Parameters
    ----------
    run : RunConfig or str
        A trained run, or its name.
    raw : str
        The volume, such as `vol.zarr/raw`.
    output : str
        An OME-Zarr container: the prediction goes to `prediction`, the objects to `labels`.
    criterion, dataset : str, optional
        Best by what, on which validation dataset: the evaluator's main criterion, the first dataset.
    iteration, parameters : optional
        Take these instead of the best.

    Returns
    -------
    applied : Applied

    Raises
    ------
    ConfigError, ArrayNotFoundError, ArrayExistsError, BlockwiseError
    """
    from dacapo.predict import predict
    from dacapo.segment import segment
    from dacapo.store import Stores
    from dacapo.train import load

    stores = stores or Stores.from_options()
    run = load(run, stores)
    container = Path(output)
    if container.suffix != ".zarr":
        raise ConfigError(f"output {container} is no container: give a name that ends in .zarr")
    if iteration is None or parameters is None:
        stores.recall_scores(run)
        best = run.best(criterion, dataset)
        iteration = best.iteration if iteration is None else iteration
        parameters = parameters or best.parameters
    prediction, segmentation = str(container / "prediction"), str(container / "labels")

    def stage(name: str) -> Callable[[int, int], None] | None:
        return (lambda done, total: progress(name, done, total)) if progress else None

    started = time.perf_counter()
    common: dict[str, Any] = {
        "roi": roi,
        "workers": workers,
        "block_shape": block_shape,
        "overwrite": overwrite,
        "stores": stores,
    }
    report = predict(run, raw, prediction, iteration=iteration, dtype=dtype, progress=stage("predict"), **common)
    predicted = time.perf_counter()
    segment(run, prediction, segmentation, parameters=parameters, progress=progress, **common)
    ended = time.perf_counter()
    voxels = _voxels(prediction, roi)
    return Applied(
        iteration,
        parameters,
        prediction,
        segmentation,
        voxels,
        report.done > report.skipped,
        predicted - started,
        ended - predicted,
    )


def _voxels(path: str, roi: Roi | None) -> int:
    from dacapo.arrays import open_array

    whole = open_array(path).roi
    return int((whole if roi is None else roi.intersect(whole)).size)


def evaluate(
    segmentation: str | Path,
    truth: str | Path,
    *,
    mask: str | Path | None = None,
    unlabelled: int | None = None,
    binary: bool = False,
    classes: Sequence[str] | None = None,
    clip_distance: float = 200.0,
    tol_distance: float = 40.0,
) -> EvaluationScores:
    """Score a segmentation against ground truth, over the region that both cover.

    Parameters
    ----------
    segmentation, truth, mask : str
        Paths of arrays with the same voxel size; mask 0 = ignore.
    unlabelled : int, optional
        Ground truth voxels of this id are ignored; of several channels each by itself, but with 0 those voxels that
        are 0 in all of them.
    binary : bool
        Compare foreground with foreground (21 criteria) instead of instances.
    classes : sequence of str, optional
        Compare these classes instead of instances, each by the 21 criteria, named `{class}__{criterion}`. A
        segmentation with a channel for each is compared channel by channel, with truth of one or as many channels;
        one without channels holds class ids (0 = the first), truth the same or a binary channel for each.
    clip_distance, tol_distance : float
        World units, for the binary criteria.

    Raises
    ------
    GeometryError
        If voxel sizes differ or the two do not overlap.
    ConfigError, DataError
        If channels or ids do not fit the classes.
    """
    import numpy as np

    from dacapo.arrays import open_array

    found, expected = open_array(str(segmentation)), open_array(str(truth))
    a, b = _shared(found, expected)
    spatial = b.shape[-expected.spatial_dims :]
    channels = a.reshape(-1, *spatial).shape[0]
    evaluator = _evaluator(channels, binary, classes, clip_distance, tol_distance)
    valid = np.ones((1, *spatial), bool)
    if mask is not None:
        masked, _ = _shared(open_array(str(mask)), expected)
        if masked.shape[-expected.spatial_dims :] != spatial:
            raise GeometryError(f"{mask} does not cover the region that {segmentation} and {truth} share")
        valid = masked.reshape(-1, *spatial) > 0
    if unlabelled is not None:
        labelled = b.reshape(-1, *spatial) != unlabelled
        valid = valid & (labelled if unlabelled else labelled.any(0))
    if len(valid) not in (1, len(classes or ())):
        valid = valid.any(0, keepdims=True)
    return evaluator.evaluate(a, b, expected.voxel_size, valid)


def _evaluator(
    channels: int, binary: bool, classes: Sequence[str] | None, clip_distance: float, tol_distance: float
) -> Evaluator:
    from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluator, ClassEvaluator, InstanceEvaluator

    if classes is not None:
        if not classes or len(set(classes)) != len(classes):
            raise ConfigError(f"classes: expected at least one name and none twice, got {list(classes)}")
        if len(classes) == channels:
            return BinarySegmentationEvaluator(clip_distance, tol_distance, classes)
        if channels == 1:
            return ClassEvaluator(clip_distance, tol_distance, classes)
    if channels > 1:
        given = "none is named" if classes is None else f"{len(classes)} are named"
        raise ConfigError(f"classes: the segmentation has {channels} channels, {given}: give as many names")
    return BinarySegmentationEvaluator(clip_distance, tol_distance, ["foreground"]) if binary else InstanceEvaluator()


def _shared(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of both arrays where both have some."""
    if any(r != 1 for r in a.grid.ratio(b.grid)):
        raise GeometryError(
            f"{a.path} has voxel size {a.voxel_size} {a.units}, {b.path} {b.voxel_size} {b.units}: give the level that matches"
        )
    shift = a.grid.shift(b.grid)
    in_a = (b.roi + shift).intersect(a.roi)
    if in_a.empty:
        raise GeometryError(f"{a.path} and {b.path} do not overlap: check their offsets")
    return a.read(in_a), b.read(in_a - shift)
