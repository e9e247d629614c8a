"""Any torch module as an architecture: a live one, or a TorchScript file. Torch only where one is built."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from dacapo.config import Voxels
from dacapo.errors import ConfigError
from dacapo.experiments.architectures.architecture import ArchitectureConfig
from dacapo.experiments.architectures.measured import MeasuredShapes

if TYPE_CHECKING:
    from torch import nn


class WrappedArchitectureConfig(MeasuredShapes, ArchitectureConfig):
    """A network made elsewhere, with the weights it has; nothing is frozen unless `trainable_parameters` says so.

    A file is a TorchScript archive: no Python is unpickled from it, but it is a program all the same, so
    take it from people you trust. How far the network sees is measured when first needed, to predict in
    blocks; where that cannot be (global pooling, norms over the sample), `known_context` and `known_stride`
    may be given, and blocks then add up as well as those are true.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    >>> wrapped = WrappedArchitectureConfig("mine", module=net, fmaps_in=1, fmaps_out=4, input_shape=(16, 16))
    >>> wrapped.stride, wrapped.receptive_context()
    ((2, 2), (2, 2))
    """

    network: Any
    """The module (written as `module`): a `torch.nn.Module`, or the path of a TorchScript file."""
    fmaps_in: PositiveInt
    """Channels of the input."""
    fmaps_out: PositiveInt
    """Channels of the output."""
    input_shape: Voxels
    """Spatial shape of a training sample, in voxels."""
    voxel_scale: Voxels = Field(default=None)
    """Size of an input voxel in output voxels (written as `scale`); ones if left out."""
    trainable_parameters: str | None = None
    """Only parameters whose name begins with a match of this regular expression are trained; all if left out."""
    known_context: Voxels | None = None
    """Input voxels that an output depends on, on each side; measured if left out."""
    known_stride: Voxels | None = None
    """Inputs shifted by multiples of this give outputs shifted alike; measured if left out."""

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """`module` and `scale` are methods of every architecture, so these two fields have other names inside."""
        if not isinstance(value, Mapping) or cls is not WrappedArchitectureConfig:
            return value
        names = {"module": "network", "scale": "voxel_scale"}
        return {names.get(str(key).lstrip("_"), key): v for key, v in value.items()}

    def to_dict(self) -> dict[str, Any]:
        if not isinstance(self.network, Path):
            raise ConfigError(
                f"{self.name or type(self).__name__}: module: a live module cannot be written down: save it as"
                f" TorchScript, {HOW_TO_SCRIPT}, and give the file's path"
            )
        fields = super().to_dict()
        return {{"network": "module", "voxel_scale": "scale"}.get(key, key): v for key, v in fields.items()}

    @field_validator("network", mode="before")
    @classmethod
    def _module_or_path(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return Path(value)
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(value, torch.nn.Module):
            raise ConfigError(f"module: expected a torch.nn.Module or a path, got {type(value).__name__}")
        return value

    @field_validator("voxel_scale", mode="before")
    @classmethod
    def _same_voxels(cls, value: Any, info: ValidationInfo) -> Any:
        return (1,) * len(info.data.get("input_shape", ())) if value is None else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dims not in (2, 3):
            raise ConfigError(f"input_shape: expected 2 or 3 axes, got {tuple(self.input_shape)}")
        checked = {"input_shape": 1, "voxel_scale": 1, "known_context": 0, "known_stride": 1}
        for name, least in checked.items():
            sizes, name = getattr(self, name), name.removeprefix("voxel_")
            if sizes is not None and len(sizes) != self.dims:
                raise ConfigError(f"{name}: expected {self.dims} numbers, one per axis, got {tuple(sizes)}")
            if sizes is not None and min(sizes) < least:
                raise ConfigError(f"{name}: expected numbers of at least {least}, got {tuple(sizes)}")
        check_pattern("trainable_parameters", self.trainable_parameters)
        if not isinstance(self.network, Path) and self.trainable_parameters is not None:
            matching(self.network, self.trainable_parameters, "trainable_parameters")
        return self

    @property
    def num_in_channels(self) -> int:
        return self.fmaps_in

    @property
    def num_out_channels(self) -> int:
        return self.fmaps_out

    @property
    def scale_factor(self) -> tuple[float, ...]:
        return tuple(float(factor) for factor in self.voxel_scale)

    def relative_to(self, folder: Path) -> WrappedArchitectureConfig:
        """The same config with a relative path resolved against `folder`."""
        if not isinstance(self.network, Path):
            return self
        return self.model_copy(update={"network": folder / self.network})

    def module(self) -> nn.Module:
        """A copy of the module, or what its file holds, with the weights as they are."""
        import copy

        if not isinstance(self.network, Path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = copy.deepcopy(self.network)
        else:
            if not self.network.is_file():
                raise ConfigError(f"module: {self.network}: no such file")
            with self.network.open("rb") as file:
                module = load_torchscript(file, f"module: {self.network}")
        return freeze_all_but(module, self.trainable_parameters, "trainable_parameters")


HOW_TO_SCRIPT = "torch.jit.script(module).save('net.pt')"


def load_torchscript(file: BinaryIO, where: str) -> nn.Module:
    """The network of a TorchScript file, on the CPU. Pickles are refused."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and there is nothing else as widely read
        try:
            return torch.jit.load(file, map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{where}: expected a TorchScript file ({str(error).splitlines()[0][:80]}). A module saved with"
                f" torch.save is never loaded, as that would run what the file says: make one with {HOW_TO_SCRIPT}"
            ) from None


def check_pattern(field: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(f"{field}: {pattern!r} is no regular expression: {error}") from None


def matching(module: nn.Module, pattern: str, field: str) -> set[str]:
    """Names of the parameters that `pattern` matches; ConfigError if none does."""
    names = [name for name, _ in module.named_parameters()]
    found = {name for name in names if re.match(pattern, name)}
    if not found:
        shown = ", ".join(names[:3] + ["…"] * (len(names) > 4) + names[3:][-1:]) or "none"
        raise ConfigError(f"{field}: {pattern!r} matches no parameter, so all would be frozen. There are: {shown}")
    return found


def freeze_all_but(module: nn.Module, pattern: str | None, field: str) -> nn.Module:
    """Switch the gradients of all parameters off that `pattern` does not match; none without a pattern."""
    if pattern is not None:
        trained = matching(module, pattern, field)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained)
    return module
