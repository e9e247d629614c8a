"""Where work runs: device and threads of this machine, or a queue of a cluster. Imports `options`; torch when asked."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from dacapo.config import Config
from dacapo.errors import BlockwiseError, ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class ComputeContext(Config):
    """Where work runs."""

    kind: ClassVar[str] = "compute context"
    default_type: ClassVar[str | None] = "LocalTorch"

    distribute_workers: bool = False
    """Upstream's switch; here the number of workers of a call says whether blocks get processes of their own."""

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        raise AttributeError("device")

    def prepare(self) -> None:
        """Set what decides the speed of torch on a CPU, and is by chance otherwise."""
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", available_processors())))

    def wrap_command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` there."""
        return [str(part) for part in command]

    def execute(self, command: Sequence[str]) -> None:
        """Run a command there, or hand it over; BlockwiseError if that fails."""
        wrapped = self.wrap_command(command)
        try:
            subprocess.run(wrapped, check=True)
        except FileNotFoundError:
            raise BlockwiseError(f"{type(self).__name__}: there is no program {wrapped[0]!r} on this machine") from None
        except subprocess.CalledProcessError as error:
            raise BlockwiseError(f"{' '.join(wrapped)}: ended with code {error.returncode}") from None


class LocalTorch(ComputeContext):
    """This machine."""

    device_name: str | None = None
    """"cpu", "cuda", "cuda:1" or 1, "mps"; the first CUDA device, if there is one, by default. Also called `device`."""
    oom_limit: float | None = 4.2
    """Upstream's, without effect: tiles are chosen to fit the memory there is."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of torch on the CPU; all processors that this process may use by default."""

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "device" in value:
            if value.get("device_name") is not None:
                raise ValueError("device and device_name are the same field: give one")
            value = {key: v for key, v in value.items() if key != "device"} | {"device_name": value["device"]}
        return value

    @field_validator("device_name", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"cuda:{value}"
        if value is not None and not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", str(value)):
            raise ValueError(f"expected 'cpu', 'cuda', 'cuda:1' or 'mps', got {value!r}")
        return None if value is None else str(value)

    @property
    def device(self) -> torch.device:
        import torch

        if self.device_name is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device_name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"compute_context.device is {self.device_name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
            )
        return device

    def prepare(self) -> None:
        super().prepare()
        if self.num_threads:
            import torch

            torch.set_num_threads(self.num_threads)


class Bsub(ComputeContext):
    """A queue of an LSF cluster. Its command lines are made here; blocks are not handed to the cluster yet."""

    distribute_workers: bool = True
    """Upstream's switch."""
    queue: str = "local"
    """Queue that jobs go to."""
    num_gpus: int = Field(default=1, ge=0)
    """GPUs of a job."""
    num_cpus: int = Field(default=5, ge=1)
    """Processors of a job."""
    billing: str | None = None
    """Project that is charged."""

    @property
    def device(self) -> torch.device:
        """Of a job, seen from inside it: CUDA if it asked for GPUs and has one."""
        import torch

        return torch.device("cuda" if self.num_gpus and torch.cuda.is_available() else "cpu")

    def prepare(self) -> None:
        super().prepare()
        logger.warning(
            "compute_context Bsub: this process and its workers run on this machine (%s), nothing is handed to the queue %r; "
            "to use the cluster, submit the whole command: %s",
            self.device, self.queue, " ".join(self.wrap_command(["dacapo", "..."])),
        )  # fmt: skip

    def wrap_command(self, command: Sequence[str]) -> list[str]:
        """`bsub` with the queue, processors and GPUs of this context, then the command."""
        wrapped = ["bsub", "-q", self.queue, "-n", str(self.num_cpus), "-J", "dacapo"]
        wrapped += ["-o", "./daisy_logs/dacapo_%J.out", "-e", "./daisy_logs/dacapo_%J.err"]
        wrapped += ["-gpu", f"num={self.num_gpus}"] if self.num_gpus else []
        wrapped += ["-P", self.billing] if self.billing else []
        return wrapped + [str(part) for part in command]


def keep_freed_memory(keep: bool, largest: int | None = None) -> None:
    """Whether glibc keeps what is freed, as it should while a network trains or predicts: every step frees and takes the
    same again, and handing it back costs tens of thousands of page faults a step. Elsewhere it would only raise the peak.
    With `largest` (bytes), larger pieces are handed back, and so is what goes beyond four of them.
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
    trim_threshold, top_pad, mmap_threshold, mmap_max = -1, -2, -3, -4  # glibc's malloc.h
    if keep and largest is not None:
        mallopt(mmap_threshold, largest)
        mallopt(trim_threshold, 4 * largest)
        return
    mallopt(mmap_max, 0 if keep else 65536)
    mallopt(trim_threshold, 2**31 - 1 if keep else 128 * 1024)
    mallopt(top_pad, 64 * 2**20 if keep else 0)
    if not keep:
        trim(0)


def available_processors() -> int:
    """Processors that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_compute_context() -> ComputeContext:
    """The context that the options name."""
    from dacapo.options import Options

    said = dict(Options.instance().compute_context)
    unknown = set(said) - {"type", "config"}
    if unknown:
        raise ConfigError(
            f"compute_context: no field {', '.join(sorted(unknown))}: expected type, and its fields in config"
        )
    return ComputeContext.from_dict({"type": said.get("type"), **(said.get("config") or {})}, "compute_context")
