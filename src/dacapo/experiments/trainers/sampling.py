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
from dacapo.experiments.datasplits.datasets.datasets import as_raw, raw_top
from dacapo.experiments.trainers.locations import Locations
from dacapo.geometry import Coordinate, Roi

if TYPE_CHECKING:
    import torch

    from dacapo.arrays import Array
    from dacapo.experiments.datasplits import DataSplitConfig
    from dacapo.experiments.tasks.predictors import Predictor
    from dacapo.experiments.trainers.trainer import GunpowderTrainerConfig
    from dacapo.ops.warp import Transform

_CACHE_BYTES = 2**28
"""A volume below this size is kept in memory by each process that samples it."""

KEPT_BYTES = 2**25
"""The largest piece of memory that a worker process keeps for the next sample; glibc allows no more."""
_PREFETCHED = 2
"""Batches that a worker process makes ahead."""


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
    def travels(self) -> bool:
        """Whether another process can make the same samples."""
        return self.source is not None

    def check(self) -> None:
        """Whether every dataset has what the trainer asks for; ConfigError or DataError otherwise."""
        for place in self.places:
            place.locations.check()

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
        raw, gt, mask = _sampled(dataset.stored_raw), dataset.gt, dataset.mask
        assert gt is not None
        if self.trainer.clip_raw:
            raw = raw.crop(gt.grid.convert(gt.roi, raw.grid).intersect(raw.roi))
        covered, points = raw.grid.convert(raw.roi, gt.grid).intersect(gt.roi), dataset.sample_points
        if covered != gt.roi:  # what raw does not show is not learned
            gt = gt.crop(covered)
            points = None if points is None else [p - covered.begin for p in points]
        self._stored_raw, self._labels = _Volume(raw), _Volume(gt, narrow=True)
        self._mask = None if mask is None else _Volume(mask.map(lambda x: x > 0, bool))
        self.dataset = Dataset(
            dataset.name,
            self._stored_raw.array,
            self._labels.array,
            None if self._mask is None else self._mask.array,
            weight=dataset.weight,
            sample_points=points,
            unlabelled=dataset.unlabelled,
        )
        self.raw, self.gt = self.dataset.raw, self._labels.array
        self.ratio = tuple(gt.grid.ratio(raw.grid))  # gt voxels in a raw voxel
        self.corner = raw.grid.shift(gt.grid)  # raw voxel at gt's corner
        self.swappable = self._swappable_axes()
        self.margin = self._margin()
        self.locations = Locations(self.dataset, self.trainer, samples.output_shape)

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
            sample["target"], sample["weight"] = samples.predictor.make_inner_target(
                np.ascontiguousarray(gt), valid, self.gt.grid, inner
            )
        cut = gt[(..., *inner)].reshape(-1, *samples.output_shape)
        sample["gt"] = np.ascontiguousarray(cut.astype(np.int64))
        sample["mask"] = np.ascontiguousarray(valid[(..., *inner)], np.float32)
        return sample

    def _locate(self, rng: np.random.Generator) -> Roi:
        """The output crop, in voxels of gt."""
        box, _ = self.locations.draw(rng)
        return Roi(self._on_raw_voxels(box.begin), box.shape)

    def _on_raw_voxels(self, begin: Coordinate) -> Coordinate:
        """Where raw is coarser, the input of a crop begins on its voxels: raw and labels are then turned about one
        centre."""
        shapes = zip(self.samples.input_shape, self.samples.output_shape, strict=True)
        taken = ((r * i - o) // 2 for r, (i, o) in zip(self.ratio, shapes, strict=True))
        return Coordinate(
            int(b - (b - t) % r) if r > 1 else b for b, r, t in zip(begin, self.ratio, taken, strict=True)
        )

    def _read(self, box: Roi, transform: Transform | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw of the input crop, gt and validity of the output crop with its margin, around the centre of `box`."""
        raw_box, gt_box = self._raw_box(box), box.grow(self.margin, self.margin)
        if transform is None:
            gt = self.gt.read(gt_box, pad="zero").reshape(-1, *gt_box.shape)
            return self._raw(raw_box), gt, self.dataset.read_valid(gt_box)
        from dacapo.ops.warp import apply_linear, source_shape

        raw_size, gt_size = self.raw.voxel_size, self.gt.voxel_size
        raw_source = _around(raw_box, source_shape(transform, raw_box.shape, raw_size))
        gt_source = _around(gt_box, source_shape(transform, gt_box.shape, gt_size))
        stored, at = self._stored_raw.around(raw_source)
        top = raw_top(stored.dtype)
        raw = apply_linear(stored, transform, raw_box.shape, raw_size, box=at, top=top)
        gt, inside = self._labels.bent(gt_source, transform, gt_box.shape)
        mask = None
        if self._mask is not None:
            shift = self._mask.array.grid.shift(self.gt.grid)
            mask, _ = self._mask.bent(gt_source + shift, transform, gt_box.shape)
        return raw, gt, self.dataset.valid_of(inside[None], gt, mask)

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


class _Volume:
    """An array that crops are taken from; in memory if it is small, then labels in the smallest type that holds them."""

    def __init__(self, array: Array, *, narrow: bool = False) -> None:
        from dacapo.arrays import from_numpy

        self.array, self._voxels = array, None
        if array.dtype.itemsize * math.prod(array.shape) <= _CACHE_BYTES:
            voxels = np.ascontiguousarray(array.read())
            if narrow and voxels.dtype.kind in "ui" and voxels.min() >= 0:
                voxels = voxels.astype(np.min_scalar_type(voxels.max()), copy=False)
            self.array = from_numpy(voxels, array.grid, axis_names=array.axis_names)
            self._voxels = voxels.reshape(-1, *array.spatial_shape)

    def around(self, box: Roi) -> tuple[np.ndarray, Roi]:
        """Voxels (C, *spatial) that hold `box`, or that are mirrored where it sticks out, and where it is in them."""
        if self._voxels is not None:
            return self._voxels, box
        return self.array.read(box, pad="reflect").reshape(-1, *box.shape), Roi((0,) * box.dims, box.shape)

    def bent(self, box: Roi, transform: Transform, shape: Coordinate) -> tuple[np.ndarray, np.ndarray]:
        """Labels (C, *shape) about the centre of `box`, 0 beyond the border, and where they lie inside (*shape) bool."""
        from dacapo.ops.warp import apply_nearest

        voxels = self._voxels
        if voxels is None:
            part = box.intersect(self.array.roi)
            if part.empty:
                channels = math.prod(self.array.shape[: self.array.channel_dims])
                return np.zeros((channels, *shape), self.array.dtype), np.zeros(shape, bool)
            voxels, box = self.array.read(part).reshape(-1, *part.shape), box - part.begin
        inside = np.empty(shape, bool)
        bent = [apply_nearest(c, transform, shape, self.array.voxel_size, box=box, within=inside) for c in voxels]
        return bent[0][None] if len(bent) == 1 else np.stack(bent), inside


def _sampled(raw: Array) -> Array:
    """Raw as it is stored if it can be bent as it is; otherwise as float32."""
    if raw.dtype in (np.uint8, np.uint16, np.float32):
        return raw
    return as_raw(raw).map(lambda x: x.astype(np.float32), np.float32)


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


@dataclass
class SameSample:
    """One sample, again and again."""

    sample: dict[str, np.ndarray]
    travels = True

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.sample

    def check(self) -> None:
        """Nothing can be wrong with it."""


def batches(
    samples: Samples | SameSample, batch_size: int, start: int, stop: int, num_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches `start` to `stop`: batch i holds samples i * batch_size and on, whatever the number of workers."""
    import torch
    from torch.utils.data import DataLoader

    if not num_workers:
        pin = torch.cuda.is_available()
        return iter(
            DataLoader(samples, batch_size, sampler=_Range(start * batch_size, stop * batch_size), pin_memory=pin)
        )  # type: ignore[arg-type]
    from dacapo.experiments.trainers.slots import Slots

    if not samples.travels:
        raise DataError("worker processes need a datasplit config to open: use num_workers=0 with opened datasets")
    slots = Slots(num_workers, _PREFETCHED + 2)  # the one that is worked with and the one that is asked for meanwhile
    loader = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=_Range(start * batch_size, stop * batch_size),
        num_workers=num_workers,
        # tensorstore aborts a process that forks after it was used.
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=_PREFETCHED,
        worker_init_fn=_ready_worker,
        collate_fn=slots.collate,
    )
    return map(slots.receive, iter(loader))


def _ready_worker(number: int) -> None:
    """Sample after sample takes the same memory: taken from the system anew, it would cost as much time as the sample.
    What opening the volumes took is handed back before."""
    from torch.utils.data import get_worker_info

    from dacapo.compute_context import keep_freed_memory

    info = get_worker_info()
    assert info is not None
    if isinstance(info.dataset, Samples):
        assert info.dataset.places
    keep_freed_memory(True, KEPT_BYTES)
