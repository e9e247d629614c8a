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
from dacapo.experiments.trainers.trainer import GunpowderTrainerConfig, TrainerConfig

__all__ = [
    "AugmentConfig",
    "ElasticAugmentConfig",
    "GammaAugmentConfig",
    "GunpowderTrainerConfig",
    "IntensityAugmentConfig",
    "IntensityScaleShiftAugmentConfig",
    "NoiseAugmentConfig",
    "SimpleAugmentConfig",
    "TrainerConfig",
]
