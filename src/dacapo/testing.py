"""Contract suites for stores: what every backend promises, to be inherited by a backend's tests.

    from dacapo.testing import ConfigStoreTests

    class TestMyConfigs(ConfigStoreTests):
        @pytest.fixture
        def store(self, tmp_path):
            return MyConfigStore(tmp_path)

Each test gets a new, empty `store`. pytest is imported in the tests only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.stats import TrainingStats
    from dacapo.store import ArrayStore, ConfigStore, StatsStore, WeightsStore

__all__ = ["ArrayStoreTests", "ConfigStoreTests", "StatsStoreTests", "WeightsStoreTests", "example_run"]


def example_run(name: str = "small", **changes: Any) -> RunConfig:
    """A run whose parts have names, with a network of a few hundred weights; its data is nowhere."""
    from dacapo.experiments.run_config import RunConfig

    array = {"type": "ZarrArrayConfig", "file_name": "volume.zarr"}
    fields = {
        "name": name,
        "task": {"type": "affinities", "name": "affs", "neighborhood": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
        "architecture": {
            "type": "cnnectome_unet",
            "name": "unet",
            "input_shape": [8, 8, 8],
            "fmaps_in": 1,
            "fmaps_out": 2,
            "num_fmaps": 2,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]],
            "padding": "same",
        },
        "trainer": {"type": "gunpowder", "name": "plain", "augments": [{"type": "simple"}]},
        "datasplit": {
            "type": "train_validate",
            "name": "crops",
            "train": [{"name": "a", "raw": array | {"dataset": "raw"}, "gt": array | {"dataset": "labels"}}],
            "validate": [],
        },
        "num_iterations": 10,
    }
    return RunConfig.from_dict(fields | changes)


class ConfigStoreTests:
    """What every ConfigStore promises."""

    def test_every_kind_comes_back_equal(self, store: ConfigStore) -> None:
        """Configs of each kind are stored, listed, retrieved equal, and deleted, by the methods of their kind."""
        run: Any = example_run()
        dataset = run.datasplit_config.train_configs[0]
        parts = {
            "run": run,
            "task": run.task_config,
            "architecture": run.architecture_config,
            "trainer": run.trainer_config,
            "datasplit": run.datasplit_config,
            "dataset": dataset,
            "array": dataset.raw_config.model_copy(update={"name": "raw"}),
        }
        for kind, config in parts.items():
            store_it, retrieve, names, delete = (
                getattr(store, method.format(kind))
                for method in ("store_{}_config", "retrieve_{}_config", "retrieve_{}_config_names", "delete_{}_config")
            )
            assert names() == []
            store_it(config)
            assert retrieve(config.name) == config
            assert names() == [config.name]
            delete(config.name)
            delete(config.name)  # that it is not there any more is no error
            assert names() == []

    def test_collections_are_apart(self, store: ConfigStore) -> None:
        """A task and a trainer may have the same name, and names are listed in order."""
        run: Any = example_run()
        store.store("tasks", run.task_config.model_copy(update={"name": "x"}))
        store.store("trainers", run.trainer_config.model_copy(update={"name": "x"}))
        for name in ("b", "a.1", "a"):
            store.store_run_config(example_run(name))
        assert store.names("tasks") == store.names("trainers") == ["x"]
        assert store.names("runs") == ["a", "a.1", "b"]

    def test_a_name_means_one_content(self, store: ConfigStore) -> None:
        """Equal content is no news, other content is refused with the field that differs, and nothing is changed."""
        import pytest

        from dacapo.errors import DuplicateNameError

        store.store_run_config(example_run())
        store.store_run_config(example_run())
        with pytest.raises(DuplicateNameError, match="num_iterations: stored 10, given 20"):
            store.store_run_config(example_run(num_iterations=20))
        assert store.retrieve_run_config("small") == example_run()

    def test_fields_can_be_ignored(self, store: ConfigStore) -> None:
        """With `ignore`, content that differs in those fields alone is no news; what was stored stays."""
        import pytest

        from dacapo.errors import DuplicateNameError

        store.store_run_config(example_run())
        store.store_run_config(example_run(num_iterations=20), ignore=["num_iterations"])
        with pytest.raises(DuplicateNameError, match="seed"):
            store.store_run_config(example_run(num_iterations=20, seed=3), ignore=["num_iterations"])
        assert store.retrieve_run_config("small").num_iterations == 10

    def test_missing_and_impossible_names(self, store: ConfigStore) -> None:
        """A missing name is answered with the nearest; one that could leave the store is refused."""
        import pytest

        from dacapo.errors import ConfigError, RunNotFoundError

        store.store_run_config(example_run())
        with pytest.raises(RunNotFoundError, match="Did you mean 'small'"):
            store.retrieve_run_config("smoll")
        for name in ("../small", "", "a/b", ".hidden", "a\n"):
            with pytest.raises(ConfigError, match="cannot name"):
                store.retrieve_run_config(name)
            with pytest.raises(ConfigError, match="cannot name"):
                store.store_run_config(example_run(name))

    def test_runs_by_the_names_of_their_parts(self, store: ConfigStore) -> None:
        """Filters hold together: a run is listed if each of its named parts is among those asked for."""
        first: Any = example_run("first")
        other = first.task_config.to_dict() | {"name": "other"}
        store.store_run_config(first)
        store.store_run_config(example_run("second", task=other))
        assert store.retrieve_run_config_names(task_names=["affs"]) == ["first"]
        assert store.retrieve_run_config_names(task_names=["affs", "other"]) == ["first", "second"]
        assert store.retrieve_run_config_names(["other"], ["crops"], ["unet"], ["plain"]) == ["second"]
        assert store.retrieve_run_config_names(["other"], architecture_names=["none"]) == []
        assert store.retrieve_run_config_names(trainer_names=[]) == []

    def test_what_is_retrieved_is_a_copy(self, store: ConfigStore) -> None:
        """The plain data a store gives out is not the store's own."""
        store.store_run_config(example_run())
        found: Any = store._read("runs", "small")
        found["task_config"]["name"] = "changed"
        assert store.retrieve_run_config("small") == example_run()


