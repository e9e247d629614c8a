"""Tasks: targets, losses, post-processors and evaluators, against slow and obvious ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dacapo
from conftest import write_volume
from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.tasks import AffinitiesTaskConfig, DistanceTaskConfig
from dacapo.experiments.tasks.evaluators import BinarySegmentationEvaluator, InstanceEvaluator
from dacapo.experiments.tasks.losses import AffinitiesLoss, MSELoss
from dacapo.experiments.tasks.post_processors import ThresholdPostProcessorParameters, watershed_block
from dacapo.experiments.tasks.predictors import AffinitiesPredictor, DistancePredictor
from dacapo.geometry import Grid
from dacapo.store import Stores

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


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", ["affinities", "lsds", "distance"])
def test_every_task_trains_validates_and_segments(tmp_path, task: str, dims: int, padding: str) -> None:
    """Each task runs two iterations, a validation and a segmentation, in 2D and 3D, same and valid."""
    shape = (20, 28, 28) if dims == 3 else (40, 48)
    data = write_volume(tmp_path, shape)
    tasks = {
        "affinities": {"type": "affinities", "neighborhood": np.eye(dims, dtype=int).tolist(), "links": [1.0]},
        "lsds": {
            "type": "affinities",
            "neighborhood": np.eye(dims, dtype=int).tolist(),
            "lsds": True,
            "num_lsd_voxels": 2,
        },
        "distance": {
            "type": "distance",
            "channels": ["cell"],
            "clip_distance": 50,
            "tol_distance": 8,
            "scale_factor": 20,
        },
    }
    dataset = {"name": "a", "raw": f"{data}/raw", "gt": f"{data}/labels"}
    size = 12 if padding == "same" else 20
    run = RunConfig.from_dict(
        {
            "name": "r", "num_iterations": 2, "validation_interval": 2, "task": tasks[task],
            "datasplit": {"train": [dataset], "validate": [dataset]},
            "architecture": {
                "type": "cnnectome_unet", "input_shape": [size] * dims, "fmaps_in": 1, "fmaps_out": 3, "num_fmaps": 3,
                "fmap_inc_factor": 2, "downsample_factors": [[2] * dims], "padding": padding,
            },
        }
    )  # fmt: skip
    stores = Stores(tmp_path / "runs")
    dacapo.train(run, stores=stores)
    assert len(run.validation_scores.scores) == 1
    parameters = next(iter(run.task.parameters))  # type: ignore[union-attr]
    done = dacapo.apply(
        run, f"{data}/raw", tmp_path / "o.zarr", iteration=2, parameters=parameters, workers=0, stores=stores
    )
    assert dacapo.arrays.open_array(done.segmentation).spatial_shape == shape


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DistanceTaskConfig(channels=[], clip_distance=1, tol_distance=1), "channels"),
        (lambda: DistanceTaskConfig(channels=["a", "a"], clip_distance=1, tol_distance=1), "none twice"),
        (lambda: DistanceTaskConfig(channels=["a"], clip_distance=1, tol_distance=1, thresholds=[]), "thresholds"),
        (
            lambda: DistanceTaskConfig(channels=["a"], clip_distance=1, tol_distance=1, clipmin=0.9, clipmax=0.1),
            "clipmin",
        ),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]], biases=[1.5]), "biases"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[1, 0, 0]], links=[]), "links"),
        (lambda: AffinitiesTaskConfig(neighborhood=[[9, 0, 0]], context=8), "at least the longest offset"),
    ],
)
def test_impossible_tasks_are_refused(make, said: str) -> None:
    """Wrong values are named when the config is made."""
    with pytest.raises(ConfigError, match=said):
        make()
