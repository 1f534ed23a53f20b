"""Frames out of real, strange and broken video files: the same through both decoders, and none takes the run down."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest

from mmllm.encoders import video_worker
from mmllm.encoders.video_decoding import sampled
from mmllm.encoders.video_process import VideoProcess
from mmllm.encoders.video_reading import Clip, VideoReading
from mmllm.encoders.video_worker import LENGTH, MEMORY
from mmllm.encoders.video_writing import mp4
from mmllm.types import MediaError, MmllmError

LIMITS: dict[str, Any] = {
    "frames": 8, "fps": None, "timeout": 20.0, "max_pixels": 4_000_000, "max_seconds": 600.0,
}  # fmt: skip
BACKENDS = ("decord", "pyav")
FOLDER = os.environ.get("MMLLM_TEST_DATA")
real = pytest.mark.skipif(FOLDER is None, reason="MMLLM_TEST_DATA names no folder of real files")
CLIPS = {
    "av1_video.mkv": (125, (360, 640)),
    "boat.mp4": (181, (336, 592)),
    "discard_first_keyframe.mp4": (25, (64, 64)),  # 30 packets, of which an edit list hides 5
    "dog_barking.mp4": (170, (480, 854)),
    "flipping_a_pancake.mkv": (310, (240, 426)),
    "h265_video.mp4": (10, (128, 128)),  # open groups of pictures, where decord's own seeking is wrong
    "nasa_13013.mp4": (390, (270, 480)),  # two video streams
    "nasa_13013_rotated.mp4": (17, (480, 270)),
    "test_non_zero_start.mp4": (12, (112, 200)),
    "testsrc2.mp4": (60, (720, 1280)),
    "testsrc2_mpeg4.avi": (30, (720, 1280)),
    "unordered.mov": (4, (50, 50)),
    "video_0.mov": (3, (320, 568)),
    "video_180.mov": (3, (320, 568)),
    "video_270.mov": (3, (568, 320)),
    "video_90.mov": (3, (568, 320)),
}
"""Real clip -> frames that are shown, (height, width) upright."""
NOT_IN_DECORD = {"av1_video.mkv": "backend: pyav may read it"}
"""Clips whose codec decord's FFmpeg lacks, and what its error says."""


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, VideoReading]]:
    readings = {backend: VideoReading(backend=backend, **LIMITS) for backend in BACKENDS}
    yield readings
    for one in readings.values():
        one.close()


@pytest.fixture
def reading() -> Iterator[VideoReading]:
    """Decodes with PyAV and has a worker of its own."""
    one = VideoReading(backend="pyav", **LIMITS)
    yield one
    one.close()


def grey(count: int, side: int = 32) -> list[np.ndarray]:
    """Frame i is grey of 20 i + 20."""
    return [np.full((side, side, 3), 20 * number + 20, np.uint8) for number in range(count)]


def shown(clip: Clip) -> list[int]:
    """Which of ``grey`` each frame is."""
    return [round((float(frame.mean()) - 20) / 20) for frame in clip.frames]


