"""The documented import path of `TrainingStats`, which lives in `stats`."""

from dacapo.experiments.stats import TrainingStats as TrainingStats
