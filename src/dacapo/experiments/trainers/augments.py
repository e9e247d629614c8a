"""Augmentations, as configs: how a training sample is turned, bent, and lit.

`spatial` ones decide where a sample's voxels are read from; the others change raw. All draw from the
sample's own random numbers. May import `ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from dacapo.config import Config

if TYPE_CHECKING:
    from dacapo.ops.warp import Transform


class AugmentConfig(Config):
    """One augmentation. What it does not override it leaves alone."""

    kind: ClassVar[str] = "augment"
    bends: ClassVar[bool] = False
    """Whether it samples at other places than voxels; a sample is interpolated once."""

    def change_raw(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Raw (C, *spatial) float32, changed; the same voxels."""
        return raw

    def flip(self, rng: np.random.Generator, swappable: Sequence[Sequence[int]]) -> tuple[list[int], list[bool]] | None:
        """Axis order and mirrored axes, exact on the voxel grid; `swappable` are the groups of like axes."""
        return None

    def bend(self, rng: np.random.Generator, voxel_size: Sequence[float]) -> Transform | None:
        """A smooth deformation, sampled by interpolation."""
        return None


class SimpleAugmentConfig(AugmentConfig):
    """Mirror and transpose: all symmetries of the voxel grid.

    Axes are exchanged only where voxel size and crop are the same on both.
    """

    augmentation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the samples it is applied to."""

    def flip(self, rng: np.random.Generator, swappable: Sequence[Sequence[int]]) -> tuple[list[int], list[bool]] | None:
        dims = sum(len(group) for group in swappable)
        applied = rng.random() < self.augmentation_probability
        order = list(range(dims))
        for group in swappable:
            for target, source in zip(group, rng.permutation(list(group)), strict=True):
                order[target] = int(source)
        mirrored = [bool(v) for v in rng.random(dims) < 0.5]
        return (order, mirrored) if applied else None


class ElasticAugmentConfig(AugmentConfig):
    """Elastic deformation and rotation, linear for raw and nearest for labels."""

    bends: ClassVar[bool] = True
    control_point_spacing: tuple[float, ...]
    """Voxels (of raw) between the control points, per axis."""
    control_point_displacement_sigma: tuple[float, ...]
    """Standard deviation of a control point's displacement, per axis, in world units."""
    rotation_interval: tuple[float, float] = (0.0, 0.0)
    """Angles (radians) to rotate by, in the plane of the last two axes."""
    subsample: int = Field(default=1, ge=1)
    """Kept for files of upstream: the deformation is always evaluated on the fly."""
    uniform_3d_rotation: bool = False
    """Rotate by any rotation in space instead."""
    augmentation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the samples it is applied to."""

    @field_validator("control_point_spacing")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 0:
            raise ValueError(f"expected positive numbers of voxels, got {list(values)}")
        return values

    @model_validator(mode="after")
    def _lengths(self) -> ElasticAugmentConfig:
        if len(self.control_point_spacing) != len(self.control_point_displacement_sigma):
            raise ValueError("control_point_spacing and control_point_displacement_sigma need one number per axis each")
        if min(self.control_point_displacement_sigma) < 0:
            raise ValueError("control_point_displacement_sigma must not be negative")
        if self.rotation_interval[0] > self.rotation_interval[1]:
            raise ValueError(f"rotation_interval is upside down: {self.rotation_interval}")
        return self

    def bend(self, rng: np.random.Generator, voxel_size: Sequence[float]) -> Transform | None:
        from dacapo.ops.warp import sample_transform

        if rng.random() >= self.augmentation_probability:
            return None
        spacing = [s * v for s, v in zip(self.control_point_spacing, voxel_size, strict=True)]
        return sample_transform(
            rng,
            control_point_spacing=spacing,
            jitter_sigma=self.control_point_displacement_sigma,
            rotation_interval=self.rotation_interval,
            uniform_3d_rotation=self.uniform_3d_rotation,
        )


class IntensityAugmentConfig(AugmentConfig):
    """raw * scale + shift around the crop's mean, with a scale and shift per sample."""

    scale: tuple[float, float]
    """Lowest and highest factor."""
    shift: tuple[float, float]
    """Lowest and highest summand, on raw's scale of 0 to 1."""
    clip: bool = True
    """Clip the result to [0, 1]."""
    augmentation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the samples it is applied to."""

    @field_validator("scale", "shift")
    @classmethod
    def _upright(cls, values: tuple[float, float]) -> tuple[float, float]:
        return _upright(values)

    def change_raw(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from dacapo.ops.intensity import scale_shift

        applied, scale, shift = rng.random(), rng.uniform(*self.scale), rng.uniform(*self.shift)
        if applied >= self.augmentation_probability:
            return raw
        mean = float(raw.mean())
        return scale_shift(raw, scale, shift + mean * (1 - scale), clip=self.clip)


class IntensityScaleShiftAugmentConfig(AugmentConfig):
    """raw * scale + shift, the same for all samples."""

    scale: float
    shift: float

    def change_raw(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from dacapo.ops.intensity import scale_shift

        return scale_shift(raw, self.scale, self.shift, clip=False)


class GammaAugmentConfig(AugmentConfig):
    """raw ** gamma; a range that is symmetric about 1 on a logarithmic scale darkens as often as it brightens."""

    gamma_range: tuple[float, float] = (0.5, 2.0)
    """Lowest and highest exponent; drawn uniformly on a logarithmic scale."""
    augmentation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the samples it is applied to."""

    @field_validator("gamma_range")
    @classmethod
    def _range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[0] <= 0:
            raise ValueError(f"exponents must be positive, got {list(values)}")
        return _upright(values)

    def change_raw(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from dacapo.ops.intensity import gamma

        applied, exponent = rng.random(), np.exp(rng.uniform(*np.log(self.gamma_range)))
        return gamma(raw, float(exponent)) if applied < self.augmentation_probability else raw


class NoiseAugmentConfig(AugmentConfig):
    """Gaussian noise of a strength drawn per sample."""

    positional: ClassVar[tuple[str, ...]] = ("kwargs", "sigma", "augmentation_probability")
    sigma: tuple[float, float] = (0.0, 0.05)
    """Lowest and highest standard deviation, on raw's scale of 0 to 1."""
    augmentation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the samples it is applied to."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Kept for files of upstream: "var" (a standard deviation of sqrt(var) instead of `sigma`), "mean", "clip" (to
    [0, 1]) and "mode": "gaussian"."""

    @field_validator("kwargs")
    @classmethod
    def _gaussian(cls, given: dict[str, Any]) -> dict[str, Any]:
        unknown = set(given) - {"mode", "var", "mean", "clip"}
        if unknown or given.get("mode", "gaussian") != "gaussian":
            raise ValueError(f"only gaussian noise is known, with var, mean and clip; got {given}")
        if not 0 <= float(given.get("var", 0)) < np.inf:
            raise ValueError(f"var is a variance, expected 0 or more, got {given['var']}")
        return given

    @field_validator("sigma")
    @classmethod
    def _range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[0] < 0:
            raise ValueError(f"a standard deviation is not negative, got {list(values)}")
        return _upright(values)

    def change_raw(self, raw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from dacapo.ops.intensity import gaussian_noise

        low, high = (float(np.sqrt(self.kwargs["var"])),) * 2 if "var" in self.kwargs else self.sigma
        applied, sigma = rng.random(), rng.uniform(low, high)
        if applied >= self.augmentation_probability:
            return raw
        noisy = gaussian_noise(raw, rng, sigma) + np.float32(self.kwargs.get("mean", 0))
        return noisy.clip(0, 1) if self.kwargs.get("clip") else noisy


def _upright(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"the range is upside down: {list(values)}")
    return values
