"""Trainers: how training samples are made. May import `augments`, `sampling`, `locations`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from dacapo.config import Config
from dacapo.errors import ConfigError
from dacapo.experiments.trainers.augments import AugmentConfig
from dacapo.experiments.trainers.sampling import SameSample, Samples
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    import torch

    from dacapo.experiments.datasplits import DataSplitConfig
    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.tasks.predictors import Predictor


class TrainerConfig(Config):
    """How training samples are made."""

    kind: ClassVar[str] = "trainer"
    default_type: ClassVar[str | None] = "GunpowderTrainerConfig"
    needs_gt: ClassVar[bool] = True
    """Whether datasets without ground truth can not be trained on."""
    name: str = ""

    @abstractmethod
    def samples(
        self,
        source: DataSplitConfig | None,
        input_shape: Coordinate,
        output_shape: Coordinate,
        predictor: Predictor | None,
        *,
        seed: int = 0,
        opened: list[Dataset] | None = None,
    ) -> Samples | SameSample:
        """All samples of a training on the datasets that `source` opens, or that are `opened` already."""

    def iterable_dataset(
        self,
        datasets: list[Dataset],
        input_shape: Coordinate,
        output_shape: Coordinate,
        predictor: Predictor | None = None,
    ) -> torch.utils.data.IterableDataset[dict[str, Any]]:
        """Samples without end, in order, as the documented API has it."""
        from torch.utils.data import IterableDataset

        samples = self.samples(None, input_shape, output_shape, predictor, opened=datasets)

        class Endless(IterableDataset[dict[str, Any]]):
            def __iter__(self) -> Any:
                index = 0
                while True:
                    yield samples[index]
                    index += 1

        return Endless()


class GunpowderTrainerConfig(TrainerConfig):
    """Random crops, augmented. The name is the one that files on users' disks have; the pipeline is our own."""

    augments: tuple[AugmentConfig, ...] = ()
    """Augmentations: bending, then mirroring, then those of intensity, each in this order."""
    min_masked: float = Field(default=0.15, ge=0, le=1)
    """At least this share of a crop is annotated, where the dataset has a mask or unlabelled voxels."""
    clip_raw: bool = False
    """Never look at raw beyond the ground truth; it is mirrored there instead."""
    sample_strategy: Literal["integral_mask", "reject", "sample_points"] | None = None
    """Where crops are taken: anywhere with enough annotation (default, "reject"), around annotated voxels, each as
    likely ("integral_mask"), or around the dataset's points ("sample_points")."""
    balance: Literal["classes", "instances"] | None = None
    """Take crops around voxels of each class of gt equally often, or of each object: rare classes and small objects
    are seen as often as others. The ground truth is counted once, before the first sample."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        bending = [type(a).__name__ for a in self.augments if a.bends]
        if len(bending) > 1:
            raise ValueError(f"augments: only one may bend, got {', '.join(bending)}")
        if self.balance is not None and self.sample_strategy is not None:
            raise ValueError(
                f"balance: says where crops are taken, as sample_strategy ({self.sample_strategy}) does: give one"
            )
        return self

    def check_dataset(self, dataset: Dataset) -> None:
        """Whether a dataset has what sampling and augmentation need; its voxels are not looked at."""
        for i, augment in enumerate(self.augments):
            spacing = getattr(augment, "control_point_spacing", None)
            if spacing is not None and len(spacing) != dataset.raw.spatial_dims:
                raise ConfigError(
                    f"{dataset.name}: trainer.augments[{i}].control_point_spacing has {len(spacing)} numbers, raw has "
                    f"{dataset.raw.spatial_dims} axes"
                )
        if self.sample_strategy == "sample_points" and not dataset.sample_points:
            raise ConfigError(
                f"{dataset.name}: trainer.sample_strategy is 'sample_points', but the dataset has no sample_points"
            )

    def samples(
        self,
        source: DataSplitConfig | None,
        input_shape: Coordinate,
        output_shape: Coordinate,
        predictor: Predictor | None,
        *,
        seed: int = 0,
        opened: list[Dataset] | None = None,
    ) -> Samples:
        return Samples(self, opened, input_shape, output_shape, predictor, seed, source)


class DummyTrainerConfig(TrainerConfig):
    """The same sample again and again: the middle of the first dataset's raw. Trains without ground truth."""

    needs_gt: ClassVar[bool] = False
    dummy_attr: bool = True
    """Means nothing."""

    def samples(
        self,
        source: DataSplitConfig | None,
        input_shape: Coordinate,
        output_shape: Coordinate,
        predictor: Predictor | None,
        *,
        seed: int = 0,
        opened: list[Dataset] | None = None,
    ) -> SameSample:
        if opened is None:
            assert source is not None
            opened = source.datasplit().train
        raw = opened[0].raw
        middle = Roi((raw.spatial_shape - input_shape) // 2, input_shape)
        sample = {"raw": np.asarray(raw.read(middle, pad="reflect"), np.float32).reshape(-1, *input_shape)}
        gt, valid = np.zeros((1, *output_shape), np.int64), np.ones((1, *output_shape), bool)
        if predictor is not None:
            sample["target"], sample["weight"] = predictor.make_target(gt, valid, raw.grid)
        return SameSample(sample | {"gt": gt, "mask": valid.astype(np.float32)})


def Trainer(config: TrainerConfig) -> TrainerConfig:
    """Upstream's spelling: the config is the trainer."""
    return config
