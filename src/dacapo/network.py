"""A trained network as a function of a region of a volume, without a seam.

`Tiles` cuts a region into tiles whose every voxel has seen all that the network can see of its
surroundings (mirrored beyond the volume), so the result does not depend on how it was cut. `Network`
runs them, with batch norms folded into the convolutions before them, and reads the next while one runs. May import
`experiments`, `arrays`; torch inside functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate, Grid, Roi

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dacapo.arrays import Array
    from dacapo.experiments.architectures import ArchitectureConfig
    from dacapo.experiments.run_config import RunConfig

MEMORY_BUDGET = 5 * 2**28
"""Bytes of activations that a tile may take on a CPU, unless most of it would be context."""
LEAST_EFFICIENCY = 0.25
"""Share of the voxels run through the network that are not context, below which more memory is taken."""
SHARE_OF_FREE = 0.25
"""Of the free memory, that the processes of a machine may take for activations then."""


SMALL_SLICE = 20480
"""torch on a CPU sends a single sample with fewer voxels in its first two axes down a path that is several times
slower; two at once are not."""


class Tiles:
    """How an architecture covers a region: the input shape of a tile, and the part of its output that is exact.

    A tile's exact part is what is left when the receptive context, the architecture's and the head's (output
    voxels), is cut off the input on every side; its corners lie on multiples of the stride, counted from the volume's
    corner. Of all tiles that fit the budget (bytes), those are taken that cover the region with the fewest voxels
    run through the network.
    """

    def __init__(
        self,
        architecture: ArchitectureConfig,
        region: Coordinate,
        bytes_per_voxel: int,
        budget: int,
        head_context: Coordinate | None = None,
    ) -> None:
        self.architecture = architecture
        self.scale = tuple(int(f) for f in architecture.scale_factor)
        self.stride = self._in_output(architecture.stride)
        self.context = architecture.receptive_context()
        if head_context is not None:
            self.context += Coordinate(-(-h // f) for h, f in zip(head_context, self.scale, strict=True))
        self.offset = self._in_output(self.context)
        if any(architecture.eval_shape_increase):
            self.input_shape = architecture.input_shape + architecture.eval_shape_increase
            self.shape = self._exact(self.input_shape)
            if min(self.shape) < 1:
                raise ConfigError(f"{architecture.name}: with eval_shape_increase no voxel sees its whole context")
        else:
            self.input_shape, self.shape = self._cheapest(region, budget // bytes_per_voxel)
        self.batch_size = 2 if self.input_shape[0] * self.input_shape[1] <= SMALL_SLICE else 1
        num = math.prod(-(-r // s) for r, s in zip(region, self.shape, strict=True))
        self.efficiency = math.prod(region) / math.prod(self._in_output(self.input_shape)) / num

    def _cheapest(self, region: Coordinate, most_voxels: int) -> tuple[Coordinate, Coordinate]:
        """Input and exact shape. Axes do not influence each other, so each is cut into 1, 2, … equal parts alone."""
        cuts: list[list[tuple[int, int, int]]] = [[] for _ in region]
        for parts in range(1, 25):
            wanted = self._rounded(Coordinate(-(-r // parts) for r in region))
            taken = self._input_for(wanted)
            for axis, exact in enumerate(self._exact(taken)):
                cut = (taken[axis], exact, -(-region[axis] // exact))
                if cut not in cuts[axis]:
                    cuts[axis].append(cut)
        best, smallest = None, None
        for choice in itertools.product(*cuts):
            voxels = math.prod(c[0] for c in choice)
            run = voxels * math.prod(c[2] for c in choice)
            at_once = voxels * (2 if choice[0][0] * choice[1][0] <= SMALL_SLICE and run > voxels else 1)
            if at_once <= most_voxels and (best is None or run < best[0]):
                best = (run, choice)
            if smallest is None or voxels < smallest[0]:
                smallest = (voxels, choice)
        chosen = (best or smallest)[1]  # type: ignore[index]  # if none fits, the smallest there is
        return Coordinate(c[0] for c in chosen), Coordinate(c[1] for c in chosen)

    def _in_output(self, voxels: Coordinate) -> Coordinate:
        return Coordinate(v * f for v, f in zip(voxels, self.scale, strict=True))

    def _rounded(self, shape: Coordinate) -> Coordinate:
        return Coordinate(-(-s // m) * m for s, m in zip(shape, self.stride, strict=True))

    def _input_for(self, exact: Coordinate) -> Coordinate:
        least = Coordinate(-(-e // f) + 2 * c for e, f, c in zip(exact, self.scale, self.context, strict=True))
        return self.architecture.next_input_shape(least)

    def _exact(self, input_shape: Coordinate) -> Coordinate:
        exact = (n - 2 * o for n, o in zip(self._in_output(input_shape), self.offset, strict=True))
        return Coordinate(e // m * m for e, m in zip(exact, self.stride, strict=True))

    def cover(self, roi: Roi) -> Iterator[Roi]:
        """Tiles (exact parts, voxels of the output grid) that together cover `roi`."""
        begin = [b // m * m for b, m in zip(roi.begin, self.stride, strict=True)]
        ranges = (range(b, e, s) for b, e, s in zip(begin, roi.end, self.shape, strict=True))
        return (Roi(corner, self.shape) for corner in itertools.product(*ranges))

    def input_of(self, tile: Roi) -> Roi:
        """The region of raw (voxels of raw) that the network sees for a tile."""
        corner = Coordinate((b - o) // f for b, o, f in zip(tile.begin, self.offset, self.scale, strict=True))
        return Roi(corner, self.input_shape)


class Network:
    """A trained network as a function of a region of one volume.

    Parameters
    ----------
    run : RunConfig
        With the weights that are to be used.
    raw : Array
        (C, *spatial) or (*spatial); mirrored beyond its border.
    region : Coordinate, optional
        How large the regions are that will be asked for (output voxels); tiles are no larger. The volume by default.
    budget : int, optional
        Bytes of activations that a tile may take; see `fitting_tiles`.
    processes : int
        How many do the same on this machine, and share its memory.
    """

    def __init__(
        self,
        run: RunConfig,
        raw: Array,
        device: torch.device,
        region: Coordinate | None = None,
        budget: int | None = None,
        processes: int = 1,
    ) -> None:
        from dacapo.experiments.datasplits.datasets.datasets import as_raw

        self.run, self.device, self.raw = run, device, as_raw(raw)
        architecture = run.architecture_config
        self.grid: Grid = output_grid(run, raw)
        self.roi = Roi(
            (0,) * raw.spatial_dims,
            tuple(int(n * f) for n, f in zip(raw.spatial_shape, architecture.scale_factor, strict=True)),
        )
        self.tiles = fitting_tiles(run, region or self.roi.shape, device, budget, processes)
        run.to(device)
        run.model.eval()
        self.model = folded(run.model)

    @property
    def num_channels(self) -> int:
        return int(self.run.model.num_out_channels)

    def predict(self, roi: Roi | None = None, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """A region (voxels of the output grid; the whole volume by default): float32 (C, *roi.shape).

        With a `value_range`, uint8 as `quantised` makes it.
        """
        roi = roi or self.roi
        out = np.empty((self.num_channels, *roi.shape), np.float32 if value_range is None else np.uint8)
        batches = _batched(self.tiles.cover(roi), self.tiles.batch_size)
        for tiles, data in _read_ahead(batches, self._read):
            inside = [tile.intersect(roi) for tile in tiles]
            for tile, kept, values in zip(tiles, inside, self._run(data), strict=True):
                source = (slice(a - o, b - o) for a, b, o in zip(kept.begin, kept.end, tile.begin, strict=True))
                target = tuple(slice(a - o, b - o) for a, b, o in zip(kept.begin, kept.end, roi.begin, strict=True))
                part = values[(slice(None), *source)]
                out[(slice(None), *target)] = (part if value_range is None else _quantised(part, value_range)).cpu()
        return out

    def _read(self, tiles: list[Roi]) -> np.ndarray:
        """What the network sees of some tiles: float32 (B, C, *spatial)."""
        shape = self.tiles.input_shape
        data = np.empty((len(tiles), self.run.architecture_config.num_in_channels, *shape), np.float32)
        for i, tile in enumerate(tiles):
            data[i] = self.raw.read(self.tiles.input_of(tile), pad="reflect").reshape(data.shape[1:])
        return data

    def _run(self, data: np.ndarray) -> Tensor:
        """The exact parts of some tiles: float32 (B, C, *spatial), on the device."""
        import torch

        shape = self.tiles.input_shape
        x = torch.from_numpy(data).to(self.device, memory_format=self.run.memory_format)
        with torch.inference_mode(), self.run.autocast(self.device):
            y = self.model(x)
        made = self.run.architecture_config.output_offset_of(shape) + self.run.model.head_context
        part = (slice(o - m, o - m + n) for o, m, n in zip(self.tiles.offset, made, self.tiles.shape, strict=True))
        return y[(..., *part)].float()


def folded(model: nn.Module) -> nn.Module:
    """The model for prediction: each batch norm of our own networks is part of the convolution before it.

    y = s (w x + b - m) + t is a convolution with s w and s (b - m) + t; the difference is rounding. The model itself
    where there is nothing to fold, else a copy.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def chains(module: nn.Module) -> Iterator[nn.Sequential]:
        # Below a module of others nobody knows in which order its parts are run.
        if type(module) is nn.Sequential:
            yield module
        elif type(module) is not nn.ModuleList and not type(module).__module__.startswith("dacapo."):
            return
        for child in module.children():
            yield from chains(child)

    def foldable(convolution: nn.Module, norm: nn.Module) -> bool:
        return (
            type(convolution) in (nn.Conv2d, nn.Conv3d)
            and isinstance(norm, _BatchNorm)
            and norm.running_mean is not None
            and not any(m._forward_hooks or m._forward_pre_hooks for m in (convolution, norm))
        )

    if not any(foldable(*pair) for chain in chains(model) for pair in itertools.pairwise(chain)):
        return model
    copy = deepcopy(model, {id(model.architecture): model.architecture}).eval()
    for chain in chains(copy):
        for i in range(len(chain) - 1):
            if foldable(chain[i], chain[i + 1]):
                chain[i], chain[i + 1] = fuse_conv_bn_eval(chain[i], chain[i + 1]), nn.Identity()
    return copy


