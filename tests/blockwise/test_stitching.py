"""A segmentation does not depend on the blocks it was made in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segments_for_tests import components

from dacapo.arrays import create_array, open_array
from dacapo.blockwise import BlocksFailedError, segment_blocks
from dacapo.blockwise.blocks import BlockGrid
from dacapo.errors import ArrayExistsError, GeometryError
from dacapo.geometry import Coordinate, Grid, Roi

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find the functions of segments_for_tests.py."""
    monkeypatch.syspath_prepend(str(HERE))


def volume(folder: Path, data: np.ndarray, name: str = "mask") -> Path:
    grid = Grid((4.0,) * 3, (10.0,) * 3)
    array = create_array(folder / f"in.zarr/{name}", shape=data.shape, dtype=data.dtype, grid=grid)
    array.write(array.roi, data)
    return folder / f"in.zarr/{name}"


def tangle(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    """Smooth random blobs that wind through many blocks."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 0.8)
    return (noise > np.quantile(noise, 1 - density)).astype(np.uint8)


def segment(folder: Path, source: Path, function: str = "components", parameters=None, **arguments):
    arguments = {"workers": 0, "block": Coordinate((8, 8, 8)), "context": (Coordinate((2,) * 3),) * 2} | arguments
    output = arguments.pop("output", folder / "out.zarr/labels")
    report = segment_blocks(
        f"segments_for_tests:{function}", parameters or {}, source, output, folder=folder / "work", **arguments
    )
    return report, open_array(output)


def same_up_to_names(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b)) and bool(((a == 0) == (b == 0)).all())


def in_order_of_blocks(labels: np.ndarray, block: Coordinate) -> bool:
    """Whether labels are 1..n and no block brings a new one before a smaller one has been seen in a block before."""
    grid = BlockGrid(Roi((0,) * labels.ndim, labels.shape), block, (block * 0, block * 0))
    highest = 0
    for i in range(len(grid)):
        roi = grid[i].write_roi
        new = np.unique(labels[tuple(map(slice, roi.begin, roi.end))])
        new = new[new > highest]
        if not np.array_equal(new, np.arange(highest + 1, highest + 1 + len(new))):
            return False
        highest += len(new)
    return highest == labels.max()


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(*[st.integers(5, 22)] * 3),
    block=st.tuples(*[st.integers(4, 13)] * 3),
    below=st.tuples(*[st.integers(1, 5)] * 3),
    above=st.tuples(*[st.integers(1, 5)] * 3),
    density=st.floats(0.1, 0.5),
    connectivity=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
def test_components_do_not_depend_on_the_blocks(shape, block, below, above, density, connectivity, seed):
    """Connected components of blocks become those of the whole, up to names, for any block size and context."""
    data = tangle(shape, density, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, found = segment(
            folder,
            volume(folder, data),
            parameters={"connectivity": connectivity},
            block=Coordinate(block),
            context=(Coordinate(below), Coordinate(above)),
        )
        labels = found.read()
    assert same_up_to_names(labels, components(data, connectivity))
    assert labels.max() == report.objects
    assert in_order_of_blocks(labels, Coordinate(block))


def test_the_output_lies_where_the_input_does(tmp_path):
    """uint64, and on the grid of the source; with a roi only that is looked at, and the output begins there."""
    data = tangle((20, 18, 16), 0.4, 1)
    roi = Roi((3, 2, 5), (15, 16, 10))
    _, found = segment(tmp_path, volume(tmp_path, data), roi=roi)
    assert found.dtype == np.uint64
    assert found.grid.is_close(Grid((4.0,) * 3, (22.0, 18.0, 30.0)))
    assert same_up_to_names(found.read(), components(data[3:18, 2:18, 5:15]))


def test_two_axes(tmp_path):
    """An image is segmented as a volume is."""
    data = tangle((40, 37), 0.45, 2)
    array = create_array(tmp_path / "in.zarr/m", shape=data.shape, dtype="uint8", grid=Grid((1.0, 1.0)))
    array.write(array.roi, data)
    sizes = {"block": Coordinate((9, 16)), "context": (Coordinate((1, 1)),) * 2}
    _, found = segment(tmp_path, tmp_path / "in.zarr/m", **sizes)
    assert same_up_to_names(found.read(), components(data))


def test_processes_make_the_same_bytes(tmp_path):
    """Workers, two of which are killed in the middle, write the same labels to the bit as this process alone."""
    data = tangle((16, 16, 14), 0.4, 3)
    source = volume(tmp_path, data)
    _, alone = segment(tmp_path, source)
    (tmp_path / "deaths").mkdir()
    _, killed = segment(
        tmp_path,
        source,
        "components_or_death",
        {"folder": str(tmp_path / "deaths"), "lives": 2},
        workers=2,
        output=tmp_path / "killed.zarr/x",
    )
    assert list((tmp_path / "deaths").iterdir())
    np.testing.assert_array_equal(alone.read(), killed.read())
    assert same_up_to_names(alone.read(), components(data))


def test_what_is_done_is_not_done_again_and_what_was_removed_is(tmp_path):
    """A second call changes nothing; an output that was removed is written anew."""
    import shutil

    source = volume(tmp_path, tangle((20, 16, 16), 0.4, 4))
    first, found = segment(tmp_path, source)
    expected = found.read()
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "logs" not in p.parts}
    second, _ = segment(tmp_path, source)
    assert (second.objects, second.fragments, second.merges) == (first.objects, first.fragments, first.merges)
    data_files = [p for p in files if p.suffix == ".npz" or ("c" in p.parts and "blocks" not in p.parts)]
    assert data_files
    assert all(p.stat().st_mtime_ns == files[p] for p in data_files)
    shutil.rmtree(tmp_path / "out.zarr")
    np.testing.assert_array_equal(segment(tmp_path, source)[1].read(), expected)


def test_other_parameters_do_not_mix(tmp_path):
    """Another parameter is refused at the same output, or replaces it; coming back gives the first result again."""
    data = tangle((18, 18, 18), 0.3, 5)
    source = volume(tmp_path, data)
    segment(tmp_path, source, parameters={"connectivity": 1})
    with pytest.raises(ArrayExistsError):
        segment(tmp_path, source, parameters={"connectivity": 3})
    _, found = segment(tmp_path, source, parameters={"connectivity": 3}, overwrite=True)
    assert same_up_to_names(found.read(), components(data, 3))
    _, found = segment(tmp_path, source, parameters={"connectivity": 1}, overwrite=True)
    assert same_up_to_names(found.read(), components(data, 1))


def test_a_mask_restricts_the_labels(tmp_path):
    """No label where the mask is 0, also if its voxels are larger than those of the volume."""
    data = tangle((20, 16, 16), 0.4, 6)
    coarse = np.zeros((10, 8, 8), np.uint8)
    coarse[2:7, 1:, :5] = 1
    array = create_array(
        tmp_path / "in.zarr/coarse", shape=coarse.shape, dtype="uint8", grid=Grid((8.0,) * 3, (10.0,) * 3)
    )
    array.write(array.roi, coarse)
    _, found = segment(tmp_path, volume(tmp_path, data), mask=tmp_path / "in.zarr/coarse")
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    labels = found.read()
    assert ((labels > 0) == ((data > 0) & (fine > 0))).all()


def test_predictions_are_seen_in_their_real_range(tmp_path):
    """uint8 that stands for 0 to 1 reaches the function as a float, with channels."""
    cells, affinities, neighborhood = touching_cells((16, 16, 16), 0.0)
    array = create_array(
        tmp_path / "in.zarr/affs",
        shape=affinities.shape,
        dtype="uint8",
        grid=Grid((4.0,) * 3),
        attributes={"value_range": [0.0, 1.0]},
    )
    array.write(array.roi, np.rint(affinities * 255).astype(np.uint8))
    _, found = segment(tmp_path, tmp_path / "in.zarr/affs", "watershed", {"neighborhood": neighborhood})
    assert found.shape == cells.shape


def touching_cells(shape: tuple[int, ...], noise: float) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Voronoi cells, their affinities with smooth noise, and the offsets."""
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    from dacapo.ops.affinities import affinities

    rng = np.random.default_rng(7)
    points = rng.uniform(0, shape, (int(np.prod(shape) / 1500) + 1, 3))
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    distance, nearest = cKDTree(points).query(where, k=2)
    cells = (nearest[:, 0] + 1).reshape(shape).astype(np.uint64)
    inner = np.where((distance[:, 1] - distance[:, 0]).reshape(shape) > 1.5, cells, 0)
    neighborhood = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [4, 0, 0], [0, 4, 0], [0, 0, 4]]
    clean = affinities(inner, neighborhood)[0].astype(np.float32)
    smooth = np.stack([gaussian_filter(rng.standard_normal(shape), 1.0) for _ in neighborhood])
    return cells, np.clip(clean + noise * smooth / smooth.std(), 0, 1).astype(np.float32), neighborhood


