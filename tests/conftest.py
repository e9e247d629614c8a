"""What the tests share: small volumes, small runs, and where real data is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dacapo.experiments.run_config import RunConfig
from dacapo.store import Stores

REAL_DATA = Path(os.environ.get("DACAPO_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real volumes; skips where it is absent."""
    if not (REAL_DATA / "fib25").is_dir():
        pytest.skip(f"no real data in {REAL_DATA}: set DACAPO_REAL_DATA to the folder that holds fib25/")
    return REAL_DATA


@pytest.fixture(autouse=True)
def _own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's dacapo.yaml or writes to the user's runs."""
    monkeypatch.delenv("DACAPO_OPTIONS_FILE", raising=False)
    monkeypatch.setenv("DACAPO_RUNS_BASE_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path / "runs")


def write_volume(folder: Path, shape: tuple[int, ...] = (24, 32, 32), seed: int = 0, cell: int = 12) -> Path:
    """A zarr with raw (dark walls) and labels (boxes), voxels of 5.24 × 4 × 4 nm (2D: 4 × 4)."""
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    rng = np.random.default_rng(seed)
    index = np.indices(shape) // cell
    labels = np.ravel_multi_index(tuple(index), tuple(-(-n // cell) for n in shape)) + 1
    wall = np.zeros(shape, bool)
    for axis in range(len(shape)):
        wall |= np.diff(labels, axis=axis, append=np.take(labels, [-1], axis)) != 0
    raw = np.where(wall, 60, 180) + rng.normal(0, 12, shape)
    grid = Grid((5.24, 4.0, 4.0)[-len(shape) :])
    path = folder / f"volume{seed}.zarr"
    for name, data in (("raw", raw.clip(0, 255).astype(np.uint8)), ("labels", labels.astype(np.uint64))):
        array = create_array(f"{path}/{name}", shape=shape, dtype=data.dtype, grid=grid)
        array.write(array.roi, data)
    return path


def small_experiment(folder: Path, **changes: object) -> dict[str, object]:
    """An affinities experiment that trains in seconds, as a user would write it."""
    for seed in (0, 1):
        if not (folder / f"volume{seed}.zarr").exists():
            write_volume(folder, seed=seed)
    fields: dict[str, object] = {
        "name": "small",
        "datasplit": {
            "train": [{"name": "a", "raw": f"{folder}/volume0.zarr/raw", "gt": f"{folder}/volume0.zarr/labels"}],
            "validate": [{"name": "b", "raw": f"{folder}/volume1.zarr/raw", "gt": f"{folder}/volume1.zarr/labels"}],
        },
        "task": {
            "type": "affinities",
            "neighborhood": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -3, 0]],
            "biases": [0.4, 0.6],
            "long_biases": [0.5],
            "min_size": 10,
        },
        "architecture": {
            "type": "cnnectome_unet",
            "input_shape": [16, 16, 16],
            "fmaps_in": 1,
            "fmaps_out": 4,
            "num_fmaps": 4,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]],
            "padding": "same",
        },
        "trainer": {"augments": [{"type": "simple"}, {"type": "intensity", "scale": [0.9, 1.1], "shift": [-0.1, 0.1]}]},
        "num_iterations": 6,
        "validation_interval": 3,
        "batch_size": 2,
        "learning_rate": 0.01,
        "warmup_iterations": 2,
    }
    return fields | changes


@pytest.fixture
def small_run(tmp_path: Path) -> RunConfig:
    return RunConfig.from_dict(small_experiment(tmp_path))
