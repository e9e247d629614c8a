"""A bioimage.io package on this machine: what its description says of the network. Nothing is fetched or extracted.

Formats 0.4 and 0.5, as a description file, a folder, or a zip. No torch; imports `config` and `errors`.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dacapo.config import load_yaml
from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
"""Names of the description in a folder or zip."""
SPATIAL = {2: ["y", "x"], 3: ["z", "y", "x"]}
HOW_TO_GET = "a model is never downloaded: get its package from bioimage.io and give the path of the zip"
LETTERS = {"b": "batch", "c": "channel", "t": "time", "i": "index"}


@dataclass(frozen=True)
class Tensor:
    """The input or the output of a network."""

    channels: int
    sizes: tuple[int | None, ...]
    """Per spatial axis, the smallest that is said; None where it follows from the input."""
    scales: tuple[float, ...]
    """Voxel sizes, of any unit; of an output the part of an input voxel where that is all that is said."""


@dataclass(frozen=True)
class ModelPackage:
    """A package that was looked into."""

    path: Path
    source: Path
    """The zip or the folder that has the files."""
    prefix: str
    """Folder of the description inside the zip."""
    content: Mapping[str, Any]
    """The description."""
    input: Tensor
    output: Tensor

    @property
    def scale_factor(self) -> tuple[float, ...]:
        """Size of an input voxel in output voxels, by the scales of the axes, else by fixed sizes."""
        factors = []
        for fine, coarse, made, taken in zip(
            self.output.scales, self.input.scales, self.output.sizes, self.input.sizes, strict=True
        ):
            factor = coarse / fine
            if factor == 1 and made and taken and made > taken and made % taken == 0:
                factor = made / taken
            # 7.86 / 2.62 is no whole number in binary.
            factors.append(float(round(factor)) if abs(factor - round(factor)) < 1e-6 * factor else factor)
        return tuple(factors)

    def weights(self) -> Mapping[str, Any]:
        return _mapping(self.content.get("weights"), f"{self.path}: weights")

    def read(self, name: Any, sha256: Any = None) -> io.BytesIO:
        """A file of the package; ConfigError if it is not there, or not the one that the description means."""
        parts = PurePosixPath(str(name)).parts
        if "://" in str(name):
            raise ConfigError(
                f"{self.path}: {name} is not in the package, and nothing is downloaded: get the whole package"
            )
        if not isinstance(name, str) or not parts or ".." in parts or parts[0] == "/" or "\\" in name:
            raise ConfigError(f"{self.path}: expected the name of a file in the package, got {name!r}")
        try:
            if self.source.is_dir():
                data = (self.source / name).read_bytes()
            else:
                with zipfile.ZipFile(self.source) as file:
                    data = file.read(self.prefix + str(PurePosixPath(name)))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{self.path}: the description names {name}, which cannot be read ({error})") from None
        if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != str(sha256).lower():
            raise ConfigError(
                f"{self.path}: {name} is not the file that was described: sha256 {found[:12]}…, expected"
                f" {str(sha256)[:12]}…: get the package again"
            )
        return io.BytesIO(data)


def check_local(model_id: str | Path) -> Path:
    """A path; ConfigError for what can only mean the network."""
    text = str(model_id)
    if re.match(r"[a-z0-9+]+:/", text, re.IGNORECASE) or re.match(r"10\.\d{4,}/", text):
        raise ConfigError(f"model_id: {text!r}: {HOW_TO_GET}")
    return Path(text)


def open_package(path: Path) -> ModelPackage:
    """Read the description of a package; ConfigError if dacapo has no use for the network it describes."""
    source, prefix, text = _find_description(path)
    content = load_yaml(text, str(path))
    version = str(content.get("format_version", ""))
    if content.get("type", "model") != "model" or not re.match(r"0\.[45]\.", version):
        raise ConfigError(
            f"{path}: expected a bioimage.io model of format 0.4 or 0.5, got {content.get('type')} {version or '?'}"
        )
    tensors = {}
    for name in ("inputs", "outputs"):
        said = content.get(name)
        if not isinstance(said, list) or len(said) != 1:
            num = len(said) if isinstance(said, list) else 0
            raise ConfigError(
                f"{path}: {name}: expected one {name[:-1]}, got {num}: such a network cannot be used here"
            )
        tensors[name] = _mapping(said[0], f"{path}: {name}")
    read = _tensors_5 if version.startswith("0.5") else _tensors_4
    found = read(tensors["inputs"], tensors["outputs"], str(path))
    return ModelPackage(path, source, prefix, content, *found)


def _find_description(path: Path) -> tuple[Path, str, str]:
    """Where the files are, the folder of the description in there, and the description."""
    try:
        if path.is_dir():
            name = next((n for n in DESCRIPTIONS if (path / n).is_file()), None)
            if name is None:
                raise ConfigError(f"{path}: no bioimage.io package: it has none of {', '.join(DESCRIPTIONS)}")
            return path, "", (path / name).read_text("utf-8")
        if not path.is_file():
            raise ConfigError(f"model_id: {path}: no such file or folder; {HOW_TO_GET}")
        if path.suffix.lower() in (".yaml", ".yml"):
            return path.parent, "", path.read_text("utf-8")
        with zipfile.ZipFile(path) as file:
            named = [n for n in file.namelist() if n.rsplit("/", 1)[-1] in DESCRIPTIONS]
            if not named:
                raise ConfigError(f"{path}: no bioimage.io package: it has none of {', '.join(DESCRIPTIONS)}")
            name = min(named, key=lambda n: (n.count("/"), DESCRIPTIONS.index(n.rsplit("/", 1)[-1])))
            return path, name[: name.rfind("/") + 1], file.read(name).decode("utf-8")
    except zipfile.BadZipFile:
        raise ConfigError(f"{path}: expected a bioimage.io package (zip, folder or rdf.yaml)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected fields (name: value), got {type(value).__name__}")
    return value


def _check_axes(names: Sequence[str], where: str) -> int:
    """The number of spatial axes; ConfigError unless they are those of a tensor of ours."""
    if names.count("channel") != 1:
        raise ConfigError(f"{where}: expected one channel axis, got {names.count('channel')} of {list(names)}")
    for dims, spatial in SPATIAL.items():
        if list(names) == ["batch", "channel", *spatial]:
            return dims
    raise ConfigError(f"{where}: expected axes batch, channel, (z,) y, x in this order, got {', '.join(names)}")


def _number(value: Any, where: str, least: float = 1) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise ConfigError(f"{where}: expected a number of at least {least}, got {value!r}")
    return value


def _tensors_5(taken: Mapping[str, Any], made: Mapping[str, Any], path: str) -> tuple[Tensor, Tensor]:
    tensors = []
    for field, said in (("inputs", taken), ("outputs", made)):
        where = f"{path}: {field}: axes"
        listed = said.get("axes")
        axes = [_mapping(axis, where) for axis in listed] if isinstance(listed, list) else []
        names = [str(a.get("id", "x")) if a.get("type") == "space" else str(a.get("type")) for a in axes]
        dims = _check_axes(names, where)
        labels = axes[1].get("channel_names")
        if not isinstance(labels, list) or not labels:
            raise ConfigError(f"{where}: expected the names of the channels, got {labels!r}")
        by_name = dict(zip(names, axes, strict=True))
        space = axes[-dims:]
        scales = tuple(float(_number(a.get("scale", 1.0), f"{where}: scale", 1e-12)) for a in space)
        sizes = tuple(_size_5(a.get("size"), a, by_name, where, field == "inputs") for a in space)
        tensors.append(Tensor(len(labels), sizes, scales))
    return _same_dims(*tensors, path)


def _size_5(size: Any, axis: Mapping[str, Any], by_name: Mapping[str, Any], where: str, is_input: bool) -> int | None:
    where = f"{where}: size"
    if isinstance(size, Mapping) and "axis_id" in size:
        if not is_input:
            return None
        other = by_name.get(str(size["axis_id"]), {})
        of = _size_5(other.get("size") if other is not axis else None, other, {}, where, True) or 1
        scale = _number(other.get("scale", 1.0), where, 1e-12) / _number(axis.get("scale", 1.0), where, 1e-12)
        return int(_number(int(of * scale + size.get("offset", 0)), where))
    if isinstance(size, Mapping) and is_input:
        size = size.get("min")
    elif isinstance(size, Mapping):
        return None  # it depends on the data
    return int(_number(size, where))


def _tensors_4(taken: Mapping[str, Any], made: Mapping[str, Any], path: str) -> tuple[Tensor, Tensor]:
    tensors: list[Tensor] = []
    for field, said in (("inputs", taken), ("outputs", made)):
        where, shape = f"{path}: {field}", said.get("shape")
        names = [LETTERS.get(letter, letter) for letter in str(said.get("axes", ""))]
        dims = _check_axes(names, f"{where}: axes")
        scales: tuple[float, ...] = (1.0,) * dims
        if isinstance(shape, Mapping) and field == "inputs":
            shape = shape.get("min")
        if isinstance(shape, Mapping):
            factors, offsets = shape.get("scale"), shape.get("offset")
            if not all(isinstance(v, list) and len(v) == dims + 2 for v in (factors, offsets)):
                raise ConfigError(f"{where}: shape: expected {dims + 2} numbers of scale and offset each, got {shape}")
            scales = tuple(1 / _number(f, f"{where}: shape: scale", 1e-12) for f in factors[2:])  # type: ignore[index]
            # Of the channels too the output may be said by the input's.
            base = 0 if factors[1] is None else factors[1] * tensors[0].channels  # type: ignore[index]
            channels, sizes = base + 2 * offsets[1], (None,) * dims  # type: ignore[index]
        elif isinstance(shape, list) and len(shape) == dims + 2:
            channels, sizes = shape[1], tuple(int(_number(n, f"{where}: shape")) for n in shape[2:])
        else:
            raise ConfigError(f"{where}: shape: expected {dims + 2} numbers, one per axis, got {shape!r}")
        tensors.append(Tensor(int(_number(channels, f"{where}: shape: channels")), sizes, scales))
    return _same_dims(*tensors, path)


def _same_dims(taken: Tensor, made: Tensor, path: str) -> tuple[Tensor, Tensor]:
    if len(taken.sizes) != len(made.sizes):
        raise ConfigError(f"{path}: the input has {len(taken.sizes)} spatial axes, the output {len(made.sizes)}")
    return taken, made


def smallest_input(package: ModelPackage) -> Coordinate:
    """The spatial shape of the input that the description begins with."""
    return Coordinate(size or 1 for size in package.input.sizes)
