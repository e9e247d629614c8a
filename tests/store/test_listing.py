"""The list of runs: quick with many runs, and right whatever happened to their files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import small_experiment
from dacapo import summary
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.scores import ValidationIterationScores
from dacapo.store import Stores
from dacapo.store.listing import FILE


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_experiment(tmp_path_factory.mktemp("data"))


def store(stores: Stores, experiment: dict[str, Any], name: str) -> RunConfig:
    run = RunConfig.from_dict({**experiment, "name": name})
    stores.configs.store_run_config(run)
    return run


def validated(stores: Stores, run: RunConfig, iteration: int, value: float) -> None:
    assert run.task is not None
    scores = [[[value] * len(run.task.evaluation_scores.criteria)]]
    stores.stats.append_validation_iteration_scores(run.name, [ValidationIterationScores(iteration, scores)])


def settle(stores: Stores, time: int = 1_600_000_000) -> None:
    """Make all files of configs and scores old."""
    for file in [*stores.base.glob("configs/runs/*.yaml"), *stores.base.glob("stats/validation_scores/*")]:
        os.utime(file, (time, time))


def config_file(stores: Stores, name: str) -> Path:
    return stores.base / "configs" / "runs" / f"{name}.yaml"


def lines(stores: Stores) -> list[list[str]]:
    """The list, in words."""
    return [line.split() for line in summary.list_runs(stores)[1:]]


def forget(stores: Stores) -> None:
    (stores.base / FILE).unlink(missing_ok=True)


def forbidden(*_: Any) -> Any:
    raise AssertionError("read again")


def test_nothing_is_read_twice(stores: Stores, experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs and scores that are what they were are not read again; states and iterations are looked at each time."""
    for name in ("a", "b"):
        validated(stores, store(stores, experiment, name), 3, 0.25)
    settle(stores)
    first = summary.list_runs(stores)
    monkeypatch.setattr(type(stores.configs), "_read", forbidden)
    monkeypatch.setattr(type(stores.stats), "_records", forbidden)
    assert summary.list_runs(stores) == first
    assert "0/6 voi 0.250" in " ".join(lines(stores)[0])
    checkpoint = stores.run_folder("b") / "checkpoints" / "iterations" / "6"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert [line[1:3] for line in lines(stores)] == [["waiting", "0/6"], ["done", "6/6"]]
    with stores.writing("a"):
        assert lines(stores)[0][1] == "training"


def test_what_was_just_written_is_not_believed(stores: Stores, experiment: dict[str, Any]) -> None:
    """A file younger than the steps in which file systems count time may yet change unseen: it is read again."""
    validated(stores, store(stores, experiment, "a"), 3, 0.25)
    summary.list_runs(stores)
    assert not (stores.base / FILE).exists()
    settle(stores)
    summary.list_runs(stores)
    assert list(json.loads((stores.base / FILE).read_text())["runs"]) == ["a"]
    stores.configs.delete_run_config("a")
    store(stores, experiment, "b")
    summary.list_runs(stores)
    assert json.loads((stores.base / FILE).read_text())["runs"] == {}


def test_an_edit_that_hides_is_seen(stores: Stores, experiment: dict[str, Any]) -> None:
    """A config changed in place, to the same size and with its old date, is read again."""
    store(stores, experiment, "a")
    settle(stores)
    assert lines(stores)[0][2] == "0/6"
    file = config_file(stores, "a")
    before = file.stat()
    file.write_text(file.read_text().replace("num_iterations: 6", "num_iterations: 8"))
    settle(stores)
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of the file system ticks: milliseconds
        settle(stores)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert lines(stores)[0][2] == "0/8"


