"""Tasks: a predictor, a loss, a post-processor and an evaluator that belong together.

May import `predictors`, `losses`, `post_processors`, `evaluators`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from dacapo.config import Config, Voxels
from dacapo.experiments.tasks.evaluators import (
    BinarySegmentationEvaluator,
    ClassEvaluator,
    DummyEvaluator,
    EvaluationScores,
    Evaluator,
    InstanceEvaluator,
)
from dacapo.experiments.tasks.losses import (
    AffinitiesLoss,
    CrossEntropyLoss,
    DummyLoss,
    HotDistanceLoss,
    Loss,
    MSELoss,
)
from dacapo.experiments.tasks.post_processors import (
    ArgmaxPostProcessor,
    DummyPostProcessor,
    PostProcessor,
    PostProcessorParameters,
    ThresholdPostProcessor,
    WatershedPostProcessor,
)
from dacapo.experiments.tasks.predictors import (
    AffinitiesPredictor,
    DistancePredictor,
    DummyPredictor,
    HotDistancePredictor,
    InnerDistancePredictor,
    OneHotPredictor,
    Predictor,
)
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from dacapo.experiments.architectures.architecture import Architecture
    from dacapo.experiments.model import Model


class Task:
    """What is to be learned, and how it is judged. `weights` is a checkpoint that new models begin with."""

    def __init__(
        self,
        predictor: Predictor,
        loss: Loss,
        post_processor: PostProcessor,
        evaluator: Evaluator,
        weights: Path | None = None,
    ) -> None:
        self.predictor = predictor
        self.loss = loss
        self.post_processor = post_processor
        self.evaluator = evaluator
        self.weights = weights

    @property
    def parameters(self) -> Iterable[PostProcessorParameters]:
        return list(self.post_processor.enumerate_parameters())

    @property
    def evaluation_scores(self) -> EvaluationScores:
        return self.evaluator.score

    @property
    def channels(self) -> list[str]:
        """Name of each predicted channel."""
        return self.predictor.channels

    @property
    def classes(self) -> list[str]:
        """Name of each class that the evaluator tells apart; empty for instances."""
        evaluator = self.evaluator
        return list(getattr(evaluator, "classes", getattr(evaluator, "channels", ())))

    def create_model(self, architecture: Architecture) -> Model:
        model = self.predictor.create_model(architecture)
        if self.weights is not None:
            from dacapo.experiments.model import load_fitting, read_checkpoint

            load_fitting(model, read_checkpoint(self.weights)["model"], str(self.weights))
        return model


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

    def relative_to(self, folder: Path) -> TaskConfig:
        """The same config with relative file names resolved against `folder`."""
        return self


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ValueError(f"expected at least one name, none empty and none twice, got {list(names)}")
    return names


def _odd(size: int | None) -> int | None:
    if size is not None and (size < 1 or size % 2 == 0):
        raise ValueError(f"expected an odd number of voxels such as 1 or 3, got {size}")
    return size


def _between(low: float, high: float) -> Callable[[tuple[float, ...]], tuple[float, ...]]:
    def check(values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or any(not low < v < high for v in values):
            raise ValueError(f"expected at least one number between {low:g} and {high:g}, got {list(values)}")
        if len(set(values)) != len(values):
            raise ValueError(f"a number stands twice in {list(values)}")
        return values

    return check


def _in_order(high: float, info: ValidationInfo) -> float:
    """Of `..clipmax`: not below `..clipmin`, which stands before it."""
    name = str(info.field_name).replace("clipmax", "clipmin")
    if name in info.data and info.data[name] > high:
        raise ValueError(f"{name} ({info.data[name]}) is larger than {info.field_name} ({high})")
    return high


Names = Annotated[tuple[str, ...], AfterValidator(_named)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LengthOr0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
KernelSize = Annotated[int | None, AfterValidator(_odd)]
Share = Annotated[float, Field(gt=0, lt=1)]
UpperShare = Annotated[float, Field(gt=0, lt=1), AfterValidator(_in_order)]
SignedThresholds = Annotated[tuple[float, ...], AfterValidator(_between(-1, 1))]
InnerThresholds = Annotated[tuple[float, ...], AfterValidator(_between(0, 1))]
Biases = Annotated[tuple[float, ...], AfterValidator(_between(0, 1))]


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
    lsds_to_affs_weight_ratio: LengthOr0 = 1
    """Weight of the descriptors' loss relative to the affinities'."""
    affs_weight_clipmin: Share = 0.05
    """A class rarer than this share of a sample is weighted as if it had this share."""
    affs_weight_clipmax: UpperShare = 0.95
    """The same for the more frequent class."""
    lsd_weight_clipmin: Share = 0.05
    """The same for objects and background, which weigh the descriptors."""
    lsd_weight_clipmax: UpperShare = 0.95
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
    """Voxels around a block that are segmented with it: at least the longest offset, and whole strides."""
    long_stride: int = Field(default=2, ge=1)
    """Offsets longer than one voxel are looked at in every so manyth voxel of each axis; 1 = in all."""

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
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or any(not 0 < v <= 1 for v in values):
            raise ValueError(f"expected at least one number above 0 and up to 1 (= none), got {list(values)}")
        return values

    @model_validator(mode="after")
    def _blocks(self) -> AffinitiesTaskConfig:
        longest = max(abs(v) for offset in self.neighborhood for v in offset)
        if self.context < longest:
            raise ValueError(f"context ({self.context} voxels) must be at least the longest offset ({longest})")
        if self.context % self.long_stride:
            raise ValueError(f"context ({self.context} voxels) must be a multiple of long_stride ({self.long_stride})")
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
                self.neighborhood,
                self.biases,
                self.long_biases,
                self.links,
                self.min_size,
                self.context,
                self.long_stride,
            ),
            InstanceEvaluator(),
        )


class DistanceTaskConfig(TaskConfig):
    """Binary classes, which may overlap, from signed distances to their boundaries."""

    channels: Names
    """Name of each class."""
    clip_distance: Length
    """Distances in the clipped scores are cut here (world units)."""
    tol_distance: LengthOr0
    """A voxel wrong by at most this far counts as right in the scores with tolerance (world units)."""
    scale_factor: Length = 1
    """The target is tanh(distance / scale_factor) (world units)."""
    mask_distances: bool = True
    """Ignore voxels whose distance could be shortened by a boundary outside of what is known."""
    clipmin: Share = 0.05
    """A side of the boundary rarer than this share of a sample is weighted as if it had this share."""
    clipmax: UpperShare = 0.95
    """The same for the more frequent side."""
    thresholds: SignedThresholds = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    """Sweep: foreground is where the predicted tanh distance exceeds this."""

    def task(self) -> Task:
        return Task(
            DistancePredictor(self.channels, self.scale_factor, self.mask_distances, self.clipmin, self.clipmax),
            MSELoss(),
            ThresholdPostProcessor(self.thresholds),
            BinarySegmentationEvaluator(self.clip_distance, self.tol_distance, self.channels),
        )


class InnerDistanceTaskConfig(TaskConfig):
    """Binary classes, which may overlap, from distances to their boundaries inside them; 0 outside."""

    channels: Names
    """Name of each class."""
    clip_distance: Length
    """Distances in the clipped scores are cut here (world units)."""
    tol_distance: LengthOr0
    """A voxel wrong by at most this far counts as right in the scores with tolerance (world units)."""
    scale_factor: Length = 1
    """The target is tanh(distance / scale_factor) inside (world units)."""
    mask_distances: bool = False
    """Ignore voxels whose distance could be shortened by a boundary outside of what is known."""
    clipmin: Share = 0.05
    """A side of the boundary rarer than this share of a sample is weighted as if it had this share."""
    clipmax: UpperShare = 0.95
    """The same for the more frequent side."""
    thresholds: InnerThresholds = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    """Sweep: foreground is where the predicted tanh distance exceeds this."""

    def task(self) -> Task:
        return Task(
            InnerDistancePredictor(self.channels, self.scale_factor, self.mask_distances, self.clipmin, self.clipmax),
            MSELoss(),
            ThresholdPostProcessor(self.thresholds),
            BinarySegmentationEvaluator(self.clip_distance, self.tol_distance, self.channels),
        )


class HotDistanceTaskConfig(TaskConfig):
    """Binary classes, which may overlap, and the signed distances to their boundaries, from which they are segmented."""

    channels: Names
    """Name of each class."""
    clip_distance: Length
    """Distances in the clipped scores are cut here (world units)."""
    tol_distance: LengthOr0
    """A voxel wrong by at most this far counts as right in the scores with tolerance (world units)."""
    scale_factor: Length = 1
    """The distance target is tanh(distance / scale_factor) (world units)."""
    mask_distances: bool = False
    """Ignore, in the distances, voxels whose distance could be shortened by a boundary outside of what is known."""
    kernel_size: KernelSize = None
    """Voxels that the last convolution sees along each axis, odd; 1 if left out. Upstream's left out meant 3, which
    its checkpoints need."""
    clipmin: Share = 0.05
    """A side of the boundary rarer than this share of a sample is weighted as if it had this share."""
    clipmax: UpperShare = 0.95
    """The same for the more frequent side."""
    thresholds: SignedThresholds = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    """Sweep: foreground is where the predicted tanh distance exceeds this."""

    @field_validator("channels")
    @classmethod
    def _told_apart(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if f"{name}_distance" in names:
                raise ValueError(f"{name}_distance is the name of the distances of {name}: call that class otherwise")
        return names

    def task(self) -> Task:
        return Task(
            HotDistancePredictor(
                self.channels, self.scale_factor, self.mask_distances, self.kernel_size, self.clipmin, self.clipmax
            ),
            HotDistanceLoss(),
            ThresholdPostProcessor(self.thresholds, first_channel=len(self.channels)),
            BinarySegmentationEvaluator(self.clip_distance, self.tol_distance, self.channels),
        )


class OneHotTaskConfig(TaskConfig):
    """Classes that exclude each other: each voxel is of one."""

    classes: Names
    """Name of each class, at least two; ground truth holds their places, 0 for the first (mostly background), or one
    binary channel for each."""
    kernel_size: KernelSize = None
    """Voxels that the last convolution sees along each axis, odd; 1 if left out. Upstream's left out meant 3, which
    its checkpoints need."""
    clip_distance: Length = 200
    """Distances in the clipped scores are cut here (world units)."""
    tol_distance: LengthOr0 = 40
    """A voxel wrong by at most this far counts as right in the scores with tolerance (world units)."""
    clipmin: Share = 0.05
    """A class rarer than this share of a sample is weighted as if it had this share."""
    clipmax: UpperShare = 0.95
    """The same for the most frequent class."""

    @field_validator("classes")
    @classmethod
    def _several(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) < 2:
            raise ValueError(f"expected at least two (such as background, cell), got {list(names)}")
        return names

    def task(self) -> Task:
        return Task(
            OneHotPredictor(self.classes, self.kernel_size, self.clipmin, self.clipmax),
            CrossEntropyLoss(),
            ArgmaxPostProcessor(),
            ClassEvaluator(self.clip_distance, self.tol_distance, self.classes),
        )


class PretrainedTaskConfig(TaskConfig):
    """Another task, whose new models begin with the weights of a checkpoint."""

    sub_task_config: TaskConfig
    """What to learn, and how it is judged."""
    weights: Path
    """A checkpoint of a run; what it has no values for stays random, and is logged."""

    def task(self) -> Task:
        task = self.sub_task_config.task()
        return Task(task.predictor, task.loss, task.post_processor, task.evaluator, weights=self.weights)

    def relative_to(self, folder: Path) -> PretrainedTaskConfig:
        sub = self.sub_task_config.relative_to(folder)
        return self.model_copy(update={"weights": folder / self.weights, "sub_task_config": sub})


class DummyTaskConfig(TaskConfig):
    """Embeddings that are all to be 0: to try out everything around a task."""

    embedding_dims: int = Field(ge=1)
    """Channels."""
    detection_threshold: float = Field(gt=-1, lt=1)
    """Objects are where an embedding exceeds this."""

    def task(self) -> Task:
        return Task(
            DummyPredictor(self.embedding_dims),
            DummyLoss(),
            DummyPostProcessor(self.detection_threshold),
            DummyEvaluator(),
        )


AffinitiesTask = DistanceTask = InnerDistanceTask = HotDistanceTask = Task
OneHotTask = PretrainedTask = DummyTask = Task
