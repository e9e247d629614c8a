"""Curves of runs with matplotlib, as upstream's tutorial calls them. May import everything below the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.errors import ConfigError

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.stats import TrainingStats
    from dacapo.store import Stores


@dataclass
class RunInfo:
    """A run, and what is to be drawn of it."""

    name: str
    run: RunConfig
    training_stats: TrainingStats
    validation_score_name: str | None = None
    plot_loss: bool = True


def smooth_values(values: Sequence[float], n: int, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each `n` values in a row (fewer if there are fewer), every `stride`-th."""
    data = np.asarray(values, float)
    n = max(1, min(n, len(data)))
    if not len(data):
        return data, data
    windows = np.lib.stride_tricks.sliding_window_view(data, n)[::stride]
    return windows.mean(1), windows.std(1)


def get_runs_info(
    run_config_base_names: Sequence[str],
    validation_scores: Sequence[str | None] | None = None,
    plot_losses: Sequence[bool] | None = None,
    stores: Stores | None = None,
) -> list[RunInfo]:
    """What is stored of some runs; lists have one entry a run, or are left out.

    Raises
    ------
    RunNotFoundError, ConfigError
        If a run is not stored, or a list is of another length.
    """
    from dacapo.store import Stores

    stores, names = stores or Stores.from_options(), list(run_config_base_names)
    scores = list(validation_scores) if validation_scores is not None else [None] * len(names)
    losses = list(plot_losses) if plot_losses is not None else [True] * len(names)
    for what, given in (("validation_scores", scores), ("plot_losses", losses)):
        if len(given) != len(names):
            raise ConfigError(f"{what} has {len(given)} entries, expected {len(names)}: one for each run")
    found = []
    for name, score, loss in zip(names, scores, losses, strict=True):
        run = stores.configs.retrieve_run_config(name)
        if score is not None:
            stores.recall_scores(run)
            if score not in run.validation_scores.criteria:
                raise ConfigError(
                    f"{name}: no criterion is called {score!r}; there are {run.validation_scores.criteria}"
                )
        found.append(RunInfo(name, run, stores.stats.retrieve_training_stats(name), score, loss))
    return found


def plot_runs(
    run_config_base_names: Sequence[str],
    smooth: int = 100,
    validation_scores: Sequence[str | None] | None = None,
    higher_is_betters: Sequence[bool] | None = None,
    plot_losses: Sequence[bool] | None = None,
    *,
    stores: Stores | None = None,
) -> Any:
    """Losses of runs, and their scores over the iterations: a line for each dataset and parameter set.

    Parameters
    ----------
    run_config_base_names : sequence of str
        Names of stored runs.
    smooth : int
        Losses are means over so many iterations.
    validation_scores : sequence of str, optional
        A criterion for each run, or None; no scores by default.
    higher_is_betters : sequence of bool, optional
        Upstream's; each criterion knows its own direction, the best is marked by it.
    plot_losses : sequence of bool, optional
        Whether to draw the loss of each run; all by default.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Shown in a notebook by itself; `figure.savefig(path)` elsewhere.
    """
    from matplotlib.figure import Figure

    runs = get_runs_info(run_config_base_names, validation_scores, plot_losses, stores)
    scored = [info for info in runs if info.validation_score_name is not None]
    figure = Figure(figsize=(9, 4 + 4 * bool(scored)), layout="constrained")
    axes = figure.subplots(1 + bool(scored), 1, squeeze=False)[:, 0]
    for info in runs:
        stats = info.training_stats.iteration_stats
        if info.plot_loss and stats:
            mean, _ = smooth_values([s.loss for s in stats], smooth)
            axes[0].plot([s.iteration for s in stats[len(stats) - len(mean) :]], mean, label=info.name)
    axes[0].set(xlabel="iteration", ylabel="loss", title="training")
    for info in scored:
        _draw_scores(axes[1], info)
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="x-small")
        axis.grid(alpha=0.3)
    return figure


def _draw_scores(axis: Any, info: RunInfo) -> None:
    """A line for each dataset and parameter set; the best of the run is marked."""
    scores, criterion = info.run.validation_scores, info.validation_score_name
    assert criterion is not None
    values = scores.to_xarray().sel(criteria=criterion)
    for d, dataset in enumerate(scores.datasets):
        for p, parameters in enumerate(scores.parameters):
            label = f"{info.name}, {dataset.name}, {parameters}" if len(scores.parameters) <= 12 else None
            axis.plot(values.iterations.values, values.values[:, d, p], marker="o", markersize=3, lw=1, label=label)
    axis.set(xlabel="iteration", ylabel=criterion, title="validation")
    if scores.scores and np.isfinite(values.values).any():
        best = info.run.best(criterion)
        axis.plot(
            [best.iteration],
            [best.score],
            "*",
            markersize=12,
            color="black",
            label=f"best of {info.name}: {best.score:.3g}",
        )
