"""Datasplits and datasets: what is found where, what is refused, what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dacapo.arrays import create_array
from dacapo.errors import ArrayError, ArrayNotFoundError, ConfigError, GeometryError
from dacapo.experiments.datasplits import DataSplitConfig, SimpleDataSplitConfig, TrainValidateDataSplitConfig
from dacapo.experiments.datasplits.datasets import (
    DatasetConfig,
    RawGTDatasetConfig,
    SimpleDataset,
    SimpleDatasetConfig,
)
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate, Grid, Roi
from tests.conftest import small_experiment, write_volume


def write(path: Path, data: np.ndarray, voxel_size: tuple[float, ...] = (5.24, 4.0, 4.0), offset: tuple = ()) -> None:
    array = create_array(path, shape=data.shape, dtype=data.dtype, grid=Grid(voxel_size, offset))
    array.write(array.roi, data)


def write_dataset(folder: Path, value: int = 51, names: tuple[str, ...] = ("raw", "labels", "mask")) -> None:
    """8-bit raw of one value, labels 1 and a mask that is 0 in slice 0; inside a .zarr, or in .zarr of their own."""
    mask = np.full((4, 4, 4), 7, np.uint8)
    mask[0] = 0
    for name, data in zip(names, (np.full((4, 4, 4), value, np.uint8), np.ones((4, 4, 4), np.uint64), mask)):
        write(folder / name, data)


@pytest.mark.parametrize("container", ["data.zarr", "a.zarr/deep/er"])
@pytest.mark.parametrize("layout", ["raw", "{}/raw", "{}/*/raw"])
def test_simple_split_finds_each_layout(tmp_path: Path, layout: str, container: str) -> None:
    """Each documented layout gives the datasets that lie there, by name, with their voxels."""
    path = tmp_path / container
    values = {"train": [10, 20], "test": [30, 40]}
    for group, pair in values.items():
        for i, value in enumerate(pair):
            if layout == "raw" and (group, i) != ("train", 0):
                continue
            if layout == "{}/raw" and i:
                continue
            write_dataset(path / layout.format(group).replace("*", f"vol{i}").removesuffix("raw"), value)
    split = SimpleDataSplitConfig(path, "simple").datasplit()
    stem = path.stem
    names = {"raw": [[stem], [stem]], "{}/raw": [["train"], ["test"]], "{}/*/raw": [["vol0", "vol1"]] * 2}[layout]
    assert [[d.name for d in s] for s in (split.train, split.validate)] == names
    seen = [[round(float(d.raw.read()[0, 0, 0]) * 255) for d in s] for s in (split.train, split.validate)]
    assert seen == {"raw": [[10], [10]], "{}/raw": [[10], [30]], "{}/*/raw": [[10, 20], [30, 40]]}[layout]
    split.check()


def test_simple_split_of_plain_folders(tmp_path: Path) -> None:
    """Containers in plain folders are datasets too."""
    for group in ("train", "test"):
        write_dataset(tmp_path / group / f"{group}1.zarr")
    split = SimpleDataSplitConfig(path=tmp_path, name="").datasplit_type()
    assert [d.name for d in (*split.train, *split.validate)] == ["train1", "test1"]


def test_simple_split_forwards_its_names(tmp_path: Path) -> None:
    """Names of groups and arrays are those of the datasets that are opened."""
    names = ("em", "seg", "roi")
    for group in ("a", "b"):
        write_dataset(tmp_path / "d.zarr" / group, names=names)
    split = SimpleDataSplitConfig(tmp_path / "d.zarr", "s", "a", "b", *names).datasplit()
    dataset = split.train[0]
    assert dataset.gt.read().all()
    assert dataset.mask.read().sum() == 3 * 16
    assert dataset.read_valid(dataset.gt.roi).sum() == 3 * 16
    assert split.validate[0].name == "b"


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["raw", "train/raw"], "different levels"),
        (["train/raw", "train/v/raw"], "different levels"),
        (["train/raw"], "'test'"),
        (["training/raw", "test/raw"], "contains test, training"),
        ([], "no folders"),
    ],
)
def test_simple_split_says_what_it_does_not_find(tmp_path: Path, folders: list[str], words: str) -> None:
    """Mixed levels and missing groups are one line that says what was looked for and what is there."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises((ConfigError, ArrayNotFoundError), match=words) as caught:
        config = SimpleDataSplitConfig(tmp_path, "s")
        [config.dataset_configs(g) for g in ("train", "test")]
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_simple_configs_survive_yaml(tmp_path: Path) -> None:
    """Both simple configs come back equal from YAML, the same text each time, and are known by short names."""
    split = SimpleDataSplitConfig(tmp_path, "s", raw_name="em")
    dataset = SimpleDatasetConfig("d", tmp_path, 2, "em")
    for config, family in ((split, DataSplitConfig), (dataset, DatasetConfig)):
        text = config.to_yaml()
        again = family.from_yaml(text)
        assert again == config
        assert again.to_yaml() == text
    assert dataset.weight == 2
    assert dataset.raw_name == "em"
    assert DataSplitConfig.from_dict({"type": "simple", "path": "x"}) == SimpleDataSplitConfig(Path("x"))
    with pytest.raises(ConfigError, match="raw_name"):
        SimpleDataSplitConfig(tmp_path, "s", raw_name="")


