"""Tasks: a predictor, a loss, a post-processor and an evaluator that belong together.

May import `predictors`, `losses`, `post_processors`, `evaluators`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator, model_validator

from dacapo.config import Config, Voxels
from dacapo.experiments.tasks.evaluators import (
    BinarySegmentationEvaluator,
    EvaluationScores,
    Evaluator,
    InstanceEvaluator,
)
from dacapo.experiments.tasks.losses import AffinitiesLoss, Loss, MSELoss
from dacapo.experiments.tasks.post_processors import (
    PostProcessor,
    PostProcessorParameters,
    ThresholdPostProcessor,
    WatershedPostProcessor,
)
from dacapo.experiments.tasks.predictors import AffinitiesPredictor, DistancePredictor, Predictor
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from dacapo.experiments.architectures.architecture import Architecture
    from dacapo.experiments.model import Model


class Task:
    """What is to be learned, and how it is judged."""

    def __init__(self, predictor: Predictor, loss: Loss, post_processor: PostProcessor, evaluator: Evaluator) -> None:
        self.predictor = predictor
        self.loss = loss
        self.post_processor = post_processor
        self.evaluator = evaluator

    @property
    def parameters(self) -> Iterable[PostProcessorParameters]:
        return list(self.post_processor.enumerate_parameters())

    @property
    def evaluation_scores(self) -> EvaluationScores:
        return self.evaluator.score

    @property
    def channels(self) -> list[str]:
        return self.predictor.channels

    def create_model(self, architecture: Architecture) -> Model:
        return self.predictor.create_model(architecture)


class TaskConfig(Config):
    """What to learn, built by `task()`."""

    kind: ClassVar[str] = "task"
    name: str = ""

    @abstractmethod
    def task(self) -> Task:
        """The predictor, loss, post-processor and evaluator."""

    def task_type(self, config: TaskConfig | None = None) -> Task:
        """Upstream's spelling of `task()`."""
        return (config or self).task()


Biases = tuple[float, ...]


