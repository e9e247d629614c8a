"""One step of a training: what it leaves on the device, and where its time went. Imports `stats`; torch by its type.

A step waits for nothing on the device, and neither does its clock: on CUDA the times are those of events between the
parts, which are read when the losses are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dacapo.experiments.stats import StepTimes

if TYPE_CHECKING:
    import torch


class StepClock:
    """Times of the parts of a step, one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._marks = [self._now()]

    def mark(self) -> None:
        """A part ends here."""
        self._marks.append(self._now())

    def times(self, data: float) -> StepTimes:
        """Seconds of the three parts, after `data` seconds of waiting for samples. Waits for the device."""
        if self._on_device:
            self._marks[-1].synchronize()
            parts = [a.elapsed_time(b) / 1000 for a, b in zip(self._marks, self._marks[1:], strict=False)]
        else:
            parts = [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]
        return StepTimes(*(round(seconds, 6) for seconds in (data, *parts)))

    def _now(self) -> Any:
        if not self._on_device:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class Step:
    """What a training step leaves; on the device."""

    loss: torch.Tensor
    probabilities: torch.Tensor | None = None
    """The prediction of the batch as it is when evaluated; with `looked_at` only, as the next."""
    gradients: torch.Tensor | None = None
    """Of the loss by the prediction before the evaluation activation."""
    clock: StepClock | None = None
    """Of forward pass (with the copy to the device), backward pass and optimiser."""
