"""The cases: what is measured, at which size, against whom, and what is promised.

A module of cases declares them at its top, importing nothing heavy; its functions import what they measure. Each is
called with the case's parameters and a folder, and returns what is timed: a function of a clock.
"""

from __future__ import annotations

from benchmarks.cases import crops, evaluation, loader, network, segmentation, startup, targets, validation, workload
from benchmarks.harness import Case

ALL: tuple[Case, ...] = (
    *loader.CASES,
    *targets.CASES,
    *evaluation.CASES,
    *crops.CASES,
    *network.CASES,
    *validation.CASES,
    *segmentation.CASES,
    *startup.CASES,
    *workload.CASES,
)
