"""What is refused of video files: broken and cut ones, no videos at all, too large, too long; and wrong settings."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path
from random import Random

import av
import numpy as np
import pytest

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.video import VideoReading
from tests.support.films import BACKENDS, FOLDER, LIMITS, by_backend, film, grey, real

both = pytest.fixture(by_backend, scope="module")


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


def test_limits_are_told_before_decoding(both) -> None:
    narrow = VideoReading(backend="pyav", **{**LIMITS, "max_pixels": 48 * 64 - 1})
    with pytest.raises(MediaError, match=r"has frames of 64 x 48 pixels; 1 to 3071 pixels are read\.$"):
        narrow.measure(film())
    narrow.close()
    with pytest.raises(MediaError, match=r"lasts 601\.0 s; at most 600 s are read\.$"):
        both["pyav"].read(mp4(grey(2), [0.0, 601.0]))


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
