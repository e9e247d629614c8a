"""Where runs are kept and how work is run: `Options.instance()`, from dacapo.yaml, environment and keywords.

Imports `config` only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from dacapo.config import Config, load_yaml
from dacapo.errors import ConfigError

ENVIRONMENT_FILE = "DACAPO_OPTIONS_FILE"
ENVIRONMENT_RUNS = "DACAPO_RUNS_BASE_DIR"


class DaCapoConfig(Config):
    """What `dacapo.yaml` may say."""

    tagged: ClassVar[bool] = False
    type: Literal["files"] = "files"
    """How configs and stats are kept."""
    runs_base_dir: Path = Path("~/dacapo")
    """Folder of all runs; relative paths are relative to the file that says it."""
    compute_context: Mapping[str, Any] = {"type": "LocalTorch", "config": {}}
    """Where work runs."""

    def serialize(self) -> dict[str, Any]:
        return self.to_dict()


class Options:
    """The options in force. Keywords beat the environment, that beats the file, that beats the defaults."""

    def __init__(self) -> None:
        raise RuntimeError("Options are not made: call Options.instance()")

    @staticmethod
    def config_file() -> Path | None:
        """The first that exists: $DACAPO_OPTIONS_FILE, ./dacapo.yaml, ~/dacapo.yaml, ~/.config/dacapo/dacapo.yaml."""
        named = os.environ.get(ENVIRONMENT_FILE)
        if named:
            if not Path(named).is_file():
                raise ConfigError(f"{ENVIRONMENT_FILE}={named}: no such file")
            return Path(named)
        candidates = (Path("dacapo.yaml"), Path.home() / "dacapo.yaml", Path.home() / ".config/dacapo/dacapo.yaml")
        return next((path for path in candidates if path.is_file()), None)

    @classmethod
    def instance(cls, **kwargs: Any) -> DaCapoConfig:
        """Read anew at each call, so that nothing sticks. Unknown keys are refused."""
        file = cls.config_file()
        values: dict[str, Any] = {}
        if file is not None:
            values = load_yaml(file.read_text(encoding="utf-8"), str(file))
            if "runs_base_dir" in values:
                folder = Path(str(values["runs_base_dir"])).expanduser()
                values["runs_base_dir"] = folder if folder.is_absolute() else file.resolve().parent / folder
        if os.environ.get(ENVIRONMENT_RUNS):
            values["runs_base_dir"] = os.environ[ENVIRONMENT_RUNS]
        values |= kwargs
        options = DaCapoConfig.from_dict(values, str(file) if file and not kwargs else "options")
        return options.model_copy(update={"runs_base_dir": options.runs_base_dir.expanduser()})
