"""Evaluators: how good a segmentation is, as named criteria that each know their direction.

Thin over `ops.metrics`; ground truth that says nothing (mask 0) is in no score.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dacapo.errors import DataError

if TYPE_CHECKING:
    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.scores import ValidationScores
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters


@dataclass(frozen=True)
class Criterion:
    """What a score means."""

    higher_is_better: bool
    bounds: tuple[float, float]
    store_best: bool = False


class EvaluationScores(ABC):
    """One value per criterion, as an attribute of that name; what a criterion means is known without values."""

    @property
    @abstractmethod
    def criteria(self) -> list[str]:
        """The names, in the order in which scores are stored."""

    @classmethod
    @abstractmethod
    def criterion(cls, name: str) -> Criterion:
        """What `name` means; ValueError if there is no such criterion."""

    @classmethod
    def higher_is_better(cls, criterion: str) -> bool:
        return cls.criterion(criterion).higher_is_better

    @classmethod
    def bounds(cls, criterion: str) -> tuple[float, float]:
        """The lowest and the highest value there can be."""
        return cls.criterion(criterion).bounds

    @classmethod
    def store_best(cls, criterion: str) -> bool:
        """Whether the best by this criterion is kept."""
        return cls.criterion(criterion).store_best

    def value(self, criterion: str) -> float:
        self.criterion(criterion)
        return float(getattr(self, criterion))

    def values(self) -> list[float]:
        """In the order of `criteria`."""
        return [self.value(name) for name in self.criteria]


def _look_up(table: dict[str, Criterion], name: str) -> Criterion:
    if name not in table:
        raise ValueError(f"no criterion is called {name!r}; there are {', '.join(table)}")
    return table[name]


_DISTANCE, _SHARE, _ERROR = Criterion(False, (0, math.inf)), Criterion(True, (0, 1)), Criterion(False, (0, 1))
_VOI = Criterion(False, (0, math.inf), store_best=True)


class _TableScores(EvaluationScores):
    """Scores that are fields of a dataclass, with a table of what they mean."""

    table: ClassVar[dict[str, Criterion]]

    @property
    def criteria(self) -> list[str]:
        return list(self.table)

    @classmethod
    def criterion(cls, name: str) -> Criterion:
        return _look_up(cls.table, name)


@dataclass
class InstanceEvaluationScores(_TableScores):
    """Instance segmentation scores over the voxels where ground truth has an object; NaN where there is none.

    VOI in bits, without an upper bound: split = H(segmentation | truth), merge = H(truth | segmentation), `voi`
    their sum. F1 at an IoU of 0.5 and 0.75; `average_precision` is the mean of TP / (TP + FP + FN) over IoU 0.5 to
    0.95 in steps of 0.05.
    """

    voi_split: float = math.nan
    voi_merge: float = math.nan
    voi: float = math.nan
    adapted_rand_error: float = math.nan
    pq: float = math.nan
    f1_50: float = math.nan
    f1_75: float = math.nan
    average_precision: float = math.nan

    table: ClassVar[dict[str, Criterion]] = {
        "voi_split": _DISTANCE,
        "voi_merge": _DISTANCE,
        "voi": _VOI,
        "adapted_rand_error": Criterion(False, (0, 1), store_best=True),
        "pq": Criterion(True, (0, 1), store_best=True),
        "f1_50": _SHARE,
        "f1_75": _SHARE,
        "average_precision": _SHARE,
    }


@dataclass
class BinarySegmentationEvaluationScores(_TableScores):
    """The 21 criteria of one binary channel, as `ops.metrics.binary_scores` defines them; NaN where undefined.

    Distances are in world units, `voi` is in bits.
    """

    dice: float = math.nan
    jaccard: float = math.nan
    hausdorff: float = math.nan
    false_negative_rate: float = math.nan
    false_negative_rate_with_tolerance: float = math.nan
    false_positive_rate: float = math.nan
    false_discovery_rate: float = math.nan
    false_positive_rate_with_tolerance: float = math.nan
    voi: float = math.nan
    mean_false_distance: float = math.nan
    mean_false_negative_distance: float = math.nan
    mean_false_positive_distance: float = math.nan
    mean_false_distance_clipped: float = math.nan
    mean_false_negative_distance_clipped: float = math.nan
    mean_false_positive_distance_clipped: float = math.nan
    precision_with_tolerance: float = math.nan
    recall_with_tolerance: float = math.nan
    f1_score_with_tolerance: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    f1_score: float = math.nan

    table: ClassVar[dict[str, Criterion]] = {
        "dice": _SHARE,
        "jaccard": _SHARE,
        "hausdorff": _DISTANCE,
        "false_negative_rate": _ERROR,
        "false_negative_rate_with_tolerance": _ERROR,
        "false_positive_rate": _ERROR,
        "false_discovery_rate": _ERROR,
        "false_positive_rate_with_tolerance": _ERROR,
        "voi": _VOI,
        "mean_false_distance": _DISTANCE,
        "mean_false_negative_distance": _DISTANCE,
        "mean_false_positive_distance": _DISTANCE,
        "mean_false_distance_clipped": _DISTANCE,
        "mean_false_negative_distance_clipped": _DISTANCE,
        "mean_false_positive_distance_clipped": _DISTANCE,
        "precision_with_tolerance": _SHARE,
        "recall_with_tolerance": _SHARE,
        "f1_score_with_tolerance": _SHARE,
        "precision": _SHARE,
        "recall": _SHARE,
        "f1_score": Criterion(True, (0, 1), store_best=True),
    }


@dataclass
class MultiChannelBinarySegmentationEvaluationScores(EvaluationScores):
    """Binary scores of several channels, named `{channel}__{criterion}`."""

    channel_scores: list[tuple[str, BinarySegmentationEvaluationScores]]

    def __getattr__(self, name: str) -> float:
        channel, _, criterion = name.rpartition("__")
        for known, scores in self.__dict__.get("channel_scores", ()):
            if known == channel and criterion in scores.table:
                return float(getattr(scores, criterion))
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    @property
    def criteria(self) -> list[str]:
        return [f"{channel}__{name}" for channel, scores in self.channel_scores for name in scores.criteria]

    @classmethod
    def criterion(cls, name: str) -> Criterion:
        channel, mark, of_channel = name.rpartition("__")
        if not channel or not mark:
            raise ValueError(f"no criterion is called {name!r}; they are called channel__criterion")
        return BinarySegmentationEvaluationScores.criterion(of_channel)

    def value(self, criterion: str) -> float:
        try:
            return float(getattr(self, criterion))
        except AttributeError:
            channels = [channel for channel, _ in self.channel_scores]
            raise ValueError(f"no criterion is called {criterion!r}; channels are {channels}") from None


@dataclass
class DummyEvaluationScores(_TableScores):
    """Scores of the dummy task."""

    frizz_level: float = math.nan
    """Share of the known voxels that are foreground in both or in neither."""
    blipp_score: float = math.nan
    """Share of the known voxels that are foreground in one only."""

    table: ClassVar[dict[str, Criterion]] = {
        "frizz_level": Criterion(True, (0, 1), store_best=True),
        "blipp_score": Criterion(False, (0, 1), store_best=True),
    }


Key = tuple["Dataset", "PostProcessorParameters", str]


class Evaluator(ABC):
    """Compares a segmentation with ground truth, and remembers the best scores it was shown."""

    @property
    @abstractmethod
    def main_criterion(self) -> str:
        """The criterion that is meant where none is named."""

    @property
    @abstractmethod
    def score(self) -> EvaluationScores:
        """Scores without values: the criteria and what they mean."""

    @abstractmethod
    def evaluate(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> EvaluationScores:
        """Score a segmentation against ground truth of the same spatial shape; voxel size in world units.

        Of the mask, bool (*spatial) or (M, *spatial), only voxels that are True count; M is 1 or the channels.
        """

    def scorer(
        self, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> Callable[[np.ndarray], EvaluationScores]:
        """`evaluate` for many segmentations of one truth: what they share is computed once."""
        return lambda segmentation: self.evaluate(segmentation, truth, voxel_size, mask)

    @property
    def criteria(self) -> list[str]:
        return self.score.criteria

    def higher_is_better(self, criterion: str) -> bool:
        return self.score.higher_is_better(criterion)

    def bounds(self, criterion: str) -> tuple[float, float]:
        return self.score.bounds(criterion)

    def store_best(self, criterion: str) -> bool:
        return self.score.store_best(criterion)

    def compare(self, score_1: float, score_2: float, criterion: str) -> bool:
        """Whether the first score is better than the second."""
        return score_1 > score_2 if self.higher_is_better(criterion) else score_1 < score_2

    @cached_property
    def best_scores(self) -> dict[Key, tuple[int, float] | None]:
        """Iteration and score of the best of each dataset, parameter set and criterion whose best is kept; None where
        all scores are NaN. Filled by `set_best`."""
        return {}

    def is_best(
        self, dataset: Dataset, parameter: PostProcessorParameters, criterion: str, scores: EvaluationScores
    ) -> bool:
        """Whether these scores beat the best so far; never where the best is not kept, or the score is NaN."""
        value = scores.value(criterion)
        if not self.store_best(criterion) or math.isnan(value):
            return False
        best = self.best_scores.get((dataset, parameter, criterion))
        return best is None or self.compare(value, best[1], criterion)

    def set_best(self, validation_scores: ValidationScores) -> None:
        """Take the bests from all validations so far; of equal scores the first."""
        self.best_scores.clear()
        columns = [(i, name) for i, name in enumerate(validation_scores.criteria) if self.store_best(name)]
        for d, dataset in enumerate(validation_scores.datasets):
            for p, parameter in enumerate(validation_scores.parameters):
                for c, criterion in columns:
                    best: tuple[int, float] | None = None
                    for one in validation_scores.scores:
                        value = one.scores[d][p][c]
                        if not math.isnan(value) and (best is None or self.compare(value, best[1], criterion)):
                            best = (one.iteration, value)
                    self.best_scores[dataset, parameter, criterion] = best

    def get_overall_best(self, dataset: Dataset, criterion: str) -> float | None:
        """The best score on a dataset over all parameter sets; None if there is none."""
        found = self._overall_best(dataset, criterion)
        return None if found is None else found[1]

    def get_overall_best_parameters(self, dataset: Dataset, criterion: str) -> PostProcessorParameters | None:
        """The parameter set with the best score on a dataset; None if there is none."""
        found = self._overall_best(dataset, criterion)
        return None if found is None else found[0]

    def _overall_best(self, dataset: Dataset, criterion: str) -> tuple[PostProcessorParameters, float] | None:
        winner: tuple[PostProcessorParameters, float] | None = None
        for (of, parameter, name), best in self.best_scores.items():
            if of != dataset or name != criterion or best is None:
                continue
            if winner is None or self.compare(best[1], winner[1], criterion):
                winner = (parameter, best[1])
        return winner


class InstanceEvaluator(Evaluator):
    """Instance scores from one contingency table; voxels without a ground truth object do not count."""

    @property
    def main_criterion(self) -> str:
        return "voi"

    @property
    def score(self) -> InstanceEvaluationScores:
        return InstanceEvaluationScores()

    def evaluate(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> InstanceEvaluationScores:
        from dacapo.ops.metrics import contingency

        spatial = truth.shape[-len(voxel_size) :]
        known = None if mask is None else mask.reshape(-1, *spatial).any(0)
        table = contingency(segmentation.reshape(spatial), truth.reshape(spatial), known)
        found = table.instance_scores()
        return InstanceEvaluationScores(**{name: found[name] for name in InstanceEvaluationScores.table})


class BinarySegmentationEvaluator(Evaluator):
    """The 21 binary criteria, for each channel."""

    def __init__(self, clip_distance: float, tol_distance: float, channels: Sequence[str]) -> None:
        self.clip_distance = clip_distance
        self.tol_distance = tol_distance
        self.channels = list(channels)

    @property
    def main_criterion(self) -> str:
        return "f1_score" if len(self.channels) == 1 else f"{self.channels[0]}__f1_score"

    @property
    def score(self) -> EvaluationScores:
        return self._named([BinarySegmentationEvaluationScores() for _ in self.channels])

    def _named(self, scores: list[BinarySegmentationEvaluationScores]) -> EvaluationScores:
        if len(self.channels) == 1:
            return scores[0]
        return MultiChannelBinarySegmentationEvaluationScores(list(zip(self.channels, scores, strict=True)))

    def evaluate(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> EvaluationScores:
        predicted, true, known = self._channels(segmentation, truth, voxel_size, mask)
        return self._scores(predicted, true, known, voxel_size, [None] * len(true))

    def scorer(
        self, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> Callable[[np.ndarray], EvaluationScores]:
        """The distances to the truth are computed once."""
        from dacapo.ops.distances import distance_to

        shape = (len(self.channels), *truth.shape[-len(voxel_size) :])
        _, true, known = self._channels(np.broadcast_to(np.uint8(0), shape), truth, voxel_size, mask)
        distances: list[np.ndarray | None] = [distance_to(t & k, voxel_size) for t, k in zip(true, known, strict=True)]

        def score(segmentation: np.ndarray) -> EvaluationScores:
            predicted, true, known = self._channels(segmentation, truth, voxel_size, mask)
            return self._scores(predicted, true, known, voxel_size, distances)

        return score

    def _channels(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction, truth and what is known of each channel, bool (C, *spatial)."""
        spatial = truth.shape[-len(voxel_size) :]
        predicted, true = (x.reshape(-1, *spatial) > 0 for x in (segmentation, truth))
        if len(true) == 1:
            true = np.broadcast_to(true, predicted.shape)
        known = np.ones((1, *spatial), bool) if mask is None else mask.reshape(-1, *spatial)
        if not len(predicted) == len(true) == len(self.channels) or len(known) not in (1, len(true)):
            raise DataError(
                f"segmentation has {len(predicted)} channels, truth {len(true)}, mask {len(known)}: expected one for "
                f"each of {', '.join(self.channels)}"
            )
        return predicted, true, np.broadcast_to(known, predicted.shape)

    def _scores(
        self,
        predicted: np.ndarray,
        true: np.ndarray,
        known: np.ndarray,
        voxel_size: Sequence[float],
        distances: Sequence[np.ndarray | None],
    ) -> EvaluationScores:
        from dacapo.ops.metrics import binary_scores

        how = {"clip_distance": self.clip_distance, "tol_distance": self.tol_distance}
        return self._named(
            [
                BinarySegmentationEvaluationScores(**binary_scores(p, t, voxel_size, mask=m, to_truth=d, **how))
                for p, t, m, d in zip(predicted, true, known, distances, strict=True)
            ]
        )