def film(count: int = 12, size: tuple[int, int] = (48, 64), **kind: Any) -> bytes:
    """A clip of moving noise, written with the codec, pixel format, container and options asked for."""
    out, noise = io.BytesIO(), np.random.default_rng(0)
    with av.open(out, "w", format=kind.get("container", "mp4")) as container:
        stream = container.add_stream(kind.get("codec", "libx264"), rate=10, options=kind.get("options", {}))
        stream.height, stream.width = size
        stream.pix_fmt = kind.get("pixels", "yuv420p")
        if "turned" in kind:
            stream.set_display_rotation(kind["turned"])
        for number in range(count):
            picture = np.full((*size, 3), (10 * number % 256, 40, 200), np.uint8)
            picture[: size[0] // 2, : size[1] // 3] = noise.integers(0, 256, (size[0] // 2, size[1] // 3, 3))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def same(readings: dict[str, VideoReading], media: str | Path | bytes) -> Clip:
    """What both backends read, after checking that it is the same, bit by bit."""
    clips = [one.read(media) for one in readings.values()]
    assert clips[0].seconds == clips[1].seconds == readings["decord"].measure(media)
    assert all(np.array_equal(a, b) for a, b in zip(clips[0].frames, clips[1].frames, strict=True))
    return clips[0]


def gone(pid: int) -> bool:
    """Whether a process ends within 5 seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [
        (4, None, [0, 3, 7, 10]),
        (1, None, [0]),
        (13, None, [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10]),
        (8, 2.0, [0, 5, 10]),
        (2, 2.0, [0, 10]),
        (99, 1000.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (8, 0.1, [0]),
    ],
)
def test_frames_are_taken_evenly_and_never_faster_than_asked_for(frames, fps, expected) -> None:
    assert sampled([number / 10 for number in range(11)], frames, fps) == expected


def test_times_of_a_varying_frame_rate_are_those_of_its_stamps(both) -> None:
    times = [0.0, 0.1, 0.15, 0.4, 0.41, 1.0, 2.5, 7.0]
    clip = same(both, mp4(grey(8), [3.0 + time for time in times]))
    assert clip.seconds == pytest.approx(times, abs=1e-3)
    assert shown(clip) == list(range(8))


def test_one_frame_is_repeated_or_comes_alone(both) -> None:
    clip = same(both, mp4(grey(1), [0.0]))
    assert shown(clip) == [0] * 8 and clip.seconds == [0.0] * 8
    slow = VideoReading(backend="pyav", **{**LIMITS, "fps": 2.0})
    assert shown(slow.read(mp4(grey(1), [0.0]))) == [0]
    slow.close()


def test_a_path_and_its_bytes_are_the_same(both, tmp_path) -> None:
    data = mp4(grey(12), [number / 10 for number in range(12)])
    path = tmp_path / "a clip.mp4"
    path.write_bytes(data)
    clips = [same(both, media) for media in (path, str(path), data)]
    assert [shown(clip) for clip in clips] == [[0, 2, 3, 5, 6, 8, 9, 11]] * 3


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv422p10le", "yuv444p10le"])
def test_pixel_formats_are_converted_alike(both, pixels) -> None:
    assert same(both, film(pixels=pixels)).frames[0].std() > 20


@pytest.mark.parametrize(
    "kind",
    [
        {"options": {"x264-params": "interlaced=1"}},
        {"count": 60, "options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
        {"count": 60, "options": {"g": "12", "bf": "3"}},
        {"codec": "libvpx-vp9", "container": "webm"},
        {"codec": "mjpeg", "pixels": "yuvj422p", "container": "avi"},
        {"container": "flv"},
    ],
    ids=["interlaced", "open groups", "closed groups", "vp9", "mjpeg in avi", "flv"],
)
def test_kinds_of_coding_give_the_same_frames(both, kind) -> None:
    clip = same(both, film(**kind))
    last = kind.get("count", 12) - 1
    assert clip.seconds == pytest.approx([round(last * k / 7) / 10 for k in range(8)], abs=2e-3)


def test_chroma_of_ten_bit_420_differs_in_every_second_line_only(both) -> None:
    """What is left: decord mixes chroma of two lines there. Little even in noise, hardly anything elsewhere."""
    clips = [one.read(film(pixels="yuv420p10le")) for one in both.values()]
    off = np.stack([np.abs(a.astype(int) - b) for a, b in zip(clips[0].frames, clips[1].frames, strict=True)])
    assert off[:, 1::2].max() == 0 and off[:, ::2].max() > 0
    assert off.mean() < 2 and off[:, 26:].max() < 10


@pytest.mark.parametrize("turned", [90, -90, 180])
def test_turned_clips_are_shown_upright(both, turned) -> None:
    plain, clip = same(both, film()), same(both, film(turned=turned))
    assert all(np.array_equal(np.rot90(a, turned // 90), b) for a, b in zip(plain.frames, clip.frames, strict=True))


def test_odd_angles_are_refused(both) -> None:
    for one in both.values():
        with pytest.raises(MediaError, match="is to be shown mirrored or turned by other than whole quarters"):
            one.read(film(turned=30))


def sound() -> bytes:
    """An mp4 file with sound alone."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def boxes(data: bytes, name: bytes) -> int:
    """Where the contents of an mp4 box begin."""
    return data.index(name) + 4


def without_frames() -> bytes:
    """An mp4 file whose tables of frames are empty."""
    data = bytearray(mp4(grey(3), [0.0, 0.1, 0.2]))
    for name, entries in ((b"stsz", 8), (b"stts", 4), (b"stsc", 4), (b"stco", 4)):
        at = boxes(bytes(data), name) + entries
        data[at : at + 4] = bytes(4)
    return bytes(data)


BROKEN = {
    "nothing": (b"", "video of 0 bytes is empty"),
    "words": (b"this is no video, but it is long enough to be looked at\n" * 40, "cannot be decoded"),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n", "cannot be decoded"),
    "a list of files": (b"ffconcat version 1.0\nfile /etc/hostname\n", "cannot be decoded"),
    "sound": (sound(), "holds no video"),
    "no frames": (without_frames(), "holds no frame"),
    "no index": (film()[:2000], "cannot be decoded"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_video_is_one_sentence(both, name, backend) -> None:
    data, sentence = BROKEN[name]
    for ask in (both[backend].read, both[backend].measure):
        with pytest.raises(MediaError, match=f"^video of {len(data)} bytes .*") as caught:
            ask(data)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_ends_early_is_no_shorter_clip(both, tmp_path) -> None:
    path = tmp_path / "cut.mp4"
    data = film(count=30)
    moov, mdat = data.index(b"moov") - 4, data.index(b"mdat") - 4
    index, media = bytearray(data[moov:]), data[mdat:moov]
    at = boxes(bytes(index), b"stco") + 4  # one chunk: its place moves behind the index
    (count, offset) = struct.unpack(">2I", index[at : at + 8])
    assert count == 1
    index[at + 4 : at + 8] = struct.pack(">I", offset + len(index))
    front = data[:mdat] + bytes(index) + media
    assert len(both["pyav"].measure(front)) == 8
    path.write_bytes(front[: -len(media) // 2])
    for one in both.values():
        with pytest.raises(MediaError, match=r"cut.mp4 says that it has 30 frames, but ends after \d+\.$"):
            one.read(path)


def test_packets_without_frames_are_missed(both) -> None:
    data = bytearray(film())
    with av.open(io.BytesIO(bytes(data))) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    data[last.pos : last.pos + last.size] = struct.pack(">I", last.size - 4) + b"\x0c" + b"\xff" * (last.size - 5)
    assert len(both["pyav"].measure(bytes(data))) == 8
    for one in both.values():
        with pytest.raises(MediaError):
            one.read(bytes(data))


def test_paths_that_are_no_files(both, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "missing.mp4", tmp_path, tmp_path / "pipe.mp4"):
        with pytest.raises(MediaError, match="does not exist or is no file"):
            both["pyav"].read(path)


def test_limits_are_told_before_decoding(reading) -> None:
    narrow = VideoReading(backend="pyav", **{**LIMITS, "max_pixels": 48 * 64 - 1})
    with pytest.raises(MediaError, match=r"has frames of 64 x 48 pixels; 1 to 3071 pixels are read\.$"):
        narrow.measure(film())
    narrow.close()
    with pytest.raises(MediaError, match=r"lasts 601\.0 s; at most 600 s are read\.$"):
        reading.read(mp4(grey(2), [0.0, 601.0]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backend": "decorde"}, 'backend: "decorde" is unknown; known: decord, pyav.'),
        ({"frames": 0}, "frames: 0 must be more than 0."),
        ({"fps": -1.0}, "fps: -1 must be more than 0."),
        ({"timeout": 0.0}, "timeout: 0 must be more than 0."),
    ],
)
def test_settings_that_mean_nothing(change, sentence) -> None:
    with pytest.raises(MmllmError) as caught:
        VideoReading(**{"backend": "pyav", **LIMITS, **change})
    assert str(caught.value) == sentence


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
    return {**LIMITS, "path": str(tmp_path / "endless.mp4"), "backend": "pyav"}


def test_a_library_that_never_comes_back_is_ended(endless) -> None:
    worker, before = VideoProcess(), time.monotonic()
    with pytest.raises(MediaError, match=r"was not decoded within 1 s"):
        worker.ask(endless, b"", 1.0)
    assert time.monotonic() - before < 5 and not worker.alive and gone(worker.pid)


def test_a_library_that_never_comes_back_ends_even_if_nobody_waits_for_it(endless) -> None:
    """As where whoever asked was killed: an alarm of its own, 5 seconds after the time limit."""
    request = json.dumps({**endless, "bytes": 0, "timeout": -4.5}).encode()
    with subprocess.Popen([sys.executable, "-m", video_worker.__name__], stdin=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(LENGTH.pack(b"R", len(request)) + request)
        worker.stdin.flush()
        assert worker.wait(10) == -signal.SIGALRM


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


def test_threads_share_a_worker(reading) -> None:
    clips = {start: mp4(grey(8)[start:], [number / 10 for number in range(8 - start)]) for start in range(5)}
    found: dict[int, list[int]] = {}
    workers = set()

    def read(start: int) -> None:
        for _ in range(3):
            found[start] = shown(reading.read(clips[start]))
            workers.add(reading.worker())

    threads = [threading.Thread(target=read, args=(start,)) for start in clips]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(workers) == 1
    assert {start: (one[0], one[-1]) for start, one in found.items()} == {start: (start, 7) for start in clips}


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


@real
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_are_read_alike_and_as_in_a_row(both, name) -> None:
    """The frames of a decoding from the first to the last frame, whatever was jumped over."""
    path, (count, size) = Path(str(FOLDER), "video", name), CLIPS[name]
    wanted = sampled(list(range(count)), LIMITS["frames"], None)
    if name in NOT_IN_DECORD:
        with pytest.raises(MediaError, match=NOT_IN_DECORD[name]):
            both["decord"].read(path)
        clip = both["pyav"].read(path)
    else:
        clip = same(both, path)
    assert {frame.shape[:2] for frame in clip.frames} == {size}
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.best("video")))
    assert len(frames) == count
    for index, frame, second in zip(wanted, clip.frames, clip.seconds, strict=True):
        assert np.array_equal(np.rot90(frames[index].to_ndarray(format="rgb24"), frames[index].rotation // 90), frame)
        assert second == pytest.approx(frames[index].time - frames[0].time, abs=1e-6)


@real
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_real_damaged_clip_is_refused(both, backend) -> None:
    with pytest.raises(MediaError, match=r"corrupted.mp4 cannot be decoded \("):
        both[backend].read(Path(str(FOLDER), "video", "corrupted.mp4"))


def damaged(data: bytes, rng: Random) -> bytes:
    """Cut at a random place, or with up to 200 bits turned over."""
    if rng.random() < 0.5:
        return data[: rng.randrange(1, len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 200)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@real
@pytest.mark.slow
def test_a_hundred_damaged_real_clips_give_frames_or_an_error_in_time() -> None:
    rng, outcomes = Random(0), []
    files = [path.read_bytes() for path in sorted(Path(str(FOLDER), "video").iterdir())]
    readings = [VideoReading(backend=backend, **{**LIMITS, "timeout": 3.0}) for backend in BACKENDS]
    for number in range(100):
        data = damaged(files[number % len(files)], rng)
        for reading in readings:
            before = time.monotonic()
            try:
                clip = reading.read(data)
                assert len(clip.frames) == len(clip.seconds) == 8
                outcomes.append("frames")
            except MediaError as error:
                assert "\n" not in str(error)
                outcomes.append("error")
            assert time.monotonic() - before < 6
    intact = files[-1]
    assert all(len(reading.read(intact).frames) == 8 for reading in readings)
    assert outcomes.count("frames") > 20 and outcomes.count("error") > 20
    for reading in readings:
        reading.close()
