"""The arithmetic of a U-Net along one axis: sizes, and how far what lies outside an input reaches in.

Axes are independent of each other, so every question is answered for one. Nothing is run: a `Span`
is traced through the layers that `unet_module` has, in the same order. Imports nothing of ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property


def equivariant_size(size: int, lost: int, multiple: int) -> int:
    """How much of an upsampled map may be kept so that shifted inputs give shifted outputs.

    The following convolutions take `lost` voxels; what they leave is a multiple of the downsampling
    from here to the lowest level.
    """
    return (size - lost) // multiple * multiple + lost


class Misfit(Exception):
    """A size that the network cannot take; the message names the level."""


@dataclass(frozen=True)
class Span:
    """One axis of a feature map."""

    size: int
    """In voxels of the feature map."""
    corner: Fraction = Fraction(0)
    """Lower corner of its voxel 0 in input voxels, from the lower corner of the input."""
    step: Fraction = Fraction(1)
    """Input voxels per voxel."""
    lower: int = 0
    """Voxels at the lower end whose value depends on what is beyond the input (padded or clamped)."""
    upper: int = 0
    """The same at the upper end."""

    def convolved(self, kernels: tuple[int, ...], same: bool) -> Span:
        lost = sum(kernel - 1 for kernel in kernels)
        if not same:
            return replace(self, size=self.size - lost, corner=self.corner + self.step * Fraction(lost, 2))
        return self._touched(self.lower + lost // 2, self.upper + lost // 2)

    def pooled(self, factor: int) -> Span:
        return replace(
            self,
            size=self.size // factor,
            step=self.step * factor,
            lower=-(-self.lower // factor),
            upper=-(-self.upper // factor),
        )

    def upsampled(self, factor: int) -> Span:
        return replace(
            self,
            size=self.size * factor,
            step=self.step / factor,
            lower=self.lower * factor,
            upper=self.upper * factor,
        )

    def interpolated(self, factor: int) -> Span:
        """Upsampled linearly: half a coarse voxel at either end is clamped."""
        fine = self.upsampled(factor)
        return fine._touched(fine.lower + factor // 2, fine.upper + factor // 2)

    def cropped(self, size: int) -> Span:
        """The central `size` voxels; of an odd rest the larger half is cut from the upper end."""
        below = (self.size - size) // 2
        above = self.size - size - below
        return Span(
            size,
            self.corner + below * self.step,
            self.step,
            max(0, self.lower - below),
            max(0, self.upper - above),
        )

    def padded(self, size: int) -> Span:
        """With zeros around to `size` voxels; of an odd rest the larger half goes to the upper end."""
        below = (size - self.size) // 2
        above = size - self.size - below
        return Span(size, self.corner - below * self.step, self.step, self.lower + below, self.upper + above)

    def joined(self, other: Span) -> Span:
        """What is computed from this and another of the same size, voxel by voxel."""
        return self._touched(max(self.lower, other.lower), max(self.upper, other.upper))

    def _touched(self, lower: int, upper: int) -> Span:
        return replace(self, lower=min(lower, self.size), upper=min(upper, self.size))


@dataclass(frozen=True)
class UNetAxis:
    """A U-Net along one axis.

    Attributes
    ----------
    down, up : tuple of tuple of int
        Kernel sizes per level; `down` has one level more.
    factors : tuple of int
        Downsampling from each level to the next.
    upsample : tuple of int
        Factors of the tail that makes the output finer than the input; its kernels are `down[-1]`.
    same : bool
        Whether convolutions are padded.
    attention : bool
        Whether skip connections are gated.
    """

    down: tuple[tuple[int, ...], ...]
    up: tuple[tuple[int, ...], ...]
    factors: tuple[int, ...]
    upsample: tuple[int, ...]
    same: bool
    attention: bool

    @property
    def stride(self) -> int:
        return math.prod(self.factors)

    def trace(self, size: int) -> Span:
        """The output for an input of `size` voxels; Misfit if there is none."""
        span = self._through(0, Span(size))
        for factor in self.upsample:
            span = self._convolved(span.upsampled(factor), self.down[-1], "the upsampling at the end")
        return span

    def _through(self, level: int, span: Span) -> Span:
        left = self._convolved(span, self.down[level], f"level {level}")
        if level == len(self.factors):
            return left
        factor = self.factors[level]
        if left.size % factor:
            raise Misfit(f"at level {level} there are {left.size} voxels, which the factor {factor} does not divide")
        deep = self._through(level + 1, left.pooled(factor))
        skip = self._gated(left, deep, factor) if self.attention else left
        raised = deep.upsampled(factor)
        if not self.same:
            raised = raised.cropped(equivariant_size(raised.size, *self.crop(level)))
        return self._convolved(skip.cropped(raised.size).joined(raised), self.up[level], f"level {level} on the way up")

    def _convolved(self, span: Span, kernels: tuple[int, ...], where: str) -> Span:
        result = span.convolved(kernels, self.same)
        if result.size < 1:
            raise Misfit(f"at {where} there are {span.size} voxels, too few for convolutions of sizes {list(kernels)}")
        return result

    def _gated(self, skip: Span, deep: Span, factor: int) -> Span:
        coarse = skip.pooled(factor)
        gate = coarse.joined(deep.padded(coarse.size))
        return skip.joined(gate.interpolated(factor))

    def crop(self, level: int) -> tuple[int, int]:
        """What the convolutions on the way up take at `level`, and of what the rest must be a multiple."""
        return sum(kernel - 1 for kernel in self.up[level]), math.prod(self.factors[level:])

    @cached_property
    def _offset(self) -> int:
        """All valid sizes are this plus a multiple of the stride."""
        if self.same:
            return 0
        steps = [math.prod(self.factors[:level]) for level in range(len(self.factors))]
        lost = [sum(kernel - 1 for kernel in kernels) for kernels in self.down]
        return sum(step * loss for step, loss in zip(steps, lost, strict=False))

    @cached_property
    def smallest(self) -> int:
        """The smallest valid input size; every larger one is a multiple of the stride away."""
        size = self._offset + self.stride
        while not self.takes(size):
            size += self.stride
        return size

    def takes(self, size: int) -> bool:
        try:
            self.trace(size)
        except Misfit:
            return False
        return True

    def at_least(self, size: int) -> int:
        """The smallest valid input size that is not below `size`."""
        return self.smallest + max(0, -(-(size - self.smallest) // self.stride)) * self.stride

    def at_most(self, size: int) -> int | None:
        """The largest valid input size that is not above `size`, None if there is none."""
        if size < self.smallest:
            return None
        return self.smallest + (size - self.smallest) // self.stride * self.stride

    @cached_property
    def context(self) -> int:
        """Input voxels on either side of an output block that its values depend on.

        What unpadded convolutions take away, plus, in whole strides, what padding would spoil.
        """
        size = self.at_least(4 * self.stride)
        while (span := self.trace(size)).lower + span.upper >= span.size:
            size += size // self.stride * self.stride
        ends = (span.corner, span.lower), (size - span.corner - span.size * span.step, span.upper)
        return max(
            math.ceil(taken) + math.ceil(touched * span.step / self.stride) * self.stride for taken, touched in ends
        )
