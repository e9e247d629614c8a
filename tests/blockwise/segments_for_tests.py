"""Functions that segment one block, for the tests of stitching."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np


def components(data: np.ndarray, connectivity: int = 1) -> np.ndarray:
    """Connected components of what is not 0, numbered as scipy has them."""
    from scipy.ndimage import generate_binary_structure, label

    return label(data > 0, generate_binary_structure(data.ndim, connectivity))[0].astype(np.uint64)


def components_or_death(data: np.ndarray, folder: str, lives: int) -> np.ndarray:
    """The same, but SIGKILL ends the process now and then: in a third of the calls, `lives` times in all."""
    marks = Path(folder)
    if len(list(marks.glob("death-*"))) < lives and int(data.sum()) % 3 == 0:
        (marks / f"death-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return components(data)


def wrong_shape(data: np.ndarray) -> np.ndarray:
    """Forgets the last slice."""
    return np.zeros(data[:-1].shape, np.uint64)


def watershed(data: np.ndarray, neighborhood: list[list[int]]) -> np.ndarray:
    """Mutex watershed of affinities."""
    from dacapo.ops.watershed import mutex_watershed

    return mutex_watershed(data, neighborhood, bias=0.5)
