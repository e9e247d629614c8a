"""Where crops are taken: what each strategy promises, counted over many draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import small_experiment
from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError
from dacapo.experiments.architectures import DummyArchitectureConfig
from dacapo.experiments.datasplits import DummyDataSplitConfig
from dacapo.experiments.datasplits.datasets import Dataset
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.tasks import DummyTaskConfig
from dacapo.experiments.trainers import DummyTrainerConfig, GunpowderTrainerConfig, Trainer
from dacapo.experiments.trainers.locations import BLOCK, Locations, VoxelIndex
from dacapo.experiments.trainers.sampling import batches
from dacapo.geometry import Coordinate, Roi
from dacapo.store import Stores
from dacapo.train import train

SIZE = (5.24, 4.0, 4.0)
BENDING = {"type": "elastic", "control_point_spacing": [9, 9], "control_point_displacement_sigma": [1, 1]}


def dataset(labels: np.ndarray, mask: np.ndarray | None = None, **how: Any) -> Dataset:
    spatial = labels.shape[-3:] if labels.ndim > 2 else labels.shape
    size = SIZE[-len(spatial) :]
    names = ("c^",) * (labels.ndim - len(spatial)) + ("z", "y", "x")[-len(spatial) :]
    raw = from_numpy(np.zeros(spatial, np.float32), size)
    masked = None if mask is None else from_numpy(mask.astype(np.uint8), size)
    return Dataset("d", raw, from_numpy(labels, size, axis_names=names), masked, **how)


def locations(data: Dataset, shape: int = 5, **how: Any) -> Locations:
    assert data.gt is not None
    box = Coordinate((shape,) * data.gt.spatial_dims)
    return Locations(data, GunpowderTrainerConfig(**how), box)


def drawn(index: VoxelIndex, times: int) -> list[tuple[int, ...]]:
    return [tuple(index.draw(np.random.default_rng(i))) for i in range(times)]


@pytest.mark.parametrize("shape", [(9, 70, 66), (130, 70)])
def test_annotated_voxels_are_drawn_alike(shape: tuple[int, ...]) -> None:
    """Across blocks, each annotated voxel is as likely as any other, and no other voxel is ever drawn."""
    mask = np.random.default_rng(0).random(shape) < 0.001
    index = VoxelIndex(dataset(np.ones(shape, np.uint8), mask), "annotated")
    found = drawn(index, 40 * mask.sum())
    counts = {voxel: found.count(voxel) for voxel in set(found)}
    assert set(counts) == {tuple(int(v) for v in p) for p in np.argwhere(mask)}
    assert min(counts.values()) > 15
    assert max(counts.values()) < 75


@pytest.mark.parametrize("channels", [False, True])
def test_rare_classes_are_drawn_as_often_as_frequent_ones(channels: bool) -> None:
    """With ids or with a channel each; masked voxels are never drawn."""
    labels = np.zeros((8, 80, 70), np.uint8)
    labels[2, 3, 4:6] = 1
    labels[:, 40:, :] = 2
    mask = np.ones(labels.shape, bool)
    mask[:, 60:] = False
    given = np.stack([labels == i for i in range(3)]).astype(np.uint8) if channels else labels
    index = VoxelIndex(dataset(given, mask), "classes")
    assert index.keys == [0, 1, 2]
    found = drawn(index, 600)
    assert all(mask[v] for v in found)
    shares = np.bincount([labels[v] for v in found], minlength=3) / len(found)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.07)


def test_small_objects_are_drawn_as_often_as_large_ones() -> None:
    """Each object is as likely, whatever its size and id; background and unlabelled voxels are never drawn."""
    labels = np.zeros((6, 70, 70), np.uint64)
    labels[0, 0, 0], labels[:, 30:, :], labels[:, :20, 68:] = 2**40, 7, 9
    index = VoxelIndex(dataset(labels, unlabelled=9), "instances")
    assert index.keys == [7, 2**40]
    found = [int(labels[v]) for v in drawn(index, 300)]
    assert 0.4 < found.count(7) / len(found) < 0.6


def test_balanced_crops_hold_what_they_are_taken_for() -> None:
    """The voxel that a crop is taken for lies in it, at borders too; half of the crops have the only voxel of a class."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[19, 0, 19] = 1
    place = locations(dataset(labels), balance="classes")
    crops = [place.draw(np.random.default_rng(i))[0] for i in range(200)]
    assert all(place.covered.contains(crop) for crop in crops)
    assert 0.4 < np.mean([crop.contains(Coordinate(19, 0, 19)) for crop in crops]) < 0.7


