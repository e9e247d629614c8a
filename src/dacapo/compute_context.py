"""Where work runs: the device and the threads of this machine. Imports `options`; torch when asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from dacapo.config import Config

if TYPE_CHECKING:
    import torch


class ComputeContext(Config):
    """Where work runs."""

    kind: ClassVar[str] = "compute context"
    default_type: ClassVar[str | None] = "LocalTorch"


class LocalTorch(ComputeContext):
    """This machine."""

    device_name: str | None = None
    """"cpu", "cuda", "cuda:1"; the first CUDA device, if there is one, by default."""
    num_threads: int | None = None
    """Threads of torch on the CPU; all processors that this process may use by default."""

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name or ("cuda" if torch.cuda.is_available() else "cpu"))

    def prepare(self) -> None:
        """Set what decides the speed of torch on a CPU, and is by chance otherwise."""
        import torch

        torch.set_num_threads(self.num_threads or int(os.environ.get("OMP_NUM_THREADS", available_processors())))


def keep_freed_memory(keep: bool) -> None:
    """Whether glibc keeps what is freed, as it should while a network trains or predicts: every step frees and takes the
    same again, and handing it back costs tens of thousands of page faults a step. Elsewhere it would only raise the peak.
    """
    import ctypes
    import sys

    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another libc
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # glibc's malloc.h
    mallopt(mmap_max, 0 if keep else 65536)
    mallopt(trim_threshold, 2**31 - 1 if keep else 128 * 1024)
    mallopt(top_pad, 64 * 2**20 if keep else 0)
    if not keep:
        trim(0)


def available_processors() -> int:
    """Processors that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_compute_context() -> LocalTorch:
    """The context that the options name."""
    from dacapo.options import Options

    said = Options.instance().compute_context
    return ComputeContext.from_dict({"type": said.get("type"), **(said.get("config") or {})}, "compute_context")  # type: ignore[return-value]
