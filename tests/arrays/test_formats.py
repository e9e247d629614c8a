"""HDF5 and TIFF, and the real volumes where they are at hand."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from dacapo.arrays import convert, open_array
from dacapo.arrays.paths import split_path
from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError
from dacapo.geometry import Grid, Roi

REAL_DATA = Path(os.environ.get("DACAPO_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason=f"the real volumes are not at {REAL_DATA}; set DACAPO_REAL_DATA"
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("path", "dataset", "container", "inner"),
    [
        ("a/vol.zarr/raw/s1", None, "a/vol.zarr", "raw/s1"),
        ("a/vol.zarr:raw/s1/", None, "a/vol.zarr", "raw/s1"),
        ("a/vol.zarr", "raw/s1", "a/vol.zarr", "raw/s1"),
        ("a/vol.zarr/raw", "s1", "a/vol.zarr", "raw/s1"),
        ("f.h5:volumes/raw", None, "f.h5", "volumes/raw"),
        ("f.hdf5/volumes/raw", None, "f.hdf5", "volumes/raw"),
        ("f.HDF:/raw", None, "f.HDF", "raw"),
        ("image.tif", None, "image.tif", ""),
        ("f.h5.zarr/raw", None, "f.h5.zarr", "raw"),
        ("folder/raw", None, "folder/raw", ""),
    ],
)
def test_split_path(path: str, dataset: str | None, container: str, inner: str) -> None:
    """A colon, a slash and `dataset` are three spellings of one thing."""
    assert split_path(path, dataset) == (Path(container), inner)
    with pytest.raises(ArrayError, match="may not contain"):
        split_path("vol.zarr/../raw")


def test_hdf5_attributes(tmp_path: Path) -> None:
    """resolution, voxel_size and element_size_um are read; offset is the corner; without any it is 1 voxel."""
    data = noise(6, 8, 10)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("cremi", "funlib", "ilastik", "bare", "channels"):
            shape = (2, *data.shape) if name == "channels" else data.shape
            file.create_dataset(
                f"volumes/{name}",
                data=np.broadcast_to(data, shape),
                chunks=(4,) * len(shape[:-3]) + (3, 4, 5) if name != "channels" else (1, 3, 4, 5),
            )
        file["volumes/cremi"].attrs.update(
            {"resolution": [40.0, 5.24, 4], "offset": [80.0, 0, 0], "units": "nm", "axes": "zyx"}
        )
        file["volumes/funlib"].attrs.update({"voxel_size": (8, 4, 4), "axis_names": ["z", "y", "x"], "unit": "um"})
        file["volumes/ilastik"].attrs["element_size_um"] = [0.04, 0.00524, 0.004]
        file["volumes/channels"].attrs["resolution"] = [40.0, 5.24, 4]
    opened = {
        name: open_array(f"{tmp_path}/f.h5:volumes/{name}")
        for name in ("cremi", "funlib", "ilastik", "bare", "channels")
    }
    assert opened["cremi"].grid == Grid((40, 5.24, 4), (80, 0, 0))
    assert opened["funlib"].grid == Grid((8000, 4000, 4000))
    assert opened["ilastik"].grid == Grid((40, 5.24, 4))
    assert opened["bare"].grid == Grid((1, 1, 1), unit="voxel")
    assert opened["channels"].axis_names == ("c^", "z", "y", "x")
    crop = Roi((1, 2, 3), (3, 3, 3))
    np.testing.assert_array_equal(opened["cremi"].read(crop), data[1:4, 2:5, 3:6])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened["cremi"])).read(crop), data[1:4, 2:5, 3:6])
    with pytest.raises(ArrayError, match="read-only"):
        opened["cremi"].write(crop, 0)


def test_hdf5_errors(tmp_path: Path) -> None:
    """Groups list their arrays, wrong names the file's, and what is no HDF5 is said."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["volumes/raw"] = noise(2, 2, 2)
        file["text"] = "no voxels"
    with pytest.raises(
        ArrayNotFoundError, match=r"f\.h5:volumes is a group, .*: volumes/raw\. Write for example .*f\.h5:volumes/raw\."
    ):
        open_array(f"{tmp_path}/f.h5:volumes")
    with pytest.raises(ArrayNotFoundError, match=r"file of several arrays, .*: volumes/raw\."):
        open_array(tmp_path / "f.h5")
    with pytest.raises(ArrayNotFoundError, match=r"has no 'volumes/gt'\. Arrays in it: volumes/raw\."):
        open_array(f"{tmp_path}/f.h5:volumes/gt")
    with pytest.raises(ArrayError, match="expected an array of numbers"):
        open_array(f"{tmp_path}/f.h5:text")
    with pytest.raises(ArrayNotFoundError, match=r"g\.h5 does not exist\. .* contains f\.h5\."):
        open_array(f"{tmp_path}/g.h5:volumes/raw")
    with pytest.raises(ArrayError, match="can only be read"):
        open_array(f"{tmp_path}/f.h5:volumes/raw", mode="r+")
    (tmp_path / "g.h5").write_text("no")
    with pytest.raises(ArrayError, match="cannot be opened as HDF5"):
        open_array(f"{tmp_path}/g.h5:raw")


