"""The best iteration of each criterion: noted after each validation, and what `run.best` and `apply` go by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dacapo
from conftest import small_experiment
from dacapo.errors import ConfigError
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.scores import ValidationIterationScores
from dacapo.store import Stores


def scored(run: RunConfig, iteration: int, **values: float) -> ValidationIterationScores:
    """Scores in which the second parameter set has these values and the others are poor by every criterion."""
    criteria = run.validation_scores.criteria
    poor = [0.0 if run.task.evaluation_scores.higher_is_better(c) else 9.0 for c in criteria]  # type: ignore[union-attr]
    good = [values.get(c, p) for c, p in zip(criteria, poor, strict=True)]
    count = len(run.validation_scores.parameters)
    return ValidationIterationScores(iteration, [[good if i == 1 else list(poor) for i in range(count)]])


@pytest.fixture
def run(tmp_path: Path, stores: Stores) -> RunConfig:
    """A run with weights of three iterations, best by `voi` after 3 and by `pq` after 6."""
    run = RunConfig.from_dict(small_experiment(tmp_path))
    stores.configs.store_run_config(run)
    for iteration in (0, 3, 6):
        stores.weights.store_weights(run, iteration)
    run.validation_scores.scores[:] = [scored(run, 3, voi=1.0, pq=0.2), scored(run, 6, voi=2.0, pq=0.7)]
    stores.stats.store_validation_iteration_scores("small", run.validation_scores)
    return run


def test_each_criterion_has_its_own_best(run: RunConfig, stores: Stores, tmp_path: Path) -> None:
    """Notes, `run.best` and `apply` agree on an iteration that differs by criterion; the notes are upstream's files."""
    stores.record_best(run)
    for criterion, iteration, score in (("voi", 3, 1.0), ("pq", 6, 0.7)):
        assert run.best(criterion).iteration == iteration
        assert stores.weights.retrieve_best(run, "b", criterion) == iteration
        note = json.loads((tmp_path / f"runs/small/checkpoints/b/{criterion}.json").read_text())
        assert note == {"iteration": iteration, "parameters": run.best(criterion).parameters.to_dict(), "score": score}
        fresh = RunConfig.from_dict(run.to_dict())
        assert stores.weights.load_best(fresh, "b", criterion) == iteration
        raw, output = tmp_path / "volume1.zarr" / "raw", tmp_path / f"{criterion}.zarr"
        done = dacapo.apply("small", raw, output, criterion=criterion, workers=0, stores=stores)
        assert (done.iteration, done.parameters) == (iteration, run.best(criterion).parameters)


def test_scores_win_over_notes(run: RunConfig, stores: Stores) -> None:
    """A note that the scores do not bear out is mended, and one of no score goes."""
    stores.weights.store_best(run, 0, "b", "voi", score=0.0)
    stores.weights.store_best(run, 0, "gone", "voi")
    assert run.best("voi").iteration == 3
    stores.record_best(run)
    assert stores.weights.retrieve_best(run, "b", "voi") == 3
    assert ("gone", "voi") not in stores.weights.bests("small")
    run.validation_scores.scores[:] = []
    stores.record_best(run)
    assert stores.weights.bests("small") == {}


def test_best_weights_are_kept(run: RunConfig, stores: Stores) -> None:
    """Weights of an iteration that is best by any criterion are not removed; a best without weights is not noted."""
    stores.record_best(run)
    assert not stores.weights.remove(run, 3)
    assert not stores.weights.remove(run, 6)
    assert stores.weights.remove(run, 0)
    assert stores.weights.iterations("small") == [3, 6]
    stores.weights.path_of("small", 3).unlink()
    stores.record_best(run)
    assert ("b", "voi") not in stores.weights.bests("small")
    assert stores.weights.retrieve_best(run, "b", "pq") == 6


def test_a_validation_notes_the_best(tmp_path: Path, stores: Stores) -> None:
    """After a training, the notes are what the scores say; lost ones are written again when it goes on."""
    run = dacapo.train(RunConfig.from_dict(small_experiment(tmp_path)), stores=stores)
    tracked = [c for c in run.validation_scores.criteria if run.task.evaluator.store_best(c)]  # type: ignore[union-attr]
    assert tracked

    def expected() -> dict[tuple[str, str], int]:
        found = {}
        for criterion in tracked:
            try:
                found["b", criterion] = run.best(criterion).iteration
            except ConfigError:  # never a value
                continue
        return found

    def noted() -> dict[tuple[str, str], int]:
        return {key: note["iteration"] for key, note in stores.weights.bests("small").items()}

    assert noted() == expected()
    for key in noted():
        stores.weights.delete_best(run, *key)
    dacapo.train(RunConfig.from_dict(small_experiment(tmp_path)), stores=stores)
    assert noted() == expected()
