"""Snapshots of a training: what was learned from and what came of it, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from conftest import small_experiment
from dacapo.arrays import open_array
from dacapo.experiments.run_config import RunConfig
from dacapo.snapshots import PARTS
from dacapo.store import Stores
from dacapo.train import train, train_run


@pytest.fixture
def snapshots(tmp_path: Path, stores: Stores) -> tuple[RunConfig, Stores, Path]:
    run = RunConfig.from_dict(small_experiment(tmp_path, snapshot_interval=2))
    train(run, validate=False, stores=stores)
    return run, stores, stores.arrays.snapshot_container("small").container


def test_snapshots_hold_the_very_batch_and_its_gradients(snapshots: tuple) -> None:
    """Every part is (iterations, batch, channels, z, y, x); raw, gt, target and weight are the batch's, gt the truth."""
    run, _, container = snapshots
    batch = next(iter(run.data_loader(4, 5)))
    root = zarr.open_group(container, mode="r")
    for name in PARTS:
        array = root[f"volumes/{name}"]
        assert array.attrs["iterations"] == [0, 2, 4]
        assert array.shape[:2] == (3, 2)
        if name in batch:
            np.testing.assert_allclose(array[2], batch[name].numpy(), rtol=1e-6)
    prediction, gradients = (root[f"volumes/{n}"][:] for n in ("prediction", "gradients"))
    assert prediction.shape == (3, 2, 4, 16, 16, 16)
    assert prediction.min() >= 0
    assert prediction.max() <= 1
    assert np.abs(gradients).max() > 0
    assert not gradients[root["volumes/weight"][:] == 0].any()


def test_snapshots_open_in_their_place(tmp_path: Path, stores: Stores) -> None:
    """Voxel sizes are kept, and the output of a network that shrinks lies in the middle of its input."""
    fields = small_experiment(tmp_path, snapshot_interval=4, num_iterations=1)
    fields["architecture"] |= {"padding": "valid", "input_shape": [24, 24, 24]}  # type: ignore[operator]
    train(RunConfig.from_dict(fields), validate=False, stores=stores)
    container = stores.arrays.snapshot_container("small").container
    raw, out = (open_array(f"{container}/volumes/{name}") for name in ("raw", "prediction"))
    assert raw.axis_names == ("iterations^", "b^", "c^", "z", "y", "x")
    assert raw.voxel_size == out.voxel_size == (5.24, 4.0, 4.0)
    margin = [(a - b) / 2 for a, b in zip(raw.spatial_shape, out.spatial_shape, strict=True)]
    np.testing.assert_allclose(out.offset, [m * v for m, v in zip(margin, raw.voxel_size, strict=True)])


def test_looking_changes_nothing(tmp_path: Path, snapshots: tuple) -> None:
    """The weights are the same, to the bit, with snapshots and without."""
    _, stores, _ = snapshots
    plain, others = RunConfig.from_dict(small_experiment(tmp_path)), Stores(tmp_path / "plain")
    train(plain, validate=False, stores=others)
    a, b = (s.weights.retrieve_weights("small", 6).model for s in (stores, others))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not others.arrays.snapshot_container("small").container.exists()


def test_a_resumed_run_replaces_what_it_does_again(snapshots: tuple) -> None:
    """Snapshots at or after the iteration that training goes on from are taken anew; those before stay."""
    run, stores, container = snapshots
    before = zarr.open_group(container, mode="r")["volumes/raw"][:]
    stores.weights.remove("small", 6)  # as if a kill had come before its weights: goes on at 3
    train_run(RunConfig.from_dict(run.to_dict()), validate=False, stores=stores)
    after = zarr.open_group(container, mode="r")["volumes/raw"]
    assert after.attrs["iterations"] == [0, 2, 4]
    np.testing.assert_array_equal(after[:], before)
