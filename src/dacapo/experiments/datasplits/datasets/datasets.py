"""Datasets: raw, ground truth and mask that belong together, and whether they do.

May import `arrays` (through its array configs) and `config`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from dacapo.config import Config
from dacapo.errors import ArrayError, DacapoError, DataError, GeometryError
from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig, DummyArrayConfig
from dacapo.geometry import Coordinate, Grid, Roi, exact

if TYPE_CHECKING:
    from dacapo.arrays import Array


class Dataset:
    """Raw with ground truth (`gt`) and mask where there are some; all lazy.

    `raw` is float32 or on its way there: integers are scaled to [0, 1] by the range of their type.
    `stored_raw` is raw before it was scaled. `mask` is 0 where the ground truth says nothing. `gt` voxels that equal
    `unlabelled` count as masked.
    """

    def __init__(
        self,
        name: str,
        raw: Array,
        gt: Array | None = None,
        mask: Array | None = None,
        *,
        weight: float = 1,
        sample_points: list[Coordinate] | None = None,
        unlabelled: int | None = None,
    ) -> None:
        self.name = name
        self.raw = as_raw(raw)
        self.stored_raw = raw
        self.gt = gt
        self.mask = mask
        self.weight = weight
        self.sample_points = sample_points
        self.unlabelled = unlabelled

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"ds_{self.name.replace('/', '_')}"

    __repr__ = __str__

    @property
    def num_raw_channels(self) -> int:
        return int(np.prod(self.raw.shape[: self.raw.channel_dims], dtype=int))

    def read_valid(self, roi: Roi) -> np.ndarray:
        """Where the ground truth of `roi` (voxels of gt) says something: bool (M, *roi.shape).

        M is 1, or the number of channels of gt where the mask or the ground truth itself tells them apart.
        """
        assert self.gt is not None
        inside = roi.intersect(self.gt.roi)
        valid = np.zeros((self.valid_channels, *roi.shape), bool)
        if inside.empty:
            return valid
        part = tuple(slice(a - o, b - o) for a, b, o in zip(inside.begin, inside.end, roi.begin, strict=True))
        gt = mask = None
        if self.mask is not None:
            mask = self.mask.read(inside + self.mask.grid.shift(self.gt.grid), pad="zero").reshape(-1, *inside.shape)
        if self.unlabelled is not None:
            gt = self.gt.read(inside).reshape(-1, *inside.shape)
        valid[(slice(None), *part)] = self.valid_of(np.ones((1, *inside.shape), bool), gt, mask)
        return valid

    def valid_of(self, inside: np.ndarray, gt: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray:
        """Validity bool (M, *spatial) of voxels that were read: where they lie inside of gt (1, *spatial), and their gt
        and mask (C, *spatial); None for what there is not, and for a gt in which nothing is unlabelled."""
        valid = inside if mask is None else inside & (mask > 0)
        if self.unlabelled is not None:
            assert gt is not None
            labelled = gt != self.unlabelled
            valid = valid & (labelled if self.unlabelled else labelled.any(0))
        return valid

    @property
    def valid_channels(self) -> int:
        """Channels of what `read_valid` returns."""
        of_mask = 1 if self.mask is None else math.prod(self.mask.shape[: self.mask.channel_dims])
        assert self.gt is not None
        of_gt = math.prod(self.gt.shape[: self.gt.channel_dims]) if self.unlabelled else 1
        return max(of_mask, of_gt)

    def check(self) -> None:
        """Whether the parts fit and there is something to learn; each problem is one clear line."""
        if self.gt is None:
            return
        raw, gt = self.raw, self.gt
        if raw.grid.dims != gt.grid.dims:
            raise GeometryError(
                f"{self.name}: raw has axes {list(raw.grid.axes)}, gt {list(gt.grid.axes)}: give both the same spatial axes"
            )
        try:
            gt.grid.ratio(raw.grid)
        except GeometryError:
            raise GeometryError(
                f"{self.name}: voxel size {_sizes(gt)} of gt and {_sizes(raw)} of raw are no integer ratio of each other. "
                f"Give the pyramid level that matches, or the right voxel_size."
            ) from None
        covered = raw.grid.convert(raw.roi, gt.grid).intersect(gt.roi)
        if covered.empty:
            raise GeometryError(
                f"{self.name}: raw ({_extent(raw)}) and gt ({_extent(gt)}) do not overlap: check their offsets"
            )
        if self.mask is not None:
            if any(abs(a - b) > 1e-3 * b for a, b in zip(self.mask.voxel_size, gt.voxel_size, strict=False)):
                raise GeometryError(
                    f"{self.name}: mask has voxel size {_sizes(self.mask)}, gt {_sizes(gt)}: give both the same"
                )
            channels = {1, math.prod(gt.shape[: gt.channel_dims])}
            if self.valid_channels not in channels:
                raise GeometryError(
                    f"{self.name}: mask has {self.valid_channels} channels, gt {max(channels)}: give one or as many"
                )
            if not self.read_valid(gt.roi).any():
                raise DataError(f"{self.name}: the mask leaves no voxel of gt")

    def check_voxels(self) -> None:
        """Read the volume once, slab by slab: NaN in raw and ground truth without a label are errors."""
        for roi in slabs(self.raw):
            if not np.isfinite(self.raw.read(roi)).all():
                raise DataError(
                    f"{self.name}: raw ({self.raw.path or 'array'}) has NaN or infinite voxels in slices "
                    f"{roi.begin[0]}-{roi.end[0]}: replace or mask them in the file"
                )
        if self.gt is None:
            return
        for roi in slabs(self.gt):
            labels = self.gt.read(roi).reshape(-1, *roi.shape)
            if ((labels > 0) & self.read_valid(roi)).any():
                return
        raise DataError(
            f"{self.name}: gt ({self.gt.path or 'array'}) has not a single labelled voxel"
            + (" inside the mask" if self.mask is not None else "")
        )


def as_raw(array: Array) -> Array:
    """Integers scaled to [0, 1] by the range of their type, floats as they are: the one scale of raw."""
    if np.issubdtype(array.dtype, np.integer):
        top = np.float32(raw_top(array.dtype))
        return array.map(lambda x: x.astype(np.float32) / top, np.float32)
    return array


def raw_top(dtype: np.dtype[Any]) -> int:
    """The stored value that is 1 on raw's scale."""
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1


