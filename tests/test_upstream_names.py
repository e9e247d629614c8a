"""Upstream's module paths and compute contexts work here."""

from __future__ import annotations

import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dacapo.compute_context import Bsub, ComputeContext, LocalTorch, create_compute_context
from dacapo.errors import BlockwiseError, ConfigError
from dacapo.upstream_paths import GONE, MOVED


@pytest.mark.parametrize("path", sorted(MOVED))
def test_served_paths_can_be_imported_and_their_names_fetched(path: str) -> None:
    """Each old module is importable, and each name that it lists is there."""
    module = importlib.import_module(path)
    assert module.__spec__ is not None
    assert module.__spec__.origin == "dacapo.upstream_paths", "a file of this name is there: take it out of the table"
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("path", sorted(GONE))
def test_what_is_gone_says_what_took_its_place(path: str) -> None:
    """Importing it, or a name of it, is an ImportError with the replacement."""
    for statement in (f"import {path}", f"from {path} import Anything"):
        with pytest.raises(ImportError) as error:
            exec(statement, {})
        assert str(error.value) == GONE[path]


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    """`from old_path import misspelt` names the new module and the nearest name; unknown modules stay unknown."""
    with pytest.raises(ImportError, match=r"now in dacapo\.experiments\.trainers\.augments.*'GammaAugmentConfig'"):
        exec("from dacapo.experiments.trainers.gp_augments import GamaAugmentConfig", {})
    with pytest.raises(ModuleNotFoundError, match="No module named 'dacapo.nothing'"):
        importlib.import_module("dacapo.nothing")


def test_old_paths_load_nothing_heavy_and_work_in_a_fresh_process() -> None:
    """`from old import name` in a new interpreter, without torch; pickles that name the old path load."""
    code = (
        "import sys, dacapo.store.array_store, dacapo.utils; "
        "from dacapo.experiments.trainers.gp_augments import ElasticAugmentConfig; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    old = b"cdacapo.experiments.trainers.gp_augments\nGammaAugmentConfig\n."
    assert pickle.loads(old).__name__ == "GammaAugmentConfig"


def test_compute_contexts_take_upstreams_fields(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """device by name or number, positions as upstream has them, with and without "config" in dacapo.yaml."""
    assert str(LocalTorch(device="cpu").device) == "cpu"
    assert LocalTorch(False, "cuda:0", 4.2).device_name == "cuda:0"
    assert LocalTorch(device=1).device_name == "cuda:1"
    for config in (LocalTorch(device="cpu"), Bsub(queue="gpu")):
        assert ComputeContext.from_yaml(config.to_yaml()) == config
    for wrong in ({"device": "gpu"}, {"device": "cpu", "device_name": "cpu"}, {"num_threads": 0}):
        with pytest.raises(ConfigError):
            LocalTorch(**wrong)
    file = tmp_path / "dacapo.yaml"
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(file))
    for text in (
        "{type: LocalTorch}",
        "{type: LocalTorch, config: {device: cpu}}",
        "{type: Bsub, config: {num_gpus: 0}}",
    ):
        file.write_text(f"compute_context: {text}")
        assert create_compute_context().device.type in ("cpu", "cuda")
    file.write_text("compute_context: {type: LocalTorch, config: {devise: cpu}}")
    with pytest.raises(ConfigError, match="devise"):
        create_compute_context()


def test_bsub_builds_the_command_line_and_says_that_work_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    """Queue, processors, GPUs and billing are on the line; a run on this machine says so; no bsub is one line."""
    context = Bsub(queue="gpu_h100", num_gpus=2, num_cpus=8, billing="lab")
    said = context.wrap_command(["dacapo", "train", "x"])
    assert said[:5] == ["bsub", "-q", "gpu_h100", "-n", "8"]
    assert said[-3:] == ["dacapo", "train", "x"]
    assert " ".join(said).count("-gpu num=2 -P lab") == 1
    assert "-gpu" not in Bsub(num_gpus=0).wrap_command(["a"])
    context.prepare()
    assert "run on this machine" in caplog.text
    with pytest.raises(BlockwiseError, match="no program 'bsub'"):
        context.execute(["true"])


TABLE = Path(__file__).parents[1] / "docs" / "upstream.md"
USED = """
dacapo.Options dacapo.apply dacapo.predict dacapo.validate dacapo.validate_run dacapo.run_blockwise
dacapo.compute_context.create_compute_context dacapo.experiments.Run dacapo.experiments.RunConfig dacapo.experiments.run.Run
dacapo.experiments.run_config.RunConfig
dacapo.experiments.architectures.DummyArchitectureConfig dacapo.experiments.architectures.ModelZooConfig
dacapo.experiments.architectures.WrappedArchitectureConfig dacapo.experiments.architectures.CNNectomeUNetConfig
dacapo.experiments.datasplits.DataSplitGenerator dacapo.experiments.datasplits.simple_config.SimpleDataSplitConfig
dacapo.experiments.datasplits.datasets.arrays.resampled_array_config.ResampledArrayConfig
dacapo.experiments.starts.CosemStartConfig dacapo.experiments.tasks.HotDistanceTaskConfig
dacapo.experiments.tasks.evaluators.BinarySegmentationEvaluator dacapo.experiments.tasks.losses.DummyLoss
dacapo.experiments.tasks.post_processors.ArgmaxPostProcessor dacapo.experiments.tasks.predictors.OneHotPredictor
dacapo.experiments.trainers.DummyTrainerConfig dacapo.experiments.trainers.gp_augments.ElasticAugmentConfig
dacapo.store.create_store.create_weights_store dacapo.store.array_store.LocalArrayIdentifier
dacapo.store.local_array_store.LocalArrayIdentifier dacapo.train.train_run dacapo.validate.validate dacapo.predict.predict
dacapo.predict_local.predict dacapo.plot.plot_runs dacapo.tmp.num_channels_from_array dacapo.tmp.create_from_identifier
dacapo.blockwise.scheduler.run_blockwise
"""


def found(dotted: str) -> object:
    """The object of a dotted path: its longest importable module, then attributes."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            value = getattr(value, name)
        return value
    raise ImportError(dotted)


def table_names() -> list[str]:
    """The dotted names of the second column of docs/upstream.md."""
    rows = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [n for row in rows for n in re.findall(r"`(dacapo\.[\w.]+)`", row[2])]


@pytest.mark.parametrize("name", [*table_names(), *USED.split()])
def test_every_name_is_where_the_table_says(name: str) -> None:
    """What docs/upstream.md lists, and what upstream's tests, examples and tutorial import, is there."""
    assert found(name) is not None
