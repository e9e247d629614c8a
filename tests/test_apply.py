"""Predict, segment, apply, evaluate: blockwise equals whole, and a stop changes nothing."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import dacapo
from conftest import small_experiment, write_volume
from dacapo.arrays import dequantised, open_array
from dacapo.errors import ArrayExistsError, ArrayNotFoundError, ConfigError, GeometryError
from dacapo.experiments.run_config import RunConfig
from dacapo.geometry import Coordinate, Roi
from dacapo.network import Network
from dacapo.store import Stores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Stores, Path]:
    """A run that has seen little, its stores, and a volume it has not seen."""
    folder = tmp_path_factory.mktemp("trained")
    stores = Stores(folder / "runs")
    fields = small_experiment(folder, num_iterations=20, validation_interval=10, learning_rate=0.03)
    fields["architecture"] |= {"batch_norm": True}  # type: ignore[operator]
    run = dacapo.train(RunConfig.from_dict(fields), stores=stores)
    return run, stores, write_volume(folder, (26, 40, 36), seed=7)


predict_module = importlib.import_module("dacapo.predict")  # its name is the verb's


def whole_prediction(run: RunConfig, stores: Stores, raw: str, iteration: int) -> np.ndarray:
    fresh = RunConfig.from_dict(run.to_dict())
    fresh.load_weights(stores.weights.retrieve_weights(run, iteration), with_optimizer=False)
    return Network(fresh, open_array(raw), torch.device("cpu"), budget=2**40).predict()


@pytest.mark.parametrize("workers", [0, 2])
def test_blockwise_prediction_equals_the_whole(
    trained: tuple[RunConfig, Stores, Path], tmp_path: Path, workers: int
) -> None:
    """Any block shape and worker count gives the whole volume's prediction, to 1e-5, borders included."""
    run, stores, volume = trained
    raw = f"{volume}/raw"
    whole = whole_prediction(run, stores, raw, 20)
    for i, block in enumerate([(26, 40, 36), (13, 16, 18)] if workers == 0 else [(16, 20, 36)]):
        out = str(tmp_path / f"out{i}.zarr" / "prediction")
        dacapo.predict(
            run, raw, out, iteration=20, workers=workers, dtype="float32", block_shape=Coordinate(block),
            chunk=Coordinate(block), stores=stores,
        )  # fmt: skip
        np.testing.assert_allclose(open_array(out).read(), whole, atol=1e-5)


def test_voxel_sizes_stay_what_they_were(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """5.24 nm stays 5.24 nm in prediction and labels, as an independent reader sees them."""
    run, stores, volume = trained
    done = dacapo.apply(run, f"{volume}/raw", tmp_path / "out.zarr", workers=0, stores=stores)
    source = zarr.open_group(f"{volume}/raw", mode="r").attrs["ome"]["multiscales"][0]
    for path, spatial in ((done.prediction, slice(1, None)), (done.segmentation, slice(None))):
        found = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]
        transforms, expected = (m["datasets"][0]["coordinateTransformations"] for m in (found, source))
        assert transforms[0]["scale"][spatial] == expected[0]["scale"] == [5.24, 4.0, 4.0]
        assert transforms[1]["translation"][spatial] == expected[1]["translation"]
        assert [a["unit"] for a in found["axes"][spatial]] == ["nanometer"] * 3


def test_apply_goes_on_where_it_was_stopped(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """Stopped in the middle of a block, the same call ends with the bytes of an undisturbed one."""
    run, stores, volume = trained
    how = {"workers": 0, "stores": stores, "block_shape": Coordinate((13, 40, 36))}
    undisturbed = dacapo.apply(run, f"{volume}/raw", tmp_path / "a.zarr", **how)

    class Stopped(BaseException):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) in (("predict", 1), ("segment", 2)):
            raise Stopped

    for _ in range(3):
        try:
            stopped = dacapo.apply(run, f"{volume}/raw", tmp_path / "b.zarr", progress=stop, **how)
            break
        except Stopped:
            continue
    stopped = dacapo.apply(run, f"{volume}/raw", tmp_path / "b.zarr", **how)
    for part in ("prediction", "segmentation"):
        np.testing.assert_array_equal(
            open_array(getattr(stopped, part)).read(), open_array(getattr(undisturbed, part)).read()
        )


