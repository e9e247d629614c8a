"""Every backend keeps the contract of its store: the suites of `dacapo.testing`, inherited."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import mongomock
import pytest

import dacapo
from conftest import small_experiment
from dacapo.errors import ConfigError, DuplicateNameError, StoreError
from dacapo.experiments.run_config import RunConfig
from dacapo.store import Stores
from dacapo.store.file_stores import FileConfigStore, FileStatsStore, LocalArrayStore, LocalWeightsStore
from dacapo.store.files import create_text
from dacapo.store.memory_stores import MemoryConfigStore, MemoryStatsStore
from dacapo.store.mongo_stores import MongoConfigStore, MongoStatsStore
from dacapo.testing import ArrayStoreTests, ConfigStoreTests, StatsStoreTests, WeightsStoreTests, example_run


class TestFileConfigs(ConfigStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileConfigStore:
        return FileConfigStore(tmp_path)

    def test_the_folders_are_upstreams(self, store: FileConfigStore, tmp_path: Path) -> None:
        """A folder per collection, a YAML file per name; the folders can be asked for."""
        store.store_run_config(example_run())
        assert (tmp_path / "runs" / "small.yaml").read_text() == example_run().to_yaml()
        assert store.runs == tmp_path / "runs"
        assert store.architectures == tmp_path / "architectures"

    def test_two_writers_of_a_name_cannot_both_win(self, store: FileConfigStore) -> None:
        """Of many that store other content under one name at once, one does and the others are refused."""
        outcomes: list[str] = []
        start = threading.Barrier(6)

        def write(seed: int) -> None:
            config = example_run(seed=seed)
            start.wait(timeout=10)
            try:
                store.store_run_config(config)
                outcomes.append("stored")
            except DuplicateNameError:
                outcomes.append("refused")

        threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert sorted(outcomes) == ["refused"] * 5 + ["stored"]

    def test_names_are_taken_without_links_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a file system that knows no hard links a file is written all the same, and never over another."""

        def unable(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("os.link", unable)
        assert create_text(tmp_path / "a", "one")
        assert not create_text(tmp_path / "a", "two")
        assert (tmp_path / "a").read_text() == "one"
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]


class TestMemoryConfigs(ConfigStoreTests):
    @pytest.fixture
    def store(self) -> MemoryConfigStore:
        return MemoryConfigStore()


class TestMongoConfigs(ConfigStoreTests):
    """Against mongomock, not a server."""

    @pytest.fixture
    def store(self) -> MongoConfigStore:
        return MongoConfigStore(mongomock.MongoClient().dacapo)

    def test_names_are_unique_in_the_database(self, store: MongoConfigStore) -> None:
        """The database itself refuses a second document of a name, whoever writes it."""
        store.store_run_config(example_run())
        with pytest.raises(mongomock.DuplicateKeyError):
            store.database.runs.insert_one({"name": "small"})


