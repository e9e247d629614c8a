"""The process that is measured: sets one implementation up, then runs it whenever it is told to.

Orders come as JSON lines on stdin, answers go as JSON lines to what was stdout; whatever libraries print goes to
stderr. Runs in both environments: imports nothing but the standard library, and numpy where results are compared.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Clock:
    """Wall and CPU time of this process and all that it started; `start` leaves out what came before."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()
        self._end: tuple[float, float] | None = None

    def stop(self) -> None:
        """Leave out what comes after."""
        self._end = (time.perf_counter(), cpu_seconds())

    def read(self) -> tuple[float, float]:
        wall, cpu = self._end or (time.perf_counter(), cpu_seconds())
        return wall - self._wall, cpu - self._cpu


def cpu_seconds() -> float:
    """Of this process, of its children that ended, and of its descendants that live."""
    ended, own = (resource.getrusage(w) for w in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    return ended.ru_utime + ended.ru_stime + own.ru_utime + own.ru_stime + sum(map(_cpu_of, descendants(os.getpid())))


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(v) for v in fields[11:15]) / TICK


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                found += [child, *descendants(child)]
            except OSError:
                continue
    return found


class Memory(threading.Thread):
    """The most memory that this process, its largest child, and all of them together held (bytes).

    Of this process the kernel keeps the peak; children are looked at up to ten times a second, and so that looking takes
    no more than a fiftieth of the time. Pages that they share (PSS) are counted once in the sum.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_now = threading.Event()
        self.children = self.largest = 0
        self.before = _status("VmRSS")
        with suppress(OSError):  # where it may not be reset, the peak is that of the whole life
            Path("/proc/self/clear_refs").write_text("5")
        self.start()

    def run(self) -> None:
        pause = 0.1
        while not self._stop_now.wait(pause):
            began = time.perf_counter()
            pids = descendants(os.getpid())
            self.largest = max([self.largest, *(_status("VmHWM", pid) for pid in pids)])
            self.children = max(self.children, sum(_pss(pid) for pid in pids))
            pause = max(0.1, 50 * (time.perf_counter() - began))

    def read(self) -> dict[str, float]:
        self._stop_now.set()
        self.join()
        own, gib = _status("VmHWM"), 2**30
        return {
            "peak": (own + self.children) / gib,
            "extra": max(0, own + self.children - self.before) / gib,
            "child_peak": self.largest / gib,
        }


def _status(field: str, pid: int | str = "self") -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Session:
    """One implementation, from its set-up to its last run."""

    def __init__(self) -> None:
        self.timed: Any = None
        self.result: Any = None

    def prepare(self, function: str, parameters: dict[str, Any], folder: str) -> dict[str, Any]:
        find(function)(parameters, Path(folder))
        return {}

    def setup(self, function: str, parameters: dict[str, Any], folder: str) -> dict[str, Any]:
        self.timed = find(function)(parameters, Path(folder))
        return {}

    def run(self) -> dict[str, Any]:
        memory, clock = Memory(), Clock()
        said = self.timed(clock) or {}
        wall, cpu = clock.read()
        held = memory.read()
        self.result = said.pop("result", None)
        return {"wall": wall, "cpu": cpu, "units": said.pop("units", 1), "values": said, **held}

    def save(self, path: str) -> dict[str, Any]:
        import numpy as np

        np.save(path, self.result)
        return {}

    def compare(self, paths: list[str]) -> dict[str, Any]:
        import numpy as np

        a, b = (np.load(p).astype(np.float64) for p in paths)
        error = np.abs(a - b)
        return {"compared": {"error:mean": float(error.mean()), "error:max": float(error.max())}}


def find(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"benchmarks.cases.{module}"), function)


def main(threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    session = Session()
    for line in sys.stdin:
        answer_to(session, json.loads(line), answers)


def answer_to(session: Session, order: dict[str, Any], answers: TextIO) -> None:
    do = order.pop("do")
    try:
        answer = getattr(session, do)(**order)
    except Exception as error:
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
