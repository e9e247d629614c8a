"""Array configs: what each opens against numpy, YAML there and back, bad input by the field's name, `like`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from dacapo.arrays import Array, create_array
from dacapo.errors import ArrayError, ConfigError, DacapoError, GeometryError
from dacapo.experiments.datasplits.datasets.arrays import (
    ArrayConfig,
    BinarizeArrayConfig,
    ConcatArrayConfig,
    ConstantArrayConfig,
    CropArrayConfig,
    DummyArrayConfig,
    DVIDArrayConfig,
    HDF5ArrayConfig,
    IntensitiesArrayConfig,
    LogicalOrArrayConfig,
    MergeInstancesArrayConfig,
    MissingAnnotationsMaskConfig,
    OnesArrayConfig,
    ResampledArrayConfig,
    SumArrayConfig,
    TiffArrayConfig,
    ZarrArrayConfig,
)
from dacapo.geometry import Grid, Roi

Z = ZarrArrayConfig("raw", "v.zarr", "raw")
EXAMPLES: list[ArrayConfig] = [
    ZarrArrayConfig("a", "v.zarr", "raw", (5.24, 4, 4), ["c^", "z", "y", "x"], "r", True, (8, 8, 8)),
    HDF5ArrayConfig("a", "f.h5", "raw", (5.24, 4, 4), (0, 1.5, 2), ["z", "y", "x"]),
    TiffArrayConfig("a", "a.tif", (0, 0, 0), (5.24, 4, 4), ["z", "y", "x"], ["nm"]),
    DVIDArrayConfig("a", ("http://server:8000", "3f8c", "grayscale")),
    DummyArrayConfig("a"),
    BinarizeArrayConfig("a", Z, [("mito", [3, 4]), ("all", [])], 0),
    ConcatArrayConfig("a", ["x", "y"], {"x": Z}, Z),
    ConstantArrayConfig("a", Z, 0.5),
    OnesArrayConfig("a", Z),
    CropArrayConfig("a", Z, ((5.24, 4, 0), (10.48, 8, 8))),
    IntensitiesArrayConfig("a", Z, 20, 200),
    LogicalOrArrayConfig("a", Z),
    MergeInstancesArrayConfig("a", [Z, Z]),
    MissingAnnotationsMaskConfig("a", Z, [("mito", [3, 4])]),
    ResampledArrayConfig("a", Z, None, (2, 2, 2), True),
    ResampledArrayConfig("a", None, (2, 1, 1), None, 0),
    SumArrayConfig("a", [Z, Z]),
]


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__name__)
def test_yaml_and_pickle(config: ArrayConfig) -> None:
    """A config comes back equal from YAML, which is the same again, and from pickle for the workers."""
    text = config.to_yaml()
    again = ArrayConfig.from_yaml(text)
    assert again == config
    assert type(again) is type(config)
    assert again.to_yaml() == text
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__name__)
def test_relative_to(config: ArrayConfig) -> None:
    """Every file name, in lists and dicts too, is resolved against the folder; the rest stays."""
    text = config.relative_to(Path("/data")).to_yaml()
    expected = config.to_yaml()
    for name in ("v.zarr", "f.h5", "a.tif"):
        expected = expected.replace(f"file_name: {name}", f"file_name: /data/{name}")
    assert text == expected
    assert type(ArrayConfig.from_yaml(text)) is type(config)


def store(path: Path, data: np.ndarray, size: Any = (5.24, 4.0, 4.0), offset: Any = (), **how: Any) -> str:
    grid = Grid(tuple(size)[-min(data.ndim, 3) :], tuple(offset))
    array = create_array(path, shape=data.shape, dtype=data.dtype, grid=grid, **how)
    array.write(array.roi, data)
    return str(path)


def noise(*shape: int, high: int = 250, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, high, shape).astype(dtype)


@pytest.fixture(params=[(6, 7, 8), (7, 8)], ids=["3D", "2D"])
def ids(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ArrayConfig, np.ndarray]:
    """Labels 0..4 on disk, in two and three axes."""
    data = noise(*request.param, high=5, dtype="uint64")
    return ArrayConfig.from_dict(store(tmp_path / "v.zarr/ids", data)), data


def part_of(array: Array, expected: np.ndarray) -> None:
    """The whole and an odd part are what numpy says."""
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array.read(), expected)
    roi = Roi((1,) * array.spatial_dims, [n - 3 for n in array.spatial_shape])
    np.testing.assert_array_equal(array.read(roi), expected[(..., *[slice(1, -2)] * array.spatial_dims)])


def test_binarize(ids: tuple[ArrayConfig, np.ndarray]) -> None:
    """A channel per class; no ids are all but the background; ids beyond the type are nowhere."""
    config, data = ids
    array = BinarizeArrayConfig("b", config, [("a", [1, 3]), ("any", []), ("none", [-1, 2**70])], 2).array()
    assert array.axis_names[0] == "c^"
    assert array.dtype == bool
    part_of(array, np.stack([np.isin(data, [1, 3]), data != 2, np.zeros(data.shape, bool)]))
    part_of(
        LogicalOrArrayConfig("or", BinarizeArrayConfig("b", config, [("a", [1]), ("b", [4])])).array(),
        np.isin(data, [1, 4]),
    )
    with pytest.raises(ArrayError, match=r"has the channel axes c\^ \(1\), expected spatial axes only"):
        BinarizeArrayConfig("b", BinarizeArrayConfig("b", config, [("a", [1])]), [("a", [1])]).array()


def test_concat(ids: tuple[ArrayConfig, np.ndarray]) -> None:
    """The order is that of `channels`; a channel without an array is the default's."""
    config, data = ids
    one = BinarizeArrayConfig("one", config, [("one", [1])])
    zeros = ConstantArrayConfig("zeros", config, 0)
    array = ConcatArrayConfig("c", ["b", "missing", "a"], {"a": config, "b": one}, zeros).array()
    part_of(array, np.stack([data == 1, np.zeros_like(data), data]))


