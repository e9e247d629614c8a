"""Train: a run from its last checkpoint to its last iteration, validated along the way.

Killed at any moment, the same call goes on, and ends with the very weights of an undisturbed run:
samples and learning rate are functions of the iteration, everything else is in the checkpoint.
Imports everything below only inside functions: `import dacapo` imports this file and stays quick.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, DataError
from dacapo.upstream_calls import also_called_as
from dacapo.upstream_calls import train as upstream_train

if TYPE_CHECKING:
    import torch

    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.stats import StepTimes, TrainingIterationStats
    from dacapo.experiments.step import Step, StepClock
    from dacapo.store import Stores

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""Losses are written this often, so that others can watch."""
CHECKPOINT_SECONDS = 120.0
"""Weights are kept at least this often; between validations only the last are kept."""


def load(
    source: RunConfig | str | Path,
    stores: Stores | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    data: Path | None = None,
) -> RunConfig:
    """A run from its config, a YAML file, or by its name in the store, with what the store has of its history.

    Parameters
    ----------
    source : RunConfig, or str that ends in .yaml, or str
    changes : mapping, optional
        Top-level fields of a YAML file to replace, such as {"num_iterations": 500}.
    data : Path, optional
        Folder that relative paths of a YAML file are in; the file's own by default.

    Raises
    ------
    ConfigError
        If the file says something impossible.
    RunNotFoundError
        If no run has that name; it names the nearest.
    """
    from dacapo.config import load_yaml
    from dacapo.experiments.run_config import RunConfig
    from dacapo.store import Stores

    stores = stores or Stores.from_options()
    if isinstance(source, RunConfig):
        return source
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        fields = load_yaml(path.read_text(encoding="utf-8"), str(path)) | dict(changes or {})
        fields = _with_datasplit(fields, path.parent)
        run = RunConfig.from_dict(fields, str(path)).relative_to((data or path.parent).resolve())
    elif changes or data:
        raise ConfigError(f"{source}: only a .yaml file can be changed; a stored run stays what it was")
    else:
        run = stores.configs.retrieve_run_config(str(source))
    if run.name:
        run.training_stats.iteration_stats[:] = stores.stats.retrieve_training_stats(run.name).iteration_stats
    return run


