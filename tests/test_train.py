"""Training: it learns, it goes on after any kill with the same bits, and it refuses what cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import dacapo
from conftest import small_experiment
from dacapo.errors import ConfigError, DataError, DuplicateNameError, GeometryError, RunNotFoundError, StoreError
from dacapo.experiments.run_config import RunConfig
from dacapo.store import Stores
from dacapo.store.stores import LocalWeightsStore

dacapo_train, cli_group = import_module("dacapo.train"), import_module("dacapo.cli.group")


def final_state(stores: Stores, run: str = "small") -> tuple[dict[str, torch.Tensor], list[float], list[object]]:
    weights = stores.weights.retrieve_weights(run, 6).model
    losses = [s.loss for s in stores.stats.retrieve_training_stats(run).iteration_stats]
    scores = [(s.iteration, s.scores) for s in stores.stats.retrieve_validation_iteration_scores(run)]
    return weights, losses, scores


def assert_same(a: tuple, b: tuple) -> None:
    assert a[0].keys() == b[0].keys()
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    assert a[1] == b[1]
    assert repr(a[2]) == repr(b[2])


def test_where_the_time_goes_is_shown_and_stored(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, forward, backward and optimiser add up to an iteration; slow data shows as data."""
    run = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=6, validation_interval=6))
    loaded = RunConfig.data_loader

    def slowly(self: RunConfig, *args: int) -> Iterator[dict[str, torch.Tensor]]:
        for batch in loaded(self, *args):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(RunConfig, "data_loader", slowly)
    seen: list[dacapo_train.Progress] = []
    dacapo.train_run(run, validate=False, stores=stores, progress=seen.append)
    stats = stores.stats.retrieve_training_stats("small").iteration_stats
    assert stats == run.training_stats.iteration_stats
    for s in stats:
        assert s.split is not None
        assert s.split.data >= 0.05
        assert min(s.split) > 0
        assert sum(s.split[1:]) <= s.time + 1e-4
    last = seen[-1]
    assert last.iteration == 6
    assert set(last.shares) == {"data", "forward", "backward", "optimizer"}
    assert 0.5 < sum(last.shares.values()) <= 1.001
    assert last.shares["data"] >= 0.05 / last.seconds_per_iteration
    line = cli_group._shares(last)
    assert line.startswith("data ")
    assert "optimizer" in line


@pytest.fixture
def undisturbed(tmp_path: Path) -> tuple:
    stores = Stores(tmp_path / "undisturbed")
    dacapo.train(RunConfig.from_dict(small_experiment(tmp_path)), stores=stores)
    return final_state(stores)


def test_training_learns_and_keeps_everything(tmp_path: Path, stores: Stores) -> None:
    """The loss falls, each validation has a score per parameter and criterion, and the best is found."""
    fields = small_experiment(tmp_path, num_iterations=40, validation_interval=20, learning_rate=0.03)
    fields["architecture"] |= {"batch_norm": True, "num_fmaps": 6}  # type: ignore[operator]
    run = RunConfig.from_dict(fields)
    dacapo.train(run, stores=stores)
    losses = run.training_stats.to_xarray()
    assert losses.shape == (40,)
    assert losses[-10:].mean() < 0.85 * losses[:10].mean()
    scores = run.validation_scores.to_xarray()
    assert scores.shape == (2, 1, 4, len(run.validation_scores.criteria))  # 2 biases × 2 links
    best = run.best("voi")
    assert best.score == float(scores.sel(criteria="voi").min())
    assert stores.weights.iterations("small") == [0, 20, 40]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_config_trains_the_same_network(tmp_path: Path, undisturbed: tuple, workers: int) -> None:
    """Two trainings are equal bit for bit, whatever the number of worker processes."""
    stores = Stores(tmp_path / "again")
    dacapo.train(RunConfig.from_dict(small_experiment(tmp_path, num_workers=workers)), stores=stores)
    assert_same(final_state(stores), undisturbed)


@pytest.mark.parametrize("moment", ["before weights", "after weights", "in validation"])
def test_a_kill_between_two_writes_changes_nothing(
    tmp_path: Path, undisturbed: tuple, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before or after a checkpoint's weights, or while validating, the same call ends the same."""
    stores = Stores(tmp_path / "killed")
    config = small_experiment(tmp_path)

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    original = LocalWeightsStore.store

    def store(self: LocalWeightsStore, run: str, iteration: int, weights: object) -> object:
        if iteration == 3 and moment == "before weights":
            raise Killed
        path = original(self, run, iteration, weights)
        if iteration == 3 and moment == "after weights":
            raise Killed
        return path

    with monkeypatch.context() as patch:
        patch.setattr(LocalWeightsStore, "store", store)
        if moment == "in validation":
            patch.setattr(sys.modules["dacapo.validate"], "sweep", die)  # dacapo.validate is the function
        with pytest.raises(Killed):
            dacapo.train(RunConfig.from_dict(config), stores=stores)
    dacapo.train(RunConfig.from_dict(config), stores=stores)
    assert_same(final_state(stores), undisturbed)


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path, undisturbed: tuple) -> None:
    """A real process, killed again and again, ends with the bits of an undisturbed run."""
    import yaml

    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(small_experiment(tmp_path)))
    runs = tmp_path / "sigkilled"
    command = [sys.executable, "-m", "dacapo", "--runs", str(runs), "train", str(file)]
    rng = np.random.default_rng(0)
    stores, kills = Stores(runs), 0
    for attempt in range(12):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            # Wait for a sign of life, then a random while that grows: kills fall all over the training on any machine.
            deadline = time.monotonic() + 60
            while not (runs / "small" / ".lock").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.wait(timeout=min(60, (0.05 + 0.1 * rng.random()) * 2**attempt))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        finally:
            process.kill()
            _, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert kills >= 1
    assert_same(final_state(stores), undisturbed)


