"""OME-Zarr and plain zarr on disk, with zarr-python as the independent reader and writer."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo.arrays import convert, create_array, from_numpy, ome_zarr, open_array, pyramid_levels, zarr_nodes
from dacapo.arrays.ome_metadata import multiscales, placement
from dacapo.errors import ArrayError, ArrayExistsError, ArrayNotFoundError, StoreError
from dacapo.geometry import Grid, Roi

GRID = Grid((5.24, 4, 4), (1.1, 2, 3))


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def transformations(group: zarr.Group) -> list[dict]:
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes)["multiscales"][0]["datasets"][0]["coordinateTransformations"]


@pytest.mark.parametrize("ome", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "uint64", "float16", "float32", "float64"])
def test_zarr_python_reads_what_we_write(tmp_path: Path, ome: str, dtype: str) -> None:
    """Voxels of every type, names, scale and centre are what zarr-python finds, to the bit."""
    data = noise(2, 20, 18, 17, dtype=dtype)
    array = create_array(tmp_path / "v.zarr/a/b", shape=data.shape, dtype=dtype, grid=GRID, chunk=(8, 8, 8), ome=ome)
    array.write(array.roi, data)
    group = zarr.open_group(tmp_path / "v.zarr", mode="r")["a/b"]
    assert group.metadata.zarr_format == (2 if ome == "0.4" else 3)
    assert group["s0"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(group["s0"][:], data)
    scale, translation = transformations(group)
    assert scale == {"type": "scale", "scale": [1.0, 5.24, 4.0, 4.0]}
    assert translation == {"type": "translation", "translation": [0.0, 3.72, 4.0, 5.0]}
    again = open_array(tmp_path / "v.zarr/a/b")
    assert (again.grid, again.axis_names, again.dtype) == (GRID, ("c^", "z", "y", "x"), np.dtype(dtype))
    np.testing.assert_array_equal(again.read(), data)


def test_axes_and_units_are_those_of_ome(tmp_path: Path) -> None:
    """Axes say what they are, lengths are nanometers, and no unit is made up."""
    create_array(tmp_path / "v.zarr", shape=(1, 2, 3, 4), dtype="u1", grid=Grid((0.004, 1, 1), unit="um"))
    attributes = zarr.open_group(tmp_path / "v.zarr", mode="r").attrs.asdict()["ome"]
    assert attributes["version"] == "0.5"
    assert attributes["multiscales"][0]["axes"] == [
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"),
    ]
    assert zarr.open_array(tmp_path / "v.zarr/s0", mode="r").metadata.dimension_names == ("c", "z", "y", "x")
    assert open_array(tmp_path / "v.zarr").voxel_size == (4.0, 1000.0, 1000.0)
    unknown = create_array(tmp_path / "w.zarr", shape=(2, 3), dtype="u1", grid=Grid((1, 1), unit="voxel"))
    assert unknown.units == "voxel"
    assert (
        "unit"
        not in json.loads((tmp_path / "w.zarr/zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["axes"][0]
    )


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e5))
def test_scale_and_translation_round_trip(translation: float, scale: float) -> None:
    """What a file says about its place is what is written to the next file, through JSON, bit for bit."""
    image = {
        "axes": [{"name": "x", "type": "space", "unit": "nanometer"}],
        "datasets": [
            {
                "path": "s0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale]},
                    {"type": "translation", "translation": [translation]},
                ],
            }
        ],
    }
    for _ in range(3):
        _, sizes, centres, _ = placement(json.loads(json.dumps(image)), 0, 1, "here")
        image = multiscales("v", "0.5", [("s0", Grid.from_translation(sizes, centres, axes=("x",)))], ("x",))
    steps = image["datasets"][0]["coordinateTransformations"]
    assert (steps[0]["scale"], steps[1]["translation"]) == ([scale], [translation])


def test_shards(tmp_path: Path) -> None:
    """A shard holds all channels unless told, zarr-python agrees, and v2 has none."""
    data = noise(2, 40, 40, 40)
    options = {"shape": data.shape, "dtype": "u1", "grid": GRID, "chunk": (8, 8, 8)}
    array = create_array(tmp_path / "v.zarr/a", shard=(16, 16, 32), **options)
    assert array.chunk_shape == (2, 16, 16, 32)
    array.write(array.roi, data)
    found = zarr.open_array(tmp_path / "v.zarr/a/s0", mode="r")
    assert (found.shards, found.chunks) == ((2, 16, 16, 32), (1, 8, 8, 8))
    np.testing.assert_array_equal(found[:], data)
    with pytest.raises(ArrayError, match=r"multiple of chunk"):
        create_array(tmp_path / "v.zarr/b", shard=(12, 16, 16), **options)
    with pytest.raises(ArrayError, match=r"shards need OME-Zarr 0\.5"):
        create_array(tmp_path / "w.zarr/b", shard=(16, 16, 16), ome="0.4", **options)


def test_default_chunks(tmp_path: Path) -> None:
    """About 64^3 voxels of one channel, and no more than there are."""
    large = create_array(tmp_path / "v.zarr/a", shape=(3, 100, 20, 1000), dtype="u1", grid=GRID)
    flat = create_array(tmp_path / "v.zarr/b", shape=(1000, 100), dtype="u1", grid=Grid((4, 4)))
    assert large.chunk_shape == (1, 64, 20, 64)
    assert flat.chunk_shape == (512, 100)


@pytest.mark.parametrize("shard", [None, (16, 16, 16)])
def test_a_write_covers_whole_chunks(tmp_path: Path, shard: tuple[int, ...] | None) -> None:
    """Regions that cut a chunk (or shard) are refused, those up to the array's end are not."""
    array = create_array(tmp_path / "v.zarr/a", shape=(40, 40, 36), dtype="u1", grid=GRID, chunk=(8, 8, 8), shard=shard)
    edge = 16 if shard else 8
    array.write(Roi((0, edge, 32), (edge, edge, 4)), 1)
    array.write(Roi((32, 32, 32), (8, 8, 4)), 2)
    for begin, size in (
        ((1, 0, 0), (edge, edge, edge)),
        ((0, 0, 0), (edge, edge, edge - 1)),
        ((0, 0, edge), (4, edge, edge)),
    ):
        with pytest.raises(ArrayError, match=rf"cuts chunks of \({edge}, {edge}, {edge}\) voxels"):
            array.write(Roi(begin, size), 3)
    assert array.read().sum() == edge * edge * 4 + 2 * 8 * 8 * 4


