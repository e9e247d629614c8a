"""The U-Net: shapes known without running, blocks that add up to the whole, names of parameters."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dacapo.errors import ConfigError
from dacapo.experiments.architectures import ArchitectureConfig, CNNectomeUNetConfig, DummyArchitectureConfig
from dacapo.experiments.architectures.unet_module import UNet
from dacapo.experiments.architectures.unet_shapes import Misfit, UNetAxis
from dacapo.geometry import Coordinate

TWO = [(2, 2), (2, 2)]
THREE = [(2, 2), (3, 2), (2, 2)]
FLAT = [(1, 2, 2), (2, 2, 2)]
FLAT_KERNELS = [[(1, 3, 3), (1, 3, 3)], [(3, 3, 3)], [(3, 3, 3), (3, 1, 1)]]
OWN_KERNELS = {"kernel_size_down": FLAT_KERNELS, "kernel_size_up": FLAT_KERNELS[:2]}


def config(at_least, factors, **fields) -> CNNectomeUNetConfig:
    """A thin U-Net whose input is the smallest it takes that is not below `at_least`."""
    values = {
        "fmaps_out": 3,
        "fmaps_in": 1,
        "num_fmaps": 2,
        "fmap_inc_factor": 2,
        "downsample_factors": factors,
        "upsample_factors": [],
    } | fields
    shape = CNNectomeUNetConfig.model_construct(input_shape=Coordinate(at_least), **values).next_input_shape(at_least)
    return CNNectomeUNetConfig(input_shape=shape, **values)


def network(unet_config: CNNectomeUNetConfig, seed: int = 0) -> nn.Module:
    """In eval mode; batch norms have seen something."""
    torch.manual_seed(seed)
    module = unet_config.module().eval()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module


def run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module(x)


def random_input(unet_config: CNNectomeUNetConfig, shape=None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, unet_config.fmaps_in, *(shape or unet_config.input_shape), generator=generator)


NETS = {
    "valid 2D": ((30, 30), TWO, {}),
    "valid 2D, 4 levels": ((1, 1), THREE, {}),
    "valid 3D": ((1, 1, 1), [(2, 2, 2)] * 2, {}),
    "valid flat": ((1, 1, 1), FLAT, OWN_KERNELS),
    "valid odd crop": ((1, 1), [(3, 3), (3, 3)], {"kernel_size_up": [[(3, 3)], [(3, 3)]]}),
    "valid tail": ((1, 1), TWO, {"upsample_factors": [(2, 3), (1, 2)]}),
    "valid attention": ((1, 1), THREE, {"use_attention": True, "batch_norm": True}),
    "valid even kernels": ((1, 1), TWO, {"kernel_size_up": [[(2, 3)], [(4, 2)]]}),
    "same 2D": ((64, 64), TWO, {"padding": "same"}),
    "same 2D, 4 levels": ((1, 1), THREE, {"padding": "same", "constant_upsample": False}),
    "same 3D": ((1, 1, 1), FLAT, {"padding": "same", "batch_norm": True}),
    "same tail": ((5, 5), [(2, 1)], {"padding": "same", "upsample_factors": [(2, 3)], "batch_norm": True}),
    "same attention": ((9, 9), THREE, {"padding": "same", "use_attention": True}),
    "one block": ((7, 8), [], {"use_attention": True}),
    "one block same": ((7, 8, 9), [], {"padding": "same", "fmaps_out": 7, "upsample_factors": [(2, 2, 2)]}),
}


@pytest.mark.parametrize("name", NETS)
def test_output_shape_is_known_without_running(name):
    """The shape that the arithmetic gives is the shape that comes out, of this and the next input."""
    unet_config = config(*NETS[name][:2], **NETS[name][2])
    module = network(unet_config)
    following = unet_config.next_input_shape(unet_config.input_shape + 1)
    for shape in (unet_config.input_shape, following):
        output = run(module, random_input(unet_config, shape))
        assert tuple(output.shape[2:]) == unet_config.output_shape_of(shape)
        assert output.shape[1] == unet_config.num_out_channels == unet_config.fmaps_out
    assert following - unet_config.input_shape == unet_config.stride


@pytest.mark.parametrize("name", [n for n in NETS if n.startswith("same") or n == "one block same"])
def test_same_keeps_the_size_at_every_depth(name):
    """With `same` padding the output has the size of the input, times the upsampling of the tail."""
    unet_config = config(*NETS[name][:2], **NETS[name][2])
    factors = [int(f) for f in unet_config.scale_factor]
    assert unet_config.output_shape_of(unet_config.input_shape) == unet_config.input_shape * Coordinate(factors)


def test_every_size_is_taken_or_refused_as_the_network_does():
    """Arithmetic and network agree on each size; a refusal names the level and the next sizes."""
    unet_config = config((1, 24), [(3, 2), (2, 2)], kernel_size_down=[[(3, 3)], [(3, 3)], [(3, 3)]])
    module = network(unet_config)
    for size in range(1, 50):
        shape = Coordinate(size, unet_config.input_shape[1])
        try:
            run(module, random_input(unet_config, shape))
        except (ConfigError, RuntimeError):
            message = r"input_shape.*along y.*at .*level \d.*next sizes it takes: y"
            with pytest.raises(ConfigError, match=message) as refusal:
                unet_config.output_shape_of(shape)
            below = [s for s in range(size) if unet_config.unet_axes()[0].takes(s)]
            above = next(s for s in itertools.count(size) if unet_config.unet_axes()[0].takes(s))
            said = f"{below[-1]} or {above}" if below else f"{above}"
            assert f"y {said}, x {shape[1]}" in str(refusal.value)
        else:
            unet_config.output_shape_of(shape)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    factors=st.lists(st.integers(1, 3), max_size=3),
    kernels=st.lists(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=2), min_size=7, max_size=7),
    same=st.booleans(),
    attention=st.booleans(),
    size=st.integers(1, 300),
)
def test_next_sizes_are_the_next_ones(factors, kernels, same, attention, size):
    """`at_least` and `at_most` find what trying every size finds, and context never leaves a gap."""
    levels = len(factors)
    down, up = (tuple(map(tuple, part)) for part in (kernels[: levels + 1], kernels[4 : 4 + levels]))
    axis = UNetAxis(down, up, tuple(factors), (), same, attention and bool(levels))
    assert axis.at_least(size) == next(s for s in itertools.count(size) if axis.takes(s))
    assert axis.at_most(size) == next((s for s in range(size, 0, -1) if axis.takes(s)), None)
    fitting = axis.at_least(size)
    assert fitting - axis.trace(fitting).size <= 2 * axis.context
    if same:
        assert axis.context % axis.stride == 0


def test_misfit_names_what_is_too_small():
    """Too few voxels for the convolutions is said with the level."""
    axis = UNetAxis(((3, 3), (3, 3)), ((3, 3),), (2,), (), False, False)
    with pytest.raises(Misfit, match="level 1 there are 4 voxels, too few"):
        axis.trace(12)


def delta(unet_config: CNNectomeUNetConfig) -> nn.Module:
    """A network that only hands its input through the finest skip connection."""
    module = network(unet_config)
    last = module.r_conv[0][0] if unet_config.downsample_factors else module.l_conv[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for conv_pass in {module.l_conv[0], last}:
            for layer in conv_pass.conv_pass:
                if isinstance(layer, nn.modules.conv._ConvNd):
                    layer.weight[(0, 0, *(size // 2 for size in layer.kernel_size))] = 1
    return module


@pytest.mark.parametrize(
    "name", ["valid 2D", "valid 2D, 4 levels", "valid 3D", "valid flat", "valid odd crop", "same 3D", "one block"]
)
def test_output_offset_is_where_the_output_lies(name):
    """The first output voxel lies where `output_offset_of` says."""
    unet_config = config(*NETS[name][:2], **NETS[name][2] | {"batch_norm": False})
    x = random_input(unet_config)
    output = run(delta(unet_config), x)[:, :1]
    offset = unet_config.output_offset_of(unet_config.input_shape)
    for axis, (start, size) in enumerate(zip(offset, output.shape[2:], strict=True), start=2):
        x = x.narrow(axis, start, size)
    torch.testing.assert_close(output, x)


def reach(unet_config: CNNectomeUNetConfig, shape: Coordinate, start: Coordinate, size: Coordinate):
    """By gradients: the first and last input voxel per axis that the output block depends on.

    Weights are positive and maxima are means, so that no dependence cancels.
    """
    module = copy.deepcopy(network(unet_config))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1)
    pools = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
    module.l_down = nn.ModuleList(pools[unet_config.dims](f, f) for f in unet_config.downsample_factors)
    x = random_input(unet_config, shape).double().requires_grad_()
    block = module.double()(x)
    for axis in range(unet_config.dims):
        block = block.narrow(axis + 2, start[axis], size[axis])
    block.sum().backward()
    seen = x.grad[0, 0].nonzero()
    return seen.min(0).values.tolist(), seen.max(0).values.tolist()


@pytest.mark.parametrize(
    ("factors", "fields"),
    [
        (TWO, {}),
        ([(2, 2)], {"kernel_size_down": [[(3, 1)], [(5, 3)]], "kernel_size_up": [[(1, 3)]]}),
        ([(2, 3), (3, 1)], {"constant_upsample": False, "batch_norm": True}),
        ([], {}),
    ],
)
def test_context_is_the_reach_rounded_up_to_the_stride(factors, fields):
    """No input beyond the context reaches an aligned block, and one stride less would not do."""
    unet_config = config((1, 1), factors, padding="same", **fields)
    context, stride = unet_config.receptive_context(), unet_config.stride
    assert context.is_multiple_of(stride)
    start = context + stride
    first, last = reach(unet_config, start * 2 + stride, start, stride)
    for axis in range(2):
        before, after = start[axis] - first[axis], last[axis] - (start[axis] + stride[axis] - 1)
        assert max(before, after) <= context[axis] < max(before, after) + stride[axis]


@pytest.mark.parametrize("name", ["same 2D", "same 2D, 4 levels", "same attention", "same 3D"])
def test_what_lies_beyond_the_context_changes_nothing(name):
    """Other voxels outside the context leave the block as it was."""
    unet_config = config(*NETS[name][:2], **NETS[name][2] | {"padding": "same", "batch_norm": True})
    module, context, stride = network(unet_config), unet_config.receptive_context(), unet_config.stride
    start = context + stride
    x = random_input(unet_config, start * 2 + stride)
    inner = tuple(slice(a - c, a + s + c) for a, s, c in zip(start, stride, context, strict=True))
    other = torch.rand_like(x) * 5
    other[(..., *inner)] = x[(..., *inner)]
    block = (..., *(slice(a, a + s) for a, s in zip(start, stride, strict=True)))
    one, two = run(module, x), run(module, other)
    torch.testing.assert_close(one[block], two[block], rtol=0, atol=1e-6)
    assert not torch.allclose(one, two)


SAME = {
    "2 levels": ((1, 1), [(2, 2)], {}),
    "3 levels": ((1, 1), TWO, {"batch_norm": True}),
    "4 levels": ((1, 1), THREE, {"constant_upsample": False, "batch_norm": True}),
    "3D, flat": ((1, 1, 1), FLAT, {"batch_norm": True, **OWN_KERNELS}),
    "attention": ((1, 1), TWO, {"use_attention": True, "batch_norm": True}),
    "tail": ((1, 1), TWO, {"upsample_factors": [(2, 3)]}),
}


@pytest.mark.parametrize("name", SAME)
def test_blocks_with_context_are_the_whole(name):
    """`same`: aligned blocks, read with context and cropped, equal the prediction of the whole volume."""
    unet_config = config(*SAME[name][:2], **SAME[name][2] | {"padding": "same"})
    module, context, stride = network(unet_config), unet_config.receptive_context(), unet_config.stride
    blocks = 2 if unet_config.dims == 3 else 3
    size = stride * max(1, 8 // max(stride))
    volume = Coordinate(max(b, 2 * c + b) for b, c in zip(size * blocks, context, strict=True))
    x, scale = random_input(unet_config, volume), Coordinate(int(f) for f in unet_config.scale_factor)
    whole = run(module, x)
    corners = (range(0, v, -(-v // blocks // s) * s) for v, s in zip(volume, size, strict=True))
    for corner in itertools.product(*corners):
        starts = [max(0, c - r) for c, r in zip(corner, context, strict=True)]
        ends = [min(v, c + s + r) for v, c, s, r in zip(volume, corner, size, context, strict=True)]
        part = run(module, x[(..., *(slice(a, b) for a, b in zip(starts, ends, strict=True)))])
        expected = whole
        for axis, f in enumerate(scale):
            count = min(size[axis], volume[axis] - corner[axis]) * f
            part = part.narrow(axis + 2, (corner[axis] - starts[axis]) * f, count)
            expected = expected.narrow(axis + 2, corner[axis] * f, count)
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


VALID = {
    "2 levels": ((1, 1), [(2, 2)], {}),
    "3 levels": ((1, 1), TWO, {"batch_norm": True}),
    "4 levels": ((1, 1), THREE, {"constant_upsample": False}),
    "3D": ((1, 1, 1), [(2, 2, 2)] * 2, {}),
    "3D, flat": ((1, 1, 1), FLAT, {"batch_norm": True, **OWN_KERNELS}),
    "odd crop": ((1, 1), [(3, 3), (3, 3)], {"kernel_size_up": [[(3, 3)], [(3, 3)]]}),
    "tail": ((1, 1), TWO, {"upsample_factors": [(2, 3)]}),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_blocks_are_the_whole(name):
    """`valid`: outputs of inputs that are shifted by the stride are parts of one whole prediction."""
    unet_config = config(*VALID[name][:2], **VALID[name][2])
    module, stride = network(unet_config), unet_config.stride
    x = random_input(unet_config, unet_config.input_shape + stride * 2)
    whole = run(module, x)
    offset = unet_config.output_offset_of(unet_config.input_shape)
    assert unet_config.output_offset_of(Coordinate(x.shape[2:])) == offset
    steps_per_axis = (0, 1, 2) if unet_config.dims == 2 else (0, 2)
    for steps in itertools.product(steps_per_axis, repeat=unet_config.dims):
        corner = stride * Coordinate(steps)
        part = run(module, x[(..., *(slice(c, c + s) for c, s in zip(corner, unet_config.input_shape, strict=True)))])
        starts = [int(c * f) for c, f in zip(corner, unet_config.scale_factor, strict=True)]
        expected = whole[(..., *(slice(a, a + s) for a, s in zip(starts, part.shape[2:], strict=True)))]
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


def test_valid_attention_is_the_whole_within_its_context():
    """`valid` with attention: what is left after its whole context is cropped equals the whole."""
    unet_config = config((1, 1), TWO, use_attention=True, batch_norm=True)
    module, context, stride = network(unet_config), unet_config.receptive_context(), unet_config.stride
    shape = unet_config.next_input_shape(context * 2 + stride)
    crop = context - unet_config.output_offset_of(shape)
    assert min(crop) > 0
    x = random_input(unet_config, shape + stride * 2)
    whole = run(module, x)[..., stride[0] + crop[0] :, stride[1] + crop[1] :]
    part = run(module, x[..., stride[0] : stride[0] + shape[0], stride[1] : stride[1] + shape[1]])
    part = part[..., crop[0] : part.shape[2] - crop[0], crop[1] : part.shape[3] - crop[1]]
    assert part.numel()
    torch.testing.assert_close(part, whole[..., : part.shape[2], : part.shape[3]], rtol=1e-5, atol=1e-5)


def test_parameters_have_the_names_of_existing_checkpoints():
    """The names, with and without options, are those that checkpoints of this network have."""

    def names(**fields):
        state = config((1, 1, 1), [(2, 2, 2)] * 2, **fields).module().state_dict()
        return {n.removesuffix(".weight") for n in state if n.endswith("weight")}

    plain = {f"l_conv.{i}.conv_pass.{j}" for i in range(3) for j in (0, 2)}
    plain |= {f"r_conv.0.{i}.conv_pass.{j}" for i in range(2) for j in (0, 2)}
    assert names() == plain | {"r_up.0.0.up.1", "r_up.0.1.up.1"}
    assert names(constant_upsample=False) == plain | {"r_up.0.0.up.0", "r_up.0.1.up.0"}
    normed = {f"l_conv.{i}.conv_pass.{j}" for i in range(3) for j in (0, 1, 3, 4)}
    assert normed < names(batch_norm=True)
    gates = {f"{part}.conv_pass.{j}" for part, j in itertools.product(("W_g", "W_x.0"), (0, 1))}
    gates |= {"psi.conv_pass.0", "psi.conv_pass.2"}
    assert names(use_attention=True) - names() == {f"attention.0.{i}.{gate}" for i in range(2) for gate in gates}
    tail = names(upsample_factors=[(2, 2, 2)])
    assert {n.removeprefix("0.") for n in tail if n.startswith("0.")} == names()
    assert {n for n in tail if not n.startswith("0.")} == {"1.up.1", "2.conv_pass.0", "2.conv_pass.2"}


def test_widths_follow_the_levels():
    """Widths multiply by level; the finest level upsamples without narrowing; the output has fmaps_out."""
    widths = {"fmaps_out": 5, "fmaps_in": 2, "num_fmaps": 4, "fmap_inc_factor": 3}
    module = config((1, 1, 1), [(2, 2, 2)] * 2, use_attention=True, **widths).module()
    shapes = {n.removesuffix(".weight"): tuple(p.shape[:2]) for n, p in module.named_parameters() if p.dim() > 1}
    assert shapes["l_conv.0.conv_pass.0"] == (4, 2)
    assert shapes["l_conv.2.conv_pass.2"] == (36, 36)
    assert shapes["r_up.0.1.up.1"] == (12, 36)
    assert shapes["r_conv.0.1.conv_pass.0"] == (12, 24)
    assert shapes["r_up.0.0.up.1"] == (12, 12)
    assert shapes["r_conv.0.0.conv_pass.0"] == (5, 16)
    assert shapes["attention.0.0.W_g.conv_pass.0"] == (5, 12)
    assert shapes["attention.0.1.W_x.0.conv_pass.0"] == (12, 12)


def test_the_reference_network_has_its_size():
    """188 voxels in, 12 maps, 6 times wider on each of 3 more levels, 72 out: 234.7 million parameters."""
    reference = CNNectomeUNetConfig("yoshi", (188,) * 3, 72, 1, 12, 6, [(2, 2, 2)] * 3, eval_shape_increase=(72,) * 3)
    assert reference.output_shape_of(Coordinate(188, 188, 188)) == (96, 96, 96)
    with torch.device("meta"):
        module = UNet(reference)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 1) == 234.7


@pytest.mark.parametrize("dims", [2, 3])
def test_network_has_the_dims_of_its_input(dims):
    """A 3D network has no 2D layer and the other way round."""
    module = config((1,) * dims, [(2,) * dims], batch_norm=True, use_attention=True).module()
    other = {2: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d), 3: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)}[dims]
    assert not [m for m in module.modules() if isinstance(m, other)]


def test_upsampling_order_does_not_matter():
    """Convolving before voxels are repeated gives what convolving after gives."""
    module = network(config((1, 1), TWO))
    up = module.r_up[0][1]
    x = torch.rand(1, 8, 5, 6)
    torch.testing.assert_close(run(up, x), torch.relu(up.up(x)), rtol=1e-5, atol=1e-6)


def test_initialisation_follows_the_global_seed():
    """The same seed gives the same network; weights have the spread of He et al."""
    unet_config = config((1, 1), TWO, num_fmaps=16, constant_upsample=False)
    one, same, other = (network(unet_config, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["l_conv.1.conv_pass.0.weight"], other["l_conv.1.conv_pass.0.weight"])
    assert one["l_conv.1.conv_pass.2.weight"].std() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert one["r_up.0.1.up.0.weight"].std() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "fields", [{}, {"padding": "same", "use_attention": True, "batch_norm": True, "constant_upsample": False}]
)
def test_channels_last_stays(fields):
    """Where convolutions give channels_last_3d (torch chooses by size), no step between them breaks it."""
    unet_config = config((1, 1, 1), [(2, 2, 2)] * 2, **fields)
    module, x = network(unet_config), random_input(unet_config)
    expected, last = run(module, x), torch.channels_last_3d
    broken = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            layer.register_forward_hook(lambda _, __, y: y.contiguous(memory_format=last))
        elif name:
            layer.register_forward_hook(
                lambda _, x, y, name=name: (
                    None
                    if all(t.is_contiguous(memory_format=last) for t in (*x, y) if isinstance(t, torch.Tensor))
                    else broken.append(name)
                )
            )
    module.to(memory_format=last)
    output = run(module, x.contiguous(memory_format=last))
    assert not broken
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter():
    """In-place activations leave what backward needs."""
    for name in ("valid attention", "same tail", "same 2D, 4 levels"):
        unet_config = config(*NETS[name][:2], **NETS[name][2])
        torch.manual_seed(0)
        module = unet_config.module()
        x = torch.rand(2, 1, *unet_config.next_input_shape(unet_config.input_shape + 1))
        module(x).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


BAD = [
    ({"input_shape": (63, 64, 64)}, r"input_shape.*\(63, 64, 64\).*z, at level 0 there are 63 .*z 60 or 64, y 64"),
    ({"input_shape": (0, 64, 64)}, "input_shape: expected numbers of at least 1"),
    ({"input_shape": (64,)}, "input_shape: expected 2 or 3 axes"),
    ({"input_shape": (64.5, 64, 64)}, "input_shape: expected whole numbers"),
    ({"eval_shape_increase": (2, 0, 0)}, r"input_shape \+ eval_shape_increase.*\(66, 64, 64\)"),
    ({"eval_shape_increase": (-4, 0, 0)}, "eval_shape_increase: expected numbers of at least 0"),
    ({"eval_shape_increase": (4, 0)}, "eval_shape_increase: expected 3 numbers"),
    ({"fmaps_out": 0}, "fmaps_out"),
    ({"num_fmaps": -3}, "num_fmaps"),
    ({"fmap_inc_factor": 0}, "fmap_inc_factor"),
    ({"fmaps_in": "one"}, "fmaps_in"),
    ({"downsample_factors": [(2, 2)]}, r"downsample_factors\[0\]: expected 3 numbers"),
    ({"downsample_factors": [(2, 2, 2), (2, 0, 2)]}, r"downsample_factors\[1\]: expected numbers of at least 1"),
    ({"upsample_factors": [(2, -2, 2)]}, r"upsample_factors\[0\]: expected numbers of at least 1"),
    ({"kernel_size_down": [[(3, 3, 3)]]}, "kernel_size_down: expected 3 levels for 2 downsample_factors, got 1"),
    ({"kernel_size_up": [[(3, 3, 3)]] * 3}, "kernel_size_up: expected 2 levels"),
    ({"kernel_size_up": [[(3, 3, 3)], []]}, r"kernel_size_up\[1\]: expected at least one kernel"),
    ({"kernel_size_down": [[(3, 3, 3)]] * 2 + [[(3, 3)]]}, r"kernel_size_down\[2\]\[0\]: expected 3 numbers"),
    ({"kernel_size_down": [[(3, 3, 3)]] * 2 + [[(2, 3, 3)]]}, r"kernel_size_down\[2\]\[0\]: expected odd sizes"),
    ({"padding": "reflect"}, "padding"),
    ({"batch_norm": "perhaps"}, "batch_norm"),
    ({"skip_gate": True}, "skip_gate"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_impossible_choices_are_refused(fields, message):
    """Each error names the field, says what was expected and is one line."""
    good = {
        "input_shape": (64, 64, 64),
        "fmaps_out": 1,
        "fmaps_in": 1,
        "num_fmaps": 2,
        "fmap_inc_factor": 2,
        "downsample_factors": [(2, 2, 2), (2, 2, 2)],
        "padding": "same",
    }
    CNNectomeUNetConfig(**good)
    with pytest.raises(ConfigError, match=message) as refusal:
        CNNectomeUNetConfig(**good | fields)
    assert "\n" not in str(refusal.value)


def test_network_refuses_what_the_config_would():
    """A shape that cannot be pooled is refused at run time too, instead of losing voxels."""
    module = network(config((64, 64), TWO, padding="same"))
    with pytest.raises(ConfigError, match="at level 1"):
        module(torch.zeros(1, 1, 66, 64))


def test_previous_and_next_input_shape():
    """The next shapes around one; none below the smallest."""
    unet_config = config((1, 1), TWO)
    smallest = unet_config.input_shape
    assert unet_config.previous_input_shape(smallest + 3) == smallest
    assert unet_config.next_input_shape(smallest + 1) == smallest + 4
    with pytest.raises(ConfigError, match="smallest"):
        unet_config.previous_input_shape(smallest - 1)


def test_scale():
    """Whole voxel sizes are divided by the tail's factors or refused; scale_factor serves floats."""
    unet_config = config((1, 1, 1), [], upsample_factors=[(2, 1, 1), (1, 2, 2)])
    assert unet_config.scale(Coordinate(8, 4, 4)) == Coordinate(4, 2, 2)
    assert unet_config.scale_factor == (2.0, 2.0, 2.0)
    with pytest.raises(ConfigError, match="scale_factor"):
        unet_config.scale(Coordinate(5, 4, 4))
    with pytest.raises(ConfigError, match="expected 3 numbers"):
        unet_config.scale(Coordinate(4, 4))
    assert config((1, 1), []).scale(Coordinate(5, 5)) == Coordinate(5, 5)


