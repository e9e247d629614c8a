"""Evaluators, beside what test_tasks.py says of them."""

from __future__ import annotations

import numpy as np

from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluator, ClassEvaluator, InstanceEvaluator


def test_a_scorer_says_what_evaluate_says() -> None:
    """What many segmentations of one truth share changes no score, for any evaluator, with channels and masks."""
    rng = np.random.default_rng(0)
    truth, mask = rng.integers(0, 3, (6, 9, 8)), rng.random((6, 9, 8)) < 0.8
    size = (8.0, 4.0, 4.0)
    evaluators = [
        InstanceEvaluator(),
        BinarySegmentationEvaluator(20, 6, ["a"]),
        ClassEvaluator(20, 6, ["x", "a", "b"]),
    ]
    for evaluator in evaluators:
        score = evaluator.scorer(truth, size, mask)
        for seed in range(3):
            found = np.random.default_rng(seed).integers(0, 3, truth.shape)
            expected = evaluator.evaluate(found, truth, size, mask).values()
            np.testing.assert_allclose(score(found).values(), expected, rtol=1e-6)
    two = BinarySegmentationEvaluator(20, 6, ["a", "b"])
    both, found = np.stack([truth == 1, truth == 2]), rng.random((2, 6, 9, 8)) < 0.3
    np.testing.assert_allclose(
        two.scorer(both, size)(found).values(), two.evaluate(found, both, size).values(), rtol=1e-6
    )
