"""A prediction does not depend on how the volume was cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dacapo.arrays import from_numpy
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate, Roi
from dacapo.network import Network, folded, quantised

CPU = torch.device("cpu")


def make_run(padding: str, factors: list[list[int]], batch_norm: bool = True, **more: object) -> RunConfig:
    size = 8 if padding == "same" else 44
    run = RunConfig.from_dict(
        {
            "name": "r",
            "task": {"type": "affinities", "neighborhood": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
            "architecture": {
                "type": "cnnectome_unet", "input_shape": [size] * 3, "fmaps_in": 1, "fmaps_out": 3, "num_fmaps": 3,
                "fmap_inc_factor": 2, "downsample_factors": factors, "padding": padding, "batch_norm": batch_norm, **more,
            },
        }
    )  # fmt: skip
    model = run.model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # running statistics that are not the initial ones
        torch.manual_seed(0)
        for _ in range(3):
            model(torch.rand(2, 1, *run.model.input_shape))
    return run


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factors", [[[2, 2, 2]], [[1, 2, 2], [2, 1, 1]]])
def test_tiles_equal_the_whole(padding: str, factors: list[list[int]]) -> None:
    """Any tile size gives the prediction of the whole volume, to 1e-5 in float32, borders included."""
    run = make_run(padding, factors)
    raw = from_numpy(np.random.default_rng(0).random((13, 22, 19), np.float32))
    whole = Network(run, raw, CPU, budget=2**40).predict()
    assert whole.shape == (3, 13, 22, 19)
    for region in ((8, 8, 12), (13, 7, 19)):
        tiled = Network(run, raw, CPU, region=Coordinate(region), budget=2**40)
        np.testing.assert_allclose(tiled.predict(), whole, atol=1e-5)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_region_equals_its_part_of_the_whole(data: st.DataObject) -> None:
    """A region with any corners, on or off the stride, is the same as in the whole."""
    run = make_run("same", [[2, 2, 2]])
    raw = from_numpy(np.random.default_rng(1).random((15, 18, 17), np.float32))
    whole = Network(run, raw, CPU).predict()
    begin = [data.draw(st.integers(0, n - 1)) for n in raw.shape]
    end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, raw.shape, strict=True)]
    roi = Roi(begin, [e - b for b, e in zip(begin, end, strict=True)])
    part = Network(run, raw, CPU, region=Coordinate((6, 8, 4))).predict(roi)
    np.testing.assert_allclose(part, whole[(slice(None), *map(slice, begin, end))], atol=1e-5)


def test_upsampling_networks_tile_too() -> None:
    """Where the output is finer than the input, tiles still meet exactly."""
    run = make_run("same", [[2, 2, 2]], upsample_factors=[[2, 2, 2]])
    raw = from_numpy(np.random.default_rng(2).random((10, 12, 14), np.float32), (8.0, 8.0, 8.0))
    network = Network(run, raw, CPU, budget=2**40)
    assert network.grid.voxel_size == (4.0, 4.0, 4.0)
    whole = network.predict()
    assert whole.shape == (3, 20, 24, 28)
    tiled = Network(run, raw, CPU, region=Coordinate((8, 8, 8))).predict()
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["hot_distance", "one_hot"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("upsampling", [False, True])
def test_heads_of_several_voxels_leave_no_seam(kind: str, padding: str, upsampling: bool) -> None:
    """A head that takes voxels off every side is exact in tiles too, up to the volume's border."""
    more = {"upsample_factors": [[2, 2, 2]]} if upsampling else {}
    fields = make_run(padding, [[2, 2, 2]], **more).to_dict()
    distances = {"channels": ["a"], "clip_distance": 1, "tol_distance": 1}
    task = {"type": kind, "kernel_size": 3} | (distances if kind == "hot_distance" else {"classes": ["a", "b"]})
    run = RunConfig.from_dict(fields | {"task_config": task, "precision": "float32"})
    plain = RunConfig.from_dict(fields).model.output_shape
    assert tuple(run.model.head_context) == (1, 1, 1)
    assert run.model.output_shape == plain - Coordinate(2, 2, 2)
    raw = from_numpy(np.random.default_rng(5).random((10, 14, 12), np.float32), (8.0, 8.0, 8.0))
    network = Network(run, raw, CPU, budget=2**40)
    whole = network.predict()
    for region in ((5, 6, 4), (8, 8, 8)):
        tiled = Network(run, raw, CPU, region=Coordinate(region), budget=2**40)
        np.testing.assert_allclose(tiled.predict(), whole, atol=1e-5)
    # By hand: a voxel in the middle, from the network run once on the mirrored volume around it.
    tiles = network.tiles
    factor = 2 if upsampling else 1
    corner = Coordinate(0, 2, 2)
    shape = run.architecture_config.next_input_shape(tiles.context * 2 + Coordinate(4, 4, 4))
    seen = raw.read(Roi(corner - tiles.context, shape), pad="reflect")
    with torch.inference_mode():
        made = run.model.eval()(torch.from_numpy(seen[None, None])).numpy()[0]
    offset = run.architecture_config.output_offset_of(shape) + Coordinate(1, 1, 1)
    begin = (corner - tiles.context) * factor + offset
    at = Coordinate(2, 3, 4) * factor
    np.testing.assert_allclose(made[(slice(None), *(at - begin))], whole[(slice(None), *at)], atol=1e-5)