@pytest.mark.parametrize("strategy", [None, "reject", "integral_mask"])
def test_sparse_annotations_are_found(strategy: str | None) -> None:
    """A thousandth of the volume is annotated: every crop has its share all the same."""
    mask = np.zeros((40, 100, 100), bool)
    mask[30:34, 70:75, 10:16] = True
    place = locations(dataset(np.ones(mask.shape, np.uint8), mask), sample_strategy=strategy, min_masked=0.3)
    for i in range(20):
        box, share = place.draw(np.random.default_rng(i))
        assert share >= 0.3
        assert mask[tuple(slice(b, e) for b, e in zip(box.begin, box.end, strict=True))].mean() == pytest.approx(share)


def test_a_share_that_few_crops_have_is_found() -> None:
    """Where hardly a crop has `min_masked`, crops are moved until they do."""
    mask = np.zeros((40, 40, 40), bool)
    mask[11:17, 20:26, 7:13] = True
    place = locations(dataset(np.ones(mask.shape, np.uint8), mask), shape=6, min_masked=0.95)
    assert {place.draw(np.random.default_rng(i))[1] for i in range(10)} == {1.0}


def test_what_raw_does_not_show_is_not_learned() -> None:
    """Ground truth beyond raw is in no crop, also where the crop is larger than what is left."""
    raw, gt = np.zeros((8, 12, 12), np.float32), np.ones((12, 12, 12), np.uint8)
    data = Dataset("d", from_numpy(raw, SIZE), from_numpy(gt, SIZE))
    samples = GunpowderTrainerConfig().samples(None, Coordinate(10, 6, 6), Coordinate(10, 6, 6), None, opened=[data])
    assert samples[0]["mask"][0].any(axis=(1, 2)).sum() == 8


def test_elastic_of_other_axes_is_refused() -> None:
    """An elastic augment for three axes on a 2D dataset is named before any sample is made."""
    augment = {"type": "elastic", "control_point_spacing": [9] * 3, "control_point_displacement_sigma": [1] * 3}
    with pytest.raises(
        ConfigError, match=r"d: trainer.augments\[0\].control_point_spacing has 3 numbers, raw has 2 axes"
    ):
        locations(dataset(np.ones((8, 8), np.uint8)), augments=[augment])


def test_too_little_annotation_is_said_before_training(tmp_path: Path) -> None:
    """Where no crop can have `min_masked`, the best share that was found is named, before the first iteration."""
    mask = np.zeros((20, 20, 20), bool)
    mask[4, 4, 4] = True
    place = locations(dataset(np.ones(mask.shape, np.uint8), mask), min_masked=0.1)
    with pytest.raises(ConfigError, match=r"d: trainer.min_masked is 0.1, but the best .* share of 0.008"):
        place.check()
    fields = small_experiment(tmp_path, trainer={"sample_strategy": "sample_points"})
    with pytest.raises(ConfigError, match="a: trainer.sample_strategy is 'sample_points', but"):
        train(RunConfig.from_dict(fields), stores=Stores(tmp_path / "runs"))


def test_points_are_the_centres_of_crops() -> None:
    """Crops around sample points have them in the middle."""
    points = [Coordinate(6, 7, 8), Coordinate(3, 3, 3)]
    place = locations(dataset(np.ones((12, 12, 12), np.uint8), sample_points=points), sample_strategy="sample_points")
    found = {tuple(place.draw(np.random.default_rng(i))[0].begin) for i in range(20)}
    assert found == {(4, 5, 6), (1, 1, 1)}


