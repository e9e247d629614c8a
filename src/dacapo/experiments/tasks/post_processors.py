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
        shown = "_".join(f"{n}{_shown(getattr(self, n))}" for n in self.parameter_names[1:])
        return f"{type(self).__name__.removesuffix('PostProcessorParameters').lower()}_{shown}".replace("/", "-")


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
        """The segmentation of each parameter set, in order; what neighbours in the list share is computed once."""
        for one in parameters:
            yield self.process(prediction, one)

    @abstractmethod
    def block_function(self, parameters: Any) -> tuple[str, dict[str, Any]]:
        """`module:function` and JSON parameters that segment one block of a prediction."""

    block_context: Coordinate | None = None
    """Voxels around a block that it wants to see; None: blocks are independent, nothing is stitched."""


class ThresholdPostProcessorParameters(PostProcessorParameters):
    """prediction > threshold."""

    threshold: float = 0.0
    """On the prediction's own scale."""


class ThresholdPostProcessor(PostProcessor):
    """Foreground where the prediction exceeds a threshold; uint8 0/1 with the prediction's channels."""

    def __init__(self, thresholds: Sequence[float] = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)) -> None:
        if not thresholds:
            raise ConfigError("thresholds: at least one is needed")
        self.thresholds = tuple(thresholds)

    def enumerate_parameters(self) -> Iterator[ThresholdPostProcessorParameters]:
        for i, threshold in enumerate(self.thresholds):
            yield ThresholdPostProcessorParameters(id=i, threshold=threshold)

    def process(self, prediction: np.ndarray, parameters: ThresholdPostProcessorParameters) -> np.ndarray:
        return (prediction > parameters.threshold).astype(np.uint8)

    def block_function(self, parameters: ThresholdPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        return "dacapo.ops.labels:threshold", {"threshold": parameters.threshold}


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
    and it costs most of the time.
    """

    long_stride = 2
    """Counted from a block's corner: blocks and contexts of whole multiples look at the same pairs as the whole volume."""

    def __init__(
        self,
        neighborhood: Sequence[Sequence[int]],
        biases: Sequence[float] = (0.3, 0.4, 0.5),
        long_biases: Sequence[float] = (0.6, 0.7, 0.8),
        links: Sequence[float] = (0.7, 1.0),
        min_size: int = 50,
        context: int = 32,
    ) -> None:
        if not biases or not long_biases or not links:
            raise ConfigError("biases: at least one short and one long bias and one link are needed")
        self.neighborhood = [tuple(int(v) for v in n) for n in neighborhood]
        self.biases, self.long_biases, self.links = tuple(biases), tuple(long_biases), tuple(links)
        self.min_size = min_size
        self.block_context = Coordinate((context,) * len(self.neighborhood[0]))

    @property
    def has_long(self) -> bool:
        return any(max(abs(v) for v in n) > 1 for n in self.neighborhood)

    def enumerate_parameters(self) -> Iterator[WatershedPostProcessorParameters]:
        long: Sequence[float | None] = self.long_biases if self.has_long else (None,)
        # Links vary fastest: they share the watershed.
        for i, (short, far, link) in enumerate(itertools.product(self.biases, long, self.links)):
            yield WatershedPostProcessorParameters(
                id=i, bias=short, bias_long=far, link=link, min_size=self.min_size, context=self.block_context
            )

    def process(self, prediction: np.ndarray, parameters: WatershedPostProcessorParameters) -> np.ndarray:
        return next(self.process_all(prediction, [parameters]))

    def process_all(
        self, prediction: np.ndarray, parameters: Sequence[WatershedPostProcessorParameters]
    ) -> Iterator[np.ndarray]:
        from dacapo.ops.agglomeration import link_objects
        from dacapo.ops.watershed import segment_affinities

        fragments, made_with = None, None
        for one in parameters:
            settings = self.block_function(one)[1]
            link = settings.pop("link")
            if fragments is None or settings != made_with:
                fragments, made_with = segment_affinities(prediction, **settings), settings
            if link < 1:
                yield link_objects(fragments, prediction, self.neighborhood, link)
            else:
                yield fragments

    def block_function(self, parameters: WatershedPostProcessorParameters) -> tuple[str, dict[str, Any]]:
        long = parameters.bias if parameters.bias_long is None else parameters.bias_long
        return "dacapo.experiments.tasks.post_processors:watershed_block", {
            "neighborhood": [list(n) for n in self.neighborhood],
            "bias": parameters.bias,
            "bias_long": long,
            "min_size": parameters.min_size,
            "link": parameters.link,
            "long_stride": self.long_stride,
        }


def watershed_block(prediction: np.ndarray, link: float, **settings: Any) -> np.ndarray:
    """What `WatershedPostProcessor` does, as a plain function of a block (C, *spatial) and JSON parameters."""
    from dacapo.ops.agglomeration import link_objects
    from dacapo.ops.watershed import segment_affinities

    fragments = segment_affinities(prediction, **settings)
    return link_objects(fragments, prediction, settings["neighborhood"], link) if link < 1 else fragments
