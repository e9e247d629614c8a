"""Runs of the other implementation are brought in: its YAML, pickles and checkpoints, and nothing they say is run."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

import dacapo
from dacapo.cli import cli
from dacapo.errors import ConfigError, DuplicateNameError, StoreError
from dacapo.experiments.run_config import RunConfig
from dacapo.import_upstream import read_plain_pickle
from dacapo.store import Stores

UPSTREAM = {
    "architecture_config": {
        "__type__": "CNNectomeUNetConfig", "name": "unet", "_input_shape": (8, 8, 8), "_eval_shape_increase": None,
        "fmaps_in": 1, "fmaps_out": 2, "num_fmaps": 2, "fmap_inc_factor": 2, "downsample_factors": [(2, 2, 2)],
        "kernel_size_down": None, "kernel_size_up": None, "upsample_factors": None, "constant_upsample": True,
        "padding": "same", "use_attention": False, "batch_norm": True,
    },
    "task_config": {
        "__type__": "AffinitiesTaskConfig", "name": "affs", "neighborhood": [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
        "lsds": False, "num_lsd_voxels": 10, "downsample_lsds": 1, "lsds_to_affs_weight_ratio": 1,
        "affs_weight_clipmin": 0.05, "affs_weight_clipmax": 0.95, "lsd_weight_clipmin": 0.05,
        "lsd_weight_clipmax": 0.95, "background_as_object": False,
    },
    "trainer_config": {
        "__type__": "GunpowderTrainerConfig", "name": "gp", "min_masked": 0.15, "clip_raw": False,
        "augments": [{"__type__": "SimpleAugmentConfig", "augmentation_probability": 1.0}],
        "batch_size": 3, "learning_rate": 0.0002, "num_data_fetchers": 5, "snapshot_interval": None,
        "gt_min_reject": 0.1,
    },
    "datasplit_config": None, "start_config": None, "name": "theirs", "repetition": None, "num_iterations": 20,
    "validation_interval": 10,
}  # fmt: skip


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs as the release 0.3.5 and the head of upstream leave it."""
    base = tmp_path / "theirs"
    (base / "configs" / "runs").mkdir(parents=True)
    (base / "configs" / "runs" / "theirs.yaml").write_text(yaml.dump(UPSTREAM))
    (base / "stats" / "training_stats").mkdir(parents=True)
    records = [
        {"iteration": i, "loss": np.float32(0.5 + i), "time": np.float64(0.1), "run_name": "theirs"} for i in range(20)
    ]
    (base / "stats" / "training_stats" / "theirs").write_bytes(pickle.dumps(records, protocol=2))
    folder = base / "theirs" / "checkpoints" / "iterations"
    folder.mkdir(parents=True)
    run = RunConfig.from_dict(dict(UPSTREAM, repetition=7, trainer_config=None) | {"num_iterations": 20, **_minimal()})
    state = run.model.state_dict()

    class Weights:
        __module__, __qualname__ = "dacapo.store.weights_store", "Weights"

    module = types.ModuleType("dacapo.store.weights_store")
    module.Weights = Weights  # type: ignore[attr-defined]
    pickled = Weights()
    pickled.model, pickled.optimizer = state, {"state": {}, "param_groups": []}  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dacapo.store.weights_store", module)
        torch.save(pickled, folder / "10")
    old = {}  # as 0.3.5 names them
    for name, tensor in state.items():
        old[name.replace("chain.0.", "chain.0.unet.")] = tensor
        if name.startswith("chain.0."):
            old[name.replace("chain.0.", "architecture.unet.")] = tensor
    torch.save({"model": old, "optimizer": {}}, folder / "20")
    return base


def _minimal() -> dict[str, object]:
    without = {k: v for k, v in UPSTREAM["architecture_config"].items() if v is not None}  # type: ignore[attr-defined]
    return {"architecture_config": without, "trainer_config": {}, "start_config": None}


def test_a_run_is_brought_in(theirs: Path, stores: Stores) -> None:
    """Config, losses and weights of both forms arrive; what moved or has no place is told; the source is untouched."""
    before = {p: p.read_bytes() for p in theirs.rglob("*") if p.is_file()}
    [done] = dacapo.import_upstream(theirs, stores=stores)
    run = stores.configs.retrieve_run_config("theirs")
    assert (run.batch_size, run.learning_rate, run.num_workers, run.repetition) == (3, 0.0002, 5, 0)
    assert run.snapshot_interval is None
    assert [s.loss for s in stores.stats.retrieve_training_stats("theirs").iteration_stats] == [
        0.5 + i for i in range(20)
    ]
    assert stores.weights.iterations("theirs") == [10, 20]
    first, second = (stores.weights.retrieve_weights("theirs", i).model for i in (10, 20))
    assert all(torch.equal(first[name], second[name]) for name in run.model.state_dict())
    stores.weights.load_weights(run, 10)
    assert any("gt_min_reject" in line for line in done.left)
    assert any("optimiser" in line for line in done.left)
    assert {p: p.read_bytes() for p in theirs.rglob("*") if p.is_file()} == before
    [again] = dacapo.import_upstream(theirs, stores=stores)  # what is there stays
    assert again.brought == ["config"]


