"""What data: datasplits of datasets of arrays."""

from dacapo.experiments.datasplits.generator import DatasetSpec, DatasetType, DataSplitGenerator, SegmentationType
from dacapo.experiments.datasplits.splits import (
    DataSplit,
    DataSplitConfig,
    DummyDataSplit,
    DummyDataSplitConfig,
    SimpleDataSplitConfig,
    TrainValidateDataSplit,
    TrainValidateDataSplitConfig,
)

__all__ = [
    "DataSplit",
    "DataSplitConfig",
    "DataSplitGenerator",
    "DatasetSpec",
    "DatasetType",
    "DummyDataSplit",
    "DummyDataSplitConfig",
    "SegmentationType",
    "SimpleDataSplitConfig",
    "TrainValidateDataSplit",
    "TrainValidateDataSplitConfig",
]
