"""Training samples: a function of (seed, index), aligned, and only where something is annotated."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError, DataError
from dacapo.experiments.datasplits.datasets import Dataset
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.tasks.predictors import AffinitiesPredictor
from dacapo.experiments.trainers import (
    ElasticAugmentConfig,
    GammaAugmentConfig,
    GunpowderTrainerConfig,
    IntensityAugmentConfig,
    NoiseAugmentConfig,
    SimpleAugmentConfig,
)
from dacapo.experiments.trainers.sampling import Samples, batches
from dacapo.geometry import Coordinate

ELASTIC = ElasticAugmentConfig(
    control_point_spacing=(8, 8, 8), control_point_displacement_sigma=(4, 4, 4), rotation_interval=(0, 1.5)
)
NEIGHBORHOOD = [[1, 0, 0], [0, 1, 0], [0, 0, -3]]


def smooth_labels(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of 6 voxels, ids beyond what float32 can tell apart."""
    index = np.ravel_multi_index(tuple(np.indices(shape) // 6), tuple(-(-n // 6) for n in shape))
    return index.astype(np.uint64) + np.uint64(2**40)


def samples_of(
    *augments: object, labels: np.ndarray | None = None, mask: np.ndarray | None = None, shape: int = 12, **how: object
) -> Samples:
    """Samples of a dataset whose raw is a function of its labels, so that alignment can be seen."""
    labels = smooth_labels((24, 24, 24)) if labels is None else labels
    raw = (labels % np.uint64(97)).astype(np.float32) / 97
    size = (5.24, 4.0, 4.0)[-labels.ndim :]
    dataset = Dataset(
        "d", from_numpy(raw, size), from_numpy(labels, size), None if mask is None else from_numpy(mask.astype(np.uint8), size),
        unlabelled=how.pop("unlabelled", None),  # type: ignore[arg-type]
    )  # fmt: skip
    dims = labels.ndim
    box = Coordinate((shape,) * dims)
    trainer = GunpowderTrainerConfig(augments=augments, **how)
    predictor = AffinitiesPredictor([n[-dims:] for n in NEIGHBORHOOD if any(n[-dims:])])
    return trainer.samples(None, box, box, predictor, seed=3, opened=[dataset])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("augments", [(), (SimpleAugmentConfig(),), (ELASTIC,), (SimpleAugmentConfig(), ELASTIC)])
def test_raw_and_labels_stay_together(dims: int, augments: tuple) -> None:
    """Whatever the augmentation, raw is still that function of the labels away from their borders, and ids are exact."""
    bent = ELASTIC in augments
    if dims == 2:
        augments = tuple(
            ElasticAugmentConfig(control_point_spacing=(8, 8), control_point_displacement_sigma=(4, 4), rotation_interval=(0, 1.5))
            if isinstance(a, ElasticAugmentConfig)
            else a
            for a in augments
        )  # fmt: skip
    samples = samples_of(*augments, labels=smooth_labels((24,) * dims))
    for index in range(4):
        sample = samples[index]
        expected = (sample["gt"] % 97).astype(np.float32) / 97
        # Linear interpolation mixes labels at borders; everywhere else both must agree.
        agree = np.isclose(sample["raw"], expected, atol=1e-4)
        inside = sample["mask"] > 0
        assert agree[inside].mean() > (0.35 if bent else 0.999)
        assert set(np.unique(sample["gt"][inside])) <= set(
            smooth_labels((24,) * dims).ravel().astype(np.int64).tolist()
        )


def test_targets_are_those_of_the_whole_volume() -> None:
    """Without augmentation a crop's target and weight equal the whole volume's there: borders of the crop do not show."""
    samples = samples_of()
    samples.predictor.balance = False  # type: ignore[union-attr]
    place = samples.places[0]
    gt = place.gt.read()
    whole, weight = samples.predictor.make_target(gt, np.ones((1, *gt.shape[-3:]), bool), place.gt.grid)  # type: ignore[union-attr]
    for index in range(3):
        sample = samples[index]
        rng = np.random.Generator(np.random.Philox(key=[3, index]))
        rng.choice(1, p=[1.0])
        box = place._locate(rng)
        part = tuple(slice(b, e) for b, e in zip(box.begin, box.end, strict=True))
        np.testing.assert_array_equal(sample["target"], whole[(slice(None), *part)])
        np.testing.assert_array_equal(sample["weight"], weight[(slice(None), *part)])


def test_samples_are_a_function_of_seed_and_index() -> None:
    """The same index gives the same sample, in any order; another index or seed another one."""
    all_augments = (
        SimpleAugmentConfig(), ELASTIC, IntensityAugmentConfig(scale=(0.8, 1.2), shift=(-0.1, 0.1)), GammaAugmentConfig(),
        NoiseAugmentConfig(),
    )  # fmt: skip
    a, b = samples_of(*all_augments), samples_of(*all_augments)
    last = b[5]
    first = [a[i] for i in range(6)]
    for key in last:
        np.testing.assert_array_equal(first[5][key], last[key])
    assert (first[4]["raw"] != first[5]["raw"]).any()


@pytest.mark.parametrize(
    "augment",
    [
        SimpleAugmentConfig(),
        ELASTIC,
        IntensityAugmentConfig(scale=(0.5, 0.6), shift=(0.1, 0.2)),
        GammaAugmentConfig(gamma_range=(1.5, 2.0)),
        NoiseAugmentConfig(sigma=(0.05, 0.05)),
    ],
)
def test_every_augmentation_acts(augment: object) -> None:
    """Each augmentation changes raw, and none changes it with probability 0."""
    plain = [samples_of()[i]["raw"] for i in range(4)]
    changed = [samples_of(augment)[i]["raw"] for i in range(4)]
    assert any((p != c).any() for p, c in zip(plain, changed, strict=True))
    never = augment.model_copy(update={"augmentation_probability": 0.0})  # type: ignore[attr-defined]
    untouched = [samples_of(never)[i]["raw"] for i in range(4)]
    assert all((p == c).all() for p, c in zip(plain, untouched, strict=True))


def test_batches_are_the_same_for_any_start() -> None:
    """Batch i is the same whether the loader began at 0 or at i."""
    samples = samples_of(SimpleAugmentConfig())
    whole = list(batches(samples, 2, 0, 4, 0))
    late = list(batches(samples, 2, 2, 4, 0))
    for a, b in zip(whole[2:], late, strict=True):
        assert all((a[k] == b[k]).all() for k in a)


def test_masked_voxels_have_no_weight_and_crops_are_annotated() -> None:
    """Mask 0 is weight 0 for every pair that touches it, and crops hold at least `min_masked` annotated voxels."""
    mask = np.zeros((24, 24, 24), bool)
    mask[:, :14, :14] = True
    samples = samples_of(mask=mask, min_masked=0.5)
    for index in range(6):
        sample = samples[index]
        assert sample["mask"].mean() >= 0.5
        assert not sample["weight"][:, sample["mask"][0] == 0].any()


def test_unlabelled_is_not_background() -> None:
    """Voxels with the unlabelled id weigh nothing; without it, they are background that weighs."""
    labels = smooth_labels((24, 24, 24))
    labels[:, :, 12:] = 0
    ignored, background = samples_of(labels=labels, unlabelled=0), samples_of(labels=labels)
    for index in range(4):
        sample = ignored[index]
        unknown = sample["gt"][0] == 0
        assert not sample["weight"][:, unknown].any()
        other = background[index]
        assert (other["weight"][0][other["gt"][0] == 0][:-1] > 0).any() or not (other["gt"] == 0).any()


def test_a_volume_without_annotation_is_refused() -> None:
    """A mask that annotates nothing ends with a clear line, not with endless sampling."""
    with pytest.raises(DataError, match="no annotated voxel"):
        samples_of(mask=np.zeros((24, 24, 24), bool))[0]


def test_a_volume_smaller_than_the_crop_is_padded_and_masked() -> None:
    """Outside of a small volume raw is mirrored and nothing weighs."""
    sample = samples_of(labels=smooth_labels((8, 24, 24)))[0]
    assert sample["raw"].shape == (1, 12, 12, 12)
    assert sample["mask"][0].any(axis=(1, 2)).sum() == 8
    assert not sample["weight"][:, sample["mask"][0] == 0].any()


def test_axes_with_different_voxels_do_not_change_places() -> None:
    """Transposing exchanges only axes along which voxels and crops are alike."""
    assert samples_of().places[0].swappable == [[0], [1, 2]]


def test_coarse_raw_and_fine_labels_share_a_centre() -> None:
    """With raw voxels of twice the size, crops begin on raw voxels."""
    labels = smooth_labels((24, 24, 24))
    dataset = Dataset(
        "d", from_numpy(np.zeros((12, 12, 12), np.float32), (8.0, 8.0, 8.0)), from_numpy(labels, (4.0, 4.0, 4.0))
    )
    samples = GunpowderTrainerConfig().samples(None, Coordinate(4, 4, 4), Coordinate(8, 8, 8), None, opened=[dataset])
    place = samples.places[0]
    for index in range(5):
        box = place._locate(np.random.Generator(np.random.Philox(key=[0, index])))
        raw = place._raw_box(box)
        assert all(2 * r == b for r, b in zip(raw.begin, box.begin, strict=True))


def test_samples_travel_without_open_files(small_run: RunConfig, tmp_path: Path) -> None:
    """Pickled for a worker process, samples open their own files and are the same."""
    samples = small_run.trainer_config.samples(  # type: ignore[attr-defined]
        small_run.datasplit_config, Coordinate(8, 8, 8), Coordinate(8, 8, 8), None,
        opened=small_run.datasplit.train,
    )  # fmt: skip
    before = samples[1]
    after = pickle.loads(pickle.dumps(samples))[1]
    assert all((before[k] == after[k]).all() for k in before)


def test_the_iterable_dataset_yields_tensors_in_order(small_run: RunConfig) -> None:
    """The documented iterable dataset gives the samples one after the other, without end."""
    dataset = small_run.trainer.iterable_dataset(  # type: ignore[attr-defined]
        small_run.datasplit.train,
        Coordinate(8, 8, 8),
        Coordinate(8, 8, 8),
        small_run.task.predictor,  # type: ignore[union-attr]
    )
    found = [sample for _, sample in zip(range(3), dataset, strict=False)]
    assert {"raw", "gt", "mask", "target", "weight"} == set(found[0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: IntensityAugmentConfig(scale=(1.2, 0.8), shift=(0, 0)), "scale: the range is upside down"),
        (lambda: GammaAugmentConfig(gamma_range=(0, 1)), "gamma_range: exponents must be positive"),
        (lambda: ElasticAugmentConfig((0, 8, 8), (1, 1, 1)), "control_point_spacing"),
        (lambda: ElasticAugmentConfig((8, 8), (1, 1, 1)), "one number per axis"),
        (lambda: SimpleAugmentConfig(augmentation_probability=2), "augmentation_probability"),
    ],
)
def test_impossible_augmentations_are_refused(make: object, said: str) -> None:
    """Wrong values are named when the config is made."""
    with pytest.raises(ConfigError, match=said):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("how", ["plain", "mask", "unlabelled", "uint8", "2D", "small"])
def test_volumes_in_memory_and_on_disk_give_the_same_samples(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes that are kept in memory, narrowed and warped in place, give what is read, padded and warped box by box."""
    from dacapo.experiments.trainers import sampling

    shape = {"2D": (24, 24), "small": (8, 24, 24)}.get(how, (24, 24, 24))
    labels = smooth_labels(shape) - np.uint64(2**40)
    mask = np.random.default_rng(0).random(shape) < 0.8 if how == "mask" else None
    elastic = ELASTIC
    if how == "2D":
        elastic = ElasticAugmentConfig(control_point_spacing=(8, 8), control_point_displacement_sigma=(4, 4))
    unlabelled = 0 if how == "unlabelled" else None

    def made() -> list[dict[str, np.ndarray]]:
        samples = samples_of(elastic, SimpleAugmentConfig(), labels=labels, mask=mask, unlabelled=unlabelled)
        if how == "uint8":
            dataset = samples.datasets[0]  # type: ignore[index]
            raw = (dataset.raw.read() * 255).astype(np.uint8)
            samples.datasets = [Dataset("d", from_numpy(raw, dataset.raw.grid), dataset.gt)]
        return [samples[i] for i in range(5)]

    in_memory = made()
    monkeypatch.setattr(sampling, "_CACHE_BYTES", 0)
    for a, b in zip(in_memory, made(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_validity_is_that_of_the_dataset_bent() -> None:
    """Where a bent crop says something is where the dataset's own validity, bent as a label, says so."""
    from dacapo.ops.warp import apply_nearest, source_shape

    rng = np.random.default_rng(1)
    labels = smooth_labels((20, 20, 20)) % np.uint64(5)
    samples = samples_of(ELASTIC, labels=labels, mask=rng.random(labels.shape) < 0.7, unlabelled=0, shape=14)
    place, size = samples.places[0], samples.places[0].gt.voxel_size
    for index in range(4):
        rng = np.random.default_rng(index)
        box = place._locate(rng)
        transform = ELASTIC.bend(rng, size)
        assert transform is not None
        _, _, valid = place._read(box, transform)
        wide = box.grow(place.margin, place.margin)
        grow = Coordinate(
            (b - a) // 2 for a, b in zip(wide.shape, source_shape(transform, wide.shape, size), strict=True)
        )
        source = wide.grow(grow, grow)
        known = place.dataset.read_valid(source)[0].astype(np.uint8)
        np.testing.assert_array_equal(valid[0], apply_nearest(known, transform, wide.shape, size) > 0)
        assert 0 < valid.mean() < 1
