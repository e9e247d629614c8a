"""Datasplits from a table: the right level, the right voxels at the right place, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import small_experiment
from dacapo.arrays import create_array
from dacapo.errors import ArrayNotFoundError, ConfigError
from dacapo.experiments.datasplits import DatasetSpec, DatasetType, DataSplitConfig, DataSplitGenerator
from dacapo.experiments.datasplits.generator import read_csv
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Grid

FINE = (5.24, 4.0, 4.0)
COARSE = (10.48, 8.0, 8.0)


def write(path: Path, data: np.ndarray, voxel_size: tuple[float, ...] = FINE, offset: tuple[float, ...] = ()) -> None:
    array = create_array(path, shape=data.shape, dtype=data.dtype, grid=Grid(voxel_size, offset))
    array.write(array.roi, data)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A CellMap layout: raw in levels s0 and s1, crops of 24 x 24 x 24 fine voxels at an offset, some classes."""
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (48, 48, 48), dtype=np.uint8)
    write(tmp_path / "cell.zarr/em/s0", raw)
    write(tmp_path / "cell.zarr/em/s1", raw[::2, ::2, ::2], COARSE)
    offset = (8 * 5.24, 32.0, 16.0)
    for crop, classes in (("crop1", ("mito", "nuc")), ("crop2", ("mito",))):
        for name in classes:
            labels = rng.integers(0, 3, (24, 24, 24)).astype(np.uint8)
            write(tmp_path / f"cell.zarr/gt/{crop}/{name}/s0", labels, FINE, offset)
            write(tmp_path / f"cell.zarr/gt/{crop}/{name}/s1", labels[::2, ::2, ::2], COARSE, offset)
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "split.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


CROP1 = "train, cell.zarr, em, cell.zarr, gt/crop1/[mito&nuc]"
CROP2 = "val, cell.zarr, em, cell.zarr, gt/crop2/[mito]"


def read(folder: Path, inner: str) -> np.ndarray:
    from dacapo.arrays import open_array

    return open_array(folder / "cell.zarr" / inner).read()


def test_levels_voxels_and_positions(crops: Path) -> None:
    """Raw comes from the coarse level scaled to [0, 1], classes from the fine one, where they lie in the world."""
    generator = DataSplitGenerator.generate_from_csv(table(crops, CROP1, CROP2), COARSE, FINE)
    config = generator.compute()
    assert config.name == "split_semantic_mito_nuc_5.24x4x4nm"
    assert DataSplitConfig.from_yaml(config.to_yaml()) == config
    split = config.datasplit()
    one, two = split.train[0], split.validate[0]
    assert [one.name, two.name] == ["cell_crop1", "cell_crop2"]
    assert one.raw.voxel_size == COARSE
    assert np.allclose(one.raw.read(), read(crops, "em/s1") / np.float32(255))
    assert one.gt.voxel_size == FINE
    assert np.allclose(one.gt.offset, (8 * 5.24, 32, 16))
    assert np.array_equal(one.gt.read(), np.stack([read(crops, f"gt/crop1/{n}/s0") for n in ("mito", "nuc")]))
    assert one.read_valid(one.gt.roi).all()
    # nuc is not annotated in crop2: zeros, and nothing is valid
    assert not two.gt.read()[1].any()
    assert [c.all() for c in two.read_valid(two.gt.roi)] == [True, False]
    assert "s1 (10.48 x 8 x 8 nm)" in str(generator.outcomes[0])


def test_negative_class(crops: Path) -> None:
    """With a negative class, what a dataset does not name is known to be absent where a named class is."""
    path = table(crops, CROP1, CROP2)
    two = (
        DataSplitGenerator.generate_from_csv(path, COARSE, FINE, use_negative_class=True)
        .compute()
        .datasplit()
        .validate[0]
    )
    assert not two.gt.read()[1].any()
    assert np.array_equal(two.read_valid(two.gt.roi)[1], read(crops, "gt/crop2/mito/s0") > 0)


def test_targets_and_binarize(crops: Path) -> None:
    """Targets give the order of channels; binarised, all ids of a class are 1."""
    generator = DataSplitGenerator.generate_from_csv(
        table(crops, CROP1), FINE, FINE, targets=["nuc", "mito"], binarize_gt=True
    )
    gt = generator.compute().datasplit().train[0].gt.read()
    assert np.array_equal(gt, np.stack([read(crops, f"gt/crop1/{n}/s0") > 0 for n in ("nuc", "mito")]))


