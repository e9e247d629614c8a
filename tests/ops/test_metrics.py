"""Scores against scikit-image, scipy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from skimage.metrics import adapted_rand_error, variation_of_information

from dacapo.errors import DataError, GeometryError
from dacapo.ops.metrics import F1_THRESHOLDS, binary_scores, contingency


def blobs(seed, shape=(12, 15, 18), count=12, dtype=np.int64):
    """Labels that differ a little from seed to seed: a Voronoi diagram of jittered points, with background."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    points = fixed.random((count, len(shape))) * shape + rng.normal(0, 1.0, (count, len(shape)))
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
    labels = cdist(where, points).argmin(1).reshape(shape)
    return labels.astype(dtype)  # one of them is 0


@pytest.mark.parametrize("dtypes", [(np.int64, np.uint64), (np.uint8, np.int16), (np.uint32, np.uint64)])
@pytest.mark.parametrize("masked", [False, True])
def test_table_counts_each_pair(dtypes, masked):
    """Every pair of ids is in the table once, with the number of its voxels."""
    a, b = (blobs(i, dtype=dtype) for i, dtype in enumerate(dtypes))
    mask = np.random.default_rng(0).random(a.shape) < 0.5 if masked else None
    table = contingency(a, b, mask)
    kept = mask if masked else np.ones(a.shape, bool)
    both = np.stack([b[kept].astype(np.uint64), a[kept].astype(np.uint64)])
    pairs, counts = np.unique(both, axis=1, return_counts=True)
    np.testing.assert_array_equal(table.truths, pairs[0])
    np.testing.assert_array_equal(table.segments, pairs[1])
    np.testing.assert_array_equal(table.counts, counts)


def test_ids_of_64_bits_and_more_pairs_than_the_first_table_holds():
    """Ids next to 2^64, all different, are counted one by one."""
    ids = np.uint64(2**64 - 1) - np.arange(40 * 500, dtype=np.uint64).reshape(40, 500)
    table = contingency(ids, ids[::-1])
    assert len(table.counts) == ids.size
    assert (table.counts == 1).all()
    assert set(table.segments.tolist()) == set(ids.ravel().tolist())
    assert all(table.truths == np.sort(ids.ravel()))


