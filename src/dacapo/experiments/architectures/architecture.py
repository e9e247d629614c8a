"""What every architecture is: a config that builds a network and knows its shapes.

May import `config`, `errors` and `geometry`; torch only where a network is built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from dacapo.config import Config
from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from torch import nn


class FieldOrProperty:
    """A property that a subclass may declare as a field.

    pydantic takes a plain property of a base class for the default of the subclass's field.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            raise AttributeError(f"{self.function.__name__} belongs to objects")
        return self.function(instance)


class ArchitectureConfig(Config, ABC):
    """Base of the architectures. Shapes are spatial voxels, without batch and channels."""

    model_config = ConfigDict(ignored_types=(FieldOrProperty,))
    kind: ClassVar[str] = "architecture"
    default_type: ClassVar[str | None] = "CNNectomeUNetConfig"

    name: str = ""
    """A unique name."""

    @abstractmethod
    def module(self) -> nn.Module:
        """A new network, initialised from torch's global random numbers: (B, C, *spatial) to the same."""

    @FieldOrProperty
    def num_in_channels(self) -> int:
        """Channels that the network reads; every architecture says so in a field or property."""
        raise NotImplementedError(f"{type(self).__name__} has no num_in_channels")

    @FieldOrProperty
    def num_out_channels(self) -> int:
        """Channels that the network writes; every architecture says so in a field or property."""
        raise NotImplementedError(f"{type(self).__name__} has no num_out_channels")

    @FieldOrProperty
    def input_shape(self) -> Coordinate:
        """What the network is trained on, in voxels; every architecture says so in a field or property."""
        raise NotImplementedError(f"{type(self).__name__} has no input_shape")

    @FieldOrProperty
    def eval_shape_increase(self) -> Coordinate:
        """What is added to `input_shape` to predict, in voxels; zeros unless an architecture says else."""
        return Coordinate((0,) * self.dims)

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.input_shape)

    @property
    def is_there(self) -> bool:
        """Whether the shapes can be told already: not of a file by a relative path that is still to be resolved."""
        return True

    @property
    def scale_factor(self) -> tuple[float, ...]:
        """Size of an input voxel in output voxels, per axis: 2.0 where the output is twice as fine."""
        return (1.0,) * self.dims

    @property
    def peak_channels(self) -> int:
        """Feature channels that are in memory at once, at full resolution, when the network is widest."""
        return 2 * (self.num_in_channels + self.num_out_channels)

    def scale(self, voxel_size: Coordinate) -> Coordinate:
        """The voxel size of the output for an input of whole-numbered `voxel_size`, both in world units.

        Raises
        ------
        ConfigError
            If the output's voxel size is no whole number. `scale_factor` serves any voxel size.
        """
        if len(voxel_size) != self.dims:
            raise ConfigError(f"voxel_size: expected {self.dims} numbers, one per axis, got {tuple(voxel_size)}")
        scaled = [size / factor for size, factor in zip(voxel_size, self.scale_factor, strict=True)]
        if any(size != int(size) for size in scaled):
            raise ConfigError(
                f"voxel_size: {tuple(voxel_size)} becomes {tuple(scaled)}, which a Coordinate of whole numbers"
                " cannot hold; divide by scale_factor instead"
            )
        return Coordinate(int(size) for size in scaled)

    @property
    def stride(self) -> Coordinate:
        """Inputs that are shifted by multiples of this, in voxels, give outputs that are shifted alike."""
        return Coordinate((1,) * self.dims)

    def check_input_shape(self, input_shape: Coordinate) -> None:
        """ConfigError if it is known without running that the network cannot take this shape."""
        if len(input_shape) != self.dims:
            raise ConfigError(f"input_shape: expected {self.dims} numbers, one per axis, got {tuple(input_shape)}")

    def next_input_shape(self, input_shape: Coordinate) -> Coordinate:
        """The smallest shape the network takes that is nowhere smaller than this one, in voxels."""
        self.check_input_shape(input_shape)
        return Coordinate(input_shape)

    def output_shape_of(self, input_shape: Coordinate) -> Coordinate | None:
        """The spatial shape of the output for this input, in output voxels; None if only running it tells.

        Raises
        ------
        ConfigError
            If the network cannot take this input.
        """
        self.check_input_shape(input_shape)
        return None

    def output_offset_of(self, input_shape: Coordinate) -> Coordinate:
        """Where the output begins: its lower corner in output voxels, from the lower corner of the input."""
        raise self._unknown("output_offset_of")

    def receptive_context(self) -> Coordinate:
        """Input voxels on each side of an output block that its values depend on."""
        raise self._unknown("receptive_context")

    def save_bioimage_io_model(
        self,
        path: str | Path,
        authors: Sequence[Any],
        cite: Sequence[Any] | None = None,
        license: str = "MIT",
        input_test_image_path: str | Path | None = None,
        output_test_image_path: str | Path | None = None,
        checkpoint: int | str | None = None,
        in_voxel_size: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        """Write the network without a head as a bioimage.io package: see `RunConfig.save_bioimage_io_model`.

        It is that of a run named `{name}-bioimage-io`; without `weights` or `checkpoint` its weights are drawn anew.
        """
        from dacapo.experiments.run_config import RunConfig

        run = RunConfig(name=f"{self.name}-bioimage-io", architecture_config=self)
        images = (input_test_image_path, output_test_image_path)
        run.save_bioimage_io_model(path, authors, cite, license, *images, checkpoint, in_voxel_size, **options)

    def _unknown(self, method: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__} cannot predict in blocks: it has no method {method}")


Architecture = ArchitectureConfig


class DummyArchitectureConfig(ArchitectureConfig):
    """A single unpadded convolution, for tests."""

    num_in_channels: int
    """Channels of the input."""
    num_out_channels: int
    """Channels of the output."""

    @property
    def input_shape(self) -> Coordinate:
        return Coordinate(40, 20, 20)

    def next_input_shape(self, input_shape: Coordinate) -> Coordinate:
        super().check_input_shape(input_shape)
        return Coordinate(max(size, 3) for size in input_shape)

    def check_input_shape(self, input_shape: Coordinate) -> None:
        if self.next_input_shape(input_shape) != tuple(input_shape):
            raise ConfigError(f"input_shape: expected at least (3, 3, 3), got {tuple(input_shape)}")

    def output_shape_of(self, input_shape: Coordinate) -> Coordinate:
        self.check_input_shape(input_shape)
        return Coordinate(size - 2 for size in input_shape)

    def output_offset_of(self, input_shape: Coordinate) -> Coordinate:
        return Coordinate(1, 1, 1)

    def receptive_context(self) -> Coordinate:
        return Coordinate(1, 1, 1)

    def module(self) -> nn.Module:
        from torch import nn

        return initialize_convolutions(nn.Conv3d(self.num_in_channels, self.num_out_channels, kernel_size=3))


def initialize_convolutions(module: nn.Module) -> nn.Module:
    """Draw the weights of all convolutions in `module` for rectified units (He et al. 2015), and return it.

    A transposed convolution counts the inputs that meet in one output voxel: kernel / stride of them.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    for layer in module.modules():
        if isinstance(layer, _ConvNd):
            inputs = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            if layer.transposed:
                inputs //= math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / max(1, inputs)))
    return module
