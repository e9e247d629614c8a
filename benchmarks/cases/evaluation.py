"""How good a segmentation is: instance metrics of a pair of label volumes, and binary criteria."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

SIZE = (8.0, 4.0, 4.0)
TOLERANCE, CLIP = 40.0, 200.0

INSTANCES = (
    Implementation("dacapo", "evaluation:dacapo", note="all eight instance metrics"),
    Implementation(
        "sparse tables of scipy",
        "evaluation:upstream",
        note="VOI alone, as upstream computes it: ids + 1, a sparse table, margins as large as the largest id",
    ),
    Implementation(
        "scikit-image",
        "evaluation:scikit",
        "peers",
        "variation_of_information and adapted_rand_error",
    ),
)

CASES = (
    Case(
        "evaluation",
        "Instance metrics of a pair of 256³ volumes",
        INSTANCES,
        (
            Bar("against upstream's VOI alone", against=("sparse tables of scipy",), least=30),
            Bar("against scikit-image's two metrics", against=("scikit-image",), least=10),
        ),
        full={"size": 256, "cells": 1000},
        quick={"size": 32, "cells": 12},
        prepare="evaluation:prepare",
        note="The check is the VOI in bits.",
    ),
    Case(
        "evaluation-random",
        "The worst case: random labels",
        INSTANCES,
        (
            Bar("against upstream's VOI alone", against=("sparse tables of scipy",), least=1),
            Bar("against scikit-image's two metrics", against=("scikit-image",), least=1),
        ),
        full={"size": 160, "labels": 2000},
        quick={"size": 32, "labels": 100},
        prepare="evaluation:prepare_random",
        note="160³ voxels, each with one of 2000 labels at random in both volumes: about as many pairs as voxels. The bar "
        "is a floor.",
    ),
    Case(
        "evaluation-binary",
        "The 21 binary criteria of a pair of 160³ masks",
        (
            Implementation("dacapo", "evaluation:binary_dacapo"),
            Implementation(
                "SimpleITK and scipy",
                "evaluation:binary_itk",
                "peers",
                "overlap and Hausdorff filters of SimpleITK, scipy's distance transforms of both masks, VOI of a 2 × 2 table",
            ),
        ),
        (Bar("against SimpleITK and scipy", against=("SimpleITK and scipy",), least=5),),
        full={"size": 160, "cells": 200},
        quick={"size": 32, "cells": 8},
        prepare="evaluation:prepare",
        note="Voxels of 8 × 4 × 4 nm, spacing in the right order on both sides.",
    ),
)


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks import data

    truth = data.cells((parameters["size"],) * 3, parameters["cells"], parameters["seed"], coarse=2)
    np.save(folder / "truth.npy", truth)
    np.save(folder / "found.npy", data.shifted(truth, parameters["seed"]))


def prepare_random(parameters: dict[str, Any], folder: Path) -> None:
    rng = np.random.default_rng(parameters["seed"])
    for name in ("truth", "found"):
        labels = rng.integers(1, parameters["labels"] + 1, (parameters["size"],) * 3, dtype=np.uint64)
        np.save(folder / f"{name}.npy", labels)


def _pair(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "found.npy"), np.load(folder / "truth.npy")


def dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.experiments.tasks.evaluators import InstanceEvaluator

    found, truth = _pair(folder)
    evaluator = InstanceEvaluator()

    def run(clock: Any) -> dict[str, float]:
        scores = evaluator.evaluate(found, truth, SIZE)
        return {"voi": scores.voi, "adapted Rand error": scores.adapted_rand_error}

    return run


def upstream(parameters: dict[str, Any], folder: Path) -> Any:
    from scipy import sparse

    found, truth = _pair(folder)

    def scaled(margin: np.ndarray) -> Any:
        """A diagonal matrix of 1 / margin, as large as the largest id."""
        return sparse.diags(np.divide(1, margin, where=margin > 0, out=np.zeros_like(margin)))

    def information(table: Any) -> Any:
        """-p log2 p of every entry."""
        logs = table.copy()
        logs.data = -logs.data * np.log2(logs.data)
        return logs

    def run(clock: Any) -> dict[str, float]:
        a, b = (x.ravel().astype(np.int64) + 1 for x in (found, truth))
        joint = sparse.coo_matrix((np.full(a.size, 1 / a.size), (a, b))).tocsr()
        of_a, of_b = (np.asarray(joint.sum(axis=axis)).ravel() for axis in (1, 0))
        merge = of_a @ np.asarray(information(scaled(of_a) @ joint).sum(axis=1)).ravel()
        split = np.asarray(information(joint @ scaled(of_b)).sum(axis=0)).ravel() @ of_b
        return {"voi": float(split + merge)}

    return run


def scikit(parameters: dict[str, Any], folder: Path) -> Any:
    from skimage.metrics import adapted_rand_error, variation_of_information

    found, truth = (x.astype(np.int64) for x in _pair(folder))

    def run(clock: Any) -> dict[str, float]:
        split_and_merge = variation_of_information(truth, found)
        return {"voi": float(sum(split_and_merge)), "adapted Rand error": float(adapted_rand_error(truth, found)[0])}

    return run


def _masks(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Half of the cells; a third of those that were found are others."""
    found, truth = _pair(folder)
    return found % 2 == 0, truth % 2 == 0


