"""The contract of stats stores: the losses and the scores of runs. May import `experiments`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dacapo.experiments.scores import ValidationIterationScores
from dacapo.experiments.stats import StepTimes, TrainingIterationStats, TrainingStats

if TYPE_CHECKING:
    from dacapo.experiments.scores import ValidationScores

TRAINING, VALIDATION = "training_stats", "validation_scores"
Record = dict[str, Any]


class StatsStore(ABC):
    """Records of runs, one per iteration, in two series. A backend gives four methods over plain data."""

    @abstractmethod
    def _records(self, series: str, run: str) -> list[Record]:
        """All records of a run in the order in which they came; of two of one iteration the later counts."""

    @abstractmethod
    def _append(self, series: str, run: str, records: Sequence[Record]) -> None:
        """Add records. What this costs must not depend on how many there are."""

    @abstractmethod
    def _replace(self, series: str, run: str, records: Sequence[Record]) -> None:
        """Make these the records of a run."""

    @abstractmethod
    def _delete(self, series: str, run: str) -> None:
        """Forget the records of a run; none is no error."""

    def mark(self, series: str, run: str) -> list[int] | None:
        """What changes when the records of a run do, empty without any; None where it cannot be told."""
        return None

    def _by_iteration(self, series: str, run: str) -> list[Record]:
        latest = {record["iteration"]: record for record in self._records(series, run)}
        return [latest[iteration] for iteration in sorted(latest)]

    def _make(self, series: str, run: str, given: list[Record]) -> None:
        """Append what is new at the end, rewrite where what is there differs."""
        stored = self._by_iteration(series, run)
        if repr(stored) == repr(given[: len(stored)]):  # NaN equals itself here
            self._append(series, run, given[len(stored) :])
        else:
            self._replace(series, run, given)

    def store_training_stats(self, run: str, stats: TrainingStats) -> None:
        """Make the stored stats those given; what is new at the end is appended."""
        self._make(TRAINING, run, [_training_record(s) for s in stats.iteration_stats])

    def append_training_stats(self, run: str, new: Sequence[TrainingIterationStats]) -> None:
        """Add iterations that follow those stored."""
        if new:
            self._append(TRAINING, run, [_training_record(s) for s in new])

    def retrieve_training_stats(self, run: str) -> TrainingStats:
        """What was stored; where iterations were trained again after a kill, the later record counts."""
        records = self._by_iteration(TRAINING, run)
        return TrainingStats([_training_stats(r) for r in records])

    def delete_training_stats(self, run: str) -> None:
        self._delete(TRAINING, run)

    def store_validation_iteration_scores(self, run: str, scores: ValidationScores) -> None:
        """Make the stored scores those given; what is new at the end is appended."""
        self._make(VALIDATION, run, [_validation_record(s) for s in scores.scores])

    def append_validation_iteration_scores(self, run: str, new: Sequence[ValidationIterationScores]) -> None:
        """Add the scores of iterations; those of an iteration that was there are replaced."""
        if new:
            self._append(VALIDATION, run, [_validation_record(s) for s in new])

    def retrieve_validation_iteration_scores(self, run: str) -> list[ValidationIterationScores]:
        return [ValidationIterationScores(r["iteration"], r["scores"]) for r in self._by_iteration(VALIDATION, run)]

    def delete_validation_scores(self, run: str) -> None:
        self._delete(VALIDATION, run)


def _training_record(s: TrainingIterationStats) -> Record:
    record = {"iteration": int(s.iteration), "loss": float(s.loss), "time": float(s.time)}
    return record if s.split is None else record | {"split": [float(seconds) for seconds in s.split]}


def _training_stats(r: Record) -> TrainingIterationStats:
    split = StepTimes(*r["split"]) if r.get("split") else None
    return TrainingIterationStats(r["iteration"], r["loss"], r.get("time", 0.0), split)


def _validation_record(s: ValidationIterationScores) -> Record:
    scores = [[[float(value) for value in criteria] for criteria in parameters] for parameters in s.scores]
    return {"iteration": int(s.iteration), "scores": scores}
