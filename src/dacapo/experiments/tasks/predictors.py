"""Predictors: what the network learns to predict, and how much each voxel counts.

A predictor makes the model's head, turns ground truth into a target and a weight, and says which
values its predictions take. May import `arrays`, `ops`, `model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.experiments.arraytypes import ArrayType, DistanceArray, EmbeddingArray, ProbabilityArray
from dacapo.geometry import Coordinate, Grid

if TYPE_CHECKING:
    import torch

    from dacapo.arrays import Array
    from dacapo.experiments.architectures.architecture import Architecture
    from dacapo.experiments.model import Model


class Predictor(ABC):
    """What a network predicts.

    `make_target` works on plain arrays and is what the trainer calls; `create_target` and
    `create_weight` do the same on `Array`s, in the documented two steps.
    """

    value_range: tuple[float, float] = (0.0, 1.0)
    """The lowest and highest value of a prediction, which uint8 storage maps to 0 and 255."""
    checks_labels: bool = False
    """Whether there is ground truth that `make_target` refuses, so that it is looked through before training."""

    @property
    @abstractmethod
    def channels(self) -> list[str]:
        """Name of each predicted channel."""

    @property
    def gt_channels(self) -> tuple[int, ...] | None:
        """How many channels ground truth may have, labels without a channel axis counted as one; None: any number."""
        return (1,)

    @abstractmethod
    def create_model(self, architecture: Architecture) -> Model:
        """The architecture with the head that this predictor needs."""

    @abstractmethod
    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Target and weight of one crop.

        Parameters
        ----------
        gt : integers ([C,] *spatial)
            Ground truth of the crop with `context` around it.
        valid : bool (M, *spatial)
            False where the ground truth says nothing: weight 0 there, whatever the label. One for all channels
            of gt (M = 1) or one each.
        grid : Grid
            Voxel grid of `gt`.

        Returns
        -------
        target, weight : float32 (channels, *spatial)
            Of the whole crop, context included: the caller cuts it off.
        """

    def make_inner_target(
        self, gt: np.ndarray, valid: np.ndarray, grid: Grid, inner: tuple[slice, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `make_target` says of the part `inner` of a crop, one slice per spatial axis."""
        target, weight = self.make_target(gt, valid, grid)
        return np.ascontiguousarray(target[(..., *inner)]), np.ascontiguousarray(weight[(..., *inner)])

    def check_labels(self, gt: np.ndarray, valid: np.ndarray) -> None:
        """DataError if `make_target` would refuse this ground truth ([C,] *spatial)."""
        return None

    @property
    def output_array_type(self) -> ArrayType:
        """What the values of a prediction mean."""
        return ProbabilityArray(self.channels)

    def context(self, grid: Grid) -> tuple[Coordinate, Coordinate]:
        """Voxels of ground truth needed (below, above) a crop for a target that is right up to its border."""
        zeros = Coordinate((0,) * grid.dims)
        return zeros, zeros

    def create_target(self, gt: Array) -> Array:
        from dacapo.arrays import from_numpy

        labels = gt.read()
        valid = np.ones((1, *labels.shape[-gt.spatial_dims :]), bool)
        return from_numpy(self.make_target(labels, valid, gt.grid)[0], gt.grid, axis_names=("c^", *gt.grid.axes))

    def create_weight(
        self, gt: Array, target: Array, mask: Array | None = None, moving_class_counts: Any = None
    ) -> tuple[Array, Any]:
        """Weights of a crop alone: a sample never depends on those before it, so `moving_class_counts` comes back as
        it was."""
        from dacapo.arrays import from_numpy

        labels = gt.read()
        shape = labels.shape[-gt.spatial_dims :]
        valid = np.ones((1, *shape), bool) if mask is None else mask.read().reshape(-1, *shape) > 0
        weight = self.make_target(labels, valid, gt.grid)[1]
        return from_numpy(weight, gt.grid, axis_names=("c^", *gt.grid.axes)), moving_class_counts


def conv_head(architecture: Architecture, channels: int, kernel_size: int = 1) -> torch.nn.Module:
    """A convolution from the architecture's features to `channels`, not padded: it takes kernel_size // 2 voxels off
    every side."""
    import torch

    conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[architecture.dims]
    return conv(architecture.num_out_channels, channels, kernel_size=kernel_size)


class AffinitiesPredictor(Predictor):
    """For each offset of the neighborhood: do the two voxels belong to the same object?

    Channel i at voxel p is 1 where gt[p] == gt[p + neighborhood[i]] and both are objects. With `lsds`,
    local shape descriptors (Sheridan et al., Nature Methods 2023) follow as auxiliary channels.
    """

    def __init__(
        self,
        neighborhood: Sequence[Sequence[int]],
        lsds: bool = False,
        num_voxels: int = 10,
        downsample_lsds: int = 1,
        affs_weight_clipmin: float = 0.05,
        affs_weight_clipmax: float = 0.95,
        lsd_weight_clipmin: float = 0.05,
        lsd_weight_clipmax: float = 0.95,
        background_as_object: bool = False,
        balance: bool = True,
    ) -> None:
        self.neighborhood = [Coordinate(offset) for offset in neighborhood]
        self.lsds = lsds
        self.num_lsd_voxels = num_voxels
        self.downsample_lsds = downsample_lsds
        self.affs_clip = (affs_weight_clipmin, affs_weight_clipmax)
        self.lsd_clip = (lsd_weight_clipmin, lsd_weight_clipmax)
        self.background_as_object = background_as_object
        self.balance = balance

    @property
    def dims(self) -> int:
        return self.neighborhood[0].dims

    @property
    def num_lsds(self) -> int:
        return {2: 6, 3: 10}[self.dims] if self.lsds else 0

    @property
    def channels(self) -> list[str]:
        names = [f"aff_{'.'.join(str(v) for v in offset)}" for offset in self.neighborhood]
        return names + [f"lsd_{i}" for i in range(self.num_lsds)]

    def create_model(self, architecture: Architecture) -> Model:
        import torch

        from dacapo.experiments.model import Model

        head = conv_head(architecture, len(self.neighborhood) + self.num_lsds)
        return Model(architecture, head, eval_activation=torch.nn.Sigmoid())

    def context(self, grid: Grid) -> tuple[Coordinate, Coordinate]:
        below = [max(0, *(-n[d] for n in self.neighborhood)) for d in range(self.dims)]
        above = [max(0, *(n[d] for n in self.neighborhood)) for d in range(self.dims)]
        if self.lsds:
            reach = [int(np.ceil(3 * s / v)) for s, v in zip(self.lsd_sigma(grid), grid.voxel_size, strict=True)]
            below = [max(a, b) for a, b in zip(below, reach, strict=True)]
            above = [max(a, b) for a, b in zip(above, reach, strict=True)]
        return Coordinate(below), Coordinate(above)

    def lsd_sigma(self, grid: Grid) -> tuple[float, ...]:
        """Standard deviation (world units) of the window that descriptors look through."""
        return (max(grid.voxel_size) * self.num_lsd_voxels,) * grid.dims

    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        return self.make_inner_target(gt, valid, grid, (slice(None),) * grid.dims)

    def make_inner_target(
        self, gt: np.ndarray, valid: np.ndarray, grid: Grid, inner: tuple[slice, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        from dacapo.ops.affinities import affinity_target, balance_weights

        labels, valid = gt.reshape(gt.shape[-grid.dims :]), valid.any(0)
        target, weight = affinity_target(
            labels,
            self.neighborhood,
            background_as_object=self.background_as_object,
            mask=None if valid.all() else valid,
            clips=self.affs_clip if self.balance else None,
            inner=inner,
        )
        if not self.lsds:
            return target, weight
        from dacapo.ops.lsd import local_shape_descriptors

        described = local_shape_descriptors(
            np.where(valid, labels, 0), self.lsd_sigma(grid), grid.voxel_size, downsample=self.downsample_lsds
        )[(slice(None), *inner)]
        low, high = self.lsd_clip
        lsd_weight = balance_weights((labels > 0)[None], valid[None], clipmin=low, clipmax=high)[(slice(None), *inner)]
        lsd_weight = np.broadcast_to(lsd_weight, described.shape)
        return np.concatenate([target, described]), np.concatenate([weight, lsd_weight])


class _Distances:
    """Distances to the boundaries of classes as targets. Ground truth is either labels, of which every class sees
    `label > 0`, or one binary or label channel per class."""

    epsilon = 0.05
    threshold = 0.8

    def __init__(self, names: Sequence[str], scale_factor: float, mask_distances: bool) -> None:
        self.names = list(names)
        self.scale_factor = float(scale_factor)
        self.mask_distances = mask_distances

    @property
    def gt_channels(self) -> tuple[int, ...]:
        return tuple({1, len(self.names)})

    def context(self, grid: Grid) -> tuple[Coordinate, Coordinate]:
        """As far as the squashed distance still changes: tanh saturates at about two scales."""
        reach = Coordinate(int(np.ceil(2 * self.scale_factor / v)) for v in grid.voxel_size)
        return reach, reach

    def labels(self, gt: np.ndarray, grid: Grid) -> np.ndarray:
        """Ground truth as one channel per class."""
        labels = gt.reshape(-1, *gt.shape[-grid.dims :])
        return np.broadcast_to(labels, (len(self.names), *labels.shape[1:])) if len(labels) == 1 else labels

    def squashed(self, labels: np.ndarray, valid: np.ndarray, grid: Grid) -> np.ndarray:
        """tanh(distance / scale_factor) to the nearest boundary, positive inside. What is unknown has no boundary."""
        from dacapo.ops.distances import signed_distance

        known = np.broadcast_to(valid, labels.shape)
        distance = np.stack(
            [
                signed_distance(x, grid.voxel_size, mask=None if k.all() else k)
                for x, k in zip(labels, known, strict=True)
            ]
        )
        return np.tanh(distance / np.float32(self.scale_factor), dtype=np.float32)

    def trusted(self, squashed: np.ndarray, valid: np.ndarray, grid: Grid) -> np.ndarray:
        """Where the target is known: with `mask_distances`, valid voxels that no boundary beyond what is known could
        be nearer to than the target says."""
        known = np.broadcast_to(valid, squashed.shape)
        if not self.mask_distances:
            return known
        from dacapo.ops.distances import border_distance

        border = np.stack([border_distance(channel, grid.voxel_size) for channel in valid])
        border = np.tanh(border / np.float32(self.scale_factor))
        return known & (np.clip(np.abs(squashed) + self.epsilon, 0, self.threshold) < border)


class _DistancesPredictor(Predictor):
    """One channel per class: the squashed distance to its boundary. Both sides of it weigh the same in every sample."""

    distances: _Distances
    clip: tuple[float, float]

    @property
    def channels(self) -> list[str]:
        return list(self.distances.names)

    @property
    def gt_channels(self) -> tuple[int, ...]:
        return self.distances.gt_channels

    @property
    def output_array_type(self) -> ArrayType:
        return DistanceArray(self.channels)

    def create_model(self, architecture: Architecture) -> Model:
        from dacapo.experiments.model import Model

        return Model(architecture, conv_head(architecture, len(self.channels)))

    def context(self, grid: Grid) -> tuple[Coordinate, Coordinate]:
        return self.distances.context(grid)

    @abstractmethod
    def _target(self, labels: np.ndarray, valid: np.ndarray, grid: Grid) -> np.ndarray:
        """From labels (C, *spatial), one for each class."""

    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        from dacapo.ops.affinities import balance_weights

        labels = self.distances.labels(gt, grid)
        target = self._target(labels, valid, grid)
        known = self.distances.trusted(target, valid, grid)
        return target, balance_weights(labels > 0, known, clipmin=self.clip[0], clipmax=self.clip[1])


class DistancePredictor(_DistancesPredictor):
    """Signed distance to the nearest boundary, squashed: tanh(distance / scale_factor), positive inside.

    One channel per class. Ground truth is either labels (every class sees `label > 0`) or one binary
    or label channel per class. Both sides of the boundary weigh the same in every sample.
    """

    value_range = (-1.0, 1.0)

    def __init__(
        self,
        channels: Sequence[str],
        scale_factor: float,
        mask_distances: bool = True,
        clipmin: float = 0.05,
        clipmax: float = 0.95,
    ) -> None:
        self.distances = _Distances(channels, scale_factor, mask_distances)
        self.clip = (clipmin, clipmax)

    def _target(self, labels: np.ndarray, valid: np.ndarray, grid: Grid) -> np.ndarray:
        return self.distances.squashed(labels, valid, grid)


class InnerDistancePredictor(_DistancesPredictor):
    """Distance to the nearest boundary inside objects, squashed: tanh(distance / scale_factor); 0 outside.

    Otherwise as `DistancePredictor`.
    """

    value_range = (0.0, 1.0)

    def __init__(
        self,
        channels: Sequence[str],
        scale_factor: float,
        mask_distances: bool = False,
        clipmin: float = 0.05,
        clipmax: float = 0.95,
    ) -> None:
        self.distances = _Distances(channels, scale_factor, mask_distances)
        self.clip = (clipmin, clipmax)

    def _target(self, labels: np.ndarray, valid: np.ndarray, grid: Grid) -> np.ndarray:
        return np.maximum(self.distances.squashed(labels, valid, grid), 0)


class HotDistancePredictor(Predictor):
    """Classes and their distances: channel i says whether a voxel is of class i (a probability), channel C + i is
    the squashed signed distance of `DistancePredictor`.

    Classes may overlap. Weights balance each class where it is known; of the distances where those are, too.
    """

    value_range = (-1.0, 1.0)
    """Of the distances; probabilities take the upper half."""

    def __init__(
        self,
        channels: Sequence[str],
        scale_factor: float,
        mask_distances: bool = False,
        kernel_size: int | None = None,
        clipmin: float = 0.05,
        clipmax: float = 0.95,
    ) -> None:
        self.distances = _Distances(channels, scale_factor, mask_distances)
        self.kernel_size = kernel_size or 1
        self.clip = (clipmin, clipmax)

    @property
    def channels(self) -> list[str]:
        return [*self.distances.names, *(f"{name}_distance" for name in self.distances.names)]

    @property
    def gt_channels(self) -> tuple[int, ...]:
        return self.distances.gt_channels

    def create_model(self, architecture: Architecture) -> Model:
        from dacapo.experiments.model import LeadingSigmoid, Model

        head = conv_head(architecture, len(self.channels), self.kernel_size)
        return Model(architecture, head, eval_activation=LeadingSigmoid(len(self.distances.names)))

    def context(self, grid: Grid) -> tuple[Coordinate, Coordinate]:
        return self.distances.context(grid)

    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        from dacapo.ops.affinities import balance_weights

        labels = self.distances.labels(gt, grid)
        hot, distance = labels > 0, self.distances.squashed(labels, valid, grid)
        low, high = self.clip
        weights = [
            balance_weights(hot, known, clipmin=low, clipmax=high)
            for known in (np.broadcast_to(valid, hot.shape), self.distances.trusted(distance, valid, grid))
        ]
        return np.concatenate([hot.astype(np.float32), distance]), np.concatenate(weights)


class OneHotPredictor(Predictor):
    """The class of each voxel, of classes that exclude each other: one probability per class.

    Ground truth is class ids (0 is the first class) or one binary channel per class, of which a voxel without any
    is ignored. All classes weigh the same in every sample: 1 / (number of classes * share of the known voxels), with
    the share clipped to [clipmin, clipmax].
    """

    checks_labels = True

    def __init__(
        self, classes: Sequence[str], kernel_size: int | None = None, clipmin: float = 0.05, clipmax: float = 0.95
    ) -> None:
        self.classes = list(classes)
        self.kernel_size = kernel_size or 1
        self.clip = (clipmin, clipmax)

    @property
    def channels(self) -> list[str]:
        return list(self.classes)

    @property
    def gt_channels(self) -> tuple[int, ...]:
        return (1, len(self.classes))

    def create_model(self, architecture: Architecture) -> Model:
        import torch

        from dacapo.experiments.model import Model

        head = conv_head(architecture, len(self.classes), self.kernel_size)
        return Model(architecture, head, eval_activation=torch.nn.Softmax(dim=1))

    def check_labels(self, gt: np.ndarray, valid: np.ndarray) -> None:
        self._ids(gt, valid)

    def _ids(self, gt: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from dacapo.ops.labels import class_ids

        return class_ids(gt.reshape(-1, *valid.shape[1:]), valid, self.classes)

    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        from dacapo.ops.affinities import balance_classes

        ids, known = self._ids(gt, valid)
        target = np.stack([(ids == i) & known for i in range(len(self.classes))]).astype(np.float32)
        low, high = self.clip
        weight = balance_classes(ids, known, len(self.classes), clipmin=low, clipmax=high)
        return target, np.ascontiguousarray(np.broadcast_to(weight, target.shape))


class DummyPredictor(Predictor):
    """Embeddings that are all to be 0: trains anything on anything, for tests."""

    value_range = (-1.0, 1.0)

    def __init__(self, embedding_dims: int) -> None:
        self.embedding_dims = embedding_dims

    @property
    def channels(self) -> list[str]:
        return [f"e{i}" for i in range(self.embedding_dims)]

    @property
    def gt_channels(self) -> None:
        return None

    @property
    def output_array_type(self) -> ArrayType:
        return EmbeddingArray(self.embedding_dims)

    def create_model(self, architecture: Architecture) -> Model:
        from dacapo.experiments.model import Model

        return Model(architecture, conv_head(architecture, self.embedding_dims))

    def make_target(self, gt: np.ndarray, valid: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.embedding_dims, *valid.shape[1:])
        known = np.broadcast_to(valid.any(0), shape)
        return np.zeros(shape, np.float32), known.astype(np.float32)