def test_other_content_is_not_overwritten(theirs: Path, stores: Stores) -> None:
    """A run of that name with other content stays, and so do its weights."""
    mine = RunConfig.from_dict({"name": "theirs", **_minimal()})
    stores.configs.store_run_config(mine)
    with pytest.raises(DuplicateNameError, match="theirs"):
        dacapo.import_upstream(theirs, ["theirs"], stores=stores)
    assert stores.configs.retrieve_run_config("theirs") == mine
    assert stores.weights.iterations("theirs") == []
    with pytest.raises(ConfigError, match="the store itself"):
        dacapo.import_upstream(theirs, stores=Stores(theirs))


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_a_malicious_pickle_runs_nothing(theirs: Path, stores: Stores, tmp_path: Path) -> None:
    """Stats and checkpoints that would run a command are refused, told, and the rest is brought in."""
    mark = tmp_path / "mark"
    for file in ("stats/training_stats/theirs", "theirs/checkpoints/iterations/10"):
        (theirs / file).write_bytes(pickle.dumps([Evil(mark)], protocol=2))
    torch.save({"model": Evil(mark)}, theirs / "theirs/checkpoints/iterations/20")
    with pytest.raises(StoreError, match=r"it names (posix|os).system, which is no plain data"):
        read_plain_pickle(theirs / "stats/training_stats/theirs")
    [done] = dacapo.import_upstream(theirs, stores=stores)
    assert done.brought == ["config"]
    assert sum("cannot read" in line for line in done.left) == 3
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol: int, tmp_path: Path) -> None:
    """Numbers, strings and NumPy scalars, by every binary protocol, come back as Python's own."""
    records = [{"a": np.float32(0.25), "b": np.int64(-3), "c": [[1.5, None, "x", float("inf")]], "d": np.bool_(True)}]
    (tmp_path / "p").write_bytes(pickle.dumps(records, protocol=protocol))
    [found] = read_plain_pickle(tmp_path / "p")
    assert found == {"a": 0.25, "b": -3, "c": [[1.5, None, "x", float("inf")]], "d": True}
    assert type(found["a"]) is float


def test_weights_of_another_network_are_told(theirs: Path, stores: Stores) -> None:
    """Tensors that do not fit are not loaded in part: the first that differs is named."""
    torch.save({"model": {"chain.0.x": torch.zeros(1)}}, theirs / "other.pt")
    [done] = dacapo.import_upstream(theirs, ["theirs"], weights=theirs / "other.pt", stores=stores)
    assert any("another network" in line for line in done.left)
    assert stores.weights.iterations("theirs") == []


def test_the_command_line_brings_in(theirs: Path, tmp_path: Path) -> None:
    """`dacapo import-upstream` prints a run and what became of it."""
    result = CliRunner().invoke(cli, ["--runs", str(tmp_path / "mine"), "import-upstream", str(theirs)])
    assert result.exit_code == 0, result.output
    assert "theirs: config; 20 training stats; weights of iterations 10, 20" in result.output
    assert "learning_rate of the run here" in result.output


def test_upstreams_yaml_is_a_run_as_it_is() -> None:
    """Tags, leading underscores, tuples and None for a default: `RunConfig.from_yaml` reads a file of upstream's head."""
    trainer = {k: v for k, v in UPSTREAM["trainer_config"].items() if k in ("__type__", "name", "min_masked")}  # type: ignore[attr-defined]
    run = RunConfig.from_yaml(yaml.dump(UPSTREAM | {"trainer_config": trainer, "batch_size": 2}))
    assert (run.name, run.repetition, run.batch_size) == ("theirs", 0, 2)
    assert tuple(run.architecture_config.input_shape) == (8, 8, 8)
    assert RunConfig.from_yaml(run.to_yaml()) == run