class StatsStoreTests:
    """What every StatsStore promises."""

    @staticmethod
    def stats(losses: list[float], start: int = 0) -> TrainingStats:
        from dacapo.experiments.stats import StepTimes, TrainingIterationStats, TrainingStats

        split = StepTimes(0.1 / 3, 0.02, 0.03, 1e-6)  # of every other, as of a run that an earlier version began
        return TrainingStats(
            [TrainingIterationStats(i, loss, 0.1, split if i % 2 else None) for i, loss in enumerate(losses, start)]
        )

    @staticmethod
    def scores(by_iteration: dict[int, list[list[list[float]]]]) -> Any:
        from types import SimpleNamespace

        from dacapo.experiments.scores import ValidationIterationScores

        return SimpleNamespace(scores=[ValidationIterationScores(i, s) for i, s in by_iteration.items()])

    def test_stats_come_back_bit_for_bit(self, store: StatsStore) -> None:
        """Losses survive, infinite and NaN ones too; storing again stores what is given, longer, shorter or other."""
        losses = [1 / 3, 0.1 + 0.2, 1e-300, math.inf, 5e-324]
        store.store_training_stats("r", self.stats(losses[:3]))
        store.store_training_stats("r", self.stats(losses))
        store.store_training_stats("r", self.stats(losses))
        assert store.retrieve_training_stats("r") == self.stats(losses)
        store.store_training_stats("r", self.stats([*losses, math.nan]))
        assert math.isnan(store.retrieve_training_stats("r").iteration_stats[-1].loss)
        store.store_training_stats("r", self.stats(losses[:2]))
        assert store.retrieve_training_stats("r") == self.stats(losses[:2])
        store.store_training_stats("r", self.stats([7.0, 8.0]))
        assert store.retrieve_training_stats("r") == self.stats([7.0, 8.0])

    def test_iterations_trained_again_count_once(self, store: StatsStore) -> None:
        """After a kill, what was trained again replaces what was there."""
        store.append_training_stats("r", self.stats([9.0] * 4).iteration_stats)
        store.append_training_stats("r", self.stats([1.0] * 4, start=2).iteration_stats)
        store.append_training_stats("r", [])
        assert [s.loss for s in store.retrieve_training_stats("r").iteration_stats] == [9.0, 9.0, 1.0, 1.0, 1.0, 1.0]

    def test_scores_come_back(self, store: StatsStore) -> None:
        """NaN and infinity are scores like any other, storing twice stores once, and gaps stay gaps."""
        given = {3: [[[math.nan, 1.0], [0.1, -math.inf]]], 9: [[[0.5, math.inf], [2.0, 3.0]]]}
        store.store_validation_iteration_scores("r", self.scores({3: given[3]}))
        store.store_validation_iteration_scores("r", self.scores(given))
        store.store_validation_iteration_scores("r", self.scores(given))
        assert repr(store.retrieve_validation_iteration_scores("r")) == repr(self.scores(given).scores)
        store.store_validation_iteration_scores("r", self.scores({3: given[3]}))
        assert [s.iteration for s in store.retrieve_validation_iteration_scores("r")] == [3]

    def test_an_iteration_validated_again_counts_once(self, store: StatsStore) -> None:
        """Appended scores of an iteration that was there replace the old ones; order does not matter."""
        store.append_validation_iteration_scores("r", self.scores({3: [[[1.0]]], 6: [[[2.0]]]}).scores)
        store.append_validation_iteration_scores("r", self.scores({3: [[[0.5]]]}).scores)
        found = store.retrieve_validation_iteration_scores("r")
        assert [(s.iteration, s.scores) for s in found] == [(3, [[[0.5]]]), (6, [[[2.0]]])]

    def test_runs_and_series_are_apart(self, store: StatsStore) -> None:
        """What is stored, replaced or deleted of one run changes nothing of another, nor scores losses."""
        for run in ("r", "r.1", "r2"):
            store.store_training_stats(run, self.stats([1.0, 2.0]))
            store.store_validation_iteration_scores(run, self.scores({1: [[[1.0]]]}))
        store.store_training_stats("r", self.stats([3.0]))
        store.store_validation_iteration_scores("r", self.scores({2: [[[1.0]]]}))
        store.delete_training_stats("r2")
        assert store.retrieve_training_stats("r") == self.stats([3.0])
        assert store.retrieve_training_stats("r.1") == self.stats([1.0, 2.0])
        assert store.retrieve_training_stats("r2").trained_until() == 0
        assert [s.iteration for s in store.retrieve_validation_iteration_scores("r")] == [2]
        assert [s.iteration for s in store.retrieve_validation_iteration_scores("r2")] == [1]
        store.delete_validation_scores("r2")
        assert store.retrieve_validation_iteration_scores("r2") == []

    def test_appending_reads_nothing(self, store: StatsStore, monkeypatch: Any) -> None:
        """The cost of an append does not grow with what is there: none of it is read."""

        def refuse(*_: Any) -> None:
            raise AssertionError("an append read the history")

        with monkeypatch.context() as patch:
            patch.setattr(store, "_records", refuse)
            for start in range(3):
                store.append_training_stats("r", self.stats([1.0], start).iteration_stats)
                store.append_validation_iteration_scores("r", self.scores({start: [[[1.0]]]}).scores)
        assert store.retrieve_training_stats("r").trained_until() == 3

    def test_a_run_without_records_is_empty(self, store: StatsStore) -> None:
        """Nothing stored is nothing found, and deleting it is no error."""
        store.delete_training_stats("r")
        store.delete_validation_scores("r")
        assert store.retrieve_training_stats("r").iteration_stats == []
        assert store.retrieve_validation_iteration_scores("r") == []


