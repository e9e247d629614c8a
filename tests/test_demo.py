"""The demo, small: everything that it does and says, in a few iterations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dacapo.arrays import open_array
from dacapo.cli import Ticker
from dacapo.demo import run_demo
from dacapo.experiments.run_config import RunConfig
from dacapo.ops.metrics import contingency

SHAPES = {"train": ((32, 64, 64), 8, 1), "validate": ((24, 48, 48), 4, 2), "test": ((40, 72, 72), 12, 3)}


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Volumes, experiment, training, blockwise segmentation, table and report; run again, nothing is made twice."""
    how = {"iterations": 3, "shapes": SHAPES, "block": (24, 72, 72)}
    table = run_demo(tmp_path / "demo", Ticker(), **how)
    said = capsys.readouterr().out
    for row in ("VOI split", "VOI merge", "adapted Rand error", "training", "predict", "segment"):
        assert row in table
        assert row in said
    assert said.count("dacapo ") >= 4

    experiment = (tmp_path / "demo" / "experiment.yaml").read_text()
    run = RunConfig.from_yaml(experiment)
    assert run.name == "demo"
    comments = [line for line in experiment.splitlines() if "#" in line]
    assert len(comments) > 10

    page = (tmp_path / "demo" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']https?://""", page)
    assert page.count("<img") >= 2

    raw = open_array(str(tmp_path / "demo" / "data.zarr" / "test" / "raw"))
    labels = open_array(str(tmp_path / "demo" / "segmented.zarr" / "labels"))
    assert labels.voxel_size == raw.voxel_size == (5.24, 4.0, 4.0)
    assert labels.grid == raw.grid
    assert labels.dtype == np.uint64

    before = sorted(p for p in (tmp_path / "demo").rglob("*") if p.is_file() and p.suffix != ".html")
    times = {p: p.stat().st_mtime_ns for p in before if "checkpoints" in p.parts or "data.zarr" in p.parts}
    again = run_demo(tmp_path / "demo", Ticker(), **how)
    assert again["VOI split"] == table["VOI split"]
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_synthetic_truth_is_what_a_perfect_network_would_give() -> None:
    """Cut into blocks or whole, perfect affinities of the synthetic volume segment to its very objects."""
    from dacapo.ops.affinities import affinities
    from dacapo.ops.watershed import segment_affinities
    from dacapo.synthetic import synthetic_em

    labels = synthetic_em((24, 64, 64), (5.24, 4, 4), num_cells=6, seed=0).labels
    neighborhood = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 0], [0, 3, 0], [0, 0, 3]]
    affs, _ = affinities(labels, neighborhood)
    found = segment_affinities(affs.astype(np.float32), neighborhood, 0.5, 0.5)
    split, merge = contingency(found, labels).voi()
    assert (split, merge) == pytest.approx((0, 0), abs=1e-6)
