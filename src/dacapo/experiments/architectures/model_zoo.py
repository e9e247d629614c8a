"""A network of the BioImage Model Zoo as an architecture, from its package. Torch only where one is built."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import field_validator, model_validator

from dacapo.config import Voxels
from dacapo.errors import ConfigError
from dacapo.experiments.architectures.architecture import ArchitectureConfig
from dacapo.experiments.architectures.measured import MeasuredShapes
from dacapo.experiments.architectures.model_package import ModelPackage, check_local, open_package, smallest_input
from dacapo.experiments.architectures.wrapped import check_pattern, freeze_all_but, load_torchscript
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from torch import nn

IMPORTED = {("dacapo.experiments.run_config", "from_yaml")}
"""All callables (module, name) that a package may name as the architecture of its weights."""


class ModelZooConfig(MeasuredShapes, ArchitectureConfig):
    """The network of a bioimage.io package, with its weights; nothing is frozen unless `trainable_layers` says so.

    The package is a zip, a folder, or an rdf.yaml, of format 0.4 or 0.5; it is read where it lies, and nothing is
    downloaded or extracted. Its weights are TorchScript (a program: take it from people you trust), or those of a run
    of dacapo (`RunConfig.save_bioimage_io_model`); Python source in a package is never run. Its
    outputs are features here, as the package gives them (activations are part of it); its pre- and postprocessing are
    left to the data and to the task.
    """

    model_id: Path
    """The package."""
    trainable_layers: str | None = None
    """Only parameters whose name begins with a match of this regular expression are trained; all if left out."""
    known_context: Voxels | None = None
    """Input voxels that an output depends on, on each side; measured if left out."""
    known_stride: Voxels | None = None
    """Inputs shifted by multiples of this give outputs shifted alike; measured if left out."""

    @field_validator("model_id", mode="before")
    @classmethod
    def _local(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            raise ConfigError(f"model_id: expected the path of a bioimage.io package, got {type(value).__name__}")
        return check_local(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_pattern("trainable_layers", self.trainable_layers)
        for name, least in (("known_context", 0), ("known_stride", 1)):
            sizes = getattr(self, name)
            if sizes is not None and (len(sizes) not in (2, 3) or min(sizes) < least):
                raise ConfigError(f"{name}: expected 2 or 3 numbers of at least {least}, got {tuple(sizes)}")
        return self

    def relative_to(self, folder: Path) -> ModelZooConfig:
        """The same config with a relative path resolved against `folder`."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return ModelZooConfig(**fields | {"model_id": folder / self.model_id})  # made anew: nothing read goes along

    @property
    def is_there(self) -> bool:
        """Whether shapes can be told: a relative path is resolved after the config is made."""
        return self.model_id.is_absolute() or self.model_id.exists()

    @cached_property
    def package(self) -> ModelPackage:
        """What the description says, read once."""
        package = open_package(self.model_id)
        for name in ("known_context", "known_stride"):
            sizes, dims = getattr(self, name), len(package.input.sizes)
            if sizes is not None and len(sizes) != dims:
                raise ConfigError(f"{name}: expected {dims} numbers, one per axis, got {tuple(sizes)}")
        return package

    @property
    def num_in_channels(self) -> int:
        return self.package.input.channels

    @property
    def num_out_channels(self) -> int:
        return self.package.output.channels

    @property
    def input_shape(self) -> Coordinate:
        return smallest_input(self.package)

    @property
    def scale_factor(self) -> tuple[float, ...]:
        return self.package.scale_factor

    def module(self) -> nn.Module:
        """The network with the weights of the package, on the CPU.

        Raises
        ------
        ConfigError
            If the package has no weights that can be loaded without running its Python, or other ones than it says.
        """
        weights = self.package.weights()
        refusals = []
        state = weights.get("pytorch_state_dict")
        if isinstance(state, Mapping):
            callable_ = _architecture(state)
            if callable_[:2] in IMPORTED:
                module = self._from_state(state, callable_[2])
                return freeze_all_but(module, self.trainable_layers, "trainable_layers")
            refusals.append(callable_[3])
        script = weights.get("torchscript")
        if isinstance(script, Mapping):
            file = self.package.read(script.get("source"), script.get("sha256"))
            module = load_torchscript(file, f"{self.model_id}: {script.get('source')}")
            return freeze_all_but(module, self.trainable_layers, "trainable_layers")
        there = ", ".join(map(str, weights)) or "none"
        reason = refusals[0] if refusals else f"its weights are {there}"
        raise ConfigError(f"{self.model_id}: {reason}: get the model with TorchScript weights (weights: torchscript)")

    def _from_state(self, entry: Mapping[str, Any], kwargs: Mapping[str, Any]) -> nn.Module:
        from dacapo.experiments.bioimageio import Predicting
        from dacapo.experiments.checkpoints import fitting_state
        from dacapo.experiments.run_config import RunConfig

        if set(kwargs) != {"config_yaml"}:
            raise ConfigError(f"{self.model_id}: architecture: kwargs: expected config_yaml, got {sorted(kwargs)}")
        source = f"{self.model_id}: {entry.get('source')}"
        state = _read_state(self.package.read(entry.get("source"), entry.get("sha256")), source)
        text, where = kwargs["config_yaml"], f"{self.model_id}: config_yaml"
        config = RunConfig.from_yaml(text, where) if isinstance(text, str) else RunConfig.from_dict(text, where)
        if hasattr(config.architecture_config, "relative_to"):
            raise ConfigError(f"{where}: architecture: it is in another file, which no package may name")
        model = config.model
        model.load_state_dict(fitting_state(state, model.state_dict(), source))
        return Predicting(model)


def _architecture(entry: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any], str]:
    """Module and name of the callable, its arguments, and why it is not called unless it is a known one."""
    said, kwargs = entry.get("architecture"), entry.get("kwargs")
    if isinstance(said, Mapping):  # 0.5
        module, name, kwargs = str(said.get("import_from", "")), str(said.get("callable", "")), said.get("kwargs")
        is_source = "source" in said
    else:  # 0.4: package.module.name or file.py:name
        is_source = ":" in str(said)
        module, _, name = str(said).rpartition("." if not is_source else ":")
    if is_source:
        shown = said.get("source") if isinstance(said, Mapping) else said
        return "", "", {}, f"its network is Python source in the package ({shown}), which is never run"
    reason = f"its network is made by {module}.{name}, which is not among those that are called"
    return module, name, kwargs if isinstance(kwargs, Mapping) else {}, reason


def _read_state(file: Any, source: str) -> Mapping[str, Any]:
    """Tensors by name; ConfigError if the file has anything else in it."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol of a pickle that is refused anyway
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["?"])[0][:80]
        raise ConfigError(f"{source}: expected tensors by name and nothing else ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{source}: expected tensors by name, got {type(state).__name__} of other things")
    return state
