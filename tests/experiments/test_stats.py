"""The history of a training."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from dacapo.errors import DacapoError
from dacapo.experiments import training_iteration_stats, training_stats
from dacapo.experiments.stats import OutOfOrderError, TrainingIterationStats, TrainingStats


def history(*iterations: int) -> TrainingStats:
    return TrainingStats([TrainingIterationStats(i, i / 10, 0.5) for i in iterations])


def test_iteration_stats():
    """Positional order, equality by value, mutable; a time that nobody measured is zero and not shown."""
    one = TrainingIterationStats(3, 0.25, 1.5)
    assert (one.iteration, one.loss, one.time) == (3, 0.25, 1.5)
    assert one == TrainingIterationStats(time=1.5, loss=0.25, iteration=3)
    one.loss = 0.5
    assert repr(one) == "TrainingIterationStats(iteration=3, loss=0.5, time=1.5)"
    assert repr(TrainingIterationStats(3, 0.5)) == "TrainingIterationStats(iteration=3, loss=0.5)"
    assert TrainingIterationStats(3, 0.5).time == 0.0


def test_documented_import_paths():
    """The classes are found where the documentation names them."""
    assert training_stats.TrainingStats is TrainingStats
    assert training_iteration_stats.TrainingIterationStats is TrainingIterationStats


@pytest.mark.parametrize("iteration", [0, 3, 5])
def test_going_back_in_time_raises(iteration):
    """An iteration at or before the last raises, by the documented type and as a user's error; nothing is lost."""
    past = history(2, 5)
    for error in (OutOfOrderError, AssertionError, ValueError, DacapoError):
        with pytest.raises(error, match=f"iteration {iteration} cannot follow those of iteration 5"):
            past.add_iteration_stats(TrainingIterationStats(iteration, 0.1))
    assert past == history(2, 5)
    with pytest.raises(OutOfOrderError):
        history(5, iteration)


def test_gaps_are_fine():
    """Iterations may be skipped."""
    past = history(0, 10)
    past.add_iteration_stats(TrainingIterationStats(100, 0.0))
    assert past.trained_until() == 101


@pytest.mark.parametrize(
    ("after", "kept"), [(0, []), (1, [0]), (4, [0, 2]), (5, [0, 2]), (6, [0, 2, 5]), (99, [0, 2, 5])]
)
def test_delete_after_keeps_what_is_strictly_below(after, kept):
    """After deleting, training has reached at most the given iteration and can go on from there."""
    past = history(0, 2, 5)
    past.delete_after(after)
    assert past == history(*kept)
    assert past.trained_until() <= after
    past.add_iteration_stats(TrainingIterationStats(99, 0.1))


def test_nothing_trained_yet():
    """An empty history has reached iteration 0 and converts to an empty array."""
    past = TrainingStats()
    past.delete_after(0)
    assert past.trained_until() == 0
    array = past.to_xarray()
    assert array.shape == (0,)
    assert array.dims == ("iterations",)
    assert array.dtype == np.float64
    assert array.iterations.dtype == np.int64


def test_histories_share_nothing():
    """Two histories, and the list one was made from, are independent."""
    given = [TrainingIterationStats(0, 0.1)]
    one, two = TrainingStats(given), TrainingStats()
    one.add_iteration_stats(TrainingIterationStats(1, 0.1))
    assert len(given) == 1
    assert two.iteration_stats == []


def test_to_xarray():
    """Losses by iteration."""
    array = history(0, 2, 5).to_xarray()
    assert array.sel(iterations=2) == 0.2
    assert array.iterations.values.tolist() == [0, 2, 5]


def test_long_histories_are_quick():
    """Appending costs no more with a long history, and the whole converts at once (minutes if it did not)."""
    past, start = TrainingStats(), time.perf_counter()
    for iteration in range(300_000):
        past.add_iteration_stats(TrainingIterationStats(iteration, 0.5))
    array = past.to_xarray()
    past.delete_after(299_999)
    assert time.perf_counter() - start < 15
    assert array.size == 300_000
    assert past.trained_until() == 299_999


def test_history_does_not_load_torch():
    """Statistics and scores are read by tools that need no network."""
    code = """if True:
        import sys
        from dacapo.experiments import TrainingStats, ValidationScores
        print({"torch", "xarray"} & set(sys.modules))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
