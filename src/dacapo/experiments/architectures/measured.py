"""How far a network sees, found by running it: for networks whose layers nobody tells us.

NaN in the input spreads to exactly the outputs that look at it, through convolutions, pooling, norms and
interpolation alike. What is left is compared with the output of the rest of the input alone: equal where
shifted inputs give shifted outputs. Imports torch inside functions; otherwise `errors` and `geometry`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    import torch
    from torch import nn

STRIDES = (1, 2, 4, 8, 16, 32, 64, 3, 6, 12, 24, 48, 9, 18, 27, 36, 54, 5, 10, 20, 40, 7, 14)
"""Shifts that are tried, most usual first."""
TOLERANCE = 1e-5
"""Outputs that differ by less, relative to themselves, are the same."""
GAINS = (1.0, 1e-2, 1e-4)
"""Of the inputs, as far as needed."""
MOST_SATURATED = 0.1
"""Share of the outputs that may all have the greatest value."""
MOST_VOXELS = 2**25
"""No input with more voxels is tried."""


@dataclass(frozen=True)
class Measured:
    """What was found, per axis, in voxels of the input."""

    stride: Coordinate
    context: Coordinate
    lost: tuple[Fraction, ...]
    """By how much the output is smaller than the input, in input voxels."""
    width: int
    """Channels of the first convolution."""


class MeasuredShapes:
    """Shapes of an architecture with a module of its own making: beside `ArchitectureConfig`, before it.

    `known_context` and `known_stride`, where given, are believed; the rest is measured once. Sizes are
    `input_shape` plus multiples of the stride.
    """

    def _size_step(self) -> Coordinate:
        """Sizes that the network takes are this far apart."""
        return Coordinate((1,) * self.dims)  # type: ignore[attr-defined]

    @cached_property
    def measured(self) -> Measured:
        """Stride, context and loss of the network; ConfigError if outputs depend on the whole input."""
        me: Any = self
        return measure(
            me.module(),
            me.num_in_channels,
            me.input_shape,
            me.scale_factor,
            steps=self._size_step(),
            context=me.known_context,
            stride=me.known_stride,
            name=me.name or type(self).__name__,
        )

    @property
    def stride(self) -> Coordinate:
        return self.measured.stride

    @property
    def peak_channels(self) -> int:
        return 2 * (self.measured.width + self.num_out_channels)  # type: ignore[attr-defined]

    def receptive_context(self) -> Coordinate:
        return self.measured.context

    def next_input_shape(self, input_shape: Coordinate) -> Coordinate:
        me: Any = self
        sizes = zip(input_shape, me.input_shape, self.stride, strict=True)
        return Coordinate(least + max(0, -(-(size - least) // step)) * step for size, least, step in sizes)

    def output_offset_of(self, input_shape: Coordinate) -> Coordinate:
        me: Any = self
        lost = zip(self.measured.lost, me.scale_factor, strict=True)
        return Coordinate(math.floor(loss / 2 * Fraction(factor)) for loss, factor in lost)


def measure(
    module: nn.Module,
    channels: int,
    shape: Coordinate,
    scale: Sequence[float],
    *,
    steps: Sequence[int],
    context: Coordinate | None,
    stride: Coordinate | None,
    name: str,
) -> Measured:
    """Run `module` (B, channels, *shape) with NaN beyond a border along each axis, and shifted."""
    if any(factor < 1 or factor != int(factor) for factor in scale):
        raise ConfigError(
            f"{name}: its output voxels are {tuple(1 / f for f in scale)} of its input voxels: only equal or finer"
            " outputs, by whole numbers, can be predicted in blocks"
        )
    probe = _Probe(module, channels, shape, [int(f) for f in scale], name)
    lost = tuple(Fraction(n) - Fraction(m, int(f)) for n, m, f in zip(shape, probe.output_shape, scale, strict=True))
    width = next((p.shape[0] for p in module.parameters() if p.dim() > 3), channels)
    if context is not None and stride is not None:
        strides = [math.lcm(a, b) for a, b in zip(stride, steps, strict=True)]
        return Measured(Coordinate(strides), context, lost, width)
    found = [probe.along(axis, steps[axis], None if stride is None else stride[axis]) for axis in range(len(shape))]
    reach = [c for _, c in found] if context is None else list(context)
    for axis, (loss, seen) in enumerate(zip(lost, reach, strict=True)):
        if loss > 2 * seen:
            raise ConfigError(
                f"{name}: known_context: the output is {loss} voxels smaller along axis {axis}, got {seen}"
            )
    return Measured(Coordinate(s for s, _ in found), Coordinate(reach), lost, width)


class _Probe:
    """A copy of a network with other weights: positive, so that nothing cancels and no rectifier is off."""

    def __init__(self, module: nn.Module, channels: int, shape: Coordinate, scale: list[int], name: str) -> None:
        import torch

        self.channels, self.shape, self.scale, self.name = channels, shape, scale, name
        self.generator = torch.Generator().manual_seed(0)
        self.gain = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying a script looks at gradients
            self.module = copy.deepcopy(module).to(device="cpu", dtype=torch.float32).eval()
        self._randomise()
        try:
            self.output_shape = self._reach_values()
        except Exception as error:
            reason = " ".join(str(error).split())[-200:]
            raise ConfigError(
                f"{name}: the network cannot take (1, {channels}, {', '.join(map(str, shape))}): {reason}"
            ) from None

    def _randomise(self) -> None:
        import torch

        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.is_floating_point():
                    inputs = math.prod(parameter.shape[1:])
                    parameter.uniform_(0.5, 1.5, generator=self.generator).div_(max(1, inputs))
            for name, buffer in self.module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.fill_(float(name.endswith("running_var")))

    def _reach_values(self) -> tuple[int, ...]:
        """The shape of the output; inputs are made so small that a sigmoid at the end does not make all of it 1."""
        shape: tuple[int, ...] = ()
        for self.gain in GAINS:
            output = self.run(self.noise(self.shape))
            shape = tuple(output.shape[2:])
            channels = output.transpose(0, 1).flatten(1)
            if (channels == channels.amax(1, keepdim=True)).float().mean(1).max() <= MOST_SATURATED:
                return shape
        self.gain = 1.0
        return shape

    def noise(self, shape: Sequence[int]) -> torch.Tensor:
        """Values over many orders of magnitude: single ones can still be told after much averaging."""
        import torch

        return self.gain * torch.exp(3 * torch.randn((1, self.channels, *shape), generator=self.generator))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.module(x)

    def along(self, axis: int, step: int, stride: int | None) -> tuple[int, int]:
        """Stride and context of one axis."""
        taken = False
        for size in self._sizes(axis, step):
            for shift in [stride] if stride else STRIDES:
                if shift % step:
                    continue
                whole = self._inputs(axis, size + shift)
                try:
                    context = self._context(axis, whole, shift)
                except Exception:  # whatever a foreign module raises for a size that it does not take
                    continue
                taken = True
                if context == math.inf:
                    break  # no output sees less than all, whatever the shift
                if context is not None:
                    return shift, -(-int(context) // shift) * shift
        label = "zyx"[-len(self.shape) :][axis]
        if not taken:
            raise ConfigError(
                f"{self.name}: the network takes no size but {self.shape[axis]} along {label}, so nothing can be"
                " measured: give known_context and known_stride"
            )
        raise ConfigError(
            f"{self.name}: along {label}, each output depends on the whole input or on where it lies in it (global"
            " pooling, a norm over the sample, aligned corners?), so blocks would not add up to the whole. Give"
            " known_context and known_stride if you know better"
        )

    def _sizes(self, axis: int, step: int) -> list[int]:
        """Larger and larger inputs along an axis, until some output sees no border."""
        n = self.shape[axis]
        others = math.prod(self.shape) // n
        larger = [n, 2 * n, 4 * n, n + 64, n + 192, 8 * n, n + 512]
        return [size for size in larger if (size - n) % step == 0 and (size == n or size * others <= MOST_VOXELS)]

    def _inputs(self, axis: int, size: int) -> torch.Tensor:
        shape = list(self.shape)
        shape[axis] = size
        return self.noise(shape)

    def _context(self, axis: int, whole: torch.Tensor, shift: int) -> float | None:
        """What outputs look at beyond themselves; None if a shift changes them, infinite if all see all.

        From both ends: `shift` voxels are hidden behind NaN, and cut off.
        """
        import torch

        dim, factor, n = axis + 2, self.scale[axis], whole.shape[axis + 2]
        reach = 0
        for below in (True, False):
            kept = whole.narrow(dim, shift if below else 0, n - shift)
            hidden = whole.clone()
            hidden.narrow(dim, 0 if below else n - shift, shift).fill_(torch.nan)
            seen, alone = self.run(hidden), self.run(kept)
            made = seen.shape[dim]
            if alone.shape[dim] != made - shift * factor:
                return None
            others = [d for d in range(seen.dim()) if d != dim]
            clean = ~seen.isnan().any(dim=tuple(others))
            if not clean.any():
                return math.inf
            # The clean outputs reach from the far end to somewhere near the hidden part.
            clear = int(clean.nonzero()[0]) if below else made - 1 - int(clean.nonzero()[-1])
            first = max(clear, shift * factor)  # what came before has no counterpart where the part is cut off
            num = made - first
            if num < 1:
                return math.inf
            there = seen.narrow(dim, first if below else 0, num)
            here = alone.narrow(dim, first - shift * factor if below else 0, num)
            if not torch.allclose(there, here, rtol=TOLERANCE, atol=0):
                return None
            offset = Fraction(n * factor - made, 2)
            reach = max(reach, math.ceil((first + offset) / factor - shift))
        return reach
