"""Datasplits: which datasets train, which validate. May import `datasets`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from dacapo.config import Config
from dacapo.errors import ConfigError, GeometryError
from dacapo.experiments.datasplits.datasets import Dataset, DatasetConfig, DummyDatasetConfig


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


class DummyDataSplitConfig(DataSplitConfig):
    """Zeros to train on, nothing to validate on."""

    train_config: DatasetConfig = DummyDatasetConfig(name="dummy_dataset")

    def datasplit(self) -> DataSplit:
        return DataSplit([self.train_config.dataset()], [])

    def relative_to(self, folder: Path) -> DummyDataSplitConfig:
        return self


TrainValidateDataSplit = DataSplit
DummyDataSplit = DataSplit
