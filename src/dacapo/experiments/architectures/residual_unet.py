"""The residual-encoder U-Net of nnU-Net (Isensee et al. 2024, nnU-Net Revisited): its choices, shapes and layers.

Residual blocks on the way down (He et al. 2016, as in the original's BasicBlockD), a light way up. Norms
over a sample, which the original has, are left out: with them a prediction depends on its tile.
May import `config`, `errors` and `geometry`; torch only in `module()`, through `residual_unet_module`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from dacapo.config import Voxels
from dacapo.errors import ConfigError
from dacapo.experiments.architectures.architecture import ArchitectureConfig
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from torch import nn

BLOCKS = (1, 3, 4, 6, 6, 6)
"""Residual blocks per level of the original's presets; deeper levels have as many as the last."""


class ResidualEncoderUNetConfig(ArchitectureConfig):
    """A U-Net in 2D or 3D with residual blocks and strided convolutions on the way down, padded everywhere.

    Level 0 is the finest. Level i is `num_fmaps * fmap_inc_factor**i` feature maps wide, but at most
    `max_fmaps`; the output is as large as the input and has `fmaps_out` channels. Sections that must not
    mix in z are had by sizes of 1 in kernels and factors.

    Examples
    --------
    >>> unet = ResidualEncoderUNetConfig("res", (32, 32, 32), 12, 1, downsample_factors=[(2, 2, 2), (2, 2, 2)])
    >>> unet.fmaps(), unet.blocks()
    ([32, 64, 128], [1, 3, 4])
    >>> unet.next_input_shape((33, 32, 31))
    (36, 32, 32)
    """

    input_shape: Voxels
    """Spatial shape of a training sample, in voxels."""
    fmaps_out: PositiveInt
    """Channels of the output."""
    fmaps_in: PositiveInt
    """Channels of the input."""
    num_fmaps: PositiveInt = 32
    """Feature maps at the finest level."""
    fmap_inc_factor: PositiveInt = 2
    """By how much each level is wider than the one above."""
    max_fmaps: PositiveInt = 320
    """No level is wider than this."""
    downsample_factors: list[Voxels]
    """Stride from each level to the next, per axis; empty for a single level."""
    kernel_sizes: list[Voxels] | None = None
    """Size of all kernels of a level, odd; 3 along each axis if left out."""
    blocks_per_level: list[PositiveInt] | None = None
    """Residual blocks per level on the way down; 1, 3, 4, 6, 6, … if left out."""
    convolutions_up: PositiveInt = 1
    """Convolutions per level on the way up."""
    eval_shape_increase: Voxels = Field(default=None)
    """What is added to `input_shape` to predict, in voxels; nothing if left out."""
    constant_upsample: bool = False
    """Repeat voxels to upsample, after a convolution of size 1; else a transposed convolution."""
    batch_norm: bool = True
    """Normalise over the batch after each convolution."""

    @field_validator("eval_shape_increase", mode="before")
    @classmethod
    def _nothing_added(cls, value: Any, info: ValidationInfo) -> Any:
        return (0,) * len(info.data.get("input_shape", ())) if value is None else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dims not in (2, 3):
            raise ConfigError(f"input_shape: expected 2 or 3 axes, got {tuple(self.input_shape)}")
        levels = len(self.downsample_factors) + 1
        for name in ("kernel_sizes", "blocks_per_level"):
            given = getattr(self, name)
            if given is not None and len(given) != levels:
                raise ConfigError(
                    f"{name}: expected {levels} levels for {levels - 1} downsample_factors, got {len(given)}"
                )
        for i, kernel in enumerate(self.kernel_sizes or []):
            self._check_sizes(f"kernel_sizes[{i}]", kernel)
            if any(size % 2 == 0 for size in kernel):
                raise ConfigError(f"kernel_sizes[{i}]: expected odd sizes, got {tuple(kernel)}")
        for i, factor in enumerate(self.downsample_factors):
            self._check_sizes(f"downsample_factors[{i}]", factor)
        if self.max_fmaps < self.num_fmaps:
            raise ConfigError(f"max_fmaps: expected at least num_fmaps ({self.num_fmaps}), got {self.max_fmaps}")
        self._check_sizes("input_shape", self.input_shape)
        self._check_sizes("eval_shape_increase", self.eval_shape_increase, least=0)
        self.check_input_shape(self.input_shape)
        self._check_multiple("input_shape + eval_shape_increase", self.input_shape + self.eval_shape_increase)
        return self

    def _check_sizes(self, name: str, sizes: Coordinate, least: int = 1) -> None:
        if len(sizes) != self.dims:
            raise ConfigError(f"{name}: expected {self.dims} numbers, one per axis of input_shape, got {tuple(sizes)}")
        if min(sizes) < least:
            raise ConfigError(f"{name}: expected numbers of at least {least}, got {tuple(sizes)}")

    def _check_multiple(self, name: str, shape: Coordinate) -> None:
        if any(size % step or size < 1 for size, step in zip(shape, self.stride, strict=True)):
            raise ConfigError(
                f"{name}: expected multiples of {tuple(self.stride)}, the product of downsample_factors, got"
                f" {tuple(shape)}. The next is {tuple(self._rounded_up(shape))}"
            )

    def _rounded_up(self, shape: Coordinate) -> Coordinate:
        return Coordinate(max(1, -(-size // step)) * step for size, step in zip(shape, self.stride, strict=True))

    @property
    def num_in_channels(self) -> int:
        return self.fmaps_in

    @property
    def num_out_channels(self) -> int:
        return self.fmaps_out

    @property
    def stride(self) -> Coordinate:
        return Coordinate(math.prod(f[axis] for f in self.downsample_factors) for axis in range(self.dims))

    @property
    def peak_channels(self) -> int:
        # At the top of the way up: the skip and the upsampled maps, both joined, and what they become.
        return 4 * self.num_fmaps + max(self.num_fmaps, self.fmaps_out)

    def fmaps(self) -> list[int]:
        """Feature maps per level."""
        levels = range(len(self.downsample_factors) + 1)
        return [min(self.max_fmaps, self.num_fmaps * self.fmap_inc_factor**level) for level in levels]

    def blocks(self) -> list[int]:
        """Residual blocks per level."""
        levels = range(len(self.downsample_factors) + 1)
        return list(self.blocks_per_level or (BLOCKS[min(level, len(BLOCKS) - 1)] for level in levels))

    def kernels(self) -> list[Coordinate]:
        """Kernel size per level."""
        return self.kernel_sizes or [Coordinate((3,) * self.dims)] * (len(self.downsample_factors) + 1)

    def check_input_shape(self, input_shape: Coordinate) -> None:
        super().check_input_shape(input_shape)
        self._check_multiple("input_shape", Coordinate(input_shape))

    def next_input_shape(self, input_shape: Coordinate) -> Coordinate:
        super().check_input_shape(input_shape)
        return self._rounded_up(input_shape)

    def output_shape_of(self, input_shape: Coordinate) -> Coordinate:
        self.check_input_shape(input_shape)
        return Coordinate(input_shape)

    def output_offset_of(self, input_shape: Coordinate) -> Coordinate:
        return Coordinate((0,) * self.dims)

    def receptive_context(self) -> Coordinate:
        return Coordinate(self._context(axis) for axis in range(self.dims))

    def _context(self, axis: int) -> int:
        """What an aligned output block of one stride looks at beyond itself, up to a multiple of the stride.

        An interval is followed back from the output, once through the levels; skip connections join it.
        """
        factors = [f[axis] for f in self.downsample_factors]
        reach = [kernel[axis] // 2 for kernel in self.kernels()]
        low, high, needed = 0, self.stride[axis], []
        for level, factor in enumerate(factors):
            low, high = low - self.convolutions_up * reach[level], high + self.convolutions_up * reach[level]
            needed.append((low, high))  # of what the level gives to its skip connection
            low, high = low // factor, -(-high // factor)
        for level in reversed(range(len(factors) + 1)):
            if level < len(factors):
                low, high = min(low, needed[level][0]), max(high, needed[level][1])
            stem = 1 if level == 0 else 0
            inside = 2 * self.blocks()[level] + stem - (1 if level else 0)  # all but the strided convolution
            low, high = low - inside * reach[level], high + inside * reach[level]
            if level:
                factor = factors[level - 1]
                low, high = low * factor - reach[level], (high - 1) * factor + max(reach[level] + 1, factor)
        stride = self.stride[axis]
        return -(-max(-low, high - stride) // stride) * stride

    def module(self) -> nn.Module:
        """A new network: (B, fmaps_in, *spatial) to (B, fmaps_out, *spatial), float."""
        from dacapo.experiments.architectures.residual_unet_module import ResidualEncoderUNet

        return ResidualEncoderUNet(self)
