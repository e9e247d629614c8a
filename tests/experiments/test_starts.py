"""Starts: what fits is taken, rows of the head by the name of the channel, and what does not fit is said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from conftest import small_experiment
from dacapo.errors import ConfigError, RunNotFoundError, WeightsNotFoundError
from dacapo.experiments.checkpoints import read_checkpoint
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.starts import (
    CheckpointStartConfig,
    CosemStartConfig,
    InitialWeightsConfig,
    StartConfig,
)
from dacapo.store import Stores
from dacapo.train import train

HEADS = ("prediction_head", "chain.1")


def distance(folder: Path, name: str, *channels: str, **changes: object) -> RunConfig:
    """A run that predicts the distance of some classes."""
    task = {"type": "distance", "channels": channels, "clip_distance": 50, "tol_distance": 10, "scale_factor": 10}
    return RunConfig.from_dict(small_experiment(folder, name=name, task=task, num_iterations=1, **changes))


@pytest.fixture
def trained(tmp_path: Path, stores: Stores) -> tuple[RunConfig, Stores, Path]:
    run = distance(tmp_path, "old", "mito", "er", "nucleus")
    train(run, stores=stores)
    return run, stores, tmp_path


def begun(run: RunConfig, stores: Stores) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    from dacapo.train import resume

    assert resume(run, stores) == 0
    return run.model.state_dict()


def test_rows_of_the_head_go_by_name(trained: tuple, caplog: pytest.LogCaptureFixture) -> None:
    """Channels that both have keep their rows, whatever their place; a new one begins as it was drawn, and is named."""
    old, stores, folder = trained
    new = distance(folder, "new", "nucleus", "vesicle", "mito", start={"run": "old", "criterion": 1})
    drawn = {k: v.clone() for k, v in new.model.state_dict().items()}
    before, after = old.model.state_dict(), begun(new, stores)
    for part in ("weight", "bias"):
        for head in HEADS:
            rows = after[f"{head}.{part}"]
            assert torch.equal(rows[0], before[f"{head}.{part}"][2])
            assert torch.equal(rows[2], before[f"{head}.{part}"][0])
            assert torch.equal(rows[1], drawn[f"{head}.{part}"][1])
    body = [k for k in after if k.startswith("chain.0.")]
    assert body
    assert all(torch.equal(after[k], before[k]) for k in body)
    assert "channels that are new and begin at random: vesicle" in caplog.text


def test_the_same_task_starts_with_everything(trained: tuple, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said where everything fits; a criterion picks its best iteration."""
    old, stores, folder = trained
    new = distance(folder, "new", "mito", "er", "nucleus", start={"run": "old", "criterion": "mito__f1_score"})
    best = old.best("mito__f1_score").iteration
    expected = stores.weights.retrieve_weights("old", best).model
    after = begun(new, stores)
    assert all(torch.equal(after[k], expected[k]) for k in after)
    assert not caplog.records


def test_another_width_keeps_what_fits_and_says_what_does_not(trained: tuple, caplog: pytest.LogCaptureFixture) -> None:
    """Layers of another shape begin at random and are counted; a network that shares nothing is refused."""
    _, stores, folder = trained
    architecture = small_experiment(folder)["architecture"] | {"fmaps_out": 6}  # type: ignore[operator]
    new = distance(
        folder, "new", "mito", "er", "nucleus", start={"run": "old", "criterion": "1"}, architecture=architecture
    )
    begun(new, stores)
    assert "tensors begin at random: chain.0.r_conv" in caplog.text.replace("prediction_head.weight, ", "") or (
        "begin at random" in caplog.text and "chain.0.r_conv" in caplog.text
    )
    other = distance(
        folder, "other", "mito", start={"run": "old", "criterion": "1"},
        architecture={"type": "dummy_architecture", "num_in_channels": 1, "num_out_channels": 4},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="start from old, iteration 1: nothing of it fits the network"):
        begun(other, stores)


