"""The history of validations, and what was best in it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.experiments import validation_iteration_scores, validation_scores
from dacapo.experiments.scores import ValidationIterationScores, ValidationScores
from dacapo.experiments.tasks.evaluators import InstanceEvaluationScores
from dacapo.experiments.tasks.post_processors import ThresholdPostProcessorParameters

NAN = math.nan
EVALUATION = SimpleNamespace(criteria=["voi", "f1"], higher_is_better=lambda criterion: criterion == "f1")
PARAMETERS = [ThresholdPostProcessorParameters(i, i / 10) for i in range(3)]
DATASETS = [SimpleNamespace(name="crop_a"), SimpleNamespace(name="crop_b")]


def at(iteration: int, value: float = 1.0) -> ValidationIterationScores:
    return ValidationIterationScores(iteration, [[[value, value] for _ in PARAMETERS] for _ in DATASETS])


def history(*iterations: int) -> ValidationScores:
    return ValidationScores(PARAMETERS, DATASETS, EVALUATION, [at(i) for i in iterations])


def of_values(values) -> ValidationScores:
    """Scores from an array (iterations, datasets, parameters, criteria)."""
    values = np.asarray(values, float)
    return ValidationScores(
        PARAMETERS[: values.shape[2]],
        DATASETS[: values.shape[1]],
        EVALUATION,
        [ValidationIterationScores(100 * i, v.tolist()) for i, v in enumerate(values)],
    )


def test_documented_import_paths():
    """The classes are found where the documentation names them."""
    assert validation_scores.ValidationScores is ValidationScores
    assert validation_iteration_scores.ValidationIterationScores is ValidationIterationScores


def test_iteration_scores():
    """Positional, mutable, equal by value."""
    one = ValidationIterationScores(3, [[[0.5]]])
    assert one == ValidationIterationScores(iteration=3, scores=[[[0.5]]])
    assert (one.iteration, one.scores) == (3, [[[0.5]]])


def test_nothing_validated_yet():
    """An empty history has reached iteration 0 and converts to an empty array."""
    past = ValidationScores(PARAMETERS, DATASETS, EVALUATION)
    past.delete_after(0)
    assert past.validated_until() == 0
    assert past.to_xarray().shape == (0, 2, 3, 2)
    assert past.to_xarray().iterations.dtype == np.int64
    index, value = past.get_best(past.to_xarray(), "iterations")
    assert index.shape == (2, 3, 2)
    assert index.isnull().all()
    assert value.isnull().all()


def test_add_iteration_scores():
    """New iterations are kept in order; one that is there raises and changes nothing."""
    past = history(10, 30)
    past.add_iteration_scores(at(20))
    assert past == history(10, 20, 30)
    with pytest.raises(ValueError, match="scores of iteration 20 already"):
        past.add_iteration_scores(at(20, 2.0))
    with pytest.raises(ValueError, match="iteration 10 already"):
        history(10, 10)
    assert past == history(10, 20, 30)
    assert past.validated_until() == 31


def test_delete_after():
    """Iterations strictly below stay."""
    past = history(10, 20, 30)
    past.delete_after(20)
    assert past == history(10)


def test_histories_share_nothing():
    """Two histories, and the list one was made from, are independent."""
    given_scores = [at(0)]
    one = ValidationScores(PARAMETERS, DATASETS, EVALUATION, given_scores)
    one.add_iteration_scores(at(1))
    assert len(given_scores) == 1
    assert ValidationScores(PARAMETERS, DATASETS, EVALUATION).scores == []


def test_subscores():
    """A subset of the same datasets and parameters; the original is not touched."""
    past = history(10, 20, 30)
    part = past.subscores(past.scores[1:])
    assert part == history(20, 30)
    part.delete_after(0)
    assert past == history(10, 20, 30)
    assert past.subscores([]).scores == []


def test_subscores_with_foreign_scores_raises():
    """Other iterations, and other values for an iteration that is there, are foreign; an equal NaN is not."""
    past = history(10, 20)
    for foreign in (at(15), at(10, 2.0), ValidationIterationScores(10, [])):
        with pytest.raises(ValueError, match=rf"iteration {foreign.iteration} are not among .*\[10, 20\]"):
            past.subscores([foreign])
    past.add_iteration_scores(at(30, NAN))
    assert len(past.subscores([at(30, float("nan"))]).scores) == 1


@pytest.mark.parametrize(
    ("local", "existing", "expected"),
    [
        ((), (), (False, 0)),
        ((10,), (), (False, 0)),
        ((), (2,), (True, 0)),
        ((30,), (10,), (False, 11)),
        ((30,), (30,), (False, 31)),
        ((10,), (10, 30), (True, 0)),
        ((10, 20, 30), (20, 10), (False, 21)),
    ],
)
def test_compare(local, existing, expected):
    """(drop_existing, first_iteration_to_store): existing scores that reach further are replaced."""
    assert history(*local).compare([at(i) for i in existing]) == expected


def test_names():
    """Criteria and the names of the parameters' values."""
    past = history(1)
    assert past.criteria == ["voi", "f1"]
    assert past.parameter_names == ["id", "threshold"]
    with pytest.raises(ValueError, match="no post-processing parameters"):
        _ = ValidationScores([], DATASETS, EVALUATION).parameter_names


