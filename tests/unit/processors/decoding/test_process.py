"""The worker process that decodes: hangs, crashes and kills take no run down; threads, forks and copies have theirs."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmllm.errors import MediaError
from mmllm.processors.decoding import worker
from mmllm.processors.decoding.process import MediaProcess, Workers
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.decoding.worker import LENGTH, MEMORY
from mmllm.processors.video import VideoReading
from tests.support.films import LIMITS, grey, shown

pytestmark = pytest.mark.slow


@pytest.fixture
def reading() -> Iterator[VideoReading]:
    """Decodes with PyAV and has a worker of its own."""
    one = VideoReading(backend="pyav", **LIMITS)
    yield one
    one.close()


def gone(pid: int) -> bool:
    """Whether a process ends within 5 seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.01)
    return False


def test_a_hanging_decoder_is_ended_in_time(reading) -> None:
    data = mp4(grey(4), [0.0, 0.1, 0.2, 0.3])
    assert shown(reading.read(data)) == [0, 0, 1, 1, 2, 2, 3, 3]
    stopped, reading.timeout = reading.worker(), 0.5
    os.kill(stopped, signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(MediaError, match=r"was not decoded within 0\.5 s, so its decoder was ended\.$"):
        reading.read(data)
    assert time.monotonic() - before < 5 and gone(stopped)
    reading.timeout = 20.0
    assert shown(reading.read(data)) == [0, 0, 1, 1, 2, 2, 3, 3] and reading.worker() != stopped


@pytest.fixture
def endless(tmp_path) -> dict[str, Any]:
    """The request for a file whose opening never comes back: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "endless.mp4")
    return {**LIMITS, "modality": "video", "path": str(tmp_path / "endless.mp4"), "backend": "pyav"}


def test_a_library_that_never_comes_back_is_ended(endless) -> None:
    worker, before = MediaProcess(), time.monotonic()
    with pytest.raises(MediaError, match=r"was not decoded within 1 s"):
        worker.ask(endless, b"", 1.0)
    assert time.monotonic() - before < 5 and not worker.alive and gone(worker.pid)


def test_a_library_that_never_comes_back_ends_even_if_nobody_waits_for_it(endless) -> None:
    """As where whoever asked was killed: an alarm of its own, 5 seconds after the time limit."""
    request = json.dumps({**endless, "bytes": 0, "timeout": -4.5}).encode()
    with subprocess.Popen([sys.executable, "-m", worker.__name__], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(LENGTH.pack(b"R", len(request)) + request)
        process.stdin.flush()
        assert process.wait(10) == -signal.SIGALRM


def test_a_crash_is_told_with_its_signal(reading) -> None:
    data = mp4(grey(4), [0.0, 0.1, 0.2, 0.3])
    reading.read(data)
    worker = reading.worker()
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (worker, signal.SIGSEGV)).start()
    threading.Timer(0.4, os.kill, (worker, signal.SIGCONT)).start()
    with pytest.raises(MediaError, match=r"crashed its decoder \(SIGSEGV\); it is damaged or not supported\.$"):
        reading.read(data)
    assert shown(reading.read(data))[-1] == 3


def test_a_worker_killed_between_two_files_is_started_again(reading) -> None:
    data = mp4(grey(4), [0.0, 0.1, 0.2, 0.3])
    reading.read(data)
    first = reading.worker()
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert shown(reading.read(data))[-1] == 3 and reading.worker() not in (first, None)


def test_the_worker_is_one_small_process_that_ends_with_its_owner() -> None:
    reading = VideoReading(backend="decord", **LIMITS)
    data = mp4(grey(4), [0.0, 0.1, 0.2, 0.3])
    assert reading.worker() is None
    reading.measure(data)
    worker = reading.worker()
    reading.read(data)
    assert reading.worker() == worker
    maps, limits = (Path(f"/proc/{worker}/{name}").read_text() for name in ("maps", "limits"))
    assert "decord" in maps and "torch" not in maps
    assert limits.split("Max address space")[1].split()[0] == str(MEMORY)
    del reading
    gc.collect()
    assert gone(worker)


def test_threads_ask_workers_of_their_own_and_leave_few(reading) -> None:
    clips = {start: mp4(grey(8)[start:], [number / 10 for number in range(8 - start)]) for start in range(6)}
    found: dict[int, list[int]] = {}

    def read(start: int) -> None:
        for _ in range(3):
            found[start] = shown(reading.read(clips[start]))

    threads = [threading.Thread(target=read, args=(start,)) for start in clips]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {start: (one[0], one[-1]) for start, one in found.items()} == {start: (start, 7) for start in clips}
    left = reading._workers.idle()
    assert 1 <= len(left) == len(set(left)) <= 4
    reading.close()
    assert all(map(gone, left)) and reading.worker() is None


def test_a_file_that_hangs_holds_up_no_other(endless) -> None:
    workers, ends = Workers(most=2), []
    thread = threading.Thread(target=lambda: ends.append(workers.ask(endless, b"", 20.0)[0]))
    thread.start()
    data, request = mp4(grey(4), [0.0, 0.1, 0.2, 0.3]), {**endless, "path": None, "part": (None, None)}
    for _ in range(2):
        assert len(workers.ask(request, data, 20.0)[1]) == 8
    assert thread.is_alive() and len(workers.idle()) == 1
    with open(endless["path"], "wb"):  # the pipe ends: an empty file
        pass
    thread.join()
    assert "error" in ends[0] and len(workers.idle()) == 2
    workers.close()


def test_who_comes_when_all_are_busy_waits(endless) -> None:
    workers, ends = Workers(most=1), []
    thread = threading.Thread(target=lambda: ends.append(workers.ask(endless, b"", 20.0)[0]))
    thread.start()
    while not workers._here or workers._here[os.getpid()].places._value:
        time.sleep(0.001)
    data, request = mp4(grey(4), [0.0, 0.1, 0.2, 0.3]), {**endless, "path": None, "part": (None, None)}
    opener = threading.Timer(0.5, lambda: open(endless["path"], "wb").close())
    opener.start()
    assert len(workers.ask(request, data, 20.0)[1]) == 8
    thread.join()
    opener.join()
    assert "error" in ends[0] and len(workers.idle()) == 1
    workers.close()


def test_what_worker_and_owner_share_is_gone_with_the_worker(endless) -> None:
    """Frames lie in a file in memory: empty after an answer, closed once the worker is killed amid one."""
    before, worker = set(os.listdir("/proc/self/fd")), MediaProcess()
    data, request = mp4(grey(4), [0.0, 0.1, 0.2, 0.3]), {**endless, "path": None, "part": (None, None)}
    assert [round(frame[0] / 20) for frame in worker.ask(request, data, 20.0)[1]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert os.fstat(worker._shared).st_size == 0
    with pytest.raises(MediaError):
        worker.ask(endless, b"", 0.2)
    assert gone(worker.pid) and set(os.listdir("/proc/self/fd")) == before


def _in_a_fork(reading: VideoReading, data: bytes, answers: Any) -> None:
    answers.put((reading.worker(), shown(reading.read(data)), reading.worker()))


def test_a_fork_has_a_worker_of_its_own(reading) -> None:
    data = mp4(grey(8), [number / 10 for number in range(8)])
    reading.read(data)
    mine = reading.worker()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_in_a_fork, args=(reading, data, answers))
    child.start()
    before, seen, theirs = answers.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0 and before is None and seen == list(range(8)) and theirs != mine
    assert gone(theirs)
    assert shown(reading.read(data)) == list(range(8)) and reading.worker() == mine


def test_a_copy_starts_a_worker_of_its_own(reading) -> None:
    data = mp4(grey(8), [number / 10 for number in range(8)])
    reading.read(data)
    copy = pickle.loads(pickle.dumps(reading))
    assert copy.worker() is None and shown(copy.read(data)) == list(range(8))
    assert copy.worker() != reading.worker()
    copy.close()