def test_refuses_what_it_cannot_count():
    """Negative ids, fractions and different shapes are refused; negative ids outside the mask do not matter."""
    a = np.array([[1, -1], [2, 3]])
    with pytest.raises(DataError, match="truth holds negative"):
        contingency(abs(a), a)
    contingency(abs(a), a, a > 0)
    with pytest.raises(DataError, match="float64"):
        contingency(a.astype(float), a)
    with pytest.raises(GeometryError, match="shape"):
        contingency(a, a[:1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ignored", [(), (0,), (0, 3)])
def test_voi_and_rand_agree_with_skimage(seed, ignored):
    """The same numbers as scikit-image's, with truth 0 ignored or not."""
    truth, segmentation = blobs(0), blobs(seed + 1, count=9 + seed)
    table = contingency(segmentation, truth)
    kept = ~np.isin(truth, ignored)
    expected = variation_of_information(truth[kept][None], segmentation[kept][None])
    np.testing.assert_allclose(table.voi(ignored), expected, atol=1e-12)
    rand = adapted_rand_error(truth, segmentation, ignore_labels=ignored)[0]
    assert table.adapted_rand_error(ignored) == pytest.approx(rand, abs=1e-12)


def test_halving_an_object_is_a_split_of_one_bit():
    """Split is H(segmentation | truth): halving gives 1 and no merge, the exchange of both sides the reverse."""
    truth = np.ones((4, 8), int)
    halves = np.repeat([[1, 2]], 4, axis=1).repeat(4, axis=0)
    assert contingency(halves, truth).voi() == (1.0, 0.0)
    assert contingency(truth, halves).voi() == (0.0, 1.0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 11), st.integers(0, 50))
def test_blocks_add_up(cut, seed):
    """Tables of two parts merge to the table of the whole."""
    a, b = blobs(seed), blobs(seed + 1)
    whole = contingency(a, b)
    parts = contingency(a[:cut], b[:cut]).merged(contingency(a[cut:], b[cut:]))
    for name in ("segments", "truths", "counts"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("seed", range(3))
def test_matching_agrees_with_brute_force(seed):
    """Objects, pairs above a threshold, F1, panoptic quality and average precision as in their definitions."""
    truth, segmentation = blobs(0), blobs(seed + 5)
    mask = np.random.default_rng(seed).random(truth.shape) < 0.9
    scores = contingency(segmentation, truth, mask).instance_scores()
    segmentation = np.where(mask & (truth > 0), segmentation, 0)
    truth = np.where(mask, truth, 0)
    true_ids, found_ids = np.unique(truth[truth > 0]), np.unique(segmentation[segmentation > 0])
    ious = np.array(
        [((truth == t) & (segmentation == s)).sum() / ((truth == t) | (segmentation == s)).sum()
         for t, s in itertools.product(true_ids, found_ids)]
    )  # fmt: skip
    precisions = []
    for threshold in F1_THRESHOLDS:
        tp = (ious > threshold).sum()
        wrong = len(true_ids) + len(found_ids) - 2 * tp
        assert scores[f"f1_{round(threshold * 100)}"] == pytest.approx(2 * tp / (2 * tp + wrong))
        precisions.append(tp / (tp + wrong))
    assert scores["average_precision"] == pytest.approx(np.mean(precisions))
    tp = (ious > 0.5).sum()
    assert scores["pq"] == pytest.approx(2 * ious[ious > 0.5].sum() / (len(true_ids) + len(found_ids)))
    assert scores["voi"] == scores["voi_split"] + scores["voi_merge"]


def test_false_objects_in_the_background_count_if_truth_0_is_background():
    """With ignore_truth=() an object where truth has none is a false positive; without, it does not exist."""
    truth, segmentation = np.zeros((2, 10, 10), int)
    truth[2:5, 2:5] = segmentation[2:5, 2:5] = 7
    segmentation[7:, 7:] = 8
    table = contingency(segmentation, truth)
    assert table.instance_scores()["f1_50"] == 1
    assert table.instance_scores(ignore_truth=())["f1_50"] == pytest.approx(2 / 3)


def test_nothing_to_score_is_nan():
    """Where no voxel counts every score is NaN, without a warning; low thresholds are refused."""
    zeros = np.zeros((3, 3), int)
    for table in (contingency(zeros, zeros), contingency(zeros, zeros + 1, np.zeros((3, 3), bool))):
        assert all(math.isnan(v) for v in table.instance_scores().values())
    with pytest.raises(DataError, match=r"below 0.5"):
        contingency(zeros, zeros).matches([0.3])


def brute_binary(p, t, voxel_size, mask, clip, tol):
    p, t = p & mask, t & mask
    where = [np.argwhere(x) * np.asarray(voxel_size, float) for x in (p, t)]
    between = cdist(where[1], where[0])
    to_p, to_t = between.min(1), between.min(0)
    tp, fp, fn = (p & t).sum(), (p & ~t).sum(), (t & ~p).sum()
    negatives = (mask & ~t).sum()
    fn_tol, fp_tol = (to_p > tol).sum(), (to_t > tol).sum()
    tp_tol = (p | t).sum() - fn_tol - fp_tol
    precision, recall = tp / p.sum(), tp / t.sum()
    precision_tol, recall_tol = tp_tol / (tp_tol + fp_tol), tp_tol / (tp_tol + fn_tol)
    return {
        "dice": 2 * tp / (p.sum() + t.sum()),
        "jaccard": tp / (p | t).sum(),
        "hausdorff": max(to_p.max(), to_t.max()),
        "false_negative_rate": fn / t.sum(),
        "false_negative_rate_with_tolerance": fn_tol / t.sum(),
        "false_positive_rate": fp / negatives,
        "false_discovery_rate": fp / p.sum(),
        "false_positive_rate_with_tolerance": fp_tol / negatives,
        "voi": sum(variation_of_information(t[mask][None].astype(int), p[mask][None].astype(int))),
        "mean_false_distance": (to_p.mean() + to_t.mean()) / 2,
        "mean_false_negative_distance": to_p.mean(),
        "mean_false_positive_distance": to_t.mean(),
        "mean_false_distance_clipped": (np.minimum(to_p, clip).mean() + np.minimum(to_t, clip).mean()) / 2,
        "mean_false_negative_distance_clipped": np.minimum(to_p, clip).mean(),
        "mean_false_positive_distance_clipped": np.minimum(to_t, clip).mean(),
        "precision_with_tolerance": precision_tol,
        "recall_with_tolerance": recall_tol,
        "f1_score_with_tolerance": 2 * precision_tol * recall_tol / (precision_tol + recall_tol),
        "precision": precision,
        "recall": recall,
        "f1_score": 2 * precision * recall / (precision + recall),
    }


@pytest.mark.parametrize("voxel_size", [(1, 1), (8, 4), (4, 4, 4), (40, 4, 5.24)])
@pytest.mark.parametrize("masked", [False, True])
def test_binary_scores_are_their_definitions(voxel_size, masked):
    """All 21, by distances between all pairs of voxels, in world units, with and without a mask."""
    rng = np.random.default_rng(1)
    shape = (9, 11, 13)[-len(voxel_size) :]
    p, t = rng.random((2, *shape)) < (0.06 if len(shape) == 3 else 0.25)
    mask = rng.random(shape) < 0.8 if masked else np.ones(shape, bool)
    found = binary_scores(p, t, voxel_size, mask=mask if masked else None, clip_distance=9, tol_distance=5)
    expected = brute_binary(p, t, voxel_size, mask, 9, 5)
    assert found.keys() == expected.keys()
    assert len(found) == 21
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_a_shift_along_z_is_as_far_as_z_voxels_are_long():
    """Five voxels along z of 10 are 50, not 5."""
    truth = np.zeros((20, 6, 6), bool)
    prediction = truth.copy()
    truth[2, 3, 3] = prediction[7, 3, 3] = True
    assert binary_scores(prediction, truth, (10, 1, 1), clip_distance=1e9, tol_distance=1)["hausdorff"] == 50


def test_binary_scores_of_empty_sides():
    """Both empty: hausdorff 0, all else NaN. One empty: what is defined is 0, all else NaN."""
    full, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    options = {"voxel_size": (1, 1), "clip_distance": 2, "tol_distance": 1}
    both = binary_scores(empty, empty, **options)
    assert {name for name, value in both.items() if not math.isnan(value)} == {"hausdorff"}
    assert both["hausdorff"] == 0
    for p, t, rate in ((empty, full, 0.0), (full, empty, 1.0)):
        one = binary_scores(p, t, **options)
        defined = {name: value for name, value in one.items() if not math.isnan(value)}
        assert defined == {"dice": 0.0, "jaccard": 0.0, "false_discovery_rate": rate}
    perfect = binary_scores(full, full, **options)
    assert perfect["f1_score"] == perfect["f1_score_with_tolerance"] == perfect["dice"] == 1
    assert perfect["hausdorff"] == perfect["mean_false_distance"] == perfect["voi"] == 0
    assert math.isnan(perfect["false_positive_rate"])


def test_names_are_those_of_the_evaluators():
    """The dictionaries fill the evaluators' tables."""
    from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluationScores, InstanceEvaluationScores

    p = np.eye(4, dtype=bool)
    assert set(binary_scores(p, p, (1, 1), clip_distance=1, tol_distance=1)) == set(
        BinarySegmentationEvaluationScores().criteria
    )
    assert set(InstanceEvaluationScores().criteria) <= set(contingency(p, p).instance_scores())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64])