@pytest.mark.parametrize("text", ["name: a\n", "num_iterations: [", "", "a\0b"])
def test_a_broken_run_is_shown_as_it_is(stores: Stores, experiment: dict[str, Any], text: str) -> None:
    """Half a config is broken each time it is listed, and whole again when it is mended."""
    store(stores, experiment, "a")
    store(stores, experiment, "b")
    settle(stores)
    assert [line[1] for line in lines(stores)] == ["waiting", "waiting"]
    whole = config_file(stores, "a").read_text()
    config_file(stores, "a").write_text(text)
    settle(stores, 1_600_000_001)
    for _ in range(2):
        assert [line[1] for line in lines(stores)] == ["broken", "waiting"]
    config_file(stores, "a").write_text(whole)
    settle(stores, 1_600_000_002)
    assert [line[1] for line in lines(stores)] == ["waiting", "waiting"]


@pytest.mark.parametrize("change", ["torn", "list", "old", "marks", "types", "folder"])
def test_what_is_remembered_badly_is_made_anew(stores: Stores, experiment: dict[str, Any], change: str) -> None:
    """A damaged file, one of another version, one that cannot be written: the list is right all the same."""
    validated(stores, store(stores, experiment, "a"), 3, 0.25)
    settle(stores)
    right = lines(stores)
    file = stores.base / FILE
    said = json.loads(file.read_text())
    entry = said["runs"]["a"]
    assert right[0][2] == "0/6"
    entry["num_iterations"] = 9
    file.unlink()
    if change == "old":
        said["version"] = [0, "0.0"]
    if change == "marks":
        entry["marks"][0][0] += 1
    if change == "types":
        entry["num_iterations"] = "9"
    if change == "folder":
        file.mkdir()
    else:
        file.write_text({"torn": json.dumps(said)[:-9], "list": "[1]"}.get(change, json.dumps(said)))
    assert lines(stores) == right


def test_stores_that_are_no_files_are_listed(experiment: dict[str, Any]) -> None:
    """Where it cannot be told whether something changed, everything is read and nothing remembered."""
    stores = Stores.in_memory()
    run = store(stores, experiment, "a")
    validated(stores, run, 3, 0.5)
    assert "voi 0.500" in " ".join(lines(stores)[0])
    validated(stores, run, 6, 0.25)
    assert "voi 0.250" in " ".join(lines(stores)[0])
    assert not (stores.base / FILE).exists()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["store", "delete", "edit", "break", "score", "rescore"]), st.sampled_from("ab")),
        max_size=8,
    )
)
def test_the_list_is_what_it_would_be_without_memory(
    experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    """Whatever is stored, deleted, edited, broken or validated in between, the list is that of a first look."""
    stores = Stores(tmp_path_factory.mktemp("runs"))
    for number, (step, name) in enumerate(steps):
        file = config_file(stores, name)
        if step == "store" and not file.exists():
            store(stores, experiment, name)
        elif step == "delete":
            stores.configs.delete_run_config(name)
        elif step == "edit" and file.exists():
            file.write_text(file.read_text().replace("num_iterations: ", "num_iterations: 1"))
        elif step == "break" and file.exists():
            file.write_text(file.read_text()[: 5 * number])
        elif step == "score":
            validated(stores, RunConfig.from_dict({**experiment, "name": name}), number, 1 - number / 10)
        elif step == "rescore":
            stores.stats.delete_validation_scores(name)
        settle(stores, 1_600_000_000 + number)
        remembered = lines(stores)
        forget(stores)
        assert remembered == lines(stores)


def test_listing_loads_little(stores: Stores, experiment: dict[str, Any]) -> None:
    """With everything remembered, no experiment is built and nothing heavy imported."""
    store(stores, experiment, "a")
    settle(stores)
    summary.list_runs(stores)
    code = (
        "import sys; from dacapo.cli import cli; cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print([m for m in ('torch', 'scipy', 'numba', 'tensorstore', 'dacapo.experiments.run_config') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--runs", str(stores.base), "list"], capture_output=True, text=True, check=True
    )
    assert "waiting" in done.stdout
    assert done.stdout.strip().endswith("[]"), done.stdout
