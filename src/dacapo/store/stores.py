"""The stores of a folder of runs: configs, stats, weights and the places of arrays.

Layout below `runs_base_dir`, upstream's:

    configs/runs/{run}.yaml                  the experiment, whole
    stats/training_stats/{run}.jsonl         one line an iteration, appended
    stats/validation_scores/{run}.jsonl      one line a validation, appended
    {run}/checkpoints/iterations/{n}         model and optimiser after n iterations
    {run}/validation.zarr/{n}/{dataset}/…    predictions and segmentations of validations
    {run}/snapshot.zarr                      batches looked at while training

One process writes a run, see `RunLock`. May import `experiments`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.config import Config, family
from dacapo.errors import (
    ConfigError,
    DuplicateNameError,
    RunNotFoundError,
    StoreError,
    WeightsNotFoundError,
    did_you_mean,
)
from dacapo.experiments.scores import ValidationIterationScores
from dacapo.experiments.stats import TrainingIterationStats, TrainingStats
from dacapo.store.files import append_lines, read_lines, write_atomic, write_text

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig, Weights
    from dacapo.experiments.scores import ValidationScores

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=,@()-]*")


def checked_name(name: str) -> str:
    """A name that is safe as a file name everywhere; ConfigError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise ConfigError(f"{name!r} cannot name a stored thing: use letters, digits and . _ - + = , @ ( )")
    return name


class FileConfigStore:
    """Configs as YAML files, a folder per collection."""

    collections = ("runs", "tasks", "datasplits", "datasets", "arrays", "architectures", "trainers")

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def _file(self, collection: str, name: str) -> Path:
        return self.path / collection / f"{checked_name(name)}.yaml"

    def names(self, collection: str) -> list[str]:
        return sorted(p.stem for p in (self.path / collection).glob("*.yaml") if not p.name.startswith("."))

    def store(self, collection: str, config: Config) -> None:
        """Equal content is no news; other content under the name is a DuplicateNameError."""
        name: str = config.name  # type: ignore[attr-defined]
        if name in self.names(collection):
            there = self.retrieve(collection, name, type(config))
            if there == config:
                return
            raise DuplicateNameError(
                f"{name!r} is in {self.path / collection} with other content ({_difference(there, config)}): "
                f"give the new one another name, or delete the old one"
            )
        write_text(self._file(collection, name), config.to_yaml())

    def retrieve(self, collection: str, name: str, cls: type[Config]) -> Any:
        file = self._file(collection, name)
        if not file.is_file():
            kind = collection.removesuffix("s")
            raise RunNotFoundError(
                f"no {kind} named {name!r} in {self.path / collection}.{did_you_mean(name, self.names(collection))}"
            )
        return cls.from_yaml(file.read_text(encoding="utf-8"), str(file))

    def delete(self, collection: str, name: str) -> None:
        self._file(collection, name).unlink(missing_ok=True)

    def store_run_config(self, config: RunConfig) -> None:
        self.store("runs", config)

    def retrieve_run_config(self, name: str) -> RunConfig:
        from dacapo.experiments.run_config import RunConfig

        return self.retrieve("runs", name, RunConfig)

    def retrieve_run_config_names(self) -> list[str]:
        return self.names("runs")

    def delete_run_config(self, name: str) -> None:
        self.delete("runs", name)


def _parts(kind: str, collection: str) -> dict[str, Any]:
    def store(self: FileConfigStore, config: Config) -> None:
        self.store(collection, config)

    def retrieve(self: FileConfigStore, name: str) -> Any:
        import dacapo.experiments.run_config  # noqa: F401  (registers every family)

        families = [c for c in Config.__subclasses__() if c.kind == kind and family(c)]
        return self.retrieve(collection, name, families[0])

    def names(self: FileConfigStore) -> list[str]:
        return self.names(collection)

    def delete(self: FileConfigStore, name: str) -> None:
        self.delete(collection, name)

    return {
        f"store_{kind}_config": store,
        f"retrieve_{kind}_config": retrieve,
        f"retrieve_{kind}_config_names": names,
        f"delete_{kind}_config": delete,
    }


for _kind in ("task", "architecture", "trainer", "datasplit", "dataset", "array"):
    for _method_name, _method in _parts(_kind, f"{_kind}s").items():
        setattr(FileConfigStore, _method_name, _method)


