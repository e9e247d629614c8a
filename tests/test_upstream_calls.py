"""Scripts that call the verbs as upstream's do work as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dacapo
from conftest import small_experiment
from dacapo.arrays import open_array
from dacapo.errors import ConfigError, GeometryError
from dacapo.experiments.datasplits.datasets import RawGTDatasetConfig
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Roi
from dacapo.store import Stores
from dacapo.store.stores import LocalArrayIdentifier
from dacapo.upstream_calls import parameters_of


@pytest.fixture
def trained(tmp_path: Path, stores: Stores) -> tuple[RunConfig, Stores, Path]:
    run = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=2))
    dacapo.train(run_name=run, validate=True, stores=stores)
    return run, stores, tmp_path


def test_predict_as_upstream_calls_it(trained: tuple) -> None:
    """By position, with a world of keywords, a region as text and a container to write to: the same voxels as ours."""
    run, _, folder = trained
    container = folder / "volume1.zarr"
    dacapo.predict(
        run, f"{container}/raw", folder / "ours.zarr/p", iteration=2, roi=Roi((0, 0, 0), (16, 32, 32)), workers=0
    )
    dacapo.predict(
        "small",
        2,
        container,
        "raw",
        folder / "out",
        output_roi="[0:16,0:32,0:32]",
        num_workers=0,
        output_dtype=np.uint8,
    )
    theirs = open_array(folder / "out/volume1.zarr/prediction_small_2")
    np.testing.assert_array_equal(theirs.read(), open_array(folder / "ours.zarr/p").read())
    place = LocalArrayIdentifier(folder / "b.zarr", "there")
    dacapo.predict("small", 2, container, "raw", place, "[0:8,0:8,0:8]", 0)
    assert open_array(place.path).shape[0] == 4


def test_apply_as_upstream_calls_it(trained: tuple) -> None:
    """Containers and datasets apart, parameters as text, the best by a criterion on a validation dataset."""
    run, _, folder = trained
    container = folder / "volume1.zarr"
    done = dacapo.apply(
        run_name="small", input_container=container, input_dataset="raw", output_path=folder / "applied",
        validation_dataset=run.datasplit.validate[0], criterion="voi", num_workers=0,
    )  # fmt: skip
    assert done.iteration == run.best("voi", "b").iteration
    assert done.segmentation == str(folder / "applied/volume1.zarr/labels")
    assert open_array(done.segmentation).dtype == np.uint64
    chosen = dacapo.apply(
        "small", container, "raw", folder / "chosen.zarr", None, "voi", 2,
        "WatershedPostProcessorParameters(bias=0.4, link=0.5)", num_workers=0,
    )  # fmt: skip
    assert (chosen.parameters.bias, chosen.parameters.link) == (0.4, 0.5)  # type: ignore[attr-defined]


def test_validate_on_other_datasets(trained: tuple) -> None:
    """`datasets_config` gives the scores on other datasets, and leaves those that are stored alone."""
    _, stores, folder = trained
    before = stores.stats.retrieve_validation_iteration_scores("small")
    other = RawGTDatasetConfig("c", raw_config=f"{folder}/volume0.zarr/raw", gt_config=f"{folder}/volume0.zarr/labels")
    found = dacapo.validate("small", 2, [other, other], stores=stores)
    assert np.shape(found.scores) == (2, *np.shape(before[-1].scores)[1:])
    assert found.scores[0] == found.scores[1]
    assert stores.stats.retrieve_validation_iteration_scores("small") == before
    own = dacapo.validate(run_name="small", iteration=2, stores=stores)
    assert own.scores == before[-1].scores
    with pytest.raises(ConfigError, match="datasets_config: expected datasets with gt"):
        dacapo.validate("small", 2, [], stores=stores)


@pytest.mark.parametrize("text", ["bias=0.3,link=0.7", "Watershed(bias=0.3, link=0.7)", {"bias": 0.3, "link": 0.7}])
def test_parameters_as_text(small_run: RunConfig, text: object) -> None:
    """Names and values, with upstream's class name around them or not; what is left out is the first of the sweep's."""
    found = parameters_of(small_run.task, text)
    first = next(iter(small_run.task.parameters))  # type: ignore[union-attr]
    assert (found.bias, found.link, found.min_size) == (0.3, 0.7, first.min_size)  # type: ignore[attr-defined]


def test_parameters_are_never_evaluated(small_run: RunConfig, tmp_path: Path) -> None:
    """Only literals are taken; a call in them is refused and not made."""
    for text, said in (
        (f"bias=open({str(tmp_path / 'ran')!r}, 'w')", "expected name=value"),
        ("bais=0.3", "no bais; there are id, bias"),
        ("0.3", "expected name=value"),
    ):
        with pytest.raises(ConfigError, match=said):
            parameters_of(small_run.task, text)
    assert not list(tmp_path.glob("ran"))


def test_regions_that_are_none_are_refused(trained: tuple) -> None:
    """A region that is upside down, or no region at all, is one clear line."""
    _, _, folder = trained
    for text, said in (("[5:1,0:8,0:8]", "larger than its begin"), ("everything", "expected begin:end per axis")):
        with pytest.raises(GeometryError, match=said):
            dacapo.predict("small", 2, folder / "volume1.zarr", "raw", folder / "out", text)
