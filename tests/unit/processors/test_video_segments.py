"""A path may end in the part of the clip to show: `#t=start,end`; frames, times and limits are then the part's."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from mmllm.errors import MediaError
from mmllm.processors.decoding.bad_media import BadMedia
from mmllm.processors.decoding.frame_choice import within
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.video import VideoReading, segment
from mmllm.testing.tiny import encoders as tiny_encoders

SECONDS = [number / 5 for number in range(20)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames, five a second, each brighter than the one before."""
    frames = numpy.stack([numpy.full((32, 32, 3), 12 * number, numpy.uint8) for number in range(20)])
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    path.write_bytes(mp4(frames, SECONDS))
    return path


def reading(backend: str = "pyav", **words: float) -> VideoReading:
    limits = {"frames": 4, "fps": None, "timeout": 60.0, "max_pixels": 10_000, "max_seconds": 60.0}
    return VideoReading(backend=backend, **{**limits, **words})  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_part_shows_its_own_frames_at_the_times_of_the_file(clip: Path, backend: str) -> None:
    reader = reading(backend)
    whole, part = reader.read(clip), reader.read(f"{clip}#t=1,2.25")
    assert whole.seconds == pytest.approx([0.0, 1.2, 2.6, 3.8]) and part.seconds == pytest.approx([1.0, 1.4, 1.8, 2.2])
    assert [round(float(frame.mean()) / 12) for frame in part.frames] == [5, 7, 9, 11]
    assert reader.measure(Path(f"{clip}#t=1,2.25")) == part.seconds
    assert reader.read(f"{clip}#t=3").seconds == pytest.approx([3.0, 3.2, 3.6, 3.8])
    assert reader.read(f"{clip}#t=,0.4").seconds == pytest.approx([0.0, 0.2, 0.2, 0.4])
    assert reader.read(f"{clip}#t=2.9,99").seconds == pytest.approx([3.0, 3.2, 3.6, 3.8])
    assert reader.read(f"{clip}#t=1.05,1.15").seconds == pytest.approx([1.0] * 4)
    reader.close()


def test_limits_are_about_the_part(clip: Path) -> None:
    reader = reading(max_seconds=1.5)
    with pytest.raises(MediaError, match=r"lasts 3\.8 s; at most 1\.5 s"):
        reader.read(clip)
    assert len(reader.read(f"{clip}#t=2,3").frames) == 4
    with pytest.raises(MediaError, match=r"a\.mp4#t=5,6 lasts 4\.0 s, so no part of it begins at 5 s"):
        reader.read(f"{clip}#t=5,6")
    with pytest.raises(MediaError, match="begins at 3 s and ends at 2 s, so it shows nothing"):
        reader.read(f"{clip}#t=3,2")
    with pytest.raises(MediaError, match=r"b\.mp4#t=1,2 does not exist"):
        reader.read(clip.with_name("b.mp4#t=1,2"))
    reader.close()


def test_a_file_of_that_name_is_itself(clip: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a#t=1,2"
    odd.write_bytes(clip.read_bytes())
    assert segment(odd) == (odd, (None, None))
    for plain in (clip, b"bytes", "a.mp4#t=", "a.mp4#t=x", "a#17"):
        assert segment(plain) == (plain, (None, None))
    assert segment("a.mp4#t=1.5") == (Path("a.mp4"), (1.5, None))


def test_the_processor_takes_parts(clip: Path) -> None:
    processor = tiny_encoders.frames().processor
    inputs = processor.read(f"{clip}#t=1,1.2")
    assert processor.seconds(inputs) == pytest.approx([1.0, 1.2])
    assert processor.grid(processor.measure(f"{clip}#t=1,1.2")) == processor.grid(inputs) == (2, 4, 4)


def test_bounds_between_at_and_behind_frames() -> None:
    assert within(SECONDS, (None, None)) == range(20)
    assert within(SECONDS, (0.2, 0.6)) == range(1, 4)
    assert within(SECONDS, (3.9, 4.0)) == range(19, 20)
    assert within([0.0], (0.0, 3.0)) == range(1)
    with pytest.raises(BadMedia):
        within([0.0], (0.1, None))


def test_frames_that_are_views_of_a_wider_array_give_the_same_file_each_time() -> None:
    wide = numpy.arange(40 * 96 * 3, dtype=numpy.uint32).astype(numpy.uint8).reshape(40, 96, 3)
    views = [wide[:, 8 * n : 8 * n + 48] for n in range(5)]
    whole = mp4([view.copy() for view in views], range(5))
    assert {mp4(views, range(5)) for _ in range(20)} == {whole}
