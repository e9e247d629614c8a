"""The engine: real processes, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dacapo.blockwise import BlocksFailedError, run_blocks
from dacapo.errors import BlockwiseError
from dacapo.geometry import Coordinate, Roi

HERE = Path(__file__).parent
TOTAL = Roi((3,), (20,))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find the functions of blocks_for_tests.py."""
    monkeypatch.syspath_prepend(str(HERE))


def run(folder: Path, function: str = "touch", workers: int = 2, **arguments):
    own = {name: arguments.pop(name) for name in ("bad_blocks", "times", "seconds") if name in arguments}
    return run_blocks(
        "work",
        f"blocks_for_tests:{function}",
        {"folder": str(folder), **own},
        total=arguments.pop("total", TOTAL),
        block=Coordinate((2,)),
        workers=workers,
        folder=folder / "blocks",
        **arguments,
    )


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("block-*")}


EXPECTED = {f"block-{i}": f"({3 + 2 * i},) (2,)".encode() for i in range(10)}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_block_is_done_once(tmp_path, workers):
    """Any number of workers does the same, sets up once per process, and a second call does nothing."""
    seen = []
    report = run(tmp_path, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert (report.total, report.done, report.skipped, report.failed) == (10, 10, 0, [])
    assert outputs(tmp_path) == EXPECTED
    assert len(list(tmp_path.glob("setup-*"))) <= max(1, workers)
    assert seen[-1] == (10, 10)
    (tmp_path / "started").unlink()
    assert run(tmp_path, workers=workers).skipped == 10
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("changed", [{"key": {"model": "b"}}, {"total": Roi((3,), (19,))}, {"seconds": 0.001}])
def test_a_marker_of_something_else_is_not_believed(tmp_path, changed):
    """Another key, region or parameter does all blocks again."""
    run(tmp_path, workers=0, key={"model": "a"})
    assert run(tmp_path, workers=0, **{"key": {"model": "a"}, **changed}).skipped == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_block_that_fails_at_first_is_tried_again(tmp_path, workers):
    """Two failures are forgiven, and said."""
    report = run(tmp_path, "bad", workers, bad_blocks=[4], times=2)
    assert (report.done, report.failed) == (10, [])
    assert report.first_error == "ValueError: no luck with block 4"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_block_that_always_fails_is_named_and_the_rest_is_done(tmp_path, workers):
    """The error has the region, the message and the traceback; the next call tries only that block."""
    with pytest.raises(
        BlocksFailedError, match=r"1 of 10 .* \(11,\) to \(13,\): ValueError: no luck with block 4"
    ) as caught:
        run(tmp_path, "bad", workers, bad_blocks=[4], times=4)
    assert isinstance(caught.value, BlockwiseError)
    assert 'raise ValueError(f"no luck' in str(caught.value.__cause__)
    report = caught.value.report
    assert (report.done, [f.block_id for f in report.failed]) == (9, [4])
    assert report.failed[0].write_roi == Roi((11,), (2,))
    again = run(tmp_path, "bad", workers, bad_blocks=[4], times=4)
    assert (again.done, again.skipped) == (10, 9)
    assert outputs(tmp_path) == EXPECTED


@pytest.mark.parametrize("workers", [0, 2])
def test_when_nothing_works_the_rest_is_not_tried(tmp_path, workers):
    """A function that cannot begin is reported after some blocks, not after all."""
    with pytest.raises(BlocksFailedError, match="FileNotFoundError: no model in"):
        run(tmp_path, "no_setup", workers, total=Roi((0,), (2000,)), retries=1)
    [notes] = (tmp_path / "blocks").glob("work-*/failures.jsonl")
    assert 10 <= len(notes.read_text().splitlines()) < 100


def test_a_killed_worker_costs_nothing_but_its_block(tmp_path):
    """Workers that are killed in a block are replaced, and all blocks are done."""
    report = run(tmp_path, "suicidal", bad_blocks=[2, 7], times=1)
    assert (report.done, report.failed) == (10, [])
    assert outputs(tmp_path) == EXPECTED


def test_a_block_that_kills_its_worker_every_time_is_given_up(tmp_path):
    """A block that nobody survives is named with the exit code, the rest is done."""
    with pytest.raises(BlocksFailedError, match="exited with code -9") as caught:
        run(tmp_path, "suicidal", bad_blocks=[2], times=99)
    assert [f.block_id for f in caught.value.report.failed] == [2]
    assert len(outputs(tmp_path)) == 9


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The same call in a process of its own, with blocks that take a while."""
    script = (
        "import sys, signal; from pathlib import Path; import test_engine; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "test_engine.run(Path(sys.argv[1]), seconds=0.3)"
    )
    path = os.pathsep.join([str(HERE), *sys.path])
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], env=os.environ | {"PYTHONPATH": path})


def wait_for_blocks(folder: Path, number: int) -> list[int]:
    """Ids of the processes that have begun blocks, once `number` blocks were begun."""
    started = folder / "started"
    deadline = time.monotonic() + 30
    while not started.exists() or len(started.read_text().splitlines()) < number:
        assert time.monotonic() < deadline, "no worker has come"
        time.sleep(0.02)
    return sorted({int(line.split()[1]) for line in started.read_text().splitlines()})


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_scheduler_leaves_no_orphans_and_the_same_call_goes_on(tmp_path, how):
    """However the scheduler is stopped, its workers end at once, and the next call ends with the same bytes."""
    scheduler = start(tmp_path)
    workers = wait_for_blocks(tmp_path, 4)
    scheduler.send_signal(how)
    assert scheduler.wait(10) != 0
    deadline = time.monotonic() + 2
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker outlives its scheduler"
        time.sleep(0.01)
    assert outputs(tmp_path) != EXPECTED
    report = run(tmp_path, seconds=0.3)
    assert report.done == 10
    assert report.skipped >= 1
    assert outputs(tmp_path) == EXPECTED


def test_workers_share_the_cores_and_the_environment_is_left_alone(tmp_path, monkeypatch):
    """Thread counts of libraries are set for the workers only."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    run(tmp_path)
    assert dict(os.environ) == before


@pytest.mark.parametrize("function", ["touch", "__main__:touch"])
def test_a_function_that_no_worker_can_import_is_refused(tmp_path, function):
    """Before any worker is started."""
    with pytest.raises(BlockwiseError, match="expected 'package.module:function'"):
        run_blocks("work", function, {}, total=TOTAL, block=Coordinate((2,)), folder=tmp_path)


def test_a_function_that_does_not_exist_is_named(tmp_path):
    """The error says which module has no such function."""
    with pytest.raises(BlocksFailedError, match="blocks_for_tests has no function 'tuoch'"):
        run(tmp_path, "tuoch", workers=0)


def test_parameters_must_be_json(tmp_path):
    """What cannot be handed to a worker is refused."""
    with pytest.raises(BlockwiseError, match="JSON"):
        run_blocks("work", "a:b", {"x": object()}, total=TOTAL, block=Coordinate((2,)), folder=tmp_path)


def test_a_second_scheduler_on_one_output_is_refused(tmp_path):
    """While one call works on the blocks of a folder another is told so; it may go on once the first was killed."""
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_engine; from pathlib import Path; "
        f"test_engine.run(Path({str(tmp_path)!r}), workers=1, seconds=30.0)"
    )
    first = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("setup-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        for workers in (0, 1):
            with pytest.raises(BlockwiseError, match="another process is at work"):
                run(tmp_path, workers=workers)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert run(tmp_path, workers=0).done == 10