def write_block(path: str, index: int) -> None:
    open_array(path, mode="r+").write(Roi((index * 16, 0, 0), (16, 32, 32)), index + 1)


def test_parallel_writers_lose_nothing(tmp_path: Path) -> None:
    """Spawned processes that write neighbouring shards all find their voxels there."""
    path = str(tmp_path / "v.zarr/a")
    create_array(path, shape=(32, 32, 32), dtype="u1", grid=GRID, chunk=(8, 8, 8), shard=(16, 32, 32))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_block, args=(path, i)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    np.testing.assert_array_equal(open_array(path).read(), np.repeat([1, 2], 16)[:, None, None] * np.ones((32, 32, 32)))


def test_an_array_can_be_opened_before_a_fork(tmp_path: Path) -> None:
    """Opening reads JSON only: a forked worker may read the first voxel."""
    create_array(tmp_path / "v.zarr", shape=(4, 4), dtype="u1", grid=Grid((1, 1))).write(Roi((0, 0), (4, 4)), 1)
    code = (
        "import os, sys; from dacapo.arrays import open_array; array = open_array(sys.argv[1]); pid = os.fork()\n"
        "if not pid: os._exit(int(array.read().sum()))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "v.zarr")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "16", done.stderr


def test_arrays_on_disk_can_be_pickled(tmp_path: Path) -> None:
    """An array that was read from goes to another process and reads there."""
    array = create_array(tmp_path / "v.zarr", shape=(4, 4), dtype="u1", grid=Grid((1, 1)), attributes={"a": 1})
    array.write(array.roi, 3)
    copy = pickle.loads(pickle.dumps(array))
    assert (copy.read().sum(), copy.grid, copy.attributes) == (48, array.grid, {"a": 1})


def test_resume(tmp_path: Path) -> None:
    """The same array again is opened with its voxels; another one is refused with the difference."""
    path = tmp_path / "v.zarr/a"
    options = {
        "shape": (8, 8),
        "dtype": "u1",
        "grid": Grid((5.24, 4), (0.1, 0)),
        "chunk": (4, 4),
        "attributes": {"n": [1, 2]},
    }
    create_array(path, **options).write(Roi((0, 0), (8, 8)), 1)
    again = create_array(path, **options)
    assert (again.read().sum(), again.is_writeable) == (64, True)
    for change, difference in (
        ({"shape": (8, 9)}, r"shape \(8, 8\), not \(8, 9\)"),
        ({"dtype": "i1"}, "dtype uint8, not int8"),
        ({"grid": Grid((5.24, 4.1), (0.1, 0))}, r"Grid\(voxel_size=\(5.24, 4.0\).*not Grid\(voxel_size=\(5.24, 4.1\)"),
        ({"grid": Grid((5.24, 4), (0.2, 0))}, "Grid"),
        ({"chunk": (8, 4)}, r"chunk \(4, 4\), not \(8, 4\)"),
        ({"shard": (8, 8)}, r"chunk that is written as a whole \(4, 4\), not \(8, 8\)"),
        ({"attributes": {"n": [1, 3]}}, "attributes"),
    ):
        with pytest.raises(ArrayExistsError, match=f"exists and has {difference}"):
            create_array(path, **{**options, **change})
    assert open_array(path).read().sum() == 64
    new = create_array(path, overwrite=True, **{**options, "shape": (9, 9)})
    assert (new.shape, new.read().sum()) == ((9, 9), 0)
    assert sorted(os.listdir(tmp_path / "v.zarr")) == ["a", "zarr.json"]


def test_overwrite_spares_other_arrays(tmp_path: Path) -> None:
    """A container, a folder or a file of something else is never overwritten."""
    options = {"shape": (8, 8), "dtype": "u1", "grid": Grid((1, 1)), "overwrite": True}
    create_array(tmp_path / "v.zarr/a/b", **options)
    with pytest.raises(ArrayExistsError, match=r"holds other arrays \(a/b\)"):
        create_array(tmp_path / "v.zarr", **options)
    (tmp_path / "w.zarr/notes").mkdir(parents=True)
    with pytest.raises(ArrayExistsError, match="other things"):
        create_array(tmp_path / "w.zarr", **options)
    (tmp_path / "x.zarr").write_text("")
    with pytest.raises(ArrayExistsError, match="is a file"):
        create_array(tmp_path / "x.zarr", **options)
    (tmp_path / "empty.zarr").mkdir()
    create_array(tmp_path / "empty.zarr", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))
    with pytest.raises(ArrayError, match="inside the array"):
        create_array(tmp_path / "empty.zarr/s0/b", **options)


