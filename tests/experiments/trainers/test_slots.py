"""Shared memory in which batches travel: what somebody holds is never written over, what nobody holds is used again."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.trainers.sampling import SameSample, batches
from dacapo.experiments.trainers.slots import Slots


def samples(number: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(number)
    return [
        {"raw": rng.random((1, 3, 5), np.float32), "gt": rng.integers(0, 9, (2, 3)), "mask": rng.random((1, 7)) < 0.5}
        for _ in range(2)
    ]


@pytest.fixture
def in_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: SimpleNamespace(id=0))


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(f.dtype == expected[k].dtype and torch.equal(f, expected[k]) for k, f in found.items())


def test_what_is_held_stays_and_what_is_gone_is_used_again(in_worker: None) -> None:
    """A batch is what torch would collate; while a view of it lives its memory is not used, then it is, and then only."""
    slots = Slots(1, 2)
    batch = slots.receive(slots.collate(samples(0)))
    assert equal(batch, default_collate(samples(0)))
    view, where = batch["raw"][0], batch["raw"].data_ptr()
    kept = view.clone()
    del batch
    gc.collect()
    others = [slots.receive(slots.collate(samples(n))) for n in (1, 2, 3)]  # more than there are slots
    assert torch.equal(view, kept)
    assert all(equal(o, default_collate(samples(n))) for n, o in enumerate(others, 1))
    del view
    gc.collect()
    again = slots.receive(slots.collate(samples(4)))
    assert again["raw"].data_ptr() == where
    assert equal(again, default_collate(samples(4)))


def test_larger_batches_find_room(in_worker: None) -> None:
    """A slot that is too small for a batch is made anew."""
    slots = Slots(1, 1)
    assert len(slots.receive(slots.collate(samples(0)[:1]))["gt"]) == 1
    gc.collect()
    assert equal(slots.receive(slots.collate(samples(0))), default_collate(samples(0)))


def test_batches_are_the_same_from_worker_processes(small_run: RunConfig) -> None:
    """Kept all at once, batches of two worker processes equal those made in this process, bit for bit."""
    made = small_run.samples()
    here = list(batches(made, 2, 3, 15, 0))
    there = list(batches(made, 2, 3, 15, 2))
    assert len(here) == len(there) == 12
    assert all(equal(a, b) for a, b in zip(there, here, strict=True))


def test_one_sample_travels_too() -> None:
    """The dummy trainer's sample comes from a worker process as it is."""
    same = SameSample(samples(0)[0])
    [batch] = batches(same, 1, 0, 1, 1)
    assert equal(batch, default_collate([same.sample]))