def test_config_survives_yaml():
    """What is written is read back equal, with defaults and without; field names of older files are known."""
    for fields in ({}, {"upsample_factors": [(2, 2)], "kernel_size_up": [[(3, 3)]] * 2, "padding": "same"}):
        unet_config = config((64, 64), TWO, **fields)
        assert ArchitectureConfig.from_yaml(unet_config.to_yaml()) == unet_config
    data = unet_config.to_dict()
    data["_input_shape"] = data.pop("input_shape")
    data["__type__"] = data.pop("type")
    assert ArchitectureConfig.from_dict(data | {"eval_shape_increase": None}) == unet_config


def test_dummy_architecture():
    """One convolution without padding, at a fixed shape."""
    dummy = DummyArchitectureConfig("dummy", 1, 12)
    assert (dummy.input_shape, dummy.dims, dummy.eval_shape_increase) == ((40, 20, 20), 3, (0, 0, 0))
    assert dummy.module()(torch.zeros(1, 1, 40, 20, 20)).shape == (1, 12, 38, 18, 18)
    assert dummy.output_shape_of(dummy.input_shape) == (38, 18, 18)
    assert dummy.stride == dummy.receptive_context() == dummy.output_offset_of(dummy.input_shape) == (1, 1, 1)
    assert dummy.next_input_shape((1, 9, 9)) == (3, 9, 9)
    with pytest.raises(ConfigError, match="at least"):
        dummy.output_shape_of((2, 9, 9))
    assert ArchitectureConfig.from_yaml(dummy.to_yaml()) == dummy


def test_an_architecture_that_does_not_know_its_shapes():
    """One that says nothing of its shapes can be trained, and says why it cannot predict in blocks."""

    class UnknownShapesConfig(ArchitectureConfig):
        input_shape: tuple[int, int] = (8, 8)
        num_in_channels: int = 1
        num_out_channels: int = 1

        def module(self):
            return nn.Identity()

    unknown = UnknownShapesConfig()
    assert (unknown.dims, unknown.stride, unknown.eval_shape_increase) == (2, (1, 1), (0, 0))
    assert unknown.next_input_shape(Coordinate(9, 9)) == (9, 9)
    assert unknown.output_shape_of((8, 8)) is None
    for method, arguments in (("receptive_context", ()), ("output_offset_of", ((8, 8),))):
        with pytest.raises(ConfigError, match=f"UnknownShapesConfig cannot predict in blocks: .*{method}"):
            getattr(unknown, method)(*arguments)
    with pytest.raises(TypeError):
        ArchitectureConfig()
