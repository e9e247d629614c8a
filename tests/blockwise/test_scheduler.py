"""Worker files and segmentation files, as upstream's scripts have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from dacapo.arrays import create_array, open_array
from dacapo.blockwise import DaCapoBlockwiseTask, run_blockwise, segment_blockwise
from dacapo.errors import BlockwiseError, GeometryError
from dacapo.geometry import Coordinate, Grid, Roi
from dacapo.store.stores import LocalArrayIdentifier

WORKER = """
from dacapo.tmp import open_from_identifier

def note(file, text):
    with open(file, "a") as log:
        log.write(text)

fit = "valid"
read_write_conflict = False

def spawn_worker(input_array_identifier, output_array_identifier, factor=1):
    source = open_from_identifier(input_array_identifier)
    target = open_from_identifier(output_array_identifier, mode="r+")

    def process(block):
        LOG
        target[block.write_roi] = source[block.write_roi] * factor

    return process
"""
SEGMENT = """
from scipy.ndimage import label

default_parameters = {"threshold": 0}

def segment_function(input_array, block, threshold):
    return label(input_array.to_ndarray(block.read_roi) > threshold)[0].astype("uint64")
"""


@pytest.fixture
def volume(tmp_path: Path) -> LocalArrayIdentifier:
    rng = np.random.default_rng(0)
    data = (ndimage.gaussian_filter(rng.random((30, 44)), 2) > 0.5).astype(np.uint8)
    array = create_array(tmp_path / "v.zarr" / "in", shape=data.shape, dtype="uint8", grid=Grid((4, 4), (8, 8)))
    array.write(array.roi, data)
    create_array(tmp_path / "v.zarr" / "out", shape=data.shape, dtype="uint8", grid=array.grid, chunk=(8, 8))
    return LocalArrayIdentifier(tmp_path / "v.zarr", "in")


def output(volume: LocalArrayIdentifier) -> LocalArrayIdentifier:
    return LocalArrayIdentifier(volume.container, "out")


def regions(context: int = 0) -> tuple[Roi, Roi, Roi]:
    block = Roi((0, 0), (16, 16))
    return Roi((0, 0), (30, 44)), block.grow(Coordinate(context, context), Coordinate(context, context)), block


def read(place: LocalArrayIdentifier) -> np.ndarray:
    return open_array(place.path).read()


def worker_file(folder: Path, log: str = "pass", head: str = "") -> Path:
    file = folder / "worker.py"
    file.write_text(head + WORKER.replace("LOG", log))
    return file


def test_a_worker_file_does_every_block(tmp_path: Path, volume: LocalArrayIdentifier) -> None:
    """Every block is done by processes of their own, the smaller ones at the border too."""
    done = run_blockwise(
        worker_file(tmp_path), *regions(), num_workers=2,
        input_array_identifier=volume, output_array_identifier=output(volume), factor=3,
    )  # fmt: skip
    assert done is True
    np.testing.assert_array_equal(read(output(volume)), 3 * read(volume))
    assert not list(tmp_path.glob("v.zarr/.out*"))


def test_failed_blocks_answer_false_and_only_they_are_tried_again(
    tmp_path: Path, volume: LocalArrayIdentifier, caplog: pytest.LogCaptureFixture
) -> None:
    """run_blockwise answers False and logs the cause; the next call does what is missing."""
    log = (
        f"note({str(tmp_path / 'log')!r}, f'{{block.block_id}} ')\n"
        f"        import os\n"
        f"        if block.block_id == 3 and not os.path.exists({str(tmp_path / 'mended')!r}): raise ValueError('broken')"
    )
    file = worker_file(tmp_path, log)

    def call() -> bool:
        return run_blockwise(
            file, *regions(), num_workers=0, max_retries=0,
            input_array_identifier=volume, output_array_identifier=output(volume),
        )  # fmt: skip

    assert call() is False
    assert "broken" in caplog.text
    (tmp_path / "mended").touch()
    (tmp_path / "log").write_text("")
    assert call() is True
    assert (tmp_path / "log").read_text().split() == ["3"]
    np.testing.assert_array_equal(read(output(volume)), read(volume))


def test_check_function_and_init_callback_are_called(tmp_path: Path, volume: LocalArrayIdentifier) -> None:
    """What check_function says is done stays untouched; init_callback_fn is called once."""
    head = (
        f"def check_function(block): return block.block_id > 0\n"
        f"def init_callback_fn(context): note({str(tmp_path / 'init')!r}, 'x')\n"
    )
    assert run_blockwise(
        worker_file(tmp_path, head=head), *regions(), 0,
        input_array_identifier=volume, output_array_identifier=output(volume),
    )  # fmt: skip
    expected = np.zeros((30, 44), np.uint8)
    expected[:16, :16] = read(volume)[:16, :16]
    np.testing.assert_array_equal(read(output(volume)), expected)
    assert (tmp_path / "init").read_text() == "x"


def test_neighbours_in_conflict_never_run_in_one_pass(tmp_path: Path, volume: LocalArrayIdentifier) -> None:
    """With read_write_conflict, blocks that see each other are kept apart, and each is done once."""
    log = f"note({str(tmp_path / 'log')!r}, f'{{block.block_id}} ')"
    file = worker_file(tmp_path, log)
    file.write_text(file.read_text().replace("conflict = False", "conflict = True"))
    task = DaCapoBlockwiseTask(
        file, *regions(4), 0, input_array_identifier=volume, output_array_identifier=output(volume)
    )
    task.run()
    order = [int(i) for i in (tmp_path / "log").read_text().split()]
    assert sorted(order) == list(range(6))
    assert order == [0, 2, 1, 3, 5, 4]
    np.testing.assert_array_equal(read(output(volume)), read(volume))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_segmentation_file_gives_one_consistent_segmentation(
    tmp_path: Path, volume: LocalArrayIdentifier, workers: int
) -> None:
    """Objects across blocks are one, with global ids: the same partition as of the whole volume at once."""
    file = tmp_path / "components.py"
    file.write_text(SEGMENT)
    place = LocalArrayIdentifier(volume.container, "labels")
    report = segment_blockwise(
        file, Coordinate(6, 6), regions()[0], None, Roi((0, 0), (16, 16)), workers,
        input_array_identifier=volume, output_array_identifier=place, parameters={"threshold": 0},
    )  # fmt: skip
    labels, whole = read(place), ndimage.label(read(volume))[0]
    assert labels.dtype == np.uint64
    assert report.objects == whole.max()
    pairs = {(a, b) for a, b in zip(labels.ravel().tolist(), whole.ravel().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert not list(tmp_path.glob("v.zarr/.labels*"))


def test_functions_by_name(tmp_path: Path) -> None:
    """threshold, argmax and watershed are there by name, and by the name of upstream's file."""
    rng = np.random.default_rng(1)
    data = rng.random((2, 12, 20)).astype(np.float32)
    made = create_array(tmp_path / "a.zarr/in", shape=data.shape, dtype="float32", grid=Grid((1, 1)))
    made.write(made.roi, data)
    source = LocalArrayIdentifier(tmp_path / "a.zarr", "in")
    block = Roi((0, 0), (8, 8))
    for name, expected in (("threshold_worker.py", data > 0.25), ("argmax", data.argmax(0))):
        place = LocalArrayIdentifier(tmp_path / "a.zarr", name.removesuffix(".py"))
        create_array(place.path, shape=expected.shape, dtype="uint8", grid=made.grid, chunk=(8, 8))
        more = {"threshold": 0.25} if "threshold" in name else {}
        assert run_blockwise(
            name, made.roi, block, block, 0, input_array_identifier=source, output_array_identifier=place, **more
        )
        np.testing.assert_array_equal(read(place), expected)
    place = LocalArrayIdentifier(tmp_path / "a.zarr", "w")
    segment_blockwise(
        "watershed_function.py", Coordinate(1, 1), None, None, Roi((0, 0), (12, 20)), 0,
        input_array_identifier=source, output_array_identifier=place,
        parameters={"offsets": [[1, 0], [0, 1]], "bias": 0.4},
    )  # fmt: skip
    labels = read(place)
    assert labels.max() > 1
    for label in np.unique(labels[labels > 0]):
        assert data.mean(0)[labels == label].mean() >= 0.4 - 1e-6


def test_mistakes_are_said(tmp_path: Path, volume: LocalArrayIdentifier) -> None:
    """A file that is no worker, an unknown name, a read region inside the written, blocks that cut chunks."""
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(BlockwiseError, match="no function spawn_worker"):
        run_blockwise(tmp_path / "empty.py", *regions())
    with pytest.raises(BlockwiseError, match="threshold"):
        run_blockwise("treshold", *regions())
    with pytest.raises(BlockwiseError, match="no such file"):
        run_blockwise(tmp_path / "nowhere.py", *regions())
    with pytest.raises(GeometryError, match="does not contain"):
        run_blockwise("threshold", regions()[0], Roi((4, 4), (4, 4)), Roi((0, 0), (16, 16)))
    block = Roi((0, 0), (12, 12))
    with pytest.raises(BlockwiseError, match="cut the chunks"):
        run_blockwise(
            "threshold", regions()[0], block, block,
            input_array_identifier=volume, output_array_identifier=output(volume),
        )  # fmt: skip
    with pytest.raises(BlockwiseError, match="cannot be handed to workers"):
        run_blockwise("threshold", *regions(), 0, 1, None, None, object())
