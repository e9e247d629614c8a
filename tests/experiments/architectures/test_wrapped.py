"""Modules made elsewhere: their weights stay, and how far they see is measured."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError
from dacapo.experiments.architectures import ArchitectureConfig, CNNectomeUNetConfig, WrappedArchitectureConfig
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate
from dacapo.network import Network


def small(dims: int = 2) -> nn.Module:
    conv, pool, norm = {2: (nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.MaxPool3d, nn.BatchNorm3d)}[
        dims
    ]
    torch.manual_seed(0)
    return nn.Sequential(
        conv(1, 4, 3, padding=1), norm(4), nn.ReLU(), pool(2), conv(4, 4, 3, padding=1), nn.Upsample(scale_factor=2)
    )


def wrap(module, shape=(16, 16), fmaps_out=4, **fields) -> WrappedArchitectureConfig:
    return WrappedArchitectureConfig("w", module, 1, fmaps_out, shape, **fields)


def script(module: nn.Module, path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))


def run_of(architecture) -> RunConfig:
    offsets = np.eye(architecture.dims, dtype=int).tolist()
    return RunConfig(
        name="r",
        precision="float32",
        task_config={"type": "affinities", "neighborhood": offsets},
        architecture_config=architecture,
    )


def test_weights_stay_and_nothing_is_frozen():
    """A model has the module's weights, bit for bit, all of them trainable; training it leaves the module alone."""
    module = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = run_of(wrap(module))
    backbone = run.model.chain[0]
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad for p in run.model.parameters())
    run.model(torch.rand(2, 1, 16, 16)).sum().backward()
    run.optimizer.step()
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert not torch.equal(backbone[0].weight, before["0.weight"])


def test_only_matching_parameters_are_trained():
    """With a regular expression, what does not match is frozen; one that matches nothing is refused."""
    network = wrap(small(), trainable_parameters=r"4\.").module()
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {"4.weight", "4.bias"}
    with pytest.raises(ConfigError, match=r"trainable_parameters: 'head' matches no parameter.*0.weight") as refusal:
        wrap(small(), trainable_parameters="head")
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="trainable_parameters: .* is no regular expression"):
        wrap(small(), trainable_parameters="(")


def test_a_torchscript_file(tmp_path):
    """A file gives the same network, survives YAML, and its parameters can be frozen."""
    module = small()
    script(module, tmp_path / "net.pt")
    config = wrap(tmp_path / "net.pt", trainable_parameters="4")
    again = ArchitectureConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.to_dict()["module"] == str(tmp_path / "net.pt")
    assert again.to_yaml() == config.to_yaml()
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(config.module().eval()(x), module.eval()(x))
    assert {n for n, p in config.module().named_parameters() if p.requires_grad} == {"4.weight", "4.bias"}
    assert (config.stride, config.receptive_context()) == (wrap(module).stride, wrap(module).receptive_context())
    relative = RunConfig(architecture_config=wrap("net.pt")).relative_to(tmp_path)
    assert relative.architecture_config.network == tmp_path / "net.pt"
    with pytest.raises(ConfigError, match="trainable_parameters: 'x' matches no parameter"):
        wrap(tmp_path / "net.pt", trainable_parameters="x").module()


def test_pickles_and_live_modules_are_not_files(tmp_path):
    """A pickled module is refused with the way out; a live one cannot be written."""
    torch.save(small(), tmp_path / "pickled.pt")
    with pytest.raises(
        ConfigError, match=r"pickled.pt: expected a TorchScript file.*torch.jit.script\(module\)"
    ) as refusal:
        wrap(tmp_path / "pickled.pt").module()
    assert "\n" not in str(refusal.value)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ConfigError, match="expected a TorchScript file"):
        wrap(tmp_path / "text.pt").module()
    with pytest.raises(ConfigError, match="no such file"):
        wrap(tmp_path / "none.pt").module()
    with pytest.raises(ConfigError, match="module: a live module cannot be written down: save it"):
        wrap(small()).to_yaml()


