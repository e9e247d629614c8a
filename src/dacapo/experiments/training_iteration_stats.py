"""The documented import path of `TrainingIterationStats`, which lives in `stats`."""

from dacapo.experiments.stats import TrainingIterationStats as TrainingIterationStats
