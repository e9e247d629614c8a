"""What a GPU makes of training and prediction: `python benchmarks/gpu.py`, from a checkout with the packages at hand.

Measures, for a small U-Net and for one of 12 × 6 maps and three levels:

- the training step, eager and compiled, in float32 and bfloat16, contiguous and channels last, as a share of the peak of
  matrix products measured there (floating point operations as torch counts them: two a multiplication and addition);
- how long the GPU is idle while training from disk, with 0 to 8 workers: 1 - (seconds of the step on the device)
  / (seconds of an iteration);
- prediction from disk to disk, with two processes on the GPU, against the bare forward pass over the same tiles in memory.

Prints a table, and keeps it as the last section of RESULTS.md (`--output`). `--device cpu --quick` is a rehearsal:
the figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "small": {"num_fmaps": 8, "fmap_inc_factor": 3, "downsample_factors": [[2, 2, 2]] * 2, "fmaps_out": 12},
    "12 × 6, three levels": {
        "num_fmaps": 12, "fmap_inc_factor": 6, "downsample_factors": [[2, 2, 2]] * 3, "fmaps_out": 12,
    },
}  # fmt: skip
OFFSETS = [[d * (axis == i) for i in range(3)] for d in (1, 3, 9) for axis in range(3)]


def main() -> None:
    from benchmarks.report import GPU

    options = parsed()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device: --device cpu --quick rehearses")
    size = 16 if options.quick else 96
    lines = [GPU, "", f"{machine(device)}. `python benchmarks/gpu.py`.", ""]
    peak = {kind: matmul_peak(device, kind, options.quick) for kind in (torch.bfloat16, torch.float32)}
    named = {torch.bfloat16: "bfloat16", torch.float32: "float32 (TF32 where the GPU has it)"}
    lines += [f"- peak of matrix products in {named[kind]}: {value / 1e12:.3g} TFLOP/s" for kind, value in peak.items()]
    with tempfile.TemporaryDirectory(prefix="dacapo-gpu-", dir=options.data) as folder:
        volume(Path(folder), 64 if options.quick else 512)
        for name in options.network or NETWORKS:
            network = NETWORKS[name]
            if options.quick:
                network = network | {"num_fmaps": 2, "fmap_inc_factor": 2}
            make = lambda network=network, **changes: run(Path(folder), network, size, **changes)  # noqa: E731
            lines += ["", f"### {name}", "", *steps(make, device, peak, options)]
            lines += ["", *idleness(make, device, options), "", *prediction(make, device, Path(folder), options)]
    print("\n".join(lines))
    if options.output:
        keep(options.output, lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether everything works")
    parser.add_argument("--data", type=Path, help="where the volume is made (and removed), 1 GB")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the table as the last section of this file")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 4, 8])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes a minute or more"
    )
    return parser.parse_args()


def machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU: the figures mean nothing"
    return f"{name}, torch {torch.__version__}, {len(os.sched_getaffinity(0))} processors"


def timed(function: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 3) -> float:
    """Median seconds of a call, of the device's work."""
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, kind: torch.dtype, quick: bool) -> float:
    """Floating point operations a second of a large matrix product."""
    n = 256 if quick else 8192
    with tf32():
        a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
        return 2 * n**3 / timed(lambda: a @ b, device, 10)


