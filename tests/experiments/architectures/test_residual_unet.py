"""The residual-encoder U-Net: its layers, and blocks that add up to the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError
from dacapo.experiments.architectures import ArchitectureConfig, ResidualEncoderUNetConfig
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate
from dacapo.network import Network

CPU = torch.device("cpu")


def config(factors, **fields) -> ResidualEncoderUNetConfig:
    """A thin network whose input is a few strides large."""
    dims = len(factors[0]) if factors else 2
    stride = [int(np.prod([f[a] for f in factors])) for a in range(dims)]
    values = {"fmaps_out": 3, "fmaps_in": 1, "num_fmaps": 2, "downsample_factors": factors} | fields
    return ResidualEncoderUNetConfig(input_shape=[2 * s for s in stride], **values)


def network(chosen: ResidualEncoderUNetConfig, seed: int = 0) -> nn.Module:
    """In eval mode; batch norms have seen something and no branch is zero."""
    torch.manual_seed(seed)
    module = chosen.module().eval()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1)
        elif isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.normal_(layer.weight, std=0.3)
    return module


NETS = {
    "2D": ([(2, 2), (2, 2)], {}),
    "2D odd": ([(3, 2), (2, 1)], {"kernel_sizes": [(1, 5), (3, 3), (3, 1)], "batch_norm": False}),
    "3D": ([(2, 2, 2)], {"constant_upsample": True}),
    "3D flat": ([(1, 2, 2), (2, 2, 2)], {"kernel_sizes": [(1, 3, 3), (3, 3, 3), (3, 3, 3)], "convolutions_up": 2}),
    "wide stride": ([(5, 4)], {"blocks_per_level": [2, 1]}),
    "one level": ([], {"blocks_per_level": [2]}),
}


@pytest.mark.parametrize("name", NETS)
def test_output_is_as_large_as_the_input(name):
    """The shape that the config says comes out, of this and the next input."""
    chosen = config(*NETS[name][:1], **NETS[name][1])
    module = network(chosen)
    for shape in (chosen.input_shape, chosen.next_input_shape(chosen.input_shape + 1)):
        with torch.inference_mode():
            output = module(torch.rand(1, 1, *shape))
        assert output.shape == (1, 3, *chosen.output_shape_of(shape))


@pytest.mark.parametrize("name", NETS)
def test_context_is_the_reach_rounded_up_to_the_stride(name):
    """NaN spreads as far as a voxel is seen: exactly the context, up to a whole stride."""
    chosen = config(*NETS[name][:1], **NETS[name][1])
    module, stride, context = network(chosen), chosen.stride, chosen.receptive_context()
    assert context.is_multiple_of(stride)
    for axis in range(chosen.dims):
        shape = list(chosen.stride)
        start = context[axis] + stride[axis]
        shape[axis] = 2 * start + stride[axis]
        seen = []
        for voxel in range(shape[axis]):
            x = torch.zeros(1, 1, *shape)
            x.select(axis + 2, voxel).fill_(torch.nan)
            with torch.inference_mode():
                block = module(x).narrow(axis + 2, start, stride[axis])
            if block.isnan().any():
                seen.append(voxel)
        reach = max(start - seen[0], seen[-1] - (start + stride[axis] - 1))
        assert reach <= context[axis] < reach + stride[axis]


@pytest.mark.parametrize("name", ["2D", "2D odd", "3D flat"])
def test_tiles_equal_the_whole(name):
    """Any tile size gives the prediction of the whole volume, to 1e-5, borders included."""
    chosen = config(*NETS[name][:1], **NETS[name][1])
    dims = chosen.dims
    offsets = np.eye(dims, dtype=int).tolist()
    run = RunConfig(name="r", task_config={"type": "affinities", "neighborhood": offsets}, architecture_config=chosen)
    run.model.chain[0].load_state_dict(network(chosen).state_dict())
    raw = from_numpy(np.random.default_rng(0).random((13, 22, 19)[-dims:], np.float32))
    whole = Network(run, raw, CPU, budget=2**40).predict()
    for region in ((8, 8, 12), (5, 7, 19)):
        tiled = Network(run, raw, CPU, region=Coordinate(region[-dims:]), budget=2**40)
        np.testing.assert_allclose(tiled.predict(), whole, atol=1e-5)


def test_nothing_is_normalised_over_a_sample():
    """No layer that would make a prediction depend on the tile, and none of another dimensionality."""
    for name, batch_norm in itertools.product(("2D", "3D"), (True, False)):
        chosen = config(NETS[name][0], batch_norm=batch_norm)
        norms = [m for m in chosen.module().modules() if "Norm" in type(m).__name__]
        assert all(isinstance(m, {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[chosen.dims]) for m in norms)
        assert bool(norms) == batch_norm


def test_levels_are_as_wide_and_deep_as_in_the_original():
    """32 maps, doubled per level, at most 320; 1, 3, 4, 6, 6, 6 blocks; all may be given."""
    chosen = ResidualEncoderUNetConfig("r", (64, 64, 64), 2, 1, downsample_factors=[(2, 2, 2)] * 5)
    assert chosen.fmaps() == [32, 64, 128, 256, 320, 320]
    assert chosen.blocks() == [1, 3, 4, 6, 6, 6]
    with torch.device("meta"):
        module = config([(2, 2, 2)] * 2, num_fmaps=4, max_fmaps=12).module()
    assert [len(level) for level in module.down] == [1, 3, 4]
    assert [level[0].first[0].out_channels for level in module.down] == [4, 8, 12]
    assert module.down[1][0].first[0].stride == (2, 2, 2)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_new_network_is_a_shallow_one(batch_norm):
    """Residual branches begin at zero, signals keep their size at any depth, and gradients reach what may learn."""
    torch.manual_seed(0)
    module = config([(2, 2)] * 3, num_fmaps=8, fmaps_out=8, batch_norm=batch_norm).module()
    block = module.down[2][1]
    x = torch.rand(2, 32, 8, 8)
    torch.testing.assert_close(block(x), x)
    output = module(torch.randn(2, 1, 16, 16))
    assert 0.1 < output.std() < 10
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_the_same_seed_gives_the_same_network():
    """Weights follow torch's global random numbers."""
    chosen, states = config([(2, 2)]), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(chosen.module().state_dict()["stem.0.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


BAD = [
    ({"input_shape": (63, 64, 64)}, r"input_shape: expected multiples of \(4, 4, 4\).*The next is \(64, 64, 64\)"),
    ({"input_shape": (64,)}, "input_shape: expected 2 or 3 axes"),
    ({"input_shape": (0, 64, 64)}, "input_shape: expected numbers of at least 1"),
    ({"eval_shape_increase": (2, 0, 0)}, r"input_shape \+ eval_shape_increase: expected multiples"),
    ({"eval_shape_increase": (4, 0)}, "eval_shape_increase: expected 3 numbers"),
    ({"downsample_factors": [(2, 2)]}, r"downsample_factors\[0\]: expected 3 numbers"),
    ({"downsample_factors": [(2, 2, 0)]}, r"downsample_factors\[0\]: expected numbers of at least 1"),
    ({"kernel_sizes": [(3, 3, 3)]}, "kernel_sizes: expected 3 levels for 2 downsample_factors, got 1"),
    ({"kernel_sizes": [(3, 3, 3), (3, 3, 2), (3, 3, 3)]}, r"kernel_sizes\[1\]: expected odd sizes"),
    ({"blocks_per_level": [1, 1]}, "blocks_per_level: expected 3 levels"),
    ({"blocks_per_level": [1, 0, 1]}, "blocks_per_level"),
    ({"max_fmaps": 8}, r"max_fmaps: expected at least num_fmaps \(32\), got 8"),
    ({"fmaps_out": 0}, "fmaps_out"),
    ({"convolutions_up": 0}, "convolutions_up"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_impossible_choices_are_refused(fields, message):
    """Each error names the field, says what was expected and is one line."""
    good = {"input_shape": (64, 64, 64), "fmaps_out": 1, "fmaps_in": 1, "downsample_factors": [(2, 2, 2), (2, 2, 2)]}
    ResidualEncoderUNetConfig(**good)
    with pytest.raises(ConfigError, match=message) as refusal:
        ResidualEncoderUNetConfig(**good | fields)
    assert "\n" not in str(refusal.value)


def test_network_refuses_what_the_config_would():
    """A shape that the strides do not divide is refused at run time too."""
    with pytest.raises(ConfigError, match="at level 1"):
        network(config([(2, 2), (2, 2)]))(torch.zeros(1, 1, 6, 8))


def test_config_survives_yaml():
    """What is written is read back equal; a short type name picks it."""
    for name in NETS:
        chosen = config(*NETS[name][:1], **NETS[name][1])
        assert ArchitectureConfig.from_yaml(chosen.to_yaml()) == chosen
    fields = chosen.to_dict() | {"type": "residual_encoder_unet"}
    assert ArchitectureConfig.from_dict(fields) == chosen
