"""Stores and options: what is written comes back, a torn file is survived, precedence is as said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dacapo.errors import ConfigError, DuplicateNameError, RunNotFoundError, StoreError, WeightsNotFoundError
from dacapo.experiments.run_config import RunConfig, Weights
from dacapo.experiments.scores import ValidationIterationScores
from dacapo.experiments.stats import TrainingIterationStats, TrainingStats
from dacapo.store import Stores
from dacapo.store.create_store import create_config_store, create_stats_store, create_weights_store
from dacapo.store.files import append_lines, read_lines, write_text
from dacapo.store.stores import LocalArrayIdentifier


def stats_of(n: int) -> TrainingStats:
    return TrainingStats([TrainingIterationStats(i, 1 / (i + 1), 0.1) for i in range(n)])


def test_configs_of_every_kind_come_back(small_run: RunConfig, stores: Stores) -> None:
    """Runs, tasks, architectures, trainers and datasplits are stored by name and come back equal."""
    configs = stores.configs
    configs.store_run_config(small_run)
    configs.store_run_config(small_run)  # equal content is no news
    assert configs.retrieve_run_config("small") == small_run
    for kind in ("task", "architecture", "trainer", "datasplit"):
        part = getattr(small_run, f"{kind}_config").model_copy(update={"name": "part"})
        getattr(configs, f"store_{kind}_config")(part)
        assert getattr(configs, f"retrieve_{kind}_config")("part") == part
        assert getattr(configs, f"retrieve_{kind}_config_names")() == ["part"]
        getattr(configs, f"delete_{kind}_config")("part")
        assert getattr(configs, f"retrieve_{kind}_config_names")() == []


def test_other_content_and_missing_names_are_refused(small_run: RunConfig, stores: Stores) -> None:
    """A name means one content, and a missing one is answered with the nearest."""
    stores.configs.store_run_config(small_run)
    other = RunConfig.from_dict(small_run.to_dict() | {"seed": 3})
    with pytest.raises(DuplicateNameError, match="seed: stored 0, given 3"):
        stores.configs.store_run_config(other)
    with pytest.raises(RunNotFoundError, match="Did you mean 'small'"):
        stores.configs.retrieve_run_config("smoll")
    with pytest.raises(ConfigError, match="cannot name"):
        stores.configs.retrieve_run_config("../small")


def test_stats_come_back_bit_for_bit(stores: Stores) -> None:
    """Losses are floats that survive JSON, appended or rewritten."""
    stores.stats.store_training_stats("r", stats_of(5))
    stores.stats.store_training_stats("r", stats_of(8))
    assert stores.stats.retrieve_training_stats("r") == stats_of(8)
    stores.stats.store_training_stats("r", stats_of(3))
    assert stores.stats.retrieve_training_stats("r") == stats_of(3)
    stores.stats.delete_training_stats("r")
    assert stores.stats.retrieve_training_stats("r").trained_until() == 0


def test_iterations_trained_again_count_once(stores: Stores) -> None:
    """After a kill, what was trained again replaces what was there."""
    stores.stats.append_training_stats("r", [TrainingIterationStats(i, 9.0) for i in range(4)])
    stores.stats.append_training_stats("r", [TrainingIterationStats(i, 1.0) for i in range(2, 6)])
    losses = [s.loss for s in stores.stats.retrieve_training_stats("r").iteration_stats]
    assert losses == [9.0, 9.0, 1.0, 1.0, 1.0, 1.0]


def test_scores_with_nan_come_back(small_run: RunConfig, stores: Stores) -> None:
    """NaN is a score like any other, and storing twice stores once."""
    scores = small_run.validation_scores
    scores.add_iteration_scores(ValidationIterationScores(3, [[[math.nan, 1.0]]]))
    stores.stats.store_validation_iteration_scores("small", scores)
    scores.add_iteration_scores(ValidationIterationScores(6, [[[0.5, math.inf]]]))
    stores.stats.store_validation_iteration_scores("small", scores)
    stores.stats.store_validation_iteration_scores("small", scores)
    found = stores.stats.retrieve_validation_iteration_scores("small")
    assert repr(found) == repr(scores.scores)


def test_a_torn_line_is_left_out_and_written_over(tmp_path: Path) -> None:
    """A line that a kill tore hides nothing before or after it."""
    file = tmp_path / "a.jsonl"
    append_lines(file, [{"a": 1}])
    with file.open("a") as handle:
        handle.write('{"a": 2, "b')
    append_lines(file, [{"a": 3}])
    assert read_lines(file) == [{"a": 1}, {"a": 3}]


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old content stays, no temporary file is left, and the message names the file and the reason."""
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StoreError, match=r"cannot write .*a.txt: No space left on device"):
            write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_weights_come_back_and_missing_ones_list_what_there_is(stores: Stores) -> None:
    """Tensors come back equal; a missing iteration names those that are there."""
    weights = Weights({"a": torch.arange(6.0).reshape(2, 3)}, {"state": {}, "param_groups": []})
    stores.weights.store("r", 10, weights)
    assert torch.equal(stores.weights.retrieve_weights("r", 10).model["a"], weights.model["a"])
    assert stores.weights.latest_iteration("r") == 10
    with pytest.raises(WeightsNotFoundError, match="no weights of iteration 5: there are 10"):
        stores.weights.retrieve_weights("r", 5)
    with pytest.raises(FileNotFoundError):
        stores.weights.retrieve_weights("other", 5)


def test_a_checkpoint_that_would_run_code_is_refused(stores: Stores, tmp_path: Path) -> None:
    """A file that pickles a call is not loaded."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, ("open('/dev/null')",))

    folder = stores.base / "r" / "checkpoints" / "iterations"
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(StoreError, match="cannot read"):
        stores.weights.retrieve_weights("r", 1)


def test_other_files_among_checkpoints_do_not_matter(stores: Stores) -> None:
    """A temporary or foreign file is no iteration."""
    folder = stores.base / "r" / "checkpoints" / "iterations"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("x")
    assert stores.weights.latest_iteration("r") is None


def test_arrays_have_their_places(stores: Stores) -> None:
    """Upstream's places, and only arrays inside containers are ever removed."""
    found = stores.arrays.validation_prediction_array("r", 3, "ds_a")
    assert found.path == str(stores.base / "r" / "validation.zarr" / "3/ds_a/prediction")
    with pytest.raises(StoreError, match="not removed"):
        stores.arrays.remove(LocalArrayIdentifier(stores.base, "x"))


def test_upstreams_way_to_the_stores(tmp_path: Path) -> None:
    """`create_*_store()` open the stores of the options in force."""
    base = tmp_path / "runs"
    assert create_config_store().path == base / "configs"
    assert create_stats_store().path == base / "stats"
    assert create_weights_store().path == base