UPSTREAM_RUN = """
architecture_config:
  __type__: CNNectomeUNetConfig
  _eval_shape_increase: null
  _input_shape: !!python/tuple [40, 40, 40]
  batch_norm: false
  constant_upsample: true
  downsample_factors: [!!python/tuple [2, 2, 2]]
  fmap_inc_factor: 2
  fmaps_in: 1
  fmaps_out: 8
  kernel_size_down: null
  kernel_size_up: null
  name: unet
  num_fmaps: 4
  padding: valid
  upsample_factors: [!!python/tuple [2, 2, 2]]
  use_attention: true
batch_size: 2
datasplit_config:
  __type__: TrainValidateDataSplitConfig
  name: split
  train_configs:
  - __type__: RawGTDatasetConfig
    gt_config:
      __type__: ConcatArrayConfig
      channels: [mito, er]
      default_config: null
      name: gt
      source_array_configs:
        mito: {__type__: BinarizeArrayConfig, background: 0, groupings: [!!python/tuple [mito, [3, 4]]], name: m, source_array_config: &labels {__type__: ZarrArrayConfig, _axes: null, dataset: labels, file_name: gt.zarr, mode: a, name: l, ome_metadata: false, snap_to_grid: null}}
        er: {__type__: ResampledArrayConfig, downsample: !!python/tuple [2, 2, 2], interp_order: false, name: r, source_array_config: *labels, upsample: null}
    mask_config:
      __type__: LogicalOrArrayConfig
      name: mask
      source_array_config: {__type__: MissingAnnotationsMaskConfig, groupings: [!!python/tuple [mito, [3]]], name: mm, source_array_config: *labels}
    name: crop1
    raw_config:
      __type__: IntensitiesArrayConfig
      max: 255.0
      min: 0.0
      name: raw_s
      source_array_config:
        __type__: CropArrayConfig
        name: c
        roi: !!python/tuple [!!python/tuple [0, 0, 0], !!python/tuple [800, 800, 800]]
        source_array_config: {__type__: ZarrArrayConfig, _axes: null, dataset: raw, file_name: raw.n5, mode: a, name: n, ome_metadata: true, snap_to_grid: !!python/tuple [8, 8, 8]}
    sample_points: null
    weight: 2
  validate_configs: []
learning_rate: 0.0001
name: cosem_distance
num_iterations: 200000
num_workers: 4
repetition: 0
snapshot_interval: null
start_config: {__type__: CosemStartConfig, criterion: '1820500', run: setup04}
task_config:
  __type__: HotDistanceTaskConfig
  channels: [mito, er]
  clip_distance: 50.0
  kernel_size: null
  mask_distances: true
  name: task
  scale_factor: 50.0
  tol_distance: 10.0
trainer_config:
  __type__: GunpowderTrainerConfig
  augments:
  - {__type__: ElasticAugmentConfig, augmentation_probability: 0.5, control_point_displacement_sigma: [0.5, 0.5, 0.5], control_point_spacing: [100, 100, 100], rotation_interval: !!python/tuple [0, 1.57], subsample: 8, uniform_3d_rotation: true}
  - {__type__: IntensityAugmentConfig, augmentation_probability: 1.0, clip: true, scale: !!python/tuple [0.25, 1.75], shift: !!python/tuple [-0.5, 0.35]}
  - {__type__: GammaAugmentConfig, augmentation_probability: 1.0, gamma_range: !!python/tuple [0.5, 2.0]}
  - {__type__: IntensityScaleShiftAugmentConfig, scale: 2, shift: -1}
  - {__type__: NoiseAugmentConfig, augmentation_probability: 1.0, kwargs: {}}
  clip_raw: false
  min_masked: 0.15
  name: trainer
  sample_strategy: integral_mask
validation_interval: 5000
"""


def test_a_run_with_everything_that_upstream_has() -> None:
    """A run file of upstream's form with nested arrays, tails, starts and augments loads, and stays equal as ours."""
    from dacapo.experiments.datasplits.datasets.arrays import BinarizeArrayConfig, CropArrayConfig

    run = RunConfig.from_yaml(UPSTREAM_RUN)
    assert tuple(run.architecture_config.input_shape) == (40, 40, 40)
    assert run.architecture_config.scale_factor == (2.0, 2.0, 2.0)
    dataset = run.datasplit_config.train_configs[0]  # type: ignore[union-attr]
    assert isinstance(dataset.gt_config.source_array_configs["mito"], BinarizeArrayConfig)
    assert isinstance(dataset.raw_config.source_array_config, CropArrayConfig)
    assert run.start_config is not None
    assert type(run.trainer_config.augments[0]).__name__ == "ElasticAugmentConfig"  # type: ignore[attr-defined]
    assert RunConfig.from_yaml(run.to_yaml()) == run
    assert run.model.num_out_channels == 4