def _batched(tiles: Iterator[Roi], size: int) -> Iterator[list[Roi]]:
    while batch := list(itertools.islice(tiles, size)):
        yield batch


def _read_ahead(batches: Iterable[list[Roi]], read: Any) -> Iterator[tuple[list[Roi], np.ndarray]]:
    """Batches with their data: the next is read while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
        waiting = None
        for tiles in batches:
            coming = tiles, reader.submit(read, tiles)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = coming
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def output_grid(run: RunConfig, raw: Array) -> Grid:
    """The grid of a prediction: raw's, finer where the architecture upsamples."""
    return raw.grid.scaled([1 / f for f in run.architecture_config.scale_factor])


def fitting_tiles(
    run: RunConfig, region: Coordinate, device: torch.device, budget: int | None = None, processes: int = 1
) -> Tiles:
    """Tiles for a region within a budget of bytes.

    Without a budget, `MEMORY_BUDGET` on a CPU; more, up to this process's share of what is free, while most of what
    is run through the network would be context. On a GPU, its share of most of the free memory.
    """
    import os

    def tiles(budget: int) -> Tiles:
        per_voxel = activation_bytes(run, device)
        return Tiles(run.architecture_config, region, per_voxel, budget, run.model.head_context)

    if budget is not None:
        return tiles(budget)
    if device.type == "cuda":
        import torch

        return tiles(int(0.6 * torch.cuda.mem_get_info(device)[0] / max(1, processes)))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = max(MEMORY_BUDGET, int(SHARE_OF_FREE * free / max(1, processes)))
    budget = MEMORY_BUDGET
    found = tiles(budget)
    while found.efficiency < LEAST_EFFICIENCY and budget < most:
        budget = min(most, 2 * budget)
        found = tiles(budget)
    return found