def test_creation_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fills up while the metadata are written, nothing is there; with overwrite, the old array is."""
    path = tmp_path / "v.zarr/a"
    options = {"shape": (8, 8), "dtype": "u1", "grid": Grid((1, 1))}
    create_array(tmp_path / "v.zarr/other", **options)
    real_replace = os.replace

    def full(source: object, target: object) -> None:
        if "s0" in str(target) or str(target) == str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real_replace(source, target)

    for _ in range(2):
        monkeypatch.setattr(zarr_nodes.os, "replace", full)
        with pytest.raises(StoreError, match=r"Cannot write .*: No space left on device\. Free some space"):
            create_array(path, overwrite=True, **options)
        monkeypatch.undo()
        left = [name for name in os.listdir(tmp_path / "v.zarr") if name.startswith((".", "a"))]
        assert left == ([] if not path.exists() else ["a"])
        create_array(path, **options).write(Roi((0, 0), (8, 8)), 1)
    assert open_array(path).read().sum() == 64


@pytest.mark.parametrize("size", [8, 9])
def test_two_that_create_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whoever comes second opens what the first made, with its voxels, if it is the same array."""
    options = {"dtype": "u1", "grid": Grid((1, 1))}
    create_array(tmp_path / "v.zarr/a", shape=(8, 8), **options).write(Roi((0, 0), (8, 8)), 1)
    answers = [False, True]
    monkeypatch.setattr(ome_zarr, "_is_taken", lambda target: answers.pop(0))
    if size == 8:
        assert create_array(tmp_path / "v.zarr/a", shape=(8, 8), **options).read().sum() == 64
    else:
        with pytest.raises(ArrayExistsError, match="shape"):
            create_array(tmp_path / "v.zarr/a", shape=(size, size), **options)
    assert sorted(os.listdir(tmp_path / "v.zarr")) == ["a", "zarr.json"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be written is one line."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(StoreError, match=r"^Cannot read .*v\.zarr/a: Permission denied\.$"):
        open_array(tmp_path / "v.zarr/a")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        StoreError, match=r"^Cannot write .*v\.zarr: Permission denied\. Choose a path that you may write to\.$"
    ):
        create_array(tmp_path / "v.zarr/a", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))


