"""The history of validations: a score per dataset, post-processing parameters and criterion.

Imports numpy; xarray where it is used. Datasets, parameters and criteria are only asked for their
names and directions, so nothing of tasks or data is imported.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.tasks.evaluators import EvaluationScores
    from dacapo.experiments.tasks.post_processors import PostProcessorParameters

DIMS = ("iterations", "datasets", "parameters", "criteria")


@dataclass
class ValidationIterationScores:
    """The scores of one validation.

    Attributes
    ----------
    iteration : int
        The iteration that was validated.
    scores : list of list of list of float
        Indexed by dataset, then post-processing parameters, then criterion; NaN where there is none.
    """

    iteration: int
    scores: list[list[list[float]]]


@dataclass
class ValidationScores:
    """The scores of all validations of a run, for a set of datasets and parameters.

    Attributes
    ----------
    parameters : list of PostProcessorParameters
        The parameter sets that every validation tries.
    datasets : list of Dataset
        What is validated on; only the names are used here.
    evaluation_scores : EvaluationScores
        Knows the criteria, and for each whether higher is better.
    scores : list of ValidationIterationScores
        One per validated iteration, kept in the order of iterations. A given list is copied.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from dacapo.experiments.tasks.evaluators import InstanceEvaluationScores
    >>> from dacapo.experiments.tasks.post_processors import ThresholdPostProcessorParameters
    >>> validation_scores = ValidationScores(
    ...     [ThresholdPostProcessorParameters(0)], [SimpleNamespace(name="crop")], InstanceEvaluationScores()
    ... )
    >>> criteria = validation_scores.criteria
    >>> validation_scores.validated_until()
    0
    >>> for iteration, score in [(0, 3.0), (1000, 1.5), (2000, 2.0)]:
    ...     validation_scores.add_iteration_scores(
    ...         ValidationIterationScores(iteration, [[[score] * len(criteria)]])
    ...     )
    >>> validation_scores.validated_until()
    2001
    >>> validation_scores.subscores([validation_scores.scores[0]]).validated_until()
    1
    >>> validation_scores.compare([validation_scores.scores[0]])
    (False, 1)
    >>> validation_scores.parameter_names
    ['id', 'threshold']
    >>> data = validation_scores.to_xarray()
    >>> data.dims
    ('iterations', 'datasets', 'parameters', 'criteria')
    >>> iterations, values = validation_scores.get_best(data, "iterations")
    >>> int(iterations.sel(criteria="voi").squeeze()), float(values.sel(criteria="voi").squeeze())
    (1000, 1.5)
    >>> validation_scores.delete_after(1000)
    >>> validation_scores.validated_until()
    1
    """

    parameters: list[PostProcessorParameters]
    datasets: list[Dataset]
    evaluation_scores: EvaluationScores
    scores: list[ValidationIterationScores] = field(default_factory=list)

    def __post_init__(self) -> None:
        given, self.scores = self.scores, []
        for iteration_scores in given:
            self.add_iteration_scores(iteration_scores)

    def subscores(self, iteration_scores: list[ValidationIterationScores]) -> ValidationScores:
        """These scores of the same datasets, parameters and criteria as a new object.

        Raises
        ------
        ValueError
            If one of them is not among the scores.
        """
        for given in iteration_scores:
            if not any(_equal(given, mine) for mine in self.scores):
                raise ValueError(
                    f"the scores given for iteration {given.iteration} are not among those of iterations"
                    f" {[mine.iteration for mine in self.scores]}"
                )
        return ValidationScores(self.parameters, self.datasets, self.evaluation_scores, list(iteration_scores))

    def add_iteration_scores(self, iteration_scores: ValidationIterationScores) -> None:
        """Add the scores of an iteration that was not validated before, in any order.

        Raises
        ------
        ValueError
            If there are scores of that iteration.
        """
        if any(mine.iteration == iteration_scores.iteration for mine in self.scores):
            raise ValueError(
                f"there are scores of iteration {iteration_scores.iteration} already;"
                " delete them with delete_after to validate again"
            )
        insort(self.scores, iteration_scores, key=attrgetter("iteration"))

    def delete_after(self, iteration: int) -> None:
        """Keep the scores strictly below `iteration`."""
        self.scores = [mine for mine in self.scores if mine.iteration < iteration]

    def validated_until(self) -> int:
        """The number of iterations validated for (the highest plus one); 0 before the first."""
        return _until(self.scores)

    def compare(self, existing_iteration_scores: list[ValidationIterationScores]) -> tuple[bool, int]:
        """What to do with scores that are stored elsewhere: these here take priority.

        Returns
        -------
        drop_existing : bool
            Whether the existing scores reach further than these and must be deleted first.
        first_iteration_to_store : int
            The first iteration whose scores are to be written: 0 if the existing ones are dropped,
            else where the existing ones end.
        """
        existing_until = _until(existing_iteration_scores)
        if existing_until > self.validated_until():
            return True, 0
        return False, existing_until

    @property
    def criteria(self) -> list[str]:
        """The names of the criteria, in the order of the scores."""
        return self.evaluation_scores.criteria

    @property
    def parameter_names(self) -> list[str]:
        """The names of the values that make up one parameter set.

        Raises
        ------
        ValueError
            If there are no parameters.
        """
        if not self.parameters:
            raise ValueError("there are no post-processing parameters, so they have no names")
        return self.parameters[0].parameter_names

    def to_xarray(self) -> xr.DataArray:
        """All scores as float64 along iterations, datasets, parameters and criteria.

        The coordinates are the iteration numbers, the names of the datasets, the parameter objects and
        the names of the criteria. Any of them may be empty.

        Raises
        ------
        ValueError
            If the scores of an iteration are not one per dataset, parameters and criterion.
        """
        import xarray as xr

        shape = (len(self.datasets), len(self.parameters), len(self.criteria))
        values = np.empty((len(self.scores), *shape))
        for row, mine in zip(values, self.scores, strict=True):
            row[...] = _as_array(mine, shape)
        coords = {
            "iterations": np.array([mine.iteration for mine in self.scores], dtype=np.int64),
            "datasets": np.array([dataset.name for dataset in self.datasets], dtype=str),
            "parameters": _objects(self.parameters),
            "criteria": np.array(self.criteria, dtype=str),
        }
        return xr.DataArray(values, dims=DIMS, coords=coords)

    def get_best(self, data: xr.DataArray, dim: str) -> tuple[xr.DataArray, xr.DataArray]:
        """The best scores along `dim`, each criterion judged by its own direction.

        Parameters
        ----------
        data : DataArray
            Scores as `to_xarray` gives them, or a selection: of many criteria or of a single one.
        dim : str
            The dimension to choose from: "iterations", "parameters" or "datasets".

        Returns
        -------
        index : DataArray
            The coordinate along `dim` of the best score (an iteration number, a parameter object, a
            dataset's name); of equal scores the first. Where all scores are NaN it is missing
            (`isnull()`): None for a parameter object, NaN else, and the iterations are floats then.
        value : DataArray
            The best score; NaN where all are.

        Raises
        ------
        ValueError
            If `data` has no coordinate "criteria" or no dimension `dim`, or if `dim` is "criteria".
        """
        import xarray as xr

        if "criteria" not in data.coords:
            raise ValueError(f"the scores need a coordinate 'criteria' to tell good from bad, got {list(data.coords)}")
        if dim not in data.dims or dim in data.coords["criteria"].dims:
            choices = [str(d) for d in data.dims if d not in data.coords["criteria"].dims]
            raise ValueError(f"the best score is chosen along one of {choices}, got {dim!r}")
        names = data.coords["criteria"]
        signs = [1.0 if self.evaluation_scores.higher_is_better(str(n)) else -1.0 for n in names.values.flat]
        gain = data * xr.DataArray(np.reshape(signs, names.shape), dims=names.dims)
        axis = data.get_axis_num(dim)
        position, known = _first_best(gain.transpose(*data.dims).values, axis)
        labels = data.coords[dim].values if dim in data.coords else np.arange(data.sizes[dim])
        values = _take(data.values.astype(np.float64, copy=False), position, known, axis)

        kept = {name: coord for name, coord in data.coords.items() if dim not in coord.dims}
        dims = [d for d in data.dims if d != dim]
        return xr.DataArray(_labels_at(labels, position, known), kept, dims), xr.DataArray(values, kept, dims)


def _until(scores: Sequence[ValidationIterationScores]) -> int:
    return max((s.iteration for s in scores), default=-1) + 1


def _equal(one: ValidationIterationScores, other: ValidationIterationScores) -> bool:
    """Equal by value; a NaN equals a NaN, also after a round trip through a file."""
    if one is other or one.iteration != other.iteration:
        return one is other
    return np.array_equal(np.array(one.scores, np.float64), np.array(other.scores, np.float64), equal_nan=True)


def _as_array(scores: ValidationIterationScores, shape: tuple[int, int, int]) -> np.ndarray:
    given = scores.scores
    try:
        array = np.array(given, dtype=np.float64)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.shape != shape and (array.size or np.prod(shape)):
        raise ValueError(
            f"the scores of iteration {scores.iteration} are not {shape[0]} datasets of {shape[1]} parameters"
            f" of {shape[2]} criteria"
        )
    return array.reshape(shape)


def _objects(items: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = list(items) or array
    return array


def _first_best(gain: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Where along `axis` the gain is highest, NaN aside, and whether anything but NaN is there."""
    if gain.shape[axis] == 0:
        shape = gain.shape[:axis] + gain.shape[axis + 1 :]
        return np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    missing = np.isnan(gain)
    ranked = np.where(missing, -np.inf, np.maximum(gain, np.finfo(gain.dtype).min))
    return np.argmax(ranked, axis=axis), ~missing.all(axis=axis)


def _take(values: np.ndarray, position: np.ndarray, known: np.ndarray, axis: int) -> np.ndarray:
    if values.shape[axis] == 0:
        return np.full(position.shape, np.nan)
    chosen = np.take_along_axis(values, np.expand_dims(position, axis), axis).squeeze(axis)
    return np.where(known, chosen, np.nan)


def _labels_at(labels: np.ndarray, position: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The labels at these positions; numbers stay integers if all are known."""
    if known.all() and len(labels):
        return labels[position.ravel()].reshape(position.shape)
    numeric = np.issubdtype(labels.dtype, np.number)
    found = np.full(position.shape, np.nan if numeric else None, dtype=np.float64 if numeric else object)
    if len(labels):
        found[known] = labels[position[known]]
    return found
