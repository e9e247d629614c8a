"""Validate: predict each validation dataset once, post-process it with every parameter set, score them all.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.scores import ValidationIterationScores
    from dacapo.experiments.tasks import Task
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters
    from dacapo.store import Stores


def validate(
    run: RunConfig | str | Path, iteration: int | None = None, *, stores: Stores | None = None
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
    if not run.datasplit.validate:
        raise ConfigError(f"{run}: datasplit.validate names no dataset")
    with stores.writing(run.name):
        run.load_weights(weights, with_optimizer=False)
        stores.recall_scores(run)
        return validate_run(run, iteration, stores=stores)


def validate_run(run: RunConfig, iteration: int, *, stores: Stores | None = None) -> ValidationIterationScores:
    """Validate `run` as it stands and store the scores as those of `iteration`; scores it had are replaced.

    Returns
    -------
    scores : ValidationIterationScores
        By dataset, parameter set and criterion.
    """
    from dacapo.compute_context import create_compute_context
    from dacapo.experiments.scores import ValidationIterationScores
    from dacapo.store import Stores

    stores = stores or Stores.from_options()
    assert run.task is not None
    device = create_compute_context().device
    parameters = list(run.task.parameters)
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
    """Scores [parameter][criterion] of a prediction; ground truth is read once, parameters run side by side."""
    import numpy as np

    from dacapo.compute_context import available_processors

    assert run.task is not None
    assert run.task_config is not None
    assert dataset.gt is not None
    channels = len(getattr(run.task.post_processor, "neighborhood", prediction))
    arrays = {
        "prediction": prediction[:channels],
        "truth": dataset.gt.read(),
        "valid": dataset.read_valid(dataset.gt.roi),
    }
    workers = min(available_processors(), len(parameters))
    if workers < 2 or prediction.size < 2**22:
        return _scores(run.task, arrays, dataset.gt.voxel_size, parameters)
    job = {"task": run.task_config.to_dict(), "voxel_size": dataset.gt.voxel_size, "workers": workers}
    with tempfile.TemporaryDirectory(prefix="dacapo-sweep-") as folder:
        for name, data in arrays.items():
            np.save(Path(folder, f"{name}.npy"), data)
        Path(folder, "job.json").write_text(json.dumps(job | {"parameters": [p.to_dict() for p in parameters]}))
        _run_sweep_workers(folder, workers)
        return [s for i in range(workers) for s in json.loads(Path(folder, f"scores-{i}.json").read_text())]


def _scores(
    task: Task,
    arrays: dict[str, np.ndarray],
    voxel_size: Sequence[float],
    parameters: Sequence[PostProcessorParameters],
) -> list[list[float]]:
    return [
        task.evaluator.evaluate(segmentation, arrays["truth"], voxel_size, arrays["valid"]).values()
        for segmentation in task.post_processor.process_all(arrays["prediction"], parameters)
    ]


def _run_sweep_workers(folder: str, workers: int) -> None:
    """Processes, not threads: the watershed holds the interpreter's lock. Not `multiprocessing` either, which
    would import the caller's script again."""
    code = "import sys; from dacapo.validate import sweep_worker; sweep_worker(sys.argv[1], int(sys.argv[2]))"
    running: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(workers):
            running.append(subprocess.Popen([sys.executable, "-c", code, folder, str(i)], stderr=subprocess.PIPE))
        for process in running:
            _, stderr = process.communicate()
            if process.returncode:
                raise RuntimeError(f"post-processing failed:\n{stderr.decode(errors='replace')}")
    finally:
        for process in running:
            process.kill()
            process.wait()


def sweep_worker(folder: str, index: int) -> None:
    """Score one of the equal shares of the parameter sets of the job in `folder`: neighbours, which share work."""
    import numpy as np

    from dacapo.experiments.tasks import TaskConfig
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters

    job = json.loads(Path(folder, "job.json").read_text())
    task = TaskConfig.from_dict(job["task"]).task()
    arrays = {name: np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in ("prediction", "truth", "valid")}
    number, workers = len(job["parameters"]), job["workers"]
    share = job["parameters"][number * index // workers : number * (index + 1) // workers]
    scores = _scores(task, arrays, job["voxel_size"], [PostProcessorParameters.from_dict(p) for p in share])
    Path(folder, f"scores-{index}.json").write_text(json.dumps(scores))


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
