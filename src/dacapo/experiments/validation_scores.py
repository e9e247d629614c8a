"""The documented import path of `ValidationScores`, which lives in `scores`."""

from dacapo.experiments.scores import ValidationScores as ValidationScores
