"""Tasks: targets, losses, post-processors and evaluators, against slow and obvious ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError
from dacapo.experiments.tasks import (
    AffinitiesTaskConfig,
    DistanceTaskConfig,
    DummyTaskConfig,
    HotDistanceTaskConfig,
    InnerDistanceTaskConfig,
    OneHotTaskConfig,
    PretrainedTaskConfig,
    TaskConfig,
)
from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluator, InstanceEvaluator
from dacapo.experiments.tasks.losses import AffinitiesLoss, MSELoss
from dacapo.experiments.tasks.post_processors import ThresholdPostProcessorParameters, watershed_block
from dacapo.experiments.tasks.predictors import AffinitiesPredictor, DistancePredictor
from dacapo.geometry import Grid

RNG = np.random.default_rng(0)
GRID = Grid((5.24, 4.0, 4.0))


def random_tensors(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, channels, 4, 5, 6)
    prediction, target = (torch.rand(shape, generator=generator) for _ in range(2))
    weight = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.4)
    return prediction * 4 - 2, (target > 0.5).float(), weight


@pytest.mark.parametrize("loss", [MSELoss(), AffinitiesLoss(2, 0.7)])
def test_what_weighs_nothing_changes_nothing(loss: MSELoss | AffinitiesLoss) -> None:
    """Weight 0 is ignored: other values there change neither the loss nor its gradient."""
    prediction, target, weight = random_tensors()
    prediction.requires_grad_(True)
    value = loss.compute(prediction, target, weight)
    value.backward()
    assert not prediction.grad[weight == 0].any()  # type: ignore[index]
    other = torch.where(weight == 0, torch.full_like(prediction, 7.0), prediction)
    flipped = torch.where(weight == 0, 1 - target, target)
    torch.testing.assert_close(loss.compute(other, flipped, weight), value.detach())


def test_losses_equal_a_loop_over_voxels() -> None:
    """Weighted means over the voxels that count, written out."""
    prediction, target, weight = random_tensors()
    p, t, w = (x.double().numpy().ravel() for x in (prediction, target, weight))
    expected = sum(wi * (pi - ti) ** 2 for pi, ti, wi in zip(p, t, w, strict=True)) / sum(w > 0)
    assert MSELoss().compute(prediction, target, weight).item() == pytest.approx(expected, rel=1e-5)

    sigmoid = 1 / (1 + np.exp(-prediction.double().numpy()))
    t, w = target.double().numpy(), weight.double().numpy()
    cross = -(t * np.log(sigmoid) + (1 - t) * np.log(1 - sigmoid)) * w
    square = (sigmoid - t) ** 2 * w
    expected = cross[:, :2].sum() / (w[:, :2] > 0).sum() + 0.7 * square[:, 2:].sum() / (w[:, 2:] > 0).sum()
    assert AffinitiesLoss(2, 0.7).compute(prediction, target, weight).item() == pytest.approx(expected, rel=1e-5)


def test_nothing_annotated_is_a_loss_of_zero() -> None:
    """A batch in which nothing weighs gives 0, not NaN."""
    prediction, target, weight = random_tensors()
    assert MSELoss().compute(prediction, target, weight * 0).item() == 0


def test_descriptors_are_in_the_head_and_the_target() -> None:
    """With lsds, the head, the target and the channel names have ten more channels; with 2D offsets six."""
    for dims, extra in ((3, 10), (2, 6)):
        task = AffinitiesTaskConfig(neighborhood=[[1] + [0] * (dims - 1)], lsds=True, num_lsd_voxels=2).task()
        labels = RNG.integers(1, 4, (6, 8, 8)[-dims:])
        target, weight = task.predictor.make_target(labels, np.ones((1, *labels.shape), bool), Grid((4.0,) * dims))
        assert len(task.channels) == len(target) == len(weight) == 1 + extra


def test_affinity_context_covers_every_offset() -> None:
    """The context is as far as offsets reach, to either side."""
    below, above = AffinitiesPredictor([[1, 0, 0], [0, -3, 0], [0, 2, 9]]).context(GRID)
    assert (tuple(below), tuple(above)) == ((0, 3, 0), (1, 2, 9))


def test_distances_are_squashed_and_signed() -> None:
    """Positive inside, negative outside, tanh of the distance to the face in world units."""
    labels = np.zeros((1, 1, 8), np.uint8)
    labels[..., 4:] = 1
    target, _ = DistancePredictor(["a"], 16, mask_distances=False).make_target(
        labels, np.ones((1, 1, 1, 8), bool), Grid((8.0, 4.0, 4.0))
    )
    np.testing.assert_allclose(target[0, 0, 0], np.tanh(np.array([-14, -10, -6, -2, 2, 6, 10, 14]) / 16), atol=1e-6)


def test_distances_near_the_unknown_are_masked() -> None:
    """Voxels whose boundary could lie in what is not known weigh nothing; those nearer to a known one do."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[6:10, 6:10, 6:10] = 1
    _, weight = DistancePredictor(["a"], 10).make_target(labels, np.ones((1, *labels.shape), bool), Grid((4.0,) * 3))
    assert weight[0, 8, 8, 8] > 0
    assert weight[0, 0, 0, 0] == 0


