"""From a volume to its scores: the workload for which the figures of upstream's own code are known."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation, Quoted

SIZE = (8.0, 8.0, 8.0)
OFFSETS = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
BIASES = [0.1, 0.25, 0.5, 0.75, 0.9]
FULL = {
    "shape": [128, 256, 256],
    "cells": 150,
    "input_shape": [64, 64, 64],
    "maps": 12,
    "train": 60,
    "batches": 60,
    "skip": 8,
    "workers": 2,
}
QUICK = {
    "shape": [32, 64, 64],
    "cells": 8,
    "input_shape": [44, 44, 44],
    "maps": 2,
    "train": 2,
    "batches": 6,
    "skip": 2,
    "workers": 0,
}
NOTE = (
    "Raw 128 × 256 × 256 uint8, 150 cells, 8 nm; three direct neighbours; elastic (points every 32 voxels, rotation in "
    "space) and intensity; input 64³, batch 2; CNNectome U-Net 12 maps × 4, two poolings, valid; float32. Upstream's "
    "figures are quoted from an earlier measurement on 2 quiet cores: they are not of this run, and the ratio is as good "
    "as the two machines are alike."
)


def _case(name: str, title: str, function: str, unit: str, upstream: float, text: str, *bars: Bar, **how: Any) -> Case:
    return Case(
        f"workload-{name}", title, (Implementation("dacapo", f"workload:{function}", warm_up=how.pop("warm_up", True)),), bars,
        full=FULL, quick=QUICK, unit=unit, prepare="workload:prepare",
        data="workload", threads=2, note=NOTE,
        quoted=(Quoted("upstream", upstream, text),), **how,
    )  # fmt: skip


def _quoted(least: float) -> Bar:
    return Bar("against upstream's figure", against=("upstream",), least=least)


CASES = (
    _case("loader", "The workload: the loader with 2 workers", "loader", "batches", 8.2, "8.2 batches/s, 0.24 CPU s each",
          _quoted(5), warm_up=False),
    _case("train", "The workload: loader and training step", "train", "iterations", 1.27, "1.27 it/s", _quoted(2), warm_up=False),
    _case("predict", "The workload: predict the volume", "predict", "Mvoxel", 0.117, "0.117 Mvoxel/s, 1.7 GB", _quoted(4)),
    _case("watershed", "The workload: mutex watershed, one bias", "watershed", "runs", 1 / 17.2, "17.2 s", _quoted(1.7)),
    _case("evaluate", "The workload: instance evaluation", "evaluate", "runs", 1 / 0.86, "0.86 s", _quoted(10)),
    _case("validate", "The workload: `validate_run`, five biases", "validate", "runs", 1 / 171, "171 s, 208 CPU s, 3.5 GB",
          _quoted(4), Bar("GiB at the peak, all processes", measure="peak", most=1.5 / 1.0737)),
)  # fmt: skip


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    import dacapo
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid
    from dacapo.store import Stores
    from dacapo.synthetic import synthetic_em

    made = synthetic_em(parameters["shape"], SIZE, num_cells=parameters["cells"], seed=parameters["seed"])
    for part, values in (("raw", made.raw), ("labels", made.labels)):
        array = create_array(f"{folder}/volume.zarr/{part}", shape=values.shape, dtype=values.dtype, grid=Grid(SIZE))
        array.write(array.roi, values)
    np.save(folder / "truth.npy", made.labels)
    run = _run(parameters, folder, num_iterations=parameters["train"])
    stores = Stores(folder / "runs")
    stores.configs.store_run_config(run)
    dacapo.train_run(run, validate=False, stores=stores)


def _run(parameters: dict[str, Any], folder: Path, name: str = "workload", **changes: Any) -> Any:
    from dacapo.experiments.run_config import RunConfig

    dataset = {"name": "volume", "raw": f"{folder}/volume.zarr/raw", "gt": f"{folder}/volume.zarr/labels"}
    elastic = {
        "type": "elastic", "control_point_spacing": [32] * 3, "control_point_displacement_sigma": [16.0] * 3,
        "subsample": 8, "uniform_3d_rotation": True,
    }  # fmt: skip
    fields = {
        "name": name,
        "datasplit": {"train": [dataset], "validate": [dataset]},
        "task": {"type": "affinities", "neighborhood": OFFSETS, "biases": BIASES, "links": [1.0], "min_size": 0},
        "architecture": {
            "type": "cnnectome_unet", "input_shape": parameters["input_shape"], "fmaps_in": 1, "fmaps_out": 12,
            "num_fmaps": parameters["maps"], "fmap_inc_factor": 4, "downsample_factors": [[2, 2, 2], [2, 2, 2]],
            "padding": "valid",
        },
        "trainer": {"augments": [elastic, {"type": "intensity", "scale": [0.9, 1.1], "shift": [-0.1, 0.1]}]},
        "batch_size": 2,
        "num_workers": 0,
        "num_iterations": parameters["train"],
        "validation_interval": 10_000,
        "precision": "float32",
        "seed": parameters["seed"],
    }  # fmt: skip
    return RunConfig.from_dict(fields | changes)


def _trained(parameters: dict[str, Any], folder: Path) -> tuple[Any, Any, Any]:
    from dacapo.compute_context import create_compute_context
    from dacapo.store import Stores

    context = create_compute_context()
    context.prepare()
    stores, run = Stores(folder / "runs"), _run(parameters, folder)
    run.load_weights(stores.weights.retrieve_weights(run, parameters["train"]), with_optimizer=False)
    return run, stores, context.device


def _steady(parameters: dict[str, Any], folder: Path, clock: Any, step: Any, run: Any) -> dict[str, float]:
    """Batches from worker processes, timed from when they flow."""
    number = 0
    for iteration, batch in enumerate(run.data_loader(0, parameters["batches"])):
        if iteration == parameters["skip"]:
            clock.start()
        step(iteration, batch)
        number += iteration >= parameters["skip"]
        if iteration == parameters["batches"] - 1:
            clock.stop()  # before the processes end
    return {"units": number}


def loader(parameters: dict[str, Any], folder: Path) -> Any:
    def run(clock: Any) -> dict[str, float]:
        config = _run(parameters, folder, num_workers=parameters["workers"])
        return _steady(parameters, folder, clock, lambda i, batch: None, config)

    return run


def train(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.compute_context import create_compute_context, keep_freed_memory

    context = create_compute_context()
    context.prepare()
    keep_freed_memory(True)

    def run(clock: Any) -> dict[str, float]:
        config = _run(parameters, folder, num_workers=min(1, parameters["workers"]))
        config.to(context.device)
        config.model.train()
        losses = []

        def step(iteration: int, batch: Any) -> None:
            losses.append(config.train_step(iteration, batch, context.device).loss)

        said = _steady(parameters, folder, clock, step, config)
        weights = sum(p.numel() for p in config.model.parameters())
        return said | {"last loss": float(losses[-1]), "million weights": weights / 1e6}

    return run


def predict(parameters: dict[str, Any], folder: Path) -> Any:
    import dacapo
    from dacapo.store import Stores

    stores, turn = Stores(folder / "runs"), count()

    def run(clock: Any) -> dict[str, float]:
        output = folder / f"out{next(turn)}.zarr"
        clock.start()
        dacapo.predict(
            "workload", folder / "volume.zarr" / "raw", output / "prediction", iteration=parameters["train"], workers=0,
            stores=stores,
        )  # fmt: skip
        clock.stop()
        shutil.rmtree(output)
        return {"units": float(np.prod(parameters["shape"]) / 1e6)}

    return run


def watershed(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.validate import predict_dataset

    config, _, device = _trained(parameters, folder)
    prediction = predict_dataset(config, config.datasplit.validate[0], device)
    task = config.task
    middle = list(task.parameters)[len(BIASES) // 2]

    def run(clock: Any) -> dict[str, float]:
        found = task.post_processor.process(prediction, middle)
        clock.stop()
        return {"objects": float(found.max())}

    return run


def evaluate(parameters: dict[str, Any], folder: Path) -> Any:
    from benchmarks import data
    from dacapo.experiments.tasks.evaluators import InstanceEvaluator

    truth = np.load(folder / "truth.npy")
    found, evaluator = data.shifted(truth, parameters["seed"]), InstanceEvaluator()

    def run(clock: Any) -> dict[str, float]:
        return {"voi": evaluator.evaluate(found, truth, SIZE).voi}

    return run


def validate(parameters: dict[str, Any], folder: Path) -> Any:
    import dacapo

    config, stores, _ = _trained(parameters, folder)

    def run(clock: Any) -> dict[str, float]:
        scores = dacapo.validate_run(config, parameters["train"], stores=stores)
        clock.stop()
        voi = np.array(scores.scores[0])[:, config.task.evaluation_scores.criteria.index("voi")]
        return {"parameters": float(len(voi)), "best voi": float(np.nanmin(voi))}

    return run