def test_a_watershed_of_blocks_is_that_of_the_whole(tmp_path):
    """Mutex watershed of noisy touching cells: nearly the same objects in blocks as in one piece."""
    from dacapo.ops.metrics import contingency
    from dacapo.ops.watershed import mutex_watershed

    _, affinities, neighborhood = touching_cells((36, 36, 36), 0.15)
    array = create_array(tmp_path / "in.zarr/affs", shape=affinities.shape, dtype="float32", grid=Grid((4.0,) * 3))
    array.write(array.roi, affinities)
    whole = mutex_watershed(affinities, neighborhood, bias=0.5)
    sizes = {"block": Coordinate((18,) * 3), "context": (Coordinate((6,) * 3),) * 2}
    _, found = segment(tmp_path, tmp_path / "in.zarr/affs", "watershed", {"neighborhood": neighborhood}, **sizes)
    split, merge = contingency(found.read(), whole).voi()

    assert split < 0.1
    assert merge < 0.1


def test_progress_counts_all_stages(tmp_path):
    """From the first block to three times the blocks, never backwards."""
    seen: list[tuple[int, int]] = []
    source = volume(tmp_path, tangle((16, 16, 16), 0.4, 8))
    segment(tmp_path, source, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (24, 24)


def test_without_context_neighbours_cannot_be_joined(tmp_path):
    """A context of 0 is refused, unless there is one block."""
    source = volume(tmp_path, tangle((12, 12, 12), 0.4, 9))
    none = (Coordinate((0,) * 3),) * 2
    with pytest.raises(GeometryError, match="at least 1 voxel"):
        segment(tmp_path, source, context=none)
    assert segment(tmp_path, source, context=none, block=Coordinate((12,) * 3))[0].blocks == 1


def test_a_function_that_returns_something_else_is_named(tmp_path):
    """Wrong shapes are an error, not a shifted segmentation."""
    source = volume(tmp_path, tangle((12, 12, 12), 0.4, 10))
    with pytest.raises(BlocksFailedError, match="expected integers of shape"):
        segment(tmp_path, source, "wrong_shape", retries=0)