def test_to_xarray():
    """Values stand at (iteration, dataset name, parameter object, criterion)."""
    values = np.arange(24.0).reshape(2, 2, 3, 2)
    data = of_values(values).to_xarray()
    assert data.dims == ("iterations", "datasets", "parameters", "criteria")
    assert np.array_equal(data.values, values)
    assert data.dtype == np.float64
    assert data.sel(iterations=100, datasets="crop_b", parameters=PARAMETERS[2], criteria="f1") == 23
    assert data.datasets.values.tolist() == ["crop_a", "crop_b"]


@pytest.mark.parametrize(("datasets", "parameters"), [([], PARAMETERS), (DATASETS, []), ([], [])])
def test_to_xarray_without_datasets_or_parameters(datasets, parameters):
    """Nothing to validate on, or no way to, is an empty array and has no best."""
    scores = [ValidationIterationScores(i, [[] for _ in datasets]) for i in (0, 5)]
    past = ValidationScores(parameters, datasets, EVALUATION, scores)
    data = past.to_xarray()
    assert data.shape == (2, len(datasets), len(parameters), 2)
    for dim in ("iterations", "datasets", "parameters"):
        past.get_best(data, dim)


def test_to_xarray_with_scores_of_another_shape_raises():
    """Scores of other datasets or a ragged list are refused with their iteration."""
    for wrong in ([[[1.0, 2.0]]], [[[1.0]], [[1.0], [2.0]]], []):
        past = ValidationScores(PARAMETERS, DATASETS, EVALUATION, [ValidationIterationScores(7, wrong)])
        with pytest.raises(ValueError, match="scores of iteration 7 are not 2 datasets of 3 parameters of 2 criteria"):
            past.to_xarray()


def test_get_best_judges_each_criterion_by_its_direction():
    """Lower VOI and higher F1 win, whichever criterion comes first."""
    past = of_values([[[[1.0, 0.2]]], [[[3.0, 0.9]]], [[[2.0, 0.5]]]])
    index, value = past.get_best(past.to_xarray(), "iterations")
    assert index.dtype == np.int64
    assert index.dims == ("datasets", "parameters", "criteria")
    assert index.values.ravel().tolist() == [0, 100]
    assert value.values.ravel().tolist() == [1.0, 0.9]
    real = InstanceEvaluationScores()
    assert not real.higher_is_better("voi")


def test_get_best_of_a_single_criterion():
    """A selected criterion gives what it gives among the others, as scalar and as list."""
    past = of_values(np.random.default_rng(0).random((4, 2, 3, 2)))
    data = past.to_xarray()
    for criterion in past.criteria:
        for dim in ("iterations", "parameters", "datasets"):
            whole_index, whole_value = past.get_best(data, dim)
            for selection in (criterion, [criterion]):
                index, value = past.get_best(data.sel(criteria=selection), dim)
                assert (index == whole_index.sel(criteria=selection)).all()
                assert (value == whole_value.sel(criteria=selection)).all()


