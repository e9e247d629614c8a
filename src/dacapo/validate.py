"""Validate: predict each validation dataset once, post-process it with every parameter set, score them all.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, DataError
from dacapo.upstream_calls import also_called_as
from dacapo.upstream_calls import validate as upstream_validate

if TYPE_CHECKING:
    import numpy as np

    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.scores import ValidationIterationScores
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters
    from dacapo.store import Stores


@also_called_as(upstream_validate)
def validate(
    run: RunConfig | str | Path,
    iteration: int | None = None,
    datasets_config: Any = None,
    *,
    stores: Stores | None = None,
) -> ValidationIterationScores:
    """Validate the weights of an iteration (the latest if left out) and store the scores.

    Raises
    ------
    WeightsNotFoundError
        If the run has no weights of that iteration; it lists those that there are.
    """
    from dacapo.compute_context import create_compute_context
    from dacapo.store import Stores
    from dacapo.train import load

    stores = stores or Stores.from_options()
    run = load(run, stores)
    create_compute_context().prepare()
    if iteration is None:
        iteration = stores.weights.latest_iteration(run.name)
        if iteration is None:
            raise ConfigError(f"{run}: not trained yet: run `dacapo train {run}` first")
    weights = stores.weights.retrieve_weights(run, iteration)
    run.check()
    if datasets_config is None and not run.datasplit.validate:
        raise ConfigError(f"{run}: datasplit.validate names no dataset")
    with stores.writing(run.name):
        run.load_weights(weights, with_optimizer=False)
        stores.recall_scores(run)
        return validate_run(run, iteration, datasets_config, stores=stores)


def validate_run(
    run: RunConfig, iteration: int, datasets_config: Any = None, *, stores: Stores | None = None
) -> ValidationIterationScores:
    """Validate `run` as it stands and store the scores as those of `iteration`; scores it had are replaced.

    Parameters
    ----------
    datasets_config : DataSplitConfig, or sequence of DatasetConfig, optional
        Other datasets to validate on (those that a datasplit validates on). Their scores are returned, not stored.

    Returns
    -------
    scores : ValidationIterationScores
        By dataset, parameter set and criterion.
    """
    from dacapo.compute_context import create_compute_context, keep_freed_memory
    from dacapo.experiments.scores import ValidationIterationScores
    from dacapo.store import Stores

    stores = stores or Stores.from_options()
    assert run.task is not None
    keep_freed_memory(False)  # what one dataset took is not held while the next is predicted
    device = create_compute_context().device
    parameters = list(run.task.parameters)
    if datasets_config is not None:
        others = opened(datasets_config)
        found = [sweep(run, d, predict_dataset(run, d, device), parameters) for d in others]
        return ValidationIterationScores(iteration, found)
    scores = []
    for dataset in run.datasplit.validate:
        prediction = predict_dataset(run, dataset, device)
        keep_prediction(run, iteration, dataset, prediction, stores)
        scores.append(sweep(run, dataset, prediction, parameters))
    done = ValidationIterationScores(iteration, scores)
    others = [s for s in run.validation_scores.scores if s.iteration != iteration]
    run.validation_scores.scores[:] = sorted([*others, done], key=lambda s: s.iteration)
    stores.stats.store_validation_iteration_scores(run.name, run.validation_scores)
    stores.record_best(run)
    prune_predictions(run, iteration, stores)
    return done


def opened(datasets_config: Any) -> list[Dataset]:
    """The datasets of some configs, with ground truth; ConfigError if there are none."""
    if hasattr(datasets_config, "datasplit"):
        datasets = datasets_config.datasplit().validate
    else:
        datasets = [config.dataset(f"dataset_{i}") for i, config in enumerate(datasets_config)]
    if not datasets or any(d.gt is None for d in datasets):
        raise ConfigError("datasets_config: expected datasets with gt to validate on")
    for dataset in datasets:
        dataset.check()
    return datasets


def predict_dataset(run: RunConfig, dataset: Dataset, device: Any) -> np.ndarray:
    """The prediction over the ground truth's region, with the values that storing as uint8 leaves: (C, *gt shape).

    What is validated is what `apply` will see when it reads a stored prediction.
    """
    import numpy as np

    from dacapo.arrays.array import real_values
    from dacapo.geometry import Roi
    from dacapo.network import Network, quantised

    assert dataset.gt is not None
    assert run.task is not None
    shift = output_shift(run, dataset)
    network = Network(run, dataset.raw, device, region=dataset.gt.spatial_shape)
    prediction = network.predict(Roi(shift, dataset.gt.spatial_shape))
    if not np.isfinite(prediction).all():
        raise DataError(
            f"{run}: the prediction of {dataset.name} is not finite: training went astray, lower learning_rate"
        )
    value_range = run.task.predictor.value_range
    return real_values(quantised(prediction, value_range, np.dtype(np.uint8)), value_range)


def output_shift(run: RunConfig, dataset: Dataset) -> Any:
    """Voxel of the output grid at the corner of the ground truth."""
    from dacapo.network import output_grid

    assert dataset.gt is not None
    return output_grid(run, dataset.raw).shift(dataset.gt.grid)


def sweep(
    run: RunConfig, dataset: Dataset, prediction: np.ndarray, parameters: Sequence[PostProcessorParameters]
) -> list[list[float]]:
    """Scores [parameter][criterion] of a prediction; ground truth is read once, parameters run side by side in threads,
    which share what is shared and whose kernels let each other run."""
    from concurrent.futures import ThreadPoolExecutor

    from dacapo.compute_context import available_processors

    assert run.task is not None
    assert dataset.gt is not None
    task, gt = run.task, dataset.gt
    truth, valid = gt.read(), dataset.read_valid(gt.roi)
    prepared = task.post_processor.prepared(prediction[: len(getattr(task.post_processor, "neighborhood", prediction))])

    score = task.evaluator.scorer(truth, gt.voxel_size, valid)

    def scores(group: list[PostProcessorParameters]) -> list[list[float]]:
        return [score(one).values() for one in task.post_processor.process_group(prepared, group)]

    groups = task.post_processor.groups(parameters)
    with ThreadPoolExecutor(max(1, min(available_processors(), len(groups)))) as threads:
        return [row for rows in threads.map(scores, groups) for row in rows]


def keep_prediction(run: RunConfig, iteration: int, dataset: Dataset, prediction: np.ndarray, stores: Stores) -> None:
    """Store the prediction of a validation, to be looked at."""
    import numpy as np

    from dacapo.arrays import create_array
    from dacapo.network import quantised
    from dacapo.predict import prediction_attributes

    assert run.task is not None
    assert dataset.gt is not None
    path = stores.arrays.validation_prediction_array(run.name, iteration, dataset).path
    data = quantised(prediction, run.task.predictor.value_range, np.dtype(np.uint8))
    array = create_array(
        path,
        shape=data.shape,
        dtype=data.dtype,
        grid=dataset.gt.grid,
        axis_names=("c^", *dataset.gt.grid.axes),
        overwrite=True,
        attributes=prediction_attributes(run, iteration, data.dtype),
    )
    array.write(array.roi, data)


def prune_predictions(run: RunConfig, iteration: int, stores: Stores) -> None:
    """Delete predictions of validations that are neither the latest nor the best of any tracked criterion."""
    assert run.task is not None
    scores = run.validation_scores
    wanted = {iteration}
    for criterion in scores.criteria:
        if run.task.evaluator.store_best(criterion):
            for dataset in scores.datasets:
                found = best_iteration(run, criterion, dataset.name)
                wanted |= {found} if found is not None else set()
    container = stores.arrays.validation_container(run.name).container
    for folder in container.iterdir() if container.is_dir() else ():
        if folder.name.isdigit() and int(folder.name) not in wanted:
            shutil.rmtree(folder, ignore_errors=True)


def best_iteration(run: RunConfig, criterion: str, dataset: str) -> int | None:
    """The iteration that is best by a criterion, or None if it never had a value."""
    try:
        found = run.best(criterion, dataset)
    except ConfigError:
        return None
    return None if math.isnan(found.score) else found.iteration
