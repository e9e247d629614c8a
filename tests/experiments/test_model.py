"""The model: an architecture, a head, and an activation for prediction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dacapo.errors import ConfigError
from dacapo.experiments.architectures import ArchitectureConfig, CNNectomeUNetConfig, DummyArchitectureConfig
from dacapo.experiments.architectures.architecture import Architecture
from dacapo.experiments.model import Model
from dacapo.geometry import Coordinate


class FakePretrainedConfig(ArchitectureConfig):
    """Stands for a network with weights of its own, that only running tells the output shape of."""

    runs_without_values: bool = True

    @property
    def input_shape(self):
        return Coordinate(8, 8)

    @property
    def num_in_channels(self):
        return 2

    @property
    def num_out_channels(self):
        return 3

    def module(self):
        layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)]
        nn.init.constant_(layers[0].weight, 7.0)
        return nn.Sequential(*layers if self.runs_without_values else [*layers, NeedsValues()])


class NeedsValues(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) < 1e9 else x[:, :1]


def unet_config(**fields) -> CNNectomeUNetConfig:
    values = {"padding": "same", "batch_norm": True} | fields
    return CNNectomeUNetConfig("unet", (16, 16, 16), 4, 1, 2, 2, [(2, 2, 2)], **values)


def make(architecture=None, activation=None) -> Model:
    architecture = architecture or unet_config()
    heads = {2: nn.Conv2d, 3: nn.Conv3d}
    return Model(architecture, heads[architecture.dims](architecture.num_out_channels, 5, 1), activation)


def test_attributes():
    """What is documented is there, with its type."""
    architecture, activation = unet_config(eval_shape_increase=(8, 4, 4)), nn.Sigmoid()
    head = nn.Conv3d(4, 5, 1)
    model = Model(architecture, head, activation)
    assert issubclass(CNNectomeUNetConfig, Architecture)
    assert model.architecture is architecture
    assert model.prediction_head is head
    assert isinstance(model.chain, nn.Sequential)
    assert model.chain[1] is head
    assert (model.num_in_channels, model.num_out_channels) == (1, 5)
    assert (model.input_shape, model.output_shape) == ((16, 16, 16), (16, 16, 16))
    assert model.eval_input_shape == (24, 20, 20)
    assert all(isinstance(s, Coordinate) for s in (model.input_shape, model.eval_input_shape, model.output_shape))
    assert model.eval_activation is activation
    assert make().eval_activation is None


def test_eval_activation_is_for_eval_mode():
    """Training sees logits, prediction the activation of them."""
    model = make(unet_config(batch_norm=False), nn.Sigmoid())
    x = torch.rand(1, 1, 16, 16, 16)
    logits = model.train()(x)
    assert torch.equal(logits, model.chain(x))
    assert torch.equal(model.eval()(x), torch.sigmoid(logits))


def test_state_dict_has_the_known_keys():
    """`prediction_head.*` and `chain.*`, of which `chain.1` is the head once more."""
    state = make().state_dict()
    assert {name.split(".")[0] for name in state} == {"prediction_head", "chain"}
    assert torch.equal(state["prediction_head.weight"], state["chain.1.weight"])
    assert "chain.0.l_conv.0.conv_pass.0.weight" in state
    one, two = make(), make()
    one.load_state_dict(two.state_dict())
    x = torch.rand(1, 1, 16, 16, 16)
    assert torch.equal(one.eval()(x), two.eval()(x))


@pytest.mark.parametrize(
    "architecture", [unet_config(), FakePretrainedConfig(), FakePretrainedConfig(runs_without_values=False)]
)
@pytest.mark.parametrize("training", [True, False])
def test_compute_output_shape_changes_nothing(architecture, training):
    """Neither weights nor batch statistics, neither modes nor the random numbers."""
    torch.manual_seed(0)
    model = make(architecture)
    model.train(training)
    frozen = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    frozen.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    channels, shape = model.compute_output_shape(architecture.input_shape * 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [part.training for part in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    with torch.inference_mode():
        real = model.eval()(torch.zeros(1, model.num_in_channels, *architecture.input_shape * 2))
    assert (channels, tuple(shape)) == (real.shape[1], tuple(real.shape[2:]))
    assert isinstance(channels, int)
    assert isinstance(shape, Coordinate)


def test_making_a_model_leaves_batch_statistics_alone():
    """A new model's batch norms have seen nothing, and it is in train mode."""
    model = make()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(int(m.num_batches_tracked) == 0 for m in norms)
    assert model.training
    assert all(m.training for m in model.modules())


def test_output_shape_of_a_large_input_costs_nothing():
    """A shape whose features would not fit into memory is answered all the same."""
    assert make().compute_output_shape(Coordinate(20_000, 20_000, 20_000)) == (5, (20_000, 20_000, 20_000))


@pytest.mark.parametrize(
    "head", [nn.Conv3d(4, 6, 3), nn.Conv3d(4, 6, 9), nn.Sequential(nn.AvgPool3d(2), nn.Conv3d(4, 6, 1))]
)
def test_heads_that_change_the_shape(head):
    """A head may shrink what it gets, also from more voxels than a small probe has."""
    model = Model(unet_config(), head)
    with torch.inference_mode():
        real = model.eval()(torch.zeros(1, 1, 16, 16, 16))
    assert (model.num_out_channels, tuple(model.output_shape)) == (6, tuple(real.shape[2:]))


def test_compute_output_shape_needs_a_coordinate():
    """A tuple is refused as documented; a shape the network cannot take with the next ones."""
    model = make()
    for wrong in ((16, 16, 16), [16, 16, 16], 16):
        with pytest.raises(AssertionError, match="expected a Coordinate"):
            model.compute_output_shape(wrong)
    with pytest.raises(ConfigError, match="z 16 or 18"):
        model.compute_output_shape(Coordinate(17, 16, 16))
    with pytest.raises(ConfigError, match="expected 3 numbers"):
        model.compute_output_shape(Coordinate(16, 16))


def test_only_the_head_is_initialised_here():
    """An architecture's own weights stay; the head is drawn for rectified units, from the global seed."""
    model = make(FakePretrainedConfig())
    assert (model.chain[0][0].weight == 7.0).all()
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(Model(FakePretrainedConfig(), nn.Conv2d(3, 5000, 1)).prediction_head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx((2 / 3) ** 0.5, rel=0.05)


def test_scale():
    """The voxel size of the output; a tuple is refused, a voxel that is no whole number needs scale_factor."""
    model = make(unet_config(upsample_factors=[(1, 2, 2)]))
    assert model.scale(Coordinate(40, 8, 4)) == Coordinate(40, 4, 2)
    assert isinstance(model.scale(Coordinate(40, 8, 4)), Coordinate)
    assert model.scale_factor == (1.0, 2.0, 2.0)
    with pytest.raises(AssertionError, match="expected a Coordinate"):
        model.scale((40, 8, 4))
    with pytest.raises(ConfigError):
        model.scale(Coordinate(40, 5, 5))
    assert make(DummyArchitectureConfig("d", 1, 2)).scale(Coordinate(3, 5, 7)) == Coordinate(3, 5, 7)


def test_a_head_without_parameters():
    """An identity for a head, as for a network that is used as it is."""
    model = Model(unet_config(), nn.Identity())
    assert (model.num_out_channels, model.output_shape) == (4, (16, 16, 16))
