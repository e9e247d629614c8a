"""The four stores of one folder of runs, together. One process writes a run, see `Stores.writing`.

May import `experiments`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, StoreError
from dacapo.store.array_store import ArrayStore, LocalArrayIdentifier, LocalContainerIdentifier
from dacapo.store.config_store import ConfigStore, checked_name
from dacapo.store.file_stores import FileConfigStore, FileStatsStore, LocalArrayStore, LocalWeightsStore
from dacapo.store.stats_store import VALIDATION, StatsStore
from dacapo.store.weights_store import WeightsStore, read_weights

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig

__all__ = [
    "FileConfigStore",
    "FileStatsStore",
    "LocalArrayIdentifier",
    "LocalArrayStore",
    "LocalContainerIdentifier",
    "LocalWeightsStore",
    "Stores",
    "checked_name",
    "read_weights",
]


@dataclass(frozen=True, eq=False)
class Stores:
    """The four stores of a folder of runs; files, unless others are given."""

    base: Path
    """Folder of weights, arrays and locks."""
    configs: ConfigStore = None  # type: ignore[assignment]
    stats: StatsStore = None  # type: ignore[assignment]
    weights: WeightsStore = None  # type: ignore[assignment]
    arrays: ArrayStore = None  # type: ignore[assignment]
    _temporary: Any = field(default=None, repr=False)
    """Removes the folder, if it is temporary, when nobody holds the stores any more."""

    def __post_init__(self) -> None:
        base = Path(self.base)
        defaults = {
            "configs": lambda: FileConfigStore(base / "configs"),
            "stats": lambda: FileStatsStore(base / "stats"),
            "weights": lambda: LocalWeightsStore(base),
            "arrays": lambda: LocalArrayStore(base),
        }
        object.__setattr__(self, "base", base)
        for name, make in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, make())

    @classmethod
    def from_options(cls, **options: Any) -> Stores:
        """The stores of the options in force: files, or MongoDB for configs and stats."""
        from dacapo.options import Options

        said = Options.instance(**options)
        if said.type != "mongo":
            return cls(said.runs_base_dir)
        from dacapo.store.mongo_stores import MongoConfigStore, MongoStatsStore, connect

        database = connect(said.mongo_db_host or "", said.mongo_db_name or "")
        return cls(said.runs_base_dir, MongoConfigStore(database), MongoStatsStore(database))

    @classmethod
    def in_memory(cls) -> Stores:
        """Stores for tests and notebooks: configs and stats in memory, weights and arrays in a temporary folder
        that goes when nobody holds the stores any more."""
        import shutil
        import tempfile
        import weakref

        from dacapo.store.memory_stores import MemoryConfigStore, MemoryStatsStore

        folder = Path(tempfile.mkdtemp(prefix="dacapo-"))
        stores = cls(folder, MemoryConfigStore(), MemoryStatsStore())
        object.__setattr__(stores, "_temporary", weakref.finalize(stores, shutil.rmtree, folder, ignore_errors=True))
        return stores

    def run_folder(self, run: str) -> Path:
        return self.base / checked_name(run)

    def marks(self, run: str) -> list[list[int]] | None:
        """What changes when the config or the scores of a run do; None where it cannot be told."""
        config, scores = self.configs.mark("runs", run), self.stats.mark(VALIDATION, run)
        return None if config is None or scores is None else [config, scores]

    def recall_scores(self, run: RunConfig) -> None:
        """Make the run's validation scores those that are stored. Opens the run's validation data."""
        run.validation_scores.scores[:] = self.stats.retrieve_validation_iteration_scores(run.name)

    def record_best(self, run: RunConfig) -> None:
        """Note, from the scores of a run, which iteration is best on each dataset by each criterion that counts.

        Notes that no score bears out go. A best iteration whose weights are gone is left out.
        """
        if run.task is None:
            return
        weights, there = self.weights, set(self.weights.iterations(run.name))
        outdated = set(weights.bests(run.name))
        for criterion in filter(run.task.evaluator.store_best, run.validation_scores.criteria):
            for dataset in run.validation_scores.datasets:
                try:
                    best = run.best(criterion, dataset.name)
                except ConfigError:  # not validated, or never a value
                    continue
                if best.iteration in there:
                    weights.store_best(
                        run, best.iteration, dataset, criterion, parameters=best.parameters.to_dict(), score=best.score
                    )
                    outdated.discard((dataset.name, criterion))
        for name, criterion in outdated:
            weights.delete_best(run, name, criterion)

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
