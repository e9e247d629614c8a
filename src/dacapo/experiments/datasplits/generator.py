"""Datasplits from a table: which volumes, which classes, at which voxel size. May import `splits` and `levels`."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from dacapo.errors import ConfigError, DacapoError, did_you_mean
from dacapo.experiments.datasplits.datasets import RawGTDatasetConfig
from dacapo.experiments.datasplits.datasets.arrays import (
    ArrayConfig,
    BinarizeArrayConfig,
    ConcatArrayConfig,
    ConstantArrayConfig,
    CropArrayConfig,
    IntensitiesArrayConfig,
    LogicalOrArrayConfig,
    MergeInstancesArrayConfig,
    OnesArrayConfig,
    WorldRoi,
)
from dacapo.experiments.datasplits.levels import DoesNotFitError, Fit, fit, levels
from dacapo.experiments.datasplits.splits import TrainValidateDataSplitConfig
from dacapo.geometry import Grid, exact

_TYPES = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val"}
_COLUMNS = "train|val, raw_container, raw_dataset, gt_container, gt_dataset[class1&class2]"


class DatasetType(Enum):
    """What a dataset is for."""

    val = 1
    train = 2
    validate = 1


class SegmentationType(Enum):
    """Classes in channels of their own, or one array of object ids."""

    semantic = 1
    instance = 2


@dataclass(frozen=True)
class DatasetSpec:
    """One line of the table."""

    dataset_type: DatasetType | str
    raw_container: str | Path
    raw_dataset: str
    gt_container: str | Path
    gt_dataset: str
    where: str = ""
    """What messages call this line."""

    def __post_init__(self) -> None:
        if not isinstance(self.dataset_type, DatasetType):
            known = _TYPES.get(str(self.dataset_type).strip().lower())
            if known is None:
                raise ConfigError(f"{self._lead}expected train or val, got {str(self.dataset_type)!r}")
            object.__setattr__(self, "dataset_type", DatasetType[known])
        for field in ("raw_container", "gt_container"):
            value = str(getattr(self, field))
            if "://" in value:
                raise ConfigError(f"{self._lead}{value} is not on a disk: remote volumes cannot be read yet, copy it")
            object.__setattr__(self, field, Path(value).expanduser())

    @property
    def _lead(self) -> str:
        return f"{self.where}: " if self.where else ""

    @property
    def trains(self) -> bool:
        return self.dataset_type is DatasetType.train

    def classes(self, separator: str = "&") -> tuple[str, list[str]]:
        """The folder of the class arrays, and their names: `gt/crop1/[mito&nuc]` -> ("gt/crop1", ["mito", "nuc"])."""
        text = self.gt_dataset.strip()
        base, bracket, rest = text.partition("[")
        if not bracket:
            base, _, name = text.strip("/").rpartition("/")
            names = [name]
        else:
            names = [name.strip() for name in rest.removesuffix("]").split(separator)]
        broken = (bool(bracket) != text.endswith("]")) or any(c in name for name in names for c in "[]/&" + separator)
        if broken or not all(names) or len(set(names)) < len(names):
            raise ConfigError(
                f"{self._lead}gt_dataset is {text!r}, expected a path and distinct classes, such as "
                f"labels/crop1/[mito{separator}nuc]"
            )
        return base.strip("/"), names

    def __str__(self) -> str:
        base, bracket, names = self.gt_dataset.strip().partition("[")
        base = base.strip("/") if bracket else base.strip("/").rpartition("/")[0]
        return "_".join(p for p in (Path(self.raw_container).stem, base.split("/")[-1] or names.strip("]")) if p)


@dataclass(frozen=True)
class Outcome:
    """What became of one line of the table."""

    where: str
    name: str
    dataset_type: DatasetType
    taken: bool
    words: str

    def __str__(self) -> str:
        kind = "validate" if self.dataset_type is DatasetType.val else "train"
        return f"{self.where}: {kind if self.taken else 'left out'} {self.name}: {self.words}".removeprefix(": ")


class _LeftOut(Exception):
    """Why a dataset is not taken."""


def read_csv(path: str | Path, separator: str = "&") -> list[DatasetSpec]:
    """The lines of a table, with paths relative to it; ConfigError names the line that is wrong.

    A header, blank lines and lines that begin with # are passed over.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a table: {error}") from None
    specs: list[DatasetSpec] = []
    reader = csv.reader(text.splitlines(), skipinitialspace=True)
    first = True
    for row in reader:
        cells = [cell.strip() for cell in row]
        while len(cells) > 5 and not cells[-1]:
            cells.pop()
        if not any(cells) or cells[0].startswith("#"):
            continue
        where = f"{path}, line {reader.line_num}"
        header = first and cells[0].lower() not in _TYPES and not any(c in "".join(cells[1:]) for c in "/.[")
        first = False
        if header:
            continue
        if len(cells) != 5 or not all((cells[0], cells[1], cells[3], cells[4])):
            raise ConfigError(f"{where}: expected {_COLUMNS}, got {len(cells)} columns: {', '.join(cells)}")
        for i in (1, 3):
            if "://" not in cells[i]:
                cells[i] = str(path.absolute().parent / Path(cells[i]).expanduser())
        spec = DatasetSpec(*cells, where=where)
        spec.classes(separator)
        specs.append(spec)
    if not specs:
        raise ConfigError(f"{path} has no line {_COLUMNS}")
    return specs