def _voxels_of(points: tuple[tuple[float, ...], ...], array: Array, name: str) -> list[Coordinate]:
    """The voxels that world positions (in the array's units) lie in; GeometryError for one outside."""
    grid: Grid = array.grid
    voxels = []
    for point in points:
        if len(point) != grid.dims:
            raise GeometryError(
                f"{name}.sample_points: {list(point)} has {len(point)} numbers, expected {grid.dims}, one per axis "
                f"{list(grid.axes)}"
            )
        at = [
            math.floor((exact(p) - exact(o)) / exact(v))
            for p, o, v in zip(point, grid.offset, grid.voxel_size, strict=True)
        ]
        if not all(0 <= i < n for i, n in zip(at, array.spatial_shape, strict=True)):
            raise GeometryError(f"{name}.sample_points: {list(point)} lies outside the ground truth ({_extent(array)})")
        voxels.append(Coordinate(at))
    return voxels


def slabs(array: Array, slices: int = 32) -> list[Roi]:
    """The volume in parts of so many slices, to be read one after the other."""
    depth, rest = array.spatial_shape[0], tuple(array.spatial_shape[1:])
    zeros = (0,) * len(rest)
    return [Roi((z, *zeros), (min(slices, depth - z), *rest)) for z in range(0, depth, slices)]


def _sizes(array: Array) -> str:
    return f"({', '.join(f'{v:g}' for v in array.voxel_size)}) {array.units}"


def _extent(array: Array) -> str:
    ends = (o + n * v for o, n, v in zip(array.offset, array.spatial_shape, array.voxel_size, strict=True))
    return ", ".join(f"{o:g}..{e:g}" for o, e in zip(array.offset, ends, strict=True)) + f" {array.units}"


class DatasetConfig(Config):
    """A dataset, opened by `dataset()`."""

    kind: ClassVar[str] = "dataset"
    default_type: ClassVar[str | None] = "RawGTDatasetConfig"
    name: str = ""
    weight: float = Field(default=1, gt=0, allow_inf_nan=False)
    """How often this dataset is sampled, relative to the others."""

    @abstractmethod
    def dataset(self, name: str = "") -> Dataset:
        """Open the arrays; `name` stands in where the config has none."""

    def dataset_type(self, config: DatasetConfig | None = None) -> Dataset:
        """Upstream's spelling of `dataset()`."""
        return (config or self).dataset()

    @abstractmethod
    def relative_to(self, folder: Path) -> DatasetConfig:
        """The same config with relative file names resolved against `folder`."""


