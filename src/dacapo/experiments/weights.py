"""What a checkpoint brings back. Imports nothing, so that opening a store stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Weights:
    """Parameters of a run at an iteration, and the optimiser's state."""

    model: dict[str, Any]
    optimizer: dict[str, Any] | None = None