def test_sum_and_merge(ids: tuple[ArrayConfig, np.ndarray]) -> None:
    """Sums are sums; merged objects keep apart."""
    config, data = ids
    one = BinarizeArrayConfig("one", config, [("one", [1])])
    part_of(SumArrayConfig("s", [LogicalOrArrayConfig("l", one)] * 3).array(), (data == 1).astype(np.uint8) * 3)
    merged = MergeInstancesArrayConfig("m", [LogicalOrArrayConfig("l", one), config]).array()
    expected = np.where(data == 1, 1, np.where(data > 0, (data - (data > 0)) * 2 + 2, 0))
    part_of(merged, expected.astype(np.uint64))


def test_constants(ids: tuple[ArrayConfig, np.ndarray]) -> None:
    """The grid of the source, the value, and a type that holds it."""
    config, data = ids
    part_of(OnesArrayConfig("o", config).array(), np.ones_like(data))
    part_of(ConstantArrayConfig("c", config, 7).array(), np.full_like(data, 7))
    for value, dtype in ((0.5, np.float32), (-3, np.int8), (7, np.uint64)):
        array = ConstantArrayConfig("c", config, value).array()
        assert (array.dtype, array.grid) == (np.dtype(dtype), config.array().grid)
        assert (array.read() == value).all()


def test_intensities_and_resampled(tmp_path: Path) -> None:
    """Treatments on top of each other, with a channel axis: scaled after the mean of windows."""
    data = noise(2, 6, 8, 8)
    raw = ArrayConfig.from_dict(store(tmp_path / "v.zarr/raw", data))
    config = IntensitiesArrayConfig("i", ResampledArrayConfig("r", raw, None, (1, 2, 2), 1), 20, 220)
    array = config.array()
    mean = np.rint(data.reshape(2, 6, 4, 2, 4, 2).mean((3, 5)))
    assert (array.voxel_size, array.dtype) == ((5.24, 8.0, 8.0), np.float32)
    np.testing.assert_allclose(array.read(), (mean - 20) / 200, atol=1e-6)


@pytest.mark.parametrize(
    ("offset", "shape", "begin", "end"),
    [
        ((10.48, 4.0, 0.0), (10.48, 8.0, 12.0), (1, 1, 0), (3, 3, 3)),  # on faces
        ((7.0, 5.9, 1.9), (11.0, 8.0, 8.2), (0, 1, 0), (2, 3, 3)),  # to the nearest face
        ((5.24, 2.0, 6.0), (100.0, 4.0, 4.0), (0, 1, 2), (6, 2, 3)),  # ties up; as far as the source reaches
    ],
)
def test_crop(tmp_path: Path, offset: Any, shape: Any, begin: Any, end: Any) -> None:
    """Whole voxels between the nearest faces, with metadata that say where they are."""
    data = noise(6, 7, 8)
    raw = store(tmp_path / "v.zarr/raw", data, offset=(5.24, 0, 0))
    array = CropArrayConfig("c", raw, (offset, shape)).array()
    np.testing.assert_array_equal(array.read(), data[tuple(map(slice, begin, end))])
    expected = Grid((5.24, 4.0, 4.0), (5.24, 0.0, 0.0)).at(begin)
    assert array.grid.is_close(expected)
    assert CropArrayConfig("c", raw, Roi((0, 4, 4), (8, 8, 8))).roi == ((0, 4, 4), (8, 8, 8))
    with pytest.raises(GeometryError, match="roi at .* has no voxel of the source"):
        CropArrayConfig("c", raw, ((1000, 0, 0), (8, 8, 8))).array()
    with pytest.raises(GeometryError, match="roi has 2 axes, the source 3"):
        CropArrayConfig("c", raw, ((0, 0), (8, 8))).array()


