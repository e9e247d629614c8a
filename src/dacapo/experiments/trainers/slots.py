"""How batches come from worker processes: in shared memory that is taken again once a batch is gone.

Shared memory that is taken anew costs more than what is put into it: the system clears and maps it page by page.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_ALIGNED = 64
"""Bytes that each array in a batch begins at a multiple of."""


class Slots:
    """Stretches of shared memory, some for each worker: the worker fills a free one, this process says when it is free.

    A batch that finds none free (because somebody keeps many) travels in memory of its own.
    """

    def __init__(self, num_workers: int, each: int) -> None:
        self._busy = torch.zeros((num_workers, each), dtype=torch.uint8).share_memory_()
        self._memory: dict[tuple[int, int], torch.Tensor] = {}  # of this process; kept, so that it stays mapped

    def __getstate__(self) -> dict[str, Any]:
        return {"_busy": self._busy, "_memory": {}}

    def collate(self, samples: list[dict[str, np.ndarray]]) -> Sent:
        """The samples as a batch in shared memory; called in a worker."""
        info = torch.utils.data.get_worker_info()
        assert info is not None
        layout, end = {}, 0
        for key, first in samples[0].items():
            layout[key] = (end, (len(samples), *first.shape), first.dtype.str)
            end += -(-first.nbytes * len(samples) // _ALIGNED) * _ALIGNED
        slot = self._free(info.id)
        memory = None if slot is None else self._memory.get((info.id, slot))
        if memory is None or memory.numel() < end:
            shared = torch.UntypedStorage._new_shared(end)  # what torch's own collation takes
            memory = torch.empty(0, dtype=torch.uint8).set_(shared)  # type: ignore[call-overload]
            if slot is not None:
                self._memory[info.id, slot] = memory
        sent = Sent(memory, layout, None if slot is None else (info.id, slot), self._busy)
        for key, batch in sent.arrays(memory.numpy()).items():
            for place, sample in zip(batch, samples, strict=True):
                np.copyto(place, sample[key])
        return sent

    def _free(self, worker: int) -> int | None:
        for slot in range(self._busy.shape[1]):
            if not self._busy[worker, slot]:
                self._busy[worker, slot] = 1
                return slot
        return None

    def receive(self, sent: Sent | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch as tensors; its memory is free when nothing of them is left. A pinned batch is one already."""
        if isinstance(sent, dict):
            return sent
        if sent.slot is not None:
            self._memory[sent.slot] = sent.memory
        return sent.tensors()


@dataclass
class Sent:
    """A batch on its way."""

    memory: torch.Tensor
    layout: dict[str, tuple[int, tuple[int, ...], str]]
    """Of each array: where it begins (bytes), shape, type."""
    slot: tuple[int, int] | None
    """Worker and number."""
    busy: torch.Tensor
    """All flags: they travel along, because the thread that pins has nothing else."""

    def arrays(self, data: np.ndarray) -> dict[str, np.ndarray]:
        """Views of the bytes `data`."""
        found = {}
        for key, (begin, shape, dtype) in self.layout.items():
            bytes_of = int(np.prod(shape)) * np.dtype(dtype).itemsize
            found[key] = data[begin : begin + bytes_of].view(dtype).reshape(shape)
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views of the memory. They hold on to the one array that is made here, whose end frees the slot."""
        data = self.memory.numpy()
        if self.slot is not None:
            weakref.finalize(data, _set_free, self.busy, self.slot).atexit = False
        return {key: torch.from_numpy(array) for key, array in self.arrays(data).items()}

    def pin_memory(self) -> dict[str, torch.Tensor]:
        """Copies that a GPU can fetch by itself; called by the loader's own thread."""
        return {key: tensor.pin_memory() for key, tensor in self.tensors().items()}


def _set_free(busy: torch.Tensor, slot: tuple[int, int]) -> None:
    busy[slot] = 0
