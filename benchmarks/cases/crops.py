"""Random crops of a compressed volume on disk, and crops that are read again."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

CHUNK, SHARD = 32, 128


def _case(size: int, crops: int) -> Case:
    return Case(
        f"crops-{size}",
        f"Random crops of {size}³ from a compressed volume",
        (
            Implementation(
                "dacapo", "crops:dacapo", note="zarr v3, shards of 128³; zstd level 3, as `create_array` writes"
            ),
            Implementation(
                "zarr-python 2",
                "crops:zarr2",
                "peers",
                "zarr v2 without shards (it knows neither v3 nor shards); zstd level 3, the same chunks of 32³",
            ),
            Implementation(
                "funlib.persistence", "crops:funlib", "peers", "the v2 volume of zarr-python 2, through open_ds"
            ),
        ),
        (
            Bar("against zarr-python 2", against=("zarr-python 2",), least=1.4),
            Bar("against funlib.persistence", against=("funlib.persistence",), least=2),
        ),
        full={"volume": 384, "size": size, "crops": crops},
        quick={"volume": 128, "size": size // 4, "crops": 4},
        unit="crops",
        prepare="crops:prepare",
        data="crops",
        threads=2,
        note="uint8, files in the cache of the system; the same corners for everybody, new ones in every repetition; "
        "no chunk is kept by anybody.",
    )


CASES = (
    _case(64, 48),
    _case(160, 8),
    Case(
        "crops-again",
        "Regions that are read a second time, against the first",
        (
            Implementation("read again", "crops:again", note="opened as unchanging, as training and prediction do"),
            Implementation("read first", "crops:dacapo", note="nothing is kept: every read is a first one"),
        ),
        (
            Bar("crops a second, read again against read first", of="read again", against=("read first",), least=5),
            Bar("GiB beyond what was held before", measure="extra", of="read again", most=1.0),
        ),
        full={"volume": 384, "size": 64, "crops": 96},
        quick={"volume": 128, "size": 16, "crops": 4},
        unit="crops",
        prepare="crops:prepare",
        data="crops",
        threads=2,
        note="The same 96 crops of 64³ in every repetition, from kept chunks, against crops of which nothing is kept.",
    ),
)


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    import zarr

    from benchmarks import data
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    shape = (parameters["volume"],) * 3
    labels = data.cells(shape, max(8, parameters["volume"] ** 3 // 30000), parameters["seed"], coarse=4)
    raw = data.image(labels, parameters["seed"])
    ours = create_array(
        f"{folder}/v3.zarr/raw", shape=shape, dtype=raw.dtype, grid=Grid((8.0, 8.0, 8.0)), chunk=(CHUNK,) * 3, shard=(SHARD,) * 3
    )  # fmt: skip
    ours.write(ours.roi, raw)
    from numcodecs import Zstd

    theirs = zarr.create_array(
        f"{folder}/v2.zarr/raw", shape=shape, dtype=raw.dtype, chunks=(CHUNK,) * 3, zarr_format=2, compressors=Zstd(3), fill_value=0
    )  # fmt: skip
    theirs[:] = raw
    theirs.attrs.update(
        {"offset": [0, 0, 0], "voxel_size": [8, 8, 8], "axis_names": ["z", "y", "x"], "units": ["nm"] * 3}
    )


def _corners(parameters: dict[str, Any], turn: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng([parameters["seed"], turn])
    high = parameters["volume"] - parameters["size"] + 1
    return [tuple(int(v) for v in rng.integers(0, high, 3)) for _ in range(parameters["crops"])]


def _reading(parameters: dict[str, Any], read: Any, *, again: bool = False) -> Any:
    turn = count()

    def run(clock: Any) -> dict[str, float]:
        corners = _corners(parameters, 0 if again else next(turn))
        clock.start()
        sums = [float(read(corner)[::7, ::7, ::7].sum()) for corner in corners]
        clock.stop()
        return {"units": len(corners), "sum": float(np.sum(sums))}

    return run


def _opened(parameters: dict[str, Any], folder: Path, *, unchanging: bool = False) -> Any:
    from dacapo.arrays import open_array
    from dacapo.geometry import Roi

    array, shape = open_array(f"{folder}/v3.zarr/raw", unchanging=unchanging), (parameters["size"],) * 3
    return lambda corner: array.read(Roi(corner, shape))


def dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    return _reading(parameters, _opened(parameters, folder))


def again(parameters: dict[str, Any], folder: Path) -> Any:
    return _reading(parameters, _opened(parameters, folder, unchanging=True), again=True)


def zarr2(parameters: dict[str, Any], folder: Path) -> Any:
    import zarr

    array, size = zarr.open(f"{folder}/v2.zarr/raw", mode="r"), parameters["size"]
    return _reading(parameters, lambda corner: array[tuple(slice(c, c + size) for c in corner)])


def funlib(parameters: dict[str, Any], folder: Path) -> Any:
    from funlib.geometry import Coordinate, Roi
    from funlib.persistence import open_ds

    array = open_ds(f"{folder}/v2.zarr/raw")
    voxel, shape = Coordinate(array.voxel_size), Coordinate((parameters["size"],) * 3)
    return _reading(parameters, lambda corner: array[Roi(Coordinate(corner) * voxel, shape * voxel)])
