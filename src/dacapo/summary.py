"""What a person wants to know of a run, as lines of text and as a report. May import everything below the CLI."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.errors import DacapoError

if TYPE_CHECKING:
    from dacapo.experiments.run_config import Best, RunConfig
    from dacapo.store import Stores
    from dacapo.store.listing import Facts
    from dacapo.train import Progress

LARGEST_PICTURE = 2**27
"""Voxels of a validation volume that is drawn in a report."""


def tracked_bests(run: RunConfig) -> list[Best]:
    """The best of each criterion that is worth keeping, on each validation dataset."""
    assert run.task is not None
    found = []
    for dataset in run.datasplit.validate:
        for criterion in run.validation_scores.criteria:
            if run.task.evaluator.store_best(criterion):
                try:
                    found.append(run.best(criterion, dataset.name))
                except DacapoError:  # not validated yet, or never defined
                    continue
    return found


def score_lines(run: RunConfig) -> list[str]:
    """A table of the bests."""
    rows = [("dataset", "criterion", "best", "iteration", "parameters")]
    rows += [
        (b.dataset, b.criterion, f"{b.score:.4f}", str(b.iteration), str(b.parameters)) for b in tracked_bests(run)
    ]
    if len(rows) == 1:
        return ["not validated yet"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def run(
    experiment: RunConfig | str | Path,
    *,
    report: Path | None = None,
    stores: Stores | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[RunConfig, Path]:
    """Train and validate an experiment (config, YAML file or name) and report on it: the run, and where the report is."""
    from dacapo.store import Stores
    from dacapo.train import train

    stores = stores or Stores.from_options()
    trained = train(experiment, stores=stores, progress=progress)
    return trained, report_run(trained, stores, report)


def list_runs(stores: Stores | None = None) -> list[str]:
    """One line a run: name, state, iteration, best score, age."""
    from dacapo import __version__
    from dacapo.store import Stores
    from dacapo.store.listing import Listing

    stores = stores or Stores.from_options()
    names = stores.configs.retrieve_run_config_names()
    if not names:
        return [f"no runs in {stores.base}: start one with `dacapo run experiment.yaml`"]
    rows = [("name", "state", "iteration", "best", "age")]
    listing = Listing(stores, __version__)
    for name in names:
        try:
            rows.append(_row(name, stores, listing.facts(name, partial(_facts, name, stores))))
        except DacapoError as error:
            rows.append((name, "broken", "", "", str(error)))
    listing.save()
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) + f"  {row[4]}" for row in rows]


def _facts(name: str, stores: Stores) -> Facts:
    from dacapo.store.listing import Facts

    run = stores.configs.retrieve_run_config(name)
    return Facts(run.num_iterations, _best_number(run, stores.stats.retrieve_validation_iteration_scores(name)))


def _row(name: str, stores: Stores, facts: Facts) -> tuple[str, str, str, str, str]:
    latest = stores.weights.latest_iteration(name) or 0
    state = "done" if latest >= facts.num_iterations else "waiting" if latest == 0 else "stopped"
    if stores.is_locked(name):
        state = "training"
    return name, state, f"{latest}/{facts.num_iterations}", facts.best, _age(stores.run_folder(name))


def _best_number(run: RunConfig, scores: list[Any]) -> str:
    """The best of the main criterion, without opening any data."""
    if run.task is None or not scores:
        return "-"
    evaluator = run.task.evaluator
    column = evaluator.criteria.index(evaluator.main_criterion)
    values = np.array([p[column] for s in scores for p in s.scores[0]] if scores[0].scores else [], float)
    if not np.isfinite(values).any():
        return "-"
    best = np.nanmax(values) if evaluator.higher_is_better(evaluator.main_criterion) else np.nanmin(values)
    return f"{evaluator.main_criterion} {best:.3f}"


def _age(folder: Path) -> str:
    if not folder.exists():
        return "-"
    seconds = time.time() - folder.stat().st_mtime
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def show(name: str, stores: Stores | None = None) -> list[str]:
    """What a run is, how it stands, and its bests, as lines."""
    from dacapo.store import Stores
    from dacapo.train import load

    stores = stores or Stores.from_options()
    run = load(name, stores)
    stores.recall_scores(run)
    stats = run.training_stats.iteration_stats
    lines = [f"{name}: iteration {stores.weights.latest_iteration(name) or 0} of {run.num_iterations}"]
    if stats:
        recent = [s.loss for s in stats[-100:]]
        lines.append(
            f"loss {np.mean(recent):.4f} over the last {len(recent)} iterations, {np.mean([s.time for s in stats[-100:]]):.2f} s each"
        )
    return [*lines, "", *score_lines(run), "", run.to_yaml().rstrip()]


def report_run(run: RunConfig, stores: Stores, path: Path | None = None, **more: Any) -> Path:
    """Write the report of a run: curves, scores, pictures of its validation datasets.

    `more` adds to what `report.write_report` is given: `table` rows and `pictures` come first, `commands` last.
    """
    from dacapo.report import write_report

    assert run.task is not None
    stores.recall_scores(run)
    stats = stores.stats.retrieve_training_stats(run.name).iteration_stats
    bests = tracked_bests(run)
    main = next((b for b in bests if b.criterion == run.task.evaluator.main_criterion), None)
    table = {**more.pop("table", {}), "Best of each criterion": [_best_cells(b) for b in bests]}
    return write_report(
        path or stores.run_folder(run.name) / "report.html",
        title=more.pop("title", run.name),
        table=table,
        training=(np.array([s.iteration for s in stats]), np.array([s.loss for s in stats])) if stats else None,
        scores=run.validation_scores.to_xarray() if run.validation_scores.scores else None,
        higher_is_better={c: run.task.evaluator.higher_is_better(c) for c in run.validation_scores.criteria},
        best=(main.dataset, main.criterion, main.iteration, str(main.parameters), main.score) if main else None,
        pictures=[*more.pop("pictures", []), *validation_pictures(run, stores, main)],
        config_yaml=run.to_yaml(),
        commands=more.pop("commands", [f"dacapo show {run.name}", f"dacapo apply {run.name} RAW -o OUT.zarr"]),
    )


def _best_cells(best: Best) -> dict[str, str]:
    return {
        "dataset": best.dataset,
        "criterion": best.criterion,
        "score": f"{best.score:.4f}",
        "iteration": str(best.iteration),
        "parameters": str(best.parameters),
    }


def validation_pictures(run: RunConfig, stores: Stores, main: Best | None) -> list[dict[str, Any]]:
    """Raw, ground truth, prediction and segmentation of each validation dataset at the best iteration."""
    assert run.task is not None
    if main is None:
        return []
    from dacapo.arrays import dequantised, open_array

    pictures = []
    for dataset in run.datasplit.validate:
        assert dataset.gt is not None
        path = stores.arrays.validation_prediction_array(run.name, main.iteration, dataset).path
        if not Path(path).exists() or dataset.gt.roi.size > LARGEST_PICTURE:
            continue
        prediction = dequantised(open_array(path)).read()
        segmentation = run.task.post_processor.process(prediction, main.parameters)
        pictures.append(picture(f"{dataset.name}, iteration {main.iteration}", dataset, prediction, segmentation))
    return pictures


def picture(name: str, dataset: Any, prediction: np.ndarray | None, segmentation: np.ndarray) -> dict[str, Any]:
    """What the report draws of a dataset over its ground truth's region."""
    raw, gt = dataset.raw, dataset.gt
    region = gt.grid.convert(gt.roi, raw.grid)
    return {
        "name": name,
        "raw": raw.read(region, pad="reflect").reshape(-1, *region.shape)[0],
        "gt": gt.read().reshape(-1, *gt.spatial_shape)[0],
        "prediction": prediction,
        "segmentation": segmentation.reshape(-1, *gt.spatial_shape)[0],
        "voxel_size": gt.voxel_size,
    }


def example_experiment() -> str:
    """The experiment that `dacapo show --example` prints."""
    return (files("dacapo") / "example.yaml").read_text(encoding="utf-8").rstrip()


def write_datasplit(
    table: str | Path, output: str | Path, input_resolution: Any, output_resolution: Any, **options: Any
) -> list[Any]:
    """Write the datasplit of a CSV as YAML, to stand under `datasplit:` in an experiment, and say what became of
    each line; `options` are those of `DataSplitGenerator`. Nothing is written if a line is wrong."""
    from dacapo.experiments.datasplits import DataSplitGenerator
    from dacapo.store.files import write_text

    generator = DataSplitGenerator.generate_from_csv(table, input_resolution, output_resolution, **options)
    write_text(Path(output), generator.compute().to_yaml())
    return generator.outcomes