def test_a_torn_line_and_a_torn_checkpoint_are_survived(tmp_path: Path, undisturbed: tuple) -> None:
    """What a power cut leaves behind is never taken for whole."""
    stores = Stores(tmp_path / "torn")
    config = small_experiment(tmp_path)
    dacapo.train(RunConfig.from_dict(config | {"num_iterations": 6}), stores=stores, validate=False)
    stores.weights.remove("small", 6)
    folder = tmp_path / "torn" / "small" / "checkpoints" / "iterations"
    (folder / ".6.123.tmp").write_bytes(b"half")
    with (tmp_path / "torn" / "stats" / "training_stats" / "small.jsonl").open("a") as file:
        file.write('{"iteration": 6, "lo')
    dacapo.train(RunConfig.from_dict(config), stores=stores)
    assert_same(final_state(stores), undisturbed)


def test_other_content_under_a_name_is_refused(tmp_path: Path, stores: Stores) -> None:
    """A stored run is never trained on with another config; the message names the field."""
    dacapo.train(RunConfig.from_dict(small_experiment(tmp_path)), stores=stores, validate=False)
    with pytest.raises(DuplicateNameError, match=r"learning_rate: stored 0.01, given 0.5"):
        dacapo.train(RunConfig.from_dict(small_experiment(tmp_path, learning_rate=0.5)), stores=stores)


def test_an_unknown_run_names_the_nearest(tmp_path: Path, stores: Stores) -> None:
    """A typo in a run's name is answered with the name that was meant."""
    stores.configs.store_run_config(RunConfig.from_dict(small_experiment(tmp_path)))
    with pytest.raises(RunNotFoundError, match="no run named 'smal'.*Did you mean 'small'"):
        dacapo.load("smal", stores)


def test_two_writers_are_refused(tmp_path: Path, stores: Stores) -> None:
    """A second process on the same run stops before it writes anything."""
    run = RunConfig.from_dict(small_experiment(tmp_path))
    with stores.writing("small"), pytest.raises(StoreError, match="another process"):
        dacapo.train(run, stores=stores)


def _bad_data(tmp_path: Path, **arrays: object) -> RunConfig:
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    experiment = small_experiment(tmp_path)
    dataset = experiment["datasplit"]["train"][0]  # type: ignore[index]
    for part, (data, grid) in arrays.items():  # type: ignore[misc]
        names = ("c^",) * (data.ndim - 3) + ("z", "y", "x")
        array = create_array(
            f"{tmp_path}/bad.zarr/{part}", shape=data.shape, dtype=data.dtype, grid=Grid(*grid), axis_names=names
        )
        array.write(array.roi, data)
        dataset[part] = f"{tmp_path}/bad.zarr/{part}"
    return RunConfig.from_dict(experiment)


VOXELS = (5.24, 4.0, 4.0)
LABELS = np.ones((16, 16, 16), np.uint64)
RAW = np.zeros((16, 16, 16), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "error", "said"),
    [
        ({"gt": (LABELS, (VOXELS, (1e5, 0, 0)))}, GeometryError, "a: raw .* and gt .* do not overlap"),
        ({"gt": (LABELS, ((8.0, 8.0, 8.0),))}, GeometryError, r"a: voxel size \(8, 8, 8\) nm of gt and \(5.24, 4, 4\) nm of raw"),
        ({"gt": (LABELS * 0, (VOXELS,))}, DataError, "not a single labelled voxel"),
        ({"raw": (np.full((16, 16, 16), np.nan, np.float32), (VOXELS,)), "gt": (LABELS, (VOXELS,))}, DataError, "NaN"),
        ({"raw": (np.stack([RAW, RAW]), (VOXELS,)), "gt": (LABELS, (VOXELS,))}, ConfigError, "raw has 2 channels"),
        ({"gt": (np.stack([LABELS, LABELS]), (VOXELS,))}, ConfigError, "gt has 2 channels"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_is_named(
    tmp_path: Path, stores: Stores, arrays: dict, error: type[Exception], said: str
) -> None:
    """Each impossible dataset ends with one clear line before the first iteration, and no weights are left."""
    run = _bad_data(tmp_path, **arrays)
    with pytest.raises(error, match=said) as caught:
        dacapo.train(run, stores=stores)
    assert "\n" not in str(caught.value)
    assert stores.weights.iterations("small") == []


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails is one clear line, and the run goes on from what was whole."""
    config = small_experiment(tmp_path)
    original = LocalWeightsStore.store

    def store(self: LocalWeightsStore, run: str, iteration: int, weights: object) -> object:
        if iteration == 6:
            monkeypatch.setattr("os.replace", _no_space)
        return original(self, run, iteration, weights)

    with monkeypatch.context() as patch:
        patch.setattr(LocalWeightsStore, "store", store)
        with pytest.raises(StoreError, match="cannot write .*No space left"):
            dacapo.train(RunConfig.from_dict(config), stores=stores)
    monkeypatch.undo()
    assert stores.weights.iterations("small") == [0, 3]
    assert not list((tmp_path / "runs" / "small" / "checkpoints" / "iterations").glob(".*"))


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