class WeightsStoreTests:
    """What every WeightsStore promises."""

    def test_weights_come_back(self, store: WeightsStore) -> None:
        """A run's tensors and its optimiser's state come back equal, into another run of the same config."""
        import torch

        run, fresh = example_run(), example_run(seed=1)
        store.store_weights(run, 10)
        found = store.retrieve_weights("small", 10)
        assert all(torch.equal(found.model[name], tensor) for name, tensor in run.model.state_dict().items())
        store.load_weights(fresh, 10)
        same = zip(fresh.model.parameters(), run.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
        assert store.path_of("small", 10).is_file()

    def test_missing_weights_list_what_there_is(self, store: WeightsStore) -> None:
        """A missing iteration names those that are there, and is a FileNotFoundError too."""
        import pytest

        from dacapo.errors import WeightsNotFoundError

        assert store.latest_iteration("small") is None
        for iteration in (10, 2):
            store.store_weights(example_run(), iteration)
        assert store.iterations("small") == [2, 10]
        assert store.latest_iteration(example_run()) == 10
        with pytest.raises(WeightsNotFoundError, match="no weights of iteration 5: there are 2, 10"):
            store.retrieve_weights("small", 5)
        with pytest.raises(FileNotFoundError):
            store.retrieve_weights("other", 5)

    def test_best_by_one_criterion_is_not_best_by_another(self, store: WeightsStore) -> None:
        """Each dataset and criterion has a note of its own, which `load_best` loads."""
        import torch

        first, second = example_run(), example_run(seed=1)
        store.store_weights(first, 2)
        store.store_weights(second, 10)
        store.store_best("small", 2, "crop", "voi", parameters={"bias": 0.5}, score=1.25)
        store.store_best("small", 10, "crop", "pq")
        store.store_best("small", 10, "a/b", "voi")
        store.store_best("small", 2, "a_b", "voi", score=math.inf)
        assert store.retrieve_best(first, "crop", "voi") == 2
        assert store.retrieve_best(first, "crop", "pq") == 10
        assert store.retrieve_best("small", "a/b", "voi") == 10
        assert store.retrieve_best("small", "a_b", "voi") == 2
        assert store.bests("small")["crop", "voi"] == {"iteration": 2, "parameters": {"bias": 0.5}, "score": 1.25}
        fresh = example_run(seed=2)
        assert store.load_best(fresh, "crop", "pq") == 10
        same = zip(fresh.model.parameters(), second.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)

    def test_best_weights_are_never_removed(self, store: WeightsStore) -> None:
        """Weights that are best by something stay; they can go once something else is best."""
        for iteration in (2, 4, 10):
            store.store_weights(example_run(), iteration)
        store.store_best("small", 4, "crop", "voi")
        assert store.remove("small", 2)
        assert not store.remove("small", 4)
        assert store.iterations("small") == [4, 10]
        store.store_best("small", 10, "crop", "voi")
        assert store.remove("small", 4)
        assert store.iterations("small") == [10]

    def test_a_missing_note_lists_what_is_noted(self, store: WeightsStore) -> None:
        """What was never validated is no file of a strange name, and weights that are not there are not best."""
        import pytest

        from dacapo.errors import WeightsNotFoundError

        store.store_weights(example_run(), 2)
        store.store_best("small", 2, "crop", "voi")
        with pytest.raises(WeightsNotFoundError, match="no best iteration by 'vio' on 'crop'.*Did you mean 'crop voi'"):
            store.retrieve_best("small", "crop", "vio")
        with pytest.raises(WeightsNotFoundError, match="no weights of iteration 3"):
            store.store_best("small", 3, "crop", "voi")
        store.delete_best("small", "crop", "voi")
        assert store.bests("small") == {}


class ArrayStoreTests:
    """What every ArrayStore promises."""

    def test_arrays_have_their_places(self, store: ArrayStore) -> None:
        """Upstream's places inside the containers of a run; no two arrays have one place."""
        raw, gt = store.validation_input_arrays("r", "crop")
        container = store.validation_container("r")
        found = [
            raw,
            gt,
            store.validation_prediction_array("r", 3, "ds_crop"),
            store.validation_output_array("r", 3, "threshold_0.5", "ds_crop"),
            store.best_validation_array("r", "voi", "crop"),
            store.best_validation_array("r", "voi"),
        ]
        assert [f.dataset for f in found] == [
            "inputs/crop/raw",
            "inputs/crop/gt",
            "3/ds_crop/prediction",
            "3/ds_crop/output/threshold_0.5",
            "crop/voi",
            "voi",
        ]
        assert found == [container.array_identifier(f.dataset) for f in found]
        assert store.snapshot_container("r") != container
        assert store.validation_container("r2") != container

    def test_only_arrays_inside_containers_are_removed(self, store: ArrayStore) -> None:
        """A container, what lies beside it or above it are refused; an array goes, its neighbour stays."""
        from pathlib import Path

        import pytest

        from dacapo.arrays import create_array
        from dacapo.errors import StoreError
        from dacapo.geometry import Grid

        container = store.validation_container("r")
        for name in ("1/a/prediction", "2/a/prediction"):
            path = container.array_identifier(name).path
            create_array(path, shape=(4, 4), dtype="uint8", grid=Grid((1.0, 1.0)))
        for outside in ("", ".", "..", "1/../../x", "../snapshot.zarr/1"):
            with pytest.raises(StoreError, match="not removed"):
                store.remove(container.array_identifier(outside))
        store.remove(container.array_identifier("1/a/prediction"))
        store.remove(container.array_identifier("1/a/prediction"))
        assert not Path(container.array_identifier("1/a/prediction").path).exists()
        assert Path(container.array_identifier("2/a/prediction").path).exists()
