"""How to train: trainers and their augmentations."""

from dacapo.experiments.trainers.augments import (
    AugmentConfig,
    ElasticAugmentConfig,
    GammaAugmentConfig,
    IntensityAugmentConfig,
    IntensityScaleShiftAugmentConfig,
    NoiseAugmentConfig,
    SimpleAugmentConfig,
)
from dacapo.experiments.trainers.trainer import (
    DummyTrainerConfig,
    GunpowderTrainerConfig,
    Trainer,
    TrainerConfig,
)

__all__ = [
    "AugmentConfig",
    "DummyTrainerConfig",
    "ElasticAugmentConfig",
    "GammaAugmentConfig",
    "GunpowderTrainerConfig",
    "IntensityAugmentConfig",
    "IntensityScaleShiftAugmentConfig",
    "NoiseAugmentConfig",
    "SimpleAugmentConfig",
    "Trainer",
    "TrainerConfig",
]