def test_create_target_and_weight_follow_the_documented_steps() -> None:
    """`create_target` and `create_weight` on arrays give what the trainer uses."""
    gt = from_numpy(RNG.integers(0, 3, (6, 7, 8)).astype(np.uint64), (5.24, 4.0, 4.0))
    predictor = AffinitiesPredictor([[1, 0, 0], [0, 0, 2]])
    target = predictor.create_target(gt)
    weight, counts = predictor.create_weight(gt, target, None, None)
    expected = predictor.make_target(gt.read(), np.ones((1, 6, 7, 8), bool), gt.grid)
    np.testing.assert_array_equal(target.read(), expected[0])
    np.testing.assert_array_equal(weight.read(), expected[1])
    assert counts is None
    assert target.voxel_size == gt.voxel_size


def test_parameters_have_real_names_and_fit_the_prediction() -> None:
    """Sweeps name their parameters and lie on the prediction's own scale."""
    watershed = list(AffinitiesTaskConfig(neighborhood=[[1, 0, 0], [3, 0, 0]]).task().parameters)
    assert watershed[0].parameter_names == ["id", "bias", "bias_long", "min_size", "link"]
    assert len({str(p) for p in watershed}) == len(watershed)
    thresholds = list(DistanceTaskConfig(channels=["a"], clip_distance=1, tol_distance=1).task().parameters)
    assert thresholds[0].parameter_names == ["id", "threshold"]
    assert min(p.threshold for p in thresholds) < 0 < max(p.threshold for p in thresholds)


def test_a_sweep_equals_one_by_one() -> None:
    """What the sweep computes once is what each parameter set gives alone, and in a block's function."""
    task = AffinitiesTaskConfig(
        neighborhood=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 3, 0]], links=(0.5, 1.0), min_size=3
    ).task()
    prediction = RNG.random((4, 8, 12, 12)).astype(np.float32)
    parameters = list(task.parameters)
    for one, found in zip(parameters, task.post_processor.process_all(prediction, parameters), strict=True):
        np.testing.assert_array_equal(found, task.post_processor.process(prediction, one))
        np.testing.assert_array_equal(found, watershed_block(prediction, **task.post_processor.block_function(one)[1]))


def test_scores_know_their_direction() -> None:
    """Each criterion has its own direction and bounds, and an unknown one lists what there is."""
    instance, binary = InstanceEvaluator(), BinarySegmentationEvaluator(10, 4, ["a", "b"])
    assert not instance.higher_is_better("voi")
    assert instance.higher_is_better("pq")
    assert binary.higher_is_better("a__dice")
    assert not binary.higher_is_better("b__hausdorff")
    assert len(binary.criteria) == 42
    assert binary.compare(0.9, 0.8, "a__dice")
    with pytest.raises(ValueError, match="no criterion is called 'void'"):
        instance.score.criterion("void")


def test_perfect_and_masked_segmentations() -> None:
    """The truth scores perfectly under any ids; what is masked is not scored."""
    truth = np.kron(np.arange(1, 9).reshape(2, 2, 2), np.ones((4, 4, 4), int)).astype(np.uint64)
    scores = InstanceEvaluator().evaluate(truth * np.uint64(2**40), truth, (1, 1, 1))
    assert (scores.voi, scores.pq, scores.adapted_rand_error) == pytest.approx((0, 1, 0))
    wrong, mask = truth.copy(), np.ones(truth.shape, bool)
    wrong[:4], mask[:4] = 1, False
    assert InstanceEvaluator().evaluate(wrong, truth, (1, 1, 1), mask).voi == pytest.approx(0)
    assert InstanceEvaluator().evaluate(wrong, truth, (1, 1, 1)).voi > 0.1


def test_parameters_survive_yaml() -> None:
    """Parameter sets are configs: they come back equal."""
    p = ThresholdPostProcessorParameters(id=3, threshold=0.25)
    assert ThresholdPostProcessorParameters.from_yaml(p.to_yaml()) == p


BASE = {"channels": ["a", "b"], "clip_distance": 10, "tol_distance": 1}
DISTANCE_LIKE = [DistanceTaskConfig, InnerDistanceTaskConfig, HotDistanceTaskConfig]


