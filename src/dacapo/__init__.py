"""DaCapo: train, validate and run deep networks that segment 3D microscopy volumes.

The verbs are here, `dacapo.train(...)`; what they speak of is in `dacapo.experiments`.
"""

from dacapo import upstream_paths as _upstream_paths

# Eager, although the modules have the verbs' names: imported lazily, `dacapo.train` would be the
# function once and the module ever after. What is heavy is imported inside the functions.
from dacapo.apply import Applied, apply, evaluate
from dacapo.import_upstream import import_upstream
from dacapo.predict import predict
from dacapo.segment import segment
from dacapo.train import load, train, train_run
from dacapo.validate import validate, validate_run

__version__ = "0.1.0"
__version_info__ = tuple(int(part) for part in __version__.split("."))

__all__ = [
    "Applied",
    "Options",
    "__version__",
    "apply",
    "evaluate",
    "import_upstream",
    "list_runs",
    "load",
    "predict",
    "run",
    "run_blockwise",
    "segment",
    "segment_blockwise",
    "show",
    "train",
    "train_run",
    "validate",
    "validate_run",
]

_upstream_paths.install()

# No module has the name of one of these functions and classes, so they may wait until they are asked for.
_LATER = {
    "Options": "dacapo.options",
    "list_runs": "dacapo.summary",
    "run": "dacapo.summary",
    "run_blockwise": "dacapo.blockwise",
    "segment_blockwise": "dacapo.blockwise",
    "show": "dacapo.summary",
}
_SUBMODULES = ("experiments", "utils")


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name in _SUBMODULES:
        return import_module(f"dacapo.{name}")
    raise AttributeError(f"module 'dacapo' has no attribute {name!r}")
