"""Decoded chunks of arrays opened as unchanging: kept, within their bound, and never older than what is promised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from dacapo.arrays import Array, create_array, open_array
from dacapo.arrays.tensorstores import _context
from dacapo.errors import ConfigError
from dacapo.geometry import Grid, Roi

SHAPE, CHUNK = (32, 48, 64), (16, 16, 16)
REGION = Roi((5, 9, 3), (20, 30, 40))


@pytest.fixture(autouse=True)
def _nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with nothing in memory, and leaves nothing there."""
    monkeypatch.chdir(tmp_path)
    _context.cache_clear()
    yield
    _context.cache_clear()


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape, dtype=np.uint8)


def made(folder: Path, kind: str) -> str:
    """A volume of noise: zarr v2 or v3, with shards, or N5."""
    path = folder / ("v.n5" if kind == "n5" else "v.zarr")
    if kind == "n5":
        spec = {"dimensions": SHAPE[::-1], "dataType": "uint8", "blockSize": CHUNK, "compression": {"type": "gzip"}}
        store = {"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}, "metadata": spec}
        tensorstore.open(store, create=True).result()[...] = noise().T
        return str(path)
    array = create_array(
        path, shape=SHAPE, dtype="u1", grid=Grid((1, 1, 1)), chunk=CHUNK, ome="0.4" if kind == "zarr2" else "0.5",
        shard=(32, 16, 32) if kind == "shards" else None,
    )  # fmt: skip
    array.write(array.roi, noise())
    return str(path)


def looks_at_disk(array: Array, roi: Roi = REGION) -> tuple[int, int]:
    """How often a read of a region asks the file system, and how many bytes it reads; the voxels are checked."""

    def counted() -> tuple[int, int]:
        values = [
            tensorstore.experimental_collect_matching_metrics(f"/tensorstore/kvstore/file/{name}")[0]["values"][0]["value"]
            for name in ("read", "bytes_read")
        ]  # fmt: skip
        return values[0], values[1]

    before = counted()
    np.testing.assert_array_equal(array.read(roi), noise()[roi.to_slices()])
    after = counted()
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "shards", "n5"])
def test_a_second_read_comes_from_memory(tmp_path: Path, kind: str) -> None:
    """A region that was read, and any region inside its chunks, is read again without a look at the disk."""
    path = made(tmp_path, kind)
    array = open_array(path, unchanging=True)
    assert looks_at_disk(array)[1] > 1000
    assert looks_at_disk(array) == (0, 0)
    assert looks_at_disk(array, Roi((6, 10, 4), (9, 9, 9))) == (0, 0)
    again = open_array(path, unchanging=True)
    checks, read = looks_at_disk(again)  # kept since before it was opened: each file is looked at once, not read
    assert checks > 0
    assert read == 0
    assert looks_at_disk(again) == (0, 0)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_nothing_is_kept_without_being_asked(tmp_path: Path, mode: str) -> None:
    """An array opened as it is by default, or to write, reads its files each time."""
    path = made(tmp_path, "zarr3")
    array = open_array(path, mode=mode, unchanging=mode == "r+")
    assert min(looks_at_disk(array)[1] for _ in range(2)) > 1000


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "shards", "n5"])
def test_what_this_process_writes_is_seen(tmp_path: Path, kind: str) -> None:
    """A write through another array of this process, by whatever path, is seen by the next read."""
    path = Path(made(tmp_path, kind))
    reader = open_array(path, unchanging=True)
    reader.read()
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path)
    for value, place in ((7, path), (8, link), (9, path)):
        writer = open_array(place, mode="r+")
        writer.write(writer.roi, value)
        assert (reader.read() == value).all()


def test_an_array_that_was_replaced_is_seen(tmp_path: Path) -> None:
    """After `create_array(overwrite=True)` nothing of the old array is read."""
    path = made(tmp_path, "zarr3")
    reader = open_array(path, unchanging=True)
    reader.read()
    create_array(path, shape=SHAPE, dtype="u1", grid=Grid((1, 1, 1)), chunk=CHUNK, overwrite=True)
    assert not reader.read().any()


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "shards", "n5"])
def test_what_others_wrote_is_seen_by_whoever_opens_next(tmp_path: Path, kind: str) -> None:
    """What another process wrote is never read stale by an array opened after it, whatever was kept before."""
    path = made(tmp_path, kind)
    before = open_array(path, unchanging=True)
    before.read()
    usual = open_array(path)
    usual.read()
    source = before._source
    other = tensorstore.open(  # with a context of its own, as another process has
        {"driver": source.driver, "kvstore": {"driver": "file", "path": source.path}}, open=True, write=True
    ).result()
    other[...] = 9
    assert (usual.read() == 9).all()
    assert (open_array(path, unchanging=True).read() == 9).all()
    assert (open_array(path, mode="r+").read() == 9).all()


@pytest.mark.parametrize("bound", [0, 6 * 16**3])
def test_the_bound_holds(tmp_path: Path, bound: int) -> None:
    """All arrays of a process together keep no more than `chunk_cache_bytes`."""
    (tmp_path / "dacapo.yaml").write_text(f"chunk_cache_bytes: {bound}\n")
    arrays = [open_array(made(tmp_path / name, "zarr2"), unchanging=True) for name in "ab"]
    chunks = [(array, Roi(16 * np.array(at), CHUNK)) for array in arrays for at in np.ndindex(2, 3, 4)]
    first = [looks_at_disk(array, roi)[1] for array, roi in chunks]
    assert min(first) > 0
    kept = sum(looks_at_disk(array, roi) == (0, 0) for array, roi in reversed(chunks))  # the latest first
    assert kept * 16**3 <= bound
    assert kept >= (bound > 0)


def test_the_bound_is_an_option(tmp_path: Path) -> None:
    """A bound that is no number of bytes is refused with the field's name."""
    from dacapo.options import Options

    assert Options.instance().chunk_cache_bytes == 2**28
    with pytest.raises(ConfigError, match="chunk_cache_bytes"):
        Options.instance(chunk_cache_bytes=-1)


def test_configs_keep_what_they_read(tmp_path: Path) -> None:
    """The arrays of a datasplit keep what they decode, unless they are opened to write."""
    from dacapo.experiments.datasplits.datasets import SimpleDatasetConfig
    from dacapo.experiments.datasplits.datasets.arrays import ZarrArrayConfig

    config = ZarrArrayConfig(name="raw", file_name=made(tmp_path, "shards"))
    array = config.array()
    assert looks_at_disk(array)[1] > 0
    assert looks_at_disk(array) == (0, 0)
    assert min(looks_at_disk(config.array("r+"))[1] for _ in range(2)) > 0
    for name in ("raw", "labels"):
        made(tmp_path / "both" / name, "zarr3")
    simple = SimpleDatasetConfig("both", tmp_path / "both", raw_name="raw/v.zarr", gt_name="labels/v.zarr").dataset()
    assert simple.gt is not None
    assert looks_at_disk(simple.gt)[1] > 0
    assert looks_at_disk(simple.gt) == (0, 0)