def test_a_small_budget_makes_small_tiles_and_the_same_values() -> None:
    """Memory decides the tiles, never the values."""
    run = make_run("same", [[2, 2, 2]])
    raw = from_numpy(np.random.default_rng(3).random((24, 24, 24), np.float32))
    large, small = Network(run, raw, CPU), Network(run, raw, CPU, budget=2**22)
    assert np.prod(small.tiles.input_shape) < np.prod(large.tiles.input_shape)
    np.testing.assert_allclose(small.predict(), large.predict(), atol=1e-5)


def test_eval_shape_increase_is_the_tile() -> None:
    """Who sets eval_shape_increase decides what the network is run on."""
    run = make_run("same", [[2, 2, 2]], eval_shape_increase=[28, 30, 32])
    raw = from_numpy(np.random.default_rng(4).random((20, 20, 20), np.float32))
    network = Network(run, raw, CPU)
    assert tuple(network.tiles.input_shape) == (36, 38, 40)
    np.testing.assert_allclose(network.predict(), Network(make_run("same", [[2, 2, 2]]), raw, CPU).predict(), atol=1e-5)


def test_quantised_covers_the_value_range() -> None:
    """uint8 stands for the whole range: its ends are 0 and 255, and nothing is off by more than half a step."""
    values = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
    stored = quantised(values.copy(), (-1.0, 1.0), np.dtype(np.uint8))
    assert (stored[0], stored[-1]) == (0, 255)
    back = stored / 255 * 2 - 1
    assert np.abs(back - values.clip(-1, 1)).max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("architecture", ["cnnectome_unet", "residual_encoder_unet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_folding_batch_norms_changes_nothing_but_rounding(architecture: str, dims: int) -> None:
    """A model for prediction has no batch norm left, says what the model says, and the model is as it was."""
    config = {
        "type": architecture, "input_shape": [16] * dims, "fmaps_in": 1, "fmaps_out": 4, "num_fmaps": 4,
        "downsample_factors": [[2] * dims], "batch_norm": True,
    }  # fmt: skip
    config |= (
        {"fmap_inc_factor": 2, "padding": "same", "use_attention": True} if architecture == "cnnectome_unet" else {}
    )
    run = RunConfig.from_dict(
        {"name": "r", "task": {"type": "affinities", "neighborhood": [[1] * dims]}, "architecture": config}
    )
    model = run.model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
            norm.weight.uniform_(0.5, 2), norm.bias.uniform_(-1, 1)
        for _ in range(3):
            model(torch.rand(2, 1, *run.model.input_shape))
        x = torch.rand(1, 1, *run.model.input_shape)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = folded(model)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in changed.modules())
    with torch.inference_mode():
        torch.testing.assert_close(changed(x), model(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_what_runs_in_order_is_folded() -> None:
    """Batch norms of foreign modules stay, unless they are in a plain sequence."""

    class Foreign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.BatchNorm3d(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts[1](x) + self.parts[0](x)

    run = make_run("same", [[2, 2, 2]], batch_norm=False)
    model = run.model.eval()
    assert folded(model) is model
    model.chain = torch.nn.Sequential(Foreign(), torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2)).eval()
    changed = folded(model).chain
    assert isinstance(changed[0].parts[1], torch.nn.BatchNorm3d)
    assert isinstance(changed[2], torch.nn.Identity)


def test_uint8_predictions_are_the_quantised_ones() -> None:
    """What a region becomes on the device is what `quantised` makes of it, bit for bit."""
    run = make_run("same", [[2, 2, 2]])
    network = Network(run, from_numpy(np.random.default_rng(3).random((9, 14, 12), np.float32)), CPU)
    for value_range in ((0.0, 1.0), (-1.0, 1.0), (0.1, 0.9)):
        expected = quantised(network.predict(), value_range, np.dtype(np.uint8))
        np.testing.assert_array_equal(network.predict(value_range=value_range), expected)
