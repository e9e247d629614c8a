"""Starts: weights to begin with instead of random ones. May import `checkpoints`; stores are arguments."""

from __future__ import annotations

import importlib
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import field_validator

from dacapo.config import Config
from dacapo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from dacapo.experiments.model import Model


class Found(NamedTuple):
    """Weights of a network, and the names of the channels of its head where they are known."""

    state: dict[str, Tensor]
    channels: list[str] | None
    source: str


class InitialWeightsConfig(Config):
    """Where the first weights of a run come from. Without `type`: another run, as `StartConfig` has it.

    The network need not be the same: what has the same name and shape is taken, and rows of the head go to the
    channels of the same name. What begins at random all the same is said.
    """

    kind: ClassVar[str] = "start"
    default_type: ClassVar[str | None] = "StartConfig"

    @abstractmethod
    def find(self, stores: Any) -> Found:
        """Read the weights; `stores` are the stores of the run that begins."""

    def start_type(self, config: InitialWeightsConfig | None = None) -> InitialWeightsConfig:
        """Upstream's spelling: the config is the start."""
        return config or self

    def initialize_weights(self, model: Model, new_head: list[str] | None = None, *, stores: Any = None) -> list[str]:
        """Give a model these weights; `new_head` are the names of its channels. Returns what did not fit, as phrases.

        Raises
        ------
        ConfigError, WeightsNotFoundError, RunNotFoundError
            If there are no such weights, or nothing of them fits.
        """
        from dacapo.experiments.checkpoints import start_from

        found = self.find(stores)
        return start_from(model, found.state, found.source, old_channels=found.channels, new_channels=new_head)


class StartConfig(InitialWeightsConfig):
    """Begin with the weights of another run in the same store."""

    run: str
    """Name of that run."""
    criterion: str
    """Its iteration, as a number, or the criterion whose best iteration to take."""

    @field_validator("criterion", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def find(self, stores: Any) -> Found:
        if stores is None:
            raise ConfigError(f"start.run is {self.run!r}: give the stores in which it is")
        other = stores.configs.retrieve_run_config(self.run)
        if self.criterion.isdigit():
            iteration = int(self.criterion)
        else:
            stores.recall_scores(other)
            iteration = other.best(self.criterion).iteration
        weights = stores.weights.retrieve_weights(self.run, iteration)
        channels = other.task.channels if other.task is not None else None
        return Found(weights.model, channels, f"start from {self.run}, iteration {iteration}")


class CheckpointStartConfig(InitialWeightsConfig):
    """Begin with the weights of a checkpoint file, ours or upstream's."""

    path: Path
    """The file."""
    channels: tuple[str, ...] | None = None
    """Names of the channels of its head; without them the head is taken only if it has the same shape."""

    @field_validator("channels")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not names or len(set(names)) != len(names)):
            raise ValueError(f"expected at least one name and none twice, got {list(names)}")
        return names

    def find(self, stores: Any = None) -> Found:
        from dacapo.experiments.checkpoints import read_checkpoint

        state = read_checkpoint(self.path)["model"]
        return Found(state, list(self.channels) if self.channels else None, f"start from {self.path}")

    def relative_to(self, folder: Path) -> CheckpointStartConfig:
        """The same config with a relative path resolved against `folder`."""
        return self.model_copy(update={"path": folder / self.path})


class CosemStartConfig(InitialWeightsConfig):
    """Begin with a network of the COSEM project (Heinrich et al., Nature 2021), through the package cellmap_models.

    The package fetches the checkpoint from its release once; it is then kept beside the checkpoints of the runs.
    """

    run: str = "setup04"
    """The setup: setup04, setup26.1, setup28, setup36 (8 nm in, 4 nm out), setup45 (4 nm in and out)."""
    criterion: str = "1820500"
    """The iteration."""

    def find(self, stores: Any = None) -> Found:
        from dacapo.experiments.checkpoints import read_checkpoint

        try:
            cosem: Any = importlib.import_module("cellmap_models").cosem
        except (ImportError, AttributeError):
            raise ConfigError(
                "start: a COSEM start needs the package cellmap_models: "
                "pip install git+https://github.com/janelia-cellmap/cellmap-models"
            ) from None
        name = f"{self.run}/{self.criterion}"
        channels = getattr(cosem.load_model(self.run), "classes_channels", None)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if stores is None else Path(stores.base)
            path = folder / self.run / "checkpoints" / "iterations" / self.criterion
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                cosem.download_checkpoint(name, path)
            except ValueError as error:
                raise ConfigError(f"start: {error}") from None
            return Found(
                read_checkpoint(path)["model"], list(channels) if channels else None, f"start from COSEM {name}"
            )


Start = StartConfig
CosemStart = CosemStartConfig
