"""What a case is, and how its implementations are run: a process each, in turns, and what they measured.

Imports nothing but the standard library; what is measured is imported by the workers (worker.py).
"""

from __future__ import annotations

import json
import math
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 1800.0
"""Seconds after which a worker that does not answer is given up."""


@dataclass(frozen=True)
class Implementation:
    """One way to do what a case asks for."""

    name: str
    function: str
    """`module:function` below benchmarks.cases; called with (parameters, folder), it returns what is timed."""
    where: str = "own"
    """"own": this project's environment; "peers": that of the peers."""
    note: str = ""
    """What it does differently from ours, and with which settings."""
    warm_up: bool = True
    """Run once before the clock counts: compilers, caches of the file system."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Added to those of the case."""


@dataclass(frozen=True)
class Bar:
    """A promise: a ratio of `of` to the best of `against`, or a figure of `of` alone."""

    text: str
    measure: str = "rate"
    """"rate" (more is better), "wall", "cpu", "peak", "extra", "child_peak", "error:NAME", or a value that `run` returns."""
    of: str = "dacapo"
    against: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    their_measure: str | None = None
    """What is read of the others; the same if left out."""
    difference: bool = False
    """Ours minus theirs instead of a ratio."""

    @property
    def wanted(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"

    def met(self, value: float) -> bool:
        return value >= self.least if self.least is not None else self.most is None or value <= self.most


@dataclass(frozen=True)
class Quoted:
    """A figure measured elsewhere: it is no peer in this run."""

    name: str
    rate: float
    text: str


@dataclass(frozen=True)
class Case:
    """Something users wait for, and who does it."""

    name: str
    title: str
    implementations: tuple[Implementation, ...]
    bars: tuple[Bar, ...]
    full: Mapping[str, Any]
    quick: Mapping[str, Any]
    """Parameters at which everything is done in a second, to see whether it works."""
    unit: str = "runs"
    """What `rate` counts in a second."""
    prepare: str | None = None
    """`module:function` that writes the data into the folder: once, in our environment."""
    data: str = ""
    """Cases that name the same share their data, which the first of them makes."""
    threads: int = 1
    """Of each implementation: the processors it may use, and what every library is told."""
    note: str = ""
    quoted: tuple[Quoted, ...] = ()
    compare: bool = False
    """Whether results (arrays) are compared voxel by voxel with ours."""


@dataclass
class Measured:
    """What one implementation of a case came to."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    compared: dict[str, float] = field(default_factory=dict)
    """error:mean, error:max against the first implementation."""

    def per_unit(self, key: str) -> list[float]:
        return [r[key] / r["units"] for r in self.runs]

    def values(self, measure: str) -> list[float]:
        """One figure a repetition."""
        if measure == "rate":
            return [r["units"] / r["wall"] for r in self.runs]
        if measure in ("wall", "cpu"):
            return self.per_unit(measure)
        if measure.startswith("error:"):
            return [self.compared[measure]] if measure in self.compared else []
        if measure == "child_peak":  # 0: it had no children, or none that lived long enough to be seen
            return [r[measure] for r in self.runs if r[measure]]
        return [float(r[measure] if measure in r else r["values"][measure]) for r in self.runs]

    def median(self, measure: str) -> float:
        values = self.values(measure)
        return statistics.median(values) if values else math.nan


@dataclass
class Outcome:
    """A case that was run."""

    case: Case
    parameters: dict[str, Any]
    measured: dict[str, Measured]
    error: str | None = None

    def judge(self, bar: Bar) -> tuple[float, str]:
        """The figure that a bar is about, and which peer it is against; NaN if there is none."""
        ours = self.measured.get(bar.of)
        if ours is None or (not ours.runs and not bar.measure.startswith("error:")):
            return math.nan, ""
        if not bar.against:
            if bar.measure.startswith("error:"):
                found = [(m.compared[bar.measure], n) for n, m in self.measured.items() if bar.measure in m.compared]
                return max(found, default=(math.nan, ""))
            return ours.median(bar.measure), ""
        best: tuple[float, str] | None = None
        for name in bar.against:
            theirs = self.measured.get(name)
            if theirs is None or not theirs.runs:
                continue
            of_them = bar.their_measure or bar.measure
            if bar.difference:
                found = ours.median(bar.measure) - theirs.median(of_them)
            else:
                found = ratio(ours.values(bar.measure), theirs.values(of_them))
            if math.isnan(found):
                continue
            better = min if bar.least is not None else max  # the hardest peer counts
            best = (found, name) if best is None else better(best, (found, name))
        return best or (math.nan, "")


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of the ratio within a round: a machine that is slow for a while is slow for both."""
    pairs = [a / b if b > 0 else math.inf for a, b in zip(ours, theirs, strict=False)]
    return statistics.median(pairs) if pairs else math.nan


class Worker:
    """A process that holds one implementation of one case ready."""

    def __init__(self, python: Path, threads: int, environment: Mapping[str, str]) -> None:
        limits = dict.fromkeys(
            (
                "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                "BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "RAYON_NUM_THREADS",
            ),
            str(threads),
        )  # fmt: skip
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # Threads that spin while they wait would take the time of whoever is measured next.
            env={**os.environ, **limits, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE", **environment},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._said: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._answers.put, True), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self._said.append, False), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, put: Callable[[str], None], ends: bool) -> None:
        for line in stream:
            put(line)
        if ends:
            put("")

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer; RuntimeError says in a line what went wrong."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=TIMEOUT)
        except queue.Empty:
            raise RuntimeError(f"no answer within {TIMEOUT:g} s") from None
        except OSError:
            line = ""
        if not line:
            self._process.wait(timeout=10)
            self._readers[1].join(timeout=10)  # its last words
            last = [s.strip() for s in self._said if s.strip()][-1:]
            raise RuntimeError(f"ended with {self._process.returncode}: {' '.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        if self._process.poll() is None:
            try:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait(timeout=20)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@dataclass
class Bench:
    """Runs cases."""

    peers: Path | None
    """Python of the peers' environment; None: there is none."""
    folder: Path
    """For data; each case has its own folder below."""
    quick: bool = False
    repeats: int = 5
    seconds: float = 240.0
    """A case that took longer than this is not repeated more than three times."""
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Callable[[str], None] = print
    _prepared: set[str] = field(default_factory=set)

    def run(self, case: Case) -> Outcome:
        parameters = {**(case.quick if self.quick else case.full), "seed": 0, "threads": case.threads}
        outcome = Outcome(case, parameters, {i.name: Measured() for i in case.implementations})
        folder = self.folder / (case.data or case.name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if case.prepare and str(folder) not in self._prepared:
                self._prepare(case, parameters, folder)
        except RuntimeError as error:
            outcome.error = str(error)
            return outcome
        workers = dict(self._ready(case, outcome, folder))
        try:
            self._take_turns(case, outcome, workers)
            if case.compare:
                self._compare(outcome, workers, folder)
        finally:
            for worker in workers.values():
                worker.close()
        return outcome

    def _prepare(self, case: Case, parameters: dict[str, Any], folder: Path) -> None:
        worker = Worker(Path(sys.executable), os.cpu_count() or 1, self.environment)
        try:
            worker.ask(do="prepare", function=case.prepare, parameters=parameters, folder=str(folder))
            self._prepared.add(str(folder))
        finally:
            worker.close()

    def _ready(self, case: Case, outcome: Outcome, folder: Path) -> Iterator[tuple[str, Worker]]:
        for one in case.implementations:
            if one.where == "peers" and self.peers is None:
                outcome.measured[one.name].error = "no environment of peers"
                continue
            python = Path(sys.executable) if one.where == "own" else self.peers
            assert python is not None
            worker = Worker(python, case.threads, self.environment)
            try:
                parameters = {**outcome.parameters, **one.parameters}
                worker.ask(do="setup", function=one.function, parameters=parameters, folder=str(folder))
                if one.warm_up:
                    worker.ask(do="run")
            except RuntimeError as error:
                self._failed(outcome, one.name, error)
                worker.close()
                continue
            yield one.name, worker

    def _take_turns(self, case: Case, outcome: Outcome, workers: dict[str, Worker]) -> None:
        began = time.monotonic()
        for turn in range(self.repeats):
            if turn >= min(3, self.repeats) and time.monotonic() - began > self.seconds:
                break
            # Back and forth, so that nobody always runs on the machine as the same neighbour left it.
            names = list(workers) if turn % 2 == 0 else list(reversed(workers))
            for name in names:
                if outcome.measured[name].error:
                    continue
                try:
                    answer = workers[name].ask(do="run")
                except RuntimeError as error:
                    self._failed(outcome, name, error)
                    continue
                outcome.measured[name].runs.append(answer)
                self.log(f"  {name:<28} {answer['wall']:9.3f} s  cpu {answer['cpu']:9.3f} s")

    def _failed(self, outcome: Outcome, name: str, error: Exception) -> None:
        outcome.measured[name].error = str(error)
        outcome.measured[name].runs.clear()
        self.log(f"  {name}: {error}")

    def _compare(self, outcome: Outcome, workers: dict[str, Worker], folder: Path) -> None:
        names = [n for n in workers if not outcome.measured[n].error]
        for name in names:
            workers[name].ask(do="save", path=str(folder / f"result-{names.index(name)}.npy"))
        for other, name in enumerate(names[1:], 1):
            found = workers[names[0]].ask(
                do="compare", paths=[str(folder / "result-0.npy"), str(folder / f"result-{other}.npy")]
            )
            outcome.measured[name].compared = found["compared"]