def test_write_to_a_place_that_went_away(tmp_path: Path) -> None:
    """A write that the file system refuses is a StoreError of one line, also the first one."""
    array = create_array(tmp_path / "v.zarr", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))
    (tmp_path / "v.zarr/s0/c").write_text("in the way")
    with pytest.raises(StoreError, match=r"^Cannot write [^\n]*$"):
        array.write(array.roi, 1)


def test_a_damaged_chunk_is_said(tmp_path: Path) -> None:
    """A chunk that does not decode is a StoreError with the array's path, not zeros."""
    array = create_array(tmp_path / "v.zarr", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))
    array.write(array.roi, 1)
    (tmp_path / "v.zarr/s0/c/0/0").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match=r"^Cannot read .*v\.zarr/s0: [^\n]*$"):
        open_array(tmp_path / "v.zarr").read()


def test_a_container_keeps_its_format(tmp_path: Path) -> None:
    """A new array follows its container; another format in it is refused with what to do."""
    options = {"shape": (8, 8), "dtype": "u1", "grid": Grid((1, 1))}
    zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    create_array(tmp_path / "old.zarr/a", **options)
    assert (tmp_path / "old.zarr/a/s0/.zarray").exists()
    with pytest.raises(ArrayError, match=r"zarr v2, which cannot hold OME-Zarr 0\.5\. Use ome='0\.4'"):
        create_array(tmp_path / "old.zarr/b", ome="0.5", **options)
    with pytest.raises(ArrayError, match=r"ome is '0\.6', expected"):
        create_array(tmp_path / "new.zarr/b", ome="0.6", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (0, 8)}, "positive size"),
        ({"shape": (8,)}, "no room"),
        ({"dtype": "complex64"}, "expected bool, an integer or a float"),
        ({"dtype": "U4"}, "expected bool, an integer or a float"),
        ({"chunk": (1, 2, 3)}, r"chunk is \(1, 2, 3\), expected a positive size"),
        ({"chunk": (0, 4)}, "expected a positive size"),
        ({"axis_names": ("x", "y")}, "do not fit"),
        ({"attributes": {"a": float("nan")}}, "JSON"),
        ({"attributes": {"a": object()}}, "JSON"),
    ],
)
def test_impossible_arrays(tmp_path: Path, change: dict, message: str) -> None:
    """What cannot be made is refused before anything is on disk."""
    with pytest.raises(ArrayError, match=message):
        create_array(tmp_path / "v.zarr/a", **{"shape": (8, 8), "dtype": "u1", "grid": Grid((1, 1)), **change})
    assert not (tmp_path / "v.zarr/a").exists()