class TestFileStats(StatsStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStatsStore:
        return FileStatsStore(tmp_path)

    def test_an_append_writes_what_is_new_alone(self, store: FileStatsStore, tmp_path: Path) -> None:
        """However long the history, a stored iteration grows the file by its own line, and the rest is not rewritten."""
        store.store_training_stats("r", self.stats([0.5] * 1000))
        file = tmp_path / "training_stats" / "r.jsonl"
        before, inode = file.read_bytes(), file.stat().st_ino
        store.store_training_stats("r", self.stats([0.5] * 1001))
        assert file.read_bytes() == before + b'{"iteration": 1000, "loss": 0.5, "time": 0.1}\n'
        assert file.stat().st_ino == inode


class TestMemoryStats(StatsStoreTests):
    @pytest.fixture
    def store(self) -> MemoryStatsStore:
        return MemoryStatsStore()


class TestMongoStats(StatsStoreTests):
    """Against mongomock, not a server."""

    @pytest.fixture
    def store(self) -> MongoStatsStore:
        return MongoStatsStore(mongomock.MongoClient().dacapo)

    def test_documents_are_upstreams(self, store: MongoStatsStore) -> None:
        """A document per run and iteration, in upstream's collections."""
        store.store_training_stats("r", self.stats([0.5]))
        store.store_validation_iteration_scores("r", self.scores({1: [[[2.0]]]}))
        [found] = store.database.training_stats.find({}, {"_id": 0})
        assert found == {"run_name": "r", "iteration": 0, "loss": 0.5, "time": 0.1}
        [found] = store.database.validation_scores.find({}, {"_id": 0})
        assert found == {"run_name": "r", "iteration": 1, "scores": [[[2.0]]]}


class TestLocalWeights(WeightsStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalWeightsStore:
        return LocalWeightsStore(tmp_path)

    def test_a_folder_of_runs_can_be_moved(self, store: LocalWeightsStore, tmp_path: Path) -> None:
        """Notes of the best name an iteration, no path: they hold in a copy of the folder."""
        store.store_weights(example_run(), 2)
        store.store_best("small", 2, "..", "voi")  # even by such a name nothing leaves the run's folder
        (tmp_path / "small").rename(tmp_path / "moved")
        assert store.retrieve_best("moved", "..", "voi") == 2
        assert store.path_of("moved", 2).is_file()

    def test_files_of_others_are_no_notes(self, store: LocalWeightsStore, tmp_path: Path) -> None:
        """A stray file among the notes hides nothing."""
        store.store_weights(example_run(), 2)
        store.store_best("small", 2, "crop", "voi")
        (tmp_path / "small" / "checkpoints" / "crop" / "notes.json").write_text("{")
        (tmp_path / "small" / "checkpoints" / "iterations" / "x.json").write_text("[]")
        assert set(store.bests("small")) == {("crop", "voi")}


class TestLocalArrays(ArrayStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalArrayStore:
        return LocalArrayStore(tmp_path)


def test_a_run_lives_in_memory(tmp_path: Path) -> None:
    """A run is trained, validated, read and applied in stores in memory; then nothing of it is left."""
    stores = Stores.in_memory()
    run = dacapo.train(RunConfig.from_dict(small_experiment(tmp_path)), stores=stores)
    assert stores.configs.retrieve_run_config_names() == ["small"]
    again = dacapo.load("small", stores)
    assert again.training_stats.trained_until() == run.num_iterations
    assert [s.iteration for s in stores.stats.retrieve_validation_iteration_scores("small")] == [3, 6]
    raw = again.datasplit_config.validate_configs[0].raw_config  # type: ignore[union-attr]
    done = dacapo.apply(again, f"{raw.file_name}/{raw.dataset}", tmp_path / "out.zarr", workers=0, stores=stores)
    assert done.iteration in (3, 6)
    assert not (tmp_path / "runs").exists()
    folder = stores.base
    assert folder.is_dir()
    del stores
    gc.collect()
    assert not folder.exists()


def test_options_pick_mongo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`type: mongo` keeps configs and stats in the database named, weights in the folder of runs."""
    monkeypatch.setattr("pymongo.MongoClient", mongomock.MongoClient)
    (tmp_path / "dacapo.yaml").write_text("type: mongo\nmongo_db_host: localhost:27017\nmongo_db_name: runs\n")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(tmp_path / "dacapo.yaml"))
    stores = Stores.from_options()
    stores.configs.store_run_config(example_run())
    assert Stores.from_options().configs.retrieve_run_config_names() == ["small"]
    assert isinstance(stores.stats, MongoStatsStore)
    assert stores.stats.database.name == "runs"
    assert isinstance(stores.weights, LocalWeightsStore)
    assert not (tmp_path / "runs" / "configs").exists()


def test_without_pymongo_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, not an ImportError."""
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ConfigError, match=r"needs pymongo: pip install 'dacapo\[mongo\]'"):
        Stores.from_options(type="mongo", mongo_db_host="localhost", mongo_db_name="runs")


def test_a_server_that_fails_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database complains of comes as one line."""
    from pymongo.errors import ServerSelectionTimeoutError

    store = MongoConfigStore(mongomock.MongoClient().dacapo)

    def fail(*_: object, **__: object) -> None:
        raise ServerSelectionTimeoutError("localhost:27017: connection refused\nmore")

    monkeypatch.setattr(store.database.runs, "find", fail)
    with pytest.raises(StoreError, match="^MongoDB: localhost:27017: connection refused$"):
        store.names("runs")
