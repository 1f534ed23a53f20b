"""The program in which videos and their sound are decoded, apart from everything else: it alone hangs or crashes.

``process.py`` starts it; neither it nor what it imports imports torch. It reads requests from stdin and writes
messages to stdout, each a length and that many bytes: frames or pieces of sound first, then how it went. The bytes of
frames go through a file in memory that both sides have open: a pipe would copy them four times more.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy

from mmllm.processors.decoding.bad_media import BadMedia
from mmllm.processors.decoding.decord_frames import with_decord
from mmllm.processors.decoding.frame_choice import lasting, sampled, within
from mmllm.processors.decoding.pyav_frames import PyavFrames, with_pyav
from mmllm.processors.decoding.sound import sounds
from mmllm.processors.decoding.video import Scan, check_limits, opened, quarter_turns, repeated

LENGTH = struct.Struct("!cQ")
"""Head of a message: its kind and the number of bytes that follow."""
PIECE, SHARED, END = b"P", b"S", b"E"
"""Kinds: float32 samples of a piece of sound; the raw RGB bytes of a frame, which do not follow but lie in the shared
file, behind those of the last one; the JSON that ends an answer."""
Message = tuple[bytes, bytes | memoryview]
"""Kind and content."""
MEMORY = 6 * 2**30
"""Bytes of address space that this program may take; a file that asks a decoder for more is refused."""


def decode_audio(request: Mapping[str, Any], data: bytes) -> Iterator[Message]:
    """Messages of a request with ``modality`` audio: ``path`` (or null and the file's ``data``), ``max_seconds``.

    Without ``send`` the samples are only counted. The last message holds ``rate`` and ``samples``.
    """
    end: dict[str, Any] = {}
    for piece in sounds(request, data, end):
        if request["send"]:
            yield PIECE, piece.tobytes()
    yield END, json.dumps(end).encode()


def decode_video(request: Mapping[str, Any], data: bytes) -> Iterator[Message]:
    """Messages of a request with ``modality`` video: ``path`` (or null and the file's ``data``), ``part`` (start and
    end in seconds, null: the clip's), ``frames``, ``fps``, limits, ``backend``.

    ``backend`` null asks for the times alone, with ``size`` also for that of the frames, which the first one tells. The
    last message holds ``seconds`` of the frames, how many seconds the part ``lasts``, and ``height`` and ``width`` of
    the frames sent or asked for.
    """
    with opened(request, data) as container:
        scan = Scan(container)
        seconds = scan.seconds()
        part = within(seconds, request["part"])
        chosen = [seconds[index] for index in part]
        check_limits(scan, [second - chosen[0] for second in chosen], request)
        indices = [part[index] for index in sampled(chosen, request["frames"], request["fps"])]
        end: dict[str, Any] = {"seconds": [seconds[index] for index in indices], "lasts": lasting(chosen)}
        if request["backend"] is None and request["size"]:
            # upright, as they would be sent: only the frame itself says how it is to be turned
            first = PyavFrames(scan).first
            shape = first.height, first.width
            end["height"], end["width"] = shape[::-1] if quarter_turns(first) % 2 else shape
        if request["backend"] is not None:
            frames = PyavFrames(scan)
            turns = quarter_turns(frames.first)
            pyav = request["backend"] == "pyav"
            decode = with_pyav(frames, turns) if pyav else with_decord(request, data, scan, turns)
            for frame in repeated(decode, indices):
                end["height"], end["width"] = frame.shape[:2]
                yield SHARED, numpy.ascontiguousarray(frame).data
    yield END, json.dumps(end).encode()


def reason(error: BaseException) -> str:
    """Line of what a library says, without its source places and stack."""
    # "Check failed: " begins what decord says after the place in its source
    text = str(error).strip().partition("\n")[0].partition("Check failed: ")
    return (text[2] or text[0])[:200].rstrip(".") or type(error).__name__


def messages(request: Mapping[str, Any], data: bytes) -> Iterator[Message]:
    """The answer; whatever goes wrong becomes its last message, ``error``."""
    try:
        yield from {"video": decode_video, "audio": decode_audio}[request["modality"]](request, data)
    except BadMedia as error:
        yield END, json.dumps({"error": str(error)}).encode()
    except ImportError as error:
        yield END, json.dumps({"missing": str(error)}).encode()
    except MemoryError:
        yield END, json.dumps({"error": f"asks for more than {MEMORY >> 30} GiB of memory"}).encode()
    except Exception as error:  # of three libraries, without a common base; it is told, and the run decides
        hint = "; backend: pyav may read it" if request.get("backend") == "decord" else ""
        kind = "read as sound" if request["modality"] == "audio" else "decoded"
        yield END, json.dumps({"error": f"cannot be {kind} ({reason(error)}){hint}"}).encode()


def read_exact(stream: BinaryIO, length: int) -> bytes:
    """Exactly so many bytes; the program ends where the other side has ended."""
    data = stream.read(length)
    if len(data) != length:
        raise SystemExit(0)
    return data


def answer(found: Iterable[Message], shared: int | None, answers: BinaryIO) -> None:
    """Write the messages of one answer; ``shared``: the file in memory for contents of kind SHARED."""
    position = 0
    for kind, content in found:
        view = memoryview(content).cast("B")
        answers.write(LENGTH.pack(kind, len(view)))
        if kind != SHARED:
            answers.write(view)
            continue
        assert shared is not None
        while view:
            written = os.pwrite(shared, view, position)
            view, position = view[written:], position + written
    answers.flush()


def main() -> None:
    """Answer requests until stdin ends; whatever libraries print goes nowhere."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # a decoder that crashes leaves no file of its memory behind
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what libraries print on stdout would stand between the messages
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    with contextlib.suppress(BrokenPipeError):
        while True:
            _, length = LENGTH.unpack(read_exact(requests, LENGTH.size))
            request = json.loads(read_exact(requests, length))
            data = read_exact(requests, request["bytes"])
            # Ends this program even if whoever waits for it is gone while a decoder hangs.
            signal.setitimer(signal.ITIMER_REAL, request["timeout"] + 5)
            answer(messages(request, data), request.get("shared"), answers)
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
