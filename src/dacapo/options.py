"""Where runs are kept and how work is run: `Options.instance()`, from dacapo.yaml, environment and keywords.

Imports `config` only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dacapo.config import Config, load_yaml
from dacapo.errors import ConfigError

ENVIRONMENT_FILE = "DACAPO_OPTIONS_FILE"
ENVIRONMENT_RUNS = "DACAPO_RUNS_BASE_DIR"


class DaCapoConfig(Config):
    """What `dacapo.yaml` may say."""

    tagged: ClassVar[bool] = False
    type: Literal["files", "mongo"] = "files"
    """Where configs and stats are kept: "files" in `runs_base_dir`, or "mongo" for MongoDB. Weights and arrays are
    always files."""
    runs_base_dir: Path = Path("~/dacapo")
    """Folder of all runs; a relative one is relative to the file that says it, `~` is the home folder."""
    compute_context: Mapping[str, Any] = {"type": "LocalTorch", "config": {}}
    """Where work runs: the name of a context, or {type: name, config: {field: value}}; fields may also stand beside
    `type`."""
    chunk_cache_bytes: int = Field(default=2**28, ge=0)
    """Decoded chunks of input volumes that each process keeps in memory, in bytes; 0 keeps none."""
    mongo_db_host: str | None = None
    """Server of MongoDB, such as localhost:27017 (`type: mongo`)."""
    mongo_db_name: str | None = None
    """Name of the database there (`type: mongo`)."""

    @field_validator("runs_base_dir", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        if re.match(r"[a-z0-9+.-]{2,}:/", str(value), re.IGNORECASE):
            raise ValueError(f"runs are kept in a folder of a file system, got {str(value)!r}: mount the bucket")
        if isinstance(value, str | os.PathLike) and str(value):
            return Path(value).expanduser()
        raise ValueError(f"expected a folder, got {value!r}")

    @field_validator("compute_context", mode="before")
    @classmethod
    def _context(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            raise ValueError(f"expected the name of a context, or {{type: name, config: ...}}, got {value!r}")
        inner = value.get("config") or {}
        if not isinstance(inner, Mapping):
            raise ValueError(f"expected fields and values in config, got {inner!r}")
        beside = {k: v for k, v in value.items() if k not in ("type", "config")}
        twice = sorted(set(beside) & set(inner))
        if twice:
            raise ValueError(f"{twice[0]} stands in config and beside it")
        return {"type": value["type"], "config": {**inner, **beside}}

    def serialize(self) -> dict[str, Any]:
        """Plain data, as a dacapo.yaml would say it."""
        return self.to_dict()


class Options:
    """The options in force. Keywords beat the environment, that beats the file, that beats the defaults."""

    def __init__(self) -> None:
        raise RuntimeError("Options are not made: call Options.instance()")

    @staticmethod
    def config_file() -> Path | None:
        """The first that exists: $DACAPO_OPTIONS_FILE, ./dacapo.yaml, ~/dacapo.yaml, ~/.config/dacapo/dacapo.yaml.

        Raises
        ------
        ConfigError
            If the environment names a file that is not there.
        """
        named = os.environ.get(ENVIRONMENT_FILE)
        if named:
            file = Path(named).expanduser()
            if not file.is_file():
                raise ConfigError(f"{ENVIRONMENT_FILE}={named}: no such file")
            return file
        candidates = (Path("dacapo.yaml"), Path.home() / "dacapo.yaml", Path.home() / ".config/dacapo/dacapo.yaml")
        return next((path for path in candidates if path.is_file()), None)

    @classmethod
    def instance(cls, **kwargs: Any) -> DaCapoConfig:
        """The options in force, read anew at each call, so that nothing sticks.

        Raises
        ------
        ConfigError
            If a key is unknown (the nearest is named) or a value impossible: the message says where it stands.
        """
        merged: dict[str, Any] = {}
        for where, given in (*cls._from_file(), *cls._from_environment(), ("Options.instance", kwargs)):
            checked = DaCapoConfig.from_dict(given, where)
            merged |= {name: getattr(checked, name) for name in given}
        options = DaCapoConfig.from_dict(merged, "options")
        if options.type == "mongo":
            for name in ("mongo_db_host", "mongo_db_name"):
                if not getattr(options, name):
                    raise ConfigError(f"options: type: mongo needs {name}")
        return options

    @classmethod
    def _from_file(cls) -> list[tuple[str, dict[str, Any]]]:
        file = cls.config_file()
        if file is None:
            return []
        text = file.read_text(encoding="utf-8")
        given = load_yaml(text, str(file)) if text.strip() else {}
        checked = DaCapoConfig.from_dict(given, str(file))
        if "runs_base_dir" in given:  # joined with an absolute path, this is that path
            given["runs_base_dir"] = file.resolve().parent / checked.runs_base_dir
        return [(str(file), given)]

    @staticmethod
    def _from_environment() -> list[tuple[str, dict[str, Any]]]:
        runs = os.environ.get(ENVIRONMENT_RUNS)
        return [(ENVIRONMENT_RUNS, {"runs_base_dir": runs})] if runs else []
