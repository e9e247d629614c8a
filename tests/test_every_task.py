"""Every task trains, validates and segments, in 2D and 3D, padded and not, with and without a mask."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dacapo
from dacapo.arrays import create_array, open_array
from dacapo.errors import DacapoError
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate, Grid
from dacapo.store import Stores

SHAPES = {2: (26, 30), 3: (18, 20, 22)}
VOXEL_SIZE = (5.24, 4.0, 4.0)
DISTANCES = {"clip_distance": 50, "tol_distance": 8, "scale_factor": 20}
TWO = {"channels": ["cell", "wall"], **DISTANCES, "thresholds": [0.1, 0.2]}
CLASSES = ["background", "cell", "wall"]


def offsets(dims: int) -> list[list[int]]:
    return [*np.eye(dims, dtype=int).tolist(), [0] * (dims - 1) + [-3]]


def task_fields(kind: str, dims: int, folder: Path) -> dict[str, Any]:
    """The task as a user would write it."""
    affinities = {"type": "affinities", "neighborhood": offsets(dims), "biases": [0.5], "long_biases": [0.5]}
    affinities |= {"links": [1.0], "min_size": 2}
    fields: dict[str, dict[str, Any]] = {
        "affinities": affinities,
        "lsds": affinities | {"lsds": True, "num_lsd_voxels": 1},
        "distance": {"type": "distance", "channels": ["cell"], **DISTANCES, "thresholds": [-0.1, 0.1]},
        "inner distance": {"type": "inner_distance", "channels": ["cell"], **DISTANCES, "thresholds": [0.1, 0.2]},
        "hot distance": {"type": "hot_distance", **TWO},
        "one-hot": {"type": "one_hot", "classes": CLASSES},
        "dummy": {"type": "dummy", "embedding_dims": 2, "detection_threshold": 0.01},
    }
    fields["pretrained"] = {
        "type": "pretrained",
        "weights": str(folder / f"{dims}.weights"),
        "sub_task": fields["distance"],
    }
    return fields[kind]


GT = {"hot distance": "channels", "one-hot": "classes"}
TASKS = ["affinities", "lsds", "distance", "inner distance", "hot distance", "one-hot", "pretrained", "dummy"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container per number of axes: raw, boxes with background between them, classes, channels, masks; and weights
    of a distance task."""
    folder = tmp_path_factory.mktemp("data")
    for dims, shape in SHAPES.items():
        rng = np.random.default_rng(dims)
        index = np.indices(shape)
        labels = np.ravel_multi_index(tuple(index // 8), (4,) * dims) + 1
        wall = (index % 8 == 0).any(0)
        labels[wall] = 0
        classes = np.where(labels == 0, 0, 1 + labels % 2)
        raw = rng.integers(0, 99, shape) + 100 * (labels > 0)
        channels = np.stack([labels > 0, labels % 2 == 1])
        mask = np.ones(shape, bool)
        mask[..., : shape[-1] // 2] = False
        mask[(slice(8, None),)] = True
        arrays = {
            "raw": raw.astype(np.uint8),
            "raw_channels": np.stack([raw, 255 - raw]).astype(np.uint8),
            "labels": labels.astype(np.uint32),
            "classes": classes.astype(np.uint8),
            "partly": np.where(mask, classes, 255).astype(np.uint8),
            "channels": channels.astype(np.uint8),
            "one_hot": np.stack([classes == i for i in range(3)]).astype(np.uint8),
            "mask": mask.astype(np.uint8),
            "mask_channels": np.stack([mask, ~mask]).astype(np.uint8),
        }
        grid = Grid(VOXEL_SIZE[-dims:])
        for name, values in arrays.items():
            names = ("c^",) * (values.ndim - dims) + grid.axes
            array = create_array(
                f"{folder}/{dims}.zarr/{name}", shape=values.shape, dtype=values.dtype, grid=grid, axis_names=names
            )
            array.write(array.roi, values)
    for dims in SHAPES:
        run = experiment("distance", dims, "same", folder, name=f"made{dims}")
        stores = Stores(folder / "pretraining")
        stores.weights.store("made", dims, run.weights())
        (folder / f"{dims}.weights").write_bytes(stores.weights.path_of("made", dims).read_bytes())
    return folder


def experiment(kind: str, dims: int, padding: str, folder: Path, **changes: Any) -> RunConfig:
    """A run of two iterations on a tiny network; `changes` are fields of the run, and of its dataset."""
    volume = folder / f"{dims}.zarr"
    dataset: dict[str, Any] = {"name": "a", "raw": f"{volume}/raw", "gt": f"{volume}/{GT.get(kind, 'labels')}"}
    for part in ("raw", "gt", "mask"):
        if part in changes:
            dataset[part] = f"{volume}/{changes.pop(part)}"
    if "unlabelled" in changes:
        dataset["unlabelled"] = changes.pop("unlabelled")
    fields: dict[str, Any] = {
        "name": "r",
        "num_iterations": 2,
        "validation_interval": 2,
        "task": task_fields(kind, dims, folder) | changes.pop("task", {}),
        "datasplit": {"train": [dataset], "validate": [dataset]},
        "architecture": {
            "type": "cnnectome_unet",
            "input_shape": [12 if padding == "same" else 20] * dims,
            "fmaps_in": changes.pop("fmaps_in", 1),
            "fmaps_out": 3,
            "num_fmaps": 2,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2] * dims],
            "padding": padding,
            **changes.pop("architecture", {}),
        },
    }
    return RunConfig.from_dict(fields | changes)


def trained(run: RunConfig, folder: Path) -> Stores:
    """Two iterations and a validation; losses are finite, and there is a score for everything."""
    stores = Stores(folder / "runs")
    dacapo.train(run, stores=stores)
    assert np.isfinite([s.loss for s in run.training_stats.iteration_stats]).all()
    scores = run.validation_scores.to_xarray()
    parameters, criteria = list(run.task.parameters), run.task.evaluation_scores.criteria
    assert scores.shape == (1, len(run.datasplit.validate), len(parameters), len(criteria))
    certain = [c for c in criteria if c.rpartition("__")[2] in ("voi_split", "dice", "jaccard", "frizz_level")]
    assert certain
    assert np.isfinite(scores.sel(criteria=certain)).all()
    for criterion in certain:
        low, high = run.task.evaluator.bounds(criterion)
        assert ((scores.sel(criteria=criterion) >= low) & (scores.sel(criteria=criterion) <= high)).all()
    return stores


def matrix() -> list[Any]:
    every = itertools.product(TASKS, (2, 3), ("same", "valid"), (None, "mask"))
    return [pytest.param(*one, id="-".join(str(x or "all") for x in one)) for one in every]


@pytest.mark.parametrize(("kind", "dims", "padding", "mask"), matrix())
def test_every_task_trains_and_validates(
    data: Path, tmp_path: Path, kind: str, dims: int, padding: str, mask: str | None
) -> None:
    """Two iterations and a validation leave finite losses and scores within their bounds."""
    if kind == "pretrained" and padding == "valid":
        padding = "same"  # its weights fit both, but one file will do
    trained(experiment(kind, dims, padding, data, **({"mask": mask} if mask else {})), tmp_path)


VARIANTS: dict[str, dict[str, Any]] = {
    "raw with channels": {"kind": "affinities", "raw": "raw_channels", "fmaps_in": 2},
    "a mask per channel": {"kind": "hot distance", "mask": "mask_channels"},
    "classes of one label image": {"kind": "hot distance", "gt": "labels"},
    "distances of channels": {"kind": "distance", "gt": "channels", "mask": "mask_channels", "task": TWO},
    "inner distances of channels": {"kind": "inner distance", "gt": "channels", "task": TWO},
    "a large head": {"kind": "hot distance", "task": {"kernel_size": 3}},
    "a large head of classes": {"kind": "one-hot", "task": {"kernel_size": 3}},
    "an unlabelled id": {"kind": "one-hot", "gt": "partly", "unlabelled": 255},
    "unlabelled background": {"kind": "affinities", "unlabelled": 0},
    "one-hot channels": {"kind": "one-hot", "gt": "one_hot"},
    "masked distances": {"kind": "inner distance", "task": {"mask_distances": True}, "mask": "mask"},
}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_special_cases_train_and_validate(data: Path, tmp_path: Path, variant: str, padding: str) -> None:
    """Channels of raw, ground truth and mask, unlabelled ids and large heads, on anisotropic voxels."""
    fields = dict(VARIANTS[variant])
    trained(experiment(fields.pop("kind"), 3, padding, data, **fields), tmp_path)


def test_two_datasets(data: Path, tmp_path: Path) -> None:
    """Datasets of which one has a mask train one network, and each gets its scores."""
    run = experiment("distance", 3, "same", data)
    one = run.to_dict()["datasplit_config"]["train_configs"][0]
    other = one | {"name": "b", "mask_config": f"{data}/3.zarr/mask"}
    split = {"train": [one, other], "validate": [one, other]}
    trained(RunConfig.from_dict(run.to_dict() | {"datasplit_config": split}), tmp_path)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", TASKS)
def test_what_is_validated_is_what_is_applied(data: Path, tmp_path: Path, kind: str, dims: int) -> None:
    """Applied to the validation volume in one block, every parameter set has the very scores that validation stored."""
    run = experiment(kind, dims, "same", data)
    stores = trained(run, tmp_path)
    volume = data / f"{dims}.zarr"
    parameters = list(run.task.parameters)[-1]
    done = dacapo.apply(
        run, f"{volume}/raw", tmp_path / "o.zarr", iteration=2, parameters=parameters, workers=0, stores=stores,
        block_shape=Coordinate((32,) * dims),
    )  # fmt: skip
    found = open_array(done.segmentation)
    assert found.spatial_shape == SHAPES[dims]
    channels, dtype = run.task.post_processor.output(len(run.task.channels))
    assert (found.channel_dims, found.dtype) == (0 if channels is None else 1, dtype)
    prediction = open_array(done.prediction)
    assert prediction.attributes["channels"] == run.task.channels
    assert prediction.attributes["value_range"] == list(run.task.predictor.value_range)
    if kind == "dummy":
        return
    gt = f"{volume}/{GT.get(kind, 'labels')}"
    how: dict[str, Any] = {"classes": run.task.classes} if run.task.classes else {}
    if kind != "one-hot" and run.task.classes:
        how |= {"clip_distance": 50, "tol_distance": 8}
    scores = dacapo.evaluate(done.segmentation, gt, **how)
    stored = run.validation_scores.scores[0].scores[0][-1]
    np.testing.assert_allclose(scores.values(), stored, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("affinities", {"gt": "channels"}, r"a: gt has 2 channels, the affinities task takes 1"),
        ("distance", {"gt": "channels"}, r"a: gt has 2 channels, the distance task takes 1"),
        ("one-hot", {"gt": "channels"}, r"a: gt has 2 channels, the one hot task takes 1 or 3 \(background, cell, wall"),
        ("one-hot", {"gt": "partly"}, r"a: gt does not fit the one hot task: ids 255 are none of the 3 classes"),
        ("one-hot", {"gt": "channels", "task": {"classes": ["a", "b"]}}, r"a: gt does not .* a voxel is a and b at once"),
    ],
)
def test_ground_truth_that_does_not_fit_is_named(data: Path, kind: str, fields: dict[str, Any], said: str) -> None:
    """Before the first iteration, with dataset, task, and what is wrong."""
    with pytest.raises(DacapoError, match=said):
        experiment(kind, 3, "same", data, **fields).check()
