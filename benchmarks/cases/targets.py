"""What a network learns from: signed distances, local shape descriptors, affinities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

SIZE = (8.0, 4.0, 4.0)
NEIGHBORHOOD = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 0], [0, 3, 0], [0, 0, 3], [9, 0, 0], [0, 9, 0], [0, 0, 9],
                [0, 0, 27], [0, 27, 0], [3, 9, 9]]  # fmt: skip
SIGMA = 80.0


def _lsds(name: str, what: str, cells: int) -> Case:
    return Case(
        name,
        f"Local shape descriptors of {what}",
        (
            Implementation("dacapo", "targets:lsd_dacapo"),
            Implementation(
                "lsds", "targets:lsd_lsds", "peers", "get_local_shape_descriptors, mode gaussian", warm_up=False
            ),
        ),
        (
            Bar("against lsds", against=("lsds",), least=50),
            Bar("mean error against lsds", measure="error:mean", most=1e-5),
        ),
        full={"size": 64, "cells": cells},
        quick={"size": 24, "cells": 4},
        prepare="targets:prepare",
        compare=True,
        note="64³ voxels of 8 × 4 × 4 nm, sigma 80 nm; compared voxel by voxel, lsds' channels in our order.",
    )


CASES = (
    Case(
        "distance",
        "Signed distance to the boundaries of 160³ labels",
        (
            Implementation("dacapo", "targets:distance_dacapo"),
            Implementation(
                "scipy, doubled grid",
                "targets:distance_scipy",
                note="boundaries drawn on a grid of 2n - 1 voxels, scipy's exact transform, every second voxel: what "
                "gunpowder-style pipelines do",
            ),
            Implementation(
                "edt, doubled grid", "targets:distance_edt_doubled", note="the same with the edt package's transform"
            ),
            Implementation(
                "edt, original grid",
                "targets:distance_edt",
                note="edt's multi-label pass: to the centre of the nearest voxel with another label, half a voxel farther",
            ),
        ),
        (
            Bar("values of the doubled grid, against scipy on it", against=("scipy, doubled grid",), least=3),
            Bar(
                "one multi-label pass on the original grid, against scipy on the doubled one",
                against=("scipy, doubled grid",),
                least=10,
            ),
        ),
        full={"size": 160, "cells": 400},
        quick={"size": 24, "cells": 6},
        prepare="targets:prepare",
        compare=True,
        note="Ours works on the original grid and gives the doubled grid's values exactly; the errors shown are against "
        "ours (nm; voxels of 8 × 4 × 4 nm), so that of scipy is how far we are off.",
    ),
    _lsds("lsd-small", "many small objects", 120),
    _lsds("lsd-large", "few large objects", 4),
    Case(
        "affinities",
        "Affinities of 160³ labels for 12 offsets",
        (
            Implementation("dacapo", "targets:affinities_dacapo", note="also says which pairs are known"),
            Implementation("gunpowder", "targets:affinities_gunpowder", "peers", "seg_to_affgraph: affinities alone"),
            Implementation(
                "gunpowder, with known",
                "targets:affinities_masked",
                "peers",
                "seg_to_affgraph of the labels and of a mask, as AddAffinities does where pairs are known or not",
            ),
        ),
        (
            Bar("against gunpowder", against=("gunpowder",), least=2),
            Bar(
                "memory beyond the labels, of gunpowder's for the same",
                measure="extra",
                against=("gunpowder, with known",),
                most=0.25,
            ),
        ),
        full={"size": 160, "cells": 400},
        quick={"size": 40, "cells": 6},
        prepare="targets:prepare",
        compare=True,
    ),
)


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks import data

    labels = data.cells((parameters["size"],) * 3, parameters["cells"], parameters["seed"])
    labels[labels % 9 == 1] = 0  # some background
    np.save(folder / "labels.npy", labels)


def _labels(folder: Path) -> np.ndarray:
    return np.load(folder / "labels.npy")


def _timed(function: Any) -> Any:
    def run(clock: Any) -> dict[str, Any]:
        result = function()
        clock.stop()
        return {"result": result, "mean": float(np.mean(result, dtype=np.float64))}

    return run


def distance_dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.ops.distances import signed_distance

    labels = _labels(folder)
    return _timed(lambda: signed_distance(labels, SIZE))


def _doubled(labels: np.ndarray) -> np.ndarray:
    """True on the grid of 2n - 1 voxels where two neighbours differ."""
    boundary = np.zeros([2 * n - 1 for n in labels.shape], bool)
    for axis in range(labels.ndim):
        at = tuple(slice(1 if a == axis else 0, None, 2) for a in range(labels.ndim))
        boundary[at] = np.diff(labels, axis=axis) != 0
    return boundary


def distance_scipy(parameters: dict[str, Any], folder: Path) -> Any:
    from scipy.ndimage import distance_transform_edt

    labels = _labels(folder)

    def made() -> np.ndarray:
        distance = distance_transform_edt(~_doubled(labels), sampling=[s / 2 for s in SIZE])[::2, ::2, ::2]
        return np.where(labels == 0, -distance, distance).astype(np.float32)

    return _timed(made)


def distance_edt_doubled(parameters: dict[str, Any], folder: Path) -> Any:
    from edt import edt

    labels = _labels(folder)

    def made() -> np.ndarray:
        distance = edt(~_doubled(labels), anisotropy=[s / 2 for s in SIZE], parallel=1)[::2, ::2, ::2]
        return np.where(labels == 0, -distance, distance).astype(np.float32)

    return _timed(made)


def distance_edt(parameters: dict[str, Any], folder: Path) -> Any:
    from edt import edt

    labels = _labels(folder)

    def made() -> np.ndarray:
        distance = edt(labels + np.uint64(1), anisotropy=SIZE, parallel=1)
        return np.where(labels == 0, -distance, distance).astype(np.float32)

    return _timed(made)


def lsd_dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.ops.lsd import local_shape_descriptors

    labels = _labels(folder)
    return _timed(lambda: local_shape_descriptors(labels, SIGMA, SIZE))


def lsd_lsds(parameters: dict[str, Any], folder: Path) -> Any:
    from lsd.train.local_shape_descriptor import get_local_shape_descriptors

    labels = _labels(folder)
    voxels = tuple(int(s) for s in SIZE)
    return _timed(lambda: get_local_shape_descriptors(labels, sigma=(SIGMA,) * 3, voxel_size=voxels))


def affinities_dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.ops.affinities import affinities

    labels = _labels(folder)
    return _timed(lambda: affinities(labels, NEIGHBORHOOD)[0])


def affinities_gunpowder(parameters: dict[str, Any], folder: Path) -> Any:
    from gunpowder.nodes.add_affinities import seg_to_affgraph

    labels = _labels(folder)
    return _timed(lambda: seg_to_affgraph(labels, NEIGHBORHOOD))


def affinities_masked(parameters: dict[str, Any], folder: Path) -> Any:
    from gunpowder.nodes.add_affinities import seg_to_affgraph

    labels = _labels(folder)
    mask = np.ones(labels.shape, np.int32)

    def made() -> np.ndarray:
        found = seg_to_affgraph(labels, NEIGHBORHOOD)
        known = seg_to_affgraph(mask, NEIGHBORHOOD)
        assert known.any()
        return found

    return _timed(made)
