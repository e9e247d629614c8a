"""The contract of array stores: where the arrays of a run are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacapo.arrays.paths import LocalArrayIdentifier


@dataclass(frozen=True)
class LocalContainerIdentifier:
    container: Path

    def array_identifier(self, dataset: str) -> LocalArrayIdentifier:
        return LocalArrayIdentifier(self.container, dataset)


class ArrayStore(ABC):
    """Where the arrays of a run are. A backend says where containers are; the places inside are upstream's."""

    @abstractmethod
    def snapshot_container(self, run: str) -> LocalContainerIdentifier:
        """What was looked at while training."""

    @abstractmethod
    def validation_container(self, run: str) -> LocalContainerIdentifier:
        """Predictions and segmentations of validations."""

    @abstractmethod
    def remove(self, identifier: LocalArrayIdentifier) -> None:
        """Delete an array inside a container; nothing else is ever deleted."""

    def validation_input_arrays(self, run: str, index: str) -> tuple[LocalArrayIdentifier, LocalArrayIdentifier]:
        """Copies of raw and ground truth of the validation dataset `index`."""
        container = self.validation_container(run)
        return container.array_identifier(f"inputs/{index}/raw"), container.array_identifier(f"inputs/{index}/gt")

    def validation_prediction_array(self, run: str, iteration: int, dataset: Any) -> LocalArrayIdentifier:
        return self.validation_container(run).array_identifier(f"{iteration}/{dataset}/prediction")

    def validation_output_array(self, run: str, iteration: int, parameters: Any, dataset: Any) -> LocalArrayIdentifier:
        folder = getattr(parameters, "folder", None) or str(parameters)
        return self.validation_container(run).array_identifier(f"{iteration}/{dataset}/output/{folder}")

    def best_validation_array(self, run: str, criterion: str, index: str | None = None) -> LocalArrayIdentifier:
        """The segmentation that is best by a criterion, on the validation dataset `index`."""
        place = criterion if index is None else f"{index}/{criterion}"
        return self.validation_container(run).array_identifier(place)
