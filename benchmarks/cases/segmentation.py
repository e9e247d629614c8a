"""Mutex watershed in blocks against the whole volume at once, and what blocks cost by themselves."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Bar, Case, Implementation

OFFSETS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 0], [0, 3, 0], [0, 0, 3], [9, 0, 0], [0, 9, 0], [0, 0, 9]]
BIAS, BIAS_LONG, CONTEXT = 0.5, 0.7, 16
_WHOLE = "mwatershed.agglom on float64, in one process; reads the same zarr"

CASES = (
    Case(
        "watershed",
        "Mutex watershed in blocks with two workers, against mwatershed on the whole volume",
        (
            Implementation("dacapo", "segmentation:blocks", note="`segment_blocks`, processes and writing included"),
            Implementation("whole", "segmentation:whole", "peers", _WHOLE, warm_up=False),
            Implementation(
                "dacapo, long stride 2",
                "segmentation:blocks",
                note="as dacapo with its default: long offsets of every other voxel along each axis",
                parameters={"stride": 2},
            ),
            Implementation(
                "whole, long stride 2",
                "segmentation:whole",
                "peers",
                f"{_WHOLE}; strides likewise",
                warm_up=False,
                parameters={"stride": 2},
            ),
        ),
        (
            Bar("wall time, against the whole volume at once", against=("whole",), least=1.7),
            Bar(
                "peak of a worker, of the whole's",
                measure="child_peak",
                their_measure="peak",
                against=("whole",),
                most=0.25,
            ),
            Bar("VOI beyond that of the whole volume", measure="voi", against=("whole",), difference=True, most=0.02),
            Bar(
                "what strides save: wall time against every voxel's",
                of="dacapo, long stride 2",
                against=("dacapo",),
                least=1,
            ),
            Bar(
                "VOI beyond that of the whole volume, both with strides",
                of="dacapo, long stride 2",
                measure="voi",
                against=("whole, long stride 2",),
                difference=True,
                most=0.02,
            ),
        ),
        full={"block": [60, 128, 128], "stride": 1, "workers": 2},
        quick={"block": [16, 32, 32], "stride": 1, "workers": 0, "crop": [32, 64, 64]},
        prepare="segmentation:prepare",
        threads=2,
        note="fib25_train (120 × 250 × 250, DACAPO_REAL_DATA) where it is at hand, else made-up cells. The affinities are "
        "those of the ground truth, blurred and with smooth noise: no network stands between. VOI in bits against the ground truth. "
        "The biases are fixed: strides weaken what separates, so that they want another bias.",
    ),
    Case(
        "blocks",
        "Blocks that do nothing, with two workers",
        (
            Implementation(
                "dacapo", "segmentation:empty_blocks", note="`run_blocks`: with markers that survive a kill"
            ),
            Implementation(
                "daisy 1.2", "segmentation:daisy_blocks", "peers", "run_blockwise with two workers, no markers"
            ),
        ),
        (Bar("blocks a second against daisy 1.2", against=("daisy 1.2",), least=1),),
        full={"blocks": 512},
        quick={"blocks": 8},
        unit="blocks",
        threads=2,
        note="Starting the workers is part of it. No bar was promised; ours is not to be slower.",
    ),
)


def _real() -> Path | None:
    folder = Path(os.environ.get("DACAPO_REAL_DATA", ROOT.parent / "shared" / "data"))
    file = folder / "fib25" / "fib25_train.h5"
    return file if file.is_file() else None


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks import data
    from dacapo.arrays import create_array, open_array
    from dacapo.geometry import Grid

    file = _real()
    stored = open_array(f"{file}:volumes/labels/neuron_ids").read() if file else None
    labels = data.cells((120, 248, 248), 300, parameters["seed"]) if stored is None else stored
    labels = labels[tuple(slice(0, n) for n in parameters.get("crop", labels.shape))]
    # Ids beyond 32 bits have no place in a float; unassigned voxels stay 0.
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + (0 if (labels == 0).any() else 1)
    made = data.noisy_affinities(labels, OFFSETS, parameters["seed"])
    grid = Grid((10.0, 10.0, 10.0))
    values = np.rint(made * 255).astype(np.uint8)
    array = create_array(
        f"{folder}/affinities.zarr/affinities", shape=values.shape, dtype=values.dtype, grid=grid, ome="0.4",
        axis_names=("c^", "z", "y", "x"), attributes={"value_range": [0, 1]},
    )  # fmt: skip
    array.write(array.roi, values)
    np.save(folder / "truth.npy", labels.astype(np.uint64))


def _voi(found: np.ndarray, folder: Path) -> float:
    """In bits, over the voxels that the ground truth assigns. Plain numpy: it runs in both environments."""
    truth = np.load(folder / "truth.npy")
    known = truth > 0
    a, b = (np.unique(x[known], return_inverse=True)[1] for x in (found, truth))
    joint = np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)[1] / a.size
    entropies = [
        -(p[p > 0] * np.log2(p[p > 0])).sum() for p in (joint, np.bincount(a) / a.size, np.bincount(b) / a.size)
    ]
    return float(2 * entropies[0] - entropies[1] - entropies[2])


def blocks(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.arrays import open_array
    from dacapo.blockwise import segment_blocks
    from dacapo.geometry import Coordinate

    turn, around = count(), Coordinate((CONTEXT,) * 3)
    settings = {
        "neighborhood": OFFSETS, "bias": BIAS, "bias_long": BIAS_LONG, "min_size": 0, "link": 1.0,
        "long_stride": parameters["stride"],
    }  # fmt: skip

    def run(clock: Any) -> dict[str, float]:
        place = folder / f"blocks-{parameters['stride']}-{next(turn)}"
        clock.start()
        segment_blocks(
            "dacapo.experiments.tasks.post_processors:watershed_block",
            settings,
            f"{folder}/affinities.zarr/affinities",
            f"{place}/out.zarr/labels",
            block=Coordinate(parameters["block"]),
            context=(around, around),
            workers=parameters["workers"],
            folder=place / "work",
        )
        clock.stop()
        found = open_array(f"{place}/out.zarr/labels").read()
        shutil.rmtree(place)
        return {"voi": _voi(found, folder), "objects": float(len(np.unique(found)))}

    return run


def whole(parameters: dict[str, Any], folder: Path) -> Any:
    import mwatershed
    import zarr

    long = [max(abs(v) for v in n) > 1 for n in OFFSETS]
    strides = [[parameters["stride"] if far else 1] * 3 for far in long]

    def run(clock: Any) -> dict[str, float]:
        stored = zarr.open(f"{folder}/affinities.zarr/affinities/s0", mode="r")[:]
        evidence = stored.astype(np.float64)
        del stored
        evidence /= 255
        for channel, far in zip(evidence, long, strict=True):
            channel -= BIAS_LONG if far else BIAS
        how = {} if parameters["stride"] == 1 else {"strides": strides}
        found = mwatershed.agglom(evidence, OFFSETS, **how)
        clock.stop()
        return {"voi": _voi(found, folder), "objects": float(len(np.unique(found)))}

    return run


def empty_worker() -> Any:
    """What a worker of `run_blocks` does here."""

    def process(block: Any) -> None:
        return None

    return process


def empty_blocks(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.blockwise import run_blocks
    from dacapo.geometry import Coordinate, Roi

    turn = count()

    def run(clock: Any) -> dict[str, float]:
        place = folder / f"empty-{next(turn)}"
        clock.start()
        report = run_blocks(
            "empty", "benchmarks.cases.segmentation:empty_worker", {}, total=Roi((0, 0, 0), (parameters["blocks"], 1, 1)),
            block=Coordinate((1, 1, 1)), workers=2, folder=place,
        )  # fmt: skip
        clock.stop()
        shutil.rmtree(place, ignore_errors=True)
        return {"units": parameters["blocks"], "done": float(report.done)}

    return run


def _nothing(block: Any) -> None:
    return None


def daisy_blocks(parameters: dict[str, Any], folder: Path) -> Any:
    import daisy

    number = parameters["blocks"]

    def run(clock: Any) -> dict[str, float]:
        task = daisy.Task(
            "empty", daisy.Roi((0, 0, 0), (number, 1, 1)), daisy.Roi((0, 0, 0), (1, 1, 1)), daisy.Roi((0, 0, 0), (1, 1, 1)),
            _nothing, num_workers=2, read_write_conflict=False,
        )  # fmt: skip
        clock.start()
        daisy.run_blockwise([task])
        clock.stop()
        return {"units": number, "done": float(number)}

    os.chdir(folder)  # it writes its logs where it is
    return run
