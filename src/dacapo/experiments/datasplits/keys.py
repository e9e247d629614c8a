"""Upstream's names for the arrays of a dataset. Imports nothing."""

from enum import Enum


class ArrayKey(Enum):
    """An array of a dataset."""

    RAW = "raw"
    GT = "gt"
    MASK = "mask"
    NON_EMPTY = "non_empty"


class GraphKey(Enum):
    """Points of a dataset."""

    SPECIFIED_LOCATIONS = "specified_locations"


DataKey = ArrayKey | GraphKey
