"""The U-Net as torch modules: what `CNNectomeUNetConfig` builds. Imports torch; no config but by its type.

Parameters are named and ordered so that existing checkpoints of the CNNectome U-Net load:
`l_conv.{level}.conv_pass.{i}`, `r_up.0.{level}.up.{i}`, `r_conv.0.{level}.conv_pass.{i}` and
`attention.0.{level}.{W_g|W_x.0|psi}.conv_pass.{i}`. Tensors are (B, C, *spatial); all steps keep
`channels_last` memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dacapo.errors import ConfigError
from dacapo.experiments.architectures.architecture import initialize_convolutions
from dacapo.experiments.architectures.unet_shapes import equivariant_size

if TYPE_CHECKING:
    from dacapo.experiments.architectures.unet import CNNectomeUNetConfig

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}

Size = Sequence[int]


def build_unet(config: CNNectomeUNetConfig) -> nn.Module:
    """The U-Net of `config`, followed by its upsampling tail if it has one."""
    unet = UNet(config)
    if not config.upsample_factors:
        return initialize_convolutions(unet)
    layers: list[nn.Module] = [unet]
    width = config.fmaps_out
    kernels, same = config.kernels_down()[-1], config.padding == "same"
    for factor in config.upsample_factors:
        layers.append(Upsample(width, width, factor, constant=True))
        layers.append(ConvPass(width, [width] * len(kernels), kernels, same=same, batch_norm=config.batch_norm))
    return initialize_convolutions(nn.Sequential(*layers))


RELU = partial(nn.ReLU, inplace=True)


class ConvPass(nn.Module):
    """Convolutions, each followed by a batch norm and an activation, if asked for."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        kernels: Sequence[Size],
        *,
        same: bool,
        batch_norm: bool,
        activation: Callable[[], nn.Module] | None = RELU,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, kernel in zip(widths, kernels, strict=True):
            padding = tuple(size // 2 for size in kernel) if same else 0
            dims = len(kernel)
            layers.append(CONVOLUTION[dims](in_channels, width, tuple(kernel), padding=padding))
            if batch_norm:
                layers.append(NORM[dims](width))
            if activation:
                layers.append(activation())
            in_channels = width
        self.conv_pass = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_pass(x)


class Upsample(nn.Module):
    """To a finer grid: voxels repeated after a convolution of size 1, or a transposed convolution."""

    def __init__(self, in_channels: int, out_channels: int, factor: Size, *, constant: bool) -> None:
        super().__init__()
        dims, factor = len(factor), tuple(factor)
        if constant:
            repeat = nn.Upsample(scale_factor=tuple(float(f) for f in factor), mode="nearest")
            self.up = nn.Sequential(repeat, CONVOLUTION[dims](in_channels, out_channels, 1))
        else:
            self.up = nn.Sequential(TRANSPOSED[dims](in_channels, out_channels, factor, stride=factor))

    def forward(self, x: Tensor) -> Tensor:
        # A convolution of size 1 and the activation commute with repeating voxels, and cost
        # 1 / prod(factor) of it on the coarse grid.
        x = torch.relu_(self.up[-1](x))
        return self.up[0](x) if len(self.up) == 2 else x


class AttentionGate(nn.Module):
    """Weights between 0 and 1 for a skip connection, from itself and the level below.

    Interpolated by half-voxel centres: with aligned corners the weights would depend on the size of
    the input, and blocks would not add up to the whole.
    """

    def __init__(self, deep: int, skip: int, inner: int, factor: Size, batch_norm: bool) -> None:
        super().__init__()
        dims, factor = len(factor), tuple(factor)
        kernels = [(1,) * dims] * 2

        def pointwise(channels: int, width: int, activation: Callable[[], nn.Module] | None = None) -> ConvPass:
            return ConvPass(channels, [width] * 2, kernels, same=False, batch_norm=batch_norm, activation=activation)

        self.W_g = pointwise(deep, inner)
        self.W_x = nn.Sequential(pointwise(skip, inner), POOL[dims](factor, factor))
        self.psi = pointwise(inner, 1, nn.Sigmoid)
        self.up = nn.Upsample(scale_factor=tuple(float(f) for f in factor), mode=LINEAR[dims], align_corners=False)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        seen = self.W_x(skip)
        gate = _centre_pad(self.W_g(deep), seen.shape[2:])
        return skip * self.up(self.psi(torch.relu_(gate + seen)))


class UNet(nn.Module):
    """Down through `l_conv`, up again through `r_up` and `r_conv`, with skip connections on every level."""

    def __init__(self, config: CNNectomeUNetConfig) -> None:
        super().__init__()
        factors, bottom = [tuple(factor) for factor in config.downsample_factors], len(config.downsample_factors)
        down, up = config.kernels_down(), config.kernels_up()
        same, batch_norm = config.padding == "same", config.batch_norm
        widths = [config.num_fmaps * config.fmap_inc_factor**level for level in range(bottom + 1)]
        outputs = [config.fmaps_out, *widths[1:]]
        # Upsampling narrows the maps to the width of its level, but not at the finest level.
        raised = [widths[1], *widths[1:bottom]] if bottom else []

        def conv_pass(channels: int, width: int, kernels: Sequence[Size], last: int | None = None) -> ConvPass:
            inner = [width] * (len(kernels) - 1)
            return ConvPass(channels, [*inner, last or width], kernels, same=same, batch_norm=batch_norm)

        def upsample(level: int) -> Upsample:
            return Upsample(widths[level + 1], raised[level], factors[level], constant=config.constant_upsample)

        def gate(level: int) -> AttentionGate:
            return AttentionGate(widths[level + 1], widths[level], outputs[level], factors[level], batch_norm)

        def head(part: Callable[[int], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList([nn.ModuleList(part(level) for level in range(bottom))])

        inputs = [config.fmaps_in, *widths[:-1]]
        last = None if bottom else config.fmaps_out  # without levels the one block gives the output
        self.l_conv = nn.ModuleList(
            conv_pass(inputs[level], widths[level], down[level], last) for level in range(bottom + 1)
        )
        self.l_down = nn.ModuleList(POOL[len(factor)](factor, factor) for factor in factors)
        self.r_up = head(upsample)
        self.r_conv = head(lambda level: conv_pass(widths[level] + raised[level], outputs[level], up[level]))
        self.attention = head(gate) if config.use_attention else None
        self.factors, self.same = factors, same
        self.crops = [[axis.crop(level) for axis in config.unet_axes()] for level in range(bottom)]

    def forward(self, x: Tensor) -> Tensor:
        return self._through(0, x)

    def _through(self, level: int, x: Tensor) -> Tensor:
        left = self.l_conv[level](x)
        if level == len(self.factors):
            return left
        if any(size % factor for size, factor in zip(left.shape[2:], self.factors[level], strict=True)):
            raise ConfigError(
                f"the U-Net cannot take this input: at level {level} it has the shape {tuple(left.shape[2:])},"
                f" which the factors {self.factors[level]} do not divide"
            )
        deep = self._through(level + 1, self.l_down[level](left))
        skip = left if self.attention is None else self.attention[0][level](deep, left)
        raised = self.r_up[0][level](deep)
        if not self.same:
            sizes = zip(raised.shape[2:], self.crops[level], strict=True)
            raised = _centre_crop(raised, [equivariant_size(size, *crop) for size, crop in sizes])
            skip = _centre_crop(skip, raised.shape[2:])
        return self.r_conv[0][level](torch.cat([skip, raised], dim=1))


def _centre_crop(x: Tensor, shape: Size) -> Tensor:
    for axis, size in enumerate(shape, start=2):
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def _centre_pad(x: Tensor, shape: Size) -> Tensor:
    """Zeros around `x` up to `shape`; of an odd rest the larger half follows it."""
    rests = [size - have for size, have in zip(shape, x.shape[2:], strict=True)]
    if not any(rests):
        return x
    return nn.functional.pad(x, [part for rest in reversed(rests) for part in (rest // 2, rest - rest // 2)])
