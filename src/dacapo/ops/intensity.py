"""Changes of brightness: pure functions of float32 images. Imports errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError


def scale_shift(
    raw: NDArray[np.floating] | NDArray[np.integer], scale: float, shift: float, *, clip: bool = False
) -> NDArray[np.float32]:
    """raw * scale + shift as float32 of the same shape; with `clip`, values end at 0 and 1."""
    out = np.multiply(raw, np.float32(scale), dtype=np.float32)
    out += np.float32(shift)
    return np.clip(out, 0, 1, out=out) if clip else out


def gamma(raw: NDArray[np.floating] | NDArray[np.integer], exponent: float) -> NDArray[np.float32]:
    """|raw| ** exponent with the sign of raw, as float32 of the same shape: 0 and 1 stay as they are.

    Raises
    ------
    GeometryError
        If the exponent is not positive.
    """
    if not 0 < exponent < float("inf"):
        raise GeometryError(f"the exponent of gamma is {exponent}, expected a positive number")
    raw = np.asarray(raw, np.float32)
    out = np.abs(raw)
    np.power(out, np.float32(exponent), out=out)
    return np.copysign(out, raw, out=out)


def gaussian_noise(
    raw: NDArray[np.floating] | NDArray[np.integer], rng: np.random.Generator, sigma: float
) -> NDArray[np.float32]:
    """raw plus independent normal noise of standard deviation `sigma`, as float32 of the same shape.

    As many numbers are drawn for any sigma, 0 included.

    Raises
    ------
    GeometryError
        If sigma is negative.
    """
    if not 0 <= sigma < float("inf"):
        raise GeometryError(f"the standard deviation of noise is {sigma}, expected a number that is not negative")
    noise = rng.standard_normal(np.shape(raw), dtype=np.float32)
    noise *= np.float32(sigma)
    noise += raw
    return noise
