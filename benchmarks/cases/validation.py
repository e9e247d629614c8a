"""A validation: one prediction, a sweep of parameters, their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

TRAINED = 150
"""Iterations."""

CASES = (
    Case(
        "sweep",
        "Validation of one run with 18 parameter sets, against each set from scratch",
        (
            Implementation("dacapo", "validation:shared", note="`dacapo.validate_run`"),
            Implementation(
                "each from scratch",
                "validation:scratch",
                note="predict, segment, evaluate for every set in turn, in one process with two threads",
                warm_up=False,
            ),
        ),
        (Bar("against each parameter set from scratch", against=("each from scratch",), least=5),),
        full={"shape": [64, 160, 160], "input_shape": [48, 48, 48]},
        quick={"shape": [16, 32, 32], "input_shape": [16, 16, 16]},
        prepare="validation:prepare",
        threads=2,
        note="The network is trained for 150 iterations, so that it has learned the objects; the check is the best VOI. One that "
        "has seen 30 leaves splinters (VOI 7), whose watershed is most of the work whatever is shared: 3.9 times as fast.",
    ),
)


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    import dacapo
    from benchmarks.cases.network import prepare as volume
    from dacapo.store import Stores

    volume(parameters, folder)
    dacapo.train_run(_run(parameters, folder), validate=False, stores=Stores(folder / "runs"))


def _run(parameters: dict[str, Any], folder: Path) -> Any:
    from benchmarks.cases.network import _run as run

    return run(parameters, folder, num_iterations=TRAINED, validation_interval=TRAINED)


def _trained(parameters: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    from dacapo.compute_context import create_compute_context
    from dacapo.store import Stores

    create_compute_context().prepare()
    stores, run = Stores(folder / "runs"), _run(parameters, folder)
    run.load_weights(stores.weights.retrieve_weights(run, TRAINED), with_optimizer=False)
    return run, stores


def _best(scores: list[list[float]], run: Any) -> dict[str, float]:
    voi = np.array(scores)[:, run.task.evaluation_scores.criteria.index("voi")]
    return {"parameters": float(len(voi)), "best voi": float(np.nanmin(voi))}


def shared(parameters: dict[str, Any], folder: Path) -> Any:
    import dacapo

    run_config, stores = _trained(parameters, folder)

    def run(clock: Any) -> dict[str, float]:
        scores = dacapo.validate_run(run_config, TRAINED, stores=stores)
        clock.stop()
        return _best(scores.scores[0], run_config)

    return run


def scratch(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.compute_context import create_compute_context
    from dacapo.validate import predict_dataset

    run_config, _ = _trained(parameters, folder)
    dataset, device = run_config.datasplit.validate[0], create_compute_context().device

    def run(clock: Any) -> dict[str, float]:
        task, scores = run_config.task, []
        for one in task.parameters:
            prediction = predict_dataset(run_config, dataset, device)
            segmentation = task.post_processor.process(prediction, one)
            valid = dataset.read_valid(dataset.gt.roi)
            scores.append(
                task.evaluator.evaluate(segmentation, dataset.gt.read(), dataset.gt.voxel_size, valid).values()
            )
        clock.stop()
        return _best(scores, run_config)

    return run
