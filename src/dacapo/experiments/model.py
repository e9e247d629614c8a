"""The model: an architecture followed by a task's prediction head. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dacapo.experiments.architectures.architecture import Architecture, initialize_convolutions
from dacapo.geometry import Coordinate


class Model(nn.Module):
    """A trainable model: an architecture and a prediction head, made by a predictor.

    An `eval_activation` is applied in eval mode only: a loss that takes logits is trained on logits,
    and predictions are probabilities all the same. Shapes are spatial, in voxels, without batch and
    channels. The head's convolutions are initialised here, from torch's global random numbers; an
    architecture initialises, or has loaded, its own.

    Parameters
    ----------
    architecture : Architecture
        Builds the network: (B, num_in_channels, *spatial) to features.
    prediction_head : nn.Module
        From features to predictions, (B, num_out_channels, *spatial).
    eval_activation : nn.Module, optional
        Applied to predictions in eval mode.

    Attributes
    ----------
    chain : nn.Sequential
        The architecture's network followed by the head.
    num_in_channels, num_out_channels : int
    input_shape, eval_input_shape : Coordinate
        What the model is trained on, and what it predicts at once.
    output_shape : Coordinate
        What comes out for `input_shape`.

    Examples
    --------
    >>> from dacapo.experiments.architectures import DummyArchitectureConfig
    >>> architecture = DummyArchitectureConfig("dummy", num_in_channels=1, num_out_channels=12)
    >>> prediction_head = nn.Conv3d(12, 1, kernel_size=1)
    >>> model = Model(architecture, prediction_head)
    >>> x = torch.zeros(1, 1, 40, 20, 20)
    >>> type(model.forward(x)), model.forward(x).shape
    (<class 'torch.Tensor'>, torch.Size([1, 1, 38, 18, 18]))
    >>> input_shape = Coordinate(3, 3, 3)
    >>> model.compute_output_shape(input_shape)
    (1, (1, 1, 1))
    >>> voxel_size = Coordinate(1, 1, 1)
    >>> model.scale(voxel_size)
    (1, 1, 1)
    """

    num_out_channels: int
    num_in_channels: int

    def __init__(
        self,
        architecture: Architecture,
        prediction_head: nn.Module,
        eval_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        network = architecture.module()
        self.prediction_head = initialize_convolutions(prediction_head)
        self.chain = nn.Sequential(network, prediction_head)
        self.num_in_channels = architecture.num_in_channels
        self.input_shape = architecture.input_shape
        self.eval_input_shape = self.input_shape + architecture.eval_shape_increase
        self.num_out_channels, self.output_shape = self.compute_output_shape(self.input_shape)
        self.eval_activation = eval_activation

    def forward(self, x: Tensor) -> Tensor:
        """Predictions for `x`, (B, num_in_channels, *spatial); with the `eval_activation` in eval mode."""
        result = self.chain(x)
        if self.eval_activation is not None and not self.training:
            result = self.eval_activation(result)
        return result

    def compute_output_shape(self, input_shape: Coordinate) -> tuple[int, Coordinate]:
        """The channels and the spatial shape of the output for an input of this spatial shape.

        Of this size nothing is computed where the shape can be told without; weights, batch statistics
        and the mode stay as they are.

        Raises
        ------
        AssertionError
            If `input_shape` is not a Coordinate.
        ConfigError
            If the architecture cannot take it.
        """
        _require_coordinate("input_shape", input_shape)
        self.architecture.check_input_shape(input_shape)
        features = self.architecture.output_shape_of(input_shape)
        with _evaluating(self), torch.no_grad():
            if features is None:
                return _measure(self.chain, self.num_in_channels, input_shape)
            channels = self.architecture.num_out_channels
            probe = Coordinate(range(5, 5 + len(features)))
            head_channels, kept = _measure(self.prediction_head, channels, probe, with_values=True)
            if kept == probe:
                return head_channels, features
            return _measure(self.prediction_head, channels, features)

    @property
    def scale_factor(self) -> tuple[float, ...]:
        """Size of an input voxel in output voxels, per axis; serves voxel sizes that are no whole numbers."""
        return self.architecture.scale_factor

    def scale(self, voxel_size: Coordinate) -> Coordinate:
        """The voxel size of the output for an input of this voxel size.

        Raises
        ------
        AssertionError
            If `voxel_size` is not a Coordinate.
        ConfigError
            If the result is no whole number; see `scale_factor`.
        """
        _require_coordinate("voxel_size", voxel_size)
        return self.architecture.scale(voxel_size)


def _require_coordinate(name: str, value: object) -> None:
    if not isinstance(value, Coordinate):
        raise AssertionError(f"{name}: expected a Coordinate, got {type(value).__name__} {value!r}")


def _measure(
    module: nn.Module, channels: int, shape: Coordinate, with_values: bool = False
) -> tuple[int, Coordinate]:
    """Channels and shape that `module` gives; from tensors without values, unless it refuses those.

    The first of those loads a second's worth of Python, so small tensors are better off `with_values`.
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    x = torch.empty((1, channels, *shape), dtype=like.dtype, device="meta")
    output = None
    if not with_values:
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with suppress(RuntimeError):  # a module that needs values, or memory of its own
            output = functional_call(module, {name: t.to("meta") for name, t in state.items()}, (x,))
    if output is None:
        output = module(torch.zeros_like(x, device=like.device))
    return output.shape[1], Coordinate(output.shape[2:])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
