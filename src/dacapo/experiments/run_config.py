"""A run: what data, which task, which architecture, how to train; and its state while it runs.

May import everything below `experiments`; stores come as arguments.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from dacapo.config import Config, short_name
from dacapo.errors import ConfigError, DataError
from dacapo.experiments.architectures import ArchitectureConfig
from dacapo.experiments.datasplits import DataSplit, DataSplitConfig
from dacapo.experiments.datasplits.datasets.datasets import slabs
from dacapo.experiments.scores import ValidationIterationScores, ValidationScores
from dacapo.experiments.starts import InitialWeightsConfig
from dacapo.experiments.stats import TrainingStats
from dacapo.experiments.step import Step, StepClock
from dacapo.experiments.tasks import Task, TaskConfig
from dacapo.experiments.tasks.post_processors import PostProcessorParameters
from dacapo.experiments.trainers import GunpowderTrainerConfig, TrainerConfig
from dacapo.experiments.weights import Weights

if TYPE_CHECKING:
    import torch

    from dacapo.experiments.model import Model
    from dacapo.experiments.trainers.sampling import SameSample, Samples

logger = logging.getLogger(__name__)


class Best(NamedTuple):
    """The winner of a criterion on a validation dataset."""

    dataset: str
    criterion: str
    iteration: int
    parameters: PostProcessorParameters
    score: float


class RunConfig(Config):
    """An experiment. The same config always trains the same network on the same machine.

    Examples
    --------
    >>> run = RunConfig.from_yaml('''
    ... name: tiny
    ... architecture: {type: cnnectome_unet, input_shape: [16, 16, 16], fmaps_in: 1, fmaps_out: 4, num_fmaps: 4,
    ...                fmap_inc_factor: 2, downsample_factors: [[2, 2, 2]], padding: same}
    ... task: {type: affinities, neighborhood: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
    ... ''')
    >>> run.model.num_out_channels
    3
    """

    tagged: ClassVar[bool] = False

    task_config: TaskConfig | None = None
    """What to learn, and how it is judged."""
    architecture_config: ArchitectureConfig
    """Which network."""
    trainer_config: TrainerConfig = GunpowderTrainerConfig()
    """How training samples are made."""
    datasplit_config: DataSplitConfig | None = None
    """What data."""
    name: str = ""
    """The run's name in the store."""
    repetition: int = Field(default=0, ge=0)
    """Runs that differ in this alone start from other random numbers."""
    num_iterations: int = Field(default=100_000, ge=1)
    """How many batches to train on."""
    validation_interval: int = Field(default=1000, ge=1)
    """Validate, and keep the weights, every so many iterations and at the end."""
    start_config: InitialWeightsConfig | None = None
    """Weights to begin with."""
    batch_size: int = Field(default=1, ge=1)
    """Samples per iteration."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that make samples beside the one that trains; the samples are the same for any number."""
    snapshot_interval: int | None = Field(default=None, ge=1)
    """Keep a batch with its prediction every so many iterations."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The highest learning rate of the schedule."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Share of each weight that decays per iteration, times the learning rate."""
    warmup_iterations: int = Field(default=100, ge=0)
    """The learning rate rises linearly over this many iterations."""
    learning_rate_decay: Literal["cosine", "none"] = "cosine"
    """"cosine" lets the learning rate fall to a hundredth at the end."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; "auto" takes bfloat16 where the hardware has it."""
    seed: int = Field(default=0, ge=0)
    """All random numbers of the run follow from this and the repetition."""

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        task = self.task
        if task is None or not self.architecture_config.is_there:
            return self
        dims = self.architecture_config.dims
        neighborhood = getattr(task.predictor, "neighborhood", None)
        if neighborhood and neighborhood[0].dims != dims:
            raise ValueError(
                f"task.neighborhood has offsets of {neighborhood[0].dims} components, the architecture {dims} axes"
            )
        return self

    def __str__(self) -> str:
        return self.name or "unnamed run"

    # What the config describes, made when first asked for.

    @property
    def task(self) -> Task | None:
        return self._task

    @cached_property
    def _task(self) -> Task | None:
        return self.task_config.task() if self.task_config else None

    @property
    def architecture(self) -> ArchitectureConfig:
        return self.architecture_config

    @property
    def trainer(self) -> TrainerConfig:
        return self.trainer_config

    @cached_property
    def datasplit(self) -> DataSplit:
        if self.datasplit_config is None:
            raise ConfigError(f"{self}: no datasplit is given")
        return self.datasplit_config.datasplit()

    @cached_property
    def model(self) -> Model:
        import torch

        from dacapo.experiments.model import Model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_seed)
            if self.task is None:
                return Model(self.architecture_config, torch.nn.Identity())
            return self.task.create_model(self.architecture_config)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(
            self.model.parameters(), lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay
        )

    @cached_property
    def training_stats(self) -> TrainingStats:
        return TrainingStats()

    @cached_property
    def validation_scores(self) -> ValidationScores:
        """Scores of each validation so far, over datasets, parameters and criteria."""
        if self.task is None:
            raise ConfigError(f"{self}: no task is given, so there is nothing to validate")
        return ValidationScores(list(self.task.parameters), self.datasplit.validate, self.task.evaluation_scores)

    @staticmethod
    def get_validation_scores(run_config: RunConfig) -> ValidationScores:
        """Scores without an iteration, over the datasets, parameters and criteria of a run."""
        return RunConfig(**{name: getattr(run_config, name) for name in RunConfig.model_fields}).validation_scores

    @cached_property
    def lr_scheduler(self) -> torch.optim.lr_scheduler.LambdaLR:
        """The learning rate as torch's schedulers have it, from where `training_stats` end, for loops of one's own: one
        `step()` an iteration."""
        from torch.optim.lr_scheduler import LambdaLR

        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", self.learning_rate)
        start = self.training_stats.trained_until()
        return LambdaLR(self.optimizer, lambda i: self.learning_rate_at(i) / self.learning_rate, last_epoch=start - 1)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def random_seed(self) -> int:
        return self.seed * 10_007 + self.repetition

    @property
    def train_until(self) -> int:
        return self.num_iterations

    # Training.

    def check(self) -> None:
        """Whether data, task and network fit, before any time is spent; each problem is one clear line."""
        split, network = self.datasplit, self.architecture_config
        for dataset in (*split.train, *split.validate):
            if dataset.num_raw_channels != network.num_in_channels:
                raise ConfigError(
                    f"{dataset.name}: raw has {dataset.num_raw_channels} channels, the architecture takes "
                    f"{network.num_in_channels} (fmaps_in)"
                )
            if dataset.raw.spatial_dims != network.dims:
                raise ConfigError(
                    f"{dataset.name}: raw has axes {list(dataset.raw.grid.axes)}, the architecture {network.dims} axes"
                )
            if dataset.gt is not None:
                dataset.check()
                self._check_gt(dataset)
            elif self.trainer_config.needs_gt or dataset in split.validate:
                raise ConfigError(f"{dataset.name}: no gt is given")
        split.check()

    def _check_gt(self, dataset: Any) -> None:
        made = dataset.raw.grid.scaled([1 / f for f in self.architecture_config.scale_factor])
        if any(r != 1 for r in dataset.gt.grid.ratio(made)):
            raise ConfigError(
                f"{dataset.name}: gt has voxel size {dataset.gt.voxel_size} {dataset.gt.units}, the network predicts "
                f"{made.voxel_size} from raw of {dataset.raw.voxel_size}: give the gt level that matches, or change "
                f"upsample_factors"
            )
        if self.task is None:
            return
        channels = math.prod(dataset.gt.shape[: dataset.gt.channel_dims])
        allowed, what = self.task.predictor.gt_channels, f"the {_kind(self.task_config)} task"
        if allowed is not None and channels not in allowed:
            expected = " or ".join(str(n) for n in sorted(set(allowed)))
            named = f" ({', '.join(self.task.classes)})" if len(self.task.classes) > 1 else ""
            raise ConfigError(f"{dataset.name}: gt has {channels} channels, {what} takes {expected}{named}")
        if self.task.predictor.checks_labels:
            for roi in slabs(dataset.gt):
                try:
                    self.task.predictor.check_labels(dataset.gt.read(roi), dataset.read_valid(roi))
                except DataError as error:
                    raise DataError(f"{dataset.name}: gt does not fit {what}: {error}") from None

    def data_loader(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of iterations `start` to `stop`; the same whatever came before."""
        from dacapo.experiments.trainers.sampling import batches

        return batches(self.samples(), self.batch_size, start, stop or self.num_iterations, self.num_workers)

    def samples(self) -> Samples | SameSample:
        """All samples of the training, by index."""
        return self.trainer_config.samples(
            self.datasplit_config,
            self.model.input_shape,
            self.model.output_shape,
            self.task.predictor if self.task else None,
            seed=self.random_seed,
            opened=self.datasplit.train,
        )

    def learning_rate_at(self, iteration: int) -> float:
        """A function of the iteration alone, so that a resumed run has the rate of an undisturbed one."""
        rate = self.learning_rate * min(1.0, (iteration + 1) / max(1, self.warmup_iterations))
        if self.learning_rate_decay == "cosine":
            done = max(0, iteration - self.warmup_iterations) / max(1, self.num_iterations - self.warmup_iterations)
            rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return rate

    def to(self, device: torch.device) -> None:
        """Move the model, in the memory format that convolutions are fastest in, and the optimiser's state with it."""
        self.model.to(device, memory_format=self.memory_format)
        if "optimizer" in self.__dict__:  # of a resumed run it is where the checkpoint was read
            self.move_optimizer(device)

    def move_optimizer(self, device: torch.device | str, empty_cuda_cache: bool = False) -> None:
        """Move what the optimiser remembers of the parameters; its step counts stay where torch keeps them."""
        import torch

        for state in self.optimizer.state.values():
            for name, value in state.items():
                if torch.is_tensor(value) and name != "step":
                    state[name] = value.to(device)
        if empty_cuda_cache and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def memory_format(self) -> torch.memory_format:
        import torch

        return torch.channels_last_3d if self.architecture_config.dims == 3 else torch.channels_last

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "float32" or (self.precision == "auto" and not has_bfloat16(device)):
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def train_step(
        self, iteration: int, batch: dict[str, torch.Tensor], device: torch.device, *, looked_at: bool = False
    ) -> Step:
        """One step of the optimiser; nothing on the device is waited for. `looked_at` keeps what a snapshot shows."""
        assert self.task is not None
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(iteration)
        clock = StepClock(device)
        raw = batch["raw"].to(device, memory_format=self.memory_format, non_blocking=True)
        target, weight = (batch[k].to(device, non_blocking=True) for k in ("target", "weight"))
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast(device):
            prediction = self.model(raw)
        if looked_at:
            prediction.retain_grad()
        loss = self.task.loss.compute(prediction.float(), target, weight)
        clock.mark()
        loss.backward()
        clock.mark()
        self.optimizer.step()
        clock.mark()
        if not looked_at:
            return Step(loss.detach(), clock=clock)
        activation = self.model.eval_activation
        shown = prediction.detach().float()
        return Step(loss.detach(), shown if activation is None else activation(shown), prediction.grad, clock)

    # State, from and to stores.

    def weights(self) -> Weights:
        """What a checkpoint holds: the next step depends on nothing else but the config."""
        return Weights(self.model.state_dict(), self.optimizer.state_dict())

    def load_weights(self, weights: Weights, *, with_optimizer: bool = True) -> None:
        """Continue from `weights`; ConfigError names what does not fit."""
        try:
            self.model.load_state_dict(weights.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self}: these weights are of another network: {reason[:300]}") from None
        if with_optimizer and weights.optimizer is not None:
            self.optimizer.load_state_dict(weights.optimizer)

    def resume_training(self, stats_store: Any, weights_store: Any) -> int:
        """Take over what stores have of this run, up to the latest weights; returns the iteration to go on with.

        Losses and scores without any weights are deleted: the training that begins would be mixed with them.
        """
        latest: int | None = weights_store.latest_iteration(self.name)
        if latest is None:
            lost = stats_store.retrieve_training_stats(self.name).trained_until()
            if lost:
                logger.warning("%s: there are losses until iteration %d but no weights: it begins anew", self, lost)
            self.training_stats.delete_after(0)
            self.__dict__.pop("validation_scores", None)
            stats_store.delete_training_stats(self.name)
            stats_store.delete_validation_scores(self.name)
            return 0
        self.load_weights(weights_store.retrieve_weights(self, latest))
        self.resume_from(
            stats_store.retrieve_training_stats(self.name),
            stats_store.retrieve_validation_iteration_scores(self.name),
            latest,
        )
        return latest

    def resume_from(self, stats: TrainingStats, scores: list[ValidationIterationScores], latest: int) -> None:
        """Take over what a store has of this run, up to the iteration whose weights it has."""
        self.training_stats.iteration_stats[:] = stats.iteration_stats
        self.training_stats.delete_after(latest)
        self.validation_scores.scores[:] = scores
        self.validation_scores.delete_after(latest + 1)

    def best(self, criterion: str | None = None, dataset: str | None = None) -> Best:
        """The best iteration and parameters of a criterion (by its own direction), on one validation dataset.

        Parameters
        ----------
        criterion : str, optional
            The evaluator's main one if left out.
        dataset : str, optional
            Name of a validation dataset; the first if left out.

        Raises
        ------
        ConfigError
            If there are no scores, or no such criterion or dataset.
        """
        scores = self.validation_scores
        if self.task is None or not scores.scores:
            raise ConfigError(f"{self}: nothing was validated yet: run `dacapo validate {self}` or train on")
        names = [d.name for d in scores.datasets]
        criterion = criterion or self.task.evaluator.main_criterion
        dataset = dataset or names[0]
        if criterion not in scores.criteria or dataset not in names:
            raise ConfigError(
                f"{self}: no scores of {criterion!r} on {dataset!r}: there are criteria {scores.criteria} and "
                f"datasets {names}"
            )
        column = scores.to_xarray().sel(datasets=dataset, criteria=criterion)
        by_iteration, values = scores.get_best(column, "parameters")
        iteration, value = scores.get_best(values, "iterations")
        if math.isnan(float(value)):
            raise ConfigError(f"{self}: {criterion} on {dataset} was undefined (NaN) at every validation")
        winner = by_iteration.sel(iterations=int(iteration)).item()
        return Best(dataset, criterion, int(iteration), winner, float(value))

    def save_bioimage_io_model(
        self,
        path: str | Path,
        authors: Sequence[Any],
        cite: Sequence[Any] | None = None,
        license: str = "MIT",
        input_test_image_path: str | Path | None = None,
        output_test_image_path: str | Path | None = None,
        checkpoint: int | Literal["latest"] | None = None,
        in_voxel_size: Sequence[float] | None = None,
        test_saved_model: bool = False,
        *,
        weights: Weights | None = None,
        stores: Any = None,
    ) -> None:
        """Write the network as a bioimage.io package of format 0.5, which `ModelZooConfig` and other programs read.

        Parameters
        ----------
        path : path
            Of the zip; it is replaced.
        authors : sequence of str, mapping, or objects with a `name`
            Mappings may have affiliation, email, github_user and orcid too.
        cite : sequence of str or mapping, optional
            DOIs or URLs, or mappings of text and doi or url.
        license : str
            Its SPDX identifier.
        input_test_image_path, output_test_image_path : path, optional
            A .npy with which others try the network, and what has to come out; a random one if left out.
        checkpoint : int or "latest", optional
            The iteration whose weights to write, from `stores`; the run's as they stand if left out.
        in_voxel_size : sequence of float, optional
            What the network was trained on, in nm.
        test_saved_model : bool
            Read the package again and compare, and have `bioimageio.spec` check it if that is installed.
        weights : Weights, optional
            Written instead of the run's.
        stores : Stores, optional
            Where checkpoints are.

        Raises
        ------
        ConfigError
            If an argument is impossible, or the test images are not of this network.
        """
        from dacapo.experiments.bioimageio import save_package

        images = (input_test_image_path, output_test_image_path)
        if checkpoint is not None:
            weights = self._checkpoint(checkpoint, weights, stores)
        save_package(self, Path(path), authors, cite, license, images, in_voxel_size, weights, test_saved_model)

    def _checkpoint(self, checkpoint: int | str, weights: Weights | None, stores: Any) -> Weights:
        if stores is None or weights is not None:
            raise ConfigError(f"checkpoint is {checkpoint!r}: give the stores in which it is, and no weights")
        iteration = stores.weights.latest_iteration(self.name) if checkpoint == "latest" else checkpoint
        if isinstance(iteration, bool) or not isinstance(iteration, int):
            given = "there are none of this run" if iteration is None else f"got {checkpoint!r}"
            raise ConfigError(f"{self}: checkpoint: expected an iteration or 'latest', {given}")
        return stores.weights.retrieve_weights(self.name, iteration)  # type: ignore[no-any-return]

    def relative_to(self, folder: Path) -> RunConfig:
        """The same run with relative file names resolved against `folder`."""
        resolved = {
            name: part.relative_to(folder)
            for name in ("task_config", "datasplit_config", "architecture_config", "start_config")
            if hasattr(part := getattr(self, name), "relative_to")
        }
        # Made anew, as what this one has opened is not to be shared.
        return RunConfig(**{name: resolved.get(name, getattr(self, name)) for name in type(self).model_fields})


def _kind(task: TaskConfig | None) -> str:
    return short_name(type(task)).replace("_", " ") if task is not None else ""


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: emulated, it is many times slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def from_yaml(config_yaml: str | Mapping[str, Any]) -> Model:
    """The network of a run with random weights: what a bioimage.io package of ours names as its architecture."""
    if isinstance(config_yaml, str):
        return RunConfig.from_yaml(config_yaml).model
    return RunConfig.from_dict(config_yaml).model


def Run(config: RunConfig) -> RunConfig:
    """Upstream's spelling: the config is the run."""
    return config