def test_small_and_large_ids_are_counted_alike(dtype: type, masked: bool) -> None:
    """A table of all pairs and a hash table give the same counts: those of large ids, renamed."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 9, (7, 8, 9)).astype(dtype) for _ in range(2))
    mask = rng.random(a.shape) > 0.3 if masked else None
    small = contingency(a, b, mask)
    large = contingency(a.astype(np.uint64) << np.uint64(40), b.astype(np.uint64) << np.uint64(33), mask)
    np.testing.assert_array_equal(small.segments, large.segments >> np.uint64(40))
    np.testing.assert_array_equal(small.truths, large.truths >> np.uint64(33))
    np.testing.assert_array_equal(small.counts, large.counts)
    assert small.segments.dtype == large.segments.dtype
    assert small.instance_scores() == large.instance_scores()


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_of_noise_are_counted_like_any(masked):
    """Labels that change from voxel to voxel, of small and of large ids, give the table that a loop gives."""
    rng = np.random.default_rng(0)
    for highest in (900, 2**31 - 1):
        ids = rng.integers(0, highest, 400, dtype=np.uint64)
        a, b = (rng.choice(ids, (20, 30, 40)) for _ in range(2))
        mask = rng.random(a.shape) < 0.7 if masked else np.ones(a.shape, bool)
        pairs, counts = np.unique(np.stack([b[mask], a[mask]]), axis=1, return_counts=True)
        table = contingency(a, b, mask if masked else None)
        np.testing.assert_array_equal(table.truths, pairs[0])
        np.testing.assert_array_equal(table.segments, pairs[1])
        np.testing.assert_array_equal(table.counts, counts)


def test_distances_to_the_truth_may_be_computed_once() -> None:
    """Scores with the distances of the truth at hand are those without, masked or not, in 2D and 3D."""
    from dacapo.ops.distances import distance_to

    rng = np.random.default_rng(0)
    for shape, size in (((9, 12, 11), (8.0, 4.0, 4.0)), ((20, 17), (4.0, 5.24))):
        truth, found = rng.random(shape) < 0.1, rng.random(shape) < 0.15
        for mask in (None, rng.random(shape) < 0.8):
            how = {"mask": mask, "clip_distance": 20.0, "tol_distance": 6.0}
            to_truth = distance_to(truth if mask is None else truth & mask, size)
            expected = binary_scores(found, truth, size, **how)
            assert binary_scores(found, truth, size, to_truth=to_truth, **how) == pytest.approx(expected, nan_ok=True)
    assert np.isinf(distance_to(np.zeros((3, 4), bool), (1.0, 1.0))).all()
