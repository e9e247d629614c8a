"""Seeded volumes. Imports numpy and scipy; runs in both environments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cells(shape: Sequence[int], num: int, seed: int, coarse: int = 1) -> np.ndarray:
    """Voronoi cells 1..num (uint64) of random points, on a grid of voxels of `coarse` voxels a side."""
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng([seed, 1])
    small = tuple(-(-n // coarse) for n in shape)
    points = np.ones(small, bool)
    places = rng.choice(points.size, num, replace=False)
    points.flat[places] = False
    nearest = distance_transform_edt(points, return_distances=False, return_indices=True)
    ids = np.zeros(small, np.uint64)
    ids.flat[places] = np.arange(1, num + 1)
    labels = ids[tuple(nearest)]
    for axis in range(len(shape)):
        labels = np.repeat(labels, coarse, axis)
    return np.ascontiguousarray(labels[tuple(slice(0, n) for n in shape)])


def image(labels: np.ndarray, seed: int) -> np.ndarray:
    """Dark walls between bright cells, and noise: uint8."""
    rng = np.random.default_rng([seed, 2])
    wall = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        wall |= np.diff(labels, axis=axis, append=np.take(labels, [-1], axis)) != 0
    bright = np.where(wall, np.float32(60), np.float32(180))
    return (bright + 12 * rng.standard_normal(labels.shape, dtype=np.float32)).clip(0, 255).astype(np.uint8)


def noisy_affinities(labels: np.ndarray, offsets: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    """What a decent network might predict: the affinities of the labels, blurred, with smooth noise; float32 in [0, 1]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([seed, 3])
    made = np.empty((len(offsets), *labels.shape), np.float32)
    for channel, offset in zip(made, offsets, strict=True):
        moved = np.roll(labels, [-o for o in offset], range(labels.ndim))
        clean = (moved == labels).astype(np.float32)
        noise = gaussian_filter(rng.standard_normal(labels.shape, dtype=np.float32), 1.5)
        channel[:] = gaussian_filter(clean, 0.7) + 0.18 * noise / noise.std()
    return made.clip(0, 1, out=made)


def shifted(labels: np.ndarray, seed: int) -> np.ndarray:
    """A segmentation with wrong borders, some cells split in two and some merged."""
    rng = np.random.default_rng([seed, 4])
    number = int(labels.max()) + 1
    new = np.arange(number, dtype=np.uint64)
    merged = rng.choice(number - 1, number // 10, replace=False) + 1
    new[merged] = new[(merged % (number - 1)) + 1]
    result = new[np.roll(labels, (2, 1, -2)[: labels.ndim], range(labels.ndim))]
    half = labels.shape[0] // 2
    split = np.isin(result, rng.choice(number, number // 5, replace=False))
    result[half:][split[half:]] += np.uint64(number)
    return result