def test_resampling_and_limits(crops: Path) -> None:
    """Labels between levels are resampled by mode, within the limits; beyond them the dataset is left out."""
    path = table(crops, CROP1)
    fine = (2.62, 2.0, 2.0)
    gt = DataSplitGenerator.generate_from_csv(path, FINE, fine).compute().datasplit().train[0].gt
    expected = np.stack([read(crops, f"gt/crop1/{n}/s0") for n in ("mito", "nuc")])
    assert np.array_equal(gt.read(), expected.repeat(2, 1).repeat(2, 2).repeat(2, 3))
    with pytest.raises(ConfigError, match=r"no dataset to train on is left \(.*line 1: left out.*upsampling up to 1"):
        DataSplitGenerator.generate_from_csv(path, FINE, fine, max_gt_upsample=1).compute()
    with pytest.raises(ConfigError, match="13824 voxels of ground truth, fewer than 20000"):
        DataSplitGenerator.generate_from_csv(path, FINE, FINE, min_training_volume_size=20000).compute()


def test_validation_volumes_are_cropped(crops: Path) -> None:
    """The longest axis is halved about the centre until the volume fits; voxels and places stay."""
    path = table(crops, CROP1, CROP2)
    config = DataSplitGenerator.generate_from_csv(path, FINE, FINE, max_validation_volume_size=4000).compute()
    gt = config.datasplit().validate[0].gt
    assert tuple(gt.spatial_shape) == (12, 12, 24)
    assert np.allclose(gt.offset, (8 * 5.24 + 6 * 5.24, 32 + 6 * 4, 16))
    assert np.array_equal(gt.read()[0], read(crops, "gt/crop2/mito/s0")[6:18, 6:18])
    assert DataSplitConfig.from_yaml(config.to_yaml()) == config


def test_instances(crops: Path) -> None:
    """One array keeps its ids; several become one in which no ids collide."""
    path = table(crops, CROP1, CROP2)
    split = DataSplitGenerator.generate_from_csv(path, FINE, FINE, segmentation_type="instance").compute().datasplit()
    assert np.array_equal(split.validate[0].gt.read(), read(crops, "gt/crop2/mito/s0"))
    assert len(np.unique(split.train[0].gt.read())) == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian, cell.zarr, em, cell.zarr, gt/crop1/[mito]", "line 4: expected train or val, got 'trian'"),
        ("train, cell.zarr, em, cell.zarr", "line 4: expected train.*got 4 columns"),
        ("train, cell.zarr, em, cell.zarr, gt/crop1/[mito", "line 4: gt_dataset is"),
        ("train, cell.zarr, em, cell.zarr, gt/crop1/[mito&mito]", "line 4: gt_dataset is"),
        ("train, s3://b/cell.zarr, em, cell.zarr, gt/crop1/[mito]", "line 4: s3://b/cell.zarr is not on a disk"),
        ("train, cell.zarr, em, cell.zarr, gt/crop1/[golgi]", "line 4: .*golgi"),
        ("train, nowhere.zarr, em, cell.zarr, gt/crop1/[mito]", "line 4: .*nowhere.zarr"),
    ],
)
def test_a_wrong_line_is_named(crops: Path, line: str, words: str) -> None:
    """A wrong line is refused with file and line, in one line, after a header, a blank line and a comment."""
    path = table(crops, "type, raw, raw_dataset, gt, gt_dataset", "", "# comment", line)
    with pytest.raises((ConfigError, ArrayNotFoundError), match=words) as caught:
        DataSplitGenerator.generate_from_csv(path, FINE, FINE).compute()
    assert "split.csv" in str(caught.value)


def test_specs_as_upstream_writes_them(crops: Path) -> None:
    """Datasets may be listed in Python; a table may have a header, and `validate` means val."""
    spec = DatasetSpec(DatasetType.train, crops / "cell.zarr", "em", crops / "cell.zarr", "gt/crop1/[mito]")
    assert DataSplitGenerator("n", [spec], FINE, FINE).compute().name == "n_semantic_mito_5.24x4x4nm"
    rows = read_csv(table(crops, "type, raw, rawd, gt, gtd", CROP1, "", CROP2.replace("val", "validate")))
    assert [r.dataset_type for r in rows] == [DatasetType.train, DatasetType.val]


def test_command_writes_what_trains(crops: Path) -> None:
    """The command's YAML stands under `datasplit:` of an experiment, which trains; a wrong table writes nothing."""
    import yaml
    from click.testing import CliRunner

    import dacapo
    from dacapo.cli import cli

    sizes = ["--input-resolution", "5.24,4,4", "--output-resolution", "5.24,4,4"]
    options = [*sizes, "--segmentation-type", "instance", "--targets", "mito"]
    path, out = table(crops, CROP1, CROP2), crops / "split.yaml"
    done = CliRunner().invoke(cli, ["datasplit", str(path), "-o", str(out), *options], catch_exceptions=False)
    assert "line 1: train cell_crop1: raw s0" in done.output
    run = RunConfig.from_dict(
        small_experiment(crops, datasplit=yaml.safe_load(out.read_text()), num_iterations=2, validation_interval=2)
    )
    assert dacapo.train(run).training_stats.trained_until() == 2
    out.unlink()
    bad = table(crops, CROP1, "train, x")
    assert CliRunner().invoke(cli, ["datasplit", str(bad), "-o", str(out), *options]).exit_code != 0
    assert not out.exists()
