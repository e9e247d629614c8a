"""Training samples: located, read, deformed, turned, lit, made into targets and weights; the loader only."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, Case, Implementation

SIZE = (8.0, 8.0, 8.0)
"""nm; whole numbers, because gunpowder knows no others."""
OFFSETS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [9, 0, 0], [0, 9, 0], [0, 0, 9]]
SPACING = 32
"""Voxels between control points; their displacement has a standard deviation of 2 voxels."""

PEERS = (
    Implementation("dacapo", "loader:dacapo", note="freed memory is kept for the next sample, as in a training"),
    Implementation(
        "gunpowder",
        "loader:gunpowder",
        "peers",
        "DeformAugment (rotation in space; it interpolates from the control points, linearly: its subsample is on top of that), "
        "SimpleAugment, IntensityAugment, AddAffinities, BalanceLabels by channel; arrays in memory; no Pad: it only "
        "reads what lies inside",
    ),
    Implementation(
        "monai",
        "loader:monai",
        "peers",
        "Rand3DElasticd (noise smoothed with sigma 8; rotation), RandFlipd, RandScaleIntensityd, RandShiftIntensityd; no "
        "transposition; targets with numpy, of the crop alone (no context around it)",
    ),
    Implementation(
        "torchio",
        "loader:torchio",
        "peers",
        "RandomAffine, RandomElasticDeformation, RandomFlip on the crop itself, whose corners are therefore empty (less to "
        "read); intensities and targets with numpy",
    ),
    Implementation(
        "batchgeneratorsv2",
        "loader:batchgenerators",
        "peers",
        "SpatialTransform (nearest labels), MirrorTransform, contrast and brightness; targets with numpy, of the crop alone",
    ),
)
BARS = (
    Bar("samples a second against gunpowder", against=("gunpowder",), least=10),
    Bar("samples a second against MONAI, TorchIO, batchgeneratorsv2", against=("monai", "torchio", "batchgeneratorsv2"), least=4),
)  # fmt: skip
DIFFERENT = (
    "One process, one thread each. Random numbers differ, so the check is statistical: the mean of the first affinity and "
    "the mean of raw."
)


def _case(size: int, volume: int, samples: int) -> Case:
    return Case(
        f"loader-{size}",
        f"Training samples of {size}³: elastic, rotation, mirror, intensity, affinities, weights",
        PEERS,
        BARS,
        full={"size": size, "volume": volume, "cells": 2000, "samples": samples},
        quick={"size": 24, "volume": 128, "cells": 400, "samples": 2},
        unit="samples",
        prepare="loader:prepare",
        data="loader",
        note=DIFFERENT,
    )


CASES = (
    _case(96, 320, 6),
    _case(160, 320, 2),
    Case(
        "loader-workers",
        "The same samples from two worker processes and from one",
        (
            Implementation("2 workers", "loader:workers", parameters={"workers": 2}, warm_up=False),
            Implementation("1 worker", "loader:workers", parameters={"workers": 1}, warm_up=False),
        ),
        (Bar("samples a second, 2 workers against 1", of="2 workers", against=("1 worker",), least=1.8),),
        full={"size": 96, "volume": 320, "cells": 2000, "batches": 40},
        quick={"size": 24, "volume": 64, "cells": 60, "batches": 6},
        unit="samples",
        prepare="loader:prepare_zarr",
        threads=2,
        note="Timed from the eighth batch of two samples to the last: starting and ending processes is not part of it.",
    ),
    Case(
        "loader-memory",
        "A worker that samples a sparse zarr of 1 TB",
        (Implementation("dacapo", "loader:terabyte", warm_up=False),),
        (Bar("GiB of the worker process at its peak", measure="child_peak", most=1.0),),
        full={"size": 96, "volume": 10000, "written": 256, "batches": 12},
        quick={"size": 24, "volume": 10000, "written": 64, "batches": 4},
        unit="samples",
        prepare="loader:prepare_terabyte",
        threads=2,
        note="10000³ voxels of uint8 and as many of uint64 labels, of which a corner is written; the rest reads as 0.",
    ),
)


def prepare(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks import data

    labels = data.cells((parameters["volume"],) * 3, parameters["cells"], parameters["seed"], coarse=2)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "raw.npy", data.image(labels, parameters["seed"]))


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "raw.npy"), np.load(folder / "labels.npy")


def _trainer() -> Any:
    from dacapo.experiments.trainers import (
        ElasticAugmentConfig,
        GunpowderTrainerConfig,
        IntensityAugmentConfig,
        SimpleAugmentConfig,
    )

    return GunpowderTrainerConfig(
        augments=(
            ElasticAugmentConfig(
                control_point_spacing=(SPACING,) * 3,
                control_point_displacement_sigma=tuple(2 * s for s in SIZE),
                uniform_3d_rotation=True,
            ),
            SimpleAugmentConfig(),
            IntensityAugmentConfig(scale=(0.9, 1.1), shift=(-0.1, 0.1)),
        )
    )


def _said(number: int, affinities: list[float], raw: list[float]) -> dict[str, float]:
    return {"units": number, "mean affinity": float(np.mean(affinities)), "mean raw": float(np.mean(raw))}


def dacapo(parameters: dict[str, Any], folder: Path) -> Any:
    from dacapo.arrays import from_numpy
    from dacapo.compute_context import keep_freed_memory
    from dacapo.experiments.datasplits.datasets import Dataset
    from dacapo.experiments.tasks.predictors import AffinitiesPredictor
    from dacapo.geometry import Coordinate

    raw, labels = _load(folder)
    keep_freed_memory(True)
    dataset = Dataset("volume", from_numpy(raw, SIZE), from_numpy(labels, SIZE))
    box = Coordinate((parameters["size"],) * 3)
    predictor = AffinitiesPredictor([Coordinate(n) for n in OFFSETS])
    samples = _trainer().samples(None, box, box, predictor, seed=parameters["seed"], opened=[dataset])
    index, number = count(), parameters["samples"]

    def run(clock: Any) -> dict[str, float]:
        made = [samples[next(index)] for _ in range(number)]
        clock.stop()
        return _said(number, [s["target"][0][s["weight"][0] > 0].mean() for s in made], [s["raw"].mean() for s in made])

    return run


def gunpowder(parameters: dict[str, Any], folder: Path) -> Any:
    import gunpowder as gp
    from funlib.persistence import Array

    raw_data, labels_data = _load(folder)
    raw, labels, affs, known, weights = (gp.ArrayKey(k) for k in ("RAW", "LABELS", "AFFS", "KNOWN", "WEIGHTS"))
    size = gp.Coordinate(int(s) for s in SIZE)
    sources = (
        gp.ArraySource(raw, Array(raw_data, (0, 0, 0), size), interpolatable=True),
        gp.ArraySource(labels, Array(labels_data, (0, 0, 0), size), interpolatable=False),
    )
    pipeline = (
        sources
        + gp.MergeProvider()
        + gp.Normalize(raw)
        + gp.RandomLocation()
        + gp.DeformAugment(
            control_point_spacing=size * SPACING,
            jitter_sigma=tuple(2 * s for s in SIZE),
            rotate=True,
            spatial_dims=3,
        )
        + gp.SimpleAugment()
        + gp.IntensityAugment(raw, 0.9, 1.1, -0.1, 0.1)
        + gp.AddAffinities(OFFSETS, labels, affs, affinities_mask=known)
        + gp.BalanceLabels(affs, weights, mask=known, slab=(1, -1, -1, -1))
    )
    request = gp.BatchRequest()
    for key in (raw, affs, known, weights):
        request.add(key, size * parameters["size"])
    pipeline.setup()
    number = parameters["samples"]

    def run(clock: Any) -> dict[str, float]:
        made = [pipeline.request_batch(request) for _ in range(number)]
        clock.stop()
        first = [(b[affs].data[0], b[known].data[0] > 0) for b in made]
        return _said(number, [a[k].mean() for a, k in first], [b[raw].data.mean() for b in made])

    return run


def _targets(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affinities and balanced weights as one would write them in numpy where a library has none: float32 (N, *shape)."""
    target = np.zeros((len(OFFSETS), *labels.shape), np.float32)
    weight = np.zeros_like(target)
    for offset, channel, weights in zip(OFFSETS, target, weight, strict=True):
        here = tuple(slice(0, n - o) for n, o in zip(labels.shape, offset, strict=True))
        there = tuple(slice(o, None) for o in offset)
        same = (labels[here] == labels[there]) & (labels[here] > 0)
        channel[here] = same
        share = min(max(float(same.mean()), 0.05), 0.95)
        weights[here] = np.where(same, np.float32(0.5 / share), np.float32(0.5 / (1 - share)))
    return target, weight


