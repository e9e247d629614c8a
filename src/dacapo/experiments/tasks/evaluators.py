"""Evaluators: how good a segmentation is, as named criteria that each know their direction.

Thin over `ops.metrics`; ground truth that says nothing (mask 0) is in no score.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Criterion:
    """What a score means."""

    higher_is_better: bool
    bounds: tuple[float, float]
    store_best: bool = False


class EvaluationScores(ABC):
    """One value per criterion."""

    @property
    @abstractmethod
    def criteria(self) -> list[str]:
        """The names, in the order in which scores are stored."""

    @abstractmethod
    def criterion(self, name: str) -> Criterion:
        """What `name` means; ValueError if there is no such criterion."""

    def higher_is_better(self, criterion: str) -> bool:
        return self.criterion(criterion).higher_is_better

    def bounds(self, criterion: str) -> tuple[float, float]:
        return self.criterion(criterion).bounds

    def store_best(self, criterion: str) -> bool:
        return self.criterion(criterion).store_best

    def value(self, criterion: str) -> float:
        return float(getattr(self, criterion))

    def values(self) -> list[float]:
        """In the order of `criteria`."""
        return [self.value(name) for name in self.criteria]


def _look_up(table: dict[str, Criterion], name: str) -> Criterion:
    if name not in table:
        raise ValueError(f"no criterion is called {name!r}; there are {', '.join(table)}")
    return table[name]


_LOWER, _SHARE = Criterion(False, (0, math.inf)), Criterion(True, (0, 1))


@dataclass
class InstanceEvaluationScores(EvaluationScores):
    """Instance segmentation scores over the voxels where ground truth has an object.

    VOI in bits: split = H(segmentation | truth), merge = H(truth | segmentation), `voi` their sum.
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
        "voi_split": _LOWER,
        "voi_merge": _LOWER,
        "voi": Criterion(False, (0, math.inf), store_best=True),
        "adapted_rand_error": Criterion(False, (0, 1), store_best=True),
        "pq": Criterion(True, (0, 1), store_best=True),
        "f1_50": _SHARE,
        "f1_75": _SHARE,
        "average_precision": _SHARE,
    }

    @property
    def criteria(self) -> list[str]:
        return list(self.table)

    def criterion(self, name: str) -> Criterion:
        return _look_up(self.table, name)


_BINARY_TABLE: dict[str, Criterion] = {
    "dice": _SHARE,
    "jaccard": _SHARE,
    "hausdorff": _LOWER,
    "false_negative_rate": Criterion(False, (0, 1)),
    "false_negative_rate_with_tolerance": Criterion(False, (0, 1)),
    "false_positive_rate": Criterion(False, (0, 1)),
    "false_discovery_rate": Criterion(False, (0, 1)),
    "false_positive_rate_with_tolerance": Criterion(False, (0, 1)),
    "voi": Criterion(False, (0, math.inf), store_best=True),
    "mean_false_distance": _LOWER,
    "mean_false_negative_distance": _LOWER,
    "mean_false_positive_distance": _LOWER,
    "mean_false_distance_clipped": _LOWER,
    "mean_false_negative_distance_clipped": _LOWER,
    "mean_false_positive_distance_clipped": _LOWER,
    "precision_with_tolerance": _SHARE,
    "recall_with_tolerance": _SHARE,
    "f1_score_with_tolerance": _SHARE,
    "precision": _SHARE,
    "recall": _SHARE,
    "f1_score": Criterion(True, (0, 1), store_best=True),
}


@dataclass
class BinarySegmentationEvaluationScores(EvaluationScores):
    """The 21 criteria of one binary channel; distances in world units, NaN where undefined."""

    scores: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float:
        if name in _BINARY_TABLE:
            return self.scores.get(name, math.nan)
        raise AttributeError(name)

    @property
    def criteria(self) -> list[str]:
        return list(_BINARY_TABLE)

    def criterion(self, name: str) -> Criterion:
        return _look_up(_BINARY_TABLE, name)


@dataclass
class MultiChannelBinarySegmentationEvaluationScores(EvaluationScores):
    """Binary scores of several channels, named `{channel}__{criterion}`."""

    channel_scores: list[tuple[str, BinarySegmentationEvaluationScores]]

    @property
    def criteria(self) -> list[str]:
        return [f"{channel}__{name}" for channel, scores in self.channel_scores for name in scores.criteria]

    def criterion(self, name: str) -> Criterion:
        return self._of(name)[0].criterion(name.rpartition("__")[2])

    def value(self, criterion: str) -> float:
        scores, name = self._of(criterion)
        return scores.value(name)

    def _of(self, criterion: str) -> tuple[BinarySegmentationEvaluationScores, str]:
        channel, _, name = criterion.rpartition("__")
        for known, scores in self.channel_scores:
            if known == channel:
                return scores, name
        raise ValueError(f"no criterion is called {criterion!r}; channels are {[c for c, _ in self.channel_scores]}")


class Evaluator(ABC):
    """Compares a segmentation with ground truth."""

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


class InstanceEvaluator(Evaluator):
    """Instance scores from one contingency table; voxels without a ground truth object do not count."""

    main_criterion = "voi"

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
        from dacapo.ops.metrics import binary_scores

        spatial = truth.shape[-len(voxel_size) :]
        predicted, true = (x.reshape(-1, *spatial) > 0 for x in (segmentation, truth))
        if len(true) == 1 and len(predicted) > 1:
            true = np.broadcast_to(true, predicted.shape)
        assert len(predicted) == len(true) == len(self.channels), (predicted.shape, true.shape, self.channels)
        known = np.ones((1, *spatial), bool) if mask is None else mask.reshape(-1, *spatial)
        known = np.broadcast_to(known, predicted.shape)
        return self._named(
            [
                BinarySegmentationEvaluationScores(
                    binary_scores(
                        p, t, voxel_size, mask=m, clip_distance=self.clip_distance, tol_distance=self.tol_distance
                    )
                )
                for p, t, m in zip(predicted, true, known, strict=True)
            ]
        )
