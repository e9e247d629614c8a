"""The demo: everything a user would do by hand, on volumes made from a seed, in some minutes.

Uses the public functions only; what it writes is what they write. May import everything below the CLI.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click

from dacapo.store import Stores
from dacapo.store.files import write_text

VOXEL_SIZE = (5.24, 4.0, 4.0)
"""nm, as a FIB-SEM has it: not all whole numbers."""
VOLUMES = {"train": ((80, 192, 192), 110, 1), "validate": ((48, 144, 144), 45, 2), "test": ((96, 256, 256), 230, 3)}
"""Shape, number of cells and seed of each volume."""
BLOCK = (96, 128, 128)
"""Voxels that are predicted and segmented at once; the test volume is larger."""

EXPERIMENT = """\
# What the demo trained. By hand: dacapo --runs {runs} run {file}
name: demo

# What data: raw intensities and instance labels (gt): cells meet in the middle of the membrane.
# Paths are relative to this file.
datasplit:
  train:
    - {{name: train, raw: data.zarr/train/raw, gt: data.zarr/train/labels}}
  validate:
    - {{name: validate, raw: data.zarr/validate/raw, gt: data.zarr/validate/labels}}

# What to learn: for each voxel and offset (z, y, x), do both voxels belong to the same cell?
task:
  type: affinities
  neighborhood: [[1,0,0], [0,1,0], [0,0,1], [3,0,0], [0,3,0], [0,0,3], [8,0,0], [0,8,0], [0,0,8]]
  balance: false                   # affinities become probabilities
  biases: [0.3, 0.45]              # parameters of the mutex watershed to try at each validation:
  long_biases: [0.6, 0.75]         # for direct neighbours and for long offsets, all combinations;
  links: [0.6, 0.75, 1.0]          # then objects with a higher mean affinity become one (1 = none)
  context: 16                      # voxels around a block that are segmented with it
  min_size: 200                    # smaller fragments (voxels) join their best neighbour

# Which network: a U-Net of three levels.
architecture:
  type: cnnectome_unet
  input_shape: [48, 48, 48]        # voxels it is trained on
  fmaps_in: 1                      # channels of raw
  fmaps_out: 12
  num_fmaps: 8                     # width of the top level, times 3 for each level below
  fmap_inc_factor: 3
  downsample_factors: [[2,2,2], [2,2,2]]
  kernel_size_up: [[[1,1,1], [3,3,3]], [[1,1,1], [3,3,3]]]
  padding: same                    # as large out as in
  batch_norm: true

# How to train: random crops, turned and lit in random ways.
trainer:
  augments:
    - {{type: simple}}               # mirror and transpose
    - {{type: elastic, control_point_spacing: [24, 24, 24], control_point_displacement_sigma: [6, 6, 6],
       rotation_interval: [0, 1.57], augmentation_probability: 0.25}}
    - {{type: intensity, scale: [0.8, 1.2], shift: [-0.1, 0.1]}}
    - {{type: gamma, gamma_range: [0.8, 1.25]}}
    - {{type: noise, sigma: [0.0, 0.04]}}
