"""Mean-affinity agglomeration against a slow, obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.errors import GeometryError
from dacapo.ops.agglomeration import link_objects
from dacapo.ops.metrics import contingency

OFFSETS = [(1, 0), (0, 1), (0, 3)]


def slow(labels: np.ndarray, affinities: np.ndarray, threshold: float) -> np.ndarray:
    """Merge the pair of highest mean until none exceeds the threshold; the means are computed anew each time."""
    labels = labels.astype(np.int64).copy()
    while True:
        sums: dict[tuple[int, int], list[float]] = {}
        for channel, (dy, dx) in enumerate(OFFSETS):
            for y in range(labels.shape[0] - dy):
                for x in range(labels.shape[1] - dx):
                    a, b = int(labels[y, x]), int(labels[y + dy, x + dx])
                    if a != b and a and b:
                        sums.setdefault((min(a, b), max(a, b)), []).append(float(affinities[channel, y, x]))
        means = {pair: np.mean(v) for pair, v in sums.items()}
        best = max(means, key=lambda pair: means[pair], default=None)
        if best is None or means[best] <= threshold:
            return labels
        labels[labels == best[1]] = best[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.7]))
def test_equals_the_slow_one(seed: int, threshold: float) -> None:
    """The heap merges what merging one pair at a time merges, in random volumes."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.permutation(12).reshape(3, 4), np.ones((3, 3), int))
    affinities = rng.random((3, *labels.shape))
    found = link_objects(labels, affinities, OFFSETS, threshold)
    table = contingency(found, slow(labels, affinities, threshold))
    assert table.voi() == pytest.approx((0, 0), abs=1e-9)
    assert ((found == 0) == (labels == 0)).all()


def test_nothing_to_merge_stays() -> None:
    """Below the threshold every object stays, numbered from 1."""
    labels = np.repeat([[5, 5, 9, 9, 0]], 12, axis=0)
    affinities = np.full((3, *labels.shape), 0.2)
    assert set(np.unique(link_objects(labels, affinities, OFFSETS, 0.5))) == {0, 1, 2}


def test_shapes_that_do_not_fit_are_named() -> None:
    """Affinities of another volume are refused."""
    with pytest.raises(GeometryError, match="do not fit"):
        link_objects(np.ones((4, 4), int), np.ones((3, 5, 5)), OFFSETS, 0.5)