@pytest.mark.parametrize("cls", DISTANCE_LIKE)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": []}, "channels: expected at least one name"),
        ({"channels": ["a", "a"]}, "channels: .*none twice"),
        ({"channels": ["a", " "]}, "channels: .*none empty"),
        ({"clip_distance": 0}, "clip_distance"),
        ({"clip_distance": float("inf")}, "clip_distance"),
        ({"tol_distance": -1}, "tol_distance"),
        ({"scale_factor": 0}, "scale_factor"),
        ({"clipmin": 0.9, "clipmax": 0.1}, r"clipmax: clipmin \(0.9\) is larger than clipmax \(0.1\)"),
        ({"clipmin": 0}, "clipmin"),
        ({"thresholds": []}, "thresholds: expected at least one number"),
        ({"thresholds": [127]}, "thresholds: .*between"),
        ({"thresholds": [0.1, 0.1]}, "thresholds: .*twice"),
    ],
)
def test_impossible_distances_are_refused(cls, changes: dict, said: str) -> None:
    """Each wrong field of the distance-like tasks is named when the config is made."""
    with pytest.raises(ConfigError, match=said):
        cls(**BASE | changes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AffinitiesTaskConfig(neighborhood=[]), "neighborhood: at least one offset"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[0, 0, 0]]), "neighborhood: an offset of zeros"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]] * 2), "neighborhood: .*stands twice"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]], biases=[]), "biases"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0]], long_stride=3), "context .* multiple of long_stride"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0]], long_stride=0), "long_stride"),
        (
            lambda: AffinitiesTaskConfig(neighborhood=[[1, 0]], lsd_weight_clipmin=0.9, lsd_weight_clipmax=0.2),
            "lsd_weight_clipmax: lsd_weight_clipmin",
        ),
        (
            lambda: AffinitiesTaskConfig(neighborhood=[[1, 0]], affs_weight_clipmin=0.9, affs_weight_clipmax=0.2),
            "affs_weight_clipmax: affs_weight_clipmin",
        ),
        (lambda: InnerDistanceTaskConfig(**BASE, thresholds=[-0.1]), "thresholds: .*between 0 and 1"),
        (lambda: HotDistanceTaskConfig(**BASE, kernel_size=2), "kernel_size: expected an odd number"),
        (lambda: HotDistanceTaskConfig(**BASE | {"channels": ["a", "a_distance"]}), "call that class otherwise"),
        (lambda: OneHotTaskConfig(classes=["a", "b"], kernel_size=-1), "kernel_size: expected an odd number"),
        (lambda: OneHotTaskConfig(classes=["a"]), "classes: expected at least two"),
        (lambda: OneHotTaskConfig(classes=["a", "a"]), "classes: .*none twice"),
        (lambda: OneHotTaskConfig(classes=["a", "b"], tol_distance=-1), "tol_distance"),
        (lambda: OneHotTaskConfig(classes=["a", "b"], clipmin=0.9, clipmax=0.3), "clipmax"),
        (lambda: DummyTaskConfig(embedding_dims=0, detection_threshold=0.1), "embedding_dims"),
        (lambda: DummyTaskConfig(embedding_dims=1, detection_threshold=2), "detection_threshold"),
        (lambda: PretrainedTaskConfig(weights="w"), "sub_task"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]], biases=[1.5]), "biases"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]], links=[]), "links"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[9, 0, 0]], context=8), "at least the longest offset"),
    ],
)
def test_impossible_tasks_are_refused(make, said: str) -> None:
    """Wrong values are named when the config is made."""
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    "config",
    [
        AffinitiesTaskConfig("t", [(1, 0, 0), (0, -3, 0)], lsds=True),
        DistanceTaskConfig("t", ["a"], 10.0, 1.0, 2.5),
        InnerDistanceTaskConfig("t", ["a", "b"], 10.0, 1.0),
        HotDistanceTaskConfig("t", ["a"], 10.0, 1.0, kernel_size=3),
        OneHotTaskConfig("t", ["background", "b"]),
        PretrainedTaskConfig("t", OneHotTaskConfig("s", ["a", "b"], 3), "somewhere/weights"),
        DummyTaskConfig("t", 5, 0.2),
    ],
    ids=lambda c: type(c).__name__,
)
def test_every_task_survives_yaml(config: TaskConfig) -> None:
    """Out and in, equal and bit for bit, with fields in upstream's order; parameter sets too."""
    text = config.to_yaml()
    assert TaskConfig.from_yaml(text) == config
    assert TaskConfig.from_yaml(text).to_yaml() == text
    task = config.task()
    for parameters in task.parameters:
        assert type(parameters).from_yaml(parameters.to_yaml()) == parameters
        assert parameters.parameter_names[0] == "id"
        assert "/" not in parameters.folder
        assert not parameters.folder.endswith("_")
    assert task.evaluator.main_criterion in task.evaluation_scores.criteria
