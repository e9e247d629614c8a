"""`run_blocks`: a function over all blocks of a region, in worker processes, on daisy.

Imports blocks, process and errors; daisy inside functions. daisy's own geometry is not used: to daisy a task is a row
of block numbers, so its file of markers is as long as there are blocks whatever the shape of the region is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dacapo.blockwise.blocks import BlockGrid
from dacapo.blockwise.process import Job, work
from dacapo.blockwise.progress import Progress, progress_to
from dacapo.errors import BlockwiseError
from dacapo.geometry import Coordinate, Roi

logger = logging.getLogger(__name__)

HOPELESS = 10
"""When so many blocks (times tries) have failed and none was done, the rest is not tried."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class FailedBlock:
    """A block that failed every time; `error` is the last line of its first traceback."""

    block_id: int
    write_roi: Roi
    error: str


@dataclass(frozen=True)
class BlockReport:
    """What became of the blocks: done (now or before), of these skipped because done before, failed for good."""

    total: int
    done: int
    skipped: int
    failed: list[FailedBlock]
    seconds: float
    first_error: str | None


class BlocksFailedError(BlockwiseError):
    """Blocks failed every time; `report` lists them, and the cause is the first traceback."""

    def __init__(self, message: str, report: BlockReport) -> None:
        super().__init__(message)
        self.report = report


class WorkerTraceback(Exception):
    """The traceback of another process, as text."""


def run_blocks(
    name: str,
    function: str,
    parameters: Mapping[str, Any],
    *,
    total: Roi,
    block: Coordinate,
    context: tuple[Coordinate, Coordinate] | None = None,
    workers: int = 1,
    folder: str | Path,
    key: Mapping[str, Any] | None = None,
    retries: int = 2,
    max_restarts: int | None = None,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | bool | None = None,
) -> BlockReport:
    """Run a function on every block of a region; the same call goes on where one was stopped.

    Parameters
    ----------
    name : str
        What is done, for messages and names of files.
    function : str
        ``module:function``. It is called with `parameters` once per worker process and returns a function of one
        `Block`, which has put its results on disk when it returns. A block may be run again after a crash, so it
        writes the same bytes every time.
    parameters : mapping
        Keyword arguments of `function`: JSON values.
    total : Roi
        The region, in voxels. The first block begins where it begins.
    block : Coordinate
        Voxels of a block.
    context : (Coordinate, Coordinate), optional
        Voxels below and above a block that its `read_roi` has in addition; none by default.
    workers : int
        Processes; 0 works in this one.
    folder : str or Path
        Where logs (``logs/``) and markers of finished blocks live.
    key : mapping, optional
        JSON values that the result depends on beyond `function`, `parameters` and the blocks: the digest of a model,
        of the input. Blocks that are marked as done under another key are done again.
    retries : int
        How often a block that failed is tried again.
    max_restarts : int, optional
        How many processes may be started in place of dead ones; by default a number that grows with the blocks.
    timeout : float, optional
        Seconds after which a block counts as stuck and its process is killed; never by default.
    progress : callable or bool, optional
        Called with (done, total); True shows a bar, or logs a line every 30 s where there is no terminal.

    Returns
    -------
    report : BlockReport

    Raises
    ------
    BlocksFailedError
        A BlockwiseError: some blocks failed every time. All others were done.
    BlockwiseError
        If `function`, `parameters` or `key` are not of the kind described, or another call is at work in `folder`.
    GeometryError
        If `total`, `block` and `context` do not fit each other.
    """
    if ":" not in function or function.startswith("__main__:"):
        raise BlockwiseError(f"function is {function!r}, expected 'package.module:function', importable by a worker.")
    if workers < 0 or retries < 0:
        raise BlockwiseError(f"workers is {workers} and retries {retries}: expected numbers that are not negative.")
    none = Coordinate((0,) * len(block))
    grid = BlockGrid(total, Coordinate(block), (none, none) if context is None else context)
    parameters = _as_json(dict(parameters), "parameters")
    folder = Path(folder).absolute()
    task_id = f"{name}-{_digest(name, function, parameters, grid, _as_json(dict(key or {}), 'key'))}"
    run = _Run(task_id, grid, folder, retries, timeout, Progress(progress_to(progress, name), len(grid)))
    if max_restarts is None:
        max_restarts = 20 + 4 * workers + len(grid) // 10
    job = Job(function, parameters, grid, run.task_folder / "failures.jsonl")
    with _only_one(folder, name):
        job.failures.unlink(missing_ok=True)
        job.works.unlink(missing_ok=True)
        began = time.monotonic()
        if workers == 0:
            run.here(job)
        else:
            run.in_processes(job, min(workers, len(grid)), max_restarts)
    report = run.report(job.failures, time.monotonic() - began)
    if report.done < report.total:
        raise _failure(name, report, run, job.failures) from run.cause(job.failures)
    return report


