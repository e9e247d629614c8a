"""What data: datasplits of datasets of arrays."""

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
    "DummyDataSplit",
    "DummyDataSplitConfig",
    "SimpleDataSplitConfig",
    "TrainValidateDataSplit",
    "TrainValidateDataSplitConfig",
]
