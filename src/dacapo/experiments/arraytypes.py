"""What the values of an array mean, and so whether a value between two of them means something. Imports nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ArrayType:
    """Base of the kinds of arrays."""

    interpolatable: ClassVar[bool]
    """Whether linear interpolation between values makes sense."""


@dataclass(frozen=True)
class AnnotationArray(ArrayType):
    """Ids of classes or objects."""

    classes: Mapping[int, str]
    interpolatable: ClassVar[bool] = False


@dataclass(frozen=True)
class IntensitiesArray(ArrayType):
    """Raw intensities between `min` and `max`."""

    channels: Mapping[int, str]
    min: float
    max: float
    interpolatable: ClassVar[bool] = True


@dataclass(frozen=True)
class DistanceArray(ArrayType):
    """Signed distances to boundaries, a channel a class."""

    classes: Sequence[str]
    interpolatable: ClassVar[bool] = True


@dataclass(frozen=True)
class Mask(ArrayType):
    """0 = ignore."""

    interpolatable: ClassVar[bool] = False


@dataclass(frozen=True)
class BinaryArray(ArrayType):
    """Yes or no, a channel a class."""

    channels: Mapping[int, str]
    interpolatable: ClassVar[bool] = False


@dataclass(frozen=True)
class EmbeddingArray(ArrayType):
    """Embeddings of `embedding_dims` numbers."""

    embedding_dims: int
    interpolatable: ClassVar[bool] = True


@dataclass(frozen=True)
class ProbabilityArray(ArrayType):
    """Probabilities, a channel a class."""

    classes: Sequence[str]
    interpolatable: ClassVar[bool] = True
