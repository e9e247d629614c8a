"""What all array configs share: `ArrayConfig`, and what a string stands for. May import `arrays` and `config`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dacapo.config import Config
from dacapo.errors import ConfigError

if TYPE_CHECKING:
    from dacapo.arrays import Array


class ArrayConfig(Config):
    """A volume, opened by `array()`. A string is short for `ZarrArrayConfig` or its siblings by suffix."""

    kind: ClassVar[str] = "array"
    name: str = ""
    """What messages call it; its location if left out."""

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        container, dataset = split_path(str(value))
        kind = _BY_SUFFIX.get(Path(container).suffix.lower())
        if kind is None:
            known = ", ".join(sorted(_BY_SUFFIX))
            raise ValueError(f"{value}: no reader for this name; known suffixes are {known}")
        fields: dict[str, Any] = {"type": kind, "file_name": container}
        return fields | ({"dataset": dataset} if dataset or kind != "TiffArrayConfig" else {})

    @abstractmethod
    def array(self, mode: str = "r") -> Array:
        """Open the array; ArrayNotFoundError says what is there instead.

        Only metadata are read. With mode "r+" a zarr or N5 array can be written; every other array is
        read-only, whatever the mode.
        """

    @property
    def location(self) -> str:
        """What a message calls this array."""
        source = getattr(self, "source_array_config", None)
        return self.name or (source.location if isinstance(source, ArrayConfig) else type(self).__name__)

    def like(self, path: str) -> ArrayConfig:
        """The same treatment (intensity range, ...) of the volume at `path`: what a trained network expects."""
        sources = [f for f in type(self).model_fields if isinstance(getattr(self, f), ArrayConfig)]
        if not sources:
            return ArrayConfig.from_dict(path)  # type: ignore[arg-type]
        return self.model_copy(update={f: getattr(self, f).like(path) for f in sources})

    def relative_to(self, folder: Path) -> ArrayConfig:
        """The same config with relative file names resolved against `folder`, in all its sources."""
        return self.model_copy(update={f: _resolved(getattr(self, f), folder) for f in type(self).model_fields})


def like_all(config: ArrayConfig, sources: list[ArrayConfig], path: str) -> ArrayConfig:
    """What `like` means for several sources: the volume at `path` has them all already, so one treatment fits."""
    treated = [source.like(path) for source in sources]
    if any(other != treated[0] for other in treated[1:]):
        raise ConfigError(
            f"{config.location} is put together from {len(sources)} sources that are treated differently, so the path "
            f"{path} alone does not say what to do. Give the config of the new volume."
        )
    return treated[0]


def _resolved(value: Any, folder: Path) -> Any:
    if isinstance(value, ArrayConfig):
        return value.relative_to(folder)
    if isinstance(value, Path):
        return value if "://" in str(value) or value.is_absolute() else folder / value
    if isinstance(value, Mapping):
        return {key: _resolved(entry, folder) for key, entry in value.items()}
    if isinstance(value, tuple | list) and any(isinstance(entry, ArrayConfig) for entry in value):
        return type(value)(_resolved(entry, folder) for entry in value)
    return value


_BY_SUFFIX = {
    ".zarr": "ZarrArrayConfig",
    ".n5": "ZarrArrayConfig",
    ".h5": "HDF5ArrayConfig",
    ".hdf": "HDF5ArrayConfig",
    ".hdf5": "HDF5ArrayConfig",
    ".tif": "TiffArrayConfig",
    ".tiff": "TiffArrayConfig",
}


def split_path(path: str) -> tuple[str, str]:
    """`vol.zarr/raw/s0` and `file.h5:volumes/raw` into (container, dataset)."""
    parts = Path(path).parts
    for i, part in enumerate(parts):
        name, colon, inside = part.partition(":")
        if Path(name).suffix.lower() in _BY_SUFFIX:
            rest = [inside] if colon and inside else []
            return str(Path(*parts[:i], name)), "/".join([*rest, *parts[i + 1 :]])
    return path, ""
