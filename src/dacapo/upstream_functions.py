"""Upstream's helper functions of dacapo.utils, over ours. May import everything; `upstream_paths` serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np


def seg_to_affgraph(seg: np.ndarray, neighborhood: Sequence[Sequence[int]]) -> np.ndarray:
    """Affinities of a segmentation: uint8 (offsets, *spatial); 0 where the other voxel is outside."""
    from dacapo.ops.affinities import affinities

    return affinities(seg, neighborhood)[0]


def padding(
    neighborhood: Sequence[Sequence[int]], voxel_size: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How far offsets reach below and above, in world units; both as lengths of 0 or more."""
    axes = range(len(voxel_size))
    below = tuple(float(max(0, *(-n[d] for n in neighborhood)) * voxel_size[d]) for d in axes)
    above = tuple(float(max(0, *(n[d] for n in neighborhood)) * voxel_size[d]) for d in axes)
    return below, above


def balance_weights(
    label_data: np.ndarray, num_classes: int, masks: Sequence[np.ndarray] = (), slab: Sequence[int] | None = None,
    clipmin: float = 0.05, clipmax: float = 0.95, moving_counts: Any = None,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """Weights with which all classes 0..num_classes - 1 count alike, in each slab (-1 = the whole axis) by itself.

    A class weighs 1 / (num_classes * its share, clipped), times the masks; where they are 0 nothing is counted.
    Counts do not move: a sample does not depend on those before it.
    """
    labels = np.asarray(label_data)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"label_data has ids {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}")
    factors = np.ones(labels.shape, np.float32)
    for mask in masks:
        factors *= np.asarray(mask)
    known = factors != 0
    sizes = [n if s == -1 else s for s, n in zip(slab or (-1,) * labels.ndim, labels.shape, strict=True)]
    weights = np.zeros(labels.shape, np.float32)
    for start in np.ndindex(*(-(-n // s) for n, s in zip(labels.shape, sizes, strict=True))):
        part = tuple(slice(i * s, (i + 1) * s) for i, s in zip(start, sizes, strict=True))
        counts = np.bincount(labels[part][known[part]].ravel().astype(np.int64), minlength=num_classes)
        shares = np.clip(counts / max(1, counts.sum()), clipmin, clipmax)
        weights[part] = (1 / (num_classes * shares))[labels[part].astype(np.int64)] * factors[part]
    return weights, moving_counts


def voi(
    reconstruction: np.ndarray, groundtruth: np.ndarray, ignore_groundtruth: Sequence[int] = ()
) -> tuple[float, float]:
    """VOI split and merge in bits; background counts as an object unless it is ignored."""
    from dacapo.ops.metrics import contingency

    return contingency(reconstruction, groundtruth).voi(ignore_truth=ignore_groundtruth)


class NoSuchModule:
    """Stands for a package that is not installed; any use says so."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, item: str) -> NoReturn:
        raise ImportError(f"{self._name} is not installed, so there is no {self._name}.{item}")
