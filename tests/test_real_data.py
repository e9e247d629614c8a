"""Real volumes: they open as they are, the example fits them, and known segmentations get their known scores."""

from __future__ import annotations

from pathlib import Path

import pytest

import dacapo
from dacapo.arrays import open_array

EXAMPLE = Path(__file__).parents[1] / "examples" / "fib25.yaml"


@pytest.mark.parametrize(
    ("segmentation", "split", "merge", "rand"),
    [("watershed", 1.580, 0.307, 0.183), ("ffn_segmentation", 0.607, 0.739, 0.079)],
)
def test_known_segmentations_get_their_known_scores(
    real_data: Path, segmentation: str, split: float, merge: float, rand: float
) -> None:
    """VOI and adapted Rand error of the published segmentations are those published with the data."""
    labels = f"{real_data}/fib25/fib25_validate.h5:volumes/labels"
    scores = dacapo.evaluate(f"{labels}/{segmentation}", f"{labels}/neuron_ids", unlabelled=0)
    assert (scores.voi_split, scores.voi_merge) == pytest.approx((split, merge), abs=6e-4)
    assert scores.adapted_rand_error == pytest.approx(rand, abs=6e-4)


def test_the_example_fits_its_data(real_data: Path) -> None:
    """The experiment checks out against the files, and a sample of it is as its fields say."""
    run = dacapo.load(EXAMPLE, data=real_data)
    run.check()
    run.datasplit.check_voxels()
    raw = run.datasplit.validate[0].raw
    assert (raw.voxel_size, raw.offset) == ((10.0, 10.0, 10.0), (1200.0, 0.0, 0.0))
    batch = next(run.data_loader(0, 1))
    assert batch["raw"].shape == (2, 1, 56, 56, 56)
    assert batch["target"].shape == (2, 9, 56, 56, 56)
    assert 0.01 < 1 - batch["target"][:, 0].mean() < 0.5


def test_volumes_without_a_voxel_size_open(real_data: Path) -> None:
    """gala does not say how large its voxels are: the unit is the voxel."""
    raw = open_array(f"{real_data}/gala/gala_train.h5:volumes/raw")
    assert (raw.voxel_size, raw.units) == ((1.0, 1.0, 1.0), "voxel")
