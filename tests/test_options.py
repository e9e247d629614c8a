"""Options: keywords beat the environment, that beats the file, that beats the defaults; nothing sticks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dacapo.compute_context import LocalTorch, create_compute_context
from dacapo.errors import ConfigError
from dacapo.options import DaCapoConfig, Options


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder of their own, and nothing in the environment."""
    monkeypatch.delenv("DACAPO_RUNS_BASE_DIR")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_each_level_beats_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults, file, environment, keywords: each beats those before, and only where it says something."""
    assert Options.instance().runs_base_dir == tmp_path / "home" / "dacapo"
    Path("dacapo.yaml").write_text("runs_base_dir: in_file\ncompute_context: {type: LocalTorch, num_threads: 3}\n")
    assert Options.instance().runs_base_dir == tmp_path / "in_file"
    assert Options.instance(runs_base_dir="/given").runs_base_dir == Path("/given")  # keywords beat the file
    monkeypatch.setenv("DACAPO_RUNS_BASE_DIR", "/environment")
    assert Options.instance().runs_base_dir == Path("/environment")  # the environment beats the file
    assert Options.instance().compute_context["config"] == {"num_threads": 3}  # what it does not say stays
    assert Options.instance(runs_base_dir="tmp").runs_base_dir == Path("tmp")  # keywords beat the environment
    Path("dacapo.yaml").unlink()
    assert Options.instance().runs_base_dir == Path("/environment")  # the environment beats the defaults
    assert Options.instance(runs_base_dir="/given").runs_base_dir == Path("/given")
    monkeypatch.delenv("DACAPO_RUNS_BASE_DIR")
    assert Options.instance(runs_base_dir="/given").runs_base_dir == Path("/given")  # keywords beat the defaults


def test_files_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$DACAPO_OPTIONS_FILE, ./dacapo.yaml, ~/dacapo.yaml, ~/.config/dacapo/dacapo.yaml; `~` is expanded."""
    home = tmp_path / "home"
    (home / ".config" / "dacapo").mkdir(parents=True)
    assert Options.config_file() is None
    for file in (home / ".config" / "dacapo" / "dacapo.yaml", home / "dacapo.yaml", tmp_path / "dacapo.yaml"):
        file.write_text("")
        assert Options.config_file().resolve() == file  # type: ignore[union-attr]
    named = home / "other.yaml"
    named.write_text("runs_base_dir: ~/elsewhere\n")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "~/other.yaml")
    assert Options.config_file() == named
    assert Options.instance().runs_base_dir == home / "elsewhere"
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "")
    assert Options.config_file() == Path("dacapo.yaml")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        Options.instance()


def test_nothing_sticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file found in one folder says nothing in another, and a keyword nothing in the next call."""
    Path("dacapo.yaml").write_text("runs_base_dir: here\n")
    assert Options.instance(runs_base_dir="/given").runs_base_dir == Path("/given")
    assert Options.instance().runs_base_dir == tmp_path / "here"
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert Options.instance().runs_base_dir == tmp_path / "home" / "dacapo"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("runs_base_dri: here", "dacapo.yaml: unknown field 'runs_base_dri'. Did you mean 'runs_base_dir'"),
        ("mongodbhost: here", "dacapo.yaml: unknown field 'mongodbhost'. Did you mean 'mongo_db_host'"),
        ("type: mongodb", "dacapo.yaml: type: input should be 'files' or 'mongo', got 'mongodb'"),
        ("type: mongo\nmongo_db_name: runs", "type: mongo needs mongo_db_host"),
        ("runs_base_dir: s3://bucket/runs", "dacapo.yaml: runs_base_dir: .*got 's3://bucket/runs': mount the bucket"),
        ("runs_base_dir: [a]", "dacapo.yaml: runs_base_dir: expected a folder"),
        ("compute_context: {config: {}}", "dacapo.yaml: compute_context: expected the name of a context"),
        (
            "compute_context: {type: LocalTorch, num_threads: 1, config: {num_threads: 2}}",
            "num_threads stands in config and beside it",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(given: str, message: str) -> None:
    """One line that says where it stands, and the nearest key."""
    Path("dacapo.yaml").write_text(given + "\n")
    with pytest.raises(ConfigError, match=message):
        Options.instance()


def test_mistakes_in_keywords_and_environment_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong keyword is not blamed on the file, nor a wrong variable on the keywords."""
    Path("dacapo.yaml").write_text("runs_base_dir: here\n")
    with pytest.raises(ConfigError, match="^Options.instance: unknown field 'runs'"):
        Options.instance(runs="x")
    monkeypatch.setenv("DACAPO_RUNS_BASE_DIR", "gs://bucket")
    with pytest.raises(ConfigError, match="^DACAPO_RUNS_BASE_DIR: runs_base_dir: "):
        Options.instance()


@pytest.mark.parametrize(
    "written",
    [
        "LocalTorch",
        "{type: LocalTorch}",
        "{type: LocalTorch, config: null}",
        "{type: LocalTorch, config: {device_name: cpu}}",
        "{type: LocalTorch, device_name: cpu}",
    ],
)
def test_a_compute_context_with_or_without_config(written: str) -> None:
    """All the ways in which people write it, upstream's `dacapo config` among them, make a context."""
    Path("dacapo.yaml").write_text(f"compute_context: {written}\n")
    context = create_compute_context()
    assert isinstance(context, LocalTorch)
    assert context.device_name == ("cpu" if "cpu" in written else None)


def test_options_are_only_read() -> None:
    """`Options()` is no way to them; what `instance` gives goes through plain data."""
    with pytest.raises(RuntimeError, match=r"Options.instance\(\)"):
        Options()
    options = Options.instance(type="mongo", mongo_db_host="localhost", mongo_db_name="runs")
    assert DaCapoConfig.from_dict(options.serialize()) == options
