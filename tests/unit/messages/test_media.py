"""Media items as Python users give them, and what each becomes for its encoder."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from mmllm.errors import MediaError
from mmllm.messages.media import decode_url, read_item
from mmllm.processors.point_files import read_points
from mmllm.processors.sound_files import read_sound, sound_length


def test_paths_urls_and_bytes(tmp_path: Path) -> None:
    named = tmp_path / "a b.png"
    assert read_item("image", "a.png") == Path("a.png")
    assert read_item("graph", "cora#17") == Path("cora#17")
    assert read_item("video", named) == named
    assert read_item("image", named.as_uri()) == named
    assert read_item("video", f"{named.as_uri()}#t=3,7.5") == Path(f"{named}#t=3,7.5")
    assert read_item("document", "data:text/plain;base64," + base64.b64encode(b"tea").decode()) == b"tea"
    assert read_item("document", bytearray(b"tea")) == b"tea"


def test_arrays_are_pictures() -> None:
    ramp = numpy.arange(24, dtype=numpy.uint8).reshape(2, 4, 3)
    picture = read_item("image", ramp)
    assert picture.mode == "RGB" and picture.size == (4, 2) and picture.getpixel((3, 1)) == (21, 22, 23)
    assert read_item("image", ramp[:, :, 0]).mode == "L"
    assert numpy.array_equal(numpy.asarray(read_item("image", ramp[:, ::-1, :1])), ramp[:, ::-1, 0])
    floats = torch.tensor([[0.0, 0.5, 1.0]])
    assert list(read_item("image", floats).tobytes()) == [0, 128, 255]
    own = Image.new("L", (2, 2))
    assert read_item("image", own) is own


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (numpy.zeros((3, 8, 8), numpy.uint8), r"has the shape \[3, 8, 8\]; it is \[H, W\], \[H, W, 3\] or 4"),
        (numpy.zeros((0, 8), numpy.uint8), r"has the shape \[0, 8\]"),
        (numpy.full((2, 2), 255.0), r"floats of an image are in 255\.\.255; they are in 0\.\.1"),
        (numpy.full((2, 2), numpy.nan), r"are in nan\.\.nan"),
        (numpy.zeros((2, 2), numpy.int64), "is int64; it is uint8"),
    ],
)
def test_other_arrays_are_no_pictures(array: Any, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        read_item("image", array)


@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float64, numpy.int16, numpy.int32])
def test_samples_reach_the_encoder_as_they_are(dtype: Any) -> None:
    wave = numpy.sin(numpy.arange(900) / 7) * 0.9
    scale = 1 if dtype in (numpy.float32, numpy.float64) else -float(numpy.iinfo(dtype).min)
    item = read_item("audio", ((wave * scale).astype(dtype), 16000))
    assert isinstance(item, bytes) and sound_length(item, 16000) == 900
    heard = read_sound(item, 16000)
    assert numpy.abs(heard - wave).max() < (1e-4 if dtype is numpy.int16 else 1e-6)
    assert item == read_item("audio", ((wave * scale).astype(dtype), numpy.int64(16000)))


def test_channels_are_averaged_and_the_rate_counts() -> None:
    both = numpy.stack([numpy.full(80, 0.5), numpy.full(80, -0.25)], axis=1)
    assert numpy.array_equal(read_sound(read_item("audio", (both, 8000)), 8000), numpy.full(80, 0.125))
    assert sound_length(read_item("audio", (both, 8000)), 16000) == 160


@pytest.mark.parametrize(
    ("sound", "sentence"),
    [
        ((16000, numpy.zeros(9)), "a sound is .samples, samples per second., and a ndarray is no number"),
        ((numpy.zeros((2, 900)), 16000), r"samples of the shape \[2, 900\] at 16000 per second are no sound"),
        ((numpy.zeros(9), 0), r"\[9\] at 0 per second"),
        ((numpy.zeros(0), 8000), r"\[0\] at 8000 per second"),
        ((numpy.zeros(9, numpy.uint8), 8000), "are uint8; they are floats in -1..1, int16 or int32"),
        (([[1.0], [1.0, 2.0]], 8000), "the array of a sound cannot be read"),
    ],
)
def test_other_pairs_are_no_sounds(sound: Any, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        read_item("audio", sound)


def test_graphs_and_points() -> None:
    graph = {"nodes": ["tea", "milk"], "edges": [[0, 1]]}
    assert json.loads(read_item("graph", graph)) == graph
    cloud = torch.arange(12.0).reshape(4, 3)
    assert read_points(read_item("points", cloud), 4, 0).tolist() == cloud.tolist()


@pytest.mark.parametrize(
    ("modality", "value", "sentence"),
    [
        ("video", numpy.zeros((2, 4, 4, 3)), "no video can be made of a value of type ndarray.*write frames.*as mp4"),
        ("document", 7, r"no document can be made of a value of type int.*text\.encode\(\)"),
        ("document", "tea " * 2000, "'tea tea .*is no path .File name too long.; give content as bytes"),
        ("audio", "https://a.b/c.wav", r"https://a\.b/c\.wav is not fetched; download"),
        ("image", "file://[a", r"file://\[a is no file:// URL"),
        ("image", "data:image/png,abc", "a data URL cannot be read: it is not base64"),
        ("graph", {"nodes": {1, 2}}, "a graph cannot be written as JSON"),
    ],
)
def test_what_stands_for_no_item_is_one_sentence(modality: str, value: Any, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        read_item(modality, value)


def test_a_damaged_data_url_says_what_is_wrong() -> None:
    with pytest.raises(MediaError, match=r"^input_audio cannot be read: "):
        decode_url("data:audio/wav;base64,a*", "input_audio")
