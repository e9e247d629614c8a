"""Upstream's tutorial, step by step, and its helper functions, against obvious ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from conftest import small_experiment, write_volume
from dacapo.arrays import from_numpy, open_array
from dacapo.errors import ConfigError, RunNotFoundError
from dacapo.experiments import Run, RunConfig
from dacapo.experiments.architectures import CNNectomeUNetConfig, DummyArchitectureConfig
from dacapo.experiments.arraytypes import DistanceArray, EmbeddingArray, ProbabilityArray
from dacapo.experiments.datasplits import TrainValidateDataSplitConfig
from dacapo.experiments.datasplits.datasets import RawGTDatasetConfig
from dacapo.experiments.datasplits.datasets.arrays import IntensitiesArrayConfig, ZarrArrayConfig
from dacapo.experiments.model import Model
from dacapo.experiments.tasks import AffinitiesTaskConfig
from dacapo.experiments.tasks.predictors import AffinitiesPredictor, DistancePredictor, DummyPredictor
from dacapo.experiments.trainers import GunpowderTrainerConfig
from dacapo.geometry import Coordinate, Roi
from dacapo.plot import plot_runs, smooth_values
from dacapo.predict_local import predict
from dacapo.store import Stores
from dacapo.store.create_store import create_array_store, create_config_store, create_stats_store, create_weights_store
from dacapo.train import resume, train_run
from dacapo.upstream_functions import NoSuchModule, balance_weights, padding, seg_to_affgraph, voi

RNG = np.random.default_rng(0)


def tutorial(folder: Path, **changes: object) -> RunConfig:
    """The parts of a run, as upstream's tutorial makes them: by position and keyword, offsets as tuples."""
    container = write_volume(folder)
    raw = IntensitiesArrayConfig("raw_norm", ZarrArrayConfig("raw", container, "raw"), 0, 255)
    dataset = RawGTDatasetConfig(name="cells", raw_config=raw, gt_config=ZarrArrayConfig("gt", container, "labels"))
    parts = {
        "datasplit_config": TrainValidateDataSplitConfig("split", [dataset], [dataset]),
        "task_config": AffinitiesTaskConfig(name="affs", neighborhood=[(0, 1, 0), (0, 0, 1), (1, 0, 0)]),
        "architecture_config": CNNectomeUNetConfig(
            name="unet", input_shape=Coordinate(16, 16, 16), fmaps_in=1, fmaps_out=4, num_fmaps=4, fmap_inc_factor=2,
            downsample_factors=[(2, 2, 2)], padding="same",
        ),
        "trainer_config": GunpowderTrainerConfig("trainer", augments=[]),
    }  # fmt: skip
    return RunConfig(
        **{**parts, "name": "tutorial", "num_iterations": 3, "validation_interval": 2, "repetition": 0, **changes}
    )


def test_the_tutorial(tmp_path: Path) -> None:
    """Configs are stored one by one, the run is retrieved, trained with snapshots, its losses and scores are drawn."""
    made, configs = tutorial(tmp_path, snapshot_interval=2), create_config_store()
    configs.store_datasplit_config(made.datasplit_config)
    configs.store_task_config(made.task_config)
    configs.store_architecture_config(made.architecture_config)
    configs.store_trainer_config(made.trainer_config)
    configs.store_run_config(made)
    run = Run(configs.retrieve_run_config("tutorial"))
    assert run == made
    train_run(run, save_snapshots=True)
    stats = create_stats_store().retrieve_training_stats("tutorial")
    assert stats.to_xarray().sizes == {"iterations": 3}
    assert create_weights_store().latest_iteration("tutorial") == 3
    arrays = create_array_store()
    snapshot = zarr.open_group(arrays.snapshot_container("tutorial").container, mode="r")
    assert snapshot["volumes/raw"].attrs["iterations"] == [0, 2]
    place = arrays.validation_prediction_array("tutorial", 3, run.datasplit.validate[0])
    assert open_array(place.path).shape[0] == 3
    figure = plot_runs(run_config_base_names=["tutorial"], smooth=2, validation_scores=["voi"], plot_losses=[True])
    figure.savefig(tmp_path / "runs.png")
    losses, scores = figure.axes
    np.testing.assert_allclose(losses.lines[0].get_ydata()[0], np.mean([s.loss for s in stats.iteration_stats[:2]]))
    assert len(scores.lines) == len(run.task.parameters) + 1  # type: ignore[union-attr]
    assert scores.lines[-1].get_ydata()[0] == run.best("voi").score


def test_plots_say_what_is_missing(tmp_path: Path) -> None:
    """An unknown run, an unknown criterion, a list of another length."""
    create_config_store().store_run_config(tutorial(tmp_path))
    with pytest.raises(RunNotFoundError, match="Did you mean 'tutorial'"):
        plot_runs(["tutorail"])
    with pytest.raises(ConfigError, match="no criterion is called 'void'"):
        plot_runs(["tutorial"], validation_scores=["void"])
    with pytest.raises(ConfigError, match="plot_losses has 2 entries, expected 1"):
        plot_runs(["tutorial"], plot_losses=[True, False])
    assert plot_runs(["tutorial"]).axes
    np.testing.assert_array_equal(smooth_values([1, 2, 3, 6], 2)[0], [1.5, 2.5, 4.5])


