"""Where crops are taken: anywhere that is annotated enough, around annotated voxels, or around each class or object alike.

Every draw is a function of the random numbers it is given. May import `arrays` and `ops`, through datasets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from dacapo.errors import ConfigError, DataError
from dacapo.experiments.datasplits.datasets import Dataset
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from dacapo.experiments.trainers.trainer import GunpowderTrainerConfig

TRIES = 100
"""Crops that are tried for one that is annotated enough; then the best of them is taken."""
TRIES_ANYWHERE = 20
"""So many of them anywhere; the others around annotated voxels, which finds sparse annotations too."""
BLOCK = 64
"""Edge, in voxels, of the blocks in which voxels are counted."""
MOST_CLASSES = 256

Kind = Literal["annotated", "classes", "instances"]


class VoxelIndex:
    """How many voxels of each key every block of a dataset's ground truth holds, so that any voxel can be drawn.

    Keys are one for all annotated voxels ("annotated"); the channels of gt, or the ids of a gt without channels
    ("classes", 0 included, unlike voxels that are in no channel); the ids without 0 ("instances"). The ground truth
    is read once, block by block; what is kept is a number per key and block that has some.
    """

    def __init__(self, dataset: Dataset, kind: Kind) -> None:
        assert dataset.gt is not None
        if kind == "instances" and dataset.gt.channel_dims and dataset.gt.shape[0] > 1:
            raise ConfigError(
                f"{dataset.name}: balance is 'instances', but gt has {dataset.gt.shape[0]} channels: give one of ids"
            )
        self.dataset, self.kind = dataset, kind
        self.blocks = [range(0, n, BLOCK) for n in dataset.gt.spatial_shape]
        found: dict[int, tuple[list[int], list[int]]] = {}
        for number, corner in enumerate(itertools.product(*self.blocks)):
            labels, valid = self._read(corner)
            for key, count in self._counts(labels, valid):
                numbers, counts = found.setdefault(key, ([], []))
                numbers.append(number)
                counts.append(count)
            if kind == "classes" and len(found) > MOST_CLASSES:
                raise ConfigError(
                    f"{dataset.name}: balance is 'classes', but gt has more than {MOST_CLASSES} ids: for objects "
                    f"use balance: instances"
                )
        self.keys = sorted(found)
        self._numbers = [np.array(found[key][0]) for key in self.keys]
        self._ends = [np.cumsum(found[key][1]) for key in self.keys]

    def _read(self, corner: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (C, *block) and where they are known, of the same shape."""
        gt = self.dataset.gt
        assert gt is not None
        box = Roi(corner, (BLOCK,) * len(corner)).intersect(gt.roi)
        labels = gt.read(box).reshape(-1, *box.shape)
        return labels, np.broadcast_to(self.dataset.read_valid(box), labels.shape)

    def _counts(self, labels: np.ndarray, valid: np.ndarray) -> Iterator[tuple[int, int]]:
        from dacapo.ops.labels import unique_counts

        if self.kind == "annotated":
            counted = [(0, int(np.count_nonzero(valid.any(0))))]
        elif self.kind == "classes" and len(labels) > 1:
            counted = [(c, int(np.count_nonzero((labels[c] > 0) & valid[c]))) for c in range(len(labels))]
        else:
            ids, numbers = unique_counts(np.asarray(labels[0][valid[0]], np.uint64).reshape(1, -1))
            counted = [(int(i), int(n)) for i, n in zip(ids, numbers, strict=True) if i or self.kind == "classes"]
        return ((key, count) for key, count in counted if count)

    def draw(self, rng: np.random.Generator) -> Coordinate | None:
        """A voxel of gt: each key is as likely as any other, and each of its voxels; None if there is none."""
        if not self.keys:
            return None
        which = int(rng.integers(len(self.keys)))
        ends = self._ends[which]
        place = int(rng.integers(ends[-1]))
        at = int(np.searchsorted(ends, place, side="right"))
        number = int(self._numbers[which][at])
        counts = [len(axis) for axis in self.blocks]
        corner = tuple(axis[i] for axis, i in zip(self.blocks, np.unravel_index(number, counts), strict=True))
        members = self._members(*self._read(corner), self.keys[which])
        inside = np.flatnonzero(members)[place - (int(ends[at - 1]) if at else 0)]
        voxel = np.unravel_index(int(inside), members.shape)
        return Coordinate(int(c + v) for c, v in zip(corner, voxel, strict=True))

    def _members(self, labels: np.ndarray, valid: np.ndarray, key: int) -> np.ndarray:
        if self.kind == "annotated":
            return valid.any(0)
        if self.kind == "classes" and len(labels) > 1:
            return (labels[key] > 0) & valid[key]
        return (labels[0] == np.asarray(key, np.uint64).astype(labels.dtype)) & valid[0]