def test_get_best_down_to_one_number():
    """Along the last free dimension the results are scalars: an iteration, a parameter object."""
    past = of_values([[[[1.0, 0.2], [0.5, 0.1]]], [[[3.0, 0.9], [0.7, 0.4]]]])
    data = past.to_xarray().sel(criteria="voi", datasets="crop_a")
    index, value = past.get_best(data.sel(iterations=0), "parameters")
    assert index.item() is PARAMETERS[1]
    assert value == 0.5
    index, value = past.get_best(data.sel(parameters=PARAMETERS[0]), "iterations")
    assert int(index) == 0
    assert index.dtype == np.int64


def test_get_best_skips_nan():
    """NaN never wins, not even against infinity; where all is NaN there is no best and no crash."""
    past = of_values([[[[NAN, NAN]]], [[[math.inf, -math.inf]]], [[[NAN, NAN]]]])
    index, value = past.get_best(past.to_xarray(), "iterations")
    assert index.values.ravel().tolist() == [100, 100]
    assert value.values.ravel().tolist() == [math.inf, -math.inf]

    past = of_values([[[[NAN, 0.5], [NAN, NAN]]], [[[NAN, 0.7], [2.0, NAN]]]])
    index, value = past.get_best(past.to_xarray(), "iterations")
    np.testing.assert_array_equal(index.values[0], [[NAN, 100], [100, NAN]])
    np.testing.assert_array_equal(value.values[0], [[NAN, 0.7], [2.0, NAN]])
    index, _ = past.get_best(past.to_xarray(), "parameters")
    assert index.values[0, 0].tolist() == [None, PARAMETERS[0]]
    index, _ = past.get_best(past.to_xarray().sel(iterations=0), "datasets")
    assert index.isnull().values.tolist() == [[True, False], [True, True]]
    assert index.values[0, 1] == "crop_a"


def test_get_best_takes_the_first_of_equals():
    """The earlier iteration wins a tie."""
    past = of_values([[[[2.0, 0.2]]], [[[1.0, 0.9]]], [[[1.0, 0.9]]]])
    assert past.get_best(past.to_xarray(), "iterations")[0].values.ravel().tolist() == [100, 100]


def test_get_best_refuses_what_cannot_be_judged():
    """Without criteria, along criteria and along a dimension that is not there: ValueError."""
    past = history(1, 2)
    data = past.to_xarray()
    with pytest.raises(ValueError, match="coordinate 'criteria'"):
        past.get_best(data.drop_vars("criteria"), "iterations")
    with pytest.raises(ValueError, match="one of .*'parameters'.*got 'criteria'"):
        past.get_best(data, "criteria")
    with pytest.raises(ValueError, match="got 'seeds'"):
        past.get_best(data, "seeds")


SCORE = st.one_of(st.just(NAN), st.integers(-3, 3).map(float))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.lists(SCORE, min_size=12, max_size=12), min_size=1, max_size=4), st.integers(0, 2))
def test_get_best_is_what_a_loop_finds(rows, axis):
    """Along any dimension the result is that of a loop over the scores."""
    values = np.array(rows).reshape(-1, 2, 3, 2)
    past = of_values(values)
    data = past.to_xarray()
    dim = ("iterations", "datasets", "parameters")[axis]
    index, value = past.get_best(data, dim)
    lines = np.moveaxis(values, axis, 0)
    for place in np.ndindex(lines.shape[1:]):
        line = lines[(slice(None), *place)]
        order = [(-score if place[-1] else score, i) for i, score in enumerate(line) if not math.isnan(score)]
        if not order:
            assert math.isnan(value.values[place])
            assert index.isnull().values[place]
        else:
            best = min(order)[1]
            assert value.values[place] == line[best]
            assert index.values[place] == data.coords[dim].values[best]