def _with_datasplit(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of an experiment, with a datasplit that is the name of a file read from it."""
    from dacapo.experiments.datasplits import DataSplitConfig

    for key in ("datasplit", "datasplit_config"):
        if isinstance(fields.get(key), str):
            file = folder / fields[key]
            if not file.is_file():
                raise ConfigError(f"datasplit: {file}: no such file")
            split = DataSplitConfig.from_yaml(file.read_text(encoding="utf-8"), str(file))
            return fields | {key: split.relative_to(file.parent.resolve())}
    return fields


@also_called_as(upstream_train)
def train(
    run: RunConfig | str | Path,
    validate: bool = True,
    *,
    stores: Stores | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunConfig:
    """Train a run, by its config, file or name; the config is stored under its name first.

    Raises
    ------
    DuplicateNameError
        If the store has a run of that name with other content.
    ConfigError, GeometryError, DataError, ArrayError
        If the data cannot be trained on: found before the first iteration.
    """
    from dacapo.store import Stores

    stores = stores or Stores.from_options()
    run = load(run, stores)
    if not run.name:
        raise ConfigError("a run needs a name to be stored under: give it one (name: ...)")
    if run.task is None or run.datasplit_config is None:
        raise ConfigError(f"{run}: a run needs a task and a datasplit to be trained")
    run.check()
    stores.configs.store_run_config(run)
    train_run(run, validate=validate, stores=stores, progress=progress)
    return run


@dataclass
class Progress:
    """How a training stands, for whoever shows it."""

    iteration: int
    num_iterations: int
    loss: float
    seconds_per_iteration: float
    split: StepTimes | None = None
    """Mean seconds that an iteration spent waiting for samples, in the forward and backward pass, and in the optimiser."""
    event: str = "step"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the time of each part; what no part took (checkpoints, snapshots) is in none."""
        total = max(1e-9, self.seconds_per_iteration)
        return {name: seconds / total for name, seconds in self.split._asdict().items()} if self.split else {}


def train_run(
    run: RunConfig,
    validate: bool = True,
    save_snapshots: bool = True,
    *,
    stores: Stores | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train `run` from its last checkpoint to `run.num_iterations`, validating along the way.

    With a `run.snapshot_interval`, a batch and what the network made of it are kept every so often, see `snapshots`.
    """
    from dacapo.compute_context import create_compute_context, keep_freed_memory
    from dacapo.snapshots import save_snapshot
    from dacapo.store import Stores

    stores = stores or Stores.from_options()
    context = create_compute_context()
    context.prepare()
    device, interval = context.device, run.snapshot_interval if save_snapshots else None
    with stores.writing(run.name):
        start = resume(run, stores)
        run.to(device)
        if start == 0:
            run.datasplit.check_voxels()
            run.samples().check()
            stores.weights.store(run.name, 0, run.weights())
        if validate and start > 0:
            _validate_if_due(run, start, stores, progress)
        keep_freed_memory(True)
        session = _Session(run, stores, start, progress)
        for iteration, batch in enumerate(run.data_loader(start), start):
            session.data_arrived()
            looked_at = interval is not None and iteration % interval == 0
            step = run.train_step(iteration, batch, device, looked_at=looked_at)
            session.stepped(iteration, step)
            if looked_at:
                save_snapshot(stores.arrays.snapshot_container(run.name).container, run, iteration, batch, step)
            if ends_interval(run, iteration):
                session.checkpoint(iteration + 1, keep=True)
                if validate:
                    _validate_if_due(run, iteration + 1, stores, progress)
                session.lap()
            elif session.since_checkpoint() > CHECKPOINT_SECONDS:
                session.checkpoint(iteration + 1, keep=False)
        keep_freed_memory(False)


def ends_interval(run: RunConfig, iteration: int) -> bool:
    """Whether a validation is due after this iteration."""
    return (iteration + 1) % run.validation_interval == 0 or iteration + 1 == run.num_iterations


def resume(run: RunConfig, stores: Stores) -> int:
    """Take over what the store has of `run`; returns the iteration to go on with."""
    latest = run.resume_training(stores.stats, stores.weights)
    if stores.weights.latest_iteration(run.name) is None:
        if run.start_config is not None:
            channels = run.task.channels if run.task is not None else None
            run.start_config.initialize_weights(run.model, channels, stores=stores)
        return 0
    stores.stats.store_training_stats(run.name, run.training_stats)
    stores.record_best(run)  # a kill may have come between scores and notes
    if 0 < latest < run.num_iterations:
        logger.info("%s goes on at iteration %d", run, latest)
    return latest


def _validate_if_due(
    run: RunConfig, iteration: int, stores: Stores, progress: Callable[[Progress], None] | None
) -> None:
    """Validate after `iteration` steps unless that was done, or a kill came between."""
    from dacapo.compute_context import keep_freed_memory
    from dacapo.validate import validate_run

    due = iteration % run.validation_interval == 0 or iteration == run.num_iterations
    done = any(s.iteration == iteration for s in run.validation_scores.scores)
    if not due or done or not run.datasplit.validate:
        return
    if progress:
        progress(Progress(iteration, run.num_iterations, math.nan, 0.0, event="validating"))
    keep_freed_memory(False)
    validate_run(run, iteration, stores=stores)
    if progress:
        progress(Progress(iteration, run.num_iterations, math.nan, 0.0, event="validated"))
    keep_freed_memory(True)
    run.model.train()


class _Session:
    """What is written while a run trains: losses often, weights at intervals."""

    def __init__(self, run: RunConfig, stores: Stores, start: int, progress: Callable[[Progress], None] | None) -> None:
        self.run, self.stores, self.progress = run, stores, progress
        self.pending: list[tuple[int, torch.Tensor, StepClock | None, float, float]] = []
        self.waited = 0.0
        self.rolling: int | None = None
        kept = start == 0 or start % run.validation_interval == 0 or start == run.num_iterations
        if not kept:
            self.rolling = start
        self.last_flush = self.last_checkpoint = self.last_lap = time.perf_counter()
        run.model.train()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        elapsed, self.last_lap = now - self.last_lap, now
        return elapsed

    def data_arrived(self) -> None:
        self.waited = self.lap()

    def stepped(self, iteration: int, step: Step) -> None:
        self.pending.append((iteration, step.loss, step.clock, self.waited, self.lap()))
        if time.perf_counter() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the losses; reading them is what waits for the device."""
        new = [_stats(*pending) for pending in self.pending]
        self.pending.clear()
        self.last_flush = time.perf_counter()
        for stats in new:
            if not math.isfinite(stats.loss):
                raise DataError(
                    f"{self.run}: the loss is {stats.loss} at iteration {stats.iteration}: lower learning_rate "
                    f"({self.run.learning_rate:g}) or look at the data; the last checkpoint is kept"
                )
            self.run.training_stats.add_iteration_stats(stats)
        self.stores.stats.append_training_stats(self.run.name, new)
        if self.progress and new:
            self.progress(_progress(self.run, new))

    def since_checkpoint(self) -> float:
        return time.perf_counter() - self.last_checkpoint

    def checkpoint(self, iteration: int, *, keep: bool) -> None:
        """Losses first, then weights: a store never has weights whose losses it lacks."""
        self.flush()
        self.stores.weights.store(self.run.name, iteration, self.run.weights())
        if self.rolling is not None and self.rolling != iteration:
            self.stores.weights.remove(self.run.name, self.rolling)
        self.rolling = None if keep else iteration
        self.last_checkpoint = time.perf_counter()
        self.lap()


def _stats(
    iteration: int, loss: torch.Tensor, clock: StepClock | None, waited: float, elapsed: float
) -> TrainingIterationStats:
    from dacapo.experiments.stats import TrainingIterationStats

    split = clock.times(waited) if clock is not None else None
    return TrainingIterationStats(iteration, float(loss), elapsed, split)


def _progress(run: RunConfig, new: list[TrainingIterationStats]) -> Progress:
    """Means over the iterations since the last one."""
    from dacapo.experiments.stats import StepTimes

    splits = [s.split for s in new if s.split is not None]
    split = StepTimes(*(sum(part) / len(splits) for part in zip(*splits, strict=True))) if splits else None
    seconds = sum(s.time for s in new) / len(new) + (split.data if split else 0.0)
    return Progress(new[-1].iteration + 1, run.num_iterations, sum(s.loss for s in new) / len(new), seconds, split)
