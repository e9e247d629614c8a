"""DaCapo: train, validate and run deep networks that segment 3D microscopy volumes.

The verbs are here, `dacapo.train(...)`; what they speak of is in `dacapo.experiments`.
"""

# Eager, although the modules have the verbs' names: imported lazily, `dacapo.train` would be the
# function once and the module ever after. What is heavy is imported inside the functions.
from dacapo.apply import Applied, apply, evaluate
from dacapo.import_upstream import import_upstream
from dacapo.predict import predict
from dacapo.segment import segment
from dacapo.train import load, train, train_run
from dacapo.validate import validate, validate_run

__version__ = "0.1.0"

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
    "segment",
    "show",
    "train",
    "train_run",
    "validate",
    "validate_run",
]


def __getattr__(name: str) -> object:
    if name == "Options":
        from dacapo.options import Options

        return Options
    if name in ("list_runs", "run", "show"):  # no module has these names: they may wait
        from dacapo import summary

        return getattr(summary, name)
    raise AttributeError(f"module 'dacapo' has no attribute {name!r}")