def test_datasets_are_sampled_by_their_weights() -> None:
    """A dataset of weight 3 gives three times the samples of one of weight 1."""
    sets = [
        Dataset(
            name, from_numpy(np.full((8, 8), value, np.float32), (4.0, 4.0)),
            from_numpy(np.ones((8, 8), np.uint8), (4.0, 4.0)), weight=weight,
        )
        for name, value, weight in (("a", 0.0, 1), ("b", 1.0, 3))
    ]  # fmt: skip
    samples = GunpowderTrainerConfig().samples(None, Coordinate(4, 4), Coordinate(4, 4), None, opened=sets)
    assert 0.68 < np.mean([samples[i]["raw"].mean() for i in range(400)]) < 0.82


@pytest.mark.parametrize("how", [{"balance": "instances"}, {"sample_strategy": "integral_mask"}])
def test_workers_draw_the_same_crops(tmp_path: Path, how: dict[str, str]) -> None:
    """Each worker counts the ground truth itself, and the batches are those without workers."""
    run = RunConfig.from_dict(small_experiment(tmp_path, trainer=how))
    alone, together = (
        list(batches(run.samples(), 2, 0, 3, workers)) for workers in (0, 2)
    )  # fmt: skip
    for a, b in zip(alone, together, strict=True):
        assert all((a[k] == b[k]).all() for k in a)


def test_the_index_reads_blocks_not_volumes() -> None:
    """A volume is counted in blocks: nothing larger than a block is ever read."""
    labels = np.ones((BLOCK + 3, BLOCK + 1, 5), np.uint8)
    data = dataset(labels)
    largest, read = [0], data.gt.read  # type: ignore[union-attr]

    def watched(roi: Roi | None = None, pad: str | None = None) -> np.ndarray:
        voxels = read(roi, pad)
        largest[0] = max(largest[0], voxels.size)
        return voxels

    data.gt.read = watched  # type: ignore[union-attr, method-assign]
    assert VoxelIndex(data, "annotated").draw(np.random.default_rng(0)) is not None
    assert largest[0] <= BLOCK**3


def test_the_dummy_trainer_trains_without_ground_truth(stores: Stores) -> None:
    """Endless identical batches of the first dataset's raw train the dummy task; workers give the same."""
    run = RunConfig(
        name="dummy", task_config=DummyTaskConfig("t", 4, 0.5), trainer_config=DummyTrainerConfig("d", True),
        architecture_config=DummyArchitectureConfig("a", 1, 12), datasplit_config=DummyDataSplitConfig(name="s"),
        num_iterations=2, num_workers=1,
    )  # fmt: skip
    train(run, stores=stores)
    assert run.training_stats.trained_until() == 2
    a, b = run.data_loader(0, 2)
    assert all((a[k] == b[k]).all() for k in a)
    assert a["raw"].shape == (1, 1, 40, 20, 20)
    assert a["target"].shape == (1, 4, 38, 18, 18)
    assert Trainer(run.trainer_config) is run.trainer_config


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sample_strategy": "somewhere"}, "sample_strategy"),
        ({"balance": "sizes"}, "balance"),
        ({"balance": "classes", "sample_strategy": "reject"}, "balance: .* give one"),
        ({"min_masked": 1.5}, "min_masked"),
        ({"augments": [BENDING, BENDING]}, "only one may bend"),
        ({"augments": [{"type": "noise", "kwargs": {"mode": "speckle"}}]}, "only gaussian noise"),
    ],
)  # fmt: skip
def test_impossible_sampling_is_refused(how: dict[str, Any], said: str) -> None:
    """Wrong values are named when the config is made."""
    with pytest.raises(ConfigError, match=said):
        GunpowderTrainerConfig.from_dict(how)


def test_many_ids_are_no_classes() -> None:
    """Instances are not taken for classes."""
    labels = np.arange(20 * 20, dtype=np.uint32).reshape(20, 20)
    with pytest.raises(ConfigError, match="use balance: instances"):
        VoxelIndex(dataset(labels), "classes")
