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

    def set_threads(self) -> None:
        import torch

        torch.set_num_threads(self.num_threads or available_processors())


def available_processors() -> int:
    """Processors that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_compute_context() -> LocalTorch:
    """The context that the options name."""
    from dacapo.options import Options

    said = Options.instance().compute_context
    return ComputeContext.from_dict({"type": said.get("type"), **(said.get("config") or {})}, "compute_context")  # type: ignore[return-value]