def test_what_is_not_there_is_said(trained: tuple) -> None:
    """No such run, no such iteration, no such file."""
    _, stores, folder = trained
    for start, error, said in (
        ({"run": "odl", "criterion": "1"}, RunNotFoundError, "Did you mean 'old'"),
        ({"run": "old", "criterion": "9"}, WeightsNotFoundError, "there are 0, 1"),
        ({"type": "checkpoint_start", "path": str(folder / "none")}, ConfigError, "no such file"),
    ):
        with pytest.raises(error, match=said):
            begun(distance(folder, "new", "mito", start=start), stores)


@pytest.mark.parametrize("theirs", [False, True])
def test_a_checkpoint_file(trained: tuple, theirs: bool) -> None:
    """A file, ours or upstream's pickled class with its names of 0.3.5, starts a run; its channels may be named."""
    old, stores, folder = trained
    before, path = old.model.state_dict(), stores.weights.path_of("old", 1)
    if theirs:
        path = folder / "upstream"
        names = {k: k.replace("chain.0.", "architecture.unet.") for k in before if not k.startswith("chain.1.")}
        _save_upstream(path, {names[k]: v for k, v in before.items() if k in names})
    start = CheckpointStartConfig(path=path, channels=["mito", "er", "nucleus"])
    assert InitialWeightsConfig.from_yaml(start.to_yaml()) == start
    after = begun(distance(folder, "new", "er", start=start), stores)
    assert torch.equal(after["chain.1.weight"][0], before["chain.1.weight"][1])
    assert all(torch.equal(after[k], before[k]) for k in after if k.startswith("chain.0."))


def _save_upstream(path: Path, model: dict[str, torch.Tensor]) -> None:
    module = ModuleType("dacapo.store.weights_store")
    weights = type("Weights", (), {"__module__": module.__name__, "__qualname__": "Weights"})
    module.Weights = weights  # type: ignore[attr-defined]
    made = weights()
    made.model, made.optimizer = model, {}
    ours = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        torch.save(made, path)
    finally:
        if ours is not None:
            sys.modules[module.__name__] = ours
        else:
            del sys.modules[module.__name__]


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """A file that would call something is refused, and nothing is called."""

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": {"a": torch.zeros(1)}, "evil": Evil()}, tmp_path / "evil")
    with pytest.raises(ConfigError, match="cannot read"):
        read_checkpoint(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_a_cosem_start(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package fetches the checkpoint, and says what its channels are; absent, the way to it is said."""
    old, stores, folder = trained
    new = distance(folder, "new", "er", start={"type": "cosem_start"})
    monkeypatch.setitem(sys.modules, "cellmap_models", None)
    with pytest.raises(ConfigError, match="pip install git"):
        begun(new, stores)

    def download_checkpoint(name: str, path: Path) -> None:
        if name != "setup04/1820500":
            raise ValueError(f"Checkpoint {name} not found")
        _save_upstream(path, dict(old.model.state_dict()))

    package = ModuleType("cellmap_models")
    setup = SimpleNamespace(classes_channels=["mito", "er", "nucleus"])
    package.cosem = SimpleNamespace(load_model=lambda run: setup, download_checkpoint=download_checkpoint)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cellmap_models", package)
    after = begun(new, stores)
    assert torch.equal(after["chain.1.weight"][0], old.model.state_dict()["chain.1.weight"][1])
    with pytest.raises(ConfigError, match="setup04/7 not found"):
        CosemStartConfig("setup04", "7").find(stores)


def test_starts_are_written_and_read() -> None:
    """All kinds survive YAML; without a type it is another run; upstream's way to build one answers itself."""
    for start in (StartConfig("a", "voi"), CosemStartConfig(), CheckpointStartConfig("w", ("a",))):
        assert InitialWeightsConfig.from_yaml(start.to_yaml()) == start
        assert start.start_type(start) is start
    assert InitialWeightsConfig.from_dict({"run": "a", "criterion": "100"}) == StartConfig("a", "100")
    with pytest.raises(ConfigError, match="channels: expected at least one name"):
        CheckpointStartConfig("w", ("a", "a"))
    with pytest.raises(ConfigError, match="give the stores"):
        StartConfig("a", "1").find(None)