def test_an_output_of_something_else_is_refused(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """What other weights made is neither continued nor overwritten, unless asked to; then it is made anew."""
    run, stores, volume = trained
    out = tmp_path / "p.zarr" / "prediction"
    dacapo.predict(run, f"{volume}/raw", out, iteration=10, workers=0, stores=stores)
    first = open_array(str(out)).read()
    with pytest.raises(ArrayExistsError, match="made from something else"):
        dacapo.predict(run, f"{volume}/raw", out, iteration=20, workers=0, stores=stores)
    np.testing.assert_array_equal(open_array(str(out)).read(), first)
    dacapo.predict(run, f"{volume}/raw", out, iteration=20, workers=0, stores=stores, overwrite=True)
    assert (open_array(str(out)).read() != first).any()


def test_an_output_that_was_removed_is_made_again(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """Markers of blocks that are gone are not believed."""
    import shutil

    run, stores, volume = trained
    out = tmp_path / "p.zarr" / "prediction"
    dacapo.predict(run, f"{volume}/raw", out, iteration=20, workers=0, stores=stores)
    first = open_array(str(out)).read()
    shutil.rmtree(out)
    dacapo.predict(run, f"{volume}/raw", out, iteration=20, workers=0, stores=stores)
    np.testing.assert_array_equal(open_array(str(out)).read(), first)


def test_what_is_validated_is_what_is_applied(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """Applied to the validation volume in one block, the best has the very scores that validation stored."""
    run, stores, volume = trained
    best = run.best("voi")
    data = volume.parent / "volume1.zarr"
    done = dacapo.apply(run, f"{data}/raw", tmp_path / "v.zarr", criterion="voi", workers=0, stores=stores)
    scores = dacapo.evaluate(done.segmentation, f"{data}/labels")
    assert (done.iteration, done.parameters) == (best.iteration, best.parameters)
    assert scores.voi == pytest.approx(best.score, abs=1e-9)


def test_a_region_of_interest_is_its_part_of_the_whole(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """With roi, exactly that region is predicted, with the values of the whole."""
    run, stores, volume = trained
    roi = Roi((0, 0, 0), (26, 20, 36))
    out = tmp_path / "r.zarr" / "prediction"
    how = {"iteration": 20, "workers": 0, "dtype": "float32", "stores": stores, "chunk": Coordinate((13, 20, 18))}
    dacapo.predict(run, f"{volume}/raw", out, roi=roi, **how)
    whole = whole_prediction(run, stores, f"{volume}/raw", 20)
    found = open_array(str(out)).read()
    np.testing.assert_allclose(found[:, :, :20], whole[:, :, :20], atol=1e-5)
    assert not found[:, :, 20:].any()


def test_predictions_are_stored_with_their_range(trained: tuple[RunConfig, Stores, Path], tmp_path: Path) -> None:
    """uint8 predictions say what 0 and 255 stand for, and come back within half a step."""
    run, stores, volume = trained
    out = tmp_path / "u.zarr" / "prediction"
    dacapo.predict(run, f"{volume}/raw", out, iteration=20, workers=0, stores=stores)
    array = open_array(str(out))
    assert array.dtype == np.uint8
    assert array.attributes["channels"] == run.task.channels  # type: ignore[union-attr]
    whole = whole_prediction(run, stores, f"{volume}/raw", 20)
    np.testing.assert_allclose(dequantised(array).read(), whole, atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        ("nowhere.zarr/raw", ArrayNotFoundError, "nowhere.zarr"),
        ("{folder}", ArrayNotFoundError, "raw"),
    ],
)
def test_input_that_is_no_array_is_named(
    trained: tuple[RunConfig, Stores, Path], tmp_path: Path, raw: str, error: type[Exception], said: str
) -> None:
    """A missing path, and a group instead of an array, say what is there; nothing is created."""
    run, stores, volume = trained
    with pytest.raises(error, match=said):
        dacapo.predict(run, raw.format(folder=volume), tmp_path / "x.zarr" / "p", stores=stores, workers=0)
    assert not (tmp_path / "x.zarr").exists()


def test_unvalidated_runs_say_so(tmp_path: Path, stores: Stores) -> None:
    """Without scores there is no best, and the message says which command makes some."""
    run = RunConfig.from_dict(small_experiment(tmp_path))
    with pytest.raises(ConfigError, match="dacapo validate small"):
        dacapo.apply(run, f"{tmp_path}/volume0.zarr/raw", tmp_path / "o.zarr", stores=stores)


def test_evaluate_wants_one_voxel_size_and_an_overlap(tmp_path: Path) -> None:
    """Volumes that cannot be compared are named with their voxel sizes."""
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    for name, grid in (("a", Grid((4, 4, 4))), ("b", Grid((8, 8, 8))), ("c", Grid((4, 4, 4), (400, 0, 0)))):
        array = create_array(f"{tmp_path}/x.zarr/{name}", shape=(8, 8, 8), dtype="uint64", grid=grid)
        array.write(array.roi, 1)
    with pytest.raises(GeometryError, match="give the level that matches"):
        dacapo.evaluate(f"{tmp_path}/x.zarr/a", f"{tmp_path}/x.zarr/b")
    with pytest.raises(GeometryError, match="do not overlap"):
        dacapo.evaluate(f"{tmp_path}/x.zarr/a", f"{tmp_path}/x.zarr/c")
    assert dacapo.evaluate(f"{tmp_path}/x.zarr/a", f"{tmp_path}/x.zarr/a").voi == 0


def test_a_prediction_goes_on_with_the_blocks_it_began_with(
    trained: tuple[RunConfig, Stores, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that were chosen for the memory at hand are not chosen anew: what is done stays done."""
    from dacapo import predict

    run, stores, volume = trained
    how = {"iteration": 20, "workers": 0, "stores": stores}
    monkeypatch.setattr(predict_module, "cheapest_block", lambda *_: Coordinate((13, 20, 18)))
    first = predict(run, f"{volume}/raw", tmp_path / "p.zarr" / "p", **how)
    assert first.total > 1
    monkeypatch.setattr(predict_module, "cheapest_block", lambda *_: Coordinate((8, 8, 8)))
    again = predict(run, f"{volume}/raw", tmp_path / "p.zarr" / "p", **how)
    assert (again.total, again.skipped) == (first.total, first.total)


def test_blocks_grow_with_the_memory_and_the_context(
    trained: tuple[RunConfig, Stores, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where larger blocks mean less context they are taken, unless workers would have none, or memory too little."""
    from dacapo import network

    run, whole = trained[0], Coordinate((640, 640, 640))
    total = Roi((0, 0, 0), whole)

    def chosen(budget: int, workers: int = 0, of: Roi = total) -> tuple[int, ...]:
        monkeypatch.setattr(network, "MEMORY_BUDGET", budget)
        monkeypatch.setattr(network, "SHARE_OF_FREE", 0.0)
        return tuple(predict_module.cheapest_block(run, of.shape, of, None, workers))

    assert chosen(2**28) == (128, 128, 128)
    large = chosen(2**40)
    assert min(large) > 128
    assert all(n % 64 == 0 for n in large)
    assert chosen(2**40, workers=25) == (128, 128, 128)
    assert chosen(2**40, of=Roi((0, 0, 0), (30, 70, 100))) == (30, 128, 128)