@contextmanager
def tf32() -> Iterator[None]:
    """The fast float32 of recent GPUs, as it is for convolutions by default."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def volume(folder: Path, size: int) -> None:
    """Raw and labels of size³ voxels, boxes with dark walls."""
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid, Roi

    rng, cell = np.random.default_rng(0), 24
    arrays = {
        name: create_array(f"{folder}/volume.zarr/{name}", shape=(size,) * 3, dtype=dtype, grid=Grid((8.0,) * 3))
        for name, dtype in (("raw", "uint8"), ("labels", "uint64"))
    }
    for z in range(0, size, 64):
        index = np.indices((min(64, size - z), size, size))
        index[0] += z
        wall = (index % cell == 0).any(0)
        labels = np.ravel_multi_index(tuple(index // cell), (size // cell + 1,) * 3) + 1
        raw = np.where(wall, 60, 180) + rng.normal(0, 12, wall.shape)
        roi = Roi((z, 0, 0), wall.shape)
        arrays["raw"].write(roi, raw.clip(0, 255).astype(np.uint8))
        arrays["labels"].write(roi, labels.astype(np.uint64))


def run(folder: Path, network: dict[str, Any], size: int, **changes: Any) -> Any:
    from dacapo.experiments.run_config import RunConfig

    dataset = {"name": "volume", "raw": f"{folder}/volume.zarr/raw", "gt": f"{folder}/volume.zarr/labels"}
    elastic = {
        "type": "elastic", "control_point_spacing": [32] * 3, "control_point_displacement_sigma": [16.0] * 3,
        "uniform_3d_rotation": True,
    }  # fmt: skip
    fields = {
        "name": "gpu",
        "datasplit": {"train": [dataset], "validate": [dataset]},
        "task": {"type": "affinities", "neighborhood": OFFSETS},
        "architecture": {
            "type": "cnnectome_unet", "input_shape": [size] * 3, "fmaps_in": 1, "padding": "same", "batch_norm": True,
            **network,
        },
        "trainer": {"augments": [elastic, {"type": "simple"}, {"type": "intensity", "scale": [0.9, 1.1], "shift": [-0.1, 0.1]}]},
        "batch_size": 2,
        "num_iterations": 100_000,
    }  # fmt: skip
    return RunConfig.from_dict(fields | changes)


def batch_of(made: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand((2, 1, *made.model.input_shape), generator=generator)
    target = (torch.rand((2, len(OFFSETS), *made.model.output_shape), generator=generator) > 0.5).float()
    return {"raw": raw, "target": target, "weight": torch.ones_like(target)}


def steps(make: Callable[..., Any], device: torch.device, peak: dict[torch.dtype, float], options: Any) -> list[str]:
    """Seconds of a training step in memory, and what share of the peak that is."""
    flops = flops_of_step(make(), device)
    rows = ["| training step | ms | steps/s | share of the peak |", "|---|---|---|---|"]
    ways = [("float32", False, False), ("float32", True, False), ("auto", False, False), ("auto", True, False)]
    ways += [] if options.no_compile else [("auto", True, True)]
    for precision, last, compiled in ways:
        made = make(precision=precision)
        name = f"{'bfloat16' if precision == 'auto' else 'float32'}{', channels last' if last else ''}"
        seconds = step_seconds(made, device, last, compiled, 3 if options.quick else 20)
        kind = torch.bfloat16 if precision == "auto" else torch.float32
        rows.append(
            f"| {name}{', compiled' if compiled else ''} | {1000 * seconds:.3g} | {1 / seconds:.3g} "
            f"| {flops / seconds / peak[kind]:.1%} |"
        )
    return [*rows, "", f"{flops / 1e9:.4g} GFLOP a step (batch of 2)."]


def flops_of_step(made: Any, device: torch.device) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    made.to(device)
    made.model.train()
    with FlopCounterMode(display=False) as counter:
        made.train_step(0, batch_of(made), device)
    return float(counter.get_total_flops())


def step_seconds(made: Any, device: torch.device, last: bool, compiled: bool, repeats: int) -> float:
    from unittest.mock import patch

    wanted = torch.channels_last_3d if last else torch.contiguous_format
    with patch.object(type(made), "memory_format", wanted):
        made.to(device)
        made.model.train()
        if compiled:
            made.model.chain = torch.compile(made.model.chain)
        batch = {name: value.to(device) for name, value in batch_of(made).items()}
        return timed(lambda: made.train_step(0, batch, device), device, repeats, warm_up=1 if repeats < 10 else 5)


def idleness(make: Callable[..., Any], device: torch.device, options: Any) -> list[str]:
    """Share of an iteration, samples from disk, that the device has nothing to do."""
    rows = ["| training from disk | it/s | GPU idle | waiting for samples |", "|---|---|---|---|"]
    skip, number = (1, 4) if options.quick else (15, 60)
    for workers in options.workers[:2] if options.quick else options.workers:
        made = make(num_workers=workers)
        made.to(device)
        made.model.train()
        waited, busy, clocks, began = 0.0, 0.0, [], time.perf_counter()
        last = began
        for iteration, batch in enumerate(made.data_loader(0, skip + number)):
            if iteration == skip:
                wait(device)
                waited, clocks, began = 0.0, [], time.perf_counter()
            waited += time.perf_counter() - last
            clocks.append(made.train_step(iteration, batch, device).clock)
            last = time.perf_counter()
        wait(device)
        seconds = time.perf_counter() - began
        busy = sum(sum(clock.times(0.0)[1:]) for clock in clocks)
        rows.append(
            f"| {workers} workers | {number / seconds:.3g} | {max(0.0, 1 - busy / seconds):.1%} | {waited / seconds:.1%} |"
        )
    return [
        *rows,
        "",
        "Busy is from the start to the end of a step by the device's clock: gaps within a step count as busy.",
    ]


def prediction(make: Callable[..., Any], device: torch.device, folder: Path, options: Any) -> list[str]:
    """Mvoxel/s from disk to disk, and of the forward pass over the same tiles."""
    import dacapo
    from dacapo.arrays import open_array
    from dacapo.geometry import Coordinate
    from dacapo.network import Network
    from dacapo.predict import cheapest_block
    from dacapo.store import Stores

    made, stores = make(), Stores(folder / f"runs{time.monotonic_ns()}")
    stores.configs.store_run_config(made)
    stores.weights.store(made.name, 0, made.weights())
    raw = open_array(f"{folder}/volume.zarr/raw")
    voxels, rows = float(np.prod(raw.shape)) / 1e6, ["| prediction | Mvoxel/s | of the forward pass |", "|---|---|---|"]
    block = cheapest_block(make(), Coordinate(raw.shape), raw.roi, None, 2)
    network = Network(make(), raw, device, block)
    tiles = list(network.tiles.cover(raw.roi))
    x = torch.rand(network.tiles.batch_size, 1, *network.tiles.input_shape).numpy()

    def forward() -> None:
        for _ in range(0, len(tiles), network.tiles.batch_size):
            network._run(x)

    few = max(1, min(len(tiles), 20))
    tiles = tiles[:few]
    covered = few * float(np.prod(network.tiles.shape)) / 1e6
    bare = covered / timed(forward, device, 3, warm_up=1)
    rows.append(f"| forward pass of {tuple(network.tiles.input_shape)} | {bare:.3g} | 100 % |")
    network = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for workers in (0, 2):
        began = time.perf_counter()
        dacapo.predict(
            made.name, f"{folder}/volume.zarr/raw", folder / f"out{time.monotonic_ns()}.zarr" / "p", iteration=0,
            workers=workers, stores=stores,
        )  # fmt: skip
        rate = voxels / (time.perf_counter() - began)
        who = "in this process" if workers == 0 else f"{workers} processes on the GPU (their start included)"
        rows.append(f"| disk to disk, {who} | {rate:.3g} | {rate / bare:.0%} |")
    return rows


def keep(path: Path, lines: list[str]) -> None:
    """Put the section at the end of the file, in place of the one that is there."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(text.partition(lines[0])[0].rstrip() + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    main()