def _source_size(parameters: dict[str, Any]) -> int:
    """A crop that holds the turned and bent one."""
    return min(parameters["volume"], int(1.75 * parameters["size"]) + 12)


def monai(parameters: dict[str, Any], folder: Path) -> Any:
    import torch
    from monai.transforms import (
        Compose,
        Rand3DElasticd,
        RandFlipd,
        RandScaleIntensityd,
        RandShiftIntensityd,
        RandSpatialCropd,
    )
    from monai.utils import set_determinism

    torch.set_num_threads(parameters["threads"])
    set_determinism(parameters["seed"], use_deterministic_algorithms=False)
    raw, labels = _load(folder)
    volume = {
        "raw": torch.from_numpy(raw.astype(np.float32) / 255)[None],
        "labels": torch.from_numpy(labels.astype(np.float32))[None],
    }
    both = ["raw", "labels"]
    pipeline = Compose(
        [
            RandSpatialCropd(both, (_source_size(parameters),) * 3, random_size=False),
            Rand3DElasticd(
                both,
                sigma_range=(8, 8),
                magnitude_range=(60, 100),  # of noise before it is smoothed: 2 to 4 voxels after
                prob=1,
                rotate_range=(np.pi,) * 3,
                spatial_size=(parameters["size"],) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            *(RandFlipd(both, 0.5, axis) for axis in range(3)),
            RandScaleIntensityd("raw", 0.1, prob=1),
            RandShiftIntensityd("raw", 0.1, prob=1),
        ]
    )
    number = parameters["samples"]

    def run(clock: Any) -> dict[str, float]:
        made = []
        for _ in range(number):
            sample = pipeline(volume)
            made.append((sample["raw"].numpy(), *_targets(sample["labels"].numpy()[0])))
        clock.stop()
        return _said(number, [t[0][w[0] > 0].mean() for _, t, w in made], [r.mean() for r, _, _ in made])

    return run


def torchio(parameters: dict[str, Any], folder: Path) -> Any:
    import torch
    import torchio as tio

    torch.set_num_threads(parameters["threads"])
    torch.manual_seed(parameters["seed"])
    rng = np.random.default_rng(parameters["seed"])
    raw, labels = _load(folder)
    raw, labels = raw.astype(np.float32) / 255, labels.astype(np.int32)
    size, number = parameters["size"], parameters["samples"]
    points = max(4, size // SPACING + 3)
    pipeline = tio.Compose(
        [
            tio.RandomAffine(scales=(1, 1), degrees=180),
            tio.RandomElasticDeformation(num_control_points=points, max_displacement=4, locked_borders=0),
            tio.RandomFlip(axes=(0, 1, 2)),
        ]
    )

    def one() -> tuple[np.ndarray, ...]:
        corner = rng.integers(0, parameters["volume"] - size + 1, 3)
        box = tuple(slice(c, c + size) for c in corner)
        subject = tio.Subject(
            raw=tio.ScalarImage(tensor=torch.from_numpy(raw[box].copy())[None]),
            labels=tio.LabelMap(tensor=torch.from_numpy(labels[box].copy())[None]),
        )
        turned = pipeline(subject)
        lit = turned.raw.numpy()
        mean = lit.mean()
        lit = ((lit - mean) * rng.uniform(0.9, 1.1) + mean + rng.uniform(-0.1, 0.1)).clip(0, 1)
        return lit, *_targets(turned.labels.numpy()[0])

    def run(clock: Any) -> dict[str, float]:
        made = [one() for _ in range(number)]
        clock.stop()
        return _said(number, [t[0][w[0] > 0].mean() for _, t, w in made], [r.mean() for r, _, _ in made])

    return run


def batchgenerators(parameters: dict[str, Any], folder: Path) -> Any:
    import torch
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    torch.set_num_threads(parameters["threads"])
    torch.manual_seed(parameters["seed"])
    np.random.seed(parameters["seed"])
    rng = np.random.default_rng(parameters["seed"])
    raw, labels = _load(folder)
    raw, labels = raw.astype(np.float32) / 255, labels.astype(np.int32)
    size, source, number = parameters["size"], _source_size(parameters), parameters["samples"]
    pipeline = ComposeTransforms(
        [
            SpatialTransform(
                (size,) * 3,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=1,
                elastic_deform_scale=(SPACING / 4 / size,) * 2,  # smoothed with sigma 8
                elastic_deform_magnitude=(4, 4),
                p_rotation=1,
                rotation=(0, 2 * np.pi),
                mode_seg="nearest",
            ),
            MirrorTransform((0, 1, 2)),
            ContrastTransform(BGContrast((0.9, 1.1)), preserve_range=True, synchronize_channels=False),
            MultiplicativeBrightnessTransform(BGContrast((0.9, 1.1)), synchronize_channels=False),
        ]
    )

    def one() -> tuple[np.ndarray, ...]:
        corner = rng.integers(0, parameters["volume"] - source + 1, 3)
        box = tuple(slice(c, c + source) for c in corner)
        made = pipeline(image=torch.from_numpy(raw[box])[None], segmentation=torch.from_numpy(labels[box])[None])
        return made["image"].numpy(), *_targets(made["segmentation"].numpy()[0])

    def run(clock: Any) -> dict[str, float]:
        made = [one() for _ in range(number)]
        clock.stop()
        return _said(number, [t[0][w[0] > 0].mean() for _, t, w in made], [r.mean() for r, _, _ in made])

    return run


# ------------------------------------------------------------------------------------- worker processes


def prepare_zarr(parameters: dict[str, Any], folder: Path) -> None:
    prepare(parameters, folder)
    _write(folder, *_load(folder), shape=(parameters["volume"],) * 3)


def prepare_terabyte(parameters: dict[str, Any], folder: Path) -> None:
    from benchmarks import data

    labels = data.cells((parameters["written"],) * 3, parameters["written"], parameters["seed"], coarse=4)
    _write(folder, data.image(labels, parameters["seed"]), labels, shape=(parameters["volume"],) * 3)


def _write(folder: Path, raw: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> None:
    from dacapo.arrays import create_array
    from dacapo.geometry import Grid, Roi

    for name, values in (("raw", raw), ("labels", labels)):
        array = create_array(f"{folder}/volume.zarr/{name}", shape=shape, dtype=values.dtype, grid=Grid(SIZE))
        array.write(Roi((0, 0, 0), values.shape), values)


def _batches(parameters: dict[str, Any], folder: Path, workers: int) -> Any:
    from dacapo.experiments.datasplits import DataSplitConfig
    from dacapo.experiments.tasks.predictors import AffinitiesPredictor
    from dacapo.experiments.trainers.sampling import batches
    from dacapo.geometry import Coordinate

    container = f"{folder}/volume.zarr"
    fields = {"train": [{"name": "volume", "raw": f"{container}/raw", "gt": f"{container}/labels"}]}
    box = Coordinate((parameters["size"],) * 3)
    samples = _trainer().samples(
        DataSplitConfig.from_dict(fields), box, box, AffinitiesPredictor([Coordinate(n) for n in OFFSETS]),
        seed=parameters["seed"],
    )  # fmt: skip
    return batches(samples, 2, 0, parameters["batches"], workers)


def workers(parameters: dict[str, Any], folder: Path) -> Any:
    skipped = min(8, parameters["batches"] // 3)

    def run(clock: Any) -> dict[str, float]:
        affinities = []
        for i, batch in enumerate(_batches(parameters, folder, parameters["workers"]), 1):
            if i == skipped:
                clock.start()
            if i > skipped:
                affinities.append(float(batch["target"][0, 0, -1].mean()))  # of one plane: both processors are taken
            if i == parameters["batches"]:
                clock.stop()
        return {"units": 2 * len(affinities), "mean affinity": float(np.mean(affinities))}

    return run


def terabyte(parameters: dict[str, Any], folder: Path) -> Any:
    def run(clock: Any) -> dict[str, float]:
        shapes = [tuple(batch["raw"].shape) for batch in _batches(parameters, folder, 1)]
        return {"units": 2 * len(shapes), "voxels": float(sum(np.prod(s) for s in shapes))}

    return run