batch_size: 2
learning_rate: 0.004
num_iterations: {iterations}
validation_interval: {interval}
"""


class Ticker(Protocol):
    """What shows progress."""

    def training(self, progress: Any) -> None: ...
    def blocks(self, stage: str, done: int, total: int) -> None: ...


def run_demo(
    folder: Path,
    ticker: Ticker,
    *,
    iterations: int = 340,
    shapes: Mapping[str, tuple[tuple[int, ...], int, int]] = VOLUMES,
    block: tuple[int, ...] = BLOCK,
    workers: int = 2,
) -> dict[str, str]:
    """Run the demo in `folder` and return its table; what is there already is not made again."""
    import dacapo
    from dacapo.geometry import Coordinate
    from dacapo.summary import report_run

    stores = Stores((folder / "runs").absolute())
    data = folder / "data.zarr"
    if not data.exists():
        unfinished = folder / "unfinished.zarr"  # what a kill leaves is made again
        for name, how in shapes.items():
            _write_volume(unfinished, name, *how)
        unfinished.rename(data)
    file = folder / "experiment.yaml"
    if not file.exists():
        text = EXPERIMENT.format(runs=stores.base, file=file, iterations=iterations, interval=max(1, iterations // 2))
        write_text(file, text)
        click.echo(f"  ✔ wrote {file}   (open it: every line is explained)")
    (folder / "dacapo.yaml").write_text("# `dacapo` finds the demo's runs from this folder.\nruns_base_dir: runs\n")

    run = dacapo.train(file, stores=stores, progress=ticker.training)
    best = run.best()
    click.echo(
        f"  ✔ best {best.criterion} on {best.dataset}: {best.score:.3f} at iteration {best.iteration}, {best.parameters}"
    )
    output = folder / "segmented.zarr"
    done = dacapo.apply(
        run, data / "test" / "raw", output, workers=workers, stores=stores, progress=ticker.blocks,
        block_shape=Coordinate(block),
    )  # fmt: skip
    scores = dacapo.evaluate(done.segmentation, data / "test" / "labels")
    table = _table(run, done, scores)
    report = report_run(
        run,
        stores,
        folder / "report.html",
        title="DaCapo demo",
        table={"The unseen volume": list(table.items())},
        pictures=[_test_picture(data, done)],
        commands=_next_commands(folder, data),
    )
    _say(table, folder, file, report, output, data)
    return table


def _write_volume(data: Path, name: str, shape: tuple[int, ...], num_cells: int, seed: int) -> None:
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid
    from dacapo.synthetic import synthetic_em

    started = time.perf_counter()
    volume = synthetic_em(shape, VOXEL_SIZE, num_cells=num_cells, seed=seed)
    for part, voxels in (("raw", volume.raw), ("labels", volume.labels)):
        path = f"{data / name / part}"
        array = create_array(path, shape=voxels.shape, dtype=voxels.dtype, grid=Grid(VOXEL_SIZE), overwrite=True)
        array.write(array.roi, voxels)
    sizes = " × ".join(str(n) for n in shape)
    click.echo(
        f"  ✔ made {name:<10} {sizes} voxels of {' × '.join(f'{v:g}' for v in VOXEL_SIZE)} nm, "
        f"{len(set(volume.labels[volume.labels > 0].tolist()))} cells   {time.perf_counter() - started:.0f} s"
    )


def _table(run: Any, done: Any, scores: Any) -> dict[str, str]:
    steps = run.training_stats.iteration_stats
    seconds = sum(s.time for s in steps) / max(1, len(steps))
    table = {
        "training": f"{1 / seconds:.2f} it/s of {run.batch_size} × {'×'.join(map(str, run.model.input_shape))} voxels"
        if seconds
        else "done before",
        "weights and parameters": f"iteration {done.iteration}, {done.parameters}",
        "VOI split": f"{scores.voi_split:.3f}",
        "VOI merge": f"{scores.voi_merge:.3f}",
        "adapted Rand error": f"{scores.adapted_rand_error:.3f}",
        "panoptic quality": f"{scores.pq:.3f}",
    }
    for verb, took in (("predict", done.predict_seconds), ("segment", done.segment_seconds)):
        table[verb] = f"{done.voxels / took / 1e6:.2f} Mvoxel/s" if done.made else "done before"
    return table


def _test_picture(data: Path, done: Any) -> dict[str, Any]:
    from dacapo.arrays import dequantised, open_array

    return {
        "name": "The unseen volume",
        "raw": open_array(data / "test" / "raw").read(),
        "gt": open_array(data / "test" / "labels").read(),
        "prediction": dequantised(open_array(done.prediction)).select_channels([0, 1, 2]).read(),  # what is drawn
        "segmentation": open_array(done.segmentation).read(),
        "voxel_size": VOXEL_SIZE,
    }


def _next_commands(folder: Path, data: Path) -> list[str]:
    runs = folder / "runs"
    return [
        f"dacapo --runs {runs} show demo",
        f"dacapo evaluate {folder / 'segmented.zarr' / 'labels'} --against {data / 'test' / 'labels'}",
        "dacapo show --example > my.yaml",
    ]


def _say(table: dict[str, str], folder: Path, file: Path, report: Path, output: Path, data: Path) -> None:
    click.echo("\n  The unseen volume")
    for name, value in table.items():
        click.echo(f"    {name:<24}{value}")
    click.echo(f"\n  look:      {report}")
    click.echo(f"  volumes:   {data}, {output}   (drop them into napari or neuroglancer)")
    click.echo(f"  by hand:   dacapo --runs {folder / 'runs'} run {file}")
    click.echo("  next:      " + "\n             ".join(_next_commands(folder, data)))
