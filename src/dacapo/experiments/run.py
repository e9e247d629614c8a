"""Upstream's path to `Run`."""

from dacapo.experiments.run_config import Run

__all__ = ["Run"]
