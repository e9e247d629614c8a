"""Bring in runs that janelia-cellmap/dacapo made: configs, losses, scores and weights. Nothing they say is executed.

Imports everything below only inside functions, as `train` does.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, DacapoError, StoreError

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig
    from dacapo.store import Stores

MOVED = {"batch_size": "batch_size", "learning_rate": "learning_rate", "snapshot_interval": "snapshot_interval",
         "num_data_fetchers": "num_workers"}  # fmt: skip
"""Fields of the trainer of release 0.3.5, and the fields of a run that they are now."""
DROPPED = ("gt_min_reject", "min_labelled")


@dataclass
class Imported:
    """What became of a run."""

    run: str
    brought: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What was not brought in, or means something else here, and why."""
    error: DacapoError | None = None
    """Why nothing at all was brought in."""


def import_upstream(
    runs_base_dir: str | Path,
    runs: Iterable[str] = (),
    *,
    weights: str | Path | None = None,
    stores: Stores | None = None,
) -> list[Imported]:
    """Bring runs of another folder into the store, which must not be that folder; the folder is only read.

    What the store has of a run already stays as it is.

    Parameters
    ----------
    runs : iterable of str, optional
        Names of the runs; all of the folder if left out.
    weights : path, optional
        A checkpoint file to take instead of those in the folder (one run only); a file that is called by a
        number is of that iteration, another of the last one trained.

    Returns
    -------
    imported : list of Imported
        One per run. If only one was asked for and nothing of it could be brought in, its error is raised.
    """
    from dacapo.store import Stores

    stores, base = stores or Stores.from_options(), Path(runs_base_dir).expanduser()
    folder = base / "configs" / "runs"
    there = sorted(p.stem for p in folder.glob("*.yaml")) if folder.is_dir() else []
    if not there:
        raise ConfigError(f"{base}: no runs in configs/runs: give upstream's runs_base_dir")
    if base.resolve() == stores.base.resolve():
        raise ConfigError(f"{base} is the store itself: choose another folder to bring runs into (dacapo --runs DIR)")
    names = list(runs) or there
    if weights is not None and len(names) != 1:
        raise ConfigError(f"weights are of one run: name it, out of {', '.join(names)}")
    done = [_import_run(base, name, Path(weights) if weights else None, stores) for name in names]
    if len(done) == 1 and done[0].error is not None:
        raise done[0].error
    return done


def _import_run(base: Path, name: str, weights: Path | None, stores: Stores) -> Imported:
    from dacapo.config import load_yaml
    from dacapo.experiments.run_config import RunConfig
    from dacapo.store.config_store import checked_name

    done = Imported(name)
    file = base / "configs" / "runs" / f"{name}.yaml"
    try:
        checked_name(name)
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
        run = RunConfig.from_dict(upstream_fields(load_yaml(file.read_text("utf-8"), str(file)), done.left), str(file))
        checked_name(run.name)
        with stores.writing(run.name):
            stores.configs.store_run_config(run)
            done.brought.append("config")
            _import_stats(base, run, stores, done)
            _import_weights(base, run, weights, stores, done)
    except DacapoError as error:
        done.error = error
    return done


def upstream_fields(fields: Mapping[str, Any], left: list[str]) -> dict[str, Any]:
    """The fields of upstream's run YAML as ours; what has no place here is told in `left`."""
    run = _without_none(fields)
    trainer = dict(run.get("trainer_config") or {})
    for old, new in MOVED.items():
        if old in trainer:
            run.setdefault(new, trainer.pop(old))
            left.append(f"trainer_config.{old} is {new} of the run here")
    for old in DROPPED:
        if old in trainer:
            left.append(
                f"trainer_config.{old} = {trainer.pop(old)} has no counterpart; min_masked says where crops are"
            )
    if "trainer_config" in run:
        run["trainer_config"] = trainer
    return run


def _without_none(value: Any) -> Any:
    """None is upstream's way to say: the default."""
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def _import_stats(base: Path, run: RunConfig, stores: Stores, done: Imported) -> None:
    from dacapo.experiments.stats import TrainingIterationStats, TrainingStats

    try:
        records = read_plain_pickle(base / "stats" / "training_stats" / run.name)
        by_iteration = {
            int(r["iteration"]): TrainingIterationStats(int(r["iteration"]), float(r["loss"]), float(r.get("time", 0)))
            for r in records
        }
        if by_iteration and stores.stats.retrieve_training_stats(run.name).iteration_stats:
            done.left.append("training stats: the store has some of this run already")
        elif by_iteration:
            stores.stats.store_training_stats(run.name, TrainingStats([by_iteration[i] for i in sorted(by_iteration)]))
            done.brought.append(f"{len(by_iteration)} training stats")
    except (StoreError, KeyError, TypeError, ValueError) as error:
        done.left.append(f"training stats: {error}")
    try:
        if read_plain_pickle(base / "stats" / "validation_scores" / run.name):
            done.left.append(
                "validation scores: made by other post-processing and other metrics; "
                f"`dacapo validate {run.name} -i N` scores the weights afresh"
            )
    except StoreError as error:
        done.left.append(f"validation scores: {error}")


