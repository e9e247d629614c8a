"""The history of a training: one loss per iteration, and its time.

Imports `errors` and numpy; xarray where it is used. No files: the stores write and read these.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dacapo.errors import DacapoError

if TYPE_CHECKING:
    import xarray as xr


class OutOfOrderError(DacapoError, AssertionError, ValueError):
    """Statistics that go back in time. The documented API speaks of an assertion: it is that as well."""


class StepTimes(NamedTuple):
    """Where the time of an iteration went, in seconds; on CUDA all but `data` by the clock of the device."""

    data: float
    """Waiting for samples."""
    forward: float
    """Copying to the device, the forward pass and the loss."""
    backward: float
    optimizer: float


@dataclass(slots=True, repr=False)
class TrainingIterationStats:
    """What one training iteration did.

    Attributes
    ----------
    iteration : int
        The iteration that produced these stats, counted from 0.
    loss : float
        Its loss.
    time : float
        How long it took, in seconds; 0.0 where nobody measured.
    split : StepTimes, optional
        Of which parts; None where nobody measured.

    Examples
    --------
    >>> TrainingIterationStats(0, 0.1)
    TrainingIterationStats(iteration=0, loss=0.1)
    >>> TrainingIterationStats(0, 0.1, 1.5)
    TrainingIterationStats(iteration=0, loss=0.1, time=1.5)
    """

    iteration: int
    loss: float
    time: float = 0.0
    split: StepTimes | None = None

    def __repr__(self) -> str:
        """A time that was not measured is left out, and the split always."""
        time = f", time={self.time!r}" if self.time else ""
        return f"TrainingIterationStats(iteration={self.iteration!r}, loss={self.loss!r}{time})"


@dataclass
class TrainingStats:
    """The training iterations so far, in order.

    Attributes
    ----------
    iteration_stats : list of TrainingIterationStats
        Iterations strictly increase; there may be gaps. A given list is copied.
    """

    iteration_stats: list[TrainingIterationStats] = field(default_factory=list)

    def __post_init__(self) -> None:
        given, self.iteration_stats = self.iteration_stats, []
        for stats in given:
            self.add_iteration_stats(stats)

    def add_iteration_stats(self, iteration_stats: TrainingIterationStats) -> None:
        """Add the stats of an iteration after all that are there.

        Raises
        ------
        OutOfOrderError
            (an AssertionError and a ValueError) If the iteration is not after the last one.

        Examples
        --------
        >>> training_stats = TrainingStats()
        >>> training_stats.add_iteration_stats(TrainingIterationStats(0, 0.1))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(1, 0.2))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(2, 0.3))
        >>> training_stats.iteration_stats  # doctest: +NORMALIZE_WHITESPACE
        [TrainingIterationStats(iteration=0, loss=0.1),
         TrainingIterationStats(iteration=1, loss=0.2),
         TrainingIterationStats(iteration=2, loss=0.3)]
        """
        new = iteration_stats.iteration
        if self.iteration_stats and new < self.trained_until():
            raise OutOfOrderError(
                f"stats of iteration {new} cannot follow those of iteration {self.trained_until() - 1};"
                f" delete_after({new}) goes back to train again from there"
            )
        self.iteration_stats.append(iteration_stats)

    def delete_after(self, iteration: int) -> None:
        """Keep the stats strictly below `iteration`, as after `iteration` iterations of training.

        Examples
        --------
        >>> training_stats = TrainingStats()
        >>> training_stats.add_iteration_stats(TrainingIterationStats(0, 0.1))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(1, 0.2))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(2, 0.3))
        >>> training_stats.delete_after(1)
        >>> training_stats.iteration_stats
        [TrainingIterationStats(iteration=0, loss=0.1)]
        """
        del self.iteration_stats[bisect_left(self.iteration_stats, iteration, key=attrgetter("iteration")) :]

    def trained_until(self) -> int:
        """The number of iterations trained for (the last iteration plus one); 0 before the first.

        Examples
        --------
        >>> training_stats = TrainingStats()
        >>> training_stats.trained_until()
        0
        >>> training_stats.add_iteration_stats(TrainingIterationStats(0, 0.1))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(1, 0.2))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(2, 0.3))
        >>> training_stats.trained_until()
        3
        """
        return self.iteration_stats[-1].iteration + 1 if self.iteration_stats else 0

    def to_xarray(self) -> xr.DataArray:
        """The losses along `iterations` (int64); of length 0 before the first iteration.

        Examples
        --------
        >>> training_stats = TrainingStats()
        >>> training_stats.add_iteration_stats(TrainingIterationStats(0, 0.1))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(1, 0.2))
        >>> training_stats.add_iteration_stats(TrainingIterationStats(2, 0.3))
        >>> training_stats.to_xarray()  # doctest: +ELLIPSIS
        <xarray.DataArray (iterations: 3)>...
        array([0.1, 0.2, 0.3])
        Coordinates:
          * iterations  (iterations) int64 ...0 1 2
        """
        import xarray as xr

        count = len(self.iteration_stats)
        losses = np.fromiter(map(attrgetter("loss"), self.iteration_stats), np.float64, count)
        iterations = np.fromiter(map(attrgetter("iteration"), self.iteration_stats), np.int64, count)
        return xr.DataArray(losses, dims=("iterations",), coords={"iterations": iterations})
