"""Post-processors: from a prediction to a segmentation, once per parameter set of a sweep.

Each has parameter classes with real names, a default grid that fits the values its predictions take,
and a way to run blockwise: `block_function` names a plain function and its JSON parameters.
May import `ops`, never a file format.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from dacapo.config import Config, Voxels
from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate


class PostProcessorParameters(Config):
    """One parameter set of a sweep; `id` is its place in the grid."""

    kind: ClassVar[str] = "parameters"
    id: int

    @property
    def parameter_names(self) -> list[str]:
        return list(type(self).model_fields)

    def __str__(self) -> str:
        shown = ",".join(f"{n}={_shown(getattr(self, n))}" for n in self.parameter_names[1:])
        return f"{type(self).__name__.removesuffix('PostProcessorParameters').lower()}({shown})"

    @property
    def folder(self) -> str:
        """A name for the output's folder, without characters that a file system or URL minds."""
        shown = [f"{n}{_shown(getattr(self, n))}" for n in self.parameter_names[1:]]
        name = type(self).__name__.removesuffix("PostProcessorParameters").lower()
        return "_".join([name, *shown]).replace("/", "-")


def _shown(value: Any) -> str:
    if isinstance(value, Coordinate | tuple):
        return "x".join(str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class PostProcessor(ABC):
    """Turns predictions into segmentations."""

    @abstractmethod
    def enumerate_parameters(self) -> Iterable[PostProcessorParameters]:
        """The default sweep."""

    @abstractmethod
    def process(self, prediction: np.ndarray, parameters: Any) -> np.ndarray:
        """The segmentation of a prediction (C, *spatial), real-valued as the predictor says."""

    def process_all(self, prediction: np.ndarray, parameters: Sequence[Any]) -> Iterator[np.ndarray]:
        """The segmentation of each parameter set, in order; what several share is computed once."""
        prepared = self.prepared(prediction)
        for group in self.groups(parameters):
            yield from self.process_group(prepared, group)

    def prepared(self, prediction: np.ndarray) -> Any:
        """What all parameter sets share of the work on a prediction; `process_group` takes it, in several threads at once."""
        return prediction

    def groups(self, parameters: Sequence[Any]) -> list[list[Any]]:
        """Runs of neighbours in the list that share more than that."""
        return [[one] for one in parameters]

    def process_group(self, prepared: Any, group: Sequence[Any]) -> Iterator[np.ndarray]:
        """The segmentation of each parameter set of a group, in order."""
        for one in group:
            yield self.process(prepared, one)

    @abstractmethod
    def block_function(self, parameters: Any) -> tuple[str, dict[str, Any]]:
        """`module:function` and JSON parameters that segment one block of a prediction."""

    @abstractmethod
    def output(self, channels: int) -> tuple[int | None, str]:
        """Channels (None: no channel axis) and data type of the segmentation of a prediction of so many channels."""

    block_context: int | None = None
    """Voxels around a block that it wants to see; None: blocks are independent, nothing is stitched."""


class ThresholdPostProcessorParameters(PostProcessorParameters):
    """prediction > threshold."""

    threshold: float = 0.0
    """On the prediction's own scale."""


class ThresholdPostProcessor(PostProcessor):
    """Foreground where the prediction exceeds a threshold; uint8 0/1 with the prediction's channels, less those
    before `first_channel`."""

    def __init__(
        self, thresholds: Sequence[float] = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3), first_channel: int = 0
    ) -> None:
        if not thresholds:
            raise ConfigError("thresholds: at least one is needed")
        self.thresholds = tuple(thresholds)
        self.first_channel = first_channel

    def enumerate_parameters(self) -> Iterator[ThresholdPostProcessorParameters]:
        for i, threshold in enumerate(self.thresholds):
            yield ThresholdPostProcessorParameters(id=i, threshold=threshold)

    def output(self, channels: int) -> tuple[int | None, str]:
        return channels - self.first_channel, "uint8"

    def process(self, prediction: np.ndarray, parameters: ThresholdPostProcessorParameters) -> np.ndarray:
        from dacapo.ops.labels import threshold

        return threshold(prediction, **self.block_function(parameters)[1])

    def block_function(self, parameters: ThresholdPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        settings = {"threshold": parameters.threshold, "first_channel": self.first_channel}
        return "dacapo.ops.labels:threshold", settings


class ArgmaxPostProcessorParameters(PostProcessorParameters):
    """The channel with the highest value: nothing to choose."""


class ArgmaxPostProcessor(PostProcessor):
    """The most likely class of each voxel, the first of equals; uint8 ids without a channel axis (uint16 beyond 256
    classes)."""

    def enumerate_parameters(self) -> Iterator[ArgmaxPostProcessorParameters]:
        yield ArgmaxPostProcessorParameters(id=0)

    def output(self, channels: int) -> tuple[int | None, str]:
        from dacapo.ops.labels import class_dtype

        return None, class_dtype(channels).name

    def process(self, prediction: np.ndarray, parameters: ArgmaxPostProcessorParameters) -> np.ndarray:
        from dacapo.ops.labels import argmax

        return argmax(prediction)

    def block_function(self, parameters: ArgmaxPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        return "dacapo.ops.labels:argmax", {}


class DummyPostProcessorParameters(PostProcessorParameters):
    """How large an object must be."""

    min_size: int = 1
    """Objects of fewer voxels are left out."""


class DummyPostProcessor(PostProcessor):
    """Connected objects where any embedding exceeds a threshold; uint64 instances."""

    block_context = 8

    def __init__(self, detection_threshold: float, min_sizes: Sequence[int] = tuple(range(1, 11))) -> None:
        self.detection_threshold = detection_threshold
        self.min_sizes = tuple(min_sizes)

    def enumerate_parameters(self) -> Iterator[DummyPostProcessorParameters]:
        for i, min_size in enumerate(self.min_sizes):
            yield DummyPostProcessorParameters(id=i, min_size=min_size)

    def output(self, channels: int) -> tuple[int | None, str]:
        return None, "uint64"

    def process(self, prediction: np.ndarray, parameters: DummyPostProcessorParameters) -> np.ndarray:
        from dacapo.ops.labels import detect

        return detect(prediction, **self.block_function(parameters)[1])

    def block_function(self, parameters: DummyPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        return "dacapo.ops.labels:detect", {
            "threshold": self.detection_threshold,
            "min_size": parameters.min_size,
        }


class WatershedPostProcessorParameters(PostProcessorParameters):
    """A mutex watershed with its own bias for short and for long offsets, and a linkage of what it made."""

    bias: float = 0.5
    """Affinity above which direct neighbours attract each other."""
    bias_long: float | None = None
    """The same for longer offsets; `bias` if left out."""
    min_size: int = 0
    """Fragments of fewer voxels join their best neighbour."""
    link: float = 1.0
    """Objects with a higher mean affinity across their border become one; 1 = none."""
    context: Voxels = Coordinate((32, 32, 32))
    """Voxels around a block that are segmented with it."""

    @property
    def parameter_names(self) -> list[str]:
        return ["id", "bias", "bias_long", "min_size", "link"]


class WatershedPostProcessor(PostProcessor):
    """Mutex watershed (Wolf et al., ECCV 2018) on affinities, then agglomeration by mean affinity.

    uint64 instances, 0 where nothing is left. Long offsets vote with a stride: their evidence is redundant,
    and it costs most of the time. The stride is counted from a block's corner: blocks and contexts of whole
    multiples look at the same pairs as the whole volume.
    """

    def __init__(
        self,
        neighborhood: Sequence[Sequence[int]],
        biases: Sequence[float] = (0.3, 0.4, 0.5),
        long_biases: Sequence[float] = (0.6, 0.7, 0.8),
        links: Sequence[float] = (0.7, 1.0),
        min_size: int = 50,
        context: int = 32,
        long_stride: int = 2,
    ) -> None:
        if not biases or not long_biases or not links:
            raise ConfigError("biases: at least one short and one long bias and one link are needed")
        self.neighborhood = [tuple(int(v) for v in n) for n in neighborhood]
        self.biases, self.long_biases, self.links = tuple(biases), tuple(long_biases), tuple(links)
        self.min_size = min_size
        self.block_context: int = context
        self.long_stride = long_stride

    def output(self, channels: int) -> tuple[int | None, str]:
        return None, "uint64"

    @property
    def has_long(self) -> bool:
        return any(max(abs(v) for v in n) > 1 for n in self.neighborhood)

    def enumerate_parameters(self) -> Iterator[WatershedPostProcessorParameters]:
        long: Sequence[float | None] = self.long_biases if self.has_long else (None,)
        # Links vary fastest: they share the watershed.
        context = Coordinate((self.block_context,) * len(self.neighborhood[0]))
        for i, (short, far, link) in enumerate(itertools.product(self.biases, long, self.links)):
            yield WatershedPostProcessorParameters(
                id=i, bias=short, bias_long=far, link=link, min_size=self.min_size, context=context
            )

    def process(self, prediction: np.ndarray, parameters: WatershedPostProcessorParameters) -> np.ndarray:
        return next(self.process_all(prediction, [parameters]))

    def prepared(self, prediction: np.ndarray) -> Any:
        """The pairs of voxels, sorted once for all biases."""
        from dacapo.ops.watershed import VoxelPairs, long_strides

        return VoxelPairs(prediction, self.neighborhood, long_strides(self.neighborhood, self.long_stride))

    def groups(
        self, parameters: Sequence[WatershedPostProcessorParameters]
    ) -> list[list[WatershedPostProcessorParameters]]:
        """One watershed each: the same biases and size."""
        grouped = itertools.groupby(parameters, lambda one: (one.bias, _bias_long(one), one.min_size))
        return [list(group) for _, group in grouped]

    def process_group(self, prepared: Any, group: Sequence[WatershedPostProcessorParameters]) -> Iterator[np.ndarray]:
        from dacapo.ops.agglomeration import link_at
        from dacapo.ops.watershed import short_long_bias

        first = group[0]
        biases = short_long_bias(self.neighborhood, first.bias, _bias_long(first))
        fragments = prepared.segment(biases, first.min_size)
        links = [one.link for one in group if one.link < 1]
        linked = link_at(fragments, prepared.affinities, self.neighborhood, links)
        for one in group:
            yield next(linked) if one.link < 1 else fragments

    def block_function(self, parameters: WatershedPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        return "dacapo.experiments.tasks.post_processors:watershed_block", {
            "neighborhood": [list(n) for n in self.neighborhood],
            "bias": parameters.bias,
            "bias_long": _bias_long(parameters),
            "min_size": parameters.min_size,
            "link": parameters.link,
            "long_stride": self.long_stride,
        }


def _bias_long(parameters: WatershedPostProcessorParameters) -> float:
    return parameters.bias if parameters.bias_long is None else parameters.bias_long


def watershed_block(prediction: np.ndarray, link: float, **settings: Any) -> np.ndarray:
    """What `WatershedPostProcessor` does, as a plain function of a block (C, *spatial) and JSON parameters."""
    from dacapo.ops.agglomeration import link_objects
    from dacapo.ops.watershed import segment_affinities

    fragments = segment_affinities(prediction, **settings)
    return link_objects(fragments, prediction, settings["neighborhood"], link) if link < 1 else fragments
