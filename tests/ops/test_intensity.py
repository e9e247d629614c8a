"""Brightness changes against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from dacapo.errors import GeometryError
from dacapo.ops.intensity import gamma, gaussian_noise, scale_shift


@pytest.fixture
def raw():
    return np.random.default_rng(0).random((2, 5, 6, 7), np.float32)


def test_scale_and_shift(raw):
    """raw * scale + shift, clipped to [0, 1] on request only; the input is left alone."""
    before = raw.copy()
    found = scale_shift(raw, 2.0, -0.5, clip=False)
    np.testing.assert_allclose(found, before * 2 - 0.5, atol=1e-6)
    np.testing.assert_array_equal(scale_shift(raw, 2.0, -0.5, clip=True), np.clip(found, 0, 1))
    np.testing.assert_array_equal(scale_shift(raw, 1.0, 0.0), before)
    np.testing.assert_array_equal(raw, before)
    assert found.dtype == np.float32
    assert found.min() < 0 < 1 < found.max()


def test_whole_numbers_and_doubles_become_float32():
    """uint8 does not wrap around, and float64 does not stay."""
    raw = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(scale_shift(raw, 2, 1), [[1, 201, 511]])
    rng = np.random.default_rng(0)
    for data in (raw, raw.astype(float)):
        for found in (scale_shift(data, 2, 1), gamma(data, 0.5), gaussian_noise(data, rng, 1.0)):
            assert found.dtype == np.float32
            assert found.shape == raw.shape


def test_gamma_keeps_zero_one_and_signs(raw):
    """|x| ** g with the sign of x, so that it is odd, undone by 1 / g, and fixes -1, 0 and 1."""
    signed = raw * 2 - 1
    before = signed.copy()
    found = gamma(signed, 0.5)
    np.testing.assert_allclose(found, np.sign(signed) * np.abs(signed) ** 0.5, atol=1e-6)
    np.testing.assert_allclose(gamma(found, 2.0), signed, atol=1e-6)
    np.testing.assert_array_equal(gamma(np.array([-1, 0, 1], np.float32), 1.7), [-1, 0, 1])
    np.testing.assert_array_equal(signed, before)
    with pytest.raises(GeometryError, match="exponent"):
        gamma(raw, 0.0)


def test_noise_has_the_asked_spread_and_is_reproducible(raw):
    """Equal generators give equal noise of standard deviation sigma and mean 0; sigma 0 changes nothing."""
    before = raw.copy()
    big = np.zeros((1, 40, 40, 40), np.float32)
    found = gaussian_noise(big, np.random.default_rng(1), 0.2)
    np.testing.assert_array_equal(found, gaussian_noise(big, np.random.default_rng(1), 0.2))
    assert abs(found.std() - 0.2) < 2e-3
    assert abs(found.mean()) < 3e-3
    np.testing.assert_array_equal(gaussian_noise(raw, np.random.default_rng(1), 0.0), before)
    np.testing.assert_array_equal(raw, before)
    with pytest.raises(GeometryError, match="standard deviation"):
        gaussian_noise(raw, np.random.default_rng(1), -0.1)


def test_the_generator_moves_on_equally_for_any_sigma(raw):
    """What is drawn after the noise does not depend on its strength."""
    states = []
    for sigma in (0.0, 0.5):
        rng = np.random.default_rng(2)
        gaussian_noise(raw, rng, sigma)
        states.append(rng.random())
    assert states[0] == states[1]
