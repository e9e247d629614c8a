"""The contract of weights stores: checkpoints by run and iteration, and which of them is best by what.

May import `experiments`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, StoreError, WeightsNotFoundError, did_you_mean
from dacapo.experiments.weights import Weights

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig

__all__ = ["Weights", "WeightsStore", "read_weights"]


class WeightsStore(ABC):
    """Checkpoints, and a note of the best iteration per validation dataset and criterion.

    The scores are the truth: `RunConfig.best` and `apply` go by them. The notes are made from them after each
    validation (`Stores.record_best`), for whoever asks without the data at hand, and so that no best weights
    are ever removed. Where notes and scores disagree the scores win, and the next validation mends the notes.
    """

    @abstractmethod
    def store(self, run: str, iteration: int, weights: Weights) -> Path:
        """Keep the weights that `iteration` steps made; returns their file."""

    @abstractmethod
    def path_of(self, run: str, iteration: int) -> Path:
        """The file of an iteration; WeightsNotFoundError lists the iterations that there are."""

    @abstractmethod
    def iterations(self, run: str) -> list[int]:
        """All iterations whose weights there are, ascending."""

    @abstractmethod
    def _delete(self, run: str, iteration: int) -> None:
        """Remove weights; none is no error."""

    @abstractmethod
    def bests(self, run: str) -> dict[tuple[str, str], dict[str, Any]]:
        """All notes of a run, by (dataset, criterion): {"iteration", "parameters", "score"}."""

    @abstractmethod
    def _write_best(self, run: str, dataset: str, criterion: str, note: Mapping[str, Any]) -> None:
        """Replace a note, in one step."""

    @abstractmethod
    def _delete_best(self, run: str, dataset: str, criterion: str) -> None:
        """Remove a note; none is no error."""

    def store_weights(self, run: RunConfig, iteration: int) -> None:
        """The weights of a run as it stands."""
        self.store(run.name, iteration, run.weights())

    def retrieve_weights(self, run: RunConfig | str, iteration: int) -> Weights:
        """WeightsNotFoundError lists the iterations that there are."""
        return read_weights(self.path_of(_name(run), iteration))

    def load_weights(self, run: RunConfig, iteration: int) -> None:
        """Give a run the weights of an iteration, and the optimiser's state."""
        run.load_weights(self.retrieve_weights(run, iteration))

    def latest_iteration(self, run: RunConfig | str) -> int | None:
        return max(self.iterations(_name(run)), default=None)

    def remove(self, run: RunConfig | str, iteration: int) -> bool:
        """Remove the weights of an iteration, unless they are best by something: False then."""
        name = _name(run)
        if any(note["iteration"] == iteration for note in self.bests(name).values()):
            return False
        self._delete(name, iteration)
        return True

    def store_best(
        self,
        run: RunConfig | str,
        iteration: int,
        dataset: Any,
        criterion: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Note the best iteration of a criterion on a validation dataset (the dataset or its name)."""
        self.path_of(_name(run), iteration)  # of weights that there are
        note = {"iteration": iteration, "parameters": None if parameters is None else dict(parameters), "score": score}
        if self.bests(_name(run)).get((_dataset_name(dataset), criterion)) != note:
            self._write_best(_name(run), _dataset_name(dataset), criterion, note)

    def retrieve_best(self, run: RunConfig | str, dataset: Any, criterion: str) -> int:
        """The iteration noted as best; WeightsNotFoundError lists what is noted."""
        name, noted = _name(run), self.bests(_name(run))
        note = noted.get((_dataset_name(dataset), criterion))
        if note is None:
            there = [f"{d} {c}" for d, c in sorted(noted)]
            raise WeightsNotFoundError(
                f"run {name!r} has no best iteration by {criterion!r} on {_dataset_name(dataset)!r}."
                f"{did_you_mean(f'{_dataset_name(dataset)} {criterion}', there)}"
            )
        return int(note["iteration"])

    def load_best(self, run: RunConfig, dataset: Any, criterion: str) -> int:
        """Give a run its best weights by a criterion on a dataset; returns their iteration."""
        iteration = self.retrieve_best(run, dataset, criterion)
        run.load_weights(self.retrieve_weights(run, iteration), with_optimizer=False)
        return iteration

    def delete_best(self, run: RunConfig | str, dataset: Any, criterion: str) -> None:
        """Forget a note; the weights stay."""
        self._delete_best(_name(run), _dataset_name(dataset), criterion)


def _name(run: RunConfig | str) -> str:
    return run if isinstance(run, str) else run.name


def _dataset_name(dataset: Any) -> str:
    return dataset if isinstance(dataset, str) else str(dataset.name)


def read_weights(path: Path) -> Weights:
    """A checkpoint file, on the CPU. Only tensors and numbers are loaded, whatever the file says."""
    from dacapo.experiments.checkpoints import read_checkpoint

    try:
        content = read_checkpoint(path)
    except ConfigError as error:
        raise StoreError(str(error)) from error
    return Weights(content["model"], content.get("optimizer"))
