"""Training samples: each is a pure function of (seed, index).

So batches are the same for any number of workers, and a resumed run goes on bit for bit. A sample is
located, read, bent, flipped, turned into target and weight, and lit, in that order. May import
`arrays`, `ops`; torch where batches are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.errors import DataError
from dacapo.experiments.datasplits.datasets import Dataset
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    import torch

    from dacapo.arrays import Array
    from dacapo.experiments.datasplits import DataSplitConfig
    from dacapo.experiments.tasks.predictors import Predictor
    from dacapo.experiments.trainers.trainer import GunpowderTrainerConfig

_TRIES = 100
"""Locations that are tried for one that is labelled enough; then the best of them is taken."""
_CACHE_BYTES = 2**28
"""A volume below this size is kept in memory by each process that samples it."""


@dataclass
class Samples:
    """All samples of a training: `samples[index]` is a dict of float32 arrays (C, *spatial).

    Keys: raw (input shape), gt, mask (output shape), and target, weight with a predictor.
    """

    trainer: GunpowderTrainerConfig
    datasets: list[Dataset] | None
    input_shape: Coordinate
    output_shape: Coordinate
    predictor: Predictor | None
    seed: int
    source: DataSplitConfig | None = None
    """Where to open the datasets anew, in another process."""

    def __post_init__(self) -> None:
        self._places: list[_Place] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Open files and tensorstore handles do not travel: another process opens its own.
        assert self.source is not None, "samples of opened datasets stay in their process: use num_workers=0"
        return self.__dict__ | {"datasets": None, "_places": None}

    def __len__(self) -> int:
        return 2**62

    @property
    def places(self) -> list[_Place]:
        if self._places is None:
            if self.datasets is None:
                assert self.source is not None
                self.datasets = self.source.datasplit().train
            self._places = [_Place(dataset, self) for dataset in self.datasets]
        return self._places

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        weights = np.array([place.dataset.weight for place in self.places], float)
        place = self.places[int(rng.choice(len(weights), p=weights / weights.sum()))]
        return place.sample(rng)


class _Place:
    """One dataset, and how crops of it are cut."""

    def __init__(self, dataset: Dataset, samples: Samples) -> None:
        self.samples, self.trainer = samples, samples.trainer
        raw, gt, mask = (_cached(a) for a in (dataset.raw, dataset.gt, dataset.mask))
        assert raw is not None
        assert gt is not None
        if self.trainer.clip_raw:
            raw = raw.crop(gt.grid.convert(gt.roi, raw.grid).intersect(raw.roi))
        self.raw, self.gt = raw, gt
        self.dataset = Dataset(
            dataset.name, raw, gt, mask,
            weight=dataset.weight, sample_points=dataset.sample_points, unlabelled=dataset.unlabelled,
        )  # fmt: skip
        self.ratio = tuple(gt.grid.ratio(raw.grid))  # gt voxels in a raw voxel
        self.corner = raw.grid.shift(gt.grid)  # raw voxel at gt's corner
        self.swappable = self._swappable_axes()
        self.margin = self._margin()
        self.covered = raw.grid.convert(raw.roi, gt.grid).intersect(gt.roi)
        self.valid_needed = dataset.mask is not None or dataset.unlabelled is not None

    def _swappable_axes(self) -> list[list[int]]:
        """Groups of axes along which voxel size and crop shapes are the same, so that they may change places."""
        looks: dict[tuple[Any, ...], list[int]] = {}
        for d in range(self.gt.spatial_dims):
            look = (
                round(self.raw.voxel_size[d], 6),
                round(self.gt.voxel_size[d], 6),
                self.samples.input_shape[d],
                self.samples.output_shape[d],
            )
            looks.setdefault(look, []).append(d)
        return list(looks.values())

    def _margin(self) -> Coordinate:
        """Voxels of gt around a crop that the target needs: the same on both sides, which keeps the crop in the
        centre about which it is turned, and along axes that may change places."""
        margin = [0] * self.gt.spatial_dims
        if self.samples.predictor is not None:
            below, above = self.samples.predictor.context(self.gt.grid)
            margin = [max(a, b) for a, b in zip(below, above, strict=True)]
        for group in self.swappable:
            widest = max(margin[d] for d in group)
            for d in group:
                margin[d] = widest
        return Coordinate(margin)

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        samples, spatial = self.samples, self.gt.spatial_dims
        box = self._locate(rng)
        transform = next(filter(None, (a.bend(rng, self.raw.voxel_size) for a in self.trainer.augments)), None)
        flips = [f for a in self.trainer.augments if (f := a.flip(rng, self.swappable)) is not None]
        raw, gt, valid = self._read(box, transform)
        for order, mirrored in flips:
            raw, gt, valid = (_flipped(x, order, mirrored, spatial) for x in (raw, gt, valid))
        for augment in self.trainer.augments:
            raw = augment.change_raw(raw, rng)
        inner = tuple(slice(m, m + s) for m, s in zip(self.margin, samples.output_shape, strict=True))
        sample = {"raw": np.ascontiguousarray(raw, np.float32)}
        if samples.predictor is not None:
            target, weight = samples.predictor.make_target(np.ascontiguousarray(gt), valid, self.gt.grid)
            sample["target"] = np.ascontiguousarray(target[(..., *inner)])
            sample["weight"] = np.ascontiguousarray(weight[(..., *inner)])
        cut = gt[(..., *inner)].reshape(-1, *samples.output_shape)
        sample["gt"] = np.ascontiguousarray(cut.astype(np.int64))
        sample["mask"] = np.ascontiguousarray(valid[(..., *inner)], np.float32)
        return sample

    def _locate(self, rng: np.random.Generator) -> Roi:
        """The output crop, in voxels of gt, uniformly among those that are labelled enough."""
        shape = self.samples.output_shape
        room = self.covered.shape - shape
        tries = _TRIES if self.valid_needed else 1
        best, best_share = None, -1.0
        for _ in range(tries):
            if self.trainer.sample_strategy == "sample_points":
                points = self.dataset.sample_points
                if not points:
                    raise DataError(
                        f"{self.dataset.name}: sample_strategy is 'sample_points', but it has no sample_points"
                    )
                begin = points[int(rng.integers(len(points)))] - shape // 2
            else:
                # A volume smaller than the crop is taken from its middle, with mask 0 around it.
                begin = self.covered.begin + Coordinate(int(rng.integers(r + 1)) if r > 0 else r // 2 for r in room)
            box = Roi(self._on_raw_voxels(begin), shape)
            if not self.valid_needed:
                return box
            share = self._labelled_share(box)
            if share > best_share:
                best, best_share = box, share
            if share > 0 and share >= self.trainer.min_masked:
                return box
        if best_share <= 0:
            raise DataError(
                f"{self.dataset.name}: {_TRIES} random crops of {tuple(shape)} voxels had no annotated voxel: "
                f"annotations are too sparse for this crop; use sample_points or crop the volume"
            )
        assert best is not None
        return best

    def _on_raw_voxels(self, begin: Coordinate) -> Coordinate:
        """Where raw is coarser, the input of a crop begins on its voxels: raw and labels are then turned about one
        centre."""
        shapes = zip(self.samples.input_shape, self.samples.output_shape, strict=True)
        taken = ((r * i - o) // 2 for r, (i, o) in zip(self.ratio, shapes, strict=True))
        return Coordinate(int(b - (b - t) % r) if r > 1 else b for b, r, t in zip(begin, self.ratio, taken, strict=True))

    def _labelled_share(self, box: Roi) -> float:
        if self.trainer.sample_strategy == "integral_mask":  # the centre must be annotated
            centre = Roi(box.begin + box.shape // 2, (1,) * box.dims)
            if not self.dataset.read_valid(centre).any():
                return 0.0
        return float(self.dataset.read_valid(box).any(0).mean())

    def _read(self, box: Roi, transform: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw of the input crop, gt and validity of the output crop with its margin, around the centre of `box`."""
        raw_box, gt_box = self._raw_box(box), box.grow(self.margin, self.margin)
        if transform is None:
            gt = self.gt.read(gt_box, pad="zero").reshape(-1, *gt_box.shape)
            return self._raw(raw_box), gt, self.dataset.read_valid(gt_box)
        from dacapo.ops.warp import apply_linear, apply_nearest, source_shape

        raw_size, gt_size = self.raw.voxel_size, self.gt.voxel_size
        raw_source = _around(raw_box, source_shape(transform, raw_box.shape, raw_size))
        gt_source = _around(gt_box, source_shape(transform, gt_box.shape, gt_size))
        raw = apply_linear(self._raw(raw_source), transform, raw_box.shape, raw_size)
        labels = self.gt.read(gt_source, pad="zero").reshape(-1, *gt_source.shape)
        gt = np.stack([apply_nearest(channel, transform, gt_box.shape, gt_size) for channel in labels])
        known = self.dataset.read_valid(gt_source).astype(np.uint8)
        valid = np.stack([apply_nearest(channel, transform, gt_box.shape, gt_size) for channel in known])
        return raw, gt, valid.astype(bool)

    def _raw_box(self, box: Roi) -> Roi:
        begin, shape = [], self.samples.input_shape
        for d in range(box.dims):
            centre = 2 * box.begin[d] + box.shape[d]  # twice, in voxels of gt
            twice = centre / self.ratio[d] + 2 * self.corner[d] - shape[d]
            begin.append(round(twice / 2))
        return Roi(begin, shape)

    def _raw(self, box: Roi) -> np.ndarray:
        data = self.raw.read(box, pad="reflect").reshape(-1, *box.shape)
        return np.ascontiguousarray(data, np.float32)


