"""N5: axes turned round, the places that COSEM, OME, neuroglancer, Paintera and funlib state, pyramids, errors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

from dacapo.arrays import open_array, pyramid_levels
from dacapo.errors import ArrayError, ArrayNotFoundError
from dacapo.geometry import Grid, Roi

SIZES, CORNER = (8.0, 4.0, 2.0), (80.0, 40.0, 20.0)
CENTRE = [84.0, 42.0, 21.0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def write(path: Path, data: np.ndarray, attributes: dict[str, Any] | None = None, **metadata: Any) -> Path:
    """`data` (z, y, x) by tensorstore, which has x first; then `attributes` beside what it wrote."""
    spec = {"dimensions": data.shape[::-1], "dataType": str(data.dtype), "compression": {"type": "gzip"}}
    spec |= {"blockSize": [4] * data.ndim} | metadata
    store = {"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}, "metadata": spec}
    tensorstore.open(store, create=True).result()[...] = data.T
    add(path, attributes or {})
    return path


def add(folder: Path, attributes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "attributes.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | attributes))


def transform(order: str | None = None, step: int = 1) -> dict[str, Any]:
    found = {
        "axes": list("zyx")[::step],
        "scale": list(SIZES)[::step],
        "translate": CENTRE[::step],
        "units": ["nm"] * 3,
    }
    return {"transform": found | ({"ordering": order} if order else {})}


@pytest.mark.parametrize(
    ("attributes", "grid"),
    [
        (transform(), Grid(SIZES, CORNER)),
        (transform("C"), Grid(SIZES, CORNER)),
        (transform("F", -1), Grid(SIZES, CORNER)),
        (transform(None, -1), Grid(SIZES, CORNER)),
        (
            {"transform": {"ordering": "C", "scale": [8, 4, 2], "translate": CENTRE, "units": ["nm"] * 3}},
            Grid(SIZES, CORNER),
        ),
        ({"pixelResolution": {"dimensions": [2, 4, 8], "unit": "nm"}}, Grid(SIZES)),
        ({"pixelResolution": [1, 2, 8], "downsamplingFactors": [2, 2, 1]}, Grid(SIZES)),
        ({"pixelResolution": {"dimensions": [0.002, 0.004, 0.00524], "unit": "um"}}, Grid((5.24, 4, 2))),
        ({"pixelResolution": {"dimensions": [1, 1, 1], "unit": "pixel"}}, Grid((1, 1, 1), unit="voxel")),
        ({"resolution": [2, 4, 8], "offset": [20, 40, 80]}, Grid(SIZES, CORNER)),
        ({"resolution": [0.002, 0.004, 0.008], "units": ["um"] * 3}, Grid(SIZES)),
        ({"voxel_size": [2, 4, 8]}, Grid(SIZES)),
        ({"resolution": [8, 8, 8], "axes": ["x", "y", "z"]}, Grid((8, 8, 8))),
        ({}, Grid((1, 1, 1), unit="voxel")),
    ],
)
def test_places(tmp_path: Path, attributes: dict[str, Any], grid: Grid) -> None:
    """Each way of stating a place gives z, y, x; `translate` is the centre of voxel 0, `offset` its corner."""
    data = noise(5, 6, 7)
    array = open_array(write(tmp_path / "v.n5/raw", data, attributes))
    assert array.axis_names == ("z", "y", "x")
    assert array.grid == grid
    np.testing.assert_array_equal(array.read(Roi((1, 2, 3), (3, 3, 3))), data[1:4, 2:5, 3:6])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)).read(), data)


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6, 7)])
def test_2d_and_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """N5's fourth axis, the slowest, is the channel; two axes are y and x."""
    data = noise(*shape)
    array = open_array(write(tmp_path / "v.n5/raw", data, {"resolution": [2, 4, 8, 1][: data.ndim]}))
    assert array.axis_names == ("c^", "z", "y", "x")[-data.ndim :] if data.ndim == 4 else ("y", "x")
    assert array.voxel_size == SIZES[-array.spatial_dims :]
    np.testing.assert_array_equal(array.read(), data)


def test_axes_that_the_file_names(tmp_path: Path) -> None:
    """Axes in another order are brought to c, z, y, x: ImageJ's x, y, c, z."""
    data = noise(5, 2, 6, 7)
    attributes = {"axes": ["x", "y", "c", "z"], "resolution": [2, 4, 1, 8]}
    array = open_array(write(tmp_path / "v.n5/raw", data, attributes))
    assert (array.axis_names, array.voxel_size) == (("c^", "z", "y", "x"), SIZES)
    np.testing.assert_array_equal(array.read(), data.transpose(1, 0, 2, 3))


def ome(levels: int, step: int = 1) -> dict[str, Any]:
    datasets = [
        {
            "path": f"s{i}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [s * 2**i for s in SIZES][::step]},
                {
                    "type": "translation",
                    "translation": [c + s * 2**i / 2 for c, s in zip(CORNER, SIZES, strict=True)][::step],
                },
            ],
        }
        for i in range(levels)
    ]
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"[::step]]
    return {"multiscales": [{"axes": axes, "datasets": datasets}]}


def cosem(levels: int) -> dict[str, Any]:
    def one(i: int) -> dict[str, Any]:
        centre = [c + s * 2**i / 2 for c, s in zip(CORNER, SIZES, strict=True)]
        return {"axes": list("zyx"), "scale": [s * 2**i for s in SIZES], "translate": centre, "units": ["nm"] * 3}

    return {
        "multiscales": [{"name": "raw", "datasets": [{"path": f"s{i}", "transform": one(i)} for i in range(levels)]}]
    }


