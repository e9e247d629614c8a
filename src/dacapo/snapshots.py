"""Snapshots: batches that a run was trained on, with what the network made of them, as arrays that grow.

`volumes/{raw,gt,target,weight,mask,prediction,gradients}` of the run's snapshot.zarr are
(iterations, batch, channels, *spatial); the attribute `iterations` says which iterations they are of. May import
`arrays` and `experiments`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dacapo.geometry import Grid

if TYPE_CHECKING:
    import torch

    from dacapo.experiments.run_config import RunConfig, Step

PARTS = ("raw", "gt", "mask", "target", "weight", "prediction", "gradients")


def save_snapshot(container: Path, run: RunConfig, iteration: int, batch: dict[str, torch.Tensor], step: Step) -> None:
    """Add a batch and what came of it; entries of `iteration` or later that are there are replaced.

    Voxels are written before the attribute that counts them: a kill leaves the snapshots that were there.
    """
    found = {**batch, "prediction": step.probabilities, "gradients": step.gradients}
    grids = _grids(run)
    for name in PARTS:
        if name in found:
            _append(container, name, iteration, _stored(name, found[name]), grids[name != "raw"])


def _stored(name: str, values: torch.Tensor) -> np.ndarray:
    data = values.detach().float().cpu().numpy() if name not in ("gt", "mask") else values.cpu().numpy()
    return data.astype({"gt": np.uint64, "mask": np.uint8}.get(name, np.float32))


def _grids(run: RunConfig) -> tuple[Grid, Grid]:
    """Of raw and of everything else: crops lie anywhere, so raw begins at 0 and the output in its middle."""
    raw = run.datasplit.train[0].raw.grid
    out = raw.scaled([1 / f for f in run.model.scale_factor])
    corner = [
        (n * v - m * w) / 2
        for n, v, m, w in zip(
            run.model.input_shape, raw.voxel_size, run.model.output_shape, out.voxel_size, strict=True
        )
    ]
    return Grid(raw.voxel_size, (), raw.unit, raw.axes), Grid(out.voxel_size, corner, out.unit, out.axes)


def _append(container: Path, name: str, iteration: int, data: np.ndarray, grid: Grid) -> None:
    import zarr

    group = zarr.open_group(container, mode="a")
    path = f"volumes/{name}"
    there: Any = group.get(path)
    if there is None or tuple(there.shape[1:]) != data.shape:  # of another batch size it does not fit beside this one
        there = group.create_array(
            path, shape=(1, *data.shape), dtype=data.dtype, chunks=(1, *data.shape), overwrite=True,
            attributes=_attributes(grid) | {"iterations": []},
        )  # fmt: skip
    kept = [i for i in there.attrs["iterations"] if i < iteration]
    there.attrs["iterations"] = kept
    there.resize((len(kept) + 1, *data.shape))
    there[len(kept)] = data
    there.attrs["iterations"] = [*kept, iteration]


def _attributes(grid: Grid) -> dict[str, Any]:
    """What places the voxels: OME-Zarr has no room for six axes."""
    return {
        "axis_names": ["iterations^", "b^", "c^", *grid.axes],
        "voxel_size": list(grid.voxel_size),
        "offset": list(grid.offset),
        "units": [grid.unit] * grid.dims,
    }
