"""Starts: weights to begin with instead of random ones. Imports `config`."""

from __future__ import annotations

from typing import ClassVar

from dacapo.config import Config


class StartConfig(Config):
    """Begin with the weights of another run in the same store; the network must be the same."""

    tagged: ClassVar[bool] = False
    run: str
    """Name of that run."""
    criterion: str
    """Its iteration, as a number, or the criterion whose best iteration to take."""