def annotate(path: str, attributes: dict[str, Any]) -> None:
    file = next(Path(path).rglob("zarr.json")) if Path(path).name == "s0" else Path(path, "s0", "zarr.json")
    meta = json.loads(file.read_text())
    file.write_text(json.dumps(meta | {"attributes": attributes}))


def label(value: int, present: bool, annotated: bool) -> dict[str, Any]:
    return {"value": value, "annotationState": {"present": present, "annotated": annotated}}


def cellmap(**encoding: int) -> dict[str, Any]:
    kind = {"type": "semantic_segmentation", "encoding": encoding}
    return {"cellmap": {"annotation": {"class_name": "mito", "complement_counts": {}, "annotation_type": kind}}}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, lambda d: [d > 0, d > 0]),
        ({"labels": [label(1, True, True), label(3, False, False)]}, lambda d: [d > 0, d > 0]),
        ({"labels": [label(1, True, True), label(3, True, False)]}, lambda d: [d > 0, d < 0]),
        (cellmap(absent=0, present=1), lambda d: [d >= 0, d >= 0]),
        (cellmap(unknown=0, present=1), lambda d: [d != 0, d != 0]),
        (cellmap(absent=0, unknown=4), lambda d: [d != 4, d != 4]),
    ],
)
def test_missing_annotations(tmp_path: Path, attributes: dict[str, Any], expected: Any) -> None:
    """A class that is present but not annotated is masked; "absent" is an annotation, "unknown" none; through a crop."""
    data = noise(6, 7, 8, high=5)
    path = store(tmp_path / "v.zarr/gt", data)
    annotate(path, attributes)
    groups = [("a", [1, 2]), ("b", [3])]
    part_of(MissingAnnotationsMaskConfig("m", path, groups).array(), np.stack(expected(data.astype(int))))
    cropped = CropArrayConfig("c", path, ((5.24, 4, 4), (20.96, 20, 20)))
    array = MissingAnnotationsMaskConfig("m", cropped, groups).array()
    np.testing.assert_array_equal(array.read(), np.stack(expected(data.astype(int)))[:, 1:5, 1:6, 1:6])
    annotate(path, {"labels": [{"value": 1}]})
    with pytest.raises(ArrayError, match="the attribute 'labels' is not a list of value and annotationState"):
        MissingAnnotationsMaskConfig("m", path, groups).array()


def test_axes_and_snapping(tmp_path: Path) -> None:
    """`axes` are those of the file, channels last too; `snap_to_grid` moves the offset to a multiple."""
    data = noise(5, 6, 7, 2)
    path = tmp_path / "v.zarr/raw/s0"
    store(tmp_path / "v.zarr/raw", data, axis_names=("c^", "z", "y", "x"))
    config = ZarrArrayConfig("a", tmp_path / "v.zarr", "raw/s0", axes=["z", "y", "x", "c^"])
    array = config.array()
    assert (array.axis_names, array.voxel_size) == (("c^", "z", "y", "x"), (5.24, 4.0, 4.0))
    np.testing.assert_array_equal(array.read(), data.transpose(3, 0, 1, 2))
    with pytest.raises(ArrayError, match="axis names .* do not fit 4 axes"):
        ZarrArrayConfig("a", path, axes=["z", "y", "x"]).array()
    store(tmp_path / "v.zarr/off", noise(4, 4, 4), offset=(5.0, 3.0, 6.1))
    snapped = ZarrArrayConfig("a", tmp_path / "v.zarr", "off", snap_to_grid=(5.24, 4, 4)).array()
    assert snapped.offset == (5.24, 4.0, 8.0)
    with pytest.raises(ConfigError, match="snap_to_grid needs 3 lengths"):
        ZarrArrayConfig("a", tmp_path / "v.zarr", "off", snap_to_grid=(4, 4)).array()
    with pytest.raises(ArrayError, match="voxel_size .8.0, 8.0, 8.0. nm"):
        ZarrArrayConfig("a", tmp_path / "v.zarr", "off", voxel_size=(8, 8, 8)).array()


