"""The network at work: prediction, bfloat16, the training step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

SIZE = (8.0, 8.0, 8.0)
OFFSETS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 0], [0, 3, 0], [0, 0, 3], [9, 0, 0], [0, 9, 0], [0, 0, 9]]

CASES = (
    Case(
        "predict",
        "Prediction of a volume from disk to disk, against the bare forward pass",
        (
            Implementation(
                "dacapo", "network:predict", note="`dacapo.predict`: opens, reads, pads, quantises and writes zarr"
            ),
            Implementation(
                "forward pass",
                "network:forward",
                note="a loop over blocks of the same shapes that are in memory; the result is thrown away",
            ),
        ),
        (Bar("share of the forward pass's throughput", against=("forward pass",), least=0.9),),
        full={"shape": [512, 512, 512], "input_shape": [48, 48, 48]},
        quick={"shape": [32, 64, 64], "input_shape": [16, 16, 16]},
        unit="Mvoxel",
        prepare="network:prepare",
        threads=2,
        note="The demo's U-Net, in one process with two threads.",
    ),
    Case(
        "bfloat16",
        "bfloat16 with channels last against float32 contiguous: the forward pass",
        (
            Implementation("dacapo", "network:precision", parameters={"precision": "auto"}),
            Implementation("float32, contiguous", "network:precision", parameters={"precision": "float32"}),
        ),
        (
            Bar("against float32 contiguous", against=("float32, contiguous",), least=2),
            Bar("mean error of the affinities", measure="error:mean", most=0.01),
        ),
        full={"input_shape": [48, 48, 48], "tile": [96, 96, 96], "shape": [32, 64, 64]},
        quick={"input_shape": [16, 16, 16], "tile": [32, 32, 32], "shape": [32, 64, 64]},
        unit="Mvoxel",
        prepare="network:prepare",
        threads=2,
        compare=True,
        note="`precision: auto` is bfloat16 only where the processor has it: without, both are the same.",
    ),
    Case(
        "train-step",
        "Training against a hand-written torch loop for the same model and data",
        (
            Implementation(
                "dacapo", "network:training", note="`dacapo.train_run`: checks, losses, checkpoints included"
            ),
            Implementation("torch loop", "network:training_loop", note="the same samples through torch's DataLoader"),
        ),
        (Bar("iterations a second of the hand-written loop's", against=("torch loop",), least=0.97),),
        full={"input_shape": [64, 64, 64], "iterations": 60, "shape": [128, 160, 160]},
        quick={"input_shape": [16, 16, 16], "iterations": 3, "shape": [32, 64, 64]},
        unit="iterations",
        prepare="network:prepare",
        threads=2,
        note="Both save one checkpoint at the end; the check is the last loss.",
    ),
)


def volume(folder: Path, shape: Sequence[int], num: int, seed: int, name: str = "volume") -> None:
    """`name`.zarr with raw and labels."""
    from benchmarks import data
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid

    labels = data.cells(shape, num, seed)
    for part, values in (("raw", data.image(labels, seed)), ("labels", labels)):
        array = create_array(f"{folder}/{name}.zarr/{part}", shape=shape, dtype=values.dtype, grid=Grid(SIZE))
        array.write(array.roi, values)


def experiment(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """The demo's experiment on the volume of `folder`; `input_shape` and fields of the run can be changed."""
    architecture = {
        "type": "cnnectome_unet",
        "input_shape": changes.pop("input_shape"),
        "fmaps_in": 1,
        "fmaps_out": 12,
        "num_fmaps": 8,
        "fmap_inc_factor": 3,
        "downsample_factors": [[2, 2, 2], [2, 2, 2]],
        "kernel_size_up": [[[1, 1, 1], [3, 3, 3]]] * 2,
        "padding": "same",
        "batch_norm": True,
    }
    dataset = {"name": "volume", "raw": f"{folder}/volume.zarr/raw", "gt": f"{folder}/volume.zarr/labels"}
    return {
        "name": name,
        "datasplit": {"train": [dataset], "validate": [dataset]},
        "task": {"type": "affinities", "neighborhood": OFFSETS, "balance": False},
        "architecture": architecture,
        "trainer": {"augments": [{"type": "simple"}]},
        "batch_size": 2,
        "num_iterations": 100,
        "learning_rate": 0.004,
    } | changes


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    voxels = int(np.prod(parameters["shape"]))
    volume(folder, parameters["shape"], max(4, voxels // 20000), parameters["seed"])


def _run(parameters: dict[str, Any], folder: Path, name: str = "bench", **changes: Any) -> Any:
    from dacapo.experiments.run_config import RunConfig

    fields = experiment(folder, name, input_shape=parameters["input_shape"], seed=parameters["seed"], **changes)
    return RunConfig.from_dict(fields)


def _prepared() -> Any:
    from dacapo.compute_context import create_compute_context, keep_freed_memory

    context = create_compute_context()
    context.prepare()
    keep_freed_memory(True)
    return context.device


def _megavoxels(shape: Sequence[int]) -> float:
    return float(np.prod(shape)) / 1e6


def predict(parameters: dict[str, Any], folder: Path) -> Any:
    import dacapo
    from dacapo.arrays import open_array
    from dacapo.store import Stores

    stores = Stores(folder / "runs")
    run_config = _run(parameters, folder)
    stores.configs.store_run_config(run_config)
    stores.weights.store(run_config.name, 0, run_config.weights())
    turn = count()

    def run(clock: Any) -> dict[str, Any]:
        output = folder / f"out{next(turn)}.zarr"
        clock.start()
        dacapo.predict(
            "bench", folder / "volume.zarr" / "raw", output / "prediction", iteration=0, workers=0, stores=stores
        )
        clock.stop()
        made = open_array(str(output / "prediction")).read()
        shutil.rmtree(output)
        return {"units": _megavoxels(parameters["shape"]), "mean": float(made.mean() / 255)}

    return run


def forward(parameters: dict[str, Any], folder: Path) -> Any:
    import torch

    from dacapo.arrays import open_array
    from dacapo.geometry import Coordinate, Roi
    from dacapo.network import Network
    from dacapo.predict import cheapest_block

    device = _prepared()
    raw = open_array(f"{folder}/volume.zarr/raw")
    run_config = _run(parameters, folder)
    block = cheapest_block(run_config, Coordinate(parameters["shape"]), raw.roi, None, 0)
    network = Network(run_config, raw, device, Coordinate(block))
    tiles = sum(
        len(list(network.tiles.cover(Roi(begin, block).intersect(raw.roi))))
        for begin in np.ndindex(*(-(-n // b) for n, b in zip(parameters["shape"], block, strict=True)))
        for begin in [Coordinate(begin) * Coordinate(block)]
    )
    size = network.tiles.batch_size
    x = torch.rand(size, 1, *network.tiles.input_shape).to(memory_format=run_config.memory_format)

    def run(clock: Any) -> dict[str, Any]:
        left, total = tiles, 0.0
        with torch.inference_mode(), run_config.autocast(device):
            while left > 0:
                y = run_config.model(x[: min(size, left)])
                left -= size
        total = float(y.float().mean())
        return {"units": _megavoxels(parameters["shape"]), "mean": total, "tiles": float(tiles)}

    return run


def precision(parameters: dict[str, Any], folder: Path) -> Any:
    import torch

    device = _prepared()
    run_config = _run(parameters, folder, precision=parameters["precision"])
    plain = parameters["precision"] == "float32"
    model = run_config.model.eval()
    x = torch.from_numpy(np.random.default_rng(parameters["seed"]).random((1, 1, *parameters["tile"]), np.float32))
    if not plain:
        run_config.to(device)
        x = x.to(memory_format=run_config.memory_format)

    def run(clock: Any) -> dict[str, Any]:
        with torch.inference_mode(), nullcontext() if plain else run_config.autocast(device):
            y = model(x)
        clock.stop()
        return {"units": _megavoxels(parameters["tile"]), "result": y.float().numpy(), "mean": float(y.float().mean())}

    return run


def training(parameters: dict[str, Any], folder: Path) -> Any:
    import dacapo
    from dacapo.store import Stores

    number, turn = parameters["iterations"], count()

    def run(clock: Any) -> dict[str, Any]:
        place = folder / f"trained-{next(turn)}"
        stores, run_config = Stores(place), _run(parameters, folder, num_iterations=number, validation_interval=number)
        clock.start()
        dacapo.train_run(run_config, validate=False, stores=stores)
        clock.stop()
        loss = run_config.training_stats.iteration_stats[-1].loss
        shutil.rmtree(place)
        return {"units": number, "last loss": float(loss)}

    return run


def training_loop(parameters: dict[str, Any], folder: Path) -> Any:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    device = _prepared()
    number = parameters["iterations"]

    def run(clock: Any) -> dict[str, Any]:
        config = _run(parameters, folder, num_iterations=number, validation_interval=number)
        clock.start()
        # As long as it opens its own data and makes its own model, so do we.
        config.to(device)
        model = config.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        for iteration, batch in enumerate(config.data_loader(0, number)):
            optimizer.param_groups[0]["lr"] = config.learning_rate_at(iteration)
            raw = batch["raw"].to(memory_format=torch.channels_last_3d)
            optimizer.zero_grad(set_to_none=True)
            with config.autocast(device):
                logits = model(raw)
            each = binary_cross_entropy_with_logits(logits.float(), batch["target"], reduction="none")
            loss = (each * batch["weight"]).sum() / batch["weight"].count_nonzero().clamp(min=1)
            loss.backward()
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "loop.pt")
        clock.stop()
        return {"units": number, "last loss": float(loss.detach())}

    return run
