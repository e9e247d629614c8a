"""The U-Net of Ronneberger et al. (2015) and Cicek et al. (2016) as used for CREMI: its choices and shapes.

The network itself is in `unet_module`, its arithmetic along one axis in `unet_shapes`.
May import `config`, `errors` and `geometry`; torch only in `module()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from dacapo.config import Voxels
from dacapo.errors import ConfigError
from dacapo.experiments.architectures.architecture import ArchitectureConfig
from dacapo.experiments.architectures.unet_shapes import Misfit, Span, UNetAxis
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from torch import nn


class CNNectomeUNetConfig(ArchitectureConfig):
    """A U-Net in 2D or 3D, as `input_shape` has 2 or 3 axes.

    Level 0 is the finest. Level i is `num_fmaps * fmap_inc_factor**i` feature maps wide; the output has
    `fmaps_out`. Sections that must not mix in z are had by sizes of 1 in kernels and factors.

    Examples
    --------
    >>> unet = CNNectomeUNetConfig("small", (64, 64, 64), 12, 1, 12, 3, [(2, 2, 2), (2, 2, 2)], padding="same")
    >>> unet.output_shape_of((64, 64, 64))
    (64, 64, 64)
    >>> unet.receptive_context()
    (24, 24, 24)
    >>> unet.next_input_shape((50, 50, 50))
    (52, 52, 52)
    """

    input_shape: Voxels
    """Spatial shape of a training sample, in voxels."""
    fmaps_out: PositiveInt
    """Channels of the output."""
    fmaps_in: PositiveInt
    """Channels of the input."""
    num_fmaps: PositiveInt
    """Feature maps at the finest level."""
    fmap_inc_factor: PositiveInt
    """By how much each level is wider than the one above."""
    downsample_factors: list[Voxels]
    """Pooling from each level to the next, per axis; empty for a single block of convolutions."""
    kernel_size_down: list[list[Voxels]] | None = None
    """Kernels per level and convolution on the way down; two of size 3 on each of the levels if left out."""
    kernel_size_up: list[list[Voxels]] | None = None
    """Kernels on the way up, on all levels but the lowest; two of size 3 if left out."""
    eval_shape_increase: Voxels = Field(default=None)
    """What is added to `input_shape` to predict, in voxels; nothing if left out."""
    upsample_factors: list[Voxels] = Field(default=None)
    """Upsampling after the U-Net, for an output that is finer than the input."""
    constant_upsample: bool = True
    """Repeat voxels to upsample, after a convolution of size 1; else a transposed convolution."""
    padding: Literal["valid", "same"] = "valid"
    """`same`: zeros around every convolution, the output is as large as the input. `valid`: none, it shrinks."""
    use_attention: bool = False
    """Gate the skip connections by what is seen a level below (Oktay et al. 2018)."""
    batch_norm: bool = False
    """Normalise over the batch after each convolution."""

    @field_validator("eval_shape_increase", mode="before")
    @classmethod
    def _nothing_added(cls, value: Any, info: ValidationInfo) -> Any:
        return (0,) * len(info.data.get("input_shape", ())) if value is None else value

    @field_validator("upsample_factors", mode="before")
    @classmethod
    def _no_tail(cls, value: Any) -> Any:
        return [] if value is None else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dims not in (2, 3):
            raise ConfigError(f"input_shape: expected 2 or 3 axes, got {tuple(self.input_shape)}")
        levels = len(self.downsample_factors)
        for name, expected in (("kernel_size_down", levels + 1), ("kernel_size_up", levels)):
            kernels = getattr(self, name)
            if kernels is not None and len(kernels) != expected:
                raise ConfigError(
                    f"{name}: expected {expected} levels for {levels} downsample_factors, got {len(kernels)}"
                )
            for level, convolutions in enumerate(kernels or []):
                if not convolutions:
                    raise ConfigError(f"{name}[{level}]: expected at least one kernel")
                for i, kernel in enumerate(convolutions):
                    self._check_sizes(f"{name}[{level}][{i}]", kernel, odd=self.padding == "same")
        for name in ("downsample_factors", "upsample_factors"):
            for i, factor in enumerate(getattr(self, name)):
                self._check_sizes(f"{name}[{i}]", factor)
        self._check_sizes("input_shape", self.input_shape)
        self._check_sizes("eval_shape_increase", self.eval_shape_increase, least=0)
        self.check_input_shape(self.input_shape)
        if any(self.eval_shape_increase):
            self._trace(self.input_shape + self.eval_shape_increase, "input_shape + eval_shape_increase")
        return self

    def _check_sizes(self, name: str, sizes: Coordinate, *, least: int = 1, odd: bool = False) -> None:
        if len(sizes) != self.dims:
            raise ConfigError(f"{name}: expected {self.dims} numbers, one per axis of input_shape, got {tuple(sizes)}")
        if min(sizes) < least:
            raise ConfigError(f"{name}: expected numbers of at least {least}, got {tuple(sizes)}")
        if odd and any(size % 2 == 0 for size in sizes):
            raise ConfigError(f"{name}: expected odd sizes with padding 'same', got {tuple(sizes)}")

    @property
    def num_in_channels(self) -> int:
        return self.fmaps_in

    @property
    def num_out_channels(self) -> int:
        return self.fmaps_out

    @property
    def scale_factor(self) -> tuple[float, ...]:
        return tuple(float(math.prod(axis.upsample)) for axis in self.unet_axes())

    @property
    def stride(self) -> Coordinate:
        return Coordinate(axis.stride for axis in self.unet_axes())

    def kernels_down(self) -> list[list[Coordinate]]:
        """Kernel sizes by level and convolution on the way down."""
        return self.kernel_size_down or self._default_kernels(len(self.downsample_factors) + 1)

    def kernels_up(self) -> list[list[Coordinate]]:
        """Kernel sizes by level and convolution on the way up."""
        return self.kernel_size_up or self._default_kernels(len(self.downsample_factors))

    def _default_kernels(self, levels: int) -> list[list[Coordinate]]:
        return [[Coordinate((3,) * self.dims)] * 2] * levels

    def unet_axes(self) -> list[UNetAxis]:
        """The network along each axis: its arithmetic."""

        def along(axis: int, kernels: list[list[Coordinate]]) -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(kernel[axis] for kernel in level) for level in kernels)

        return [
            UNetAxis(
                down=along(axis, self.kernels_down()),
                up=along(axis, self.kernels_up()),
                factors=tuple(factor[axis] for factor in self.downsample_factors),
                upsample=tuple(factor[axis] for factor in self.upsample_factors),
                same=self.padding == "same",
                attention=self.use_attention and bool(self.downsample_factors),
            )
            for axis in range(self.dims)
        ]

    @property
    def peak_channels(self) -> int:
        # At the top of the way up: the skip and the upsampled maps, both joined, and what they become.
        deeper = self.num_fmaps * self.fmap_inc_factor if self.downsample_factors else 0
        return 2 * (self.num_fmaps + deeper) + max(self.num_fmaps, self.fmaps_out)

    def check_input_shape(self, input_shape: Coordinate) -> None:
        self._trace(input_shape, "input_shape")

    def output_shape_of(self, input_shape: Coordinate) -> Coordinate:
        """The spatial shape of the output for this input, in output voxels. Nothing is run.

        Raises
        ------
        ConfigError
            If the network cannot take the shape: which level cannot, and the next shapes it takes.
        """
        return Coordinate(span.size for span in self._trace(input_shape, "input_shape"))

    def output_offset_of(self, input_shape: Coordinate) -> Coordinate:
        spans = self._trace(input_shape, "input_shape")
        return Coordinate(math.floor(span.corner / span.step) for span in spans)

    def _trace(self, input_shape: Coordinate, name: str) -> list[Span]:
        super().check_input_shape(input_shape)
        axes, spans = self.unet_axes(), []
        for label, axis, size in zip("zyx"[-self.dims :], axes, input_shape, strict=True):
            try:
                spans.append(axis.trace(size))
            except Misfit as misfit:
                choices = [
                    f"{letter} {_choices(other, length)}"
                    for letter, other, length in zip("zyx"[-self.dims :], axes, input_shape, strict=True)
                ]
                raise ConfigError(
                    f"{name}: the U-Net cannot take {tuple(input_shape)}: along {label}, {misfit}."
                    f" The next sizes it takes: {', '.join(choices)}"
                ) from None
        return spans

    def next_input_shape(self, input_shape: Coordinate) -> Coordinate:
        return self._fitted(input_shape, UNetAxis.at_least)

    def previous_input_shape(self, input_shape: Coordinate) -> Coordinate:
        """The largest shape the network takes that is nowhere larger than this one, in voxels.

        Raises
        ------
        ConfigError
            If there is none: it names the smallest.
        """
        if any(size < axis.smallest for size, axis in zip(input_shape, self.unet_axes(), strict=True)):
            smallest = tuple(axis.smallest for axis in self.unet_axes())
            raise ConfigError(f"input_shape: the smallest that the U-Net takes is {smallest}, got {tuple(input_shape)}")
        return self._fitted(input_shape, UNetAxis.at_most)

    def _fitted(self, input_shape: Coordinate, fit: Callable[[UNetAxis, int], int | None]) -> Coordinate:
        super().check_input_shape(input_shape)
        return Coordinate(fit(axis, size) for axis, size in zip(self.unet_axes(), input_shape, strict=True))

    def receptive_context(self) -> Coordinate:
        """Input voxels on each side of an output block that its values depend on.

        The block's corners are taken to be multiples of `stride`. With `valid` padding this is what the
        output is smaller than the input by, on either side. With `same` padding it is a multiple of the
        stride, and the halo to read and cut off again: what is left equals the prediction of the whole
        volume. Attention looks a little further and adds whole strides, with `valid` padding too.
        """
        return Coordinate(axis.context for axis in self.unet_axes())

    def module(self) -> nn.Module:
        """A new network: (B, fmaps_in, *spatial) to (B, fmaps_out, *spatial), float."""
        from dacapo.experiments.architectures.unet_module import build_unet

        return build_unet(self)


def _choices(axis: UNetAxis, size: int) -> str:
    if axis.takes(size):
        return str(size)
    smaller, larger = axis.at_most(size), axis.at_least(size)
    return f"{larger}" if smaller is None else f"{smaller} or {larger}"