def _difference(a: Config, b: Config) -> str:
    """The first field in which two configs of one class differ."""
    for name in type(a).model_fields:
        x, y = getattr(a, name), getattr(b, name)
        if x != y:
            if isinstance(x, Config) and type(x) is type(y):
                return f"{name}.{_difference(x, y)}"
            shown = [v.to_dict() if isinstance(v, Config) else v for v in (x, y)]
            return f"{name}: stored {_brief(shown[0])}, given {_brief(shown[1])}"
    return "type"


def _brief(value: Any, width: int = 60) -> str:
    text = str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


class FileStatsStore:
    """Training stats and validation scores as JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def _training(self, run: str) -> Path:
        return self.path / "training_stats" / f"{checked_name(run)}.jsonl"

    def _validation(self, run: str) -> Path:
        return self.path / "validation_scores" / f"{checked_name(run)}.jsonl"

    def store_training_stats(self, run: str, stats: TrainingStats) -> None:
        """Make the stored stats those given; what is new at the end is appended."""
        stored = self.retrieve_training_stats(run).iteration_stats
        given = stats.iteration_stats
        if stored == given[: len(stored)]:
            append_lines(self._training(run), (_training_record(s) for s in given[len(stored) :]))
            return
        write_text(self._training(run), "")
        append_lines(self._training(run), (_training_record(s) for s in given))

    def append_training_stats(self, run: str, new: list[TrainingIterationStats]) -> None:
        """Add iterations that follow those stored."""
        append_lines(self._training(run), (_training_record(s) for s in new))

    def retrieve_training_stats(self, run: str) -> TrainingStats:
        """What was stored; where iterations were trained again after a kill, the later line counts."""
        by_iteration: dict[int, TrainingIterationStats] = {}
        for r in read_lines(self._training(run)):
            by_iteration[r["iteration"]] = TrainingIterationStats(r["iteration"], r["loss"], r.get("time", 0.0))
        return TrainingStats([by_iteration[i] for i in sorted(by_iteration)])

    def delete_training_stats(self, run: str) -> None:
        self._training(run).unlink(missing_ok=True)

    def store_validation_iteration_scores(self, run: str, scores: ValidationScores) -> None:
        """Make the stored scores those given; what is new at the end is appended."""
        stored, given = self.retrieve_validation_iteration_scores(run), scores.scores
        if [_comparable(s) for s in stored] == [_comparable(s) for s in given[: len(stored)]]:
            append_lines(self._validation(run), (_validation_record(s) for s in given[len(stored) :]))
            return
        lines = "".join(json.dumps(_validation_record(s)) + "\n" for s in given)
        write_text(self._validation(run), lines)

    def retrieve_validation_iteration_scores(self, run: str) -> list[ValidationIterationScores]:
        by_iteration = {r["iteration"]: r["scores"] for r in read_lines(self._validation(run))}
        return [ValidationIterationScores(i, by_iteration[i]) for i in sorted(by_iteration)]

    def delete_validation_scores(self, run: str) -> None:
        self._validation(run).unlink(missing_ok=True)


def _training_record(s: TrainingIterationStats) -> dict[str, Any]:
    return {"iteration": s.iteration, "loss": s.loss, "time": s.time}


def _validation_record(s: ValidationIterationScores) -> dict[str, Any]:
    return {"iteration": s.iteration, "scores": s.scores}


def _comparable(s: ValidationIterationScores) -> str:
    return repr((s.iteration, s.scores))  # NaN equals itself here


class LocalWeightsStore:
    """Checkpoints as files that hold tensors and numbers only; loading never runs what a file says."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def _folder(self, run: str) -> Path:
        return self.path / checked_name(run) / "checkpoints" / "iterations"

    def store(self, run: str, iteration: int, weights: Weights) -> Path:
        """Keep the weights that `iteration` steps made."""
        import torch

        path = self._folder(run) / str(iteration)
        content = {"iteration": iteration, "model": weights.model, "optimizer": weights.optimizer}
        write_atomic(path, lambda file: torch.save(content, file))
        return path

    def store_weights(self, run: RunConfig, iteration: int) -> None:
        """Upstream's form: the weights of a run as it stands."""
        self.store(run.name, iteration, run.weights())

    def path_of(self, run: str, iteration: int) -> Path:
        """The file of an iteration; WeightsNotFoundError lists the iterations that there are."""
        path = self._folder(run) / str(iteration)
        if not path.is_file():
            there = self.iterations(run)
            shown = f"there are {', '.join(map(str, there))}" if there else "there are none"
            raise WeightsNotFoundError(f"run {run!r} has no weights of iteration {iteration}: {shown}")
        return path

    def retrieve_weights(self, run: RunConfig | str, iteration: int) -> Weights:
        """WeightsNotFoundError lists the iterations that there are."""
        return read_weights(self.path_of(run if isinstance(run, str) else run.name, iteration))

    def iterations(self, run: str) -> list[int]:
        folder = self._folder(run)
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(int(n) for n in names if n.isdigit())

    def latest_iteration(self, run: RunConfig | str) -> int | None:
        return max(self.iterations(run if isinstance(run, str) else run.name), default=None)

    def remove(self, run: RunConfig | str, iteration: int) -> None:
        (self._folder(run if isinstance(run, str) else run.name) / str(iteration)).unlink(missing_ok=True)