def _cached(array: Array | None) -> Array | None:
    """The array in memory if it is small."""
    from dacapo.arrays import from_numpy

    if array is None or array.dtype.itemsize * math.prod(array.shape) > _CACHE_BYTES:
        return array
    return from_numpy(array.read(), array.grid, axis_names=array.axis_names)


def _around(box: Roi, shape: Sequence[int]) -> Roi:
    """A box of at least `shape` with the very centre of `box`."""
    grow = Coordinate(max(0, -(-(s - b) // 2)) for s, b in zip(shape, box.shape, strict=True))
    return box.grow(grow, grow)


def _flipped(data: np.ndarray, order: list[int], mirrored: list[bool], spatial: int) -> np.ndarray:
    lead = data.ndim - spatial
    data = data.transpose(*range(lead), *(lead + axis for axis in order))
    return data[(..., *(slice(None, None, -1 if m else 1) for m in mirrored))]


class _Range:
    """Indices of samples, as a sampler that takes no memory."""

    def __init__(self, start: int, stop: int) -> None:
        self.range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def batches(
    samples: Samples, batch_size: int, start: int, stop: int, num_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches `start` to `stop`: batch i holds samples i * batch_size and on, whatever the number of workers."""
    import torch
    from torch.utils.data import DataLoader

    if num_workers and samples.source is None:
        raise DataError("worker processes need a datasplit config to open: use num_workers=0 with opened datasets")
    loader = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=_Range(start * batch_size, stop * batch_size),
        num_workers=num_workers,
        # tensorstore aborts a process that forks after it was used.
        multiprocessing_context="spawn" if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if num_workers else None,
    )
    return iter(loader)