@pytest.mark.parametrize(
    ("group", "offset"),
    [
        (ome(2), CORNER),
        (ome(2, -1), CORNER),
        (cosem(2), CORNER),
        ({"pixelResolution": {"dimensions": [2, 4, 8], "unit": "nm"}, "scales": [[1, 1, 1], [2, 2, 2]]}, (0.0,) * 3),
        ({"resolution": [2, 4, 8], "downsamplingFactors": [[1, 1, 1], [2, 2, 2]], "offset": [20, 40, 80]}, CORNER),
        (
            {
                "axes": ["x", "y", "z"],
                "units": ["nm"] * 3,
                "scales": [[1, 1, 1], [2, 2, 2]],
                "pixelResolution": {"dimensions": [2, 4, 8], "unit": "nm"},
            },
            (0.0,) * 3,
        ),
    ],
)
def test_pyramids(tmp_path: Path, group: dict[str, Any], offset: tuple[float, ...]) -> None:
    """The level of the voxel size asked for, or the finest; both start at the same corner."""
    path = tmp_path / "v.n5/em/raw"
    fine, coarse = noise(8, 8, 8), noise(4, 4, 4)
    write(path / "s0", fine)
    write(path / "s1", coarse)
    add(path, group)
    array = open_array(path)
    assert array.grid == Grid(SIZES, offset)
    np.testing.assert_array_equal(array.read(), fine)
    array = open_array(path, voxel_size=(16, 8, 4))
    assert array.grid == Grid((16, 8, 4), offset)
    np.testing.assert_array_equal(array.read(), coarse)
    assert open_array(path / "s1").grid == array.grid
    assert [(name, grid.voxel_size) for name, grid in pyramid_levels(path)] == [("s0", SIZES), ("s1", (16, 8, 4))]
    with pytest.raises(ArrayError, match=r"no level with voxel_size \(3, 3, 3\).*s0: \(8, 4, 2\) nm; s1: \(16, 8, 4\)"):
        open_array(path, voxel_size=(3, 3, 3))


def test_own_factors_of_levels(tmp_path: Path) -> None:
    """Paintera: the group has the resolution, each level its factors; a level without any is an error."""
    path = tmp_path / "v.n5/raw"
    write(path / "s0", noise(8, 8, 8))
    write(path / "s1", noise(4, 4, 4), {"downsamplingFactors": [4, 2, 2]})
    add(path, {"resolution": [2, 4, 8], "multiScale": True})
    assert open_array(path / "s1").voxel_size == (16, 8, 8)
    write(path / "s2", noise(2, 2, 2))
    with pytest.raises(ArrayError, match="s2: neither this level nor its group says how much coarser"):
        open_array(path)


def test_writing_whole_blocks(tmp_path: Path) -> None:
    """r+ writes whole blocks, with z first, and refuses parts of them; r does not write."""
    path = write(tmp_path / "v.n5/raw", np.zeros((5, 8, 9), np.uint8), transform(), blockSize=[3, 4, 5])
    array = open_array(path, mode="r+")
    assert array.chunk_shape == (5, 4, 3)
    data = noise(5, 4, 6)
    array.write(Roi((0, 4, 3), (5, 4, 6)), data)
    handle = tensorstore.open({"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}}).result()
    np.testing.assert_array_equal(handle[3:9, 4:8, 0:5].read().result(), data.T)
    with pytest.raises(ArrayError, match=r"cuts chunks of \(5, 4, 3\)"):
        array.write(Roi((0, 0, 1), (5, 4, 3)), 1)
    with pytest.raises(ArrayError, match="read-only"):
        open_array(path).write(array.roi, 0)


def test_what_is_no_array(tmp_path: Path) -> None:
    """A group lists what is inside, a wrong name what is beside it; what cannot be read is said."""
    root = tmp_path / "v.n5"
    write(root / "em/raw/s0", noise(4, 4, 4))
    write(root / "em/raw/s1", noise(2, 2, 2), {"downsamplingFactors": [2, 2, 2]})
    write(root / "labels/mito", noise(4, 4, 4))
    with pytest.raises(
        ArrayNotFoundError, match=r"v\.n5 is a group, expected an array\. Arrays in it: em/raw, labels/mito"
    ):
        open_array(root)
    with pytest.raises(ArrayNotFoundError, match=r"labels/er does not exist\. .*labels contains the arrays mito"):
        open_array(root / "labels/er")
    with pytest.raises(ArrayNotFoundError, match=r"w\.n5/raw does not exist"):
        open_array(tmp_path / "w.n5/raw")
    bad = {"dimensions": [4], "blockSize": [4], "dataType": "uint8"}
    for name, change, message in (
        ("lz4", {"compression": {"type": "lz4"}}, "compressed with lz4"),
        ("multi", {"isLabelMultiset": True}, "holds a label multiset"),
        ("text", {"dataType": "string"}, "holds string"),
        ("sizes", {"resolution": [1, 2]}, "resolution is .*expected 1 numbers"),
        ("transform", {"transform": {"axes": ["x"]}}, "transform is"),
    ):
        add(root / name, bad | change)
        with pytest.raises(ArrayError, match=message):
            open_array(root / name)
    (root / "broken").mkdir()
    (root / "broken/attributes.json").write_text("{")
    with pytest.raises(ArrayError, match="damaged or half written"):
        open_array(root / "broken")
    add(root / "named", {"multiscales": [{"datasets": [{"path": "s7"}]}]})
    with pytest.raises(ArrayNotFoundError, match="names its level 's7'"):
        open_array(root / "named")


def test_a_folder_without_suffix(tmp_path: Path) -> None:
    """Metadata decide, not the name."""
    data = noise(4, 4, 4)
    write(tmp_path / "plain/raw", data)
    np.testing.assert_array_equal(open_array(tmp_path / "plain/raw").read(), data)
