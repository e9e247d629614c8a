"""Scores of instance and of binary segmentations. Imports checks, distances and contingency_kernel.

Every instance score is read off one sparse contingency table; every binary one off four counts and
two distance transforms, over the box that holds anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import DataError
from dacapo.ops.checks import check_dims, check_labels, check_lengths, check_mask, check_same_shape, unsigned
from dacapo.ops.contingency_kernel import count_pairs, count_small_pairs
from dacapo.ops.distances import distance_to

F1_THRESHOLDS = tuple(t / 100 for t in range(50, 100, 5))
"""The intersections over union at which objects are matched; average precision is the mean over them."""

NAN = math.nan


@dataclass(frozen=True)
class Contingency:
    """How many voxels have each pair of (segment, true object): sparse, sorted by truth, then segment.

    Scores leave out the voxels whose true object is in `ignore_truth`, 0 unless told otherwise. A
    segment 0 counts in the information and Rand scores like any other segment, and is no object in
    the matching of objects; so is truth 0 if it is not ignored.
    """

    segments: NDArray[np.uint64]
    truths: NDArray[np.uint64]
    counts: NDArray[np.int64]
    _known: dict[tuple[int, ...], _Margins] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The margins that were asked for: all scores read the same."""

    def merged(self, other: Contingency) -> Contingency:
        """The table of both volumes together: of blocks, or of a volume scored in parts."""
        return _table(*(np.concatenate(both) for both in zip(self._columns(), other._columns(), strict=True)))

    def _columns(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
        return self.segments, self.truths, self.counts

    def _margins(self, ignore_truth: Sequence[int]) -> _Margins:
        ignored = tuple(int(i) for i in ignore_truth)
        if ignored not in self._known:
            kept = ~np.isin(self.truths, np.asarray(ignored, np.uint64))
            self._known[ignored] = _margins(self.segments[kept], self.truths[kept], self.counts[kept])
        return self._known[ignored]

    def voi(self, ignore_truth: Sequence[int] = (0,)) -> tuple[float, float]:
        """Variation of information in bits (Meilă 2003): H(segmentation | truth), H(truth | segmentation).

        The first grows with false splits, the second with false merges. NaN if no voxel counts.
        """
        m = self._margins(ignore_truth)
        if not m.total:
            return NAN, NAN
        joint = m.counts / m.total
        of_truth, of_segment = m.truth_sizes[m.truth] / m.total, m.segment_sizes[m.segment] / m.total
        split, merge = joint @ np.log2(of_truth / joint), joint @ np.log2(of_segment / joint)
        return max(float(split), 0.0), max(float(merge), 0.0)

    def adapted_rand_error(self, ignore_truth: Sequence[int] = (0,)) -> float:
        """1 - F score of the pairs of voxels that are put together (Arganda-Carreras et al. 2015); 0 is best.

        Pairs of a voxel with itself do not count. NaN if nothing is, or should be, put together.
        """
        m = self._margins(ignore_truth)
        together, segment_pairs, truth_pairs = (
            float(sizes @ (sizes - 1)) for sizes in (m.counts, m.segment_sizes, m.truth_sizes)
        )
        return 1 - 2 * together / (segment_pairs + truth_pairs) if segment_pairs + truth_pairs else NAN

    def matches(
        self, thresholds: Sequence[float] = F1_THRESHOLDS, ignore_truth: Sequence[int] = (0,)
    ) -> list[Matching]:
        """Objects matched where their intersection over union exceeds a threshold of at least 0.5.

        Above one half an object has at most one partner, so no assignment has to be sought.
        """
        if min(thresholds, default=1) < 0.5:
            raise DataError(f"thresholds are {list(thresholds)}: below 0.5 an object could have several partners")
        m = self._margins(ignore_truth)
        is_segment, is_truth = m.segment_ids != 0, m.truth_ids != 0
        object_pair = is_segment[m.segment] & is_truth[m.truth]
        union = m.segment_sizes[m.segment] + m.truth_sizes[m.truth] - m.counts
        iou = (m.counts / union)[object_pair]
        num_segments, num_truths = int(is_segment.sum()), int(is_truth.sum())
        return [
            Matching(
                threshold=t,
                true_positives=(matched := int(np.count_nonzero(iou > t))),
                false_positives=num_segments - matched,
                false_negatives=num_truths - matched,
                iou_sum=float(iou[iou > t].sum()),
            )
            for t in thresholds
        ]

    def instance_scores(self, ignore_truth: Sequence[int] = (0,)) -> dict[str, float]:
        """All: voi_split, voi_merge, voi (their sum), adapted_rand_error, pq, f1_50 .. f1_95, average_precision.

        `pq` is the panoptic quality (Kirillov et al. 2019), `average_precision` the mean over the
        thresholds of TP / (TP + FP + FN).
        """
        split, merge = self.voi(ignore_truth)
        matches = self.matches(F1_THRESHOLDS, ignore_truth)
        return {
            "voi_split": split,
            "voi_merge": merge,
            "voi": split + merge,
            "adapted_rand_error": self.adapted_rand_error(ignore_truth),
            "pq": matches[0].panoptic_quality,
            **{f"f1_{round(100 * m.threshold)}": m.f1 for m in matches},
            "average_precision": float(np.mean([m.precision for m in matches])),
        }


@dataclass(frozen=True)
class Matching:
    """How many objects found a partner whose intersection over union exceeds `threshold`."""

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    iou_sum: float
    """Of the matched pairs."""

    @property
    def f1(self) -> float:
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self._unmatched)

    @property
    def panoptic_quality(self) -> float:
        return _ratio(2 * self.iou_sum, 2 * self.true_positives + self._unmatched)

    @property
    def precision(self) -> float:
        """TP / (TP + FP + FN)."""
        return _ratio(self.true_positives, self.true_positives + self._unmatched)

    @property
    def _unmatched(self) -> int:
        return self.false_positives + self.false_negatives