def test_tiff_and_hdf5(tmp_path: Path) -> None:
    """What the file does not say the config does: axes in the order of the file, sizes in units."""
    data = noise(5, 6, 7)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    array = TiffArrayConfig(
        "a", tmp_path / "a.tif", (1, 0, 0), (0.004, 0.005, 0.00524), ["x", "y", "z"], ["um"]
    ).array()
    assert array.grid == Grid((5.24, 5, 4), (0, 0, 1000))
    np.testing.assert_array_equal(array.read(), data.transpose(2, 1, 0))
    array = TiffArrayConfig("a", tmp_path / "a.tif", voxel_size=(5, 4, 4)).array()
    assert array.grid == Grid((5, 4, 4))
    flat = TiffArrayConfig("a", tmp_path / "a.tif", None, (4, 3), ["c^", "y", "x"]).array()
    assert (flat.axis_names, flat.grid) == (("c^", "y", "x"), Grid((4, 3)))
    with pytest.raises(ArrayError, match="voxel_size is .*expected 3 numbers"):
        TiffArrayConfig("a", tmp_path / "a.tif", voxel_size=(4, 3)).array()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["raw"] = data
    array = HDF5ArrayConfig("a", tmp_path / "f.h5", "raw", (5.24, 4, 4), (1, 2, 3)).array()
    assert array.grid == Grid((5.24, 4, 4), (1, 2, 3))
    np.testing.assert_array_equal(array.read(), data)


def test_shorthand_and_dummy(tmp_path: Path) -> None:
    """A path with .n5 is a zarr config; a dummy is zeros and never valid."""
    assert ArrayConfig.from_dict("v.n5/raw/s0") == ZarrArrayConfig("", "v.n5", "raw/s0")
    assert DummyArrayConfig("d").array().shape == (100, 50, 50)
    assert DummyArrayConfig("d").verify()[0] is False


def test_like(tmp_path: Path) -> None:
    """A new volume is treated as the training raw was: scaled, at the same level, not cropped."""
    new = "n.zarr/em"
    plain = ZarrArrayConfig("", "n.zarr", "em")
    level = ZarrArrayConfig("raw", "v.zarr", "raw", snap_to_grid=(8, 8, 8), voxel_size=(8, 8, 8))
    assert level.like(new) == ZarrArrayConfig("", "n.zarr", "em", (8, 8, 8), voxel_size=(8, 8, 8))
    assert IntensitiesArrayConfig("i", CropArrayConfig("c", Z, ((0, 0, 0), (8, 8, 8))), 2, 3).like(new) == (
        IntensitiesArrayConfig("i", plain, 2, 3)
    )
    same, other = IntensitiesArrayConfig("i", Z, 2, 3), IntensitiesArrayConfig("i", Z, 2, 4)
    assert ConcatArrayConfig("c", ["a", "b"], {"a": same, "b": same}).like(new) == IntensitiesArrayConfig(
        "i", plain, 2, 3
    )
    with pytest.raises(ConfigError, match="put together from 2 sources that are treated differently"):
        ConcatArrayConfig("c", ["a", "b"], {"a": same, "b": other}).like(new)
    for config in (SumArrayConfig("s", [Z, Z]), MergeInstancesArrayConfig("m", [Z, Z])):
        with pytest.raises(ConfigError, match="path n.zarr/em of one cannot stand for them"):
            config.like(new)


def test_like_resampled(tmp_path: Path) -> None:
    """Resampled if it has the training volume's voxels, left alone if it has the network's, else refused."""
    paths = {size: store(tmp_path / f"v.zarr/r{size}", noise(8, 8, 8), (size,) * 3) for size in (4, 8, 6)}
    config = ResampledArrayConfig("r", paths[4], None, (2, 2, 2), True)
    assert config.like(paths[4]).array().voxel_size == (8.0, 8.0, 8.0)
    assert config.like(paths[8]) == ArrayConfig.from_dict(paths[8])
    with pytest.raises(GeometryError, match=r"r6 has voxels of \(6.0, .*expected \(4.0"):
        config.like(paths[6])
    gone = config.model_copy(update={"source_array_config": Z})
    assert gone.like(paths[4]).array().voxel_size == (8.0, 8.0, 8.0)