class ClassEvaluator(Evaluator):
    """The 21 binary criteria of each of several classes that exclude each other, against all the others.

    Segmentation: class ids without channels. Ground truth: class ids, or one binary channel per class; a voxel
    without a class is in no score.
    """

    def __init__(self, clip_distance: float, tol_distance: float, classes: Sequence[str]) -> None:
        self.binary = BinarySegmentationEvaluator(clip_distance, tol_distance, classes)
        self.classes = list(classes)

    @property
    def main_criterion(self) -> str:
        """Of the second class: the first mostly is background."""
        return f"{self.classes[1]}__f1_score"

    @property
    def score(self) -> EvaluationScores:
        return self.binary.score

    def evaluate(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> EvaluationScores:
        from dacapo.ops.labels import class_ids

        spatial = truth.shape[-len(voxel_size) :]
        known = np.ones((1, *spatial), bool) if mask is None else mask.reshape(-1, *spatial)
        ids, known = class_ids(truth.reshape(-1, *spatial), known, self.classes)
        predicted, true = (
            np.stack([x.reshape(spatial) == i for i in range(len(self.classes))]) for x in (segmentation, ids)
        )
        return self.binary.evaluate(predicted, true, voxel_size, known)


class DummyEvaluator(Evaluator):
    """Whether foreground is where ground truth has any."""

    @property
    def main_criterion(self) -> str:
        return "frizz_level"

    @property
    def score(self) -> DummyEvaluationScores:
        return DummyEvaluationScores()

    def evaluate(
        self, segmentation: np.ndarray, truth: np.ndarray, voxel_size: Sequence[float], mask: np.ndarray | None = None
    ) -> DummyEvaluationScores:
        spatial = truth.shape[-len(voxel_size) :]
        found, true = (np.any(x.reshape(-1, *spatial) > 0, axis=0) for x in (segmentation, truth))
        known = np.ones(spatial, bool) if mask is None else mask.reshape(-1, *spatial).any(0)
        if not known.any():
            return DummyEvaluationScores()
        right = float((found == true)[known].mean())
        return DummyEvaluationScores(right, 1 - right)
