"""Frames out of real and strange video files: the right ones at their times, the same through both decoders."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmllm.errors import MediaError
from mmllm.processors.decoding.frame_choice import sampled
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.video import Clip, VideoReading
from tests.support.films import FOLDER, LIMITS, by_backend, film, grey, real, shown

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

both = pytest.fixture(by_backend, scope="module")


def same(readings: dict[str, VideoReading], media: str | Path | bytes) -> Clip:
    """What both backends read, after checking that it is the same, bit by bit."""
    clips = [one.read(media) for one in readings.values()]
    assert clips[0].seconds == clips[1].seconds == readings["decord"].measure(media)
    assert all(np.array_equal(a, b) for a, b in zip(clips[0].frames, clips[1].frames, strict=True))
    return clips[0]


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


def test_frames_are_taken_by_time_where_the_rate_varies() -> None:
    # a slide a second for nine seconds, then a second of film
    times = [*range(9), *(9 + number / 30 for number in range(31))]
    assert sampled(times, 8, None) == [0, 1, 3, 4, 6, 7, 9, 39]
    assert sampled(times, 99, 1.0) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 39]
    # one still for nine seconds: no frame twice, so those behind it fill up
    assert sampled([0.0, *(9 + number / 10 for number in range(11))], 5, None) == [0, 1, 2, 3, 11]
    # stamps in whole milliseconds, and one that is late, are an even rate
    for rate in (24, 29.97, 30, 59.94):
        even = [round(number / rate, 3) for number in range(500)]
        assert sampled(even, 32, None) == sampled(list(range(500)), 32, None)


def test_a_gif_is_a_clip_of_its_own_times(tmp_path: Path) -> None:
    """Frames that hold only what changed, shown for a second each and then for a twentieth."""
    drawn = []
    for number in range(10):
        picture = Image.new("RGB", (64, 48), "white")
        ImageDraw.Draw(picture).rectangle((5 * number, 10, 5 * number + 12, 22), fill="black")
        drawn.append(picture)
    lasting = [1000] * 5 + [50] * 5
    drawn[0].save(tmp_path / "a.gif", save_all=True, append_images=drawn[1:], duration=lasting, optimize=True)
    for frames, expected in ((4, [0, 2, 3, 9]), (10, list(range(10)))):
        reading = VideoReading(backend="pyav", **{**LIMITS, "frames": frames})
        clip = reading.read(tmp_path / "a.gif")
        reading.close()
        assert clip.seconds == pytest.approx([min(n, 5) + max(0, n - 5) / 20 for n in expected])
        for frame, number in zip(clip.frames, expected, strict=True):
            assert np.array_equal(frame, np.asarray(drawn[number]))


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


def test_frames_left_out_change_no_other(both) -> None:
    """Far from key frames, with B-frames that others are predicted from and such that none is."""
    data = film(count=90, options={"x264-params": "keyint=40:bframes=4:b-pyramid=normal:scenecut=0"})
    clip = same(both, data)
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = sampled(list(range(90)), LIMITS["frames"], None)
    assert all(np.array_equal(frames[i], frame) for i, frame in zip(wanted, clip.frames, strict=True))


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