@pytest.mark.parametrize(
    ("factors", "fields"),
    [
        ([(2, 2), (2, 2)], {"padding": "same", "batch_norm": True}),
        ([(3, 2)], {"padding": "same", "use_attention": True}),
        ([(2, 2), (2, 3)], {}),
        ([(2, 2, 2)], {"upsample_factors": [(1, 2, 2)], "padding": "same"}),
        ([], {"kernel_size_down": [[(5, 3)]]}),
    ],
)
def test_measured_is_what_is_known(factors, fields):
    """For a U-Net, whose arithmetic is known, measuring finds the same stride, context and offset."""
    dims = len(factors[0]) if factors else 2
    values = dict(fmaps_out=3, fmaps_in=1, num_fmaps=2, fmap_inc_factor=2, downsample_factors=factors, **fields)
    shape = Coordinate((8,) * dims)
    shape = CNNectomeUNetConfig.model_construct(
        input_shape=shape, **{"upsample_factors": []} | values
    ).next_input_shape(shape)
    unet = CNNectomeUNetConfig(input_shape=shape, **values)
    wrapped = wrap(unet.module(), shape, 3, scale=[int(f) for f in unet.scale_factor])
    assert wrapped.stride == unet.stride
    expected = [-(-c // s) * s for c, s in zip(unet.receptive_context(), unet.stride, strict=True)]
    # Interpolation multiplies a voxel by 0 at some places: by the measure it is looked at.
    more = wrapped.receptive_context() - Coordinate(expected)
    assert all(m in ((0, s) if fields.get("use_attention") else (0,)) for m, s in zip(more, unet.stride, strict=True))
    assert wrapped.output_offset_of(shape) == unet.output_offset_of(shape)
    assert wrapped.next_input_shape(shape + 1) == unet.next_input_shape(shape + 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_tiles_equal_the_whole(dims):
    """A wrapped network predicts blockwise what it predicts at once."""
    run = run_of(wrap(small(dims), (8,) * dims))
    raw = from_numpy(np.random.default_rng(0).random((13, 22, 19)[-dims:], np.float32))
    whole = Network(run, raw, torch.device("cpu"), budget=2**40).predict()
    tiled = Network(run, raw, torch.device("cpu"), region=Coordinate((6, 8, 9)[-dims:]), budget=2**40).predict()
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    with torch.inference_mode():
        padded = np.pad(raw.read(), [(4, 6)] * dims, mode="reflect")
        reference = run.model(torch.from_numpy(padded[None, None]))[0].numpy()
    inner = tuple(slice(4, 4 + n) for n in raw.shape)
    if dims == 2:
        np.testing.assert_allclose(whole, reference[(slice(None), *inner)], atol=1e-5)


@pytest.mark.parametrize(
    "layer", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample((16, 16)))]
)
def test_a_network_that_looks_at_everything_is_refused(layer):
    """Norms over the sample and global pooling: blocks would not add up, unless the user knows better."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), layer)
    with pytest.raises(ConfigError, match="along z|along y|takes no size") as refusal:
        wrap(module).receptive_context()
    assert "known_context" in str(refusal.value)
    known = wrap(module, known_context=(4, 4), known_stride=(2, 1))
    assert (known.stride, known.receptive_context()) == ((2, 1), (4, 4))


def test_scale_is_kept():
    """`scale` divides the voxel size, by float where it must; a finer output tiles too."""
    wrapped = wrap(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Upsample(scale_factor=2)), scale=(2, 2))
    assert wrapped.scale(Coordinate(8, 4)) == (4, 2)
    assert wrapped.scale_factor == (2.0, 2.0)
    assert wrapped.receptive_context() == (1, 1)


BAD = [
    ({"module": 3}, "module: expected a torch.nn.Module or a path, got int"),
    ({"fmaps_in": 0}, "fmaps_in"),
    ({"fmaps_out": -1}, "fmaps_out"),
    ({"input_shape": (8,)}, "input_shape: expected 2 or 3 axes"),
    ({"input_shape": (8, 0)}, "input_shape: expected numbers of at least 1"),
    ({"scale": (1, 1, 1)}, "scale: expected 2 numbers"),
    ({"scale": (0, 1)}, "scale: expected numbers of at least 1"),
    ({"known_context": (-1, 1)}, "known_context: expected numbers of at least 0"),
    ({"known_stride": (2,)}, "known_stride: expected 2 numbers"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_impossible_choices_are_refused(fields, message):
    """Each error names the field."""
    good = {"name": "w", "module": small(), "fmaps_in": 1, "fmaps_out": 4, "input_shape": (16, 16)}
    WrappedArchitectureConfig(**good)
    with pytest.raises(ConfigError, match=message):
        WrappedArchitectureConfig(**good | fields)
