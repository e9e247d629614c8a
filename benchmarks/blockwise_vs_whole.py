"""How much a blockwise segmentation differs from that of the whole volume, on the demo's unseen volume.

    python benchmarks/blockwise_vs_whole.py demo

Reads what `dacapo demo` wrote: segments its stored prediction in memory with the same parameters, and prints the
VOI between the two segmentations, and of each against the ground truth.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dacapo.arrays import dequantised, open_array
from dacapo.ops.metrics import contingency
from dacapo.store import Stores
from dacapo.train import load


def main(folder: Path) -> None:
    stores = Stores(folder / "runs")
    run = load("demo", stores)
    run.validation_scores.scores[:] = stores.stats.retrieve_validation_iteration_scores("demo")
    best = run.best()
    prediction = dequantised(open_array(str(folder / "segmented.zarr" / "prediction"))).read()
    whole = run.task.post_processor.process(prediction, best.parameters)
    blockwise = open_array(str(folder / "segmented.zarr" / "labels")).read()
    truth = open_array(str(folder / "data.zarr" / "test" / "labels")).read()
    for name, a, b in (
        ("blockwise against whole", blockwise, whole),
        ("blockwise against truth", blockwise, truth),
        ("whole against truth", whole, truth),
    ):
        split, merge = contingency(a, b).voi()
        print(f"{name:<25} VOI {split + merge:.4f} = {split:.4f} split + {merge:.4f} merge")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
