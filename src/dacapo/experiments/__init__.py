"""What an experiment is: what data, which task, which architecture, how to train."""

from dacapo.experiments.scores import ValidationIterationScores, ValidationScores
from dacapo.experiments.stats import TrainingIterationStats, TrainingStats

__all__ = [
    "Model",
    "Run",
    "RunConfig",
    "TrainingIterationStats",
    "TrainingStats",
    "ValidationIterationScores",
    "ValidationScores",
]


def __getattr__(name: str) -> object:
    # The rest brings pydantic models or torch along: only when asked for.
    if name == "Model":
        from dacapo.experiments.model import Model

        return Model
    if name in ("Run", "RunConfig"):
        from dacapo.experiments import run_config

        return getattr(run_config, name)
    raise AttributeError(f"module 'dacapo.experiments' has no attribute {name!r}")