def test_imagej_tiff(tmp_path: Path) -> None:
    """A stack's spacing and resolution in microns are nanometres, without dust; it is memory-mapped."""
    data = noise(5, 7, 9)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        data,
        imagej=True,
        resolution=(1 / 0.004, 1 / 0.00524),
        metadata={"axes": "ZYX", "spacing": 0.04, "unit": "um"},
    )
    array = open_array(path)
    assert array.grid == Grid((40, 5.24, 4))
    np.testing.assert_array_equal(array.read(Roi((1, 2, 3), (3, 3, 3))), data[1:4, 2:5, 3:6])
    assert isinstance(array._source._voxels, np.memmap)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)).read(), data)


def test_ome_tiff(tmp_path: Path) -> None:
    """OME's physical sizes are taken, and channels come first."""
    data = noise(3, 2, 7, 9)
    path = tmp_path / "a.ome.tif"
    sizes = {f"PhysicalSize{axis}": size for axis, size in (("Z", 0.04), ("Y", 0.00524), ("X", 0.004))}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata={"axes": "ZCYX", **sizes, **units})
    array = open_array(path)
    assert (array.grid, array.axis_names) == (Grid((40, 5.24, 4)), ("c^", "z", "y", "x"))
    np.testing.assert_array_equal(array.read(), data.transpose(1, 0, 2, 3))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_plain_tiff(tmp_path: Path, compression: str | None) -> None:
    """Pages without a word about size are z y x of 1 voxel, compressed or not; colours are channels."""
    data = noise(5, 32, 40)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, photometric="minisblack")
    array = open_array(tmp_path / "a.tif")
    assert (array.axis_names, array.grid) == (("z", "y", "x"), Grid((1, 1, 1), unit="voxel"))
    np.testing.assert_array_equal(array[2:4, :5, 1], data[2:4, :5, 1])
    tifffile.imwrite(tmp_path / "b.tif", noise(32, 40, 3), photometric="rgb", compression=compression)
    assert open_array(tmp_path / "b.tif").shape == (3, 32, 40)


def test_tiff_errors(tmp_path: Path) -> None:
    """What is no TIFF, and a file cut short, are errors of one line."""
    (tmp_path / "a.tif").write_text("no")
    with pytest.raises(ArrayError, match="cannot be read as TIFF"):
        open_array(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", noise(5, 64, 64), compression="zlib", photometric="minisblack")
    with pytest.raises(ArrayError, match="holds no dataset"):
        open_array(tmp_path / "b.tif", dataset="raw")
    array = open_array(tmp_path / "b.tif")
    os.truncate(tmp_path / "b.tif", 6000)
    with pytest.raises(StoreError, match=r"^Cannot read .*b\.tif: "):
        array.read()


@needs_real_data
def test_fib25(tmp_path: Path) -> None:
    """The validation slab follows the training slab in z, and its copy is the same volume."""
    train = open_array(REAL_DATA / "fib25/fib25_train.h5", dataset="volumes/raw")
    validate = open_array(f"{REAL_DATA}/fib25/fib25_validate.h5:volumes/raw")
    labels = open_array(f"{REAL_DATA}/fib25/fib25_validate.h5:volumes/labels/neuron_ids")
    assert (train.shape, train.dtype, train.voxel_size, train.units) == ((120, 250, 250), np.uint8, (10.0,) * 3, "nm")
    assert train.grid.shift(validate.grid) == (120, 0, 0)
    assert labels.grid == validate.grid
    roi = Roi((10, 100, 100), (20, 64, 64))
    copy = convert(labels.crop(roi), tmp_path / "v.zarr/labels", chunk=(16, 32, 32), shard=(32, 32, 32))
    assert copy.offset == (1300.0, 1000.0, 1000.0)
    with h5py.File(REAL_DATA / "fib25/fib25_validate.h5", locking=False) as file:
        expected = file["volumes/labels/neuron_ids"][10:30, 100:164, 100:164]
    np.testing.assert_array_equal(open_array(tmp_path / "v.zarr/labels").read(), expected)


@needs_real_data
def test_gala_has_no_voxel_size() -> None:
    """Without attributes nothing is made up."""
    raw = open_array(f"{REAL_DATA}/gala/gala_train.h5:volumes/raw")
    assert (raw.shape, raw.voxel_size, raw.units) == ((50, 100, 200), (1.0, 1.0, 1.0), "voxel")