def test_a_path_without_zarr_is_refused(tmp_path: Path) -> None:
    """The message says how a path should look."""
    with pytest.raises(ArrayError, match=r"not in a \.zarr folder.*volume\.zarr/segmentation"):
        create_array(tmp_path / "segmentation", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))


def write_pyramid(path: Path, version: int, unit: str | None = "nanometer", **image: object) -> None:
    """Two levels by zarr-python, the second on voxels twice as large with the same lower corner."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for level, factor in ((0, 1), (1, 2)):
        extra = {"dimension_names": ("z", "y", "x")} if version == 3 else {}
        array = group.create_array(f"s{level}", shape=(8 // factor,) * 3, chunks=(4, 4, 4), dtype="u1", **extra)
        array[:] = level + 1
    datasets = [
        {
            "path": f"s{level}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [5.24 * factor, 4.0 * factor, 4.0 * factor]},
                {"type": "translation", "translation": [2.62 * (factor - 1), 2.0 * (factor - 1), 2.0 * (factor - 1)]},
            ],
        }
        for level, factor in ((0, 1), (1, 2))
    ]
    axes = [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in "zyx"]
    entry = {"axes": axes, "datasets": datasets, "version": "0.4", **image}
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [entry]}} if version == 3 else {"multiscales": [entry]}
    )


@pytest.mark.parametrize("version", [2, 3])
def test_levels(tmp_path: Path, version: int) -> None:
    """The group is its finest level, or the one that was asked for; a level's path has the level's place."""
    path = tmp_path / "v.zarr/raw"
    write_pyramid(path, version)
    fine, coarse = open_array(path), open_array(path, voxel_size=(10.48, 8, 8.001))
    assert (fine.shape, fine.voxel_size, fine.offset) == ((8, 8, 8), (5.24, 4.0, 4.0), (-2.62, -2.0, -2.0))
    assert (coarse.shape, coarse.voxel_size, coarse.offset) == ((4, 4, 4), (10.48, 8.0, 8.0), (-2.62, -2.0, -2.0))
    with pytest.raises(ArrayError, match=r"no level with voxel_size \(9, 9, 9\).*s0: \(5.24, 4, 4\) nm; s1: \(10.48"):
        open_array(path, voxel_size=(9, 9, 9))
    with pytest.raises(ArrayError, match=r"s1 has voxels of \(10.48, 8, 8\) nm, but voxel_size \(9, 9, 9\)"):
        open_array(f"{path}/s1", voxel_size=(9, 9, 9))
    assert [name for name, _ in pyramid_levels(path)] == ["s0", "s1"]
    assert pyramid_levels(f"{path}/s1") == []
    for spelling in (f"{path}/s1", f"{tmp_path}/v.zarr:raw/s1"):
        assert open_array(spelling).grid == coarse.grid
    assert open_array(tmp_path / "v.zarr", dataset="raw/s1").grid == coarse.grid
    assert coarse.read().min() == 2
    assert fine.grid.ratio(coarse.grid) == (2, 2, 2)


def test_transformations_of_the_image_and_units(tmp_path: Path) -> None:
    """The image's own scale and translation come after the level's, and micrometers become nanometres."""
    steps = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [1, 0, 0]}]
    write_pyramid(tmp_path / "v.zarr", 2, "micrometer", coordinateTransformations=steps)
    array = open_array(tmp_path / "v.zarr/s1")
    assert (array.voxel_size, array.units) == ((20960.0, 16000.0, 16000.0), "nm")
    assert array.grid.translation == (6240.0, 4000.0, 4000.0)
    write_pyramid(tmp_path / "w.zarr", 2, None)
    assert open_array(tmp_path / "w.zarr").units == "nm"


def test_channels_last_and_xyz_are_brought_in_order(tmp_path: Path) -> None:
    """Axes stored x, y, z, c are read and written as c, z, y, x."""
    data = noise(3, 4, 5, 2)
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=data.shape, chunks=(3, 4, 5, 1), dtype="u1")[:] = data
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "xyz"] + [{"name": "c", "type": "channel"}]
    scale = [{"type": "scale", "scale": [1, 2, 3, 1]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    array = open_array(tmp_path / "v.zarr", mode="r+")
    assert (array.shape, array.axis_names, array.voxel_size) == ((2, 5, 4, 3), ("c^", "z", "y", "x"), (3.0, 2.0, 1.0))
    assert array.chunk_shape == (1, 5, 4, 3)
    np.testing.assert_array_equal(array.read(Roi((1, 0, 1), (2, 3, 2))), data.transpose(3, 2, 1, 0)[:, 1:3, 0:3, 1:3])
    array.write(array.roi, data.transpose(3, 2, 1, 0) + 1)
    np.testing.assert_array_equal(group["0"][:], data + 1)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_zarr_with_funlib_attributes(tmp_path: Path, version: int) -> None:
    """offset is the corner, voxel_size stays a float, axis names and units are taken."""
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=version)
    raw = group.create_array("volumes/raw", shape=(2, 8, 8, 8), chunks=(1, 4, 4, 4), dtype="u1")
    raw.attrs.update(
        {"offset": [10, 0, 0], "voxel_size": [5.24, 4, 4], "axis_names": ["c^", "z", "y", "x"], "units": ["nm"] * 3}
    )
    array = open_array(tmp_path / "v.zarr/volumes/raw")
    assert array.grid == Grid((5.24, 4, 4), (10, 0, 0))
    assert array.axis_names == ("c^", "z", "y", "x")
    raw.attrs.update(
        {"types": ["channel", "space", "space", "space"], "axis_names": ["c", "z", "y", "x"], "units": ["", "", ""]}
    )
    assert open_array(tmp_path / "v.zarr/volumes/raw").axis_names == ("c^", "z", "y", "x")
    labels = group.create_array("volumes/labels", shape=(8, 8, 8), chunks=(4, 4, 4), dtype="u8")
    assert open_array(tmp_path / "v.zarr/volumes/labels").grid == Grid((1, 1, 1), unit="voxel")
    labels.attrs.update({"resolution": [8, 8], "axis_names": ["z", "y", "x"]})
    with pytest.raises(ArrayError, match=r"labels: resolution has 2 entries, expected 3"):
        open_array(tmp_path / "v.zarr/volumes/labels")


def test_zarr_python_shards_and_f_order_are_read(tmp_path: Path) -> None:
    """Sharded v3 and big-endian, F-ordered v2 arrays by zarr-python are read as they are."""
    data = noise(16, 16, dtype="uint16")
    sharded = zarr.create_array(
        tmp_path / "a.zarr", shape=data.shape, chunks=(4, 4), shards=(8, 8), dtype="u2", zarr_format=3
    )
    sharded[:] = data
    array = open_array(tmp_path / "a.zarr")
    assert array.chunk_shape == (8, 8)
    np.testing.assert_array_equal(array.read(), data)
    zarr.create_array(tmp_path / "b.zarr", shape=data.shape, chunks=(4, 4), dtype=">u2", zarr_format=2, order="F")[
        :
    ] = data
    swapped = open_array(tmp_path / "b.zarr")
    assert swapped.dtype == np.uint16
    assert swapped.read().dtype == np.uint16
    np.testing.assert_array_equal(swapped.read(), data)


def test_missing_paths(tmp_path: Path) -> None:
    """The nearest existing parent and what it holds are named; a group lists its arrays."""
    create_array(tmp_path / "v.zarr/a/raw", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ArrayNotFoundError, match=rf"{tmp_path} contains notes\.txt, v\.zarr\.$"):
        open_array(tmp_path / "w.zarr/a")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/v\.zarr/a contains the arrays raw\.$"):
        open_array(tmp_path / "v.zarr/a/gt/s0")
    with pytest.raises(ArrayNotFoundError, match=r"is a group, expected an array\. Arrays in it: a/raw\.$"):
        open_array(tmp_path / "v.zarr")
    with pytest.raises(ArrayError, match=r"notes\.txt is a file of an unknown format, expected one of \.zarr"):
        open_array(tmp_path / "notes.txt")
    with pytest.raises(ArrayNotFoundError, match=r"is a folder, expected an array\. Arrays in it: v\.zarr/a/raw\.$"):
        open_array(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArrayNotFoundError, match=r"empty is no zarr array or group: it contains nothing\.$"):
        open_array(tmp_path / "empty")
    with pytest.raises(ArrayError, match="not on a file system"):
        open_array("s3://bucket/v.zarr")
    with pytest.raises(ArrayError, match="mode is 'w'"):
        open_array(tmp_path / "v.zarr/a/raw", mode="w")
    (tmp_path / "v.zarr/a/raw/s0/zarr.json").write_text("{")
    with pytest.raises(ArrayError, match="damaged or half written"):
        open_array(tmp_path / "v.zarr/a/raw")


def test_a_level_that_is_missing(tmp_path: Path) -> None:
    """Metadata that name a level that is not there are said to."""
    write_pyramid(tmp_path / "v.zarr", 2)
    (tmp_path / "v.zarr/s0/.zarray").unlink()
    with pytest.raises(ArrayNotFoundError, match="names its level 's0'"):
        open_array(tmp_path / "v.zarr")


def test_reading_is_one_request_without_a_new_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handle is opened once, however many crops are read."""
    import tensorstore

    opened = []
    real_open = tensorstore.open
    monkeypatch.setattr(tensorstore, "open", lambda *args, **kwargs: opened.append(1) or real_open(*args, **kwargs))
    array = create_array(tmp_path / "v.zarr", shape=(8, 8), dtype="u1", grid=Grid((1, 1)))
    assert opened == []
    for _ in range(3):
        assert array.read(Roi((1, 1), (2, 2))).flags.owndata is not None
    array.crop(Roi((1, 1), (2, 2))).read()
    assert opened == [1]