def test_few_iterations_and_lost_weights(tmp_path: Path, stores: Stores) -> None:
    """Fewer iterations than a validation interval train and keep their weights; losses without weights begin anew."""
    run = tutorial(tmp_path, num_iterations=2, validation_interval=1000)
    train_run(run, stores=stores)
    assert stores.weights.latest_iteration("tutorial") == 2
    for iteration in (0, 2):
        (stores.weights.path / "tutorial/checkpoints/iterations" / str(iteration)).unlink()  # type: ignore[attr-defined]
    again = tutorial(tmp_path, num_iterations=2, validation_interval=1000)
    assert again.resume_training(stores.stats, stores.weights) == 0
    train_run(again, stores=stores)
    assert [s.iteration for s in stores.stats.retrieve_training_stats("tutorial").iteration_stats] == [0, 1]


def test_what_upstreams_scripts_ask_a_run(tmp_path: Path, stores: Stores) -> None:
    """Scheduler, device, moving the optimiser, empty scores, and resuming from stores."""
    run = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=4))
    rates = []
    for _ in range(4):
        rates.append(run.lr_scheduler.get_last_lr()[0])
        run.optimizer.step()
        run.lr_scheduler.step()
    np.testing.assert_allclose(rates, [run.learning_rate_at(i) for i in range(4)])
    assert run.device == torch.device("cpu")
    run.move_optimizer(torch.device("cpu"), empty_cuda_cache=True)
    empty = RunConfig.get_validation_scores(run)
    assert (empty.scores, empty.criteria) == ([], run.validation_scores.criteria)
    fresh = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=4))
    train_run(fresh, False, False, stores=stores)
    other = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=4))
    assert other.resume_training(stores.stats, stores.weights) == 4 == resume(other, stores)
    assert other.training_stats.trained_until() == 4


def test_predict_local_is_the_model(tmp_path: Path) -> None:
    """Every voxel of the array is predicted, a region alike; inside, values are those of one forward pass."""
    model = Model(DummyArchitectureConfig("a", 1, 4), torch.nn.Conv3d(4, 2, 1), torch.nn.Sigmoid())
    raw = from_numpy(RNG.random((9, 10, 11), np.float32), (5.24, 4.0, 4.0))
    whole = predict(model, raw, tmp_path / "p.zarr/whole")
    assert model.training
    model.eval()
    with torch.no_grad():
        inner = model(torch.from_numpy(raw.read())[None, None])[0].numpy()
    np.testing.assert_allclose(whole.read()[:, 1:-1, 1:-1, 1:-1], inner, atol=1e-5)
    part = predict(model, raw, tmp_path / "p.zarr/part", Roi((2, 3, 4), (5, 5, 5)))
    np.testing.assert_allclose(part.read(), whole.read()[:, 2:7, 3:8, 4:9], atol=1e-6)
    assert part.offset == (10.48, 12.0, 16.0)


def test_helper_functions() -> None:
    """Affinities, balanced weights and VOI by upstream's names, against loops."""
    labels = RNG.integers(0, 3, (5, 6, 7))
    offsets = [(1, 0, 0), (0, -2, 1)]
    affs = seg_to_affgraph(labels, offsets)
    for channel, (dz, dy, dx) in zip(affs, offsets, strict=True):
        for z, y, x in np.ndindex(labels.shape):
            there = (z + dz, y + dy, x + dx)
            inside = all(0 <= t < n for t, n in zip(there, labels.shape, strict=True))
            assert channel[z, y, x] == (inside and labels[z, y, x] == labels[there] != 0)
    assert padding(offsets, (8, 4, 4)) == (Coordinate(0, 8, 0), Coordinate(8, 0, 4))

    mask = RNG.random(labels.shape) > 0.3
    weights, counts = balance_weights(labels, 3, [mask], slab=(1, -1, -1))
    assert counts is None
    for z in range(5):
        for label in range(3):
            share = np.clip((labels[z][mask[z]] == label).mean(), 0.05, 0.95)
            np.testing.assert_allclose(weights[z][(labels[z] == label) & mask[z]], 1 / (3 * share), rtol=1e-5)
    assert not weights[~mask].any()
    with pytest.raises(ValueError, match="expected 0 to 1"):
        balance_weights(labels, 2)

    truth = np.ones((4, 4), int)
    half = truth.copy()
    half[:2] = 2
    assert voi(half, truth) == pytest.approx((1.0, 0.0))
    with pytest.raises(ImportError, match="napari is not installed"):
        NoSuchModule("napari").Viewer


def test_predictors_say_what_they_predict() -> None:
    """The kind of a prediction's values, as upstream names it."""
    assert AffinitiesPredictor([[1, 0]]).output_array_type == ProbabilityArray(["aff_1.0"])
    assert DistancePredictor(["a"], 1).output_array_type == DistanceArray(["a"])
    assert DummyPredictor(3).output_array_type == EmbeddingArray(3)
    assert DistanceArray.interpolatable
