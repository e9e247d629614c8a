"""The model: an architecture followed by a task's prediction head. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dacapo.experiments.architectures.architecture import Architecture, initialize_convolutions
from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate

logger = logging.getLogger(__name__)


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
        features = self.architecture.output_shape_of(input_shape)
        with _evaluating(self), torch.no_grad():
            if features is None:
                return _measure(self.chain, self.num_in_channels, input_shape)
            width = self.architecture.num_out_channels
            channels = _channels_of_pointwise(self.prediction_head, width, len(features))
            if channels is not None:
                return channels, features
            try:
                return _measure(self.prediction_head, width, features)
            except RuntimeError:
                raise ConfigError(
                    f"input_shape: {tuple(input_shape)} leaves {tuple(features)} voxels of features, too few for the "
                    f"head: give a larger one, or the task a smaller kernel_size"
                ) from None

    @cached_property
    def head_context(self) -> Coordinate:
        """Voxels of features on each side of a prediction that the head takes: what it shrinks its input by, halved.

        Raises
        ------
        ConfigError
            If the head does not take the same from inputs of every size, so that predictions of parts do not meet.
        """
        width, dims = self.architecture.num_out_channels, self.architecture.dims
        with _evaluating(self), torch.no_grad():
            if _channels_of_pointwise(self.prediction_head, width, dims) is not None:
                return Coordinate((0,) * dims)
            sizes = (64, 66)
            small, large = (_measure(self.prediction_head, width, (size,) * dims)[1] for size in sizes)
        taken = [sizes[0] - made for made in small]
        if large - small != Coordinate((2,) * dims) or any(t < 0 or t % 2 for t in taken):
            raise ConfigError(
                f"cannot predict in blocks: the head turns {sizes[0]} voxels into {tuple(small)}, {sizes[1]} into "
                f"{tuple(large)}"
            )
        return Coordinate(t // 2 for t in taken)

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


class LeadingSigmoid(nn.Module):
    """The sigmoid of the first `channels` channels; the others stay as they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.channels].sigmoid(), x[:, self.channels :]], dim=1)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds: `model` and, where the training can go on, `optimizer`; on the CPU.

    Only tensors and numbers are loaded, whatever the file says.

    Raises
    ------
    ConfigError
        If there is no such file, or it is no checkpoint.
    """
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError, OSError) as error:
        raise ConfigError(f"cannot read {path} as weights: {(str(error).splitlines() or ['?'])[0]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{path} is no checkpoint of a run: it has no entry 'model'")
    return content


def load_fitting(model: Model, state: Mapping[str, Tensor], source: str) -> None:
    """Load what `state` has for a model; what it lacks stays as it was drawn, and is logged with what is left over.

    Raises
    ------
    ConfigError
        If something of the same name has another shape, or no name is known; `source` leads the message.
    """
    own = model.state_dict()
    known = {name: tensor for name, tensor in state.items() if name in own}
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the network has {tuple(own[name].shape)}"
        for name, tensor in known.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(f"{source}: these weights are of another network: {wrong[0]}{more}")
    if not known:
        raise ConfigError(f"{source}: these weights are of another network: none of their names is in it")
    model.load_state_dict(known, strict=False)
    for what, names in (("not in the file, drawn at random", own.keys() - known), ("not used", state.keys() - known)):
        if names:
            logger.warning("%s: %s: %s", source, what, ", ".join(sorted(names)))


def _require_coordinate(name: str, value: object) -> None:
    if not isinstance(value, Coordinate):
        raise AssertionError(f"{name}: expected a Coordinate, got {type(value).__name__} {value!r}")


def _channels_of_pointwise(head: nn.Module, channels: int, dims: int) -> int | None:
    """The output channels of a head that keeps shapes, None for any other."""
    x = _zeros_for(head, channels, range(5, 5 + dims))
    with suppress(RuntimeError):  # too few voxels for its kernels, so it does not keep shapes
        output = head(x)
        return output.shape[1] if output.shape[2:] == x.shape[2:] else None
    return None


def _measure(module: nn.Module, channels: int, shape: Sequence[int]) -> tuple[int, Coordinate]:
    """Channels and shape of the output, from tensors without values unless the module refuses those.

    The first run without values loads about a second's worth of Python.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: tensor.to("meta") for name, tensor in state.items()}
    try:
        output = functional_call(module, empty, (_zeros_for(module, channels, shape, "meta"),))
    except RuntimeError:  # it needs values, or has memory of its own
        output = module(_zeros_for(module, channels, shape))
    return output.shape[1], Coordinate(output.shape[2:])


def _zeros_for(module: nn.Module, channels: int, shape: Sequence[int], device: str | None = None) -> Tensor:
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros((1, channels, *shape), dtype=like.dtype, device=device or like.device)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
