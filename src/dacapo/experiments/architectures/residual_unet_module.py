"""The residual-encoder U-Net as torch modules: what `ResidualEncoderUNetConfig` builds. Imports torch.

Tensors are (B, C, *spatial). Residual branches begin at zero (Goyal et al. 2017; De and Smith 2020), so that a
new network is a shallow one whatever its depth, with and without batch norm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dacapo.errors import ConfigError
from dacapo.experiments.architectures.unet_module import CONVOLUTION, NORM, TRANSPOSED, Size

if TYPE_CHECKING:
    from dacapo.experiments.architectures.residual_unet import ResidualEncoderUNetConfig

SLOPE = 0.01
"""Of the rectifiers, below zero."""
AVERAGE = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


def _activation() -> nn.Module:
    return nn.LeakyReLU(SLOPE, inplace=True)


def _convolution(channels: int, width: int, kernel: Size, stride: Size | int = 1, *, norm: bool) -> nn.Sequential:
    dims, padding = len(kernel), tuple(size // 2 for size in kernel)
    # A bias before a batch norm is taken away again.
    layers: list[nn.Module] = [
        CONVOLUTION[dims](channels, width, tuple(kernel), stride=stride, padding=padding, bias=not norm)
    ]
    return nn.Sequential(*layers, *([NORM[dims](width)] if norm else []))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: an average over the stride and a convolution of size 1 where needed."""

    def __init__(self, channels: int, width: int, kernel: Size, stride: Size, norm: bool) -> None:
        super().__init__()
        stride = tuple(stride)
        self.first = _convolution(channels, width, kernel, stride, norm=norm)
        self.second = _convolution(width, width, kernel, norm=norm)
        self.activation = _activation()
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(AVERAGE[len(kernel)](stride, stride))
        if channels != width:
            shortcut.append(_convolution(channels, width, (1,) * len(kernel), norm=norm))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.activation(self.first(x)))
        return self.activation(branch + self.shortcut(x))


class Upsample(nn.Module):
    """To a finer grid, linearly: a transposed convolution, or voxels repeated after a convolution of size 1."""

    def __init__(self, channels: int, width: int, factor: Size, constant: bool) -> None:
        super().__init__()
        dims, factor = len(factor), tuple(factor)
        if constant:
            repeat = nn.Upsample(scale_factor=tuple(float(f) for f in factor), mode="nearest")
            self.up = nn.Sequential(CONVOLUTION[dims](channels, width, 1), repeat)
        else:
            self.up = TRANSPOSED[dims](channels, width, factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


class ResidualEncoderUNet(nn.Module):
    """Down through `down`, up again through `up` and `joined`, with skip connections on every level."""

    def __init__(self, config: ResidualEncoderUNetConfig) -> None:
        super().__init__()
        norm, kernels, widths = config.batch_norm, config.kernels(), config.fmaps()
        ones = (1,) * config.dims
        factors = [tuple(factor) for factor in config.downsample_factors]
        self.factors = factors
        self.stem = nn.Sequential(_convolution(config.fmaps_in, widths[0], kernels[0], norm=norm), _activation())
        self.down = nn.ModuleList()
        for level, num in enumerate(config.blocks()):
            channels = widths[max(0, level - 1)]
            stride = factors[level - 1] if level else ones
            blocks = [ResidualBlock(channels, widths[level], kernels[level], stride, norm)]
            blocks += [ResidualBlock(widths[level], widths[level], kernels[level], ones, norm) for _ in range(num - 1)]
            self.down.append(nn.Sequential(*blocks))
        self.up, self.joined = nn.ModuleList(), nn.ModuleList()
        for level, factor in enumerate(factors):
            width = widths[level]
            self.up.append(Upsample(widths[level + 1], width, factor, config.constant_upsample))
            layers: list[nn.Module] = []
            for i in range(config.convolutions_up):
                out = config.fmaps_out if level == 0 and i == config.convolutions_up - 1 else width
                layers += [_convolution(2 * width if i == 0 else width, out, kernels[level], norm=norm), _activation()]
            self.joined.append(nn.Sequential(*layers))
        if not factors:  # a single level has no way up to change the width
            self.last = nn.Sequential(_convolution(widths[0], config.fmaps_out, ones, norm=norm), _activation())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He et al. (2015) for the leaky rectifier; the last layer of each residual branch is zero."""
        for layer in self.modules():
            if isinstance(layer, nn.modules.conv._ConvNd):
                inputs = layer.in_channels * math.prod(layer.kernel_size)
                if layer.transposed:
                    inputs //= math.prod(layer.stride)
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (1 + SLOPE**2) / inputs))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.second[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.stem(x), []
        for level, blocks in enumerate(self.down):
            if level and any(n % f for n, f in zip(x.shape[2:], self.factors[level - 1], strict=True)):
                raise ConfigError(
                    f"the residual U-Net cannot take this input: at level {level - 1} it has the shape"
                    f" {tuple(x.shape[2:])}, which the factors {self.factors[level - 1]} do not divide"
                )
            x = blocks(x)
            skips.append(x)
        if not self.factors:
            return self.last(x)
        for level in reversed(range(len(self.factors))):
            x = self.joined[level](torch.cat([skips[level], self.up[level](x)], dim=1))
        return x
