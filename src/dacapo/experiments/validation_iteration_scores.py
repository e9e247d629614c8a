"""The documented import path of `ValidationIterationScores`, which lives in `scores`."""

from dacapo.experiments.scores import ValidationIterationScores as ValidationIterationScores