class DataSplitGenerator:
    """Makes a datasplit of volumes at given voxel sizes; `compute()` builds it, `outcomes` says what became of each.

    Parameters
    ----------
    name : str
    datasets : sequence of DatasetSpec
    input_resolution, output_resolution : sequence of float
        Voxel sizes (nm) of raw and of the ground truth, one per axis.
    targets : sequence of str, optional
        Classes, in the order of the channels; by default all that the datasets name. A class that a dataset does
        not name is masked there, as it is not annotated.
    segmentation_type : "semantic" or "instance"
        One channel per class, or one array of ids, of all (target) classes together.
    max_*_downsample, max_*_upsample : int
        The largest factors along an axis that a dataset may need; others are left out.
    min_training_volume_size : int
        Ground truth of fewer voxels is left out of training.
    raw_min, raw_max : float
        The intensities that become 0 and 1.
    use_negative_class : bool
        Where any named class of a dataset is, the classes that it does not name are known to be absent.
    max_validation_volume_size : int, optional
        The ground truth of a validation dataset is halved along its longest axis, about its centre, until it has no
        more voxels.
    binarize_gt : bool
        All ids of a class become 1.
    """

    def __init__(
        self,
        name: str,
        datasets: Sequence[DatasetSpec],
        input_resolution: Sequence[float],
        output_resolution: Sequence[float],
        targets: Sequence[str] | None = None,
        segmentation_type: str | SegmentationType = "semantic",
        max_gt_downsample: int = 32,
        max_gt_upsample: int = 4,
        max_raw_training_downsample: int = 16,
        max_raw_training_upsample: int = 2,
        max_raw_validation_downsample: int = 8,
        max_raw_validation_upsample: int = 2,
        min_training_volume_size: int = 8000,
        raw_min: float = 0,
        raw_max: float = 255,
        classes_separator_character: str = "&",
        use_negative_class: bool = False,
        max_validation_volume_size: int | None = None,
        binarize_gt: bool = False,
    ) -> None:
        self.name = name
        self.datasets = list(datasets)
        self.input_resolution = tuple(float(v) for v in input_resolution)
        self.output_resolution = tuple(float(v) for v in output_resolution)
        self.separator = classes_separator_character
        kind = getattr(segmentation_type, "name", segmentation_type)
        if kind not in SegmentationType.__members__:
            raise ConfigError(f"segmentation_type is {kind!r}, expected semantic or instance")
        self.instances = kind == "instance"
        self.gt_limits = {"downsample": max_gt_downsample, "upsample": max_gt_upsample}
        self.raw_limits = {
            True: {"downsample": max_raw_training_downsample, "upsample": max_raw_training_upsample},
            False: {"downsample": max_raw_validation_downsample, "upsample": max_raw_validation_upsample},
        }
        if min(f for limits in (self.gt_limits, *self.raw_limits.values()) for f in limits.values()) < 1:
            raise ConfigError("max_*_downsample and max_*_upsample are factors, expected whole numbers from 1")
        self.min_training_volume_size = min_training_volume_size
        self.max_validation_volume_size = max_validation_volume_size
        if max_validation_volume_size is not None and max_validation_volume_size < 1:
            raise ConfigError(f"max_validation_volume_size is {max_validation_volume_size}, expected voxels from 1")
        self.raw_min, self.raw_max = raw_min, raw_max
        self.use_negative_class, self.binarize_gt = use_negative_class, binarize_gt
        if self.instances and (use_negative_class or binarize_gt):
            raise ConfigError("use_negative_class and binarize_gt are for semantic segmentation: ids stay as they are")
        Grid(self.output_resolution).ratio(Grid(self.input_resolution))
        self.targets = self._targets(targets)
        self.outcomes: list[Outcome] = []

    @classmethod
    def generate_from_csv(
        cls,
        csv_path: str | Path,
        input_resolution: Sequence[float],
        output_resolution: Sequence[float],
        name: str | None = None,
        **kwargs: Any,
    ) -> DataSplitGenerator:
        """The generator of the table at `csv_path` (see `read_csv`); its `compute()` makes the datasplit."""
        specs = read_csv(csv_path, kwargs.get("classes_separator_character", "&"))
        return cls(name or Path(csv_path).stem, specs, input_resolution, output_resolution, **kwargs)

    def compute(self) -> TrainValidateDataSplitConfig:
        """Look at all volumes (no voxel of raw is read) and make the datasplit.

        Raises
        ------
        DacapoError
            If a volume is missing or does not fit its ground truth, with its line; if no dataset to train on, or
            none of those to validate on, is left.
        """
        self.outcomes = []
        made: dict[bool, list[RawGTDatasetConfig]] = {True: [], False: []}
        taken: set[str] = set()
        for spec in self.datasets:
            name = _unused(str(spec), taken)
            try:
                config, words = self._dataset(spec, name)
                config.dataset().check()
            except (_LeftOut, DoesNotFitError) as reason:
                self._note(spec, name, False, str(reason))
                continue
            except DacapoError as error:
                raise type(error)(f"{spec.where}: {error}".removeprefix(": ")) from None
            taken.add(name)
            made[spec.trains].append(config)
            self._note(spec, name, True, words)
        for trains, purpose in ((True, "train"), (False, "validate")):
            if not made[trains] and (trains or any(not spec.trains for spec in self.datasets)):
                why = next((f" ({o})" for o in self.outcomes if (o.dataset_type is DatasetType.train) == trains), "")
                raise ConfigError(f"{self.name}: no dataset to {purpose} on is left{why}")
        split = TrainValidateDataSplitConfig(
            name=self._full_name(), train_configs=tuple(made[True]), validate_configs=tuple(made[False])
        )
        split.datasplit().check()
        return split

    def _targets(self, given: Sequence[str] | None) -> list[str]:
        named = list(dict.fromkeys(n for spec in self.datasets for n in spec.classes(self.separator)[1]))
        if given is None:
            return [] if self.instances else named
        targets = list(given)
        if not targets or len(set(targets)) < len(targets):
            raise ConfigError(f"targets is {targets}, expected distinct classes")
        unknown = [t for t in targets if t not in named]
        if unknown:
            raise ConfigError(f"targets: no dataset names the class {unknown[0]!r}.{did_you_mean(unknown[0], named)}")
        return targets

    def _full_name(self) -> str:
        classes = "_".join(self.targets) if len("_".join(self.targets)) <= 100 else f"{len(self.targets)}_classes"
        sizes = self.output_resolution[:1] if len(set(self.output_resolution)) == 1 else self.output_resolution
        kind = "instance" if self.instances else "semantic"
        return "_".join(part for part in (self.name, kind, classes, "x".join(f"{v:g}" for v in sizes) + "nm") if part)

    def _note(self, spec: DatasetSpec, name: str, taken: bool, words: str) -> None:
        assert isinstance(spec.dataset_type, DatasetType)
        self.outcomes.append(Outcome(spec.where, name, spec.dataset_type, taken, words))

    def _dataset(self, spec: DatasetSpec, name: str) -> tuple[RawGTDatasetConfig, str]:
        base, named = spec.classes(self.separator)
        wanted = [n for n in self.targets or named if n in named]
        if not wanted:
            raise _LeftOut(f"names none of the targets {', '.join(self.targets)}")
        if self.instances and self.targets and len(wanted) < len(self.targets):
            missing = next(t for t in self.targets if t not in named)
            raise _LeftOut(f"does not label {missing}, whose objects would be taken for background")
        raw = fit(
            levels(Path(spec.raw_container), spec.raw_dataset), self.input_resolution, **self.raw_limits[spec.trains]
        )
        fits = {
            n: fit(
                levels(Path(spec.gt_container), "/".join(p for p in (base, n) if p)),
                self.output_resolution,
                **self.gt_limits,
            )
            for n in wanted
        }
        sources = {n: f.config(smooth=False) for n, f in fits.items()}
        words = [f"raw {raw}", *(f"{n} {f}" for n, f in fits.items())]
        gt, mask = self._ground_truth(sources)
        grid, shape = _placed(fits[wanted[0]])
        if spec.trains and math.prod(shape) < self.min_training_volume_size:
            raise _LeftOut(
                f"{math.prod(shape)} voxels of ground truth, fewer than {self.min_training_volume_size} "
                f"(min_training_volume_size)"
            )
        if not spec.trains and self.max_validation_volume_size is not None:
            roi, size = _centre(grid, shape, self.max_validation_volume_size)
            if size != shape:
                gt = CropArrayConfig(source_array_config=gt, roi=roi)
                mask = mask and CropArrayConfig(source_array_config=mask, roi=roi)
                words.append(f"cropped from {_shown(shape)} to {_shown(size)} voxels")
                shape = size
        words.append(f"{_shown(shape)} voxels")
        scaled = IntensitiesArrayConfig(source_array_config=raw.config(smooth=True), min=self.raw_min, max=self.raw_max)
        dtype = raw.level.array.dtype
        if dtype.kind in "iu" and dtype.itemsize > 1 and (self.raw_min, self.raw_max) == (0, 255):
            words.append(f"raw is {dtype}, but 255 becomes 1: give raw_max if it holds larger values")
        return RawGTDatasetConfig(name=name, raw_config=scaled, gt_config=gt, mask_config=mask), "; ".join(words)

    def _ground_truth(self, found: dict[str, ArrayConfig]) -> tuple[ArrayConfig, ArrayConfig | None]:
        """Labels and mask of the classes that a dataset has; what it does not name is zeros under mask 0."""
        if self.instances:
            several = tuple(found.values())
            return (several[0] if len(several) == 1 else MergeInstancesArrayConfig(source_array_configs=several)), None
        first = next(iter(found.values()))
        nothing = ConstantArrayConfig(source_array_config=first, constant=0)
        classes: dict[str, ArrayConfig] = dict(found)
        if self.binarize_gt:
            classes = {n: BinarizeArrayConfig(source_array_config=c, groupings=((n, ()),)) for n, c in found.items()}
        masks: dict[str, ArrayConfig] = {n: OnesArrayConfig(source_array_config=c) for n, c in found.items()}
        missing = [t for t in self.targets if t not in found]
        if self.use_negative_class and missing:
            together = ConcatArrayConfig(channels=tuple(found), source_array_configs=dict(found))
            masks |= {t: LogicalOrArrayConfig(source_array_config=together) for t in missing}
        default = nothing if missing else None
        gt, mask = (
            ConcatArrayConfig(channels=tuple(self.targets), source_array_configs=parts, default_config=rest)
            for parts, rest in ((classes, default), (masks, None if self.use_negative_class else default))
        )
        return gt, mask


def _placed(found: Fit) -> tuple[Grid, tuple[int, ...]]:
    array = found.config(smooth=False).array()
    return array.grid, tuple(int(n) for n in array.spatial_shape)


def _centre(grid: Grid, shape: tuple[int, ...], limit: int) -> tuple[WorldRoi, tuple[int, ...]]:
    """The middle of a volume, its longest axis halved until it has no more than `limit` voxels."""
    size = list(shape)
    while math.prod(size) > limit:
        longest = size.index(max(size))
        size[longest] = max(1, size[longest] // 2)
    begin = [(n - s) // 2 for n, s in zip(shape, size, strict=True)]
    lengths = tuple(float(exact(v) * s) for v, s in zip(grid.voxel_size, size, strict=True))
    return WorldRoi(grid.at(begin).offset, lengths), tuple(size)


def _unused(name: str, taken: set[str]) -> str:
    numbered = (f"{name}_{i}" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