def read_weights(path: Path) -> Weights:
    """A checkpoint file, on the CPU. Only tensors and numbers are loaded, whatever the file says."""
    from dacapo.experiments.model import read_checkpoint
    from dacapo.experiments.run_config import Weights

    try:
        content = read_checkpoint(path)
    except ConfigError as error:
        raise StoreError(str(error)) from error
    return Weights(content["model"], content.get("optimizer"))


@dataclass(frozen=True)
class LocalArrayIdentifier:
    """Where an array is: a container and a path inside it."""

    container: Path
    dataset: str

    @property
    def path(self) -> str:
        return str(self.container / self.dataset)


@dataclass(frozen=True)
class LocalContainerIdentifier:
    container: Path

    def array_identifier(self, dataset: str) -> LocalArrayIdentifier:
        return LocalArrayIdentifier(self.container, dataset)


class LocalArrayStore:
    """Where the arrays of a run are."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def snapshot_container(self, run: str) -> LocalContainerIdentifier:
        return LocalContainerIdentifier(self.path / checked_name(run) / "snapshot.zarr")

    def validation_container(self, run: str) -> LocalContainerIdentifier:
        return LocalContainerIdentifier(self.path / checked_name(run) / "validation.zarr")

    def validation_prediction_array(self, run: str, iteration: int, dataset: Any) -> LocalArrayIdentifier:
        return self.validation_container(run).array_identifier(f"{iteration}/{dataset}/prediction")

    def validation_output_array(self, run: str, iteration: int, parameters: Any, dataset: Any) -> LocalArrayIdentifier:
        folder = getattr(parameters, "folder", None) or str(parameters)
        return self.validation_container(run).array_identifier(f"{iteration}/{dataset}/output/{folder}")

    def remove(self, identifier: LocalArrayIdentifier) -> None:
        """Delete an array inside a .zarr container; nothing else is ever deleted."""
        import shutil

        if identifier.container.suffix != ".zarr" or not identifier.dataset:
            raise StoreError(f"{identifier.path} is no array inside a .zarr container: not removed")
        shutil.rmtree(identifier.path, ignore_errors=True)


@dataclass(frozen=True)
class Stores:
    """The four stores of one folder of runs."""

    base: Path

    @classmethod
    def from_options(cls, **options: Any) -> Stores:
        from dacapo.options import Options

        return cls(Options.instance(**options).runs_base_dir)

    @property
    def configs(self) -> FileConfigStore:
        return FileConfigStore(self.base / "configs")

    @property
    def stats(self) -> FileStatsStore:
        return FileStatsStore(self.base / "stats")

    @property
    def weights(self) -> LocalWeightsStore:
        return LocalWeightsStore(self.base)

    @property
    def arrays(self) -> LocalArrayStore:
        return LocalArrayStore(self.base)

    def run_folder(self, run: str) -> Path:
        return self.base / checked_name(run)

    def recall_scores(self, run: RunConfig) -> None:
        """Make the run's validation scores those that are stored. Opens the run's validation data."""
        run.validation_scores.scores[:] = self.stats.retrieve_validation_iteration_scores(run.name)

    def is_locked(self, run: str) -> bool:
        """Whether a process is training or validating the run."""
        import fcntl

        lock = self.run_folder(run) / ".lock"
        if not lock.exists():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def writing(self, run: str) -> Iterator[None]:
        """Hold the run for one writer; a second is refused. A lock dies with its process."""
        import fcntl

        folder = self.run_folder(run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / ".lock").open("a")
        except OSError as error:
            raise StoreError(f"cannot write {folder}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(f"another process is training or validating {run!r} in {self.base}") from None
            yield
