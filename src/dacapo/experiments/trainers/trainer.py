"""Trainers: how training samples are made. May import `augments`, `sampling`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dacapo.config import Config
from dacapo.experiments.trainers.augments import AugmentConfig
from dacapo.experiments.trainers.sampling import Samples
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    import torch

    from dacapo.experiments.datasplits import DataSplitConfig
    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.tasks.predictors import Predictor


class TrainerConfig(Config):
    """How training samples are made."""

    kind: ClassVar[str] = "trainer"
    default_type: ClassVar[str | None] = "GunpowderTrainerConfig"
    name: str = ""


class GunpowderTrainerConfig(TrainerConfig):
    """Random crops, augmented. The name is the one that files on users' disks have; the pipeline is our own."""

    augments: tuple[AugmentConfig, ...] = ()
    """Augmentations: bending, then mirroring, then those of intensity, each in this order."""
    min_masked: float = Field(default=0.15, ge=0, le=1)
    """At least this share of a crop is annotated, where the dataset has a mask or unlabelled voxels."""
    clip_raw: bool = False
    """Never look at raw beyond the ground truth; it is mirrored there instead."""
    sample_strategy: Literal["integral_mask", "reject", "sample_points"] | None = None
    """Where crops are taken: anywhere with enough annotation (default, "reject"), with an annotated centre
    ("integral_mask"), or around the dataset's points ("sample_points")."""

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
        """All samples of a training on the datasets that `source` opens, or that are `opened` already."""
        return Samples(self, opened, input_shape, output_shape, predictor, seed, source)

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