def activation_bytes(run: RunConfig, device: torch.device) -> int:
    """Bytes of activations per input voxel at the network's widest moment.

    Measured on CPUs: a fifth to two thirds of inputs and outputs of all channels there, so 0.7 of them are counted; on
    a GPU, whose library takes memory to work in, all.
    """
    from contextlib import nullcontext

    channels = run.architecture_config.peak_channels + 2 * run.model.num_out_channels
    itemsize = 4 if isinstance(run.autocast(device), nullcontext) else 2
    share = 1.0 if device.type == "cuda" else 0.7
    return max(1, int(share * 2 * itemsize * channels * math.prod(run.architecture_config.scale_factor)))


def _quantised(prediction: Tensor, value_range: tuple[float, float]) -> Tensor:
    """uint8 over the value range, wherever the prediction is."""
    import torch

    low, high = value_range
    scaled = (prediction - low).mul_(255 / (high - low))
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def quantised(prediction: np.ndarray, value_range: tuple[float, float], dtype: np.dtype[Any]) -> np.ndarray:
    """A prediction as it is stored: uint8 over its value range, or float32 as it is."""
    if dtype == np.float32:
        return prediction.astype(np.float32, copy=False)
    import torch

    return _quantised(torch.from_numpy(prediction), value_range).numpy()


def check_input(run: RunConfig, raw: Array) -> None:
    """Whether the network can be applied to `raw`: axes, channels, and the voxel size it was trained on."""
    architecture = run.architecture_config
    if raw.spatial_dims != architecture.dims:
        raise ConfigError(f"{raw.path}: axes {list(raw.grid.axes)}, but {run} was trained on {architecture.dims} axes")
    channels = math.prod(raw.shape[: raw.channel_dims])
    if channels != architecture.num_in_channels:
        raise ConfigError(f"{raw.path}: {channels} channels, but {run} was trained on {architecture.num_in_channels}")
