"""Datasplits: which datasets train, which validate. May import `datasets`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from dacapo.config import Config
from dacapo.errors import ArrayNotFoundError, ConfigError, GeometryError
from dacapo.experiments.datasplits.datasets import Dataset, DatasetConfig, DummyDatasetConfig, SimpleDatasetConfig


class DataSplit:
    """Open datasets: `train` to learn from, `validate` to be judged by."""

    def __init__(self, train: list[Dataset], validate: list[Dataset]) -> None:
        self.train = train
        self.validate = validate

    def check(self) -> None:
        """Whether all datasets have the same channels, and one voxel size of raw and of gt."""
        first = self.train[0]
        for other in (*self.train[1:], *self.validate):
            if other.num_raw_channels != first.num_raw_channels:
                raise ConfigError(
                    f"{other.name}: raw has {other.num_raw_channels} channels, {first.name} has {first.num_raw_channels}"
                )
            for part in ("raw", "gt"):
                a, b = getattr(first, part), getattr(other, part)
                if a is not None and b is not None and any(r != 1 for r in a.grid.ratio(b.grid)):
                    raise GeometryError(
                        f"{other.name}.{part}: voxel size {b.voxel_size} {b.units}, but {first.name} has {a.voxel_size} "
                        f"{a.units}: one network sees one voxel size. Give the level that matches."
                    )

    def check_voxels(self) -> None:
        for dataset in (*self.train, *self.validate):
            dataset.check_voxels()


class DataSplitConfig(Config):
    """What data, opened by `datasplit()`."""

    kind: ClassVar[str] = "datasplit"
    default_type: ClassVar[str | None] = "TrainValidateDataSplitConfig"
    name: str = ""

    @abstractmethod
    def datasplit(self) -> DataSplit:
        """Open all datasets."""

    def datasplit_type(self, config: DataSplitConfig | None = None) -> DataSplit:
        """Upstream's spelling of `datasplit()`."""
        return (config or self).datasplit()

    @abstractmethod
    def relative_to(self, folder: Path) -> DataSplitConfig:
        """The same config with relative file names resolved against `folder`."""


class TrainValidateDataSplitConfig(DataSplitConfig):
    """Datasets listed one by one."""

    train_configs: tuple[DatasetConfig, ...]
    """Datasets to train on."""
    validate_configs: tuple[DatasetConfig, ...] = ()
    """Datasets to validate on, at every validation."""

    def model_post_init(self, context: Any) -> None:
        if not self.train_configs:
            raise ConfigError("datasplit: no dataset to train on is given")
        for names in ([c.name for c in self.train_configs], [c.name for c in self.validate_configs]):
            twice = {n for n in names if n and names.count(n) > 1}
            if twice:
                raise ConfigError(f"datasplit: the name {twice.pop()!r} is given to two datasets")

    def datasplit(self) -> DataSplit:
        return DataSplit(
            [c.dataset(f"train_{i}") for i, c in enumerate(self.train_configs)],
            [c.dataset(f"validate_{i}") for i, c in enumerate(self.validate_configs)],
        )

    def relative_to(self, folder: Path) -> TrainValidateDataSplitConfig:
        return self.model_copy(
            update={
                "train_configs": tuple(c.relative_to(folder) for c in self.train_configs),
                "validate_configs": tuple(c.relative_to(folder) for c in self.validate_configs),
            }
        )


class SimpleDataSplitConfig(DataSplitConfig):
    """Datasets found by the names of folders: no dataset is listed.

    One of these layouts, in a folder or a zarr container `path`:

        path/raw                     one dataset, to train and to validate on
        path/train/raw               one dataset each,
        path/test/raw
        path/train/*/raw             or several
        path/test/*/raw

    with `labels`, and `mask` where there is one, beside each `raw`.
    """

    positional: ClassVar[tuple[str, ...]] = (
        "path", "name", "train_group_name", "validate_group_name", "raw_name", "gt_name", "mask_name",
    )  # fmt: skip
    path: Path
    """The folder or container to look in."""
    train_group_name: str = "train"
    """Folder of the datasets to train on."""
    validate_group_name: str = "test"
    """Folder of the datasets to validate on."""
    raw_name: str = "raw"
    """Name of raw in a dataset."""
    gt_name: str = "labels"
    """Name of the ground truth in a dataset."""
    mask_name: str = "mask"
    """Name of the mask in a dataset, where there is one."""

    def model_post_init(self, context: Any) -> None:
        for field in ("train_group_name", "validate_group_name", "raw_name", "gt_name", "mask_name"):
            value = getattr(self, field)
            if not value.strip("/") or ".." in value.split("/"):
                raise ConfigError(f"datasplit.{field}: expected the name of a folder or array in path, got {value!r}")

    def datasplit(self) -> DataSplit:
        return DataSplit(
            [c.dataset() for c in self.dataset_configs(self.train_group_name)],
            [c.dataset() for c in self.dataset_configs(self.validate_group_name)],
        )

    def dataset_configs(self, group: str) -> list[SimpleDatasetConfig]:
        """The datasets that are there now, of one group, in the order of their names."""
        folders = [
            [self.path],
            [self.path / group],
            sorted(p for p in _folders_in(self.path / group) if p.name != self.raw_name),
        ]
        found = [kept for some in folders if (kept := [f for f in some if (f / self.raw_name).exists()])]
        if len(found) > 1:
            both = " and ".join(str(some[0] / self.raw_name) for some in found)
            raise ConfigError(f"datasplit: {both} are there, on different levels of {self.path}: keep one layout")
        if not found:
            raise ArrayNotFoundError(
                f"datasplit: no {self.raw_name!r} to use for {group!r}: looked for {self.raw_name}, "
                f"{group}/{self.raw_name} and {group}/*/{self.raw_name} in {self.path}, {_contents(self.path, group)}"
            )
        stems = [folder.stem for folder in found[0]]
        names = [f.stem if stems.count(f.stem) == 1 else f.name for f in found[0]]
        return [
            SimpleDatasetConfig(
                name=name, path=folder, raw_name=self.raw_name, gt_name=self.gt_name, mask_name=self.mask_name
            )
            for name, folder in zip(names, found[0], strict=True)
        ]

    def relative_to(self, folder: Path) -> SimpleDataSplitConfig:
        return self.model_copy(update={"path": folder / self.path})


def _folders_in(path: Path) -> list[Path]:
    return [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")] if path.is_dir() else []


def _contents(path: Path, group: str) -> str:
    """What a user will find there, as the end of a sentence."""
    if not path.exists():
        return "which does not exist"
    names = sorted(p.name for p in _folders_in(path))
    shown = f"which contains {', '.join(names[:10]) or 'no folders'}{' and more' if len(names) > 10 else ''}"
    if group not in names:
        return shown
    inside = sorted(p.name for p in _folders_in(path / group))
    return (
        f"{shown}; {group} contains {', '.join(inside[:10]) or 'no folders'}{' and more' if len(inside) > 10 else ''}"
    )


class DummyDataSplitConfig(DataSplitConfig):
    """Zeros to train on, nothing to validate on."""

    train_config: DatasetConfig = DummyDatasetConfig(name="dummy_dataset")

    def datasplit(self) -> DataSplit:
        return DataSplit([self.train_config.dataset()], [])

    def relative_to(self, folder: Path) -> DummyDataSplitConfig:
        return self


TrainValidateDataSplit = DataSplit
DummyDataSplit = DataSplit
