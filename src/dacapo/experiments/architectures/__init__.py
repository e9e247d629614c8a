"""Which network: configs that build a `torch.nn.Module` and know its shapes. No torch until one is built."""

from dacapo.experiments.architectures.architecture import (
    Architecture,
    ArchitectureConfig,
    DummyArchitectureConfig,
)
from dacapo.experiments.architectures.model_zoo import ModelZooConfig
from dacapo.experiments.architectures.residual_unet import ResidualEncoderUNetConfig
from dacapo.experiments.architectures.unet import CNNectomeUNetConfig
from dacapo.experiments.architectures.wrapped import WrappedArchitectureConfig

__all__ = [
    "Architecture",
    "ArchitectureConfig",
    "CNNectomeUNetConfig",
    "DummyArchitectureConfig",
    "ModelZooConfig",
    "ResidualEncoderUNetConfig",
    "WrappedArchitectureConfig",
]