def test_like_tiff(tmp_path: Path) -> None:
    """Stacks that do not state a voxel size are taken to be of the same microscope; others say it themselves."""
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", noise(4, 5, 6), photometric="minisblack")
    how = {"resolution": (100.0, 100.0), "metadata": {"axes": "ZYX", "spacing": 0.02, "unit": "um"}}
    tifffile.imwrite(tmp_path / "c.tif", noise(4, 5, 6), imagej=True, **how)
    config = TiffArrayConfig("a", tmp_path / "a.tif", (100, 0, 0), (5.24, 4, 4))
    assert config.like(str(tmp_path / "b.tif")).array().grid == Grid((5.24, 4, 4))
    assert config.like(str(tmp_path / "c.tif")).array().grid == Grid((20, 10, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinarizeArrayConfig("a", Z, [("m", [1]), ("m", [2])]), "groupings: the class 'm' is named twice"),
        (lambda: BinarizeArrayConfig("a", Z, []), "groupings: expected a name and a list of ids"),
        (lambda: MissingAnnotationsMaskConfig("a", Z, [("", [1])]), "groupings: expected a name"),
        (lambda: ConcatArrayConfig("a", ["x", "x"], {"x": Z}), "channels: 'x' is named twice"),
        (lambda: ConcatArrayConfig("a", ["x"], {"y": Z}, Z), "source_arrays: 'y' is none of the channels"),
        (
            lambda: ConcatArrayConfig("a", ["x", "y"], {"y": Z}),
            "'x' has neither an array in source_arrays nor a default",
        ),
        (lambda: ConcatArrayConfig("a", [], {}), "channels"),
        (lambda: ConstantArrayConfig("a", Z, float("nan")), "constant: .*expected a finite number"),
        (lambda: CropArrayConfig("a", Z, ((0, 0), (4, 0))), "roi: shape is .*expected positive lengths"),
        (lambda: CropArrayConfig("a", Z, (0, 4)), "roi: expected .offset, shape."),
        (lambda: CropArrayConfig("a", Z, ((0, 0), (4,))), "roi: .*one entry per axis"),
        (lambda: CropArrayConfig("a", Z, Roi((0, None), (4, None))), "roi: the region has no bounds"),
        (lambda: IntensitiesArrayConfig("a", Z, 5, 5), "must be larger than min"),
        (lambda: MergeInstancesArrayConfig("a", []), "source_array_configs: tuple should have at least 1"),
        (lambda: SumArrayConfig("a", []), "source_array_configs: tuple should have at least 1"),
        (lambda: ResampledArrayConfig("a", Z, None, (0, 1), True), "downsample: expected whole numbers from 1"),
        (lambda: ResampledArrayConfig("a", Z, (2.5, 1), None, True), "upsample"),
        (lambda: ResampledArrayConfig("a", Z, None, (2, 2), 3), "interp_order"),
        (lambda: ResampledArrayConfig("a", Z, None, (2, 2)), "interp_order"),
        (lambda: ResampledArrayConfig("a", None, None, None, True).array(), "source_array"),
        (lambda: DVIDArrayConfig("a", ("http://x", "", "y")), "source: expected the server's address"),
        (lambda: ZarrArrayConfig("a", "v.zarr", voxel_size=(4, 0, 4)), "voxel_size: expected a positive length"),
        (lambda: ZarrArrayConfig("a", "v.zarr", axes=("z", "z")), "axes: expected a name of its own"),
        (lambda: ZarrArrayConfig("a", "v.zarr", mode="rw"), "mode: 'rw' is no mode"),
        (lambda: TiffArrayConfig("a", "a.tif", units=("parsec",)), "units: 'parsec' is no unit of length"),
        (lambda: TiffArrayConfig("a", "a.tif", axis_names=("c^",)), "axis_names: expected"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    """What is impossible is refused when the config is made, in one line with the field's name."""
    with pytest.raises(DacapoError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_sources_that_do_not_fit(tmp_path: Path) -> None:
    """Geometry and types that cannot be put together are said with the names of the sources."""
    small, large = (store(tmp_path / f"v.zarr/{n}", noise(n, 4, 4)) for n in (4, 5))
    with pytest.raises(GeometryError, match=r"channel 'b' has shape \(5, 4, 4\), but channel 'a' has \(4, 4, 4\)"):
        ConcatArrayConfig("c", ["a", "b"], {"a": small, "b": large}).array()
    with pytest.raises(GeometryError, match=r"source_arrays\[1\] \(.*v.zarr/5\) has shape"):
        MergeInstancesArrayConfig("m", [small, large]).array()
    floats = IntensitiesArrayConfig("i", small)
    with pytest.raises(ArrayError, match="is float32, expected labels"):
        BinarizeArrayConfig("b", floats, [("a", [1])]).array()
    with pytest.raises(GeometryError, match=r"downsample is \[2, 2\], expected 3"):
        ResampledArrayConfig("r", small, None, (2, 2), True).array()
