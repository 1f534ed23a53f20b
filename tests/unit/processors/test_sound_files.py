"""Sound files of every kind to mono samples at the model's rate, and what cannot be read as one clear sentence."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mmllm.errors import MediaError
from mmllm.processors.sound_files import WORKERS, read_sound, resampled_length, sound_length

RATE = 16_000


def tone(rate: int = 8000, seconds: float = 1.3, hz: float = 440.0) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def written(samples: np.ndarray, rate: int = 8000, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", **options})
    return buffer.getvalue()


def container(suffix: str, codec: str, rate: int = 48_000) -> bytes:
    """The tone in a container that soundfile does not read."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=suffix) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono"
        fit = av.AudioResampler(stream.format.name, "mono", rate, stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(tone().astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 8000
        for piece in [*fit.resample(frame), *fit.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return buffer.getvalue()


FILES: dict[str, tuple[dict[str, Any], float]] = {
    "pcm 16": ({"subtype": "PCM_16"}, 1e-4),
    "pcm 8": ({"subtype": "PCM_U8"}, 0.01),
    "pcm 24": ({"subtype": "PCM_24"}, 1e-5),
    "float": ({"subtype": "FLOAT"}, 1e-6),
    "flac": ({"format": "FLAC"}, 1e-4),
    "ogg": ({"format": "OGG"}, 0.05),
    "mp3": ({"format": "MP3"}, 0.15),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_give_the_same_sound(name: str, tmp_path: Path) -> None:
    options, tolerance = FILES[name]
    data = written(tone(), **options)
    samples = read_sound(data, 8000)
    assert samples.dtype == np.float32 and len(samples) == len(tone()) == sound_length(data, 8000)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(samples[middle], tone()[middle], atol=tolerance)
    path = tmp_path / "sound.bin"
    path.write_bytes(data)
    assert np.array_equal(samples, read_sound(path, 8000)) and np.array_equal(samples, read_sound(str(path), 8000))


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "libopus")])
def test_other_containers_go_through_pyav(suffix: str, codec: str) -> None:
    data = container(suffix, codec)
    samples = read_sound(data, RATE)
    assert len(samples) == sound_length(data, RATE)
    assert abs(len(samples) - 1.3 * RATE) < 0.05 * RATE
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() * RATE / len(samples) - 440) < 2
    assert 0.35 < np.abs(samples[4000:-4000]).max() < 0.48


def test_stereo_is_averaged() -> None:
    both = np.stack([tone(), np.zeros(len(tone()))], axis=1)
    np.testing.assert_allclose(read_sound(written(both), 8000), 0.5 * tone(), atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_level_and_length(rate: int) -> None:
    data = written(tone(rate), rate, subtype="FLOAT")
    samples = read_sound(data, RATE)
    assert len(samples) == resampled_length(int(rate * 1.3), rate, RATE) == sound_length(data, RATE)
    inner = slice(800, -800)
    np.testing.assert_allclose(samples[inner], tone(RATE, 2.0)[: len(samples)][inner], atol=2e-4)


def test_nothing_above_the_new_limit_folds_down() -> None:
    data = written(tone(44_100, 1.0, hz=11_000.0), 44_100, subtype="FLOAT")
    assert np.abs(read_sound(data, RATE)[800:-800]).max() < 1e-4


@pytest.mark.parametrize("length", [1, 2, 100])
def test_the_shortest_sounds_and_silence(length: int) -> None:
    assert len(read_sound(written(np.full(length, 0.5)), 8000)) == length
    assert len(read_sound(written(np.full(length, 0.5), 44_100), RATE)) == resampled_length(length, 44_100, RATE)
    assert not read_sound(written(np.zeros(length)), 8000).any()


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    flac, mp3 = written(tone(), format="FLAC"), written(tone(), format="MP3")
    playlist = b"ffconcat version 1.0\nfile secret.wav\n"
    for media in (b"", b"RIFF0000", b"not a sound", flac[:3000], mp3[:2000], container("mp4", "aac")[:2000], playlist):
        with pytest.raises(MediaError, match=r"^sound of \d+ bytes .*\.$|damaged"):
            read_sound(media, RATE)
    for media, problem in ((tmp_path / "no.wav", "does not exist"), (tmp_path, "does not exist"), (3, "path or bytes")):
        with pytest.raises(MediaError, match=problem):
            read_sound(media, RATE)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="no samples"):
        read_sound(written(np.zeros(0)), RATE)
    with pytest.raises(MediaError, match="not finite"):
        read_sound(written(np.array([0.1, np.nan, 0.2]), subtype="FLOAT"), RATE)
    raw = tmp_path / "sound.raw"
    raw.write_bytes(b"abc")
    with pytest.raises(MediaError, match="cannot be read"):
        read_sound(raw, RATE)


@pytest.mark.parametrize("read", [read_sound, sound_length])
def test_the_limit_is_checked_before_decoding(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, compressed = written(tone()), container("webm", "libopus")
    assert read(data, RATE, 1.31) is not None

    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", decoded)
    for media in (data, compressed):
        with pytest.raises(MediaError, match=r"1\.\d seconds; at most 1 are read|more than 1 seconds"):
            read(media, RATE, 1.0)


def test_a_video_without_sound_says_so() -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no sound"):
        read_sound(buffer.getvalue(), RATE)


def test_damaged_copies_give_sound_or_one_sentence() -> None:
    """300 copies, cut short or with flipped bits: nothing else comes out, and nothing hangs."""
    whole = [written(tone(), **FILES[name][0]) for name in ("pcm 16", "flac", "ogg")]
    whole += [container("mp4", "aac"), container("webm", "libopus")]
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(300):
        data = bytearray(whole[number % len(whole)])
        if rng.random() < 0.5:
            data = data[: rng.integers(1, len(data))]
        for place in rng.integers(0, len(data), rng.integers(0, 40)):
            data[place] ^= 1 << int(rng.integers(0, 8))
        try:
            samples = read_sound(bytes(data), RATE)
            outcomes.add("sound")
            assert np.isfinite(samples).all() and len(samples) > 0
        except MediaError as error:
            outcomes.add("error")
            assert "\n" not in str(error) and str(error).startswith("sound of")
    assert outcomes == {"sound", "error"}


def test_containers_are_decoded_by_a_process_that_can_be_ended() -> None:
    WORKERS.close()  # of tests before
    data = container("mp4", "aac")
    whole = read_sound(data, RATE)
    (worker,) = WORKERS.idle()
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(MediaError, match=r"^sound of \d+ bytes was not decoded within 0\.5 s"):
        read_sound(data, RATE, timeout=0.5)
    assert np.array_equal(read_sound(data, RATE), whole) and worker not in WORKERS.idle()


def test_streams_that_nothing_decodes_are_an_error() -> None:
    data = container("webm", "libopus").replace(b"A_OPUS", b"A_ZZZZ")
    with pytest.raises(MediaError, match="cannot be decoded here"):
        read_sound(data, RATE)