def test_simple_dataset_is_called_by_its_bare_name(tmp_path: Path) -> None:
    """Paths of validations hold the name of a simple dataset, and ds_name of the others."""
    write_dataset(tmp_path / "d.zarr")
    assert str(SimpleDataset("d", tmp_path / "d.zarr")) == "d"
    other = RawGTDatasetConfig(name="a/b", raw_config=f"{tmp_path}/d.zarr/raw").dataset()
    assert str(other) == "ds_a_b"


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.int32, None), (np.uint64, None)]
)
def test_simple_raw_is_scaled_by_its_type(tmp_path: Path, dtype: type, top: float | None) -> None:
    """uint8 and uint16 become [0, 1], floats stay; other integers have no known range and are refused."""
    data = np.arange(64).reshape(4, 4, 4).astype(dtype)
    write(tmp_path / "d.zarr/raw", data)
    write(tmp_path / "d.zarr/labels", np.ones((4, 4, 4), np.uint8))
    if top is None:
        with pytest.raises(ArrayError, match="d.raw: .* expected uint8, uint16 or float"):
            SimpleDataset("d", tmp_path / "d.zarr")
        return
    dataset = SimpleDataset("d", tmp_path / "d.zarr")
    assert np.allclose(dataset.raw.read(), data / top)
    assert dataset.raw.dtype == np.float32
    assert dataset.mask is None


def test_simple_dataset_says_what_is_missing(tmp_path: Path) -> None:
    """No labels and a mask of floats are refused by name."""
    write(tmp_path / "d.zarr/raw", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ArrayNotFoundError, match="d.gt: .*labels does not exist"):
        SimpleDataset("d", tmp_path / "d.zarr")
    write(tmp_path / "d.zarr/labels", np.ones((4, 4, 4), np.uint8))
    write(tmp_path / "d.zarr/mask", np.ones((4, 4, 4), np.float32))
    with pytest.raises(ArrayError, match="d.mask: .* expected integers"):
        SimpleDataset("d", tmp_path / "d.zarr")


def test_simple_split_trains(tmp_path: Path) -> None:
    """An experiment whose datasplit is a folder trains and validates."""
    import dacapo

    for group, seed in (("train", 0), ("test", 1)):
        (tmp_path / "data" / group).mkdir(parents=True)
        write_volume(tmp_path / "data" / group, seed=seed)
    split = {"type": "simple", "path": f"{tmp_path}/data"}
    run = RunConfig.from_dict(small_experiment(tmp_path, datasplit=split, num_iterations=2, validation_interval=2))
    run = dacapo.train(run)
    assert run.training_stats.trained_until() == 2
    assert [d.name for d in run.validation_scores.datasets] == ["volume1"]


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_weights_are_positive(weight: float) -> None:
    """A weight that no dataset can be sampled with is refused, by its field."""
    for make in (RawGTDatasetConfig, SimpleDatasetConfig):
        place = {"raw_config": "a.zarr/raw"} if make is RawGTDatasetConfig else {"path": "a"}
        with pytest.raises(ConfigError, match="weight"):
            make(name="a", weight=weight, **place)


def test_sample_points_are_voxels_of_the_ground_truth(tmp_path: Path) -> None:
    """World positions become the voxels that they lie in, on a grid of 5.24 nm with an offset too."""
    write(tmp_path / "d.zarr/raw", np.zeros((8, 8, 8), np.uint8))
    write(tmp_path / "d.zarr/gt", np.ones((4, 8, 8), np.uint8), offset=(10.48, 0, 0))
    points = [[10.48, 0, 0], [10.48 + 3 * 5.24, 31.9, 4], [26.1, 3.99, 8]]
    config = RawGTDatasetConfig(
        name="a", raw_config=f"{tmp_path}/d.zarr/raw", gt_config=f"{tmp_path}/d.zarr/gt", sample_points=points
    )
    assert config.dataset().sample_points == [Coordinate(0, 0, 0), Coordinate(3, 7, 1), Coordinate(2, 0, 2)]
    again = DatasetConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.sample_points == tuple(map(tuple, points))


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ([0, 0, 0], r"a.sample_points: \[0.0, 0.0, 0.0\] lies outside the ground truth"),
        ([10.48 + 4 * 5.24, 0, 0], "lies outside"),
        ([10.48, 0], "has 2 numbers, expected 3"),
    ],
)
def test_sample_points_outside_are_refused(tmp_path: Path, point: list[float], words: str) -> None:
    """A point outside the ground truth, or of other axes, is refused with the dataset's name and the point."""
    write(tmp_path / "d.zarr/raw", np.zeros((8, 8, 8), np.uint8))
    write(tmp_path / "d.zarr/gt", np.ones((4, 8, 8), np.uint8), offset=(10.48, 0, 0))
    config = RawGTDatasetConfig(
        name="a", raw_config=f"{tmp_path}/d.zarr/raw", gt_config=f"{tmp_path}/d.zarr/gt", sample_points=[point]
    )
    with pytest.raises(GeometryError, match=words):
        config.dataset()


def test_two_datasets_of_one_name_are_refused() -> None:
    """Datasets are told apart by name."""
    dataset = {"name": "a", "raw": "a.zarr/raw"}
    with pytest.raises(ConfigError, match="'a' is given to two datasets"):
        TrainValidateDataSplitConfig("s", [dataset, dataset])


def test_valid_is_the_mask(tmp_path: Path) -> None:
    """What lies outside the ground truth or has mask 0 is not valid."""
    write_dataset(tmp_path / "d.zarr")
    dataset = SimpleDataset("d", tmp_path / "d.zarr")
    valid = dataset.read_valid(Roi((-1, 0, 0), (6, 4, 4)))
    assert valid[0, :, 0, 0].tolist() == [False, False, True, True, True, False]
