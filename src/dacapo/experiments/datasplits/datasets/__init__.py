"""Datasets: raw, ground truth and mask that belong together."""

from dacapo.experiments.datasplits.datasets.datasets import (
    Dataset,
    DatasetConfig,
    DummyDataset,
    DummyDatasetConfig,
    RawGTDataset,
    RawGTDatasetConfig,
    SimpleDataset,
    SimpleDatasetConfig,
)

__all__ = [
    "Dataset",
    "DatasetConfig",
    "DummyDataset",
    "DummyDatasetConfig",
    "RawGTDataset",
    "RawGTDatasetConfig",
    "SimpleDataset",
    "SimpleDatasetConfig",
]