def _import_weights(base: Path, run: RunConfig, given: Path | None, stores: Stores, done: Imported) -> None:
    from dacapo.experiments.run_config import Weights

    folder = base / run.name / "checkpoints" / "iterations"
    files = sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    there, brought = set(stores.weights.iterations(run.name)), []
    trained = stores.stats.retrieve_training_stats(run.name).trained_until() or run.num_iterations
    for file in [given] if given else files:
        iteration = int(file.name) if file.name.isdigit() else trained
        if iteration in there:
            done.left.append(f"weights of iteration {iteration}: the store has them already")
            continue
        try:
            model = fitting_state(read_upstream_weights(file), run.model.state_dict(), str(file))
            stores.weights.store(run.name, iteration, Weights(model))
            brought.append(iteration)
        except DacapoError as error:
            done.left.append(f"weights of iteration {iteration}: {error}")
    if brought:
        done.brought.append(f"weights of iterations {', '.join(map(str, brought))}")
        done.left.append("the optimiser's state: it is of RAdam, training goes on with AdamW from its first step")


def fitting_state(state: Mapping[str, Any], own: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Upstream's tensors by the names of our network; ConfigError if one is missing or has another shape.

    Names are doubled there, `chain.1` is `prediction_head`, and release 0.3.5 has the network in
    `architecture`, or one level deeper as `unet`.
    """
    found = {}
    for name, tensor in own.items():
        rest = name.split(".", 2)[-1]
        choices = [name]
        if name.startswith("chain.0."):
            choices += [f"{p}.{rest}" for p in ("chain.0.unet", "architecture", "architecture.unet")]
        elif name.startswith("chain.1."):
            choices.append(f"prediction_head.{rest}")
        elif name.startswith("prediction_head."):
            choices.append(f"chain.1.{name.removeprefix('prediction_head.')}")
        theirs = next((state[c] for c in choices if c in state), None)
        if theirs is None or tuple(theirs.shape) != tuple(tensor.shape):
            got = "nothing" if theirs is None else f"shape {tuple(theirs.shape)}"
            raise ConfigError(f"{source}: for {name} of shape {tuple(tensor.shape)} it has {got}: another network")
        found[name] = theirs
    return found


def read_upstream_weights(path: Path) -> Mapping[str, Any]:
    """The model's tensors of upstream's checkpoint file; only tensors and numbers are loaded, no code is run."""
    import torch

    # The files name upstream's class; this one, without any code, stands in for it.
    shim = type("Weights", (), {"__module__": "dacapo.store.weights_store", "__qualname__": "Weights"})
    try:
        with torch.serialization.safe_globals([shim]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError, OSError) as error:
        raise StoreError(f"cannot read {path} as weights: {(str(error).splitlines() or ['?'])[0]}") from error
    model = content.get("model") if isinstance(content, dict) else getattr(content, "model", None)
    if not isinstance(model, Mapping) or not all(isinstance(t, torch.Tensor) for t in model.values()):
        raise StoreError(f"{path} is no checkpoint of a run: it has no model")
    return model


class _Plain(pickle.Unpickler):
    """Lists, dicts, strings and numbers, NumPy's too; whatever else a file names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): dict,
            ("_codecs", "encode"): _latin1,
            ("numpy", "dtype"): _Dtype,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy._core.multiarray", "scalar"): _scalar,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data: refused")
        return allowed[module, name]


class _Dtype:
    """A number's type, as a pickle describes it."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]", code):
            raise pickle.UnpicklingError(f"a NumPy value of type {code!r} is no number")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


def _latin1(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _scalar(kind: _Dtype, data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, np.dtype(kind.order + kind.code))[0].item()


def read_plain_pickle(path: Path) -> list[dict[str, Any]]:
    """Upstream's list of records; none if there is no file. StoreError if it holds anything but plain data."""
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            records = _Plain(file).load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise StoreError(f"cannot read {path}: {(str(error).splitlines() or ['?'])[0]}") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise StoreError(f"cannot read {path}: expected a list of records")
    return records