class AffinitiesTaskConfig(TaskConfig):
    """Instances from affinities between voxels, with local shape descriptors as an auxiliary task if wanted."""

    neighborhood: tuple[Voxels, ...]
    """Offsets in voxels: channel i compares voxel p with p + neighborhood[i]."""
    lsds: bool = False
    """Also learn local shape descriptors."""
    num_lsd_voxels: int = Field(default=10, gt=0)
    """Standard deviation of the descriptors' window, in voxels of the coarsest axis."""
    downsample_lsds: int = Field(default=1, ge=1)
    """Compute descriptors on a grid this much coarser."""
    lsds_to_affs_weight_ratio: float = Field(default=1, ge=0)
    """Weight of the descriptors' loss relative to the affinities'."""
    affs_weight_clipmin: float = Field(default=0.05, gt=0, lt=1)
    """A class rarer than this share of a sample is weighted as if it had this share."""
    affs_weight_clipmax: float = Field(default=0.95, gt=0, lt=1)
    """The same for the more frequent class."""
    lsd_weight_clipmin: float = Field(default=0.05, gt=0, lt=1)
    lsd_weight_clipmax: float = Field(default=0.95, gt=0, lt=1)
    background_as_object: bool = False
    """Treat label 0 as one more object."""
    balance: bool = True
    """Weight both classes of each affinity equally in every sample. Without it affinities are probabilities,
    and the best biases are higher."""
    biases: Biases = (0.3, 0.4, 0.5)
    """Sweep: affinity above which direct neighbours attract each other in the mutex watershed."""
    long_biases: Biases = (0.6, 0.7, 0.8)
    """Sweep: the same for longer offsets; combined with every one of `biases`."""
    links: tuple[float, ...] = (0.7, 1.0)
    """Sweep: objects with a higher mean affinity across their border become one; 1 = none do."""
    min_size: int = Field(default=50, ge=0)
    """Fragments of fewer voxels join their best neighbour."""
    context: int = Field(default=32, ge=1)
    """Voxels around a block that are segmented with it: more than the longest offset."""

    @field_validator("neighborhood")
    @classmethod
    def _offsets(cls, offsets: tuple[Coordinate, ...]) -> tuple[Coordinate, ...]:
        if not offsets:
            raise ValueError("at least one offset is needed")
        if len({o.dims for o in offsets}) > 1 or offsets[0].dims not in (2, 3):
            raise ValueError(f"all offsets need two or all need three components, got {[list(o) for o in offsets]}")
        for offset in offsets:
            if not any(offset):
                raise ValueError("an offset of zeros compares a voxel with itself: take it out")
            if offsets.count(offset) > 1:
                raise ValueError(f"the offset {list(offset)} stands twice")
        return offsets

    @field_validator("links")
    @classmethod
    def _shares(cls, values: Biases) -> Biases:
        if not values or any(not 0 < v <= 1 for v in values):
            raise ValueError(f"expected at least one number above 0 and up to 1 (= none), got {list(values)}")
        return values

    @field_validator("biases", "long_biases")
    @classmethod
    def _between_0_and_1(cls, values: Biases) -> Biases:
        if not values or any(not 0 < v < 1 for v in values):
            raise ValueError(f"expected at least one number between 0 and 1, got {list(values)}")
        return values

    @model_validator(mode="after")
    def _clips(self) -> AffinitiesTaskConfig:
        longest = max(abs(v) for offset in self.neighborhood for v in offset)
        if self.context < longest:
            raise ValueError(f"context ({self.context} voxels) must be at least the longest offset ({longest})")
        for low, high in (("affs_weight_clipmin", "affs_weight_clipmax"), ("lsd_weight_clipmin", "lsd_weight_clipmax")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) is larger than {high} ({getattr(self, high)})")
        return self

    def task(self) -> Task:
        predictor = AffinitiesPredictor(
            self.neighborhood,
            lsds=self.lsds,
            num_voxels=self.num_lsd_voxels,
            downsample_lsds=self.downsample_lsds,
            affs_weight_clipmin=self.affs_weight_clipmin,
            affs_weight_clipmax=self.affs_weight_clipmax,
            lsd_weight_clipmin=self.lsd_weight_clipmin,
            lsd_weight_clipmax=self.lsd_weight_clipmax,
            background_as_object=self.background_as_object,
            balance=self.balance,
        )
        return Task(
            predictor,
            AffinitiesLoss(len(self.neighborhood), self.lsds_to_affs_weight_ratio),
            WatershedPostProcessor(
                self.neighborhood, self.biases, self.long_biases, self.links, self.min_size, self.context
            ),
            InstanceEvaluator(),
        )


class DistanceTaskConfig(TaskConfig):
    """Binary classes from signed distances to their boundaries."""

    channels: tuple[str, ...]
    """Name of each class."""
    clip_distance: float = Field(gt=0)
    """Distances in the clipped scores are cut here (world units)."""
    tol_distance: float = Field(ge=0)
    """A voxel wrong by at most this far counts as right in the scores with tolerance (world units)."""
    scale_factor: float = Field(default=1, gt=0)
    """The target is tanh(distance / scale_factor) (world units)."""
    mask_distances: bool = True
    """Ignore voxels whose distance could be shortened by a boundary outside of what is known."""
    clipmin: float = Field(default=0.05, gt=0, lt=1)
    clipmax: float = Field(default=0.95, gt=0, lt=1)
    thresholds: tuple[float, ...] = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    """Sweep: foreground is where the predicted tanh distance exceeds this."""

    @field_validator("channels")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"expected at least one name and none twice, got {list(names)}")
        return names

    @field_validator("thresholds")
    @classmethod
    def _on_tanh_scale(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or any(not -1 < v < 1 for v in values):
            raise ValueError(f"expected at least one number between -1 and 1, got {list(values)}")
        return values

    @model_validator(mode="after")
    def _clips(self) -> DistanceTaskConfig:
        if self.clipmin > self.clipmax:
            raise ValueError(f"clipmin ({self.clipmin}) is larger than clipmax ({self.clipmax})")
        return self

    def task(self) -> Task:
        return Task(
            DistancePredictor(self.channels, self.scale_factor, self.mask_distances, self.clipmin, self.clipmax),
            MSELoss(),
            ThresholdPostProcessor(self.thresholds),
            BinarySegmentationEvaluator(self.clip_distance, self.tol_distance, self.channels),
        )


AffinitiesTask = DistanceTask = Task
