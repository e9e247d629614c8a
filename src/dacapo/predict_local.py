"""Upstream's way to predict an array with a model at hand, in this process. Imports everything inside functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dacapo.arrays import Array
    from dacapo.experiments.model import Model
    from dacapo.geometry import Roi


def predict(model: Model, raw: Any, prediction: Any, output_roi: Roi | None = None) -> Array:
    """Predict an array, tile by tile and without a seam, and write it as float32.

    Parameters
    ----------
    model : Model
        In the mode it is in afterwards; predictions have its eval activation.
    raw : Array, identifier or path
        (C, *spatial) or (*spatial); integers are scaled to [0, 1] by the range of their type, as in training.
    prediction : identifier or path
        Of the OME-Zarr array to make, or to replace.
    output_roi : Roi, optional
        Voxels of the output grid; everything by default (upstream: only what valid convolutions reach).

    Returns
    -------
    prediction : Array, (channels, *spatial)
    """
    from dacapo.arrays import Array, create_array, open_array
    from dacapo.arrays.paths import located
    from dacapo.compute_context import create_compute_context
    from dacapo.experiments.run_config import RunConfig
    from dacapo.geometry import Roi
    from dacapo.network import Network

    source = raw if isinstance(raw, Array) else open_array(located(raw), unchanging=True)
    run = RunConfig(name="local", architecture_config=model.architecture, precision="float32")
    run.__dict__["model"] = model
    training = model.training
    try:
        network = Network(run, source, create_compute_context().device)
        region = output_roi or network.roi
        made = network.predict(region)
    finally:
        model.train(training)
    grid = network.grid.at(region.begin)
    target = create_array(
        Path(located(prediction)), shape=made.shape, dtype="float32", grid=grid, overwrite=True,
        axis_names=("c^", *grid.axes),
    )  # fmt: skip
    target.write(Roi((0,) * grid.dims, region.shape), made)
    return target
