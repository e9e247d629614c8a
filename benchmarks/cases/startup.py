"""What everybody waits for: the import, the help, the list of runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Case, Implementation


def _started(name: str, title: str, command: list[str], bar: Bar, **how: Any) -> Case:
    return Case(
        name, title, (Implementation("dacapo", "startup:started", parameters={"command": command}),), (bar,), **how
    )


LIST = ["-m", "dacapo", "list"]

CASES = (
    _started(
        "start-import",
        "`python -c 'import dacapo'`",
        ["-c", "import dacapo"],
        Bar("CPU seconds", measure="cpu", most=0.3),
        full={},
        quick={},
    ),
    _started(
        "start-help",
        "`dacapo --help`",
        ["-m", "dacapo", "--help"],
        Bar("CPU seconds", measure="cpu", most=0.3),
        full={},
        quick={},
    ),
    Case(
        "start-list",
        "`dacapo list` with 1000 runs in the store",
        (
            Implementation("dacapo", "startup:started", parameters={"command": LIST}),
            Implementation(
                "nothing remembered", "startup:forgetful", note="as the first time", parameters={"command": LIST}
            ),
        ),
        (Bar("seconds", measure="wall", most=0.5),),
        full={"runs": 1000},
        quick={"runs": 5},
        prepare="startup:prepare",
        note="Each run has a config, 100 losses, two validations and two checkpoints (empty here). What a list read "
        "of them is remembered for the next.",
    ),
)


def started(parameters: dict[str, Any], folder: Path) -> Any:
    environment = {**os.environ, "DACAPO_RUNS_BASE_DIR": str(folder / "runs")}

    def run(clock: Any) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, *parameters["command"]], env=environment, capture_output=True, check=True
        )
        clock.stop()
        return {"lines": float(done.stdout.count(b"\n"))}

    return run


def forgetful(parameters: dict[str, Any], folder: Path) -> Any:
    run = started(parameters, folder)

    def forget(clock: Any) -> dict[str, float]:
        (folder / "runs" / ".listing.json").unlink(missing_ok=True)
        clock.start()
        listed: dict[str, float] = run(clock)
        return listed

    return forget


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks.cases.network import experiment, volume
    from dacapo.experiments.run_config import RunConfig
    from dacapo.experiments.scores import ValidationIterationScores
    from dacapo.experiments.stats import TrainingIterationStats
    from dacapo.store import Stores

    volume(folder, (24, 32, 32), 8, 0)
    stores = Stores(folder / "runs")
    for i in range(parameters["runs"]):
        run = RunConfig.from_dict(experiment(folder, f"run-{i:04}", input_shape=[16, 16, 16]))
        stores.configs.store_run_config(run)
        stores.stats.append_training_stats(run.name, [TrainingIterationStats(n, 1 / (n + 1), 0.1) for n in range(100)])
        assert run.task is not None
        values = [[0.5] * len(run.task.evaluation_scores.criteria) for _ in run.task.parameters]
        run.validation_scores.scores[:] = [ValidationIterationScores(n, [values]) for n in (50, 100)]
        stores.stats.store_validation_iteration_scores(run.name, run.validation_scores)
        with stores.writing(run.name):  # leaves its lock
            checkpoints = stores.run_folder(run.name) / "checkpoints" / "iterations"
            checkpoints.mkdir(parents=True)
            for n in (50, 100):
                (checkpoints / str(n)).touch()