class _Run:
    """One call of `run_blocks`: the daisy task, and what it came to."""

    def __init__(
        self, task_id: str, grid: BlockGrid, folder: Path, retries: int, timeout: float | None, progress: Progress
    ) -> None:
        self.task_id = task_id
        self.grid = grid
        self.logs = folder / "logs"
        self.task_folder = folder / task_id
        self.task_folder.mkdir(parents=True, exist_ok=True)
        self.retries = retries
        self.timeout = float("inf") if timeout is None else timeout
        self.progress = progress
        self.states: Any = None
        self.error: BaseException | None = None
        self._task: Any = None

    def here(self, job: Job) -> None:
        """All blocks in this process, one after the other."""
        from daisy.v2 import BlockStatus, run_blockwise

        def process(block: Any) -> None:
            if self._hopeless(job):
                block.status = BlockStatus.FAILED
                return
            try:
                job.run(int(block.write_roi.begin[0]))
            except Exception:
                block.status = BlockStatus.FAILED  # daisy's serial mode tries again only what does not raise
                return
            self.progress(self.progress.done + 1)

        self._task = self._daisy_task(process, 1, 0)
        with _daisy_logs(self.logs, "console"):
            self.states = run_blockwise(
                self._task, multiprocessing=False, progress=None, return_states=True, summary=False
            )[self.task_id]
        self.progress.finish(self.states.completed_count)

    def in_processes(self, job: Job, workers: int, max_restarts: int) -> None:
        """All blocks in worker processes; returns, or raises what interrupted it, when none of them is left."""
        with (
            _daisy_logs(self.logs, "file"),
            _threads_per_worker(workers),
            _lifeline() as (pipe, cut),
            _held_interrupt(),
        ):
            job.lifeline = pipe

            def worker() -> None:
                work(job)

            self._task = self._daisy_task(worker, workers, max_restarts)
            scheduler = threading.Thread(target=self._schedule, name=f"daisy {self.task_id}", daemon=True)
            given_up = False
            scheduler.start()
            try:
                while scheduler.is_alive() and not (given_up := self._hopeless(job)):
                    scheduler.join(0.1)
                    if signal.SIGINT in signal.sigpending():
                        raise KeyboardInterrupt
            finally:
                if scheduler.is_alive():
                    cut()
                    _interrupt_daisy(scheduler)
        if isinstance(self.error, KeyboardInterrupt) and not given_up:
            raise KeyboardInterrupt
        if self.error is not None and self.states is None:
            raise BlockwiseError(f"daisy could not run {self.task_id}: {self.error}") from self.error

    def report(self, failures: Path, seconds: float) -> BlockReport:
        """What the blocks came to."""
        notes = _notes(failures)
        first = {note["block_id"]: note["error"] for note in reversed(notes)}
        lost = (self.states.first_worker_error or "its worker process died").strip().splitlines()[-1]
        lost = lost.removeprefix("_WorkerExitError: daisy ")
        failed = []
        if self.states.completed_count < len(self.grid):
            numbers = sorted(int(b.write_roi.begin[0]) for b in self._task.failed_blocks())
            failed = [FailedBlock(i, self.grid[i].write_roi, first.get(i, lost)) for i in numbers]
        return BlockReport(
            total=len(self.grid),
            done=self.states.completed_count,
            skipped=self.states.skipped_count,
            failed=failed,
            seconds=seconds,
            first_error=notes[0]["error"] if notes else lost if failed else None,
        )

    def cause(self, failures: Path) -> WorkerTraceback:
        """The first traceback."""
        notes = _notes(failures)
        return WorkerTraceback(notes[0]["traceback"] if notes else self.states.first_worker_error or "no traceback")

    def _daisy_task(self, process: Callable[..., None], workers: int, max_restarts: int) -> Any:
        from daisy.v2 import Task

        one = Roi((0,), (1,))
        return Task(
            self.task_id,
            Roi((0,), (len(self.grid),)),
            one,
            one,
            process_function=process,
            read_write_conflict=False,
            max_workers=workers,
            max_retries=self.retries,
            max_worker_restarts=max_restarts,
            timeout=self.timeout,
            tracking_path=str(self.task_folder / "blocks"),
        )

    def _schedule(self) -> None:
        from daisy.v2 import run_blockwise

        try:
            self.states = run_blockwise(self._task, progress=self, return_states=True, summary=False, host="127.0.0.1")[
                self.task_id
            ]
        except BaseException as error:
            self.error = error
            self.states = (getattr(error, "daisy_states", None) or {}).get(self.task_id)

    def _hopeless(self, job: Job) -> bool:
        """Whether many blocks have failed and none was done: then the cause is not in the blocks."""
        return not job.works.exists() and len(_notes(job.failures)) >= HOPELESS * (self.retries + 1)

    def on_start(self, states: Any) -> None:
        """daisy calls this when the first worker is started."""

    def on_progress(self, states: Any) -> None:
        """daisy calls this now and then, when blocks have been done."""
        self.progress(states[self.task_id].completed_count)

    def on_finish(self, states: Any) -> None:
        """daisy calls this when all workers have ended."""
        self.progress.finish(states[self.task_id].completed_count)