@pytest.mark.parametrize("options", [{}, {"ome": "0.4"}, {"chunk": (4, 4, 4), "shard": (8, 8, 8)}])
def test_convert(tmp_path: Path, options: dict) -> None:
    """A copy has the voxels, place, names and attributes of its source."""
    data = noise(2, 21, 17, 13, dtype="uint16")
    source = from_numpy(data, GRID)
    copy = convert(source, tmp_path / "v.zarr/a", attributes={"from": "numpy"}, **options)
    np.testing.assert_array_equal(copy.read(), data)
    again = convert(copy, tmp_path / "w.zarr/a", **options)
    assert (again.grid, again.axis_names, again.attributes) == (GRID, source.axis_names, {"from": "numpy"})
    np.testing.assert_array_equal(again.read(), data)


@pytest.mark.parametrize(("dtype", "level"), [("uint8", 1), ("float32", 1), ("uint64", 3), ("uint32", 3)])
def test_labels_are_compressed_harder_than_images(tmp_path: Path, dtype: str, level: int) -> None:
    """Images and predictions are written with zstd's level 1, labels with 3, in both versions of zarr."""
    for ome in ("0.4", "0.5"):
        create_array(f"{tmp_path}/{ome}.zarr/a", shape=(8, 8, 8), dtype=dtype, grid=Grid((1.0,) * 3), ome=ome)
    codecs = json.loads((tmp_path / "0.5.zarr/a/s0/zarr.json").read_text())["codecs"]
    assert next(c for c in codecs if c["name"] == "zstd")["configuration"]["level"] == level
    assert json.loads((tmp_path / "0.4.zarr/a/s0/.zarray").read_text())["compressor"]["clevel"] == level