class RawGTDatasetConfig(DatasetConfig):
    """Raw, ground truth, and a mask that is 0 where the ground truth says nothing."""

    raw_config: ArrayConfig
    """Intensities. Integers are scaled to [0, 1] by the range of their type."""
    gt_config: ArrayConfig | None = None
    """Labels; 0 is background unless `unlabelled` says otherwise."""
    mask_config: ArrayConfig | None = None
    """0 = ignore, in target, loss, sampling and scores."""
    sample_points: tuple[tuple[float, ...], ...] | None = None
    """World positions (nm) around which training samples are taken."""
    unlabelled: int | None = None
    """Ground truth voxels of this id are not annotated: ignored like mask 0. Of several channels each by itself, but
    with 0 those voxels that are 0 in all of them."""

    def dataset(self, name: str = "") -> Dataset:
        name = self.name or name
        arrays: dict[str, Any] = {}
        for part in ("raw", "gt", "mask"):
            config: ArrayConfig | None = getattr(self, f"{part}_config")
            try:
                arrays[part] = config.array() if config is not None else None
            except DacapoError as error:
                raise type(error)(f"{name}.{part}: {error}") from None
        points = None
        if self.sample_points is not None:
            points = _voxels_of(self.sample_points, arrays["gt"] or arrays["raw"], name)
        return RawGTDataset(name, **arrays, weight=self.weight, sample_points=points, unlabelled=self.unlabelled)

    def relative_to(self, folder: Path) -> RawGTDatasetConfig:
        parts = {f"{p}_config": getattr(self, f"{p}_config") for p in ("raw", "gt", "mask")}
        return self.model_copy(update={k: c.relative_to(folder) for k, c in parts.items() if c is not None})


class SimpleDatasetConfig(DatasetConfig):
    """Raw, labels and perhaps a mask that lie side by side in one folder or zarr container.

    Raw is uint8 or uint16, scaled to [0, 1], or float and kept. The mask holds integers, 0 = ignore.
    """

    positional: ClassVar[tuple[str, ...]] = ("name", "path", "weight", "raw_name", "gt_name", "mask_name")
    path: Path
    """The folder or container that holds the arrays."""
    raw_name: str = "raw"
    """Name of raw in it."""
    gt_name: str = "labels"
    """Name of the ground truth in it."""
    mask_name: str = "mask"
    """Name of the mask in it, where there is one."""

    def dataset(self, name: str = "") -> SimpleDataset:
        return SimpleDataset(self.name or name, self.path, self.weight, self.raw_name, self.gt_name, self.mask_name)

    def relative_to(self, folder: Path) -> SimpleDatasetConfig:
        return self.model_copy(update={"path": folder / self.path})


class SimpleDataset(Dataset):
    """What `SimpleDatasetConfig` opens; in paths of validations it is called by its bare name."""

    def __init__(
        self,
        name: str,
        path: str | Path,
        weight: float = 1,
        raw_name: str = "raw",
        gt_name: str = "labels",
        mask_name: str = "mask",
    ) -> None:
        from dacapo.arrays import open_array

        self.path = Path(path)
        arrays: dict[str, Array] = {}
        for part, inner in (("raw", raw_name), ("gt", gt_name), ("mask", mask_name)):
            if part == "mask" and not (self.path / inner).exists():
                continue
            try:
                arrays[part] = open_array(self.path / inner, unchanging=True)
            except DacapoError as error:
                raise type(error)(f"{name}.{part}: {error}") from None
        raw, mask = arrays["raw"], arrays.get("mask")
        if raw.dtype.kind != "f" and raw.dtype not in (np.uint8, np.uint16):
            raise ArrayError(
                f"{name}.raw: {raw.path} is {raw.dtype}, expected uint8, uint16 or float: convert it, or list the "
                f"dataset in a TrainValidateDataSplitConfig with intensities of your choice"
            )
        if mask is not None and mask.dtype.kind not in "biu":
            raise ArrayError(f"{name}.mask: {mask.path} is {mask.dtype}, expected integers (0 = ignore)")
        if mask is not None:
            arrays["mask"] = mask.map(lambda x: x > 0, bool)
        super().__init__(name, **arrays, weight=weight)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


class DummyDatasetConfig(DatasetConfig):
    """Only raw, of zeros."""

    raw_config: ArrayConfig = DummyArrayConfig(name="dummy_array")

    def dataset(self, name: str = "") -> Dataset:
        return DummyDataset(self.name or name, self.raw_config.array(), weight=self.weight)

    def relative_to(self, folder: Path) -> DummyDatasetConfig:
        return self


RawGTDataset = Dataset
DummyDataset = Dataset