def _failure(name: str, report: BlockReport, run: _Run, failures: Path) -> BlocksFailedError:
    missing = report.total - report.done
    what = f"{missing} of {report.total} blocks of {name!r} are not done"
    if report.failed:
        first = report.failed[0]
        what = (
            f"{len(report.failed)} of {report.total} blocks of {name!r} failed, the first at voxels "
            f"{tuple(map(int, first.write_roi.begin))} to {tuple(map(int, first.write_roi.end))}: {report.first_error}"
        )
        if missing > len(report.failed):
            what += f" ({missing - len(report.failed)} more were not tried)"
    elif run.error is not None:
        what += f": {str(run.error).strip().splitlines()[-1]}"
    where = failures if failures.exists() else run.logs / run.task_id
    return BlocksFailedError(f"{what}. See {where}; the same command tries only these blocks again.", report)


def _notes(failures: Path) -> list[dict[str, Any]]:
    """Failures of this run in their order; a line that a killed worker left unfinished is passed over."""
    notes = []
    for line in failures.read_text().splitlines() if failures.exists() else ():
        try:
            notes.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return notes


def _as_json(values: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(values, allow_nan=False, sort_keys=True))  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise BlockwiseError(f"{what} must be JSON values, to be handed to workers and kept: {error}.") from error


def _digest(name: str, function: str, parameters: Any, grid: BlockGrid, key: Any) -> str:
    numbers = [grid.total.begin, grid.total.shape, grid.block, *grid.context]
    said = [name, function, parameters, [[int(v) for v in row] for row in numbers], key]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _only_one(folder: Path, name: str) -> Iterator[None]:
    """Refuse a second scheduler on the same output: the blocks of both would be written twice. The lock dies with its
    process."""
    import fcntl

    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockwiseError(
                f"another process is at work on the blocks of {folder} ({name!r}): wait for it, or stop it; the same "
                f"command then goes on"
            ) from None
        yield


@contextmanager
def _daisy_logs(folder: Path, mode: str) -> Iterator[None]:
    """Output of workers goes to ``folder/<task>/worker_<n>.out`` and ``.err``."""
    from daisy import logging as daisy_logging

    before = daisy_logging.get_log_basedir(), daisy_logging.get_log_mode()
    daisy_logging.set_log_basedir(folder)
    daisy_logging.set_log_mode(mode)
    try:
        yield
    finally:
        daisy_logging.set_log_basedir(before[0])
        daisy_logging.set_log_mode(before[1])


@contextmanager
def _threads_per_worker(workers: int) -> Iterator[None]:
    """Workers share the cores: libraries read these variables when they are loaded. What the user has set stays."""
    before = {variable: os.environ.get(variable) for variable in (*_THREAD_VARIABLES, "DAISY_CONTEXT")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(max(1, cores // workers)))
    try:
        yield
    finally:
        for variable, value in before.items():  # daisy leaves its own behind
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


@contextmanager
def _lifeline() -> Iterator[tuple[Path, Callable[[], None]]]:
    """A named pipe that this process holds open, and a function that closes it: see `process.die_with`."""
    with tempfile.TemporaryDirectory(prefix="dacapo-") as folder:
        pipe = Path(folder) / "lifeline"
        os.mkfifo(pipe)
        handles = [os.open(pipe, os.O_RDWR)]

        def cut() -> None:
            while handles:
                os.close(handles.pop())

        try:
            yield pipe, cut
        finally:
            cut()


@contextmanager
def _held_interrupt() -> Iterator[None]:
    """Hold SIGINT back from daisy, which would wait for running blocks to end before it gave in.

    Only the main thread gets signals. Workers inherit the mask: they end by the lifeline.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt_daisy(scheduler: threading.Thread) -> None:
    """Have daisy's scheduler end: SIGINT is the one message that it listens to."""
    if threading.current_thread() is threading.main_thread():
        if signal.SIGINT not in signal.sigpending():
            os.kill(os.getpid(), signal.SIGINT)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    else:
        os.kill(os.getpid(), signal.SIGINT)
    scheduler.join()
