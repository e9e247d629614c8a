"""Configs of arrays made of labels: classes, masks, several segmentations as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator

from dacapo.errors import ArrayError, ConfigError
from dacapo.experiments.datasplits.datasets.arrays.array_config import ArrayConfig

if TYPE_CHECKING:
    from dacapo.arrays import Array

Groupings = tuple[tuple[str, tuple[int, ...]], ...]


class BinarizeArrayConfig(ArrayConfig):
    """One bool channel per class: (c^, *spatial) of labels without a channel axis."""

    source_array_config: ArrayConfig
    """Labels without a channel axis."""
    groupings: Groupings
    """Per channel the name of the class and the ids that belong to it; no ids means all but `background`."""
    background: int = 0
    """The id that belongs to no class without ids."""

    @field_validator("groupings")
    @classmethod
    def _distinct(cls, value: Groupings) -> Groupings:
        return _distinct(value)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import require_labels, spread

        source = self.source_array_config.array()
        require_labels(source, self.location)
        functions = [_member(ids, self.background, source.dtype) for _, ids in self.groupings]
        return _naming(self.location, lambda: spread(source, functions, bool))


class LogicalOrArrayConfig(ArrayConfig):
    """Bool, without channel axes: whether any channel of the source is not 0."""

    source_array_config: ArrayConfig
    """Masks."""

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import any_channel

        return any_channel(self.source_array_config.array())


class MergeInstancesArrayConfig(ArrayConfig):
    """Objects of several arrays as one (uint64), in which no two sources share an id.

    Id k > 0 of source i of n becomes (k - 1) * n + i + 1, the same whatever region is read. Where objects of
    several sources overlap, the source that is listed first wins.
    """

    source_array_configs: tuple[ArrayConfig, ...] = Field(min_length=1)
    """Segmentations of one grid."""

    @property
    def location(self) -> str:
        return self.name or " + ".join(source.location for source in self.source_array_configs)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import merged_instances

        arrays = [source.array() for source in self.source_array_configs]
        names = [f"source_arrays[{i}] ({c.location})" for i, c in enumerate(self.source_array_configs)]
        return merged_instances(arrays, names)

    def like(self, path: str) -> ArrayConfig:
        raise ConfigError(
            f"{self.location} merges {len(self.source_array_configs)} volumes: the path {path} of one cannot stand for "
            f"them. Give the config of the new volume."
        )


class MissingAnnotationsMaskConfig(ArrayConfig):
    """One bool channel per class: where labels were annotated for it (c^, *spatial).

    By the attributes of CellMap files, zarr or N5:

    - ``labels`` (a list with `value` and `annotationState` of each class): voxels with a label are annotated, except
      that a class with an id that is present but not annotated is masked altogether;
    - ``cellmap/annotation``: voxels are annotated unless their value is the one that the encoding calls "unknown";
      "absent" is an annotation. With ``complement_counts`` alone it is the same;
    - without any: voxels with a label are annotated.
    """

    source_array_config: ArrayConfig
    """Labels without a channel axis."""
    groupings: Groupings
    """Per channel the name of the class and the ids that belong to it."""

    @field_validator("groupings")
    @classmethod
    def _distinct(cls, value: Groupings) -> Groupings:
        return _distinct(value)

    def array(self, mode: str = "r") -> Array:
        from dacapo.arrays.combine import require_labels, spread

        source = self.source_array_config.array()
        require_labels(source, self.location)
        attributes = annotation_attributes(self.source_array_config)
        unknown, missing = _unknown_value(attributes), _not_annotated(attributes, self.location)
        annotated = partial(_annotated, unknown=unknown)
        functions = [_nowhere if missing & set(ids) else annotated for _, ids in self.groupings]
        return _naming(self.location, lambda: spread(source, functions, bool))


def annotation_attributes(config: ArrayConfig) -> dict[str, Any]:
    """What the file below `config` (through crops, resampling, ...) says of its annotation; {} if there is no one file."""
    from dacapo.arrays.formats import stored_attributes

    while (inner := getattr(config, "source_array_config", None)) is not None:
        config = inner
    return stored_attributes(config.array())


def _member(ids: tuple[int, ...], background: int, dtype: np.dtype[Any]) -> Callable[[np.ndarray], np.ndarray]:
    if not ids:
        return partial(_differs, background=background)
    info = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    # In the type of the labels: numpy compares uint64 with other integers as floats.
    return partial(_among, ids=np.array([i for i in ids if info[0] <= i <= info[1]], dtype))


def _among(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.isin(labels, ids)


def _differs(labels: np.ndarray, background: int) -> np.ndarray:
    return labels != background


def _annotated(labels: np.ndarray, unknown: int | None) -> np.ndarray:
    if unknown is None:
        return np.ones(labels.shape, bool)
    return labels != unknown


def _nowhere(labels: np.ndarray) -> np.ndarray:
    return np.zeros(labels.shape, bool)


def _unknown_value(attributes: Mapping[str, Any]) -> int | None:
    """The value of voxels that nobody annotated; None if all are annotated."""
    found = attributes.get("cellmap")
    annotation = found.get("annotation") if isinstance(found, Mapping) else None
    kind = annotation.get("annotation_type") if isinstance(annotation, Mapping) else None
    encoding = kind.get("encoding") if isinstance(kind, Mapping) else None
    if not isinstance(encoding, Mapping):
        return 0
    unknown = encoding.get("unknown")
    return None if unknown is None else int(unknown)


def _not_annotated(attributes: Mapping[str, Any], where: str) -> set[int]:
    """Ids of classes that are present in the volume but were not annotated."""
    listed = attributes.get("labels") or []
    try:
        return {
            int(label["value"])
            for label in listed
            if label["annotationState"]["present"] and not label["annotationState"]["annotated"]
        }
    except (KeyError, TypeError, ValueError):
        raise ArrayError(
            f"{where}: the attribute 'labels' is not a list of value and annotationState (present, annotated)."
        ) from None


def _distinct(groupings: Groupings) -> Groupings:
    names = [name for name, _ in groupings]
    if not groupings or not all(names):
        raise ValueError("expected a name and a list of ids per class")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the class {twice[0]!r} is named twice")
    return groupings


def _naming(where: str, build: Callable[[], Array]) -> Array:
    try:
        return build()
    except ArrayError as error:
        raise type(error)(f"{where}: {error}") from None
