"""The other side of ``worker.py``: starts it, asks it within a time limit, ends it where it hangs or crashes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from threading import Semaphore
from typing import Any

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.decoding import worker
from mmllm.processors.decoding.worker import END, LENGTH, SHARED

PIECE = 2**20
"""Most bytes of one read or write."""


class MediaProcess:
    """Running worker of one process; not safe for two threads at once, and of no use after a fork.

    It ends with this object, and when the process that started it has ended.
    """

    def __init__(self) -> None:
        self._shared = os.memfd_create("mmllm frames")
        # -P: the folder it is started in, which may hold anything, is no place to import from.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(self._shared,),
        )
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        self._end = weakref.finalize(self, _end, self._popen, self._shared, os.getpid())

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it is still there to be asked."""
        return self._end.alive and self._popen.poll() is None

    def end(self) -> None:
        """Kill it, whatever it does."""
        self._end()

    def ask(self, request: Mapping[str, Any], data: bytes, timeout: float) -> tuple[dict[str, Any], list[bytes]]:
        """(what its last message says, bytes of the frames or pieces of sound) for a request with the file's bytes, if
        it has any.

        Raises:
            MediaError: no answer within ``timeout`` seconds, or the worker ended; its message ends a sentence that
                begins with the file's name. The worker is ended then.
        """
        deadline = time.monotonic() + timeout
        head = json.dumps({**request, "bytes": len(data), "timeout": timeout, "shared": self._shared}).encode()
        position = 0
        frames: list[bytes] = []
        try:
            self._write(LENGTH.pack(b"R", len(head)) + head, deadline)
            self._write(data, deadline)
            while True:
                kind, length = LENGTH.unpack(self._read(LENGTH.size, deadline))
                if kind == SHARED:
                    frames.append(_shared_bytes(self._shared, length, position))
                    position += length
                    continue
                content = self._read(length, deadline)
                if kind == END:
                    os.ftruncate(self._shared, 0)  # idle workers hold no memory
                    return json.loads(content), frames
                frames.append(content)
        except TimeoutError:
            self.end()
            raise MediaError(f"was not decoded within {timeout:g} s, so its decoder was ended") from None
        except (BrokenPipeError, EOFError):
            raise MediaError(f"crashed its decoder ({self._how_it_ended()}); it is damaged or not supported") from None
        except BaseException:
            self.end()  # half an answer may be on its way: it would be taken for the next one's
            raise

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._popen.stdin is not None
        file, rest = self._popen.stdin.fileno(), memoryview(data)
        while rest:
            _wait(file, select.POLLOUT, deadline)
            rest = rest[os.write(file, rest[:PIECE]) :]

    def _read(self, length: int, deadline: float) -> bytes:
        assert self._popen.stdout is not None
        file, data = self._popen.stdout.fileno(), bytearray()
        while len(data) < length:
            _wait(file, select.POLLIN, deadline)
            piece = os.read(file, min(PIECE, length - len(data)))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _how_it_ended(self) -> str:
        self.end()
        code = self._popen.returncode
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class Workers:
    """Workers of one process, started when asked: ``most`` at once, so that a file that hangs holds up no other one.

    Who asks while all are busy waits. A forked process and a copy start workers of their own.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._here: dict[int, _WorkerSlot] = {}
        """Process id -> its workers: a fork sees its parent's, which it must not use."""

    def ask(self, request: Mapping[str, Any], data: bytes, timeout: float) -> tuple[dict[str, Any], list[bytes]]:
        """Ask a worker that nobody else asks, as ``MediaProcess.ask``."""
        here = self._here.setdefault(os.getpid(), _WorkerSlot(self.most))  # one step: two threads get the same
        with here.places:
            worker = here.take()
            try:
                return worker.ask(request, data, timeout)
            finally:
                if worker.alive:
                    here.idle.append(worker)

    def answer(
        self, where: str, request: Mapping[str, Any], data: bytes, timeout: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Ask as ``ask``; every complaint is an error that begins with ``where``, the file's name.

        Raises:
            MediaError: the file cannot be used.
            MmllmError: a library is missing.
        """
        try:
            end, pieces = self.ask(request, data, timeout)
        except MediaError as error:
            raise MediaError(f"{where} {error}.") from error
        if "missing" in end:
            raise MmllmError(f"{where} cannot be read here: {end['missing']}.")
        if "error" in end:
            raise MediaError(f"{where} {end['error']}.")
        return end, pieces

    def idle(self) -> list[int]:
        """Process ids of this process's workers that wait for a request, the next one to be asked last."""
        here = self._here.get(os.getpid())
        return [] if here is None else [worker.pid for worker in here.idle if worker.alive]

    def close(self) -> None:
        """End this process's workers; one that is asked just now ends after its answer."""
        here = self._here.pop(os.getpid(), None)
        while here is not None and here.idle:
            here.idle.pop().end()

    def __reduce__(self) -> tuple[type[Workers], tuple[int]]:
        """Leave its workers behind."""
        return Workers, (self.most,)


class _WorkerSlot:
    """The workers of one process."""

    def __init__(self, most: int) -> None:
        self.places = Semaphore(most)
        self.idle: list[MediaProcess] = []

    def take(self) -> MediaProcess:
        """Return one that waits and lives, else a new one."""
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:  # checked and taken in one step: threads share the list
                return MediaProcess()
            if worker.alive:
                return worker


def _wait(file: int, event: int, deadline: float) -> None:
    """Wait until the pipe can be used or has ended; TimeoutError at the deadline."""
    poll = select.poll()
    poll.register(file, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _shared_bytes(file: int, length: int, position: int) -> bytes:
    """So many bytes of the shared file from there on; EOFError where it ends before."""
    data = os.pread(file, length, position)
    while len(data) < length:  # one read gives at most 2 GiB
        more = os.pread(file, length - len(data), position + len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _end(popen: subprocess.Popen[bytes], shared: int, owner: int) -> None:
    """Kill and reap a worker, in the process that started it only; a fork just closes its ends of pipes and memory."""
    os.close(shared)
    for stream in (popen.stdin, popen.stdout):
        assert stream is not None
        stream.close()
    if os.getpid() == owner:
        popen.kill()  # does nothing where it has been seen to end
        popen.wait()