def binary_dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluator

    found, truth = _masks(folder)
    evaluator = BinarySegmentationEvaluator(CLIP, TOLERANCE, ["all"])

    def run(clock: Any) -> dict[str, float]:
        scores = evaluator.evaluate(found[None], truth[None], SIZE)
        names = ("dice", "hausdorff", "mean_false_distance", "f1_score_with_tolerance")
        return {name: scores.value(name) for name in names}

    return run


def binary_itk(parameters: dict[str, Any], folder: Path) -> Any:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(parameters["threads"])
    found, truth = _masks(folder)

    def run(clock: Any) -> dict[str, float]:
        return _binary_scores(sitk, found, truth)

    return run


def _binary_scores(sitk: Any, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from scipy.ndimage import distance_transform_edt

    images = [sitk.GetImageFromArray(x.astype(np.uint8)) for x in (truth, found)]
    for image in images:
        image.SetSpacing(SIZE[::-1])
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    to_found, to_truth = (distance_transform_edt(~x, sampling=SIZE) for x in (found, truth))
    negative, positive = to_found[truth], to_truth[found]
    both, real, claimed = (np.count_nonzero(x) for x in (found & truth, truth, found))
    total = truth.size
    far_missed, far_invented = (np.count_nonzero(d > TOLERANCE) for d in (negative, positive))
    near = np.count_nonzero(found | truth) - far_missed - far_invented
    precision, recall = both / claimed, both / real
    soft_precision, soft_recall = near / (near + far_invented), near / (near + far_missed)
    clipped = [np.minimum(d, CLIP).mean() for d in (negative, positive)]
    cells = np.array([[total - real - claimed + both, real - both], [claimed - both, both]]) / total
    joint = cells[cells > 0]
    entropy = -(joint * np.log2(joint)).sum()
    margins = [-(m[m > 0] * np.log2(m[m > 0])).sum() for m in (cells.sum(0), cells.sum(1))]
    scores = {
        "dice": overlap.GetDiceCoefficient(),
        "jaccard": overlap.GetJaccardCoefficient(),
        "hausdorff": hausdorff.GetHausdorffDistance(),
        "false_negative_rate": overlap.GetFalseNegativeError(),
        "false_negative_rate_with_tolerance": far_missed / real,
        "false_positive_rate": (claimed - both) / (total - real),
        "false_discovery_rate": (claimed - both) / claimed,
        "false_positive_rate_with_tolerance": far_invented / (total - real),
        "voi": 2 * entropy - sum(margins),
        "mean_false_distance": (negative.mean() + positive.mean()) / 2,
        "mean_false_negative_distance": negative.mean(),
        "mean_false_positive_distance": positive.mean(),
        "mean_false_distance_clipped": sum(clipped) / 2,
        "mean_false_negative_distance_clipped": clipped[0],
        "mean_false_positive_distance_clipped": clipped[1],
        "precision_with_tolerance": soft_precision,
        "recall_with_tolerance": soft_recall,
        "f1_score_with_tolerance": 2 * soft_precision * soft_recall / (soft_precision + soft_recall),
        "precision": precision,
        "recall": recall,
        "f1_score": 2 * precision * recall / (precision + recall),
    }
    assert len(scores) == 21
    assert all(math.isfinite(v) for v in scores.values())
    names = ("dice", "hausdorff", "mean_false_distance", "f1_score_with_tolerance")
    return {name: float(scores[name]) for name in names}
