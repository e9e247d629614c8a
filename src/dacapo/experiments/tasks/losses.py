"""Losses: weighted means over the voxels that count. Tensors are (B, C, *spatial); may import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Loss(ABC):
    """Compares a prediction (before the evaluation activation) with a target."""

    @abstractmethod
    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """A scalar. Weight 0 = ignore: such voxels change neither the sum nor what it is divided by."""


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(values * weight) / number of voxels with weight > 0; 0 where nothing counts.

    Dividing by the count, not the sum of weights, keeps the scale of class-balanced weights, whose mean is 1.
    """
    return (values * weight).sum() / weight.count_nonzero().clamp(min=1)


class MSELoss(Loss):
    """Weighted mean squared error."""

    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean((prediction - target) ** 2, weight)


class AffinitiesLoss(Loss):
    """Binary cross entropy of the affinities plus `ratio` times the squared error of the descriptors."""

    def __init__(self, num_affinities: int, lsds_to_affs_weight_ratio: float = 1.0) -> None:
        self.num_affinities = num_affinities
        self.lsds_to_affs_weight_ratio = lsds_to_affs_weight_ratio

    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        n = self.num_affinities
        cross_entropy = binary_cross_entropy_with_logits(prediction[:, :n], target[:, :n], reduction="none")
        loss = weighted_mean(cross_entropy, weight[:, :n])
        if prediction.shape[1] > n:
            error = (prediction[:, n:].sigmoid() - target[:, n:]) ** 2
            loss = loss + self.lsds_to_affs_weight_ratio * weighted_mean(error, weight[:, n:])
        return loss


class HotDistanceLoss(Loss):
    """Binary cross entropy of the first half of the channels plus the squared error of the second."""

    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        n = prediction.shape[1] // 2
        cross_entropy = binary_cross_entropy_with_logits(prediction[:, :n], target[:, :n], reduction="none")
        error = (prediction[:, n:] - target[:, n:]) ** 2
        return weighted_mean(cross_entropy, weight[:, :n]) + weighted_mean(error, weight[:, n:])


class CrossEntropyLoss(Loss):
    """Weighted cross entropy of logits with one-hot targets; a voxel weighs what the channel of its class does."""

    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        cross_entropy = -(target * prediction.log_softmax(1)).sum(1)
        return weighted_mean(cross_entropy, (target * weight).sum(1))


class DummyLoss(Loss):
    """Weighted mean absolute error."""

    def compute(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean((prediction - target).abs(), weight)
