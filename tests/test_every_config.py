"""Every config there is, written and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import dacapo.compute_context
import dacapo.experiments.run_config  # noqa: F401  (registers every family)
from conftest import small_experiment
from dacapo.compute_context import ComputeContext
from dacapo.config import Config, family
from dacapo.errors import ConfigError
from dacapo.experiments.architectures import ArchitectureConfig
from dacapo.experiments.datasplits import DataSplitConfig
from dacapo.experiments.datasplits.datasets import DatasetConfig
from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.starts import InitialWeightsConfig
from dacapo.experiments.tasks import TaskConfig
from dacapo.experiments.tasks.post_processors import PostProcessorParameters
from dacapo.experiments.trainers import AugmentConfig, TrainerConfig
from dacapo.train import load

RAW, LABELS = "v.zarr/raw", "v.zarr/labels"
UNET = {
    "input_shape": [16, 20, 20], "fmaps_in": 1, "fmaps_out": 4, "num_fmaps": 4, "fmap_inc_factor": 2,
    "downsample_factors": [[1, 2, 2]], "upsample_factors": [[2, 1, 1]], "padding": "same", "use_attention": True,
    "eval_shape_increase": [0, 4, 4], "kernel_size_down": [[[1, 3, 3]], [[3, 3, 3]]], "kernel_size_up": [[[3, 3, 3]]],
}  # fmt: skip
DISTANCE = {"channels": ["a", "b"], "clip_distance": 5.24, "tol_distance": 0.1, "scale_factor": 1 / 3}
EXAMPLES: dict[type[Config], dict[str, dict[str, object]]] = {
    ArchitectureConfig: {
        "cnnectome_unet": UNET,
        "dummy_architecture": {"num_in_channels": 1, "num_out_channels": 2},
        "model_zoo": {"model_id": "net.zip", "trainable_layers": "head"},
        "residual_encoder_unet": {"input_shape": [16, 16], "fmaps_in": 1, "fmaps_out": 4, "downsample_factors": [[2, 2]]},
        "wrapped": {"module": "net.pt", "fmaps_in": 1, "fmaps_out": 2, "input_shape": [8, 8], "scale": [2, 1]},
    },
    ArrayConfig: {
        "binarize": {"source_array": LABELS, "groupings": [["a", [1, 2]], ["b", []]], "background": 0},
        "concat": {"channels": ["b", "a"], "source_array_configs": {"a": LABELS}, "default_config": LABELS},
        "constant": {"source_array": LABELS, "constant": 3},
        "crop": {"source_array": RAW, "roi": [[5.24, 0.1, 0], [524.0, 1e-7, 1 / 3]]},
        "dvid": {"source": ["http://host:8000", "abc", "grayscale"]},
        "dummy": {},
        "hdf5": {"file_name": "f.h5", "dataset": "raw", "voxel_size": [5.24, 4, 4]},
        "intensities": {"source_array": RAW, "min": 0.1, "max": 0.3},
        "logical_or": {"source_array": LABELS},
        "merge_instances": {"source_array_configs": [LABELS, LABELS]},
        "missing_annotations_mask": {"source_array": LABELS, "groupings": [["a", [1]]]},
        "ones": {"source_array": LABELS},
        "resampled": {"source_array": LABELS, "upsample": [2, 1, 1], "downsample": [1, 2, 2], "interp_order": False},
        "sum": {"source_array_configs": [RAW, RAW]},
        "tiff": {"file_name": "f.tif", "voxel_size": [5.24, 4, 4], "units": ["nm"] * 3},
        "zarr": {"file_name": "v.n5", "dataset": "em", "voxel_size": [0.1, 0.2, 0.3], "axes": ["z", "y", "x"]},
    },
    DatasetConfig: {
        "dummy": {"weight": 2},
        "raw_gt": {"raw": RAW, "gt": LABELS, "mask": LABELS, "sample_points": [[5.24, 0.1, 1 / 3]], "unlabelled": 0},
        "simple": {"name": "s", "path": "folder", "gt_name": "gt"},
    },
    DataSplitConfig: {
        "dummy": {},
        "simple": {"path": "folder", "raw_name": "em"},
        "train_validate": {"train": [{"raw": RAW, "gt": LABELS, "weight": 0.1}], "validate": [{"raw": RAW}]},
    },
    InitialWeightsConfig: {
        "start": {"run": "a", "criterion": "voi"},
        "checkpoint_start": {"path": "w", "channels": ["a"]},
        "cosem_start": {},
    },
    PostProcessorParameters: {
        "argmax": {"id": 0},
        "dummy": {"id": 1, "min_size": 3},
        "threshold": {"id": 2, "threshold": 0.1},
        "watershed": {"id": 3, "bias": 0.1, "bias_long": 1 / 3, "context": [8, 8]},
    },
    TaskConfig: {
        "affinities": {"neighborhood": [[1, 0, 0], [0, -3, 0]], "lsds": True, "biases": [0.1, 1 / 3]},
        "distance": DISTANCE,
        "dummy": {"embedding_dims": 2, "detection_threshold": 0.1},
        "hot_distance": DISTANCE | {"kernel_size": 3},
        "inner_distance": DISTANCE,
        "one_hot": {"classes": ["bg", "a"], "kernel_size": 3},
        "pretrained": {"sub_task": {"type": "distance"} | DISTANCE, "weights": "w"},
    },
    AugmentConfig: {
        "elastic": {"control_point_spacing": [8, 8], "control_point_displacement_sigma": [0.1, 5.24], "rotation_interval": [0, 1 / 3]},
        "gamma": {"gamma_range": [0.5, 1 / 0.7]},
        "intensity": {"scale": [0.9, 1.1], "shift": [-0.1, 0.1]},
        "intensity_scale_shift": {"scale": 0.1, "shift": 1e-9},
        "noise": {"kwargs": {"var": 0.01}},
        "simple": {"augmentation_probability": 1 / 3},
    },
    TrainerConfig: {
        "dummy": {"dummy_attr": True},
        "gunpowder": {"augments": [{"type": "simple"}], "balance": "instances", "min_masked": 0.1},
    },
    ComputeContext: {"local_torch": {"device": "cuda:1"}, "bsub": {"queue": "gpu"}},
}  # fmt: skip
ALL = [(cls, kind) for cls, kinds in EXAMPLES.items() for kind in kinds]


def test_no_config_is_forgotten() -> None:
    """The examples below are of every class that a file can name."""
    for cls, kinds in EXAMPLES.items():
        made = {type(cls.from_dict({"type": kind} | fields)) for kind, fields in kinds.items()}
        assert made == {c for c in family(cls) if c.__module__.startswith("dacapo.")}


@pytest.mark.parametrize(("cls", "kind"), ALL, ids=[f"{c.__name__}-{k}" for c, k in ALL])
def test_every_config_survives_yaml(cls: type[Config], kind: str) -> None:
    """Written and read it is equal, and written again the same, bit for bit; as a part of its family too."""
    config = cls.from_dict({"type": kind} | EXAMPLES[cls][kind])
    text = config.to_yaml()
    again = cls.from_yaml(text)
    assert type(again) is type(config)
    assert again == config
    assert again.to_yaml() == text
    assert type(config).from_yaml(text) == config
    assert "!!" not in text


@pytest.mark.parametrize(("cls", "kind"), ALL, ids=[f"{c.__name__}-{k}" for c, k in ALL])
def test_every_config_refuses_unknown_fields(cls: type[Config], kind: str) -> None:
    """A field that is not there is named, whatever the class."""
    with pytest.raises(ConfigError, match="unknown field 'no_such_field'"):
        cls.from_dict({"type": kind, "no_such_field": 1} | EXAMPLES[cls][kind])


def test_a_datasplit_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    """`datasplit: split.yaml` is read from beside the experiment; its paths are relative to itself."""
    fields = small_experiment(tmp_path)
    (tmp_path / "splits").mkdir()
    split = yaml.safe_load(yaml.safe_dump(fields["datasplit"]).replace(f"{tmp_path}/", "../"))
    (tmp_path / "splits/split.yaml").write_text(yaml.safe_dump(split))
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(fields | {"datasplit": "splits/split.yaml"}))
    run = load(file)
    assert [d.name for d in run.datasplit.validate] == ["b"]
    run.check()
    file.write_text(yaml.safe_dump(fields | {"datasplit": "none.yaml"}))
    with pytest.raises(ConfigError, match=r"datasplit: .*none.yaml: no such file"):
        load(file)
    assert isinstance(run, RunConfig)