@dataclass(frozen=True)
class _Margins:
    """Rows of a table as indices into the objects that occur, with the objects' sizes."""

    segment: NDArray[np.intp]
    truth: NDArray[np.intp]
    counts: NDArray[np.float64]
    segment_ids: NDArray[np.uint64]
    truth_ids: NDArray[np.uint64]
    segment_sizes: NDArray[np.float64]
    truth_sizes: NDArray[np.float64]
    total: float


def _margins(segments: np.ndarray, truths: np.ndarray, counts: np.ndarray) -> _Margins:
    segment_ids, segment = _indexed(segments)
    truth_ids, truth = _indexed(truths)
    # Floats: the square of a count may exceed 64 bits.
    weights = counts.astype(np.float64)
    sizes = (np.bincount(index, weights, len(ids)) for index, ids in ((segment, segment_ids), (truth, truth_ids)))
    return _Margins(segment, truth, weights, segment_ids, truth_ids, *sizes, total=float(weights.sum()))


def _indexed(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids that occur, sorted, and which of them each is; without sorting where a table of all is small."""
    if not len(ids) or ids.max() >= max(2**16, 2 * len(ids)):
        return np.unique(ids, return_inverse=True)
    places = ids.astype(np.intp)
    occurs = np.zeros(int(places.max()) + 1, bool)
    occurs[places] = True
    return np.flatnonzero(occurs).astype(np.uint64), (np.cumsum(occurs) - 1)[places]


def _table(segments: np.ndarray, truths: np.ndarray, counts: np.ndarray) -> Contingency:
    """Rows of equal pairs summed, in sorted order."""
    order = np.lexsort((segments, truths))
    segments, truths, counts = segments[order], truths[order], counts[order]
    first = np.ones(len(counts), bool)
    first[1:] = (segments[1:] != segments[:-1]) | (truths[1:] != truths[:-1])
    starts = np.flatnonzero(first)
    return Contingency(segments[starts], truths[starts], np.add.reduceat(counts, starts) if len(starts) else counts)


def _counted(segments: np.ndarray, truths: np.ndarray, mask: np.ndarray) -> Contingency:
    """Pairs of flat unsigned ids: in a table of all pairs, where that is at most half as large as the volume."""
    shape = [int(x.max()) + 1 if len(x) else 1 for x in (segments, truths)]
    if shape[0] * shape[1] > max(2**16, len(segments) // 2):
        changes = np.count_nonzero((segments[1:] != segments[:-1]) | (truths[1:] != truths[:-1]))
        if 4 * changes > len(segments) and shape[0] * shape[1] < 2**63:  # noise: sorting is faster than a large table
            return _sorted_pairs(segments, truths, mask, shape[0])
        keys, counts = count_pairs(segments, truths, mask)
        filled = counts > 0
        return _table(keys[filled, 0], keys[filled, 1], counts[filled])
    pairs = np.zeros(shape, np.int64)
    count_small_pairs(segments, truths, mask, pairs)
    found = np.nonzero(pairs)
    return _table(found[0].astype(np.uint64), found[1].astype(np.uint64), pairs[found])


def _sorted_pairs(segments: np.ndarray, truths: np.ndarray, mask: np.ndarray, base: int) -> Contingency:
    """Pairs of ids below `base` and above, counted by sorting them as one number."""
    keys = truths.astype(np.uint64)
    keys *= np.uint64(base)
    keys += segments
    if len(mask):
        keys = keys[mask]
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool))
    found = keys[starts]
    return Contingency(found % np.uint64(base), found // np.uint64(base), np.diff(starts, append=len(keys)))


def contingency(
    segmentation: NDArray[np.integer], truth: NDArray[np.integer], mask: NDArray[np.bool_] | None = None
) -> Contingency:
    """Count the pairs of (segment, true object) over the voxels of a mask.

    Parameters
    ----------
    segmentation, truth : whole numbers of the same shape
        Ids of any size up to 2^64 - 1.
    mask : bool of the same shape, optional
        True where voxels count; everywhere by default.

    Raises
    ------
    DataError, GeometryError
        If these are no whole numbers, hold negative ids, or their shapes differ.
    """
    check_same_shape(np.shape(segmentation), np.shape(truth), "the segmentation")
    given = [check_labels(segmentation), check_labels(truth)]
    mask = check_mask(mask, given[0].shape)
    # Two compiled versions are enough: pairs of 32 and pairs of 64 bits.
    common = np.uint64 if max(x.itemsize for x in given) > 4 else np.uint32
    flat = [np.ascontiguousarray(unsigned(x).astype(common, copy=False)).ravel() for x in given]
    counted = np.zeros(0, bool) if mask is None else np.ascontiguousarray(mask).ravel()
    table = _counted(*flat, counted)
    for what, labels, ids in zip(("segmentation", "truth"), given, (table.segments, table.truths), strict=True):
        if labels.dtype.kind == "i" and len(ids) and ids.max() > np.iinfo(labels.dtype).max:
            raise DataError(f"the {what} holds negative ids, expected 0 for background and positive ids for objects")
    return table


def binary_scores(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    voxel_size: Sequence[float],
    *,
    mask: NDArray[np.bool_] | None = None,
    clip_distance: float,
    tol_distance: float,
    to_truth: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """The 21 scores of a binary segmentation, by the names that evaluators know them by.

    With P, N the voxels that are, and are not, in the truth: false_negative_rate = FN / P,
    false_positive_rate = FP / N, false_discovery_rate = FP / (TP + FP), recall = TP / P, precision =
    TP / (TP + FP). The mean false negative distance is the mean, over the voxels of the truth, of the
    distance to the nearest predicted voxel (0 where that is itself predicted); the mean false positive
    distance is the same with the roles exchanged. `clipped` distances are at most `clip_distance`;
    errors `with tolerance` are those farther than `tol_distance`. `voi` (bits) is of the partitions
    into two. Distances are between voxel centres.

    If both sides are empty, hausdorff is 0 and all else is NaN; if one is, dice, jaccard and
    false_discovery_rate are defined and all else is NaN. A rate over no voxel is NaN.

    Parameters
    ----------
    prediction, truth : (Z, Y, X) or (Y, X) bool
    voxel_size : sequence of float
        In world units, in the order of the axes.
    mask : bool, optional
        True where voxels count; the others are in no score and have no distance.
    clip_distance, tol_distance : float
        In world units.
    to_truth : float32, optional
        `distance_to` the truth (where the mask is True), for whoever scores many predictions of one truth.
    """
    prediction, truth = (np.asarray(x).astype(bool, copy=False) for x in (prediction, truth))
    check_same_shape(prediction.shape, truth.shape, "the prediction")
    check_dims(truth.ndim, "masks", truth.shape)
    voxel_size = check_lengths(voxel_size, truth.ndim, "voxel_size")
    total = truth.size
    mask = check_mask(mask, truth.shape)
    if mask is not None:
        prediction, truth, total = prediction & mask, truth & mask, int(np.count_nonzero(mask))
    both = int(np.count_nonzero(prediction & truth))
    found, real = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    scores = _overlap_scores(both, found, real, total)
    if found and real:
        of_missed, of_invented = _error_distances(prediction, truth, voxel_size, to_truth)
        scores |= _distance_scores(of_missed, of_invented, found, real, total, clip_distance, tol_distance)
    else:
        scores |= dict.fromkeys(_DISTANCE_SCORES, NAN)
        scores["hausdorff"] = NAN if found or real else 0.0
    return scores


def _overlap_scores(both: int, found: int, real: int, total: int) -> dict[str, float]:
    missed, invented = real - both, found - both
    scores = {
        "dice": _ratio(2 * both, found + real),
        "jaccard": _ratio(both, found + missed),
        "false_discovery_rate": _ratio(invented, found) if found else (0.0 if real else NAN),
    }
    if not (found and real):
        empty = "false_negative_rate false_positive_rate voi precision recall f1_score"
        return scores | dict.fromkeys(empty.split(), NAN)
    cells = np.array([total - found - missed, invented, missed, both])
    filled = np.flatnonzero(cells)
    pairs = _table((filled % 2).astype(np.uint64), (filled // 2).astype(np.uint64), cells[filled])
    precision, recall = both / found, both / real
    return scores | {
        "false_negative_rate": missed / real,
        "false_positive_rate": _ratio(invented, total - real),
        "voi": sum(pairs.voi(ignore_truth=())),
        "precision": precision,
        "recall": recall,
        "f1_score": _harmonic(precision, recall),
    }


def _error_distances(
    prediction: np.ndarray, truth: np.ndarray, voxel_size: tuple[float, ...], to_truth: np.ndarray | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each missed voxel is from the prediction, and each invented one from the truth."""
    union = prediction | truth
    box = tuple(_extent(union.any(axis=tuple(a for a in range(union.ndim) if a != d))) for d in range(union.ndim))
    prediction, truth = prediction[box], truth[box]
    missed, invented = truth & ~prediction, prediction & ~truth
    result = []
    for wrong, target, known in ((missed, prediction, None), (invented, truth, to_truth)):
        if not wrong.any():
            result.append(np.zeros(0))
            continue
        distance = distance_to(target, voxel_size) if known is None else known[box]
        result.append(distance[wrong].astype(np.float64))
    return result[0], result[1]


def _extent(occupied: np.ndarray) -> slice:
    where = np.flatnonzero(occupied)
    return slice(int(where[0]), int(where[-1]) + 1)


_DISTANCE_SCORES = (
    "hausdorff",
    "false_negative_rate_with_tolerance",
    "false_positive_rate_with_tolerance",
    "mean_false_distance",
    "mean_false_negative_distance",
    "mean_false_positive_distance",
    "mean_false_distance_clipped",
    "mean_false_negative_distance_clipped",
    "mean_false_positive_distance_clipped",
    "precision_with_tolerance",
    "recall_with_tolerance",
    "f1_score_with_tolerance",
)


def _distance_scores(
    missed: np.ndarray, invented: np.ndarray, found: int, real: int, total: int, clip: float, tolerance: float
) -> dict[str, float]:
    far_missed, far_invented = (int(np.count_nonzero(d > tolerance)) for d in (missed, invented))
    near = found + len(missed) - far_missed - far_invented
    precision, recall = _ratio(near, near + far_invented), _ratio(near, near + far_missed)
    negative, positive = missed.sum() / real, invented.sum() / found
    clipped = [float(np.minimum(d, clip).sum() / n) for d, n in ((missed, real), (invented, found))]
    values = (
        max(missed.max(initial=0), invented.max(initial=0)),
        far_missed / real,
        _ratio(far_invented, total - real),
        (negative + positive) / 2,
        negative,
        positive,
        sum(clipped) / 2,
        *clipped,
        precision,
        recall,
        _harmonic(precision, recall),
    )
    return dict(zip(_DISTANCE_SCORES, map(float, values), strict=True))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else NAN
