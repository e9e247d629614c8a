"""Stores on a file system, whole after a kill at any moment. Layout below `runs_base_dir`, upstream's:

configs/runs/{run}.yaml                        the experiment, whole
stats/training_stats/{run}.jsonl               one line an iteration, appended
stats/validation_scores/{run}.jsonl            one line a validation, appended
{run}/checkpoints/iterations/{n}               model and optimiser after n iterations
{run}/checkpoints/{dataset}/{criterion}.json   the iteration that is best by a criterion
{run}/validation.zarr/{n}/{dataset}/…          predictions and segmentations of validations
{run}/snapshot.zarr                            batches looked at while training
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dacapo.config import dump_yaml, load_yaml
from dacapo.errors import StoreError, WeightsNotFoundError
from dacapo.experiments.weights import Weights
from dacapo.store.array_store import ArrayStore, LocalArrayIdentifier, LocalContainerIdentifier
from dacapo.store.config_store import ConfigStore, checked_name
from dacapo.store.files import append_lines, create_text, mark_of, read_lines, write_atomic, write_text
from dacapo.store.stats_store import Record, StatsStore
from dacapo.store.weights_store import WeightsStore


class FileConfigStore(ConfigStore):
    """Configs as YAML files, a folder per collection."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def _file(self, collection: str, name: str) -> Path:
        return self.path / collection / f"{checked_name(name)}.yaml"

    def names(self, collection: str) -> list[str]:
        return sorted(p.stem for p in (self.path / collection).glob("*.yaml") if not p.name.startswith("."))

    def delete(self, collection: str, name: str) -> None:
        self._file(collection, name).unlink(missing_ok=True)

    def where(self, collection: str) -> str:
        return str(self.path / collection)

    def _create(self, collection: str, name: str, fields: dict[str, Any]) -> bool:
        return create_text(self._file(collection, name), dump_yaml(fields))

    def _read(self, collection: str, name: str) -> Mapping[str, Any] | None:
        file = self._file(collection, name)
        return load_yaml(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else None

    def mark(self, collection: str, name: str) -> list[int]:
        return mark_of(self._file(collection, name))


for _collection in ("users", *ConfigStore.collections):
    setattr(FileConfigStore, _collection, property(lambda self, name=_collection: self.path / name))


class FileStatsStore(StatsStore):
    """Training stats and validation scores as JSON lines."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def _file(self, series: str, run: str) -> Path:
        return self.path / series / f"{checked_name(run)}.jsonl"

    def mark(self, series: str, run: str) -> list[int]:
        return mark_of(self._file(series, run))

    def _records(self, series: str, run: str) -> list[Record]:
        return read_lines(self._file(series, run))

    def _append(self, series: str, run: str, records: Sequence[Record]) -> None:
        append_lines(self._file(series, run), records)

    def _replace(self, series: str, run: str, records: Sequence[Record]) -> None:
        write_text(self._file(series, run), "".join(json.dumps(record) + "\n" for record in records))

    def _delete(self, series: str, run: str) -> None:
        self._file(series, run).unlink(missing_ok=True)


class LocalWeightsStore(WeightsStore):
    """Checkpoints as files that hold tensors and numbers only; loading never runs what a file says."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def _checkpoints(self, run: str) -> Path:
        return self.path / checked_name(run) / "checkpoints"

    def _file(self, run: str, iteration: int) -> Path:
        return self._checkpoints(run) / "iterations" / str(iteration)

    def store(self, run: str, iteration: int, weights: Weights) -> Path:
        import torch

        path = self._file(run, iteration)
        content = {"iteration": iteration, "model": weights.model, "optimizer": weights.optimizer}
        write_atomic(path, lambda file: torch.save(content, file))
        return path

    def path_of(self, run: str, iteration: int) -> Path:
        path = self._file(run, iteration)
        if not path.is_file():
            there = self.iterations(run)
            shown = f"there are {', '.join(map(str, there))}" if there else "there are none"
            raise WeightsNotFoundError(f"run {run!r} has no weights of iteration {iteration}: {shown}")
        return path

    def iterations(self, run: str) -> list[int]:
        folder = self._checkpoints(run) / "iterations"
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(int(n) for n in names if n.isascii() and n.isdigit())

    def _delete(self, run: str, iteration: int) -> None:
        self._file(run, iteration).unlink(missing_ok=True)

    def _note(self, run: str, dataset: str, criterion: str) -> Path:
        return self._checkpoints(run) / _folded(dataset) / f"{_folded(criterion)}.json"

    def bests(self, run: str) -> dict[tuple[str, str], dict[str, Any]]:
        notes = {}
        for file in self._checkpoints(run).glob("*/*.json"):
            try:
                note = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:  # of somebody else
                continue
            if not file.name.startswith(".") and isinstance(note, dict) and isinstance(note.get("iteration"), int):
                notes[unquote(file.parent.name), unquote(file.stem)] = note
        return notes

    def _write_best(self, run: str, dataset: str, criterion: str, note: Mapping[str, Any]) -> None:
        write_text(self._note(run, dataset, criterion), json.dumps(note) + "\n")

    def _delete_best(self, run: str, dataset: str, criterion: str) -> None:
        self._note(run, dataset, criterion).unlink(missing_ok=True)


def _folded(name: str) -> str:
    """A name as a file's name, and no two names as one: what is not safe there is percent-encoded."""
    folded = quote(name, safe=" +=,@()")
    return f"%2E{folded[1:]}" if folded.startswith(".") else folded


class LocalArrayStore(ArrayStore):
    """Arrays in OME-Zarr containers in the folder of a run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def snapshot_container(self, run: str) -> LocalContainerIdentifier:
        return LocalContainerIdentifier(self.path / checked_name(run) / "snapshot.zarr")

    def validation_container(self, run: str) -> LocalContainerIdentifier:
        return LocalContainerIdentifier(self.path / checked_name(run) / "validation.zarr")

    def remove(self, identifier: LocalArrayIdentifier) -> None:
        import shutil

        inside = Path(identifier.path).resolve()
        container = identifier.container.resolve()
        if identifier.container.suffix != ".zarr" or inside == container or container not in inside.parents:
            raise StoreError(f"{identifier.path} is no array inside a .zarr container: not removed")
        shutil.rmtree(identifier.path, ignore_errors=True)