class Locations:
    """Draws output crops of one dataset, in voxels of its ground truth.

    Parameters
    ----------
    shape : Coordinate
        Of a crop. Crops lie inside the ground truth, unless it is smaller than they are.
    """

    def __init__(self, dataset: Dataset, trainer: GunpowderTrainerConfig, shape: Coordinate) -> None:
        assert dataset.gt is not None
        self.dataset, self.trainer, self.covered, self.shape = dataset, trainer, dataset.gt.roi, shape
        self.partly_known = dataset.mask is not None or dataset.unlabelled is not None
        trainer.check_dataset(dataset)

    @cached_property
    def annotated(self) -> VoxelIndex:
        return VoxelIndex(self.dataset, "annotated")

    @cached_property
    def balanced(self) -> VoxelIndex:
        assert self.trainer.balance is not None
        index = VoxelIndex(self.dataset, self.trainer.balance)
        if not index.keys:
            raise DataError(f"{self.dataset.name}: balance is {self.trainer.balance!r}, but gt has not one to be found")
        return index

    def draw(self, rng: np.random.Generator) -> tuple[Roi, float]:
        """A crop and the share of it that is annotated: the first of at least `min_masked`, else about the best there is."""
        best, best_share = None, -1.0
        for attempt in range(TRIES):
            box = Roi(self._begin(rng, attempt), self.shape)
            if not self.partly_known:
                return box, 1.0
            share = self._share(box)
            if share > 0 and share >= self.trainer.min_masked:
                return box, share
            if share > best_share:
                best, best_share = box, share
        if best is None or best_share <= 0:
            raise DataError(
                f"{self.dataset.name}: {TRIES} crops of {tuple(self.shape)} voxels had no annotated voxel: look at the "
                f"mask, and at whether raw covers what is annotated"
            )
        return self._climbed(best, best_share)

    def _share(self, box: Roi) -> float:
        return float(self.dataset.read_valid(box).any(0).mean())

    def _climbed(self, box: Roi, share: float) -> tuple[Roi, float]:
        """Moved, axis by axis, for as long as more of it becomes annotated and `min_masked` is not reached."""
        step = max(self.shape) // 2
        while step and share < self.trainer.min_masked and self.trainer.sample_strategy != "sample_points":
            moved = False
            for axis, way in itertools.product(range(box.dims), (-step, step)):
                begin = box.begin + Coordinate(way if d == axis else 0 for d in range(box.dims))
                there = Roi(begin, box.shape)
                if self.covered.contains(there) and (found := self._share(there)) > share:
                    box, share, moved = there, found, True
            step = step if moved else step // 2
        return box, share

    def _begin(self, rng: np.random.Generator, attempt: int) -> Coordinate:
        strategy, shape = self.trainer.sample_strategy, self.shape
        if strategy == "sample_points":
            points = self.dataset.sample_points
            assert points
            return points[int(rng.integers(len(points)))] - shape // 2
        voxel = None
        if self.trainer.balance is not None:
            voxel = self.balanced.draw(rng)
        elif self.partly_known and (strategy == "integral_mask" or attempt >= TRIES_ANYWHERE):
            voxel = self.annotated.draw(rng)
        room = self.covered.shape - shape
        if voxel is None:
            # A volume smaller than the crop is taken from its middle, with mask 0 around it.
            return self.covered.begin + Coordinate(int(rng.integers(r + 1)) if r > 0 else r // 2 for r in room)
        wanted = voxel - shape // 2 - self.covered.begin
        return self.covered.begin + Coordinate(
            min(max(w, 0), r) if r > 0 else r // 2 for w, r in zip(wanted, room, strict=True)
        )

    def check(self) -> None:
        """Whether crops can hold as much annotation as `min_masked` asks for; some draws tell."""
        if not self.partly_known:
            return
        _, share = self.draw(np.random.default_rng(0))
        if share < self.trainer.min_masked:
            raise ConfigError(
                f"{self.dataset.name}: trainer.min_masked is {self.trainer.min_masked:g}, but the best of {TRIES} crops of "
                f"{tuple(self.shape)} voxels was annotated to a share of {share:.3g}: lower min_masked, or take smaller crops"
            )
