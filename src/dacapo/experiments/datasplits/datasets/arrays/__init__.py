"""Arrays as an experiment names them: configs that open a lazy `dacapo.arrays.Array`.

A string stands for the config of whatever lies at that path; see `ArrayConfig.shorthand`.
"""

from dacapo.experiments.datasplits.datasets.arrays.array_config import ArrayConfig, split_path
from dacapo.experiments.datasplits.datasets.arrays.files import (
    DummyArrayConfig,
    DVIDArrayConfig,
    HDF5ArrayConfig,
    TiffArrayConfig,
    ZarrArrayConfig,
)
from dacapo.experiments.datasplits.datasets.arrays.labels import (
    BinarizeArrayConfig,
    LogicalOrArrayConfig,
    MergeInstancesArrayConfig,
    MissingAnnotationsMaskConfig,
)
from dacapo.experiments.datasplits.datasets.arrays.treatments import (
    ConcatArrayConfig,
    ConstantArrayConfig,
    CropArrayConfig,
    IntensitiesArrayConfig,
    OnesArrayConfig,
    ResampledArrayConfig,
    SumArrayConfig,
    WorldRoi,
)

__all__ = [
    "ArrayConfig",
    "BinarizeArrayConfig",
    "ConcatArrayConfig",
    "ConstantArrayConfig",
    "CropArrayConfig",
    "DVIDArrayConfig",
    "DummyArrayConfig",
    "HDF5ArrayConfig",
    "IntensitiesArrayConfig",
    "LogicalOrArrayConfig",
    "MergeInstancesArrayConfig",
    "MissingAnnotationsMaskConfig",
    "OnesArrayConfig",
    "ResampledArrayConfig",
    "SumArrayConfig",
    "TiffArrayConfig",
    "WorldRoi",
    "ZarrArrayConfig",
    "split_path",
]
